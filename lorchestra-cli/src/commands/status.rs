//! `status`: shows each job and account with its last success, later failures and usual duration. Exits with 1 if a job is
//! failing or stale. Which jobs are expected, and at which interval, is in `config.toml` (`expect_every`).

use super::fleet::{Fleet, From, RunSource};
use super::history;
use super::runs::why;
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
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::store::bookmark::Key;
use lorchestra_core::store::{COUNTED, JobHealth, Run, RunQuery, Store, short_id};
use lorchestra_core::text::{self, escaped, path_text};
use std::time::Duration;

/// Indentation of the second line of a job, in columns.
const INDENT: usize = 10;
/// Width of the name and account together if the line is not limited, in columns.
const WIDE: usize = 120;

pub(super) const RULE: &str = "\
A job is failing if a run failed or was refused after its last success. It is stale if its last success is older than expect_every in \
config.toml plus a tenth, or than --stale.

SUCCESS is the age of the last success, FAILS the number of failures since then, TOOK the duration of the last run, and USUAL the median \
duration of successful runs.";

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show only this package, or PACKAGE/JOB
    job: Option<String>,
    /// Treat jobs without expect_every in config.toml as stale if their last success is older than this
    #[arg(long, value_name = "DURATION", value_parser = values::limit)]
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
    /// Where the next window starts.
    pub(super) bookmark: Option<i64>,
}

pub(super) fn run(
    command: &Status,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let fleet = if command.from.from == RunSource::Bigquery { Some(Fleet::read(None, settings)?) } else { None };
    let own = if fleet.is_none() { history(settings, notices, printer)? } else { None };
    let store = fleet.as_ref().map(|fleet| &fleet.history).or(own.as_ref()).map(|(_, store)| store);
    let jobs = judged(command.job.as_deref(), command.stale, settings, store)?;
    let pending: Vec<([&str; 2], u64)> = match store.filter(|_| fleet.is_none()) {
        Some(store) => settings
            .destinations
            .iter()
            .map(|to| Ok(([to.name(), to.label()], store.pending(to.name())?)))
            .collect::<Result<_, CommandError>>()?,
        None => Vec::new(),
    };
    let bad = jobs.iter().filter(|job| matches!(job.word, Word::Failing | Word::Stale)).count();
    if command.json {
        let pending = pending.iter().map(|([name, _], n)| wire::PendingEvents { destination: (*name).to_owned(), pending: *n });
        printer.json(&wire::StatusObject {
            schema: "lorchestra.status/1",
            healthy: bad == 0,
            jobs: jobs.iter().map(object).collect(),
            delivery: pending.collect(),
        });
    } else {
        table(&jobs, printer);
        for ([_, to], n) in pending.iter().filter(|(_, n)| *n > 0) {
            let more = if *n > COUNTED { "more than " } else { "" };
            printer.line(format_args!("Delivery: {more}{} events pending to {to}", (*n).min(COUNTED)));
        }
        if jobs.is_empty() {
            let state = path_text(&settings.state_dir);
            printer.note(format_args!("No job has run yet (state directory {state}, {}).", settings.user()));
        }
    }
    if command.notify {
        for Judged { health, .. } in jobs.iter().filter(|job| job.word == Word::Stale) {
            let last = health.last_success.as_ref().map(|run| exact_time(run.ended_at.unwrap_or(run.started_at)));
            notices.add_stale([&health.package, &health.job], health.account.as_deref(), last.as_deref());
        }
    }
    if bad > 0 {
        let need = if jobs.len() == 1 { "needs" } else { "need" };
        printer.note(format_args!("{bad} of {} {need} attention.", show::counted(jobs.len(), "job")));
    }
    Ok(if bad == 0 { Code::Success } else { Code::Failed })
}

/// Returns all jobs.
pub(super) fn all(settings: &Settings, store: Option<&Store>) -> Result<Vec<Judged>, CommandError> {
    judged(None, None, settings, store)
}

fn judged(
    only: Option<&str>,
    stale: Option<Duration>,
    settings: &Settings,
    store: Option<&Store>,
) -> Result<Vec<Judged>, CommandError> {
    let (package, job) = match only.map(|name| name.split_once('/').ok_or(name)) {
        None => (None, None),
        Some(Ok((package, job))) => (Some(package.to_owned()), Some(job.to_owned())),
        Some(Err(package)) => (Some(package.to_owned()), None),
    };
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
    known
        .into_iter()
        .map(|health| {
            let expected_every =
                settings.jobs.get(&format!("{}/{}", health.package, health.job)).and_then(|job| job.expect_every);
            let key = Key { package: &health.package, job: &health.job, account: health.account.as_deref() };
            let bookmark = store.map(|store| store.bookmark(key)).transpose()?.flatten().map(|bookmark| bookmark.at);
            // A tolerance of a tenth, because run times vary.
            let limit = expected_every.map(|every| every + every / 10).or(stale);
            Ok(Judged { word: word(&health, limit, now), health, expected_every, bookmark })
        })
        .collect()
}

