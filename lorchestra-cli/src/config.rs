//! The configuration file: its keys, and what is wrong with a file that has others. Reads one file, no environment.

use crate::failure::Failure;
use lorchestra_core::plan::duration;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `config.toml`. All keys are optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) plugin_dirs: Vec<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) on_failure: Option<String>,
    pub(crate) retention: RetentionConfig,
    /// By `package/job`.
    pub(crate) job: BTreeMap<String, JobConfig>,
}

/// `[retention]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetentionConfig {
    #[serde(deserialize_with = "duration")]
    pub(crate) logs: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) runs: Option<Duration>,
}

/// `[job."package/job"]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct JobConfig {
    #[serde(deserialize_with = "limit")]
    pub(crate) timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) grace: Option<Duration>,
}

/// All keys, for "did you mean".
const KEYS: &[&str] =
    &["plugin_dirs", "state_dir", "data_dir", "on_failure", "retention", "logs", "runs", "job", "timeout", "grace"];

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration::parse(&text).map(Some).map_err(serde::de::Error::custom)
}

fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::args::limit(&text).map(Some).map_err(serde::de::Error::custom)
}

impl Config {
    /// Reads the file; a missing one is an empty one.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Failure::config(path, &e.to_string(), "make it a UTF-8 file that this user can read")),
        };
        Self::parse(&text).map_err(|(what, mend)| Failure::config(path, &what, &mend))
    }

    /// On error: what is wrong and how to mend it.
    fn parse(text: &str) -> Result<Self, (String, String)> {
        let config: Self = toml::from_str(text).map_err(|e| {
            let message = e.message().lines().next().unwrap_or_default().to_owned();
            let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let mend = unknown_key(&message)
                .and_then(nearest)
                .map_or_else(|| "see docs/configuration.md for the keys".to_owned(), |key| format!("did you mean `{key}`?"));
            (format!("line {line}: {message}"), mend)
        })?;
        if let Some(name) = config.job.keys().find(|name| name.split('/').count() != 2) {
            return Err((format!("[job.{name:?}] does not name a job"), "write [job.\"package/job\"]".into()));
        }
        let relative = config.plugin_dirs.iter().chain(&config.state_dir).chain(&config.data_dir).find(|dir| dir.is_relative());
        if let Some(dir) = relative {
            return Err((
                format!("the directory {:?} is not absolute", dir.display().to_string()),
                "write it from / on: commands are run from anywhere, and ~ is not expanded".into(),
            ));
        }
        Ok(config)
    }
}

/// The key in serde's "unknown field `x`, expected …".
fn unknown_key(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

fn nearest(key: &str) -> Option<&'static str> {
    KEYS.iter()
        .copied()
        .map(|known| (strsim::damerau_levenshtein(known, key), known))
        .filter(|(d, _)| *d <= 3)
        .min()
        .map(|(_, known)| known)
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
            on_failure = "mail -s failed ops"
            [retention]
            logs = "7d"
            runs = "52w"
            [job."ingester/extract_gmail"]
            timeout = "30m"
            grace = "1m"
        "#;
        let config = Config::parse(text).unwrap();
        assert_eq!(config.retention.logs, Some(Duration::from_secs(7 * 86400)));
        assert_eq!(config.job["ingester/extract_gmail"].timeout, Some(Duration::from_secs(1800)));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_mend() {
        let cases = [
            ("plugin_dir = [\"/x\"]", "line 1: unknown field `plugin_dir`", "`plugin_dirs`"),
            ("\n[retention]\nlog = \"1d\"", "line 3: unknown field `log`", "`logs`"),
            ("plugin_dirs = \"/x\"", "line 1: invalid type: string", "configuration.md"),
            ("[job.\"a/b\"]\ntimeout = \"soon\"", "line 2", "configuration.md"),
            ("[job.extract]\ntimeout = \"1s\"", "does not name a job", "package/job"),
            ("state_dir = \"~/state\"", "not absolute", "~ is not expanded"),
            ("state_dir = ", "line 1", "configuration.md"),
        ];
        for (text, what, mend) in cases {
            let error = Config::parse(text).unwrap_err();
            assert!(error.0.contains(what), "{text}: {error:?}");
            assert!(error.1.contains(mend), "{text}: {error:?}");
        }
    }
}
