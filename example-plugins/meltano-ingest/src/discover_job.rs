//! The job `discover`: asks a tap for its catalog, and keeps that. Talks to [`tap`](crate::tap).

use crate::checkpoint;
use crate::ingestion;
use crate::name::{self, NameError};
use crate::output::Heard;
use crate::tap::{Call, Process, TapError};
use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::serde_json::{self, Map, Value};
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitStatus;

/// The largest catalog that is taken, in bytes.
const MAX: usize = 256 << 20;

/// Ask a Singer tap which streams there are.
///
/// Calls `TAP [ARG…] --config CONFIG --discover` and writes the catalog that it answers with, whole or not at all. The names of the
/// streams are in the run's log: `lorchestra runs logs RUN`. For `run_tap --catalog`, after what is wanted of it was selected.
// A catalog is replaced as a whole: no run is in the way of another.
#[job(overlap = "allow")]
pub fn discover(
    cx: &JobContext,
    /// The tap: a program on PATH, or a path.
    tap: PathBuf,
    /// An argument for the tap, before those of this job; repeat it for more. `--arg=--flag` for one that begins with a dash.
    arg: Vec<String>,
    /// The tap's config, a JSON file. It holds secrets: mode 0600.
    config: Option<PathBuf>,
    /// The file to write. Without it: `<tap>/catalog.json` in the package's data directory.
    out: Option<PathBuf>,
    /// What the tap is called where its data is kept. Without it: the name of its program.
    name: Option<String>,
    /// End a tap that says nothing for so long; `0s` for no limit.
    #[param(default = "1h")]
    idle: Duration,
) -> JobResult {
    let call = Call { program: tap, args: arg, config, catalog: None };
    match run(&call, name, out, idle, cx) {
        Ok(()) => Ok(()),
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}

/// Why there is no catalog.
#[derive(Debug, thiserror::Error)]
enum DiscoverError {
    #[error("{0}; give it another one")]
    Name(#[from] NameError),
    #[error(transparent)]
    Tap(#[from] TapError),
    #[error("{tap} failed ({status}); {words}")]
    Failed { tap: String, status: ExitStatus, words: String },
    #[error("{tap}: what it answered to --discover is no catalog: a JSON object with a list of streams")]
    NotACatalog { tap: String },
    #[error(
        "{tap}: its answer to --discover has a line before the catalog that is not JSON, and that line is in the log of this run; a tap has to log to standard error"
    )]
    LogLine { tap: String },
    #[error("{tap}: it answered nothing to --discover; {words}")]
    Nothing { tap: String, words: String },
    #[error("{tap} was silent for {seconds} s and was ended; --idle says how long it may be")]
    Silent { tap: String, seconds: u64 },
    #[error("cancelled; no catalog was written")]
    Cancelled,
    #[error("{}: writing the catalog failed", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("reading what the tap says failed")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Job(#[from] lorchestra_plugin_api::EmitError),
}

impl DiscoverError {
    /// Whether another attempt must end the same way.
    fn is_permanent(&self) -> bool {
        match self {
            Self::Name(_) | Self::NotACatalog { .. } | Self::LogLine { .. } | Self::Nothing { .. } => true,
            Self::Tap(error) => error.is_permanent(),
            _ => false,
        }
    }
}

fn run(call: &Call, name: Option<String>, out: Option<PathBuf>, idle: Duration, cx: &JobContext) -> Result<(), DiscoverError> {
    let tap = name.unwrap_or_else(|| call.name());
    let file = name::file_name("the tap", &tap)?;
    call.check()?;
    let path = match out {
        Some(out) => out,
        None => cx.data_dir().map_err(DiscoverError::Read)?.join(file).join("catalog.json"),
    };
    let mut process = call.start(&["--discover".into()])?;
    let answered = listen(&mut process, &tap, idle, cx);
    if answered.is_err() {
        process.stop()?;
    }
    process.hear_last_words();
    let text = answered?;
    let not = || DiscoverError::NotACatalog { tap: tap.clone() };
    let catalog: Map<String, Value> = serde_json::from_slice(&text).map_err(|_| no_catalog(&text, &tap, &mut process))?;
    let streams = catalog.get("streams").and_then(Value::as_array).ok_or_else(not)?;
    write(&path, &text).map_err(|source| DiscoverError::Write { path: path.clone(), source })?;
    let mut log = io::stdout().lock();
    for stream in streams {
        let name = ["tap_stream_id", "stream"].iter().find_map(|key| stream[key].as_str()).unwrap_or("(without a name)");
        // A log that is full keeps the catalog.
        let _ = writeln!(log, "{}", name.replace(char::is_control, "?"));
    }
    let selected = streams.iter().filter(|stream| is_selected(stream)).count();
    let properties: usize = streams.iter().filter_map(|stream| stream["schema"]["properties"].as_object()).map(Map::len).sum();
    let payload = json!({
        "tap": tap,
        "streams": streams.len(),
        "selected": selected,
        "properties": properties,
        "bytes": text.len(),
        "file": path.to_string_lossy(),
    });
    cx.emit("catalog.discovered", payload)?;
    Ok(())
}

/// Why an answer is no catalog: by what there is in it.
fn no_catalog(text: &[u8], tap: &str, process: &mut Process) -> DiscoverError {
    let tap = tap.to_owned();
    if text.trim_ascii().is_empty() {
        return DiscoverError::Nothing { words: process.last_words(), tap };
    }
    let is_catalog = |text: &[u8]| serde_json::from_slice::<Map<String, Value>>(text).is_ok_and(|it| it.contains_key("streams"));
    let mut rest = text;
    let mut number = 0;
    // Log lines come first, and there are few of them.
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n').filter(|_| number < 20) {
        number += 1;
        let line;
        (line, rest) = rest.split_at(end + 1);
        if !line.trim_ascii().is_empty() && is_catalog(rest) {
            ingestion::quote(&tap, number, line, process.mask());
            return DiscoverError::LogLine { tap };
        }
    }
    DiscoverError::NotACatalog { tap }
}

