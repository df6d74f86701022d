//! What the engine and the shared directory show of a group at one moment, and what that means for each window.

use super::files::{GroupFiles, read_result};
use super::{Engine, Seen};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::wire::WindowResult;
use lorchestra_core::outcome::Cause;
use lorchestra_core::store::ClaimHolder;
use lorchestra_core::store::group::MemberState;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

/// Why a window is not complete, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::commands::backfill) struct WindowReason {
    pub(in crate::commands::backfill) cause: Option<Cause>,
    pub(in crate::commands::backfill) message: String,
}

impl fmt::Display for WindowReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Some(cause) => write!(f, "{}: {}", cause.as_str(), self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Whether a window that failed is worth another start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryKind {
    Never,
    /// The reason may pass.
    Later,
    /// The reason is on the node, and may pass.
    LaterElsewhere,
    /// The reason is on the node, and stays: another node may be able to run it.
    Elsewhere,
}

/// What is known about a window now.
#[derive(Debug)]
pub(super) enum WindowVerdict {
    Open(MemberState),
    Completed(Option<ClaimHolder>),
    Failed {
        reason: WindowReason,
        retry: RetryKind,
        /// The result that it left.
        result: Option<WindowResult>,
    },
    /// It left the engine without a result.
    Lost,
    /// Its claim exists and cannot be read: for this reason.
    Undecided(String),
}

/// What the shared directory and the engine show at one moment.
pub(super) struct Look {
    pub(super) seen: BTreeMap<u32, Seen>,
    claimed: BTreeSet<u32>,
    results: BTreeMap<u32, PathBuf>,
}

impl Look {
    pub(super) fn take(files: &GroupFiles<'_>, engine: &mut dyn Engine) -> Result<Self, CommandError> {
        files.check_mounted()?;
        // First the engine: a window that it no longer knows has left its claim before.
        let seen = engine.look()?;
        Ok(Self { seen, claimed: files.claimed()?, results: files.results_by_place()? })
    }

    pub(super) fn judge(&self, files: &GroupFiles<'_>, place: u32) -> WindowVerdict {
        let seen = self.seen.get(&place);
        match seen {
            Some(Seen::Waiting | Seen::Held(_)) => return WindowVerdict::Open(MemberState::Pending),
            Some(Seen::Running) => return WindowVerdict::Open(MemberState::Running),
            Some(Seen::Complete | Seen::Ended(_)) | None => {}
        }
        if matches!(seen, Some(Seen::Complete)) || self.claimed.contains(&place) {
            match files.holder(place) {
                Ok(None) if seen != Some(&Seen::Complete) => {}
                Ok(holder) => return WindowVerdict::Completed(holder),
                Err(error) => {
                    let claim = files.claim(place);
                    return WindowVerdict::Undecided(format!("its claim {} cannot be read: {error}", claim.display()));
                }
            }
        }
        if let Some(result) = self.results.get(&place).and_then(|path| read_result(path)) {
            return failed(result);
        }
        match seen {
            Some(Seen::Ended(Some(code))) => WindowVerdict::Failed {
                reason: WindowReason { cause: None, message: format!("exit code {code}") },
                retry: RetryKind::Never,
                result: None,
            },
            _ => WindowVerdict::Lost,
        }
    }

    /// The windows that wait until someone does something, by what that is.
    pub(super) fn held(&self) -> BTreeMap<&str, usize> {
        let mut held = BTreeMap::new();
        for seen in self.seen.values() {
            if let Seen::Held(why) = seen {
                *held.entry(why.as_str()).or_insert(0) += 1;
            }
        }
        held
    }

    /// Number of windows that the engine still runs or will run.
    pub(super) fn open(&self) -> usize {
        self.seen.values().filter(|seen| seen.is_open()).count()
    }
}

fn failed(result: WindowResult) -> WindowVerdict {
    let is = |codes: &[Code]| codes.iter().any(|code| code.number() == result.exit_code);
    let retry = match () {
        () if is(&[Code::Plugin, Code::Config]) || result.cause == Some(Cause::Host) => RetryKind::Elsewhere,
        () if is(&[Code::NotWritable]) => RetryKind::LaterElsewhere,
        () if is(&[Code::Undelivered, Code::Overlap]) => RetryKind::Later,
        () => RetryKind::Never,
    };
    let message = result.message.clone().unwrap_or_else(|| format!("exit code {}", result.exit_code));
    WindowVerdict::Failed { reason: WindowReason { cause: result.cause, message }, retry, result: Some(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_repeated_only_if_that_may_help() {
        for (code, cause, expected) in [
            (1, Some(Cause::Error), RetryKind::Never),
            (2, None, RetryKind::Never),
            (69, Some(Cause::Claim), RetryKind::Later),
            (74, None, RetryKind::LaterElsewhere),
            (75, None, RetryKind::Later),
            (78, None, RetryKind::Elsewhere),
            (70, Some(Cause::Host), RetryKind::Elsewhere),
            (126, Some(Cause::Load), RetryKind::Elsewhere),
            (143, Some(Cause::Cancelled), RetryKind::Never),
        ] {
            let result = WindowResult {
                schema: WindowResult::SCHEMA.into(),
                run_id: "r".into(),
                attempt: None,
                exit_code: code,
                cause,
                message: None,
            };
            let WindowVerdict::Failed { retry, .. } = failed(result) else { panic!("{code}") };
            assert_eq!(retry, expected, "{code}");
        }
    }
}
