//! The configuration file: its keys, and errors for files with unknown keys. Reads one file, no environment.

mod message;
mod value;

use crate::failure::CommandError;
use lorchestra_core::host::files;
use lorchestra_core::outcome::Cause;
use lorchestra_core::plan::source::Source;
use lorchestra_core::plan::{OnOverlap, RunPolicy};
use lorchestra_core::text::{one_line, shell};
use lorchestra_plugin_api::manifest::is_name;
use message::{nearest, of_key, plain};
use rustix::fs::OFlags;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `config.toml`. All keys are optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) plugin_dirs: Vec<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) data_dir: Option<PathBuf>,
    /// Whether only packages in plugins.lock may run.
    pub(crate) locked: bool,
    pub(crate) on_start: Option<String>,
    pub(crate) on_success: Option<String>,
    pub(crate) on_failure: Option<String>,
    pub(crate) on_skip: Option<String>,
    pub(crate) on_stale: Option<String>,
    pub(crate) retention: RetentionConfig,
    pub(crate) logs: LogsConfig,
    pub(crate) events: EventsConfig,
    pub(crate) destinations: DestinationsConfig,
    pub(crate) delivery: DeliveryConfig,
    /// Settings by `package/job`.
    pub(crate) job: BTreeMap<String, JobConfig>,
    /// The keys in the file, with their tables.
    #[serde(skip)]
    pub(crate) configured: ConfiguredKeys,
}

/// Dotted names: `retention.logs`, `job."package/job".timeout`.
pub(crate) type ConfiguredKeys = Vec<String>;

/// `[retention]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetentionConfig {
    #[serde(deserialize_with = "value::duration")]
    pub(crate) logs: Option<Duration>,
    #[serde(deserialize_with = "value::duration")]
    pub(crate) payloads: Option<Duration>,
    #[serde(deserialize_with = "value::kept")]
    pub(crate) runs: Option<Duration>,
}

/// `[logs]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogsConfig {
    #[serde(deserialize_with = "value::log_size")]
    pub(crate) max: Option<u64>,
}

/// `[events]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EventsConfig {
    pub(crate) strict_numbers: bool,
}

/// `[destinations]`: one table for each destination.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DestinationsConfig {
    pub(crate) bigquery: BigQuerySection,
    pub(crate) jsonl: JsonlSection,
    pub(crate) openlineage: OpenLineageSection,
}

/// `[destinations.openlineage]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OpenLineageSection {
    pub(crate) url: Option<String>,
    pub(crate) namespace: Option<String>,
}

/// `[destinations.jsonl]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct JsonlSection {
    pub(crate) dir: Option<PathBuf>,
    #[serde(deserialize_with = "value::rotate_size")]
    pub(crate) rotate_size: Option<u64>,
    pub(crate) rotate: Option<RotateSetting>,
}

/// `destinations.jsonl.rotate`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RotateSetting {
    Day,
    Never,
}

impl From<RotateSetting> for lorchestra_core::delivery::jsonl::Rotate {
    fn from(rotate: RotateSetting) -> Self {
        match rotate {
            RotateSetting::Day => Self::Day,
            RotateSetting::Never => Self::Never,
        }
    }
}

/// `[destinations.bigquery]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BigQuerySection {
    pub(crate) project: Option<String>,
    pub(crate) dataset: Option<String>,
    pub(crate) table: Option<String>,
    pub(crate) location: Option<String>,
    pub(crate) write: Option<Write>,
    pub(crate) endpoint: Option<String>,
    pub(crate) storage_endpoint: Option<String>,
}

/// `destinations.bigquery.write`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Write {
    StorageWrite,
    InsertAll,
}

/// `[delivery]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DeliveryConfig {
    #[serde(deserialize_with = "value::duration")]
    pub(crate) timeout: Option<Duration>,
}

