//! Resolves settings from flags, environment, configuration file and defaults, in that order of precedence. The only module that reads the
//! environment and the home directory.

use crate::config::{Config, JobConfig};
use crate::destinations;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags::GlobalFlags;
use crate::notify::Hooks;
use crate::telemetry::Telemetry;
use directories::BaseDirs;
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::packages::catalog::SearchDir;
use lorchestra_core::plan::spec;
use lorchestra_core::run::launch::{Delivery, Host};
use lorchestra_core::run::supervisor::WorkerEnv;
use lorchestra_core::store::retention::Retention;
use lorchestra_core::text::path_text;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Default time to wait for the delivery of the last events.
const DELIVERY: Duration = Duration::from_secs(10);
/// Origins of search directories: the default, and the flag that replaces all others.
pub(crate) const PLUGIN_DIRECTORY: &str = "the plugin directory";
pub(crate) const PLUGIN_FLAG: &str = "--plugin-dir";

/// The settings of all commands.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Directories to search for plugins, in order.
    pub(crate) plugin_dirs: Vec<SearchDir>,
    /// Path of plugins.lock.
    pub(crate) lockfile: PathBuf,
    /// Whether only packages in plugins.lock may run.
    pub(crate) locked: bool,
    /// The state directory.
    pub(crate) state_dir: PathBuf,
    /// It is the `state_dir` of the configuration.
    pub(crate) has_configured_state_dir: bool,
    /// A store at the default location while the state directory is elsewhere: there are two histories.
    pub(crate) second_store: Option<PathBuf>,
    /// Parent of the packages' data directories.
    pub(crate) data_root: PathBuf,
    /// Commands to run, and monitors to notify, about runs.
    pub(crate) hooks: Hooks,
    /// How long to keep data.
    pub(crate) retention: Retention,
    /// Maximum number of bytes to keep of an attempt's output, and of a run's trace.
    pub(crate) log_max: u64,
    /// Whether to refuse events with a number that loses precision in 64 bits.
    pub(crate) strict_numbers: bool,
    /// Destinations of events, in addition to the store.
    pub(crate) destinations: Vec<DestinationConfig>,
    /// A warning to print once, before delivery.
    pub(crate) destinations_warning: Option<String>,
    /// How long a run waits for the delivery of its last events.
    pub(crate) delivery_timeout: Duration,
    /// Settings by `package/job`.
    pub(crate) jobs: BTreeMap<String, JobConfig>,
    /// The keys in the configuration file, with their tables.
    pub(crate) configured: Vec<String>,
    /// Path of the configuration file, which need not exist.
    pub(crate) config_path: PathBuf,
    /// Whether `--config` named it.
    pub(crate) config_is_flag: bool,
    /// The home directory.
    pub(crate) home: PathBuf,
    /// Directory of a unit's credentials, set by systemd.
    pub(crate) credentials: Option<PathBuf>,
    /// The most verbose level to trace.
    pub(crate) trace_level: &'static str,
    /// The working directory, if its name is UTF-8.
    pub(crate) directory: Option<String>,
    /// The caller's trace context.
    pub(crate) trace_parent: Option<String>,
    /// The global flags of this command, for a process that must have the same settings.
    pub(crate) global_flags: Vec<OsString>,
}

/// A path of a flag, absolute. `~/` is the home directory, which the shell does not expand in `--config=~/x`.
fn expanded(path: &Path, base: &BaseDirs) -> PathBuf {
    match path.strip_prefix("~") {
        Ok(below) => base.home_dir().join(below),
        Err(_) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    }
}

fn config_path(args: &GlobalFlags, base: &BaseDirs) -> PathBuf {
    match &args.config {
        // Paths in the file are relative to its directory, not to the working directory.
        Some(path) => expanded(path, base),
        None => base.config_dir().join("lorchestra/config.toml"),
    }
}

/// How it is known where the history is, although the configuration file has a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HistoryPlace {
    /// The file can be read, and a `state_dir` in it is valid.
    Certain,
    /// The file cannot be read at all: the default location is assumed.
    Assumed,
    /// The `state_dir` in the file is not valid, or the file that `--config` names does not exist.
    Unknown,
}

