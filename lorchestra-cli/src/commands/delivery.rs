//! Delivery as a person sees it: started beside a run, finished after it, `events flush`, `events setup`.

use crate::exit::Code;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::settings::Settings;
use lorchestra_core::delivery::bigquery::{BigQuery, BigQueryConfig, setup};
use lorchestra_core::delivery::{Destination, Live, Refusal, Report, Request, Resend, Trouble};
use lorchestra_core::host::signals::Signals;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::plan::duration;
use lorchestra_core::store::{Backlog, Store, StoreError};
use lorchestra_core::text::chain;
use std::time::Duration;

/// How long `events flush` tries.
const FLUSH: Duration = Duration::from_secs(60);
/// How long `events setup` waits for its row to show.
const PROBE: Duration = Duration::from_secs(180);

/// The table, or what to set.
pub(super) fn table(settings: &Settings) -> Result<&BigQueryConfig, Failure> {
    settings.bigquery.as_ref().ok_or_else(|| {
        Failure::new(Code::Config, "no BigQuery table is named: events stay in the store")
            .mend("set BQ_EVENTS_DATASET and BQ_EVENTS_TABLE, or [bigquery] in config.toml")
            .mend("docs/bigquery.md: set-up in five minutes")
    })
}

/// Delivers from now on.
fn start(settings: &Settings, state: &StateDir, printer: &mut Printer) -> Result<Option<Live>, Failure> {
    let Some(config) = settings.bigquery.clone() else { return Ok(None) };
    warn_once(settings, printer);
    let live = Live::start(state, move || BigQuery::new(config)).map_err(no_thread)?;
    Ok(Some(live))
}

fn no_thread(error: std::io::Error) -> Failure {
    Failure::new(Code::Internal, format!("the delivery thread could not be started: {error}"))
}

pub(super) fn warn_once(settings: &Settings, printer: &mut Printer) {
    if let Some(warning) = &settings.bigquery_warning {
        printer.warning(warning);
    }
}

/// Refuses to begin what will not be delivered, with `--require-delivery`. A server that does not answer now may do so later.
///
/// Nothing has begun yet: a signal ends the process as it ends any.
pub(super) fn check(settings: &Settings, limit: Duration) -> Result<(), Failure> {
    let config = table(settings)?.clone();
    let checked = blocking(async move {
        let mut table = BigQuery::new(config)?;
        tokio::time::timeout(limit, table.connect()).await.unwrap_or(Ok(()))
    })?;
    match checked {
        Ok(()) | Err(Refusal::Later { .. }) => Ok(()),
        Err(refusal) => Err(refused(&refusal).mend("the job was not started: --require-delivery")),
    }
}

/// Prints what a run's delivery came to: one line about what is not delivered, if there is anything new.
pub(crate) fn after_run(
    report: &Report,
    backlog: Result<Backlog, &StoreError>,
    [required, quiet]: [bool; 2],
    printer: &mut Printer,
) {
    // Whoever holds the lock delivers our events too.
    let elsewhere = matches!(report.trouble, Some(Trouble::Elsewhere)) && !required;
    // With -q only what needs a person is printed: the next run delivers the rest.
    let passing = matches!(report.trouble, Some(Trouble::Unreachable(_) | Trouble::Deadline(_) | Trouble::Interrupted(_)));
    match backlog {
        Ok(_) if elsewhere || quiet && passing && !required => {}
        Ok(backlog) => tell(report, backlog, printer),
        Err(error) => printer.warning(format_args!("the number of undelivered events is not known: {}", chain(error))),
    }
    if let Some(trouble @ Trouble::IntoAnother(_)) = &report.trouble
        && required
    {
        printer.warning(format_args!("the events are not in the table that is named: {}", why(trouble)));
    }
}

/// One line about what is not delivered, if there is anything new to say.
fn tell(report: &Report, backlog: Backlog, printer: &mut Printer) {
    if report.progress.refused > 0 {
        let refused = report.progress.refused;
        printer.warning(format_args!("BigQuery refused {}: lorchestra events list --failed", events(refused)));
    }
    if report.progress.uncertain > 0 {
        let uncertain = events(report.progress.uncertain);
        printer.warning(format_args!("whether {uncertain} arrived is not known: lorchestra events list --uncertain"));
    }
    if backlog.pending == 0 {
        return;
    }
    let pending = format!("{} not in BigQuery yet", are(backlog.pending));
    match &report.trouble {
        None => {}
        Some(Trouble::Blocked(Refusal::TableMissing(reason))) => {
            printer.warning(format_args!("{pending} ({reason}): lorchestra events setup makes the table"));
        }
        Some(trouble) => printer.warning(format_args!("{pending} ({}): lorchestra events flush", why(trouble))),
    }
}

