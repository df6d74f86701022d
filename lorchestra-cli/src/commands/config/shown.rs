//! The settings that apply, one for each key, with the origin of each: a flag, an environment variable, the file or a default. Reads variables
//! through the settings, to name the one that was used.

use crate::config::{JobConfig, job_key};
use crate::notify::Hook;
use crate::params;
use crate::settings::Settings;
use crate::wire::Setting;
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::delivery::bigquery::{BigQueryConfig, WriteMethod};
use lorchestra_core::delivery::jsonl::{JsonlConfig, Rotate};
use lorchestra_core::delivery::openlineage::OpenLineageConfig;
use lorchestra_core::outcome::Cause;
use lorchestra_core::plan::{duration, size};
use lorchestra_core::text::path_text;
use std::path::Path;
use toml::Value;

/// What a key without a value shows.
const NONE: &str = "none";
/// The origin of a value that is not set anywhere.
const DEFAULT: &str = "default";
/// The variable that sends everything for BigQuery to an emulator.
const EMULATOR: &str = "BIGQUERY_EMULATOR_HOST";

/// Settings in the order in which they are printed.
struct Shown<'a> {
    settings: &'a Settings,
    /// Path of the configuration file.
    file: String,
    all: Vec<Setting>,
}

/// Returns every setting that applies, with its origin. Secrets are shown as their sources.
pub(super) fn shown(settings: &Settings) -> Vec<Setting> {
    let mut shown = Shown { settings, file: path_text(&settings.config_path), all: Vec::new() };
    for dir in &settings.plugin_dirs {
        shown.add("plugin_dir", path_text(&dir.path), dir.origin.clone());
    }
    shown.directory("state_dir", &settings.state_dir, "XDG_STATE_HOME");
    shown.directory("data_dir", &settings.data_root, "XDG_DATA_HOME");
    shown.key("locked", settings.locked.to_string());
    for hook in Hook::ALL {
        shown.key(hook.key(), settings.hooks.command(hook).unwrap_or(NONE).to_owned());
    }
    let retention = &settings.retention;
    for (key, kept) in [
        ("retention.logs", retention.logs),
        ("retention.payloads", retention.payloads),
        ("retention.runs", retention.runs),
        ("delivery.timeout", settings.delivery_timeout),
    ] {
        shown.key(key, duration::show(kept));
    }
    shown.key("logs.max", size::show(settings.log_max));
    shown.key("events.strict_numbers", settings.strict_numbers.to_string());
    for to in &settings.destinations {
        match to {
            DestinationConfig::BigQuery(table) => shown.bigquery(table),
            DestinationConfig::Jsonl(files) => shown.jsonl(files),
            DestinationConfig::OpenLineage(backend) => shown.openlineage(backend),
        }
    }
    for (job, config) in &settings.jobs {
        shown.job(job, config);
    }
    shown.all
}

