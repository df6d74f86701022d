//! `status`: shows each job and account with its last success, later failures and usual duration. Exits with 1 if a job is
//! failing or stale. Which jobs are expected, and at which interval, is in `config.toml` (`expect_every`).

mod table;

use super::fleet::{Fleet, From, RunSource};
use super::history_and_unclosed;
use super::known::require_known;
use super::unclosed::Unclosed;
use crate::cells;
use crate::complete;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::{BAD, GOOD, Printer, WARNING};
use crate::settings::Settings;
use crate::show::{self, exact_time};
use crate::values;
use crate::wire::{self, JobStatus, RunSummary};
use anstyle::Style;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::store::bookmark::Key;
use lorchestra_core::store::{COUNTED, JobHealth, PendingJobs, Run, RunQuery, SetAside, Store, short_id};
use lorchestra_core::text::{escaped, path_text};
use std::time::Duration;

/// Maximum number of jobs to name in the last line.
const NAMED: usize = 3;

pub(super) const RULE: &str = "\
A job is failing if a run failed or was refused after its last success, or if the supervisor of a run died and the run cannot be closed (the \
state directory is read-only, for example). It is stale if its last success is older than expect_every in \
config.toml plus a tenth, or than --stale. A job that such a limit applies to and that never succeeded is stale if no run of it is running, \
or one has been running for longer than the limit.

SUCCESS is the age of the last success, TOOK the duration of the last run that started its job, and USUAL the median duration of successful runs. PENDING is the \
number of the job's events that a destination has not received yet (10+ means 10 or more: counting stops after 10000 events of all jobs). \
NEXT FROM is where the next --since last starts, in UTC: a time, or a date if it is more than 300 days away. Columns without any value are \
left out.";

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show only this package, or PACKAGE/JOB
    #[arg(add = ArgValueCompleter::new(complete::packages_or_pairs))]
    job: Option<String>,
    /// Treat jobs without expect_every in config.toml as stale if their last success is older than this
    #[arg(long, value_name = "DURATION", value_parser = values::age)]
    stale: Option<Duration>,
    #[command(flatten)]
    from: From,
    /// Run the command on_stale of config.toml for each stale job
    #[arg(long)]
    notify: bool,
    /// Print one JSON object (schema lorchestra.status/1)
    #[arg(long)]
    json: bool,
}

/// Status of a job as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Ok,
    Running,
    Stale,
    Failing,
    /// It has never completed and is not configured as expected.
    Idle,
}

impl Word {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Running => "running",
            Self::Stale => "stale",
            Self::Failing => "failing",
            Self::Idle => "idle",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Ok => GOOD,
            Self::Failing | Self::Stale => BAD,
            Self::Running => WARNING,
            Self::Idle => Style::new(),
        }
    }
}

/// Health of a job for an account, with its status.
pub(super) struct Judged {
    pub(super) health: JobHealth,
    pub(super) word: Word,
    pub(super) expected_every: Option<Duration>,
    /// The longest time without a success, of either kind, with its tolerance.
    limit: Option<Duration>,
    /// Where the next window starts.
    pub(super) bookmark: Option<i64>,
    /// Its events that a destination has not received; empty unless they were counted.
    pending: Vec<PendingCount>,
    /// A run whose supervisor is dead and that could not be closed, with the reason as its message.
    abandoned: Option<Run>,
}

/// The events of a job that one destination has not received.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PendingCount {
    destination: String,
    events: u64,
    /// Whether there may be more.
    is_minimum: bool,
}

