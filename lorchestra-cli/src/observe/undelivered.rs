//! Reports undelivered events: one line for each destination with something to report, after a run and after `events flush`.

use crate::printer::Printer;
use crate::show::counted;
use lorchestra_core::delivery::{DeliveryError, DestinationConfig, Incomplete, Report};
use lorchestra_core::store::{COUNTED, StoreError};
use lorchestra_core::text::chain;

/// Prints the result of a run's delivery to one destination: one line about undelivered events, if there is anything new.
pub(super) fn after_run(
    to: &DestinationConfig,
    report: &Report,
    pending: Result<u64, &StoreError>,
    [required, quiet]: [bool; 2],
    printer: &mut Printer,
) {
    // The process that holds the lock delivers our events too.
    let elsewhere = matches!(report.trouble, Some(Incomplete::Elsewhere { stopped: None })) && !required;
    // With -q, print only what a user must act on: the next run delivers the rest.
    let passing =
        matches!(report.trouble, Some(Incomplete::Unreachable(_) | Incomplete::Deadline(_) | Incomplete::Interrupted(_)));
    match pending {
        Ok(_) if elsewhere || quiet && passing && !required => {}
        Ok(pending) => self::report(to, report, pending, printer),
        Err(error) => printer.warning(format_args!("cannot count undelivered events: {}", chain(error))),
    }
    if let Some(trouble @ Incomplete::IntoAnother(_)) = &report.trouble
        && required
    {
        printer.warning(format_args!("the events went to another destination: {}", why(trouble)));
    }
}

/// Prints one line about undelivered events, if there is anything new to report.
pub(crate) fn report(to: &DestinationConfig, report: &Report, pending: u64, printer: &mut Printer) {
    let label = to.label();
    if report.progress.refused > 0 {
        let refused = report.progress.refused;
        printer.warning(format_args!("{label} refused {} (see lorchestra events list --failed)", events(refused)));
    }
    if report.progress.uncertain > 0 {
        let uncertain = events(report.progress.uncertain);
        printer
            .warning(format_args!("{label}: cannot confirm that {uncertain} arrived (see lorchestra events list --uncertain)"));
    }
    if pending == 0 {
        return;
    }
    let pending = format!("{} not in {label} yet", are(pending));
    match &report.trouble {
        None => {}
        Some(Incomplete::Blocked(DeliveryError::TargetMissing(reason))) => {
            let what = to.target_kind();
            printer.warning(format_args!("{pending} ({reason}): run lorchestra events setup to create the {what}"));
        }
        Some(trouble) => printer.warning(format_args!("{pending} ({}): run lorchestra events flush", why(trouble))),
    }
}

/// Describes why a delivery stopped.
pub(crate) fn why(trouble: &Incomplete) -> String {
    match trouble {
        Incomplete::Blocked(refusal) => refusal.to_string(),
        Incomplete::Unreachable(reason) => reason.clone(),
        Incomplete::Deadline(None) => "time ran out".into(),
        Incomplete::Deadline(Some(reason)) => reason.clone(),
        Incomplete::Interrupted(_) => "interrupted".into(),
        Incomplete::Elsewhere { stopped } => stopped.clone().unwrap_or_else(|| "another process is delivering".into()),
        Incomplete::IntoAnother(target) => {
            format!(
                "another process is delivering for this state directory, to {target}: use the same configuration for all processes"
            )
        }
        Incomplete::Store(error) => chain(error),
        Incomplete::Thread(what) => format!("internal error in lorchestra: {what}"),
    }
}

/// `1 event`, `2 events`.
pub(crate) fn events(n: u64) -> String {
    counted(n, "event")
}

/// `1 event is`, `2 events are`.
pub(crate) fn are(n: u64) -> String {
    match n {
        1 => "1 event is".into(),
        n if n > COUNTED => format!("more than {COUNTED} events are"),
        n => format!("{n} events are"),
    }
}
