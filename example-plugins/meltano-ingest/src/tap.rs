//! A tap process: arguments, start, output and end. The tap's stderr goes to the run's log, line by line, with the secrets of
//! its config masked. None of that text appears in errors or events, because it may contain personal data; they contain only
//! the kind of failure (`crate::diagnosis`).
//!
//! The tap runs in the job's process group, so it ends with the run.

use crate::diagnosis;
use lorchestra_plugin_api::mask::Mask;
use lorchestra_plugin_api::tracing;
use package_support::lines::Lines;
use package_support::process::{ChildProcess, StartError};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// Time for reading the rest of stderr after the tap's end; a child process may hold it open.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Maximum length of a stderr line that is forwarded in one piece, in bytes.
const PIECE: u64 = 64 << 10;

/// How to call a tap.
#[derive(Debug)]
pub(crate) struct Call {
    /// A path, or a name to search on PATH.
    pub(crate) program: PathBuf,
    /// Arguments before those of the specification.
    pub(crate) args: Vec<String>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) catalog: Option<PathBuf>,
}

/// Why a tap cannot be started or waited for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TapError {
    #[error("{0}; install the tap, or set --tap to a path")]
    NotOnPath(StartError),
    #[error(transparent)]
    Start(StartError),
    #[error("cannot read {what} {}", .path.display())]
    Unreadable { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{what} {} is not a JSON object; check the tap's documentation", .path.display())]
    NotAnObject { what: &'static str, path: PathBuf },
    #[error("waiting for the tap failed")]
    Wait(#[from] io::Error),
}

impl From<StartError> for TapError {
    fn from(error: StartError) -> Self {
        if matches!(error, StartError::NotOnPath(_)) { Self::NotOnPath(error) } else { Self::Start(error) }
    }
}

impl TapError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        !matches!(self, Self::Wait(_))
    }
}

impl Call {
    /// Returns the tap's name: the name of its program.
    pub(crate) fn name(&self) -> String {
        self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy().into_owned()
    }

    /// Checks that config and catalog are JSON objects. Errors of taps are less clear.
    pub(crate) fn check(&self) -> Result<(), TapError> {
        for (what, path) in [("config", &self.config), ("catalog", &self.catalog)] {
            if let Some(path) = path {
                check_object(what, path)?;
            }
        }
        Ok(())
    }

    /// Starts the tap, with these arguments after those of the call.
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
        let mut child = ChildProcess::start(&mut command)?;
        let stderr_bytes = Arc::new(AtomicU64::new(0));
        let last = Arc::new(Mutex::new(Vec::new()));
        let output = child.stdout().map(Lines::new).ok_or_else(|| io::Error::other("no standard output"))?;
        let secrets = self.config.as_deref().map(secrets).unwrap_or_default();
        if !secrets.is_empty() {
            self.warn_of_readers();
        }
        let mask = Arc::new(Mask::of(secrets.iter().map(String::as_str)));
        let stderr_thread = child.stderr().map(|stderr| {
            let (stderr_bytes, last, mask) = (stderr_bytes.clone(), last.clone(), mask.clone());
            std::thread::spawn(move || pass_on(stderr, &stderr_bytes, &last, &mask))
        });
        Ok(Process {
            child,
            output,
            stderr_thread,
            stderr_bytes,
            stderr_bytes_before: 0,
            last,
            mask,
            last_output: Instant::now(),
        })
    }
}

impl Call {
    /// Warns in the log if other users can read the config.
    fn warn_of_readers(&self) {
        use std::os::unix::fs::PermissionsExt;
        let Some(config) = self.config.as_deref() else { return };
        let mode = std::fs::metadata(config).map_or(0, |found| found.permissions().mode());
        if mode & 0o044 != 0 {
            let config = config.display();
            let mode = mode & 0o777;
            let warning = format!(
                "{config} contains secrets, and other users can read it (mode {mode:04o}); let only its owner read it (mode 600)"
            );
            tracing::warn!("{warning}");
            let _ = writeln!(io::stderr().lock(), "meltano-ingest: warning: {warning}");
        }
    }
}