/// All that the tap writes, once it has ended well.
fn listen(process: &mut Process, tap: &str, idle: Duration, cx: &JobContext) -> Result<Vec<u8>, DiscoverError> {
    let mut text = Vec::new();
    let mut line = Vec::new();
    let mut is_over = false;
    loop {
        if cx.is_cancelled() {
            return Err(DiscoverError::Cancelled);
        }
        if is_over {
            if let Some(status) = process.ended()? {
                if status.success() {
                    return Ok(text);
                }
                return Err(DiscoverError::Failed { tap: tap.to_owned(), status, words: process.last_words() });
            }
            std::thread::sleep(Duration::from_millis(2));
        } else {
            match process.output.next(&mut line).map_err(DiscoverError::Read)? {
                Heard::Nothing => {}
                Heard::End => is_over = true,
                heard @ (Heard::Line | Heard::Torn | Heard::TooLong) => {
                    process.was_heard();
                    text.append(&mut line);
                    // A line may be longer than a message, and then comes in pieces.
                    if heard != Heard::TooLong {
                        text.push(b'\n');
                    }
                    if text.len() > MAX {
                        return Err(DiscoverError::NotACatalog { tap: tap.to_owned() });
                    }
                }
            }
        }
        let silence = process.silence();
        if !idle.is_zero() && silence >= idle {
            return Err(DiscoverError::Silent { tap: tap.to_owned(), seconds: silence.as_secs() });
        }
    }
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    checkpoint::replace(dir, &name.to_string_lossy(), text)
}

/// By the stream itself, as old taps have it, or by the metadata of the stream.
fn is_selected(stream: &Value) -> bool {
    let of_stream = |metadata: &&Value| metadata["breadcrumb"].as_array().is_some_and(Vec::is_empty);
    let metadata = stream["metadata"].as_array().and_then(|all| all.iter().find(of_stream));
    let flags = [Some(&stream["selected"]), metadata.map(|m| &m["metadata"]["selected"])];
    flags.into_iter().flatten().any(|flag| flag == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_selected_is_found_in_both_places() {
        let new = json!({"metadata": [{"breadcrumb": ["properties", "a"], "metadata": {"selected": true}}, {"breadcrumb": [], "metadata": {"selected": true}}]});
        let not = json!({"metadata": [{"breadcrumb": ["properties", "a"], "metadata": {"selected": true}}, {"breadcrumb": [], "metadata": {}}]});
        let selected = [&json!({"selected": true}), &new, &not, &json!({})].map(is_selected);
        assert_eq!(selected, [true, true, false, false]);
    }
}
