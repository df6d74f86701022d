//! The traits that `#[job]` and `plugin!` implement. Authors never name them; they are what a job *is* to the rest of
//! this crate.

use crate::abi::Entry;
use crate::context::JobContext;
use crate::def::{JobDef, PackageDef};
use crate::error::JobError;
use crate::param::ParamError;
use serde_json::Value;

/// A function marked with `#[job]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job",
    label = "not marked with `#[job]`",
    note = "put `#[job]` above the function, and name the function here"
)]
pub trait Job {
    /// What is known of it at compile time.
    const DEF: JobDef;

    /// Converts the parameters and calls the function.
    ///
    /// # Errors
    /// The outer error: a parameter does not fit, the function was not entered. The inner one is the job's own.
    fn call(cx: &JobContext, params: &mut serde_json::Map<String, Value>) -> Result<Result<(), JobError>, ParamError>;
}

/// The package: implemented once in a library, by `plugin!`.
pub trait Plugin {
    /// What is known of it at compile time.
    const DEF: PackageDef;

    /// Each job's definition and entry, in the order of [`PackageDef::jobs`].
    fn entries() -> Vec<(&'static JobDef, Entry)>;
}
