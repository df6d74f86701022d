//! The result of a command: its status and its output.

use crate::sandbox::Sandbox;
use regex_lite::Regex;
use serde_json::Value;
use std::process::ExitStatus;

/// Maximum number of lines of any failure.
const LINES: usize = 8;

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its arguments.
    pub args: Vec<String>,
    /// How it ended.
    pub status: ExitStatus,
    /// Its output on stdout.
    pub stdout: Vec<u8>,
    /// Its output on stderr.
    pub stderr: Vec<u8>,
}

impl Ended {
    /// Standard output, as text.
    pub fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap_or_else(|e| panic!("standard output is not UTF-8 ({e}): {self:?}"))
    }

    /// Standard error, as text.
    pub fn err(&self) -> &str {
        std::str::from_utf8(&self.stderr).unwrap_or_else(|e| panic!("standard error is not UTF-8 ({e}): {self:?}"))
    }

    /// Standard output without the short ids of runs.
    pub fn plain_out(&self) -> String {
        short_ids_replaced(self.out())
    }

    /// The exit code; `None` after a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Checks the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "exit code of {}", self.shown());
        self
    }

    /// Stdout as one JSON object of this schema.
    #[track_caller]
    pub fn json(&self, schema: &str) -> Value {
        let value: Value =
            serde_json::from_str(self.out()).unwrap_or_else(|e| panic!("not one JSON object ({e}): {}", self.shown()));
        assert_eq!(value["schema"], schema, "{}", self.shown());
        value
    }

    /// Stdout as JSON objects of this schema, one per line.
    #[track_caller]
    pub fn json_lines(&self, schema: &str) -> Vec<Value> {
        let parse = |line: &str| -> Value {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
            assert_eq!(value["schema"], schema, "{line}");
            value
        };
        self.out().lines().map(parse).collect()
    }

    /// All output, for a failed assertion.
    pub fn shown(&self) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        format!(
            "`lorchestra {}` ended with {}\n--- stdout\n{}--- stderr\n{}",
            self.args.join(" "),
            self.status,
            text(&self.stdout),
            text(&self.stderr)
        )
    }

    /// All output, with values that differ between runs replaced: for snapshots.
    pub fn snapshot(&self, sandbox: &Sandbox) -> String {
        let status = self.code().map_or_else(|| self.status.to_string(), |code| code.to_string());
        let text = format!("exit: {status}\n--- stdout\n{}--- stderr\n{}", self.out(), self.err());
        redacted(&text, sandbox)
    }

    /// Checks the rules that hold for every command.
    ///
    /// # Panics
    /// If one is broken.
    #[track_caller]
    pub fn check(&self) {
        let err = self.err();
        assert!(!self.stderr.contains(&0x1b), "an escape sequence on standard error: {}", self.shown());
        let raw = self.args.iter().any(|arg| arg == "logs");
        assert!(raw || !self.stdout.contains(&0x1b), "an escape sequence on standard output: {}", self.shown());
        for of_a_crash in ["RUST_BACKTRACE", "thread 'main'"] {
            assert!(!err.contains(of_a_crash), "looks like a crash: {}", self.shown());
        }
        let failed = self.code().is_some_and(|code| code != 0);
        // With -v the user asked for more.
        let verbose = self.args.iter().any(|arg| arg == "--verbose" || arg.starts_with("-v"));
        if failed && !verbose {
            assert!(err.lines().count() <= LINES, "more than {LINES} lines: {}", self.shown());
            assert!(!err.trim().is_empty(), "a failure without a message: {}", self.shown());
        }
    }
}

/// The text with values that differ between runs replaced: paths of the sandbox, ids, times, durations, checksums, pids.
pub fn redacted(text: &str, sandbox: &Sandbox) -> String {
    const RULES: &[(&str, &str)] = &[
        (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "[ID]"),
        (r"\b[0-9a-f]{64}\b", "[SHA256]"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "[TIME]"),
        (r"after \d+(\.\d+)?s\b", "after [DURATION]"),
        (r"pid \d+", "pid [PID]"),
    ];
    let mut text = text.replace(&sandbox.root().display().to_string(), "[SANDBOX]");
    for (pattern, by) in RULES {
        text = Regex::new(pattern).expect("a pattern of ours").replace_all(&text, *by).into_owned();
    }
    for (pattern, by) in [
        (r"\b[0-9a-f]{8} \(\[ID\]\)", "[SHORT] ([ID])"),
        (r"\(\d+[smhd] ago\)", "([AGE] ago)"),
        (r"\d+\.\d+s of processor time(, at most \d+ MiB of memory)?", "[USED]"),
    ] {
        text = Regex::new(pattern).expect("a pattern of ours").replace_all(&text, by).into_owned();
    }
    short_ids_replaced(&text)
}

/// The text with `[SHORT]` for short ids: eight hexadecimal digits after a word that introduces one.
fn short_ids_replaced(text: &str) -> String {
    let pattern = r"\b(run|show|logs|stop) [0-9a-f]{8}\b";
    Regex::new(pattern).expect("a pattern of ours").replace_all(text, "$1 [SHORT]").into_owned()
}
