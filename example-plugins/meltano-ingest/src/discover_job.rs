//! The job `discover`: gets a tap's catalog and stores it. Uses [`tap`](crate::tap) to run the tap.

use crate::checkpoint;
use crate::ingestion;
use crate::name::{self, NameError};
use crate::tap::{Call, Process, TapError};
use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::serde_json::{self, Map, Value};
use package_support::lines::LineEvent;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitStatus;

/// Maximum size of a catalog, in bytes.
const MAX: usize = 256 << 20;

/// List the streams of a Singer tap.
///
/// Calls `TAP [ARG…] --config CONFIG --discover` and writes the tap's catalog to a file, completely or not at all. Prints the names of the
/// streams to the run's log: `lorchestra runs logs RUN`. Select streams in the file, then pass it to `run_tap --catalog`.
// The catalog is replaced atomically, so concurrent runs do not conflict.
#[job(overlap = "allow")]
pub fn discover(
    cx: &JobContext,
    /// Tap to run: a program on PATH, or a path
    tap: PathBuf,
    /// Additional argument for the tap (repeatable); write `--arg=--flag` for one that starts with a dash
    arg: Vec<String>,
    /// The tap's config, a JSON file; use mode 0600 if it contains secrets
    config: Option<PathBuf>,
    /// File to write [default: `<tap>/catalog.json` in the package's data directory]
    out: Option<PathBuf>,
    /// Directory name for the tap's data [default: the name of its program]
    name: Option<String>,
    /// Stop the tap when it prints nothing for this long (`0s`: no limit)
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

/// Why discovery failed.
#[derive(Debug, thiserror::Error)]
enum DiscoverError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Tap(#[from] TapError),
    #[error("{tap} failed ({status}); {hint}")]
    Failed { tap: String, status: ExitStatus, hint: String },
    #[error("{tap}: its output for --discover is not a catalog (a JSON object with a list of streams)")]
    NotACatalog { tap: String },
    #[error(
        "{tap}: its output for --discover has a line before the catalog that is not JSON (see the log of this run); taps must log to stderr"
    )]
    LogLine { tap: String },
    #[error("{tap}: it printed nothing for --discover; {hint}")]
    Nothing { tap: String, hint: String },
    #[error("stopped {tap} after {seconds} s without output; raise --idle to allow more")]
    Silent { tap: String, seconds: u64 },
    #[error("cancelled; no catalog was written")]
    Cancelled,
    #[error("cannot write the catalog {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read the output of the tap")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Job(#[from] lorchestra_plugin_api::EmitError),
}

impl DiscoverError {
    /// Returns whether a retry would fail in the same way.
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
    let file = name::file_name("the tap (--name)", &tap)?;
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
    process.drain_stderr();
    let text = answered?;
    let not = || DiscoverError::NotACatalog { tap: tap.clone() };
    let catalog: Map<String, Value> = serde_json::from_slice(&text).map_err(|_| no_catalog(&text, &tap, &mut process))?;
    let streams = catalog.get("streams").and_then(Value::as_array).ok_or_else(not)?;
    write(&path, &text).map_err(|source| DiscoverError::Write { path: path.clone(), source })?;
    let mut log = io::stdout().lock();
    for stream in streams {
        let name = ["tap_stream_id", "stream"].iter().find_map(|key| stream[key].as_str()).unwrap_or("(unnamed)");
        // Ignore a full log: the catalog is already written.
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

/// Returns why an output is not a catalog, by what it contains.
fn no_catalog(text: &[u8], tap: &str, process: &mut Process) -> DiscoverError {
    let tap = tap.to_owned();
    if text.trim_ascii().is_empty() {
        return DiscoverError::Nothing { hint: process.failure_hint(), tap };
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

/// Returns the output of the tap after it has exited successfully.
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
                return Err(DiscoverError::Failed { tap: tap.to_owned(), status, hint: process.failure_hint() });
            }
            std::thread::sleep(Duration::from_millis(2));
        } else {
            match process.output.next(&mut line).map_err(DiscoverError::Read)? {
                LineEvent::Nothing => {}
                LineEvent::End => is_over = true,
                heard @ (LineEvent::Line | LineEvent::Torn | LineEvent::TooLong) => {
                    process.reset_idle_time();
                    text.append(&mut line);
                    // A line longer than the limit for messages arrives in pieces.
                    if heard != LineEvent::TooLong {
                        text.push(b'\n');
                    }
                    if text.len() > MAX {
                        return Err(DiscoverError::NotACatalog { tap: tap.to_owned() });
                    }
                }
            }
        }
        let idle_time = process.idle_time();
        if !idle.is_zero() && idle_time >= idle {
            return Err(DiscoverError::Silent { tap: tap.to_owned(), seconds: idle_time.as_secs() });
        }
    }
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path has no file name"))?;
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    checkpoint::replace(dir, &name.to_string_lossy(), text)
}

/// Old taps mark selected streams in the stream itself, newer ones in the metadata of the stream.
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
    fn a_selection_is_found_in_both_places() {
        let new = json!({"metadata": [{"breadcrumb": ["properties", "a"], "metadata": {"selected": true}}, {"breadcrumb": [], "metadata": {"selected": true}}]});
        let not = json!({"metadata": [{"breadcrumb": ["properties", "a"], "metadata": {"selected": true}}, {"breadcrumb": [], "metadata": {}}]});
        let selected = [&json!({"selected": true}), &new, &not, &json!({})].map(is_selected);
        assert_eq!(selected, [true, true, false, false]);
    }
}
