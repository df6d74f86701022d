//! The checks of `doctor` for this machine and its records: configuration, host, store, destinations.

use super::Finding;
use super::leftovers::{self, Recovery};
use crate::commands::delivery;
use crate::commands::status::{self, Word};
use crate::commands::unclosed::Unclosed;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::{Hook, Notices};
use crate::observe::undelivered::{are, events};
use crate::settings::Settings;
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::files::check_writable;
use lorchestra_core::host::locks::FileLock;
use lorchestra_core::host::rights::move_away;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::packages::catalog::{FileFault, trust};
use lorchestra_core::run::recovery::leftovers::Leftovers;
use lorchestra_core::run::recovery::{Closed, close_all_abandoned, remove_all_unrecorded};
use lorchestra_core::store::{RunFilter, Store, short_id};
use lorchestra_core::text::{chain, path_text, shell};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Free space below which a run may not be recorded completely.
const LITTLE_SPACE: u64 = 256 << 20;
/// How long a loss of events is shown, in microseconds.
const LOSSES: i64 = 30 * 86_400_000_000;
/// If the time of a run is this far ahead of the clock, the clock was set back; smaller differences are ignored.
const AHEAD: i64 = 60_000_000;
/// Directories that cron searches.
const CRON_PATH: [&str; 2] = ["/usr/bin", "/bin"];
/// How long a destination may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

pub(super) fn configuration(settings: &Settings, findings: &mut Vec<Finding>) {
    let path = path_text(&settings.config_path);
    let exists = settings.config_path.exists();
    match trust::configuration(&settings.config_path) {
        Ok(()) if exists => findings.push(Finding::ok("configuration", path)),
        Ok(()) => findings.push(Finding::ok("configuration", format!("{path} does not exist; defaults apply"))),
        Err(FileFault { detail, fix, .. }) if exists => {
            let cause = format!("other users may change {path}, which names commands that run as this user: {detail}");
            findings.push(Finding::error("configuration", cause, fix));
        }
        Err(FileFault { detail, fix, .. }) => {
            let cause = format!("other users may create {path}, which would name commands that run as this user: {detail}");
            findings.push(Finding::warning("configuration", cause, fix));
        }
    }
    if settings.lockfile.exists()
        && let Err(FileFault { detail, fix, .. }) = trust::configuration(&settings.lockfile)
    {
        let cause = format!("other users may change {}, which pins libraries: {detail}", path_text(&settings.lockfile));
        findings.push(Finding::error("configuration", cause, fix));
    }
    if let Some(name) = settings.unsupported_telemetry() {
        findings.push(Finding::warning(
            "configuration",
            format!("{name} is set, but this lorchestra was built without OpenTelemetry"),
            "build it with the feature otel, which is on by default, or unset the variable",
        ));
    }
    if let Some(other) = &settings.second_store {
        findings.push(Finding::warning(
            "configuration",
            format!("{} also has a run history; commands use {}", path_text(other), path_text(&settings.state_dir)),
            "remove the one that is not used, or set the same state_dir for all commands",
        ));
    }
    for hook in Hook::ALL {
        let Some(command) = settings.hooks.command(hook) else { continue };
        let checked = Command::new("/bin/sh").args(["-n", "-c", command]).stdin(Stdio::null()).output();
        if let Ok(output) = checked
            && !output.status.success()
        {
            let why = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
            findings.push(Finding::error(
                "configuration",
                format!("{} is not a shell command: {why}", hook.key()),
                format!("fix {} in config.toml", hook.key()),
            ));
        }
    }
}

pub(super) fn host(settings: &Settings, findings: &mut Vec<Finding>) {
    if let Err(error) = CommandError::unless_files_suffice() {
        findings.push(Finding::of("host", &error));
    }
    if let Err(error) = settings.data_root() {
        findings.push(Finding::of("host", &error));
    }
    if let Ok(exe) = std::env::current_exe()
        && !CRON_PATH.iter().any(|dir| exe.parent() == Some(Path::new(dir)))
    {
        let cause = format!("cron and systemd do not search {}", path_text(exe.parent().unwrap_or(Path::new("/"))));
        findings.push(Finding::warning("host", cause, format!("write {} in crontabs and units", shell(&exe))));
    }
    let data = settings.data_root.ancestors().find(|at| at.exists()).unwrap_or(Path::new("/"));
    if let Err(refused) = check_writable(data) {
        let message = format!("jobs cannot keep data in {}", path_text(&settings.data_root));
        let found = Finding::of("host", &CommandError::refused(Code::NotWritable, &message, &settings.data_root, &refused));
        let fix = found.fix.unwrap_or_else(|| "set data_dir in config.toml to a directory of this user".into());
        findings.push(Finding::warning("host", found.cause, fix));
    }
    for path in [&settings.state_dir, &settings.data_root] {
        let Some(at) = path.ancestors().find(|at| at.exists()) else { continue };
        let Ok(stat) = rustix::fs::statvfs(at) else { continue };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < LITTLE_SPACE {
            let cause = format!("the file system of {} has {} MiB left", path_text(at), free >> 20);
            findings.push(Finding::error(
                "host",
                cause,
                format!("free space (check with: df -h {0}), or run lorchestra runs prune", shell(at)),
            ));
        } else if stat.f_favail == 0 && stat.f_files > 0 {
            let cause = format!("the file system of {} has no inodes left", path_text(at));
            findings.push(Finding::error("host", cause, format!("remove files (check with: df -i {})", shell(at))));
        }
    }
}

