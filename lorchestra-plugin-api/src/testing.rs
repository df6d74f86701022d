//! Tests of jobs: a job is run in the test's own process, and what it did is there to be looked at.
//!
//! Owns the test's side of a call: values that are checked against the job's own description as lorchestra checks what is typed, a
//! sink that records and refuses what a run would refuse, a temporary data directory. The job is entered by the same way as in a
//! worker ([`invoke`](crate::invoke)), panic wall included. Talks to nothing outside the process.
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
//! let ran = testing::job::<count_words>().param("input", &input).run();
//! ran.assert_ok();
//! assert_eq!(ran.event("words.counted").payload, json!({ "words": 2 }));
//!
//! let ran = testing::job::<count_words>().param("input", &input).param("at_least", 3).run();
//! ran.assert_retryable("only 2 words");
//!
//! let ran = testing::job::<count_words>().param("input", "/no/such/file").run();
//! ran.assert_permanent("No such file");
//! # }
//! ```
//!
//! The test lies in the crate of the job, or in `tests/` where the crate is also an `rlib` and the job `pub`:
//! `crate-type = ["cdylib", "rlib"]`. Several packages may be linked into one test.
//!
//! What is not as in a run: the job shares process, statics, environment and standard output with the test; its secrets are not masked
//! ([`Ran::assert_keeps_secrets`] looks whether that would have been needed); limits, retries and overlap are the host's and not here;
//! of its `tracing` events, those of other threads than its own are not recorded.

mod argument;
mod dir;
mod ran;
mod recorder;
mod test;

pub use argument::{Argument, Given};
pub use dir::TempDir;
pub use ran::{Emitted, Ran};
pub use test::{Running, Test, job};

/// The value; or a panic whose place is the test's line. (In a closure for `unwrap_or_else` it would be this library's.)
#[track_caller]
fn or_panic<T>(result: Result<T, String>) -> T {
    match result {
        Ok(value) => value,
        Err(why) => panic!("{why}"),
    }
}
