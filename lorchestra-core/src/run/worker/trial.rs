//! A worker that only loads its library, so that `plugins check` finds the same problems as a first run would. No spool, no job; the answer
//! goes to the control socket.

use super::loader;
use super::order::Trial;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

/// The result, if the worker survived to report it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The library was loaded, and its root module matches its manifest.
    Loaded {
        /// Microseconds from before dlopen to after the comparison.
        micros: u64,
    },
    /// The library could not be loaded.
    Refused {
        /// One sentence.
        message: String,
    },
}

/// Loads the library and reports the result.
pub(super) fn run(control: &UnixStream, trial: &Trial) -> io::Result<()> {
    let start = Instant::now();
    let loaded = loader::root(trial.library_fd, Path::new(&trial.origin));
    // A constructor may have forked: the copy must not answer for the worker, which may still be loading.
    if loader::is_copy() {
        return Ok(());
    }
    let answer = match loaded {
        Ok(_) => Answer::Loaded { micros: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX) },
        Err(refusal) => Answer::Refused { message: refusal.message },
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    (&mut &*control).write_all(&line)
}
