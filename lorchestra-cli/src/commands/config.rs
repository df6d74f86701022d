//! `config`: the settings that apply with the origin of each, and a list of all keys. `config keys` works even if the file is invalid.

mod shown;

use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::wire::{self, Setting};
use clap::Subcommand;
use lorchestra_core::text::escaped;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show the settings that apply
    #[command(before_help = "Examples:\n  lorchestra config show\n  lorchestra config show --origin")]
    Show {
        /// Also show where each setting comes from: a flag, an environment variable, the file or the default
        #[arg(long)]
        origin: bool,
        /// Print one JSON object (schema lorchestra.config/1), which has the origins
        #[arg(long)]
        json: bool,
    },
    /// List every key of config.toml with its default and meaning
    Keys {
        /// Print one JSON object (schema lorchestra.config-keys/1)
        #[arg(long)]
        json: bool,
    },
}

/// Width of the column of defaults, at most.
const WIDEST: usize = 30;

/// Prints each key with its default and meaning on one line.
const KEYS: &[(&str, &str, &str)] = &[
    ("plugin_dirs", "none", "more directories to search for plugins; absolute paths"),
    ("state_dir", "$XDG_STATE_HOME/lorchestra", "directory for runs, events and logs"),
    ("data_dir", "$XDG_DATA_HOME/lorchestra/data", "parent of the packages' data directories"),
    ("locked", "false", "run only libraries in plugins.lock"),
    ("on_start", "none", "shell command to run when a run starts"),
    ("on_success", "none", "shell command to run for each successful run"),
    ("on_failure", "none", "shell command to run for each failed or refused run"),
    ("on_skip", "none", "shell command to run for each skipped run"),
    ("on_stale", "none", "shell command to run for each stale job, by status --notify"),
    ("retention.logs", "30d", "how long to keep output and traces"),
    ("retention.payloads", "30d", "how long to keep payloads of delivered events"),
    ("retention.runs", "365d", "how long to keep runs with their events"),
    ("logs.max", "64M", "limit for the log of an attempt"),
    ("events.strict_numbers", "false", "refuse events with numbers that lose digits in 64 bits"),
    ("destinations.bigquery.dataset", "none", "dataset to deliver events to"),
    ("destinations.bigquery.table", "none", "table to deliver events to"),
    ("destinations.bigquery.project", "of the credentials", "project of the table"),
    ("destinations.bigquery.location", "BigQuery's", "where events setup creates a dataset"),
    ("destinations.bigquery.write", "storage-write", "or insert-all"),
    ("destinations.bigquery.endpoint", "Google's", "REST address"),
    ("destinations.bigquery.storage_endpoint", "Google's", "gRPC address"),
    ("destinations.jsonl.dir", "none", "directory for JSON Lines files"),
    ("destinations.jsonl.rotate_size", "64M", "start a new file before this size"),
    ("destinations.jsonl.rotate", "day", "also start a new file each day, or never"),
    ("destinations.openlineage.url", "none", "lineage backend, such as http://marquez:5000"),
    ("destinations.openlineage.namespace", "lorchestra", "namespace of the jobs"),
    ("delivery.timeout", "10s", "how long a run waits for its last events to be delivered"),
    ("job.\"package/job\".timeout", "none", "stop an attempt that runs longer"),
    ("job.\"package/job\".grace", "10s", "wait between SIGTERM and SIGKILL"),
    ("job.\"package/job\".overlap", "fail", "fail, skip, wait, wait=DURATION or allow"),
    ("job.\"package/job\".retries", "0", "how many more attempts after a failure"),
    ("job.\"package/job\".retry_on", "all", "causes to retry: error, panic, signal, exit, timeout"),
    ("job.\"package/job\".retry_wait", "1s", "wait before the second attempt"),
    ("job.\"package/job\".memory_max", "none", "memory limit of each process"),
    ("job.\"package/job\".expect_every", "none", "longest time between two successes, for status"),
    ("job.\"package/job\".ping", "none", "URL of the monitor that expects this job"),
    ("job.\"package/job\".params.NAME", "none", "value of a parameter, unless a flag sets it"),
    (
        "job.\"package/job\".secrets.NAME",
        "the credential package.NAME, else LORCHESTRA_SECRET_PACKAGE_NAME",
        "env:NAME, file:PATH or credential:NAME",
    ),
];

pub(super) fn keys(json: bool, printer: &mut Printer) -> Code {
    if json {
        let keys = KEYS.iter().map(|&(key, default, meaning)| wire::KeyObject { key, default, meaning }).collect();
        printer.json(&wire::KeysObject { schema: "lorchestra.config-keys/1", keys });
        return Code::Success;
    }
    let names = KEYS.iter().map(|key| key.0.len()).max().unwrap_or(0);
    // A longer default pushes only its own meaning to the right.
    let defaults = KEYS.iter().map(|key| key.1.len()).filter(|width| *width <= WIDEST).max().unwrap_or(0);
    for (name, default, meaning) in KEYS {
        printer.line(format_args!("{name:names$}  {default:defaults$}  {meaning}"));
    }
    Code::Success
}

pub(super) fn run(command: &ConfigCommand, settings: &Settings, printer: &mut Printer) -> Result<Code, CommandError> {
    let (origin, json) = match command {
        ConfigCommand::Keys { json } => return Ok(keys(*json, printer)),
        ConfigCommand::Show { origin, json } => (*origin, *json),
    };
    let shown = shown::shown(settings);
    if json {
        let file = settings.config_path.display().to_string();
        printer.json(&wire::SettingsObject { schema: "lorchestra.config/1", file, settings: shown });
        return Ok(Code::Success);
    }
    for Setting { key, value, origin: from } in &shown {
        let from = if origin { format!("  ({from})") } else { String::new() };
        printer.line(format_args!("{key} = {}{from}", escaped(value)));
    }
    Ok(Code::Success)
}