pub(super) fn run(
    command: &Status,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let fleet = if command.from.from == RunSource::Bigquery { Some(Fleet::read(None, settings)?) } else { None };
    let (own, unclosed) = match fleet {
        Some(_) => (None, Unclosed::default()),
        None => history_and_unclosed(settings, notices, printer)?,
    };
    let store = fleet.as_ref().map(|fleet| &fleet.history).or(own.as_ref()).map(|(_, store)| store);
    let mut jobs = judged(command.job.as_deref(), command.stale, settings, (store, &unclosed))?;
    if let Some(name) = command.job.as_deref().filter(|_| jobs.is_empty()) {
        let (package, job) = split(name);
        require_known(package, job, settings, store).map_err(|failure| match fleet {
            Some(_) => failure.hint("--from bigquery reads the runs of the last 30 days"),
            None => failure,
        })?;
        // Whoever names a job and a limit expects a success within it.
        if let (Some(limit), Some(job)) = (command.stale, job) {
            let health = JobHealth::never_run(package, job);
            let word = word(&health, Some(limit), now_micros());
            let (expected_every, bookmark) = (None, None);
            let limit = Some(limit);
            jobs.push(Judged { word, health, expected_every, limit, bookmark, pending: Vec::new(), abandoned: None });
        }
    }
    let undelivered = match store.filter(|_| fleet.is_none()) {
        Some(store) => count_pending(&mut jobs, settings, store)?,
        None => Vec::new(),
    };
    let bad: Vec<&Judged> = jobs.iter().filter(|job| matches!(job.word, Word::Failing | Word::Stale)).collect();
    if command.json {
        let delivery = undelivered.iter().map(|of| wire::UndeliveredEvents {
            destination: of.to.name().to_owned(),
            pending: of.pending,
            refused: of.set_aside.refused,
            uncertain: of.set_aside.uncertain,
        });
        printer.json(&wire::StatusObject {
            schema: "lorchestra.status/1",
            healthy: bad.is_empty(),
            jobs: jobs.iter().map(object).collect(),
            delivery: delivery.collect(),
        });
    } else {
        table::print(&jobs, printer);
        let of = if command.job.is_some() { " (of all jobs)" } else { "" };
        for text in undelivered.iter().flat_map(|undelivered| undelivered.texts(of)) {
            cells::folded(&text, printer.width().unwrap_or(usize::MAX)).iter().for_each(|line| printer.line(line));
        }
        if jobs.is_empty() {
            let what = command.job.as_ref().map_or_else(|| "No job".to_owned(), |name| escaped(name));
            let has = if command.job.is_some() { "has not run" } else { "has run" };
            let state = path_text(&settings.state_dir);
            printer.note(match fleet {
                Some(_) => format!("{what} {has} in the last 30 days, as far as the events table shows."),
                None => format!("{what} {has} yet (state directory {state}, {}).", settings.user()),
            });
        }
    }
    if command.notify {
        for Judged { health, .. } in jobs.iter().filter(|job| job.word == Word::Stale) {
            let last = health.last_success.as_ref().map(|run| exact_time(run.ended_at.unwrap_or(run.started_at)));
            notices.add_stale([&health.package, &health.job], health.account.as_deref(), last.as_deref());
        }
    }
    if !bad.is_empty() {
        let need = if jobs.len() == 1 { "needs" } else { "need" };
        let jobs = show::counted(jobs.len(), "job");
        // The table may have scrolled away, so it names as many as fit.
        let text = |named: usize| {
            let mut names: Vec<String> = bad.iter().take(named).map(|job| table::name(job)).collect();
            if bad.len() > named {
                names.push(format!("{} more", bad.len() - named));
            }
            let names = if named == 0 { String::new() } else { format!(": {}", names.join(", ")) };
            format!("{} of {jobs} {need} attention{names}.", bad.len())
        };
        let fits = |text: &String| printer.width().is_none_or(|width| cells::width(text) <= width);
        printer.note((1..=NAMED).rev().map(text).find(fits).unwrap_or_else(|| text(0)));
    }
    Ok(if bad.is_empty() { Code::Success } else { Code::Failed })
}

/// The events that a destination has not received.
struct UndeliveredTo<'a> {
    to: &'a DestinationConfig,
    /// One more than [`COUNTED`] if there are more.
    pending: u64,
    set_aside: SetAside,
}

impl UndeliveredTo<'_> {
    /// The lines about them; none if there are no such events. `of` says which jobs they cover.
    fn texts(&self, of: &str) -> Vec<String> {
        let label = self.to.label();
        let counted = |n: u64| {
            let more = if n > COUNTED { "more than " } else { "" };
            format!("{more}{}", show::counted(n.min(COUNTED), "event"))
        };
        let SetAside { refused, uncertain } = self.set_aside;
        let mut texts = Vec::new();
        if self.pending > 0 {
            texts.push(format!("Delivery: {} pending to {label}{of}", counted(self.pending)));
        }
        if refused > 0 {
            texts.push(format!("Delivery: {label} refused {}{of} (see lorchestra events list --failed)", counted(refused)));
        }
        if uncertain > 0 {
            let what = format!("cannot confirm that {} arrived{of}", counted(uncertain));
            texts.push(format!("Delivery: {label}: {what} (see lorchestra events list --uncertain)"));
        }
        texts
    }
}

