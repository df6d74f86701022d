//! A tap as a process: how it is called, started, listened to and ended. Talks to the system; what it writes on its standard
//! error goes into the run's log, line by line.
//!
//! The tap is in the job's process group: whatever ends the run ends the tap. When the job has enough of it, it gets SIGTERM,
//! and SIGKILL some seconds later.

use crate::output::Output;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// Time that a tap has between SIGTERM and SIGKILL. Less than a run's grace.
const GRACE: Duration = Duration::from_secs(5);
/// Time that the rest of its standard error has after its end; a process that it left behind may hold it open.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes of a line on standard error that are passed on in one piece.
const PIECE: u64 = 64 << 10;
/// Characters of its last line there that are told with its end.
const TOLD: usize = 200;
/// Bytes of a text in the config that is kept out of them: what is shorter is no secret, and may be any word.
const SECRET: usize = 6;

/// How a tap is called.
#[derive(Debug)]
pub(crate) struct Call {
    /// A path, or a name that is looked for on PATH.
    pub(crate) program: PathBuf,
    /// Arguments before those of the specification.
    pub(crate) args: Vec<String>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) catalog: Option<PathBuf>,
}

/// Why a tap was not started, or cannot be waited for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TapError {
    #[error("there is no program {} on PATH; install the tap, or give --tap a path", .0.display())]
    NotOnPath(PathBuf),
    #[error("{}: there is no such program", .0.display())]
    Missing(PathBuf),
    #[error("{}: cannot be run; see that it is a program, and that the user who runs the job may run it", .program.display())]
    NotRunnable { program: PathBuf, source: io::Error },
    #[error("{what} {}: cannot be read", .path.display())]
    Unreadable { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{what} {}: is not a JSON object; see what the tap wants there", .path.display())]
    NotAnObject { what: &'static str, path: PathBuf },
    #[error("waiting for the tap failed")]
    Wait(#[from] io::Error),
}

impl TapError {
    /// Whether another attempt must end the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        !matches!(self, Self::Wait(_))
    }
}

impl Call {
    /// The tap's name: that of its program.
    pub(crate) fn name(&self) -> String {
        self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy().into_owned()
    }

    /// Looks that config and catalog are what a tap can read: taps say it less clearly.
    pub(crate) fn check(&self) -> Result<(), TapError> {
        for (what, path) in [("config", &self.config), ("catalog", &self.catalog)] {
            if let Some(path) = path {
                check_object(what, path)?;
            }
        }
        Ok(())
    }

    /// Starts it, with these arguments behind those of the call.
    pub(crate) fn start(&self, more: &[OsString]) -> Result<Process, TapError> {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        if let Some(catalog) = &self.catalog {
            command.arg("--catalog").arg(catalog);
        }
        command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound if self.program.components().count() == 1 => TapError::NotOnPath(self.program.clone()),
            io::ErrorKind::NotFound => TapError::Missing(self.program.clone()),
            _ => TapError::NotRunnable { program: self.program.clone(), source },
        })?;
        let told = Arc::new(AtomicU64::new(0));
        let last = Arc::new(Mutex::new(Vec::new()));
        let output = child.stdout.take().map(Output::new).ok_or_else(|| io::Error::other("no standard output"))?;
        let words = child.stderr.take().map(|stderr| {
            let (told, last) = (told.clone(), last.clone());
            std::thread::spawn(move || pass_on(stderr, &told, &last))
        });
        let secrets = self.config.as_deref().map(texts).unwrap_or_default();
        Ok(Process { child, output, words, told, told_before: 0, last, secrets, heard: Instant::now(), ended: None })
    }
}

