//! From the arguments of `backfill` to its members: the windows of the range, for every account and every combination of a matrix, each as a
//! run spec that is resolved and checked like that of `run-job`.

use super::{Backfill, BackfillFlags};
use crate::commands::jobs::unknown_policies;
use crate::commands::resolve::{SpecRequest, resolve};
use crate::commands::{find_job, history, locked_to};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::secrets::{self, Configured};
use crate::settings::Settings;
use crate::show::counted;
use crate::wire::BackfillWindow;
use chrono::{DateTime, NaiveTime, Utc};
use lorchestra_core::group::plan_file::PlannedMember;
use lorchestra_core::packages::catalog::Catalog;
use lorchestra_core::packages::library::Library;
use lorchestra_core::plan::every::{Every, TimeRange, tile};
use lorchestra_core::plan::{OnOverlap, OverlapKey, ParamArg, RunPolicy, RunSpec, last, time};
use lorchestra_core::run::launch;
use lorchestra_core::store::group::NewMember;
use lorchestra_core::store::{RunQuery, RunState, Store};
use lorchestra_core::text::printable;
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{JobManifest, ParamManifest};
use uuid::Uuid;

/// What `backfill` is about to do.
pub(super) struct PlannedBackfill {
    /// `PACKAGE/JOB`.
    pub(super) name: String,
    pub(super) flags: BackfillFlags,
    pub(super) members: Vec<BackfillMember>,
    /// The accounts for which completed runs cover the whole range (with `--merge`).
    pub(super) covered: Vec<Option<String>>,
    /// The whole range, in microseconds since 1970.
    pub(super) range: (i64, i64),
    /// The library that every member uses.
    pub(super) library: Library,
}

/// A window and its run.
pub(super) struct BackfillMember {
    pub(super) label: String,
    pub(super) spec: RunSpec,
}

impl BackfillMember {
    pub(super) fn stored(&self) -> NewMember {
        NewMember { stage: 0, label: self.label.clone(), spec: self.spec.to_json() }
    }
}

impl BackfillMember {
    pub(super) fn planned(self) -> PlannedMember {
        PlannedMember { label: self.label, spec: self.spec }
    }
}