fn why(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Blocked(refusal) => refusal.to_string(),
        Trouble::Unreachable(reason) => reason.clone(),
        Trouble::Deadline(None) => "there was no more time".into(),
        Trouble::Deadline(Some(reason)) => reason.clone(),
        Trouble::Interrupted(_) => "interrupted".into(),
        Trouble::Elsewhere => "another process delivers".into(),
        Trouble::IntoAnother(table) => {
            format!("another process delivers for this state directory, into {table}: name one table in all of them")
        }
        Trouble::Store(error) => chain(error),
        Trouble::Thread(what) => format!("a fault of lorchestra: {what}"),
    }
}

fn events(n: u64) -> String {
    if n == 1 { "1 event".into() } else { format!("{n} events") }
}

fn are(n: u64) -> String {
    if n == 1 { "1 event is".into() } else { format!("{n} events are") }
}

/// `events flush`.
pub(super) fn flush(
    timeout: Option<Duration>,
    resend: Resend,
    settings: &Settings,
    history: Option<&(StateDir, Store)>,
    printer: &mut Printer,
) -> Result<Code, Failure> {
    table(settings)?;
    let Some((state, store)) = history else {
        printer.note("No events yet.");
        return Ok(Code::Success);
    };
    let mut signals = Signals::install().map_err(|e| Failure::new(Code::Internal, format!("signals cannot be handled: {e}")))?;
    let Some(live) = start(settings, state, printer)? else { return Ok(Code::Success) };
    let request = Request { timeout: timeout.unwrap_or(FLUSH), insist: true, run_id: None, resend };
    let report = live.finish(&request, Some(&mut signals));
    let backlog = store.backlog(None)?;
    printer.line(format_args!("Delivered {}.", events(report.progress.delivered)));
    tell(&Report { trouble: None, ..report }, backlog, printer);
    let Some(trouble) = &report.trouble else { return Ok(Code::Success) };
    if backlog.pending == 0 && matches!(trouble, Trouble::Elsewhere) {
        return Ok(Code::Success);
    }
    let failure = match trouble {
        Trouble::Blocked(refusal) => refused(refusal),
        Trouble::Interrupted(signal) => Failure::new(Code::Interrupted(*signal), why(trouble)),
        other => Failure::new(Code::Undelivered, why(other)),
    };
    if matches!(trouble, Trouble::IntoAnother(_)) {
        return Err(failure);
    }
    Err(failure.mend(format!("{} still to be delivered; nothing is lost", are(backlog.pending))))
}

/// `events setup`.
pub(super) fn set_up(
    dry_run: bool,
    timeout: Option<Duration>,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<Code, Failure> {
    let config = table(settings)?.clone();
    warn_once(settings, printer);
    let mut table = BigQuery::new(config).map_err(|refusal| refused(&refusal))?;
    let limit = timeout.unwrap_or(PROBE);
    let late = || Failure::new(Code::Undelivered, format!("BigQuery did not answer within {}", duration::show(limit)));
    let plan = blocking(async { tokio::time::timeout(limit, setup::plan(&mut table)).await })?;
    let plan = plan.map_err(|_| late())?.map_err(|refusal| refused(&refusal))?;
    let prefix = if dry_run { "would " } else { "" };
    for step in &plan.steps {
        printer.line(format_args!("{prefix}{step}"));
    }
    if dry_run {
        if plan.steps.is_empty() {
            printer.line(format_args!("{} has all it needs", plan.table));
        }
        return Ok(Code::Success);
    }
    printer.flush();
    let done = blocking(async {
        match tokio::time::timeout(limit, setup::apply(&mut table, &plan)).await {
            Ok(Ok(())) => Ok(setup::probe(&mut table, limit).await),
            Ok(Err(refusal)) => Ok(Err(refusal)),
            Err(_) => Err(late()),
        }
    })??;
    let event_id = done.map_err(|refusal| refused(&refusal))?;
    printer.good(format_args!("{} is ready: event {event_id} was written and read back", plan.table));
    Ok(Code::Success)
}

/// A refusal as a failure: its text has the mend where there is one.
fn refused(refusal: &Refusal) -> Failure {
    let failure = Failure::new(Code::Undelivered, refusal.to_string());
    match refusal {
        Refusal::TableMissing(_) => failure.mend("lorchestra events setup makes it"),
        _ => failure,
    }
}

/// Waits for what the destination does, in a command that does nothing else.
fn blocking<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_thread)?;
    Ok(runtime.block_on(work))
}
