//! What a command prints when it fails, and the exit codes, which are those of `lorchestra`.

use std::fmt::Display;
use std::io::Write;

/// Everything is complete.
pub(crate) const SUCCESS: u8 = 0;
/// Windows of the group have failed or were cancelled.
pub(crate) const FAILED: u8 = 1;
/// Invalid usage, or a plan that cannot be read.
pub(crate) const USAGE: u8 = 2;
/// The server does not know the group. `lorchestra` reads it.
pub(crate) const UNKNOWN: u8 = 66;
/// The server cannot be reached, or refused the request.
pub(crate) const UNAVAILABLE: u8 = 69;
/// An internal error.
pub(crate) const INTERNAL: u8 = 70;
/// The group is still running.
pub(crate) const RUNNING: u8 = 75;
/// A program is missing.
pub(crate) const NO_PROGRAM: u8 = 127;

/// The end of a command.
#[derive(Debug)]
pub(crate) struct Report {
    /// Its exit code.
    pub(crate) code: u8,
}

impl Report {
    pub(crate) fn success() -> Self {
        Self { code: SUCCESS }
    }
}

/// Why a command failed, for people: what failed, why, and what to do.
#[derive(Debug)]
pub(crate) struct CommandError {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl CommandError {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    pub(crate) fn internal(error: impl Display) -> Self {
        Self::new(INTERNAL, error.to_string())
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Prints it.
    pub(crate) fn report(self) -> Report {
        note(&format!("error: {}", self.message));
        if let Some(hint) = self.hint {
            note(&format!("  {hint}"));
        }
        Report { code: self.code }
    }
}

/// Prints a line on stderr. A reader that has gone away changes nothing.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints a line on stdout.
///
/// # Errors
/// If its reader has gone away, or the disk is full.
pub(crate) fn print(line: &str) -> Result<(), CommandError> {
    let mut stdout = std::io::stdout().lock();
    let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    written.map_err(|error| CommandError::new(INTERNAL, format!("stdout: {error}")))
}