/// Examines the state directory and the store. With `fix`, also removes what ended runs have left.
pub(super) fn store(settings: &Settings, fix: bool, notices: &mut Notices<'_>, findings: &mut Vec<Finding>) {
    if let Err(error) = directory_and_store(settings, fix, notices, findings) {
        findings.push(Finding::of("state", &error));
    }
}

fn directory_and_store(
    settings: &Settings,
    fix: bool,
    notices: &mut Notices<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(), CommandError> {
    let shown = path_text(&settings.state_dir);
    let Some(state) = StateDir::existing(&settings.state_dir)? else {
        StateDir::check_creatable(&settings.state_dir)?;
        findings.push(Finding::ok("state", format!("{shown} does not exist yet")));
        return Ok(());
    };
    // One at a time: each reports what it has removed itself. Without the lock, which may be impossible to take, only the numbers may be wrong.
    let _lock = fix.then(|| FileLock::take(&state.lock("doctor")));
    // The history may be readable all the same.
    if let Err(error) = state.check_writable() {
        findings.push(Finding::of("state", &error.into()));
    }
    if !state.store().exists() {
        let before = Leftovers::find(&state, None)?;
        let closed = remove_all_unrecorded(&state)?;
        leftovers::report(&Recovery { state: &state, before, closed: &closed, fix }, None, findings)?;
        findings.push(Finding::ok("state", format!("no run in {shown} yet")));
        return Ok(());
    }
    let mut store = Store::open(&state)?;
    let before = Leftovers::find(&state, Some(&store))?;
    let closed = close_all_abandoned(&state, &mut store)?;
    notices.add_recovered(&closed);
    recovered(&closed, findings);
    leftovers::report(&Recovery { state: &state, before, closed: &closed, fix }, Some(&mut store), findings)?;
    if let Err(error) = contents((&state, &store), &closed, settings, findings) {
        findings.push(Finding::of("store", &error));
    }
    Ok(())
}

/// Reports the runs that were closed.
fn recovered(closed: &Closed, findings: &mut Vec<Finding>) {
    for (run_id, error) in &closed.stuck {
        let cause = format!("run {} cannot be closed: {}", short_id(run_id), crate::failure::stuck(error));
        findings.push(Finding::error("state", cause, "fix the cause, then run lorchestra runs list"));
    }
    if !closed.recovered.is_empty() {
        let n = closed.recovered.len();
        let cause = format!(
            "{} no longer had a supervisor and {} closed now",
            crate::show::counted(n, "run"),
            if n == 1 { "was" } else { "were" }
        );
        findings.push(Finding::warning("state", cause, "see lorchestra runs list --cause abandoned"));
    }
}

/// Examines what is in the store.
fn contents(
    (state, store): (&StateDir, &Store),
    closed: &Closed,
    settings: &Settings,
    findings: &mut Vec<Finding>,
) -> Result<(), CommandError> {
    let missing = closed.missing;
    let wrong = store.quick_check()?;
    // SQLite's messages have line breaks, and a heading for each database.
    let wrong: Vec<&str> = wrong.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with("***")).collect();
    if !wrong.is_empty() {
        let path = shell(&state.store());
        let fix = format!("back up {path} with -wal and -shm while no lorchestra runs, then sqlite3 {path} .recover");
        let cause = format!("{} is damaged: {}", path_text(&state.store()), wrong.join("; "));
        findings.push(Finding::error("store", cause, fix));
        return Ok(());
    }
    if missing > 0 {
        findings.push(Finding::error(
            "store",
            format!("about {missing} of the newest events are missing: an older copy was restored, or its log was damaged"),
            "repeat the runs of that period",
        ));
    }
    // The command that finds a loss may have been one whose output nobody reads.
    for (found_at, missing) in store.losses()?.into_iter().filter(|(at, _)| *at > now_micros() - LOSSES && closed.missing == 0) {
        let found = crate::show::time(found_at);
        let cause = format!("at {found}, about {missing} of the newest events were missing");
        findings.push(Finding::warning("store", cause, "repeat the runs of the time before, unless that was done"));
    }
    let size = std::fs::metadata(state.store()).map_or(0, |meta| meta.len());
    findings.push(Finding::ok("store", format!("{} ({} MiB)", path_text(&state.store()), size.div_ceil(1 << 20))));
    health(store, &Unclosed::of(closed), settings, findings)
}

