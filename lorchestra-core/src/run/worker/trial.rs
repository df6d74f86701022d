//! A worker that only loads its library: what `plugins check` finds out with it is what the first run would. No spool, no job; the
//! answer goes out on the control socket.

use super::loader;
use super::order::Trial;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

/// What came of it, if the worker lived to tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The library was loaded, and its root module is what its manifest says.
    Loaded {
        /// Microseconds from before dlopen to after the comparison.
        micros: u64,
    },
    /// It could not be.
    Refused {
        /// One sentence.
        message: String,
    },
}

/// Loads the library and tells.
pub(super) fn run(control: &UnixStream, trial: &Trial) -> io::Result<()> {
    let start = Instant::now();
    let loaded = loader::root(trial.library_fd, Path::new(&trial.origin));
    // A constructor may have forked: what its copy has to say is not of the worker, which may still be loading.
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
