//! What `lorchestra` has printed and exited with, and what that means to Temporal.

use crate::group::{WindowEnd, WindowReport, WindowState};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Number of starts after which a window fails that no node can start: several nodes have tried, and repeating does not fix a node.
const NODE_ATTEMPTS: u32 = 5;
/// Longest message that is sent to Temporal, in characters.
const MESSAGE: usize = 300;
/// The schema of [`WindowLine`].
const WINDOW_SCHEMA: &str = "lorchestra.window-report/1";

/// What the end of a process means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The window is complete.
    Complete,
    /// It was cancelled.
    Cancelled,
    /// Start it again, on this node or another one.
    Retry,
    /// Starting it again would end in the same way.
    Fail,
}

/// Decides what the end of a process means. `has_run` if it reported a run: otherwise nothing was started.
pub(crate) fn verdict(exit_code: Option<i32>, has_run: bool, attempt: u32, is_cancelled: bool) -> Verdict {
    match exit_code {
        // It was complete before the cancellation reached it.
        Some(0) => Verdict::Complete,
        _ if is_cancelled => Verdict::Cancelled,
        // The job failed or timed out: its own retries are those of the plan.
        Some(1 | 124) if has_run => Verdict::Fail,
        // This node does not have the plan, the package, the configuration, or the program: another one may.
        Some(1 | 2 | 78 | 126 | 127) if attempt >= NODE_ATTEMPTS => Verdict::Fail,
        // Not delivered or not claimed (69), internal (70), state not writable (74), overlap (75), interrupted (129, 130, 143), killed.
        _ => Verdict::Retry,
    }
}

/// What became of a process.
#[derive(Debug)]
pub(crate) struct ProcessEnd {
    pub(crate) status: ExitStatus,
    /// Whether Temporal has cancelled it.
    pub(crate) is_cancelled: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl ProcessEnd {
    /// Returns how it ended, with the reason: this message, or what it has printed.
    pub(crate) fn end(&self, attempt: u32, message: Option<&str>) -> WindowEnd {
        let message = message_of(message.unwrap_or(&self.stderr), &how(self.status.code(), self.status.signal()));
        WindowEnd { exit_code: self.status.code(), attempt: Some(attempt), message: Some(message) }
    }

    /// Returns what became of a run of `run-job --json`; `None` if none was started.
    pub(crate) fn run(&self) -> Option<RunLine> {
        let line = self.stdout.lines().rev().find(|line| line.starts_with('{'))?;
        serde_json::from_str(line).ok()
    }

    /// Returns what became of the windows of `run-window --indexes`, in this start of them. Leaves out those that were not started.
    pub(crate) fn windows(&self, indexes: &[u32], attempt: u32) -> Vec<(Verdict, WindowReport)> {
        let lines = self.stdout.lines().filter(|line| line.starts_with('{'));
        let lines = lines.filter_map(|line| serde_json::from_str::<WindowLine>(line).ok());
        let mut known: BTreeMap<u32, WindowLine> =
            lines.filter(|line| line.schema == WINDOW_SCHEMA).map(|line| (line.index, line)).collect();
        let in_order = self.status.success() && !known.is_empty();
        let mut reports = Vec::new();
        for index in indexes {
            let (verdict, end, is_superseded, millis) = match known.remove(index) {
                Some(line) => {
                    let verdict = verdict(Some(line.exit_code), line.state.is_some(), attempt, self.is_cancelled);
                    let message = (verdict != Verdict::Complete)
                        .then(|| message_of(line.message.as_deref().unwrap_or(&self.stderr), &how(Some(line.exit_code), None)));
                    let end = WindowEnd { exit_code: Some(line.exit_code), attempt: Some(attempt), message };
                    let millis = u32::try_from(line.duration_ms).unwrap_or(u32::MAX).max(1);
                    (verdict, end, line.state.as_deref() != Some("completed"), millis)
                }
                // It has ended in order, and left them to another process.
                None if in_order => continue,
                None => {
                    let verdict = match verdict(self.status.code(), false, attempt, self.is_cancelled) {
                        // Another program than lorchestra.
                        Verdict::Complete => Verdict::Retry,
                        // One of several may not be the reason.
                        Verdict::Fail if indexes.len() > 1 => Verdict::Retry,
                        verdict => verdict,
                    };
                    (verdict, self.end(attempt, None), false, 0)
                }
            };
            let state = match verdict {
                Verdict::Complete if is_superseded => Some(WindowState::Superseded),
                Verdict::Complete => Some(WindowState::Completed),
                Verdict::Fail => Some(WindowState::Failed),
                Verdict::Cancelled => Some(WindowState::Cancelled),
                Verdict::Retry => None,
            };
            reports.push((verdict, WindowReport { index: *index, state, end, millis }));
        }
        reports
    }
}

/// A run, as `run-job --json` prints it.
#[derive(Debug, Deserialize)]
pub(crate) struct RunLine {
    pub(crate) message: Option<String>,
}

/// A window, as `run-window --indexes` prints it.
#[derive(Debug, Deserialize)]
struct WindowLine {
    schema: String,
    index: u32,
    exit_code: i32,
    /// The state of the run; `None` if none was started, because another run has the claim or this node cannot run it.
    state: Option<String>,
    message: Option<String>,
    duration_ms: u64,
}

fn how(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
    }
}

