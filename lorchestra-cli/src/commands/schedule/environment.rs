//! The environment variables that a schedule needs: those that are set now and that change where lorchestra finds its settings, plugins, store
//! and destinations. A scheduler starts commands without them.

use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::Settings;
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

    /// Removes the variables that name files of this machine, which a container does not have.
    pub(in crate::commands) fn without_local(mut self) -> Self {
        let local: Vec<&str> = self.variables.iter().filter(|variable| variable.is_local).map(|variable| variable.name).collect();
        if !local.is_empty() {
            let names = local.join(", ");
            self.notes.push(format!("Not set in the container, because the paths are of this machine: {names}"));
        }
        self.variables.retain(|variable| !variable.is_local);
        self
    }
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