impl Shown<'_> {
    fn add(&mut self, key: &str, value: String, origin: String) {
        self.all.push(Setting { key: key.to_owned(), value, origin });
    }

    /// Adds a key that only the file sets.
    fn key(&mut self, key: &str, value: String) {
        self.variable_first(key, value, &[]);
    }

    /// Adds a key that the first of these variables sets, or else the file.
    fn variable_first(&mut self, key: &str, value: String, variables: &[&str]) {
        let origin = match variables.iter().find(|name| self.is_set(name)) {
            Some(name) => (*name).to_owned(),
            None if self.is_in_file(key) => self.file.clone(),
            None => DEFAULT.to_owned(),
        };
        self.add(key, value, origin);
    }

    /// Adds a directory that the file sets, or else the variable of a base directory, of which a relative path counts as not set.
    fn directory(&mut self, key: &str, path: &Path, variable: &str) {
        let is_used =
            !self.is_in_file(key) && self.settings.variable(variable).is_some_and(|base| Path::new(&base).is_absolute());
        self.variable_first(key, path_text(path), if is_used { std::slice::from_ref(&variable) } else { &[] });
    }

    fn is_set(&self, name: &str) -> bool {
        // Like the settings: what is not UTF-8 counts as not set.
        self.settings.variable(name).and_then(|value| value.into_string().ok()).is_some_and(|value| !value.is_empty())
    }

    fn is_in_file(&self, key: &str) -> bool {
        self.settings.configured.iter().any(|known| known == key)
    }

    fn bigquery(&mut self, table: &BigQueryConfig) {
        let key = |name: &str| format!("destinations.bigquery.{name}");
        let or_none = |value: &Option<String>| value.as_deref().map_or_else(|| NONE.to_owned(), without_password);
        self.variable_first(&key("dataset"), table.dataset.clone(), &["BQ_EVENTS_DATASET", "EVENTS_BQ_DATASET"]);
        self.variable_first(&key("table"), table.table.clone(), &["BQ_EVENTS_TABLE", "EVENTS_BQ_TABLE"]);
        let names = ["BQ_EVENTS_PROJECT", "EVENTS_BQ_PROJECT", "GOOGLE_CLOUD_PROJECT"];
        // The file takes precedence over the last one, which is not only for events.
        let names = if self.is_in_file(&key("project")) { &names[..2] } else { &names };
        self.variable_first(&key("project"), or_none(&table.project), names);
        self.key(&key("location"), or_none(&table.location));
        let write = match table.write {
            WriteMethod::StorageWrite => "storage-write",
            WriteMethod::InsertAll => "insert-all",
        };
        // With an emulator that has no gRPC address, the method follows from the variable.
        let is_derived = !self.is_in_file(&key("write")) && table.storage_endpoint.is_none();
        self.variable_first(&key("write"), write.to_owned(), if is_derived { &[EMULATOR] } else { &[] });
        self.variable_first(&key("endpoint"), or_none(&table.endpoint), &[EMULATOR]);
        // An address of Google is not used together with an emulator.
        let is_dropped = table.storage_endpoint.is_none() && self.is_in_file(&key("storage_endpoint"));
        self.variable_first(
            &key("storage_endpoint"),
            or_none(&table.storage_endpoint),
            if is_dropped { &[EMULATOR] } else { &[] },
        );
    }

    fn jsonl(&mut self, files: &JsonlConfig) {
        self.key("destinations.jsonl.dir", path_text(&files.dir));
        self.key("destinations.jsonl.rotate_size", size::show(files.rotate_size));
        let rotate = match files.rotate {
            Rotate::Day => "day",
            Rotate::Never => "never",
        };
        self.key("destinations.jsonl.rotate", rotate.to_owned());
    }

    fn openlineage(&mut self, backend: &OpenLineageConfig) {
        self.key("destinations.openlineage.url", backend.url.clone());
        self.key("destinations.openlineage.namespace", backend.namespace.clone());
    }

    /// Adds the keys of a job that are set. What applies otherwise depends on the job, and `jobs show` prints it.
    fn job(&mut self, job: &str, config: &JobConfig) {
        let keys = [
            ("timeout", config.timeout.map(duration::show)),
            ("grace", config.grace.map(duration::show)),
            ("overlap", config.overlap.map(|overlap| overlap.to_string())),
            ("retries", config.retries.map(|retries| retries.to_string())),
            (
                "retry_on",
                config.retry_on.as_ref().map(|causes| causes.iter().copied().map(Cause::as_str).collect::<Vec<_>>().join(", ")),
            ),
            ("retry_wait", config.retry_wait.map(duration::show)),
            ("memory_max", config.memory_max.map(size::show)),
            ("expect_every", config.expect_every.map(duration::show)),
            ("ping", config.ping.as_deref().map(host_of)),
        ];
        let keys = keys.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let params = config.params.iter().map(|(name, value)| (format!("params.{name}"), text(value)));
        let secrets = config.secrets.iter().map(|(name, source)| (format!("secrets.{name}"), source.clone()));
        for (name, value) in keys.chain(params).chain(secrets) {
            self.add(&job_key(job, &name), value, self.file.clone());
        }
    }
}

/// A scalar as on the command line; a list as in the file.
fn text(value: &Value) -> String {
    params::text(value).unwrap_or_else(|| value.to_string())
}

/// The URL of a monitor without its path: who knows the path can report successes.
fn host_of(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}/…")
}

/// An address without user and password.
fn without_password(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").map_or(("", address), |(scheme, rest)| (scheme, rest));
    let separator = if scheme.is_empty() { "" } else { "://" };
    // A password may contain an @, and so may what follows the host.
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((_, host)) => format!("{scheme}{separator}…@{host}{}", &rest[end..]),
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_what_gives_access() {
        assert_eq!(without_password("http://me:hunter22@proxy:1"), "http://…@proxy:1");
        assert_eq!(without_password("http://me:h@nter22@proxy:1/a@b"), "http://…@proxy:1/a@b");
        assert_eq!(without_password("localhost:9050"), "localhost:9050");
        assert_eq!(host_of("https://hc-ping.com/3fe6?x"), "https://hc-ping.com/…");
        assert_eq!(host_of("https://me:hunter22@hc-ping.com"), "https://hc-ping.com/…");
    }
}