/// The settings that can be read from a configuration file with a mistake.
#[derive(Debug)]
pub(crate) struct Rescued {
    pub(crate) state_dir: PathBuf,
    pub(crate) place: HistoryPlace,
    pub(crate) on_failure: Option<String>,
}

impl Rescued {
    /// Reads the valid part of the file: the keys before the first table, line by line.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub(crate) fn read(args: &GlobalFlags) -> Option<Self> {
        let base = BaseDirs::new().filter(|base| base.home_dir().is_absolute())?;
        let text = crate::config::readable_part(&config_path(args, &base));
        let is_misspelt = args.config.is_some() && text.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let unread = if is_misspelt { HistoryPlace::Unknown } else { HistoryPlace::Assumed };
        let is_readable = text.is_ok();
        let text = text.unwrap_or_default();
        let lines = || text.lines().map(str::trim).take_while(|line| !line.starts_with('['));
        let key = |name: &str| -> Option<String> {
            let tables = lines().filter_map(|line| line.parse::<toml::Table>().ok());
            tables.filter_map(|table| table.get(name)?.as_str().map(str::to_owned)).last()
        };
        let state_home = base.state_dir().map_or_else(|| base.home_dir().join(".local/state"), PathBuf::from);
        let configured = key("state_dir").map(PathBuf::from).map(|dir| match dir.strip_prefix("~") {
            Ok(below) => base.home_dir().join(below),
            Err(_) => dir,
        });
        let configured = configured.filter(|dir| dir.is_absolute());
        // Also a misspelt key, and one below a table.
        let is_mentioned = text.lines().any(|line| line.trim_start().starts_with("state"));
        let place = match () {
            () if !is_readable => unread,
            // UTF-16 looks like text without any key.
            () if text.contains('\0') => HistoryPlace::Unknown,
            () if configured.is_some() || !is_mentioned => HistoryPlace::Certain,
            () => HistoryPlace::Unknown,
        };
        Some(Self {
            place,
            state_dir: configured.unwrap_or_else(|| state_home.join("lorchestra")),
            on_failure: key("on_failure").filter(|_| std::env::var_os(crate::notify::RUNNING).is_none()),
        })
    }
}

impl Settings {
    pub(crate) fn read(args: &GlobalFlags) -> Result<Self, CommandError> {
        // If HOME is unset or empty, as under cron, use the passwd entry.
        let base = BaseDirs::new().ok_or_else(|| {
            CommandError::new(Code::Config, "no home directory: HOME is not set, and the passwd entry has none").hint("set HOME")
        })?;
        if base.home_dir().is_relative() {
            // With a relative path, the next command could find another history and other plugins. (Relative XDG variables count as not
            // set, according to the XDG specification.)
            let home = base.home_dir().display().to_string();
            return Err(CommandError::new(Code::Config, format!("HOME is {home:?}, which is not an absolute path"))
                .hint("set HOME to an absolute path, or unset it"));
        }
        let config_path = config_path(args, &base);
        if args.config.is_some() && !config_path.exists() {
            let message = format!("{} does not exist", path_text(&config_path));
            return Err(CommandError::new(Code::Config, message).hint("check the path given to --config"));
        }
        let mut config = Config::read(&config_path)?;
        config.expand_home(base.home_dir());
        Self::resolve(args, &base, config_path, config)
    }

    /// Returns the settings for a command that needs at most the history, if the configuration file has a mistake: defaults, except for
    /// the state directory and `on_failure`; and how it is known where the history is. `None` if HOME or the environment has a mistake too.
    pub(crate) fn without_config(args: &GlobalFlags) -> Option<(Self, HistoryPlace)> {
        let Rescued { state_dir, on_failure, place } = Rescued::read(args)?;
        let base = BaseDirs::new()?;
        let config = Config { state_dir: Some(state_dir), on_failure, ..Config::default() };
        let settings = Self::resolve(args, &base, config_path(args, &base), config).ok()?;
        Some((settings, place))
    }

