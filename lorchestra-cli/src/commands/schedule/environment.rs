//! The environment variables that a schedule needs: those that are set now and that change where lorchestra finds its settings, plugins, store
//! and destinations. A scheduler starts commands without them.

use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::{PLUGIN_FLAG, Settings};
use lorchestra_core::delivery::DestinationConfig;
use std::path::{Path, PathBuf};

/// The variable with directories to search for plugins.
const PLUGIN_PATH: &str = "LORCHESTRA_PLUGIN_PATH";
/// Base directories. A relative path counts as not set.
const BASE_DIRS: [&str; 3] = ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"];
/// Other files and directories.
const PATHS: [&str; 2] = ["GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG"];
/// What is not a path of this machine. Variables that contain a secret (`AWS_SECRET_ACCESS_KEY`) are not here.
const TEXTS: [&str; 20] = [
    "BQ_EVENTS_PROJECT",
    "BQ_EVENTS_DATASET",
    "BQ_EVENTS_TABLE",
    "EVENTS_BQ_PROJECT",
    "EVENTS_BQ_DATASET",
    "EVENTS_BQ_TABLE",
    "BIGQUERY_EMULATOR_HOST",
    "GOOGLE_CLOUD_PROJECT",
    "GOOGLE_CLOUD_QUOTA_PROJECT",
    "GOOGLE_CLOUD_UNIVERSE_DOMAIN",
    "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES",
    "CLOUDSDK_ACTIVE_CONFIG_NAME",
    "CLOUDSDK_CORE_PROJECT",
    "GCE_METADATA_HOST",
    "AWS_REGION",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "NO_COLOR",
];

/// Home directory in a container: the volume with configuration, store and data.
pub(in crate::commands) const HOME: &str = "/var/lib/lorchestra";

/// Keys of config.toml that a container gets as variables or flags.
const CARRIED: [&str; 4] =
    ["destinations.bigquery.project", "destinations.bigquery.dataset", "destinations.bigquery.table", "delivery.timeout"];

/// A variable to set.
pub(in crate::commands) struct Variable {
    pub(in crate::commands) name: &'static str,
    pub(in crate::commands) value: String,
    /// Whether it names files of this machine.
    pub(in crate::commands) is_local: bool,
}

/// Variables to set, and notes about those that are left out.
#[derive(Default)]
pub(in crate::commands) struct Environment {
    pub(in crate::commands) variables: Vec<Variable>,
    pub(in crate::commands) notes: Vec<String>,
}

impl Environment {
    /// Reads the variables that are set now.
    pub(in crate::commands) fn read(settings: &Settings) -> Result<Self, CommandError> {
        let mut environment = Self::default();
        for name in BASE_DIRS {
            if let Some(value) = value_of(name, settings)?.filter(|value| Path::new(value).is_absolute()) {
                environment.variables.push(Variable { name, value, is_local: true });
            }
        }
        // Relative directories would be searched from another working directory. With --plugin-dir, none of them is searched.
        let dirs = settings.plugin_dirs.iter().filter(|dir| dir.origin == PLUGIN_PATH).map(|dir| text_of(PLUGIN_PATH, &dir.path));
        let dirs: Vec<String> = dirs.collect::<Result<_, _>>()?;
        if !dirs.is_empty() {
            environment.variables.push(Variable { name: PLUGIN_PATH, value: dirs.join(":"), is_local: true });
        }
        for name in PATHS {
            if let Some(value) = value_of(name, settings)? {
                let path = std::path::absolute(&value).unwrap_or_else(|_| PathBuf::from(&value));
                environment.variables.push(Variable { name, value: text_of(name, &path)?, is_local: true });
            }
        }
        for name in TEXTS {
            match value_of(name, settings)? {
                // Of a URL, for example of a proxy.
                Some(value) if value.contains('@') => {
                    let note = format!("{name} is left out, because it may contain a password: set it where the schedule runs.");
                    environment.notes.push(note);
                }
                Some(value) => environment.variables.push(Variable { name, value, is_local: false }),
                None => {}
            }
        }
        Ok(environment)
    }

    /// Returns the environment of a container: without the variables that name files of this machine, and with the table of BigQuery, which
    /// may be set in a config.toml that the container does not have.
    pub(in crate::commands) fn of_container(mut self, settings: &Settings) -> Self {
        let local = self.variables.iter().filter(|variable| variable.is_local).map(|variable| variable.name);
        let is_flag = settings.plugin_dirs.iter().any(|dir| dir.origin == PLUGIN_FLAG);
        let local: Vec<&str> = local.chain(is_flag.then_some(PLUGIN_FLAG)).collect();
        if !local.is_empty() {
            let names = local.join(", ");
            self.notes.push(format!("Not set in the container, because the paths are of this machine: {names}"));
        }
        self.variables.retain(|variable| !variable.is_local);
        let tables = settings.destinations.iter().filter_map(|to| match to {
            DestinationConfig::BigQuery(table) => Some(table),
            _ => None,
        });
        for table in tables {
            let parts = [
                (CARRIED[0], table.project.as_ref(), ["BQ_EVENTS_PROJECT", "EVENTS_BQ_PROJECT"]),
                (CARRIED[1], Some(&table.dataset), ["BQ_EVENTS_DATASET", "EVENTS_BQ_DATASET"]),
                (CARRIED[2], Some(&table.table), ["BQ_EVENTS_TABLE", "EVENTS_BQ_TABLE"]),
            ];
            for (key, value, names) in parts {
                let is_in_file = settings.configured.iter().any(|configured| configured == key);
                let is_set = self.variables.iter().any(|variable| names.contains(&variable.name));
                if let Some(value) = value.filter(|_| is_in_file && !is_set) {
                    self.variables.push(Variable { name: names[0], value: value.clone(), is_local: false });
                }
            }
        }
        self
    }
}

/// Returns the keys of config.toml that have no effect in a container. Those of a job have one, unless `is_lost` says otherwise.
pub(in crate::commands) fn left_out(settings: &Settings, is_lost: impl Fn(&str) -> bool) -> Vec<String> {
    let keys = settings.configured.iter();
    let lost = keys.filter(|key| if key.starts_with("job.") { is_lost(key) } else { !CARRIED.contains(&key.as_str()) });
    lost.cloned().collect()
}

/// Checks that a container can deliver its events, as `--require-delivery` demands.
pub(in crate::commands) fn check_delivery(settings: &Settings) -> Result<(), CommandError> {
    if settings.destinations.iter().any(|to| matches!(to, DestinationConfig::BigQuery(_))) {
        return Ok(());
    }
    let others: Vec<&str> = settings.destinations.iter().map(DestinationConfig::name).collect();
    let message = "events must be delivered (--require-delivery), and no destination is configured that works in a container";
    let failure = CommandError::new(Code::Config, message)
        .hint("set BQ_EVENTS_DATASET and BQ_EVENTS_TABLE, or [destinations.bigquery] in config.toml");
    Err(match others.is_empty() {
        true => failure,
        false => failure.hint(format!("{} needs a config.toml, which the container does not have", others.join(" or "))),
    })
}

fn value_of(name: &str, settings: &Settings) -> Result<Option<String>, CommandError> {
    let value = settings.variable(name).filter(|value| !value.is_empty());
    value.map(|value| text_of(name, Path::new(&value))).transpose()
}

fn text_of(name: &str, value: &Path) -> Result<String, CommandError> {
    match value.to_str() {
        Some(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err(CommandError::new(Code::Usage, format!("the value of {name} cannot be written in a schedule"))
            .hint(format!("set {name} to printable UTF-8 text, or unset it"))),
    }
}