/// Returns the reason for a failure: the first line of a message or of stderr, whose other lines are hints.
fn message_of(text: &str, how: &str) -> String {
    match text.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => {
            let line = line.trim().trim_start_matches("error: ");
            format!("{} ({how})", line.chars().take(MESSAGE).collect::<String>())
        }
        None => how.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_mapped_to_what_temporal_does() {
        for code in [69, 70, 74, 75, 129, 130, 143, 99] {
            assert_eq!(verdict(Some(code), true, 40, false), Verdict::Retry, "{code}");
        }
        assert_eq!(verdict(None, false, 40, false), Verdict::Retry);
        for code in [1, 124] {
            assert_eq!(verdict(Some(code), true, 1, false), Verdict::Fail, "{code}");
        }
        for code in [1, 2, 78, 126, 127] {
            assert_eq!(verdict(Some(code), false, NODE_ATTEMPTS - 1, false), Verdict::Retry, "{code}");
            assert_eq!(verdict(Some(code), false, NODE_ATTEMPTS, false), Verdict::Fail, "{code}");
        }
        assert_eq!(verdict(Some(0), true, 1, true), Verdict::Complete);
        for code in [Some(143), Some(1), None] {
            assert_eq!(verdict(code, true, 1, true), Verdict::Cancelled);
        }
    }

    #[test]
    fn the_reason_is_the_message_of_the_run_or_the_first_line() {
        assert_eq!(message_of("\nerror: busy\n  wait\n", &how(Some(75), None)), "busy (exit code 75)");
        assert_eq!(message_of("", &how(None, Some(9))), "killed by signal 9");
        assert_eq!(message_of(&"x".repeat(5000), "exit code 75").len(), MESSAGE + " (exit code 75)".len());
    }

    fn ended(status: i32, is_cancelled: bool, lines: &[(u32, i32, Option<&str>)]) -> ProcessEnd {
        let line = |(index, exit_code, state): &(u32, i32, Option<&str>)| {
            let schema = WINDOW_SCHEMA;
            serde_json::json!({"schema": schema, "index": index, "exit_code": exit_code, "state": state, "message": null, "duration_ms": 7})
        };
        let stdout = lines.iter().map(|one| format!("{}\n", line(one))).collect::<String>() + "noise\n{\"a\":1}\n";
        ProcessEnd { status: ExitStatus::from_raw(status), is_cancelled, stdout, stderr: "error: no\n".into() }
    }

    fn states(end: &ProcessEnd, indexes: &[u32], attempt: u32) -> Vec<(u32, Option<WindowState>)> {
        end.windows(indexes, attempt).into_iter().map(|(_, report)| (report.index, report.state)).collect()
    }

    #[test]
    fn each_window_of_a_process_has_its_own_end() {
        let lines = [
            (3, 0, Some("completed")),
            (5, 0, Some("superseded")),
            (7, 0, None),
            (9, 1, Some("failed")),
            (11, 69, Some("failed")),
        ];
        let all = [3, 5, 7, 9, 11, 13];
        use WindowState::{Cancelled, Completed, Failed, Superseded};
        let known = vec![(3, Some(Completed)), (5, Some(Superseded)), (7, Some(Superseded)), (9, Some(Failed)), (11, None)];
        assert_eq!(states(&ended(0, false, &lines), &all, 1), known, "the last one was not started");
        let killed = ended(9, false, &lines);
        assert_eq!(states(&killed, &all, 1), [&known[..], &[(13, None)]].concat());
        let reports = killed.windows(&all, 1);
        assert_eq!(reports[0].1.end, WindowEnd::ordinary());
        assert_eq!(reports[5].1.end.message.as_deref(), Some("no (killed by signal 9)"));
        let cancelled = ended(143 << 8, true, &lines);
        assert_eq!(states(&cancelled, &all, 1)[3..], [(9, Some(Cancelled)), (11, Some(Cancelled)), (13, Some(Cancelled))]);
        // This node cannot run anything: with several windows, that is the reason of none of them.
        let missing = ended(127 << 8, false, &[]);
        assert_eq!(states(&missing, &[1, 2], NODE_ATTEMPTS), [(1, None), (2, None)]);
        assert_eq!(states(&missing, &[1], NODE_ATTEMPTS), [(1, Some(Failed))]);
        assert_eq!(states(&ended(0, false, &[]), &[1], 1), [(1, None)], "a program that is not lorchestra completes nothing");
    }
}