/// Adds the pending events of each job, and returns the undelivered events of each destination.
fn count_pending<'a>(jobs: &mut [Judged], settings: &'a Settings, store: &Store) -> Result<Vec<UndeliveredTo<'a>>, CommandError> {
    let mut totals = Vec::new();
    for to in &settings.destinations {
        let counted = store.pending_jobs(to.name())?;
        for job in jobs.iter_mut() {
            let events = pending_of(&job.health, to.name(), &counted, store)?;
            job.pending.push(PendingCount {
                destination: to.name().to_owned(),
                events: events.min(COUNTED),
                is_minimum: counted.is_cut,
            });
        }
        totals.push(UndeliveredTo { to, pending: counted.total, set_aside: store.set_aside(to.name())? });
    }
    Ok(totals)
}

/// Returns the number of events of a job that are known to be pending. If counting stopped before its first event, its latest run shows
/// whether there are any: one more search for each job, however many events are pending.
fn pending_of(health: &JobHealth, to: &str, counted: &PendingJobs, store: &Store) -> Result<u64, CommandError> {
    let events = counted.of(&health.package, &health.job, health.account.as_deref());
    if events > 0 || !counted.is_cut {
        return Ok(events);
    }
    let runs = [&health.last, &health.running].into_iter().flatten();
    runs.map(|run| Ok(store.unsent_of(to, &run.run_id)?)).sum()
}

/// Returns package and job of `PACKAGE` or `PACKAGE/JOB`.
fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once('/').map_or((name, None), |(package, job)| (package, Some(job)))
}

/// Returns all jobs.
pub(super) fn all(settings: &Settings, history: (Option<&Store>, &Unclosed)) -> Result<Vec<Judged>, CommandError> {
    judged(None, None, settings, history)
}

fn judged(
    only: Option<&str>,
    stale: Option<Duration>,
    settings: &Settings,
    (store, unclosed): (Option<&Store>, &Unclosed),
) -> Result<Vec<Judged>, CommandError> {
    let (package, job) = only.map_or((None, None), |name| {
        let (package, job) = split(name);
        (Some(package.to_owned()), job.map(str::to_owned))
    });
    let mut known = match store {
        Some(store) => store.health(&RunQuery { package: package.clone(), job: job.clone(), ..RunQuery::default() })?,
        None => Vec::new(),
    };
    let wanted = |a: &str, b: &str| package.as_ref().is_none_or(|p| p == a) && job.as_ref().is_none_or(|j| j == b);
    for (name, config) in &settings.jobs {
        let Some((package, job)) = name.split_once('/') else { continue };
        let is_known = known.iter().any(|health| health.package == package && health.job == job);
        if config.expect_every.is_some() && !is_known && wanted(package, job) {
            known.push(JobHealth::never_run(package, job));
        }
    }
    known.sort_by(|a, b| (&a.package, &a.job, &a.account).cmp(&(&b.package, &b.job, &b.account)));
    let now = now_micros();
    let mut lost = store.map(|store| unclosed.runs(store)).transpose()?.unwrap_or_default();
    known
        .into_iter()
        .map(|mut health| {
            let is_of = |run: &mut Run| run.has_key(&health.package, &health.job, health.account.as_deref());
            let its_lost: Vec<Run> = lost.extract_if(.., is_of).collect();
            health.failures += its_lost.len() as u64;
            let abandoned = its_lost.into_iter().min_by_key(|run| run.started_at);
            if abandoned.is_some() {
                health.running = health.running.filter(|run| unclosed.reason(run).is_none());
            }
            let expected_every =
                settings.jobs.get(&format!("{}/{}", health.package, health.job)).and_then(|job| job.expect_every);
            let key = Key { package: &health.package, job: &health.job, account: health.account.as_deref() };
            let bookmark = store.map(|store| store.bookmark(key)).transpose()?.flatten().map(|bookmark| bookmark.at);
            // A tolerance of a tenth, because run times vary.
            let limit = expected_every.map(|every| every + every / 10).or(stale);
            let word = if abandoned.is_some() { Word::Failing } else { word(&health, limit, now) };
            Ok(Judged { word, health, expected_every, limit, bookmark, pending: Vec::new(), abandoned })
        })
        .collect()
}

