//! A tap as a process: how it is called, started, listened to and ended. Talks to the system; what it writes on its standard
//! error goes into the run's log, line by line, with the secrets of its config masked. None of that text is in an error or event: it may
//! hold a person's data. What is, is the kind of failure (`crate::diagnosis`).
//!
//! The tap is in the job's process group: whatever ends the run ends the tap. When the job has enough of it, it gets SIGTERM,
//! and SIGKILL some seconds later.

use crate::diagnosis;
use crate::output::Output;
use lorchestra_plugin_api::mask::Mask;
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
    #[error("{}: it is there, and the interpreter that its first line names is not: {interpreter}; install that, or mend the line", .program.display())]
    NoInterpreter { program: PathBuf, interpreter: String },
    #[error("{}: its first line ends with a carriage return, as Windows writes lines, and names no interpreter then; run dos2unix on it", .0.display())]
    CarriageReturn(PathBuf),
    #[error("{}: it is a program for another system: what should load it is not there", .0.display())]
    NoLoader(PathBuf),
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
            io::ErrorKind::NotFound => self.not_found(),
            _ => TapError::NotRunnable { program: self.program.clone(), source },
        })?;
        let told = Arc::new(AtomicU64::new(0));
        let last = Arc::new(Mutex::new(Vec::new()));
        let output = child.stdout.take().map(Output::new).ok_or_else(|| io::Error::other("no standard output"))?;
        let mask = Arc::new(self.config.as_deref().map(secrets).unwrap_or_default());
        let words = child.stderr.take().map(|stderr| {
            let (told, last, mask) = (told.clone(), last.clone(), mask.clone());
            std::thread::spawn(move || pass_on(stderr, &told, &last, &mask))
        });
        Ok(Process { child, output, words, told, told_before: 0, last, mask, heard: Instant::now(), ended: None })
    }
}

impl Call {
    /// The system says "not found" of a program, and of what should run it.
    fn not_found(&self) -> TapError {
        let named = self.program.components().count() == 1;
        #[expect(clippy::disallowed_methods, reason = "where the system has looked for the program")]
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = || std::env::split_paths(&path).map(|dir| dir.join(&self.program)).find(|file| file.is_file());
        let file = if named { on_path() } else { Some(self.program.clone()).filter(|file| file.is_file()) };
        let Some(program) = file else {
            let program = self.program.clone();
            return if named { TapError::NotOnPath(program) } else { TapError::Missing(program) };
        };
        let mut first = Vec::new();
        // As much as the kernel reads of it.
        let read = std::fs::File::open(&program).map(|file| BufReader::new(file).take(255).read_until(b'\n', &mut first));
        let text = String::from_utf8_lossy(&first);
        match text.strip_prefix("#!").map(|line| line.trim_end_matches('\n')) {
            Some(line) if line.ends_with('\r') => TapError::CarriageReturn(program),
            Some(line) => {
                let interpreter = line.split_whitespace().next().unwrap_or_default().replace(char::is_control, "?");
                TapError::NoInterpreter { program, interpreter }
            }
            None if read.is_ok() => TapError::NoLoader(program),
            None => TapError::Missing(program),
        }
    }
}

/// Parts of a key's name in a config by which its value is a secret, or has one in it.
const SECRET_KEYS: [&str; 12] =
    ["pass", "pwd", "secret", "token", "key", "credential", "auth", "private", "cert", "dsn", "connection", "session"];

/// The mask over the secrets of a config: what is below a key of such a name, texts of several lines, URLs with a password in them. What
/// cannot be read is the tap's to complain of.
fn secrets(config: &Path) -> Mask {
    use lorchestra_plugin_api::serde_json::{Value, from_slice};
    fn gather(value: &Value, secret: bool, texts: &mut Vec<String>) {
        match value {
            Value::String(text) if secret || text.trim_end().contains('\n') || has_password(text) => texts.push(text.clone()),
            Value::Number(number) if secret => texts.push(number.to_string()),
            Value::Array(values) => values.iter().for_each(|value| gather(value, secret, texts)),
            Value::Object(map) => {
                for (name, value) in map {
                    let name = name.to_lowercase();
                    gather(value, secret || SECRET_KEYS.iter().any(|part| name.contains(part)), texts);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    // What is no file can be read once, by the tap.
    if config.is_file() {
        let value: Option<Value> = std::fs::read(config).ok().and_then(|text| from_slice(&text).ok());
        gather(&value.unwrap_or(Value::Null), false, &mut found);
    }
    Mask::of(found.iter().map(String::as_str))
}

/// `https://user:password@host/`
fn has_password(text: &str) -> bool {
    let authority = text.split_once("://").and_then(|(_, rest)| rest.split('/').next());
    authority.and_then(|authority| authority.rsplit_once('@')).is_some_and(|(user, _)| user.contains(':'))
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
    /// Keeps secrets out of the log.
    mask: Arc<Mask>,
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

    /// Where to read why it failed, as the end of a sentence, with the kind of failure if its last line on standard error names one.
    pub(crate) fn last_words(&mut self) -> String {
        self.hear_last_words();
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Empty lines tell as little.
        if last.is_empty() {
            return "it wrote nothing to standard error".to_owned();
        }
        match diagnosis::kind(&String::from_utf8_lossy(&last)) {
            Some(kind) => format!("its last line of output names {kind}; all of it is in the log of this run"),
            None => "its output is in the log of this run".to_owned(),
        }
    }

    /// What keeps the secrets of its config out of texts.
    pub(crate) fn mask(&self) -> &Mask {
        &self.mask
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
fn pass_on(stderr: impl Read, told: &AtomicU64, last: &Mutex<Vec<u8>>, mask: &Mask) {
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    // An end, or nobody can be told of the error.
    while let Ok(1..) = lines.by_ref().take(PIECE).read_until(b'\n', &mut line) {
        told.fetch_add(line.len() as u64, Ordering::Relaxed);
        // What is not text is kept as it is.
        let masked = std::str::from_utf8(&line).map(|text| mask.text(text).into_bytes());
        let _ = io::stderr().lock().write_all(masked.as_deref().unwrap_or(&line));
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
    fn secrets_of_a_config_are_masked_and_its_other_texts_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let config = r#"{"api_token": "t0k3n-t0k3n", "auth": {"user": "robot-7", "pin": 12345678}, "start_date": "2026-01-01",
            "url": "https://me:hunter22@example.com/api", "pem": "-----BEGIN KEY-----\nMIIabcdef/+=\n-----END KEY-----\n"}"#;
        std::fs::write(&path, config).unwrap();
        let mask = secrets(&path);
        for (text, masked) in [
            ("token=t0k3n-t0k3n since 2026-01-01", "token=*** since 2026-01-01"),
            ("{'user': 'robot-7', 'pin': 12345678}", "{'user': '***', 'pin': ***}"),
            ("MIIabcdef/+=", "***"),
            ("key=MIIabcdef%2F%2B%3D", "key=***"),
            (r"'-----BEGIN KEY-----\nMIIabcdef/+=\n-----END KEY-----\n'", "'***'"),
            ("GET https://me:hunter22@example.com/api", "GET ***"),
        ] {
            assert_eq!(mask.text(text), masked);
        }
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