/// `[job."package/job"]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct JobConfig {
    #[serde(deserialize_with = "value::limit")]
    pub(crate) timeout: Option<Duration>,
    #[serde(deserialize_with = "value::duration")]
    pub(crate) grace: Option<Duration>,
    #[serde(deserialize_with = "value::overlap")]
    pub(crate) overlap: Option<OnOverlap>,
    #[serde(deserialize_with = "value::tries")]
    pub(crate) retries: Option<u32>,
    #[serde(deserialize_with = "value::causes")]
    pub(crate) retry_on: Option<Vec<Cause>>,
    #[serde(deserialize_with = "value::wait")]
    pub(crate) retry_wait: Option<Duration>,
    #[serde(deserialize_with = "value::memory")]
    pub(crate) memory_max: Option<u64>,
    /// The longest time between two successes that `status` accepts.
    #[serde(deserialize_with = "value::every")]
    pub(crate) expect_every: Option<Duration>,
    /// URL of the monitor that expects this job.
    #[serde(deserialize_with = "value::url")]
    pub(crate) ping: Option<String>,
    /// Values for parameters that are not given on the command line, by parameter.
    pub(crate) params: BTreeMap<String, toml::Value>,
    /// The source of each secret, by parameter.
    pub(crate) secrets: BTreeMap<String, String>,
}

impl JobConfig {
    /// Returns its settings for a run's limits.
    pub(crate) fn policy(&self) -> RunPolicy {
        RunPolicy {
            timeout: self.timeout,
            grace: self.grace,
            on_overlap: self.overlap,
            retries: self.retries,
            retry_on: self.retry_on.clone(),
            retry_wait: self.retry_wait,
            memory_max: self.memory_max,
        }
    }
}

/// The command that lists all keys, even if the file is invalid.
const KEYS: &str = "run lorchestra config keys to see every key";

/// Maximum size of the file in bytes: a bound on memory for a file of any origin.
const MAX_FILE: u64 = 1 << 20;

/// Returns the text of a regular file. Never blocks, for example on a FIFO without a writer.
fn text_of(path: &Path) -> io::Result<String> {
    let file = files::open_regular(path, OFlags::RDONLY)?;
    let meta = file.metadata()?;
    if meta.len() > MAX_FILE {
        let what = format!("it is {} bytes long; the maximum is {MAX_FILE} (1 MiB)", meta.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    let mut text = Vec::new();
    // The file may grow while it is read.
    file.take(MAX_FILE).read_to_end(&mut text)?;
    String::from_utf8(text).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line}: it is not UTF-8"))
    })
}