    /// The name of the configuration file, for messages that name a key in it.
    pub(crate) fn config_name(&self) -> String {
        self.config_path.file_name().map(|name| path_text(Path::new(name))).unwrap_or_default()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    fn resolve(args: &GlobalFlags, base: &BaseDirs, config_path: PathBuf, config: Config) -> Result<Self, CommandError> {
        let mut plugin_dirs = Vec::new();
        // Paths are recorded in the run's history, which may be read from elsewhere.
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
                add(expanded(path, base), PLUGIN_FLAG.into());
            }
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (destinations, destinations_warning) = destinations::resolve(&config.destinations, &variable, base.config_dir())?;
        let state_home = base.state_dir().map_or_else(|| base.home_dir().join(".local/state"), PathBuf::from);
        let has_configured_state_dir = config.state_dir.is_some();
        let state_dir = config.state_dir.unwrap_or_else(|| state_home.join("lorchestra"));
        let default_state = base.home_dir().join(".local/state/lorchestra");
        // The same directory may have another name.
        let is_default = || std::fs::canonicalize(&state_dir).ok() == std::fs::canonicalize(&default_state).ok();
        let is_second = state_dir != default_state && default_state.join("lorchestra.db").exists() && !is_default();
        let second_store = is_second.then_some(default_state);
        let default = Retention::default();
        // A run that a hook starts has no hooks.
        let hooks = if std::env::var_os(crate::notify::RUNNING).is_some() {
            Hooks::default()
        } else {
            let commands = [config.on_start, config.on_success, config.on_failure, config.on_skip, config.on_stale];
            Hooks::new(commands, &config.job)
        }
        .with_telemetry(Telemetry::read(&variable));
        Ok(Self {
            plugin_dirs,
            lockfile: config_path.with_file_name("plugins.lock"),
            locked: config.locked,
            state_dir,
            has_configured_state_dir,
            second_store,
            data_root: config.data_dir.unwrap_or_else(|| base.data_dir().join("lorchestra/data")),
            hooks,
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
            configured: config.configured,
            home: base.home_dir().to_owned(),
            config_path,
            config_is_flag: args.config.is_some(),
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|dir| dir.is_absolute()),
            trace_level: match args.verbose {
                0 | 1 => "info",
                2 => "debug",
                _ => "trace",
            },
            directory: std::env::current_dir().ok().and_then(|directory| directory.into_os_string().into_string().ok()),
            // An invalid value set by others is no reason to refuse a run.
            trace_parent: variable("TRACEPARENT").and_then(|text| spec::trace_parent(&text).ok()),
            global_flags: args.as_words(),
        })
    }

    /// Returns the variable that asks for telemetry, if this binary cannot send it.
    pub(crate) fn unsupported_telemetry(&self) -> Option<&'static str> {
        let is_set = |name: &&'static str| self.variable(name).is_some_and(|value| !value.is_empty());
        if crate::telemetry::IS_BUILT { None } else { crate::telemetry::ENDPOINTS.into_iter().find(is_set) }
    }

    /// Returns an environment variable that a user named.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    #[expect(clippy::unused_self, reason = "only code with access to the settings may read it")]
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    /// Describes the user whose history and plugins these are: `user anna`.
    #[expect(clippy::unused_self, reason = "only code with access to the settings may read it")]
    pub(crate) fn user(&self) -> String {
        let uid = rustix::process::geteuid().as_raw();
        // Does not use getpwuid, which may query a server, because the name is only informative.
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let mut entries = passwd.lines().filter_map(|line| line.split_once(':'));
        let named = entries.find(|(_, rest)| rest.split(':').nth(1) == Some(&uid.to_string()));
        named.map_or_else(|| format!("user {uid}"), |(name, _)| format!("user {}", lorchestra_core::text::escaped(name)))
    }

    /// The environment of runs on this host.
    pub(crate) fn host<'a>(&'a self, delivery: Delivery<'a>) -> Result<Host<'a>, CommandError> {
        let worker = WorkerEnv {
            executable: Path::new("/proc/self/exe"),
            data_root: self.data_root()?,
            version: env!("CARGO_PKG_VERSION"),
            trace_level: self.trace_level,
            log_max: self.log_max,
            strict_numbers: self.strict_numbers,
            exports_spans: self.hooks.exports_spans(),
        };
        Ok(Host { state_dir: &self.state_dir, worker, retention: &self.retention, delivery })
    }

    /// Parent of the packages' data directories, for a run. Jobs receive it in JSON, which must be UTF-8.
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