fn health(store: &Store, unclosed: &Unclosed, settings: &Settings, findings: &mut Vec<Finding>) -> Result<(), CommandError> {
    let newest = store.runs(&RunFilter { running: false, limit: Some(1) })?.pop();
    if let Some(run) = newest.filter(|run| run.started_at > now_micros() + AHEAD) {
        let cause = format!(
            "run {} started in the future ({}): the clock was set back",
            short_id(&run.run_id),
            crate::show::time(run.started_at)
        );
        findings.push(Finding::warning("clock", cause, "set the clock (check with: timedatectl)"));
    }
    let failing = status::all(settings, (Some(store), unclosed))?.iter().filter(|job| job.word == Word::Failing).count();
    if failing > 0 {
        let cause = format!(
            "{} failed or {} refused after the last success",
            crate::show::counted(failing, "job"),
            if failing == 1 { "was" } else { "were" }
        );
        findings.push(Finding::warning("jobs", cause, "run lorchestra status to see which"));
    }
    Ok(())
}

pub(super) fn destinations(settings: &Settings, network: bool, findings: &mut Vec<Finding>) {
    if let Some(warning) = &settings.destinations_warning {
        findings.push(Finding::warning(
            "delivery",
            warning.clone(),
            "check [destinations] in config.toml and the BQ_* variables",
        ));
    }
    if settings.destinations.is_empty() {
        return findings.push(Finding::ok("delivery", "no destination is configured; events stay in the store"));
    }
    let state = StateDir::existing(&settings.state_dir).ok().flatten().filter(|state| state.store().exists());
    let store = state.and_then(|state| Store::open(&state).ok());
    for to in &settings.destinations {
        let unusable = match to {
            DestinationConfig::Jsonl(config) => directory(&config.dir),
            _ => None,
        };
        let is_usable = unusable.is_none();
        findings.extend(unusable);
        if let Some(store) = &store {
            match store.backlog(to.name(), None) {
                Err(error) => findings.push(Finding::error("delivery", chain(&error), "run lorchestra events flush")),
                Ok(left) => backlog(to, [left.pending, left.refused, left.uncertain], findings),
            }
        }
        if network && is_usable {
            findings.push(match delivery::answer(to, ANSWER) {
                Ok(()) => Finding::ok("delivery", format!("{} accepts events", to.label())),
                Err(error) => {
                    let found = Finding::of("delivery", &error);
                    Finding { fix: found.fix.or_else(|| Some(fix_of(to))), ..found }
                }
            });
            if let DestinationConfig::BigQuery(config) = to {
                // What cannot be read is reported above.
                for step in crate::commands::setup::missing(config.clone(), ANSWER).unwrap_or_default() {
                    findings.push(Finding::error("delivery", format!("not done yet: {step}"), "run lorchestra events setup"));
                }
            }
        }
    }
}

/// Where to look if a destination does not accept events and its answer does not say what to do.
fn fix_of(to: &DestinationConfig) -> String {
    match to {
        DestinationConfig::BigQuery(_) => "see docs/guides/runbooks/nothing-arrives-in-bigquery.md".into(),
        other => format!("correct [destinations.{}] in config.toml, then run lorchestra events flush", other.name()),
    }
}

fn directory(dir: &Path) -> Option<Finding> {
    let shown = path_text(dir);
    if dir.exists() && !dir.is_dir() {
        return Some(Finding::error("delivery", format!("{shown} is not a directory"), move_away(dir)));
    }
    if !dir.is_dir() {
        return Some(Finding::error("delivery", format!("the directory {shown} does not exist"), "run lorchestra events setup"));
    }
    let refused = check_writable(dir).err()?;
    let error = CommandError::refused(Code::NotWritable, &format!("cannot write to {shown}"), dir, &refused);
    let found = Finding::of("delivery", &error);
    Some(Finding { fix: found.fix.or_else(|| Some(format!("change its owner or mode (see: ls -ld {})", shell(dir)))), ..found })
}

fn backlog(to: &DestinationConfig, [pending, refused, uncertain]: [u64; 3], findings: &mut Vec<Finding>) {
    let label = to.label();
    if pending > 0 {
        let cause = format!("{} not in {label} yet", are(pending));
        findings.push(Finding::warning("delivery", cause, "run lorchestra events flush"));
    }
    if refused > 0 {
        let cause = format!("{label} refused {}", events(refused));
        findings.push(Finding::error(
            "delivery",
            cause,
            "see lorchestra events list --failed, fix the cause, then lorchestra events flush --resend-failed",
        ));
    }
    if uncertain > 0 {
        let cause = format!("{label}: cannot confirm that {} arrived", events(uncertain));
        findings.push(Finding::error("delivery", cause, "see lorchestra events list --uncertain"));
    }
}