/// Plans a backfill. Returns a code for a command that has printed help.
pub(super) fn plan(
    command: &Backfill,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Result<PlannedBackfill, Code>, CommandError> {
    let (Some(package_name), Some(job_name)) = (command.package.as_deref(), command.job.as_deref()) else {
        return Err(CommandError::new(Code::Usage, "missing arguments PACKAGE and JOB").hint("see lorchestra backfill --help"));
    };
    let catalog = Catalog::scan(&settings.plugin_dirs);
    let (package, manifest, job) = &find_job(&catalog, package_name, job_name)?;
    unknown_policies(&catalog, settings, false, printer);
    let parsed = match flags::parse_for::<BackfillFlags>("backfill", package_name, job, &command.rest) {
        flags::ParseOutcome::Parsed(parsed) => parsed,
        flags::ParseOutcome::Failed(failure) => return Err(failure),
        flags::ParseOutcome::Clap(error) => return Ok(Err(printer.clap(&error))),
    };
    let (own, mut given) = (parsed.own, parsed.given);
    given.extend(flags::named(&own.param)?);
    unless_windowed(package_name, job, &given)?;
    let now = Utc::now();
    let range = range(&own, now)?;
    let every = own.every.ok_or_else(|| missing("--every", "--every 1d"))?;
    let windows = tile(range.0, range.1, every)
        .map_err(|error| CommandError::new(Code::Usage, format!("--from {} --to {}: {error}", shown(range.0), shown(range.1))))?;
    if !own.drive.quiet {
        warn_uneven(range, every, &own, printer);
    }
    let combinations = combinations(job, &mut given, &own.matrix)?;
    let library = launch::seal(&package.path, package_name, lock(&own, settings)?.as_ref())?;
    let group = Uuid::now_v7().to_string();
    let resolver = Resolver { package: package_name, version: &manifest.version, job, given: &given, own: &own, now, settings };
    let store = if own.merge { history(settings, notices, printer)?.map(|(_, store)| store) } else { None };
    let mut members = Vec::new();
    let mut by_combination: Vec<Vec<TimeRange>> = Vec::new();
    let mut firsts: Vec<BackfillMember> = Vec::new();
    for combination in &combinations {
        let first =
            BackfillMember { label: label(windows[0], combination), spec: resolver.spec(combination, windows[0], &group)? };
        let remaining = if own.merge { missing_ranges(&windows, &first.spec, store.as_ref())? } else { windows.clone() };
        by_combination.push(remaining);
        unless_twice(&firsts, &first)?;
        firsts.push(first);
    }
    let covered = covered(&firsts, &by_combination);
    // All accounts of a window before the next window, so that every account advances.
    let most = by_combination.iter().map(Vec::len).max().unwrap_or(0);
    for place in 0..most {
        for (combination, ranges) in combinations.iter().zip(&by_combination) {
            let Some(range) = ranges.get(place) else { continue };
            let spec = resolver.spec(combination, *range, &group)?;
            members.push(BackfillMember { label: label(*range, combination), spec });
        }
    }
    if let Some(first) = members.first() {
        launch::fit(&first.spec, &library)?;
        // Before thousands of runs are refused for the same reason.
        secrets::find(&first.spec, &Configured::default(), settings)?;
    }
    for member in &mut members {
        member.spec.sha256 = Some(library.sha256().to_owned());
    }
    let range = (range.0.timestamp_micros(), range.1.timestamp_micros());
    let name = format!("{package_name}/{job_name}");
    Ok(Ok(PlannedBackfill { name, flags: own, members, covered, range, library }))
}

/// Returns the accounts of which no combination has anything left to run.
fn covered(firsts: &[BackfillMember], by_combination: &[Vec<TimeRange>]) -> Vec<Option<String>> {
    let accounts = || firsts.iter().map(|first| &first.spec.account).zip(by_combination);
    let mut covered: Vec<Option<String>> = Vec::new();
    for (account, _) in accounts() {
        let is_open = accounts().any(|(other, remaining)| other == account && !remaining.is_empty());
        if !is_open && !covered.contains(account) {
            covered.push(account.clone());
        }
    }
    covered
}

/// Fails if a combination means the same as one of the others: values can be spelled differently.
fn unless_twice(others: &[BackfillMember], new: &BackfillMember) -> Result<(), CommandError> {
    let Some(same) = others.iter().find(|other| other.spec.params == new.spec.params && other.spec.account == new.spec.account)
    else {
        return Ok(());
    };
    let what = format!("{} and {} are the same run: two values mean the same", same.label, new.label);
    Err(CommandError::new(Code::Usage, what).hint("give each value once"))
}

fn lock(own: &BackfillFlags, settings: &Settings) -> Result<Option<lorchestra_core::packages::lockfile::Lockfile>, CommandError> {
    if own.drive.locked || settings.locked { locked_to(settings).map(Some) } else { Ok(None) }
}

/// Prints the members of a dry run.
pub(super) fn print(members: &[BackfillMember], as_json: bool, printer: &mut Printer) {
    for (member, place) in members.iter().zip(0_u32..) {
        if as_json {
            let (label, spec) = (member.label.clone(), member.spec.clone());
            printer.json(&BackfillWindow { schema: "lorchestra.backfill-window/1", place, label, spec });
        } else {
            printer.line(printable(&member.label));
        }
    }
    if !as_json {
        printer.note(format_args!("{} (dry run: nothing was started)", counted(members.len(), "run")));
    }
}

fn missing(flag: &str, example: &str) -> CommandError {
    CommandError::new(Code::Usage, format!("{flag} is missing")).hint(format!("for example: {example}"))
}

fn range(own: &BackfillFlags, now: DateTime<Utc>) -> Result<TimeRange, CommandError> {
    let read = |flag: &str, text: &Option<String>, example: &str| {
        let text = text.as_deref().ok_or_else(|| missing(flag, example))?;
        time::parse(text, now).map_err(|error| CommandError::new(Code::Usage, format!("{flag} {text:?}: {error}")))
    };
    Ok((read("--from", &own.from, "--from 2024-01-01")?, read("--to", &own.to, "--to 2025-01-01")?))
}

/// Warns about an end that is not at a whole day, hour or minute, whichever `--every` counts: it depends on when the command is called, so another
/// call has other windows, and runs the same time again.
fn warn_uneven(range: TimeRange, every: Every, own: &BackfillFlags, printer: &mut Printer) {
    let (unit, name) = match every {
        Every::Seconds(seconds) if seconds % 86_400 != 0 && seconds % 3_600 == 0 => (3_600, "an hour"),
        Every::Seconds(seconds) if seconds % 3_600 != 0 => (60, "a minute"),
        _ => (86_400, "a day"),
    };
    for (flag, text, at) in [("--from", &own.from, range.0), ("--to", &own.to, range.1)] {
        if at.timestamp_micros() % (unit * 1_000_000) != 0 {
            let text = text.as_deref().unwrap_or_default();
            let start = DateTime::from_timestamp(at.timestamp() - at.timestamp().rem_euclid(unit), 0).unwrap_or(at);
            let example = match unit {
                86_400 => format!("a date, such as {}", start.format("%F")),
                _ => format!("{}, for example", time::show(start)),
            };
            printer.warning(format_args!(
                "{flag} {text} is {}, not the beginning of {name}: a later call has other windows, and runs the same time again; \
                 write {example}",
                time::show(at),
            ));
        }
    }
}

/// Fails unless the job has both ends of a window, and neither was given.
fn unless_windowed(package: &str, job: &JobManifest, given: &[ParamArg]) -> Result<(), CommandError> {
    for name in ["since", "until"] {
        if !job.params.iter().any(|param| param.name == name && param.kind == ParamKind::DateTime) {
            let what = format!("{package}/{} has no parameter {name}, so it cannot be run for windows of time", job.name);
            return Err(CommandError::new(Code::Usage, what)
                .hint(format!("run lorchestra jobs show {package} {} to see its parameters", job.name)));
        }
        if let Some(given) = given.iter().find(|given| given.name == name) {
            let what = format!("{} contradicts --from, --to and --every, which set it for each window", given.typed_as);
            return Err(CommandError::new(Code::Usage, what).hint("omit it"));
        }
    }
    Ok(())
}

/// Removes the values of each dimension from `given`, and returns all combinations: of repeated accounts, and of each `--matrix`.
fn combinations(job: &JobManifest, given: &mut Vec<ParamArg>, matrix: &[String]) -> Result<Vec<Vec<ParamArg>>, CommandError> {
    let mut dimensions: Vec<Vec<ParamArg>> = Vec::new();
    if let Some(param) = job.params.iter().find(|param| last::is_account(param)) {
        let (accounts, rest) = std::mem::take(given).into_iter().partition(|given| given.name == param.name);
        *given = rest;
        dimensions.push(accounts);
    }
    for text in matrix {
        let (name, values) =
            text.split_once('=').filter(|(name, values)| !name.is_empty() && !values.is_empty()).ok_or_else(|| {
                CommandError::new(Code::Usage, format!("--matrix {text}: there is no name or no value"))
                    .hint("write --matrix name=a,b,c")
            })?;
        let is_named = |param: &&ParamManifest| param.name == name || param.flag() == name;
        let Some(param) = job.params.iter().find(is_named) else {
            let names: Vec<&str> = job.params.iter().map(|param| param.name.as_str()).collect();
            let failure = CommandError::new(Code::Usage, format!("--matrix {text}: {} has no parameter {name}", job.name));
            return Err(failure.hint(format!("it has {}", names.join(", "))));
        };
        let twice = given.iter().chain(dimensions.iter().flatten()).any(|other| other.name == param.name);
        if twice || param.kind == ParamKind::Secret || matches!(param.name.as_str(), "since" | "until") {
            let what = format!("--matrix {text}: {} cannot be varied, or has another value already", param.name);
            return Err(CommandError::new(Code::Usage, what).hint("set each parameter once, and no secret or end of the window"));
        }
        if values.split(',').any(str::is_empty) {
            let what = format!("--matrix {text}: a value is empty");
            return Err(CommandError::new(Code::Usage, what).hint("remove the comma at the end, or one of two commas in a row"));
        }
        let arg = |value: &str| ParamArg {
            name: param.name.clone(),
            text: value.to_owned(),
            typed_as: format!("--matrix {name}"),
            is_configured: false,
        };
        dimensions.push(values.split(',').map(arg).collect());
    }
    let mut all = vec![Vec::new()];
    for dimension in dimensions.iter().filter(|dimension| !dimension.is_empty()) {
        let mut unique: Vec<&ParamArg> = Vec::new();
        for value in dimension {
            if unique.iter().any(|other| other.text == value.text) {
                let what = format!("{} {:?} is given twice", value.typed_as, value.text);
                return Err(CommandError::new(Code::Usage, what).hint("give each value once"));
            }
            unique.push(value);
        }
        all = all
            .iter()
            .flat_map(|so_far: &Vec<ParamArg>| {
                unique.iter().map(|value| so_far.iter().chain([*value]).cloned().collect::<Vec<_>>()).collect::<Vec<_>>()
            })
            .collect();
    }
    Ok(all)
}

/// Everything that the members share.
struct Resolver<'a> {
    package: &'a str,
    version: &'a str,
    job: &'a JobManifest,
    given: &'a [ParamArg],
    own: &'a BackfillFlags,
    now: DateTime<Utc>,
    settings: &'a Settings,
}

