//! Exit codes. Public: scripts and timers depend on them; `cargo xtask docs` writes docs/reference/exit-codes.md from this enum.

use std::process::ExitCode;

/// How the command ends, as its caller sees it. First match wins, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// All is well.
    Success,
    /// Bad usage or parameters: plugin code was never entered.
    Usage,
    /// Bad configuration, a plugins.lock that is asked for and cannot be used, or a state directory that cannot: plugin code was never
    /// entered.
    Config,
    /// The plugin cannot be used: broken, incompatible, not trusted, not locked, duplicate, or it failed to load in the worker; a library
    /// was not installed.
    Plugin,
    /// The overlap lock is held, or still was after a wait, or another run has done this one's work meanwhile: no run was recorded.
    Overlap,
    /// We were interrupted by this signal; before the run was recorded, there is none.
    Interrupted(i32),
    /// The run's last attempt was ended by its timeout.
    Timeout,
    /// The job failed, panicked, crashed; unknown package, job or run.
    Failed,
    /// The job succeeded, and its events could not be delivered where that was required; or a command that delivers could not.
    Undelivered,
    /// The state directory, or with `plugins` the plugin directory, cannot be written (full, read-only, a limit on the size of files).
    NotWritable,
    /// A fault of lorchestra.
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
            // SIGHUP, SIGINT and SIGTERM are the only ones that are handled: 129, 130, 143.
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
