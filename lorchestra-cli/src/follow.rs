//! Shows a run's trace on stderr while it runs (`-v`), in its own thread. While the terminal blocks (Ctrl-S), the trace waits in its file;
//! at the end of the run the wait is limited by [`crate::stream`].

use crate::stream::STDERR;
use lorchestra_core::run::log;
use lorchestra_core::text::printable;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Interval between two reads of the trace.
const INTERVAL: Duration = Duration::from_millis(100);

/// Follows a trace.
pub(crate) struct Follower {
    run_ended: Sender<()>,
    thread: JoinHandle<()>,
}

impl Follower {
    /// Follows the file, which need not exist yet. Returns `None` if no thread can be started: the run continues without it.
    pub(crate) fn start(trace: PathBuf) -> Option<Self> {
        let (run_ended, ended) = channel();
        let thread = std::thread::Builder::new().name("lorchestra-follow".into()).spawn(move || follow(&trace, &ended)).ok()?;
        Some(Self { run_ended, thread })
    }

    /// Shows the rest at the end of the run.
    pub(crate) fn finish(self) {
        let _ = self.run_ended.send(());
        let _ = self.thread.join();
    }
}

fn follow(trace: &Path, ended: &Receiver<()>) {
    let mut open: Option<(File, u64)> = None;
    let mut text = Vec::new();
    loop {
        let last = !matches!(ended.recv_timeout(INTERVAL), Err(RecvTimeoutError::Timeout));
        // Print pending text first.
        while print_lines(&mut text) {
            // List the parts before reading the open file: if a next part exists, this one was complete by then.
            let parts = log::parts(trace).unwrap_or_default();
            let next = parts.iter().find(|part| open.as_ref().is_none_or(|(_, from)| part.from > *from));
            if let Some((file, _)) = &mut open {
                let _ = file.read_to_end(&mut text);
                if !print_lines(&mut text) {
                    break;
                }
            }
            let Some(next) = next else { break };
            match next.open() {
                Ok(file) => open = Some((file, next.from)),
                Err(_) => break,
            }
        }
        if last {
            return;
        }
    }
}

/// Prints the complete lines and keeps the rest. Returns `false` while the terminal blocks.
fn print_lines(text: &mut Vec<u8>) -> bool {
    let mut printed = 0;
    let mut taken = true;
    while let Some(len) = text[printed..].iter().position(|&b| b == b'\n') {
        let line = &text[printed..printed + len];
        taken = line.is_empty() || STDERR.try_write(format!("{}\n", readable(line)).as_bytes());
        if !taken {
            break;
        }
        printed += len + 1;
    }
    text.drain(..printed);
    taken
}

/// Formats `INFO ingester::gmail: message field=value`.
pub(crate) fn readable(line: &[u8]) -> String {
    let Ok(event) = serde_json::from_slice::<Value>(line) else { return printable(&String::from_utf8_lossy(line)) };
    let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let mut shown = format!("{:>5} {}: {}", text("level"), text("target"), text("message"));
    if let Some(fields) = event["fields"].as_object() {
        for (name, value) in fields {
            shown.push_str(&format!(" {name}={value}"));
        }
    }
    printable(&shown.replace('\n', " "))
}
