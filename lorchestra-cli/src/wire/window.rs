//! Windows that `run-window` has run, as objects: for the engine that started them.

use super::JsonSchema;
use lorchestra_core::outcome::Cause;
use serde::{Deserialize, Serialize};

/// What became of a window, as `run-window --indexes` prints it. A later report of the same window replaces an earlier one.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct WindowReport {
    #[schemars(extend("const" = "lorchestra.window-report/1"))]
    pub(crate) schema: &'static str,
    /// The index of the window in the plan file.
    pub(crate) index: usize,
    pub(crate) run_id: String,
    /// The exit code of a process that had run only this window.
    pub(crate) exit_code: u8,
    /// The state of the run; null if none was started.
    pub(crate) state: Option<&'static str>,
    pub(crate) message: Option<String>,
    pub(crate) duration_ms: u64,
}

/// The result of a window that is not complete, as `run-window --results` leaves it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct WindowResult {
    #[schemars(extend("const" = WindowResult::SCHEMA))]
    pub(crate) schema: String,
    pub(crate) run_id: String,
    /// The attempt of the engine.
    pub(crate) attempt: Option<String>,
    pub(crate) exit_code: u8,
    pub(crate) cause: Option<Cause>,
    pub(crate) message: Option<String>,
}

impl WindowResult {
    pub(crate) const SCHEMA: &str = "lorchestra.window-result/1";
}