impl Resolver<'_> {
    fn spec(&self, combination: &[ParamArg], window: TimeRange, group: &str) -> Result<RunSpec, CommandError> {
        let Self { package, version, job, given, own, now, settings } = *self;
        let end = |name: &str, flag: &str, at| ParamArg {
            name: name.into(),
            text: time::show(at),
            typed_as: flag.into(),
            is_configured: false,
        };
        let mut values = given.to_vec();
        values.extend(combination.iter().cloned());
        values.extend([end("since", "--from", window.0), end("until", "--to", window.1)]);
        let policy = RunPolicy {
            timeout: own.timeout,
            grace: own.grace,
            on_overlap: Some(OnOverlap::Fail),
            retries: own.retries,
            memory_max: own.memory_max,
            ..RunPolicy::default()
        };
        let request = SpecRequest { package, version, job, values, policy, group, now, bookmark: None };
        let mut spec = resolve(request, settings)?;
        spec.overlap_key = OverlapKey::Window;
        spec.moves_bookmark = false;
        Ok(spec)
    }
}

/// Returns what completed runs with the parameters of `first` do not cover, with adjacent windows joined.
fn missing_ranges(windows: &[TimeRange], first: &RunSpec, store: Option<&Store>) -> Result<Vec<TimeRange>, CommandError> {
    let query = RunQuery {
        package: Some(first.package.clone()),
        job: Some(first.job.clone()),
        account: Some(first.account.clone().unwrap_or_default()),
        ..RunQuery::default()
    };
    let mut runs = Vec::new();
    // A claimed run has completed on another host.
    for state in [RunState::Completed, RunState::Claimed] {
        if let Some(store) = store {
            runs.extend(store.find_runs(&RunQuery { state: Some(state), ..query.clone() }, u64::MAX)?);
        }
    }
    let mut done: Vec<TimeRange> = Vec::new();
    for run in runs {
        let Ok(spec) = run.spec() else { continue };
        let Some(window) = spec.window else { continue };
        let mut same = first.clone();
        same.window = spec.window;
        if spec.covers(&same) {
            done.push((window.since.unwrap_or(DateTime::<Utc>::MIN_UTC), window.until));
        }
    }
    Ok(joined(windows, &done))
}

