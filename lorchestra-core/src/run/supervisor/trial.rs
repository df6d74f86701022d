//! Loads a library on trial, in a worker that does nothing else. The worker and everything it started are killed when it has answered, or
//! at the time limit. Not a run: nothing is recorded, no lock is taken.

use super::child::{Start, Worker};
use super::stops::Stops;
use crate::host::clock::timespec;
use crate::host::process;
use crate::host::signals::signal_name;
use crate::packages::library::Library;
use crate::run::decision::{Death, Stop};
use crate::run::worker::order::Trial;
use crate::run::worker::trial::Answer;
use crate::text::path_text;
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::time::{Duration, Instant};

/// Maximum length of an answer: a plugin may write anything there.
const MAX_ANSWER: usize = 64 << 10;
/// Number of bytes to keep of the end of the output.
const KEPT: usize = 4 << 10;
/// Interval for detecting a death that closes no descriptor, because a child may hold it.
const LOOK: Duration = Duration::from_millis(20);

/// The result of loading a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It loads, and matches its manifest.
    Loaded {
        /// Time that loading needed in the worker.
        took: Duration,
    },
    /// The loader refused it, or it differs from its manifest: one sentence.
    Refused(String),
    /// Its process ended during loading.
    Died {
        /// How it ended.
        how: String,
        /// The last line of its output.
        printed: Option<String>,
    },
    /// It was still loading at the time limit.
    Late {
        /// The time limit.
        limit: Duration,
        /// Which process was stopped by then.
        stopped: Option<Stop>,
    },
}

/// Loads the library in a separate worker, with `limit` as time limit.
///
/// # Errors
/// If the worker could not be started or waited for.
pub fn load(exe: &Path, library: &Library, limit: Duration) -> io::Result<Verdict> {
    let remains = process::kill_trial_leftovers();
    if remains > 0 {
        tracing::warn!(remains, "killed processes left by trials whose supervisor was killed");
    }
    let mut worker = Worker::start(
        library,
        &Start { exe, title: "plugins check", environment: &[(process::TRIAL, process::trial_mark()?)], directory: None },
    )?;
    let trial = Trial { library_fd: worker.library_fd(), origin: path_text(library.path()) };
    // If the worker has died, that is detected below.
    let sent = trial.send(&worker.control);
    worker.control.set_nonblocking(true)?;
    if let Err(error) = sent {
        tracing::debug!(%error, "cannot send the order to the worker");
    }
    let until = Instant::now() + limit;
    let (mut answer, mut printed) = (Vec::new(), Vec::new());
    let (mut control_open, mut output_open) = (true, true);
    let mut late = None;
    let mut stops = Stops::new(Instant::now());
    loop {
        // Checked before reading the rest: everything that it wrote before its death is there then.
        let dead = worker.has_ended()?;
        worker.reap_orphans();
        output_open = output_open && copy(&mut worker.output, &mut printed);
        control_open = control_open && read_answer(&worker.control, &mut answer);
        if dead || answer.contains(&b'\n') || answer.len() >= MAX_ANSWER {
            break;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            late = Some(stops.now(&worker));
            break;
        }
        stops.look(&worker, Instant::now());
        wait(&worker, control_open, output_open, left.min(LOOK))?;
    }
    let (death, ..) = worker.end()?;
    if let Some(stopped) = late {
        return Ok(Verdict::Late { limit, stopped });
    }
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(match serde_json::from_slice(line) {
        Ok(Answer::Loaded { micros }) => Verdict::Loaded { took: Duration::from_micros(micros) },
        Ok(Answer::Refused { message }) => Verdict::Refused(message),
        Err(_) => Verdict::Died { how: how(death), printed: last_line(&printed) },
    })
}

fn how(death: Death) -> String {
    match death {
        Death::Killed { signal, .. } => format!("was killed by {}", signal_name(signal)),
        Death::Exited(code) => format!("exited with code {code}"),
        Death::Unknown | Death::SpoolMissing => "ended".to_owned(),
    }
}

fn last_line(printed: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(printed);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}

fn wait(worker: &Worker, control: bool, output: bool, time: Duration) -> io::Result<()> {
    let mut fds = Vec::new();
    // A closed descriptor would end every poll immediately.
    if control {
        fds.push(PollFd::new(&worker.control, PollFlags::IN));
    }
    if output {
        fds.push(PollFd::new(&worker.output, PollFlags::IN));
    }
    let time = timespec(time.max(Duration::from_millis(1)));
    match poll(&mut fds, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Drains the pipe, at most 1 MiB per call, and keeps the end of the output. Returns `false` at the end of the pipe.
fn copy(output: &mut File, printed: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 64 << 10];
    for _ in 0..16 {
        match output.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => {
                printed.extend_from_slice(&buffer[..n]);
                printed.drain(..printed.len().saturating_sub(KEPT));
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return e.kind() == ErrorKind::WouldBlock,
        }
    }
    true
}

/// Reads what is available of the answer. Returns `false` after the last byte.
fn read_answer(mut control: &std::os::unix::net::UnixStream, answer: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4 << 10];
    while answer.len() < MAX_ANSWER {
        match control.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return e.kind() == ErrorKind::WouldBlock,
        }
    }
    true
}