fn word(health: &JobHealth, limit: Option<Duration>, now: i64) -> Word {
    let is_over = |since: i64| {
        let age = Duration::from_micros(u64::try_from(now - since).unwrap_or(0));
        limit.is_some_and(|limit| age > limit)
    };
    match (&health.last_success, &health.failure, &health.running) {
        (_, Some(_), _) => Word::Failing,
        (Some(success), ..) if is_over(success.ended_at.unwrap_or(success.started_at)) => Word::Stale,
        // A job that hangs in its first run has no success that could become too old.
        (None, None, Some(run)) if is_over(run.started_at) => Word::Stale,
        (_, None, Some(_)) => Word::Running,
        (None, None, None) if limit.is_some() => Word::Stale,
        (Some(_), None, None) => Word::Ok,
        (None, None, None) => Word::Idle,
    }
}

fn object(job: &Judged) -> JobStatus {
    let JobHealth { package, job: name, account, last_success, last, running, failure, failures, usual } = &job.health;
    let now = now_micros();
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let run = |run: &Run| RunSummary {
        run_id: run.run_id.clone(),
        short_id: short_id(&run.run_id).to_owned(),
        state: run.state.as_str(),
        cause: run.cause,
        message: run.message.clone(),
        started_at: exact_time(run.started_at),
        ended_at: run.ended_at.map(exact_time),
        duration_ms: super::runs::duration(run).map(millis),
    };
    let pending = job.pending.iter().map(|PendingCount { destination, events, is_minimum }| wire::JobPending {
        destination: destination.clone(),
        pending: *events,
        is_minimum: *is_minimum,
    });
    JobStatus {
        package: package.clone(),
        job: name.clone(),
        account: account.clone(),
        status: job.word.as_str(),
        expected_every_s: job.expected_every.map(|every| every.as_secs()),
        last_success: last_success.as_ref().map(run),
        last_success_age_s: last_success.as_ref().map(|run| (now - run.ended_at.unwrap_or(run.started_at)) / 1_000_000),
        last: last.as_ref().map(run),
        running: running.as_ref().map(run),
        abandoned: job.abandoned.as_ref().map(run),
        failure: failure.as_ref().map(run),
        failures_in_row: *failures,
        usual_ms: usual.map(millis),
        next_since: job.bookmark.map(exact_time),
        pending: pending.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorchestra_core::store::RunState;

    const DAY: Duration = Duration::from_secs(86_400);

    fn run(state: RunState, started_at: i64, ended_at: Option<i64>) -> Run {
        Run { state, started_at, ended_at, ..table::tests::run() }
    }

    #[test]
    fn a_job_that_never_ran_is_stale_only_where_it_is_expected() {
        let never = JobHealth::never_run("p", "j");
        assert_eq!(word(&never, None, 0), Word::Idle);
        assert_eq!(word(&never, Some(Duration::from_secs(1)), 0), Word::Stale);
    }

    #[test]
    fn a_job_that_hangs_in_its_first_run_becomes_stale() {
        let (started_at, day) = (1_700_000_000_000_000, 86_400_000_000);
        let running = Some(run(RunState::Running, started_at, None));
        let first = JobHealth { running: running.clone(), ..JobHealth::never_run("p", "j") };
        assert_eq!(word(&first, None, started_at + 9 * day), Word::Running, "nobody expects it");
        assert_eq!(word(&first, Some(DAY), started_at + day - 1), Word::Running);
        assert_eq!(word(&first, Some(DAY), started_at + day + 1), Word::Stale);
        assert_eq!(word(&first, Some(DAY), started_at - day), Word::Running, "the clock was set back");
        // Runs that ended without a success or a failure do not change that.
        let skipped = Some(run(RunState::Skipped, started_at, Some(started_at)));
        let again = JobHealth { last: skipped, ..first.clone() };
        assert_eq!(word(&again, Some(DAY), started_at + day + 1), Word::Stale);
        // A success decides by its own age.
        let success = Some(run(RunState::Completed, started_at + day, Some(started_at + day)));
        let fresh = JobHealth { last_success: success, ..first };
        assert_eq!(word(&fresh, Some(DAY), started_at + 2 * day - 1), Word::Running);
        assert_eq!(word(&fresh, Some(DAY), started_at + 2 * day + 1), Word::Stale);
    }
}