/// Returns the beginning of a file that [`Config::read`] refused, whatever its bytes are: at most 1 MiB, with a replacement character for
/// each part that is not UTF-8.
///
/// # Errors
/// If it is not a regular file, or cannot be read.
pub(crate) fn readable_part(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    files::open_regular(path, OFlags::RDONLY)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Returns the dangling link because of which a path does not exist: the file itself or a directory above it.
fn dangling(path: &Path) -> Option<&Path> {
    let (last, meta) = path.ancestors().find_map(|at| Some((at, at.symlink_metadata().ok()?)))?;
    (meta.is_symlink() && !last.exists()).then_some(last)
}

impl Config {
    /// Reads the file; a missing one counts as empty.
    pub(crate) fn read(path: &Path) -> Result<Self, CommandError> {
        let text = match text_of(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return match dangling(path) {
                    None => Ok(Self::default()),
                    Some(link) => {
                        let target = std::fs::read_link(link).unwrap_or_default();
                        let what = format!("{} is a symbolic link to {}, which does not exist", link.display(), target.display());
                        Err(CommandError::config(path, &what, &format!("fix the link, or remove it: rm {}", shell(link))))
                    }
                };
            }
            Err(e) if e.kind() == io::ErrorKind::FileTooLarge => {
                return Err(CommandError::config(path, &e.to_string(), KEYS));
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(CommandError::config(path, &e.to_string(), &lorchestra_core::host::rights::readable(path)));
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                let file = path.ancestors().skip(1).find(|at| at.exists()).unwrap_or(path);
                let hint = format!("{} is not a directory: set XDG_CONFIG_HOME or HOME", file.display());
                return Err(CommandError::config(path, &e.to_string(), &hint));
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return Err(CommandError::config(path, &e.to_string(), "save the file as UTF-8"));
            }
            Err(e) => return Err(CommandError::config(path, &e.to_string(), "make it a UTF-8 file that this user can read")),
        };
        Self::parse(&text).map_err(|(what, hint)| CommandError::config(path, &what, &hint))
    }

    /// Parses the file. The error has the problem and the fix.
    pub(crate) fn parse(text: &str) -> Result<Self, (String, String)> {
        let mut config: Self = toml::from_str(text).map_err(|e| {
            let message = plain(e.message().lines().next().unwrap_or_default());
            let start = e.span().map_or(0, |span| span.start);
            let line = text[..start].matches('\n').count() + 1;
            // The list of all keys would hide the suggestion.
            let (message, hint) = match nearest(&message) {
                Some(key) => (message.split(", expected").next().unwrap_or_default(), format!("did you mean `{key}`?")),
                None => (&*message, KEYS.to_owned()),
            };
            (format!("line {line}: {}", one_line(&of_key(text, start, message))), hint)
        })?;
        dotted(&text.parse().unwrap_or_default(), "", &mut config.configured);
        let names_a_job = |name: &str| name.split_once('/').is_some_and(|(package, job)| is_name(package) && is_name(job));
        if let Some(name) = config.job.keys().find(|name| !names_a_job(name)) {
            return Err((
                format!("[job.{}] does not name a job", one_line(&format!("{name:?}"))),
                "write [job.\"package/job\"], each of the form [a-z][a-z0-9_-]*, at most 64 characters".into(),
            ));
        }
        let secrets = config.job.iter().flat_map(|(job, config)| config.secrets.iter().map(move |secret| (job, secret)));
        if let Some((job, (name, _))) = secrets.into_iter().find(|(_, (_, source))| Source::parse(source).is_none()) {
            // The text may be the secret itself.
            return Err((
                format!("{}: not a secret source", secret_key(job, name)),
                format!("write {name} = \"env:NAME\", \"file:PATH\" or \"credential:NAME\"; do not put the secret itself here"),
            ));
        }
        let relative = config.plugin_dirs.iter().chain(&config.state_dir).chain(&config.data_dir);
        let mut relative = relative.chain(&config.destinations.jsonl.dir);
        let relative = relative.find(|dir| dir.is_relative() && !dir.starts_with("~"));
        if let Some(dir) = relative {
            return Err((
                format!("the directory {} is not absolute", one_line(&format!("{:?}", dir.display().to_string()))),
                "use an absolute path, or one that begins with ~/: commands run from any directory".into(),
            ));
        }
        Ok(config)
    }

    /// Expands `~/` at the beginning of each directory.
    pub(crate) fn expand_home(&mut self, home: &Path) {
        let dirs = self.plugin_dirs.iter_mut().chain(&mut self.state_dir).chain(&mut self.data_dir);
        for dir in dirs.chain(&mut self.destinations.jsonl.dir) {
            if let Ok(below) = dir.strip_prefix("~") {
                *dir = home.join(below);
            }
        }
    }
}

/// Collects the names of all keys in a table and its subtables.
fn dotted(table: &toml::Table, above: &str, names: &mut Vec<String>) {
    for (key, value) in table {
        let key = quoted(key);
        let name = if above.is_empty() { key } else { format!("{above}.{key}") };
        match value {
            toml::Value::Table(table) => dotted(table, &name, names),
            _ => names.push(name),
        }
    }
}

/// A key as it is written in the file: in quotes if it needs them, such as `"package/job"`.
fn quoted(key: &str) -> String {
    let is_bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_bare { key.to_owned() } else { format!("{key:?}") }
}

/// The dotted name of a key of a job: `job."package/job".timeout`.
pub(crate) fn job_key(job: &str, name: &str) -> String {
    format!("job.{}.{name}", quoted(job))
}

