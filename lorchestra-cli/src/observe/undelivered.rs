//! Events that are not delivered: one line for each destination that has something to report, after a run and after `events flush`.

use crate::printer::Printer;
use lorchestra_core::delivery::{DestinationConfig, Refusal, Report, Trouble};
use lorchestra_core::store::{Backlog, StoreError};
use lorchestra_core::text::chain;

/// Prints what a run's delivery to one destination came to: one line about what is not delivered, if there is anything new.
pub(super) fn after_run(
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
        Ok(backlog) => self::report(to, report, backlog, printer),
        Err(error) => printer.warning(format_args!("the number of undelivered events is not known: {}", chain(error))),
    }
    if let Some(trouble @ Trouble::IntoAnother(_)) = &report.trouble
        && required
    {
        printer.warning(format_args!("the events are not where they should be: {}", why(trouble)));
    }
}

/// One line about what is not delivered, if there is anything new to report.
pub(crate) fn report(to: &DestinationConfig, report: &Report, backlog: Backlog, printer: &mut Printer) {
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

/// Why a delivery stopped.
pub(crate) fn why(trouble: &Trouble) -> String {
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

/// So many events.
pub(crate) fn events(n: u64) -> String {
    if n == 1 { "1 event".into() } else { format!("{n} events") }
}

/// The same, with its verb.
pub(crate) fn are(n: u64) -> String {
    if n == 1 { "1 event is".into() } else { format!("{n} events are") }
}