/// Substrings of config keys whose values are secrets or contain some.
const SECRET_KEYS: [&str; 12] =
    ["pass", "pwd", "secret", "token", "key", "credential", "auth", "private", "cert", "dsn", "connection", "session"];

/// Whole names of such keys, which are parts of too many other words.
const SECRET_NAMES: [&str; 3] = ["api", "pin", "pw"];

/// Returns the secrets of a config: values below such keys, multi-line texts, and URLs with a password. An
/// unreadable config is left to the tap to report.
fn secrets(config: &Path) -> Vec<String> {
    use lorchestra_plugin_api::serde_json::{Value, from_slice};
    fn gather(value: &Value, secret: bool, texts: &mut Vec<String>) {
        match value {
            Value::String(text) if secret || text.trim_end().contains('\n') || password(text).is_some() => {
                texts.push(text.clone());
                // A driver's error may have it without its URL.
                texts.extend(password(text).filter(|password| password.len() > 3).map(str::to_owned));
            }
            Value::Number(number) if secret => texts.push(number.to_string()),
            Value::Array(values) => values.iter().for_each(|value| gather(value, secret, texts)),
            Value::Object(map) => {
                for (name, value) in map {
                    let name = name.to_lowercase();
                    let is_secret = SECRET_NAMES.contains(&&*name) || SECRET_KEYS.iter().any(|part| name.contains(part));
                    gather(value, secret || is_secret, texts);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    // A pipe can be read only once, by the tap.
    if config.is_file() {
        let value: Option<Value> = std::fs::read(config).ok().and_then(|text| from_slice(&text).ok());
        gather(&value.unwrap_or(Value::Null), false, &mut found);
    }
    found
}

/// Returns the password of `https://user:password@host/`.
fn password(url: &str) -> Option<&str> {
    let authority = url.split_once("://").and_then(|(_, rest)| rest.split('/').next())?;
    let (user, _) = authority.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password)
}

/// Checks that a file contains a JSON object. Anything but a regular file is left to the tap.
pub(crate) fn check_object(what: &'static str, path: &Path) -> Result<(), TapError> {
    use lorchestra_plugin_api::serde_json::{Map, Value, from_slice};
    let unreadable = |source| TapError::Unreadable { what, path: path.to_owned(), source };
    let kind = std::fs::metadata(path).map_err(unreadable)?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        // A pipe can be read only once, by the tap.
        return Ok(());
    }
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(256 << 20).read_to_end(&mut text)).map_err(unreadable)?;
    match from_slice::<Map<String, Value>>(&text) {
        Ok(_) => Ok(()),
        Err(_) => Err(TapError::NotAnObject { what, path: path.to_owned() }),
    }
}

/// A running tap. It is killed if this is dropped before its end.
#[derive(Debug)]
pub(crate) struct Process {
    child: ChildProcess,
    pub(crate) output: Lines<ChildStdout>,
    stderr_thread: Option<JoinHandle<()>>,
    /// Number of bytes read from stderr.
    stderr_bytes: Arc<AtomicU64>,
    stderr_bytes_before: u64,
    /// The last non-empty line of stderr.
    last: Arc<Mutex<Vec<u8>>>,
    /// Removes secrets from the log.
    mask: Arc<Mask>,
    last_output: Instant,
}

impl Process {
    /// Records that stdout has produced output.
    pub(crate) fn reset_idle_time(&mut self) {
        self.last_output = Instant::now();
    }

    /// Returns the time since the last output on stdout or stderr.
    pub(crate) fn idle_time(&mut self) -> Duration {
        let stderr_bytes = self.stderr_bytes.load(Ordering::Relaxed);
        if stderr_bytes != self.stderr_bytes_before {
            self.stderr_bytes_before = stderr_bytes;
            self.reset_idle_time();
        }
        self.last_output.elapsed()
    }

    /// Returns the exit status if the process has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, TapError> {
        Ok(self.child.ended()?)
    }

    /// Stops the process with SIGTERM, then SIGKILL if necessary.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus, TapError> {
        Ok(self.child.stop()?)
    }

    /// Waits until the last output on stderr has been logged.
    pub(crate) fn drain_stderr(&mut self) {
        let until = Instant::now() + LAST_WORDS;
        while self.stderr_thread.as_ref().is_some_and(|stderr_thread| !stderr_thread.is_finished()) && Instant::now() < until {
            sleep(Duration::from_millis(1));
        }
    }

    /// Returns where to read why it failed, as the end of a sentence, with the kind of failure if the last line of stderr
    /// contains one.
    pub(crate) fn failure_hint(&mut self) -> String {
        self.drain_stderr();
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Empty lines are no more informative.
        if last.is_empty() {
            return "it wrote nothing to standard error".to_owned();
        }
        match diagnosis::kind(&String::from_utf8_lossy(&last)) {
            Some(kind) => format!("the last line of its output contains {kind}; see the log of this run"),
            None => "see its output in the log of this run".to_owned(),
        }
    }

    /// Creates the mask for the secrets of its config.
    pub(crate) fn mask(&self) -> &Mask {
        &self.mask
    }
}