/// The texts in a config, which hold what is secret, the longest first. What cannot be read is the tap's to complain of.
fn texts(config: &Path) -> Vec<String> {
    use lorchestra_plugin_api::serde_json::{Value, from_slice};
    fn gather(value: Value, texts: &mut Vec<String>) {
        match value {
            Value::String(text) if text.len() >= SECRET => texts.push(text),
            Value::Array(values) => values.into_iter().for_each(|value| gather(value, texts)),
            Value::Object(map) => map.into_iter().for_each(|(_, value)| gather(value, texts)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    // What is no file can be read once, by the tap.
    if config.is_file() {
        let value = std::fs::read(config).ok().and_then(|text| from_slice(&text).ok());
        gather(value.unwrap_or(Value::Null), &mut found);
    }
    found.sort_by_key(|text| std::cmp::Reverse(text.len()));
    found
}

/// Looks that a file holds a JSON object. What is no file is left to the tap.
pub(crate) fn check_object(what: &'static str, path: &Path) -> Result<(), TapError> {
    use lorchestra_plugin_api::serde_json::{Map, Value, from_slice};
    let unreadable = |source| TapError::Unreadable { what, path: path.to_owned(), source };
    let kind = std::fs::metadata(path).map_err(unreadable)?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        // A pipe can be read once, by the tap.
        return Ok(());
    }
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(256 << 20).read_to_end(&mut text)).map_err(unreadable)?;
    match from_slice::<Map<String, Value>>(&text) {
        Ok(_) => Ok(()),
        Err(_) => Err(TapError::NotAnObject { what, path: path.to_owned() }),
    }
}

/// A tap that was started. Dropped before its end, it is killed.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) output: Output,
    words: Option<JoinHandle<()>>,
    /// Bytes on its standard error so far.
    told: Arc<AtomicU64>,
    told_before: u64,
    /// The last line there that says something.
    last: Arc<Mutex<Vec<u8>>>,
    /// What is kept out of it.
    secrets: Vec<String>,
    heard: Instant,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Something came from its standard output.
    pub(crate) fn was_heard(&mut self) {
        self.heard = Instant::now();
    }

    /// How long nothing has come from it, on neither of its outputs.
    pub(crate) fn silence(&mut self) -> Duration {
        let told = self.told.load(Ordering::Relaxed);
        if told != self.told_before {
            self.told_before = told;
            self.was_heard();
        }
        self.heard.elapsed()
    }

    /// Its status, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, TapError> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Ends it: SIGTERM, and SIGKILL when that is not enough.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus, TapError> {
        let until = Instant::now() + GRACE;
        if self.ended()?.is_none()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // It was not waited for, so that the number is still its own.
            let _ = kill_process(pid, Signal::TERM);
        }
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > until {
                self.child.kill()?;
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Lets what it wrote on its standard error last come into the log.
    pub(crate) fn hear_last_words(&mut self) {
        let until = Instant::now() + LAST_WORDS;
        while self.words.as_ref().is_some_and(|words| !words.is_finished()) && Instant::now() < until {
            sleep(Duration::from_millis(1));
        }
    }

    /// What it said last on its standard error, as the end of a sentence: most programs say there why they failed. Texts of the config are
    /// replaced by `***`; all of it is in the log.
    pub(crate) fn last_words(&mut self) -> String {
        self.hear_last_words();
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut words = String::from_utf8_lossy(&last).trim().to_owned();
        for secret in &self.secrets {
            words = words.replace(secret, "***");
        }
        let words: String = words.chars().filter(|c| !c.is_control()).take(TOLD).collect();
        if words.is_empty() { "what it said is in the log of this run".to_owned() } else { format!("its last words: {words}") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.ended(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Line by line, so that they do not mix with what else is said.
fn pass_on(stderr: impl Read, told: &AtomicU64, last: &Mutex<Vec<u8>>) {
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    // An end, or nobody can be told of the error.
    while let Ok(1..) = lines.by_ref().take(PIECE).read_until(b'\n', &mut line) {
        told.fetch_add(line.len() as u64, Ordering::Relaxed);
        let _ = io::stderr().lock().write_all(&line);
        if !line.trim_ascii().is_empty() {
            last.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&line);
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(program: &str) -> Call {
        Call { program: program.into(), args: Vec::new(), config: None, catalog: None }
    }

    #[test]
    fn a_tap_that_is_not_there_is_told_by_where_it_was_looked_for() {
        assert!(matches!(call("no-such-tap-anywhere").start(&[]), Err(TapError::NotOnPath(_))));
        assert!(matches!(call("/no/such/tap").start(&[]), Err(TapError::Missing(_))));
        assert!(matches!(call("/etc/passwd").start(&[]), Err(TapError::NotRunnable { .. })));
        assert_eq!(call("/opt/venv/bin/tap-csv").name(), "tap-csv");
    }

    #[test]
    fn a_config_that_is_no_object_is_told_before_the_tap_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let check = || Call { config: Some(path.clone()), ..call("x") }.check();
        assert!(matches!(check(), Err(TapError::Unreadable { what: "config", .. })));
        for text in ["", "[]", "{", "{} {}"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(check(), Err(TapError::NotAnObject { what: "config", .. })), "{text}");
        }
        std::fs::write(&path, "{\"a\":1}").unwrap();
        check().unwrap();
    }

    #[test]
    fn a_tap_that_does_not_listen_is_killed() {
        let mut process =
            Call { args: vec!["-c".into(), "trap '' TERM; echo; exec sleep 100".into()], ..call("sh") }.start(&[]).unwrap();
        let mut line = Vec::new();
        while !matches!(process.output.next(&mut line).unwrap(), crate::output::Heard::Line) {}
        process.child.kill().unwrap();
        assert!(!process.stop().unwrap().success());
    }
}