fn word(health: &JobHealth, limit: Option<Duration>, now: i64) -> Word {
    let is_old = |success: &Run| {
        let age = Duration::from_micros(u64::try_from(now - success.ended_at.unwrap_or(success.started_at)).unwrap_or(0));
        limit.is_some_and(|limit| age > limit)
    };
    match (&health.last_success, &health.failure, &health.running) {
        (_, Some(_), _) => Word::Failing,
        (Some(success), ..) if is_old(success) => Word::Stale,
        (_, None, Some(_)) => Word::Running,
        (None, None, None) if limit.is_some() => Word::Stale,
        (Some(_), None, None) => Word::Ok,
        (None, None, None) => Word::Idle,
    }
}

fn table(jobs: &[Judged], printer: &mut Printer) {
    if jobs.is_empty() {
        return;
    }
    let names: Vec<String> = jobs.iter().map(|job| format!("{}/{}", job.health.package, job.health.job)).collect();
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(3);
    let has_account = jobs.iter().any(|job| job.health.account.is_some());
    let column = |name: &str, account: &str| {
        if has_account { format!("{name:longest$}  {account}") } else { format!("{name:longest$}") }
    };
    let whats: Vec<String> = jobs
        .iter()
        .zip(&names)
        .map(|(job, name)| {
            let account = job.health.account.as_deref().map(|account| escaped(&text::one_line(account))).unwrap_or_default();
            column(name, &account)
        })
        .collect();
    // STATUS, SUCCESS, FAILS, TOOK and USUAL.
    let room = printer.width().unwrap_or(WIDE).saturating_sub(INDENT + 9 + 7 + 9 + 9);
    let width =
        whats.iter().map(|what| what.chars().count()).max().unwrap_or(0).max(column("JOB", "ACCOUNT").chars().count()).min(room);
    let line = |status: &str, what: &str, [success, fails, took, usual]: [&str; 4]| {
        format!("{status:<8}  {:width$}  {success:>7}  {fails:>5}  {took:>7}  {usual:>7}", show::fitted(what, width))
    };
    printer.line(line("STATUS", &column("JOB", "ACCOUNT"), ["SUCCESS", "FAILS", "TOOK", "USUAL"]).trim_end());
    let now = now_micros();
    for (job, what) in jobs.iter().zip(&whats) {
        let JobHealth { last_success, last, failure, failures, usual, .. } = &job.health;
        let age = last_success.as_ref().map_or("never".into(), |run| show::age(now, run.ended_at.unwrap_or(run.started_at)));
        let took = last.as_ref().and_then(super::runs::duration).map(show::elapsed).unwrap_or_default();
        let usual = usual.map(show::elapsed).unwrap_or_default();
        let style = job.word.style();
        let plain = line(job.word.as_str(), what, [&age, &failures.to_string(), &took, &usual]);
        let (word, rest) = plain.split_at(8);
        printer.line(format_args!("{style}{word}{style:#}{}", rest.trim_end()));
        let reason = match (job.word, failure) {
            (Word::Failing, Some(run)) => {
                why(run).map(|why| format!("{} ago (run {}) {why}", show::age(now, run.started_at), short_id(&run.run_id)))
            }
            (Word::Stale, _) => {
                job.expected_every.map(|every| format!("expected every {}", lorchestra_core::plan::duration::show(every)))
            }
            _ => None,
        };
        if let Some(reason) = reason {
            let width = printer.width().map_or(text::LINE, |width| width.saturating_sub(INDENT));
            printer.line(format_args!("{:INDENT$}{}", "", show::fitted(&reason, width)));
        }
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
        failure: failure.as_ref().map(run),
        failures_in_row: *failures,
        usual_ms: usual.map(millis),
        next_since: job.bookmark.map(exact_time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_never_ran_is_stale_only_where_it_is_expected() {
        let never = JobHealth::never_run("p", "j");
        assert_eq!(word(&never, None, 0), Word::Idle);
        assert_eq!(word(&never, Some(Duration::from_secs(1)), 0), Word::Stale);
    }
}
