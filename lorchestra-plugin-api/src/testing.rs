//! Runs jobs inside tests, and checks what they did.
//!
//! [`job`] creates a [`Test`]. Give it parameters and call [`run`](Test::run): the job runs in the test's process, through the same code as in a
//! worker, with panics caught. The returned [`TestRun`] has the events, the error, the progress and the files of the job, and assertions.
//! Parameters are checked as lorchestra checks the command line. Events that a run would refuse are refused.
//!
//! ```
//! use lorchestra_plugin_api::{prelude::*, testing};
//!
//! /// Count the words of a file.
//! #[job]
//! fn count_words(cx: &JobContext, input: PathBuf, #[param(default = 1)] at_least: u64) -> JobResult {
//!     let words = std::fs::read_to_string(&input).permanent()?.split_whitespace().count() as u64;
//!     cx.emit("words.counted", json!({ "words": words }))?;
//!     if words < at_least { Err(format!("only {words} words"))? }
//!     Ok(())
//! }
//!
//! # fn main() {
//! let dir = testing::TempDir::new();
//! let input = dir.write("input.txt", "two words");
//!
//! let run = testing::job::<count_words>().param("input", &input).run();
//! run.assert_ok();
//! assert_eq!(run.event("words.counted").payload, json!({ "words": 2 }));
//!
//! let run = testing::job::<count_words>().param("input", &input).param("at_least", 3).run();
//! run.assert_retryable("only 2 words");
//!
//! let run = testing::job::<count_words>().param("input", "/no/such/file").run();
//! run.assert_permanent("No such file");
//! # }
//! ```
//!
//! Put the test into the crate of the job. For tests in `tests/`, the crate must also be an `rlib`
//! (`crate-type = ["cdylib", "rlib"]`) and the job `pub`. A test may link several packages.
//!
//! Differences from a real run:
//!
//! - The job shares process, statics, environment and standard output with the test.
//! - Secrets are not masked. [`TestRun::assert_keeps_secrets`] checks whether masking would have been needed.
//! - There are no time limits, retries or overlap locks: those belong to the host.
//! - `tracing` events are recorded only from the job's own thread.

mod argument;
mod dir;
mod recorder;
mod test;
mod test_run;

pub use crate::invoke::JobReturn;
pub use crate::job::Job;
pub use argument::{Argument, ArgumentValue};
pub use dir::TempDir;
pub use test::{RunningTest, Test, job};
pub use test_run::{Emitted, TestRun};

/// Returns the value, or panics with the location of the test's line. `#[track_caller]` does not work through a closure for
/// `unwrap_or_else`.
#[track_caller]
fn or_panic<T>(result: Result<T, String>) -> T {
    match result {
        Ok(value) => value,
        Err(why) => panic!("{why}"),
    }
}
