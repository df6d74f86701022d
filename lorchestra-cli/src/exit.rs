//! Exit codes. Public: scripts and timers depend on them; `cargo xtask docs` writes docs/reference/exit-codes.md from this enum.

use std::process::ExitCode;

/// The exit code of a command. If several apply, the first one in this order wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// The command succeeded; the job returned `Ok`.
    Success,
    /// Invalid usage or parameters; no plugin code ran.
    Usage,
    /// Invalid configuration, or a `plugins.lock` or state directory that cannot be used; no plugin code ran.
    Config,
    /// The plugin cannot be used (broken, incompatible, not trusted, not locked, duplicate, failed to load), or was not installed.
    Plugin,
    /// Another run of the same job and account holds the overlap lock, or has already done this run's work.
    Overlap,
    /// Interrupted by SIGHUP, SIGINT or SIGTERM; before the run was recorded, there is no run.
    Interrupted(i32),
    /// The last attempt of the run reached its timeout.
    Timeout,
    /// The job failed, panicked or crashed; or the package, job or run does not exist.
    Failed,
    /// The job succeeded, but required deliveries did not; or it was not started, because its events must be delivered and a destination refuses
    /// them; or `events flush` or `events setup` could not reach a destination, a command with `--from bigquery` the events table, or
    /// `run-window` the URL of its plan.
    Undelivered,
    /// The state directory, or for `plugins` the plugin directory, cannot be written (full, read-only, file size limit).
    NotWritable,
    /// An internal error of lorchestra.
    Internal,
}

impl Code {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Usage => 2,
            Self::Config => 78,
            Self::Plugin => 126,
            Self::Overlap => 75,
            // No other signals are handled, so the result is 129, 130 or 143.
            Self::Interrupted(signal) => 128 + u8::try_from(signal).unwrap_or(0),
            Self::Timeout => 124,
            Self::Failed => 1,
            Self::Undelivered => 69,
            Self::NotWritable => 74,
            Self::Internal => 70,
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.number())
    }
}
