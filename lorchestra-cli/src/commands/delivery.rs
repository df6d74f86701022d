//! Delivery as a person sees it: started beside a run, finished after it, and `events flush`. One line for each destination that has something
//! to report.

use super::setup::blocking;
use crate::exit::Code;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::settings::Settings;
use lorchestra_core::delivery::{Deliveries, Destination, DestinationConfig, Refusal, Report, Request, Resend, Trouble};
use lorchestra_core::host::signals::Signals;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::store::{Backlog, Store, StoreError};
use lorchestra_core::text::chain;
use std::time::Duration;

/// How long `events flush` tries.
const FLUSH: Duration = Duration::from_secs(60);

/// The destinations that are configured, or only the one with this name; or what to configure.
pub(super) fn chosen<'a>(settings: &'a Settings, name: Option<&str>) -> Result<Vec<&'a DestinationConfig>, Failure> {
    let chosen: Vec<_> = settings.destinations.iter().filter(|to| name.is_none_or(|name| name == to.name())).collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let what = match name {
        Some(name) => format!("the destination {name} is not configured"),
        None => "no destination is configured: events stay in the store".to_owned(),
    };
    Err(Failure::new(Code::Config, what)
        .mend("set BQ_EVENTS_DATASET and BQ_EVENTS_TABLE, or [destinations.bigquery] in config.toml, for BigQuery: docs/bigquery.md")
        .mend("set [destinations.jsonl] in config.toml for files of JSON lines: docs/jsonl.md"))
}

pub(super) fn no_thread(error: std::io::Error) -> Failure {
    Failure::new(Code::Internal, format!("the delivery thread could not be started: {error}"))
}

pub(super) fn warn_once(settings: &Settings, printer: &mut Printer) {
    if let Some(warning) = &settings.destinations_warning {
        printer.warning(warning);
    }
}

/// Refuses to begin what will not be delivered, with `--require-delivery`. A server that does not answer now may do so later.
///
/// Nothing has begun yet: a signal ends the process as it ends any.
pub(super) fn check(settings: &Settings, limit: Duration) -> Result<(), Failure> {
    for to in chosen(settings, None)? {
        let config = to.clone();
        let checked = blocking(async move {
            let mut destination = config.open()?;
            tokio::time::timeout(limit, destination.connect()).await.unwrap_or(Ok(()))
        })?;
        match checked {
            Ok(()) | Err(Refusal::Later { .. }) => {}
            Err(refusal) => return Err(refused(&refusal).mend("the job was not started: --require-delivery")),
        }
    }
    Ok(())
}

/// Prints what a run's delivery to one destination came to: one line about what is not delivered, if there is anything new.
pub(crate) fn after_run(
    to: &DestinationConfig,
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
        Ok(backlog) => tell(to, report, backlog, printer),
        Err(error) => printer.warning(format_args!("the number of undelivered events is not known: {}", chain(error))),
    }
    if let Some(trouble @ Trouble::IntoAnother(_)) = &report.trouble
        && required
    {
        printer.warning(format_args!("the events are not where they should be: {}", why(trouble)));
    }
}

/// One line about what is not delivered, if there is anything new to report.
fn tell(to: &DestinationConfig, report: &Report, backlog: Backlog, printer: &mut Printer) {
    let label = to.label();
    if report.progress.refused > 0 {
        let refused = report.progress.refused;
        printer.warning(format_args!("{label} refused {}: lorchestra events list --failed", events(refused)));
    }
    if report.progress.uncertain > 0 {
        let uncertain = events(report.progress.uncertain);
        printer.warning(format_args!("whether {uncertain} arrived is not known: lorchestra events list --uncertain"));
    }
    if backlog.pending == 0 {
        return;
    }
    let pending = format!("{} not in {label} yet", are(backlog.pending));
    match &report.trouble {
        None => {}
        Some(Trouble::Blocked(Refusal::TableMissing(reason))) => {
            let what = if matches!(to, DestinationConfig::BigQuery(_)) { "table" } else { "directory" };
            printer.warning(format_args!("{pending} ({reason}): lorchestra events setup makes the {what}"));
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
        Trouble::IntoAnother(target) => {
            format!("another process delivers for this state directory, into {target}: configure the same one for all of them")
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
    to: Vec<DestinationConfig>,
    history: Option<&(StateDir, Store)>,
    printer: &mut Printer,
) -> Result<Code, Failure> {
    let Some((state, store)) = history else {
        printer.note("No events yet.");
        return Ok(Code::Success);
    };
    let mut signals = Signals::install().map_err(|e| Failure::new(Code::Internal, format!("signals cannot be handled: {e}")))?;
    let request = Request { timeout: timeout.unwrap_or(FLUSH), insist: true, run_id: None, resend };
    let several = to.len() > 1;
    let mut failed: Option<Failure> = None;
    let deliveries = Deliveries::start(&to, state).map_err(no_thread)?;
    for (to, report) in deliveries.finish(&request, Some(&mut signals)) {
        let backlog = store.backlog(to.name(), None)?;
        let where_to = if several { format!(" to {}", to.label()) } else { String::new() };
        printer.line(format_args!("Delivered {}{where_to}.", events(report.progress.delivered)));
        tell(to, &Report { trouble: None, progress: report.progress }, backlog, printer);
        let Some(failure) = report.trouble.as_ref().and_then(|trouble| flush_failure(trouble, backlog)) else { continue };
        // The first one is the command's; what is wrong elsewhere is not kept back.
        match failed {
            None => failed = Some(failure),
            Some(_) => printer.warning(format_args!("{}: {}", to.label(), failure.message)),
        }
    }
    failed.map_or(Ok(Code::Success), Err)
}

fn flush_failure(trouble: &Trouble, backlog: Backlog) -> Option<Failure> {
    if backlog.pending == 0 && matches!(trouble, Trouble::Elsewhere) {
        return None;
    }
    let failure = match trouble {
        Trouble::Blocked(refusal) => refused(refusal),
        Trouble::Interrupted(signal) => Failure::new(Code::Interrupted(*signal), why(trouble)),
        other => Failure::new(Code::Undelivered, why(other)),
    };
    Some(match trouble {
        Trouble::IntoAnother(_) => failure,
        _ => failure.mend(format!("{} still to be delivered; nothing is lost", are(backlog.pending))),
    })
}

/// A refusal as a failure: its text has the hint where there is one.
pub(super) fn refused(refusal: &Refusal) -> Failure {
    let failure = Failure::new(Code::Undelivered, refusal.to_string());
    match refusal {
        Refusal::TableMissing(_) => failure.mend("lorchestra events setup makes it"),
        _ => failure,
    }
}
