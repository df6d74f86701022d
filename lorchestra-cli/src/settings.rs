//! Where everything is: flags, environment, configuration file and defaults, in that order of precedence. The only reader
//! of the environment and the home directory.

use crate::config::{Config, JobConfig};
use crate::destinations;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags::GlobalFlags;
use directories::BaseDirs;
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::packages::catalog::SearchDir;
use lorchestra_core::plan::spec;
use lorchestra_core::store::retention::Retention;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a run waits for the delivery of its last events.
const DELIVERY: Duration = Duration::from_secs(10);
/// Where search directories are named: the default one, and the flag that replaces all.
pub(crate) const PLUGIN_DIRECTORY: &str = "the plugin directory";
pub(crate) const PLUGIN_FLAG: &str = "--plugin-dir";

/// What the commands are given.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Searched for plugins, in this order.
    pub(crate) plugin_dirs: Vec<SearchDir>,
    /// Where plugins.lock is.
    pub(crate) lockfile: PathBuf,
    /// Whether only what it names may run.
    pub(crate) locked: bool,
    /// The state directory.
    pub(crate) state_dir: PathBuf,
    /// A store at the default place while the state directory is elsewhere: two histories.
    pub(crate) second_store: Option<PathBuf>,
    /// Parent of the packages' data directories.
    pub(crate) data_root: PathBuf,
    /// Command to run when a run failed.
    pub(crate) on_failure: Option<String>,
    /// How long things are kept.
    pub(crate) retention: Retention,
    /// Bytes that are kept of what an attempt prints, and of what a run traces.
    pub(crate) log_max: u64,
    /// Whether an event with a number that loses digits in 64 bits is refused.
    pub(crate) strict_numbers: bool,
    /// Where events go besides the store.
    pub(crate) destinations: Vec<DestinationConfig>,
    /// Printed once, before anything is delivered.
    pub(crate) destinations_warning: Option<String>,
    /// How long a run waits for the delivery of its last events.
    pub(crate) delivery_timeout: Duration,
    /// Policies by `package/job`.
    pub(crate) jobs: BTreeMap<String, JobConfig>,
    /// The configuration file, which need not be there.
    pub(crate) config_path: PathBuf,
    /// The home directory.
    pub(crate) home: PathBuf,
    /// Where systemd puts a unit's credentials.
    pub(crate) credentials: Option<PathBuf>,
    /// The most verbose level that is traced.
    pub(crate) trace_level: &'static str,
    /// The working directory, where its name is UTF-8.
    pub(crate) directory: Option<String>,
    /// The caller's trace context.
    pub(crate) trace_parent: Option<String>,
}