/// A secret's key in the file, for messages.
pub(crate) fn secret_key(job: &str, name: &str) -> String {
    format!("[job.{job:?}.secrets] {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_are_read() {
        let text = r#"
            plugin_dirs = ["/opt/plugins"]
            state_dir = "/var/lib/lorchestra"
            data_dir = "/srv/data"
            locked = true
            on_failure = "mail -s failed ops"
            [retention]
            logs = "7d"
            runs = "52w"
            [logs]
            max = "256M"
            [destinations.jsonl]
            dir = "/var/log/lorchestra"
            rotate_size = "16M"
            rotate = "never"
            [job."ingester/extract_gmail"]
            timeout = "30m"
            grace = "1m"
            overlap = "wait=5m"
            retries = 3
            retry_on = ["error", "timeout"]
            retry_wait = "30s"
            memory_max = "512M"
        "#;
        let config = Config::parse(text).unwrap();
        assert!(config.locked);
        assert_eq!((config.retention.logs, config.logs.max), (Some(Duration::from_secs(7 * 86400)), Some(256 << 20)));
        assert_eq!(config.destinations.jsonl.rotate_size, Some(16 << 20));
        let job = &config.job["ingester/extract_gmail"];
        assert_eq!((job.timeout, job.retry_wait), (Some(Duration::from_secs(1800)), Some(Duration::from_secs(30))));
        assert_eq!(job.overlap, Some(OnOverlap::Wait(Some(Duration::from_secs(300)))));
        assert_eq!((job.retries, job.retry_on.as_deref()), (Some(3), Some(&[Cause::Error, Cause::Timeout][..])));
        assert_eq!(job.memory_max, Some(512 << 20));
    }

    #[test]
    fn errors_name_the_problem_and_the_fix() {
        let cases = [
            ("plugin_dir = [\"/x\"]", "line 1: unknown key `plugin_dir`", "`plugin_dirs`"),
            ("\n[retention]\nlog = \"1d\"", "line 3: unknown key `log`", "`logs`"),
            ("plugin_dirs = \"/x\"", "line 1: plugin_dirs is string \"/x\", but must be a list", "config keys"),
            ("[job.\"a/b\"]\ntimeout = \"soon\"", "line 2: timeout is not a duration", "config keys"),
            ("[job.extract]\ntimeout = \"1s\"", "does not name a job", "package/job"),
            ("[job.\"a/b\"]\noverlap = \"queue\"", "line 2: overlap: write fail, skip, wait", "config keys"),
            ("[job.\"a/b\"]\nretries = 5000", "line 2: retries: at most 1000", "config keys"),
            ("[job.\"a/b\"]\nretry_on = [\"load\"]", "never retried after load; valid causes are error, panic", "config keys"),
            (
                "[job.\"a/b\"]\nretry_on = [\"errors\"]",
                "line 2: retry_on: unknown value `errors`; valid causes are error, panic, signal, exit, timeout",
                "config keys",
            ),
            ("[job.\"a/b\"]\nretry_wait = \"0s\"", "line 2: retry_wait: a wait of 0 would retry without a pause", "config keys"),
            ("[job.\"a/b\"]\nretry_wait = \"soon\"", "line 2: ", "config keys"),
            ("[job.\"a/b\"]\nmemory_max = \"1M\"", "line 2: memory_max is too small", "config keys"),
            ("[destinations.jsonl]\ndir = \"events\"", "not absolute", "begins with ~/"),
            ("[destinations.jsonl]\nrotate = \"hour\"", "line 2: rotate: unknown value `hour`", "config keys"),
            ("[destinations.jsonl]\nrotate_size = \"1MB\"", "line 2: rotate_size: \"1MB\": is not a size", "config keys"),
            ("[destinations.bigqery]\ntable = \"t\"", "line 1: unknown key `bigqery`", "did you mean `bigquery`?"),
            ("state_dir = \"~state\"", "not absolute", "begins with ~/"),
            ("state_dir = ", "line 1", "config keys"),
            ("state_dir = 5", "line 1: state_dir is integer `5`, but must be a text in quotes", "config keys"),
            ("state_dir = \"/x", "line 1: state_dir: the text in quotes is not valid; check its closing quote", "config keys"),
            ("[retention]\nruns = \"0s\"", "line 2: runs: a retention of 0", "config keys"),
            // Suggests only keys of the same table: a key of another table would be refused here too.
            ("[retention]\nrun = \"1d\"", "line 2: unknown key `run`", "did you mean `runs`?"),
            ("[job.\"a/b\"]\ntimeuot = \"1d\"", "line 2: unknown key `timeuot`", "did you mean `timeout`?"),
            ("log = \"1d\"", "line 1: unknown key `log`", "did you mean `logs`?"),
            ("logs = \"1d\"", "line 1: logs is string \"1d\", but must be a table", "config keys"),
            ("[logs]\nmax = \"1K\"", "line 2: max: a log of 1K is too small; use 4K or more", "config keys"),
            ("[logs]\nmax = \"64MB\"", "line 2: max: \"64MB\": is not a size", "config keys"),
            ("[retention]\nstate_dirs = \"/x\"", "line 2: unknown key `state_dirs`", "config keys"),
            ("[job.\"a/b\"]\nlogs = \"1d\"", "line 2: unknown key `logs`", "config keys"),
            ("[job.\"a/b/c\"]\ntimeout = \"1s\"", "does not name a job", "package/job"),
            ("[job.\"a/B\"]\ntimeout = \"1s\"", "does not name a job", "package/job"),
            ("[job.\"/b\"]\ntimeout = \"1s\"", "does not name a job", "package/job"),
            ("[job.\"a/b\".secrets]\ntoken = \"hunter22\"", "[job.\"a/b\".secrets] token: not a secret source", "env:NAME"),
            ("[job.\"a/b\".secrets]\ntoken = \"\"", "[job.\"a/b\".secrets] token: not a secret source", "file:PATH"),
        ];
        for (text, what, hint) in cases {
            let error = Config::parse(text).unwrap_err();
            assert!(error.0.contains(what), "{text}: {error:?}");
            assert!(error.1.contains(hint), "{text}: {error:?}");
            assert!(!format!("{error:?}").contains("hunter22"));
        }
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        assert!(Config::read(&path).unwrap().plugin_dirs.is_empty(), "a missing file is an empty one");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        let refused = || Config::read(&path).unwrap_err().message;
        assert!(refused().contains("not a regular file"), "{}", refused());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(refused().contains("not a regular file"), "{}", refused());
    }

    /// A file of any origin: no command may run out of memory on it, nor fill the screen with it.
    #[test]
    fn a_file_that_is_too_large_is_not_read_and_long_text_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let refused = Config::read(&path).unwrap_err();
        assert!(refused.message.ends_with(": it is 1099511627776 bytes long; the maximum is 1048576 (1 MiB)"), "{refused:?}");
        assert_eq!((refused.code, refused.hints.len()), (crate::exit::Code::Config, 1));
        let long = "k".repeat(200_000);
        for text in [
            format!("{long} = 1"),
            format!("[job.{long}]\ngrace = \"1s\""),
            format!("state_dir = \"{long}\""),
            format!("[job.\"a/b\"]\noverlap = \"{long}\""),
            format!("destinations = \"{long}\""),
            format!("[logs]\nmax = \"{long}\""),
        ] {
            let (what, hint) = Config::parse(&text).unwrap_err();
            assert!(what.len() + hint.len() < 600, "{} bytes: {}", what.len() + hint.len(), &what[..80]);
        }
    }

    /// A configuration that exists but is not read must not be ignored silently.
    #[test]
    fn a_dangling_link_is_not_a_missing_file() {
        let dir = tempfile::tempdir().unwrap();
        let (config, path) = (dir.path().join("lorchestra"), dir.path().join("lorchestra/config.toml"));
        std::fs::create_dir(&config).unwrap();
        std::os::unix::fs::symlink("/nowhere/config.toml", &path).unwrap();
        let refused = Config::read(&path).unwrap_err();
        assert!(refused.message.ends_with("is a symbolic link to /nowhere/config.toml, which does not exist"), "{refused:?}");
        std::fs::remove_dir_all(&config).unwrap();
        assert!(Config::read(&path).is_ok());
        std::os::unix::fs::symlink("nowhere", &config).unwrap();
        let refused = Config::read(&path).unwrap_err();
        assert!(refused.message.ends_with("/lorchestra is a symbolic link to nowhere, which does not exist"), "{refused:?}");
    }

    /// With dot files kept elsewhere, a directory on the path is a link, and its target exists.
    #[test]
    fn a_missing_file_below_a_directory_link_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("dotfiles")).unwrap();
        std::os::unix::fs::symlink("dotfiles", dir.path().join("config")).unwrap();
        for name in ["config/config.toml", "config/lorchestra/config.toml"] {
            let read = Config::read(&dir.path().join(name));
            assert!(read.is_ok(), "{name}: {read:?}");
        }
    }

    #[test]
    fn logs_may_be_removed_immediately() {
        assert_eq!(Config::parse("[retention]\nlogs = \"0s\"").unwrap().retention.logs, Some(Duration::ZERO));
    }
}
