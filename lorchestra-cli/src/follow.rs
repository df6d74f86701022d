//! Shows a run's trace on standard error while it runs (`-v`). In a thread of its own: a terminal that does not take output
//! (Ctrl-S) holds up this thread and nothing else.

use lorchestra_core::run::log;
use lorchestra_core::text::printable;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks at the trace.
const INTERVAL: Duration = Duration::from_millis(100);

/// A trace that is being followed.
pub(crate) struct Follower {
    run_ended: Sender<()>,
    thread: JoinHandle<()>,
}

impl Follower {
    /// Follows the file, which need not be there yet. `None` when no thread can be had: the run goes on without it.
    pub(crate) fn start(trace: PathBuf) -> Option<Self> {
        let (run_ended, ended) = channel();
        let thread = std::thread::Builder::new().name("lorchestra-follow".into()).spawn(move || follow(&trace, &ended)).ok()?;
        Some(Self { run_ended, thread })
    }

    /// The run has ended: shows the rest.
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
        loop {
            // Looked for before the open file is read: when there is a next one, this one was complete by then.
            let parts = log::parts(trace).unwrap_or_default();
            let next = parts.iter().find(|part| open.as_ref().is_none_or(|(_, from)| part.from > *from));
            if let Some((file, _)) = &mut open {
                let _ = file.read_to_end(&mut text);
                print_lines(&mut text);
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

/// Prints what are whole lines, and leaves the rest.
fn print_lines(text: &mut Vec<u8>) {
    if let Some(end) = text.iter().rposition(|&b| b == b'\n') {
        let lines: Vec<u8> = text.drain(..=end).collect();
        for line in lines.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            let _ = writeln!(std::io::stderr(), "{}", readable(line));
        }
    }
}

/// `INFO ingester::gmail: message field=value`
fn readable(line: &[u8]) -> String {
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