/// Returns the windows that the union of `done` does not cover, with adjacent ones joined.
fn joined(windows: &[TimeRange], done: &[TimeRange]) -> Vec<TimeRange> {
    let mut done = done.to_vec();
    done.sort_unstable();
    let mut covered: Vec<TimeRange> = Vec::new();
    for (since, until) in done {
        match covered.last_mut() {
            Some(last) if since <= last.1 => last.1 = last.1.max(until),
            _ => covered.push((since, until)),
        }
    }
    let mut remaining: Vec<TimeRange> = Vec::new();
    for window in windows {
        if covered.iter().any(|done| done.0 <= window.0 && window.1 <= done.1) {
            continue;
        }
        match remaining.last_mut() {
            Some(last) if last.1 == window.0 => last.1 = window.1,
            _ => remaining.push(*window),
        }
    }
    remaining
}

/// Names a member: its window, then its account and other values.
fn label((since, until): TimeRange, combination: &[ParamArg]) -> String {
    let mut label = format!("{}..{}", shown(since), shown(until));
    for value in combination {
        label = format!("{label} {}", value.text);
    }
    label
}

/// A day, or an instant.
fn shown(at: DateTime<Utc>) -> String {
    if at.time() == NaiveTime::MIN { at.format("%F").to_string() } else { time::show(at) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(day * 86_400, 0).unwrap()
    }

    fn ranges(days: &[(i64, i64)]) -> Vec<TimeRange> {
        days.iter().map(|(since, until)| (at(*since), at(*until))).collect()
    }

    #[test]
    fn what_is_missing_is_joined() {
        let windows: Vec<(i64, i64)> = (0..10).map(|day| (day, day + 1)).collect();
        for (done, expected) in [
            (&[][..], &[(0, 10)][..]),
            (&[(0, 10)], &[]),
            (&[(3, 4)], &[(0, 3), (4, 10)]),
            // A window that is covered by two runs together; one that is covered in part.
            (&[(2, 4), (4, 6), (-5, 1)], &[(1, 2), (6, 10)]),
            (&[(9, 20), (0, 1)], &[(1, 9)]),
        ] {
            assert_eq!(joined(&ranges(&windows), &ranges(done)), ranges(expected), "{done:?}");
        }
        let half = [(at(3), at(3) + chrono::TimeDelta::hours(12))];
        assert_eq!(joined(&ranges(&windows), &half), ranges(&[(0, 10)]), "half a window is not covered");
    }
}