/// Forwards line by line, so that lines do not mix with other output.
fn pass_on(stderr: impl Read, stderr_bytes: &AtomicU64, last: &Mutex<Vec<u8>>, mask: &Mask) {
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    let mut is_open = false;
    // The end, or an error that no caller can receive.
    while let Ok(1..) = lines.by_ref().take(PIECE).read_until(b'\n', &mut line) {
        stderr_bytes.fetch_add(line.len() as u64, Ordering::Relaxed);
        // Invalid UTF-8 is forwarded unchanged.
        let masked = std::str::from_utf8(&line).map(|text| mask.text(text).into_bytes());
        let _ = io::stderr().lock().write_all(masked.as_deref().unwrap_or(&line));
        is_open = !line.ends_with(b"\n");
        if !line.trim_ascii().is_empty() {
            last.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&line);
        }
        line.clear();
    }
    if is_open {
        let _ = io::stderr().lock().write_all(b"\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(program: &str) -> Call {
        Call { program: program.into(), args: Vec::new(), config: None, catalog: None }
    }

    #[test]
    fn a_missing_tap_is_reported_with_its_path() {
        assert!(matches!(call("no-such-tap-anywhere").start(&[]), Err(TapError::NotOnPath(_))));
        assert!(matches!(call("/no/such/tap").start(&[]), Err(TapError::Start(StartError::Missing(_)))));
        assert_eq!(call("/opt/venv/bin/tap-csv").name(), "tap-csv");
    }

    #[test]
    fn secrets_of_a_config_are_masked_and_its_other_texts_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let config = r#"{"api_token": "t0k3n-t0k3n", "auth": {"user": "robot-7", "pin": 12345678}, "start_date": "2026-01-01", "pw": "hunter33", "mapping": "plain",
            "url": "https://me:hunter22@example.com/api", "pem": "-----BEGIN KEY-----\nMIIabcdef/+=\n-----END KEY-----\n"}"#;
        std::fs::write(&path, config).unwrap();
        let secrets = secrets(&path);
        let mask = Mask::of(secrets.iter().map(String::as_str));
        for (text, masked) in [
            ("token=t0k3n-t0k3n since 2026-01-01", "token=*** since 2026-01-01"),
            ("{'user': 'robot-7', 'pin': 12345678}", "{'user': '***', 'pin': ***}"),
            ("MIIabcdef/+=", "***"),
            ("key=MIIabcdef%2F%2B%3D", "key=***"),
            (r"'-----BEGIN KEY-----\nMIIabcdef/+=\n-----END KEY-----\n'", "'***'"),
            ("GET https://me:hunter22@example.com/api", "GET ***"),
            ("login of me with hunter22 or hunter33 failed, mapping plain", "login of me with *** or *** failed, mapping plain"),
        ] {
            assert_eq!(mask.text(text), masked);
        }
    }

    #[test]
    fn an_invalid_config_fails_before_the_tap_starts() {
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
}