impl Settings {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub(crate) fn read(args: &GlobalFlags) -> Result<Self, CommandError> {
        // HOME unset or empty, as under cron: the passwd entry.
        let base = BaseDirs::new().ok_or_else(|| {
            CommandError::new(Code::Config, "no home directory: HOME is not set, and the passwd entry has none").hint("set HOME")
        })?;
        if base.home_dir().is_relative() {
            // Elsewhere the next command would find another history, and other plugins. (XDG variables that are relative count as not
            // set, as the XDG specification has it.)
            let home = base.home_dir().display().to_string();
            return Err(CommandError::new(Code::Config, format!("HOME is {home:?}, which is not an absolute path"))
                .hint("set HOME to an absolute path, or unset it"));
        }
        let config_path = base.config_dir().join("lorchestra/config.toml");
        let config = Config::read(&config_path)?;
        let mut plugin_dirs = Vec::new();
        // What is recorded of a run is read elsewhere.
        let mut add = |path: PathBuf, origin: String| {
            plugin_dirs.push(SearchDir { path: std::path::absolute(&path).unwrap_or(path), origin });
        };
        if args.plugin_dir.is_empty() {
            add(base.data_dir().join("lorchestra/plugins"), PLUGIN_DIRECTORY.into());
            if let Some(paths) = std::env::var_os("LORCHESTRA_PLUGIN_PATH") {
                for path in std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()) {
                    add(path, "LORCHESTRA_PLUGIN_PATH".into());
                }
            }
            for path in &config.plugin_dirs {
                add(path.clone(), format!("plugin_dirs in {}", config_path.display()));
            }
        } else {
            for path in &args.plugin_dir {
                add(path.clone(), PLUGIN_FLAG.into());
            }
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (destinations, destinations_warning) = destinations::resolve(&config.destinations, &variable, base.config_dir())?;
        let state_home = base.state_dir().map_or_else(|| base.home_dir().join(".local/state"), PathBuf::from);
        let state_dir = config.state_dir.unwrap_or_else(|| state_home.join("lorchestra"));
        let default_state = base.home_dir().join(".local/state/lorchestra");
        // The same directory may have another name.
        let is_default = || std::fs::canonicalize(&state_dir).ok() == std::fs::canonicalize(&default_state).ok();
        let is_second = state_dir != default_state && default_state.join("lorchestra.db").exists() && !is_default();
        let second_store = is_second.then_some(default_state);
        let default = Retention::default();
        Ok(Self {
            plugin_dirs,
            lockfile: base.config_dir().join("lorchestra/plugins.lock"),
            locked: config.locked,
            state_dir,
            second_store,
            data_root: config.data_dir.unwrap_or_else(|| base.data_dir().join("lorchestra/data")),
            // A run that the command itself starts does not start the command again.
            on_failure: config.on_failure.filter(|_| std::env::var_os(crate::notify::RUNNING).is_none()),
            retention: Retention {
                logs: config.retention.logs.unwrap_or(default.logs),
                payloads: config.retention.payloads.unwrap_or(default.payloads),
                runs: config.retention.runs.unwrap_or(default.runs),
                destinations: destinations.iter().map(|one| one.name().to_owned()).collect(),
            },
            strict_numbers: config.events.strict_numbers,
            log_max: config.logs.max.unwrap_or(lorchestra_core::run::log::DEFAULT_MAX),
            destinations,
            destinations_warning,
            delivery_timeout: config.delivery.timeout.unwrap_or(DELIVERY),
            jobs: config.job,
            home: base.home_dir().to_owned(),
            config_path,
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|dir| dir.is_absolute()),
            trace_level: match args.verbose {
                0 | 1 => "info",
                2 => "debug",
                _ => "trace",
            },
            directory: std::env::current_dir().ok().and_then(|directory| directory.into_os_string().into_string().ok()),
            // What others put there is no reason to refuse a run.
            trace_parent: variable("TRACEPARENT").and_then(|text| spec::trace_parent(&text).ok()),
        })
    }

    /// An environment variable that a person named.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    #[expect(clippy::unused_self, reason = "whoever has the settings may look further")]
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    /// The user whose history and plugins these are: `user anna`.
    #[expect(clippy::unused_self, reason = "whoever has the settings may look further")]
    pub(crate) fn user(&self) -> String {
        let uid = rustix::process::geteuid().as_raw();
        // Not by getpwuid, which may ask a server: a name is only a help here.
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let mut entries = passwd.lines().filter_map(|line| line.split_once(':'));
        let named = entries.find(|(_, rest)| rest.split(':').nth(1) == Some(&uid.to_string()));
        named.map_or_else(|| format!("user {uid}"), |(name, _)| format!("user {}", lorchestra_core::text::escaped(name)))
    }

    /// Parent of the packages' data directories, for a run. Jobs are told of it in JSON, which holds no other text than UTF-8.
    pub(crate) fn data_root(&self) -> Result<&Path, CommandError> {
        match self.data_root.to_str() {
            Some(_) => Ok(&self.data_root),
            None => {
                let message = format!("the data directory {} is not UTF-8", self.data_root.display());
                Err(CommandError::new(Code::Config, message).hint("set data_dir in config.toml to a directory with a UTF-8 name"))
            }
        }
    }
}
