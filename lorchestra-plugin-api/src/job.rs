//! The traits that `#[job]` and `plugin!` implement. Authors do not name them.

use crate::abi::Entry;
use crate::context::JobContext;
use crate::def::{JobDef, PackageDef};
use crate::error::JobError;
use crate::param::ParamError;
use serde_json::Value;

/// A function marked with `#[job]`. The macro implements this trait for a type of the same name as the function.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job",
    label = "not marked with `#[job]`",
    note = "put `#[job]` above the function, and name the function here"
)]
pub trait Job {
    /// Description of the job, known at compile time.
    const DEF: JobDef;

    /// Converts the parameters and calls the function.
    ///
    /// # Errors
    /// The outer error means that a parameter could not be converted and the function was not called. The inner result is what
    /// the function returned.
    fn call(cx: &JobContext, params: &mut serde_json::Map<String, Value>) -> Result<Result<(), JobError>, ParamError>;
}

/// A package. `plugin!` implements this trait once per library.
pub trait Plugin {
    /// Description of the package, known at compile time.
    const DEF: PackageDef;

    /// Definition and entry point of each job, in the order of [`PackageDef::jobs`].
    fn entries() -> Vec<(&'static JobDef, Entry)>;
}
