//! Delivery for commands: `events flush`, and the checks before a run. Reports one line for each destination that has something to report.

use super::setup::blocking;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::observe::undelivered::{self, are, events, why};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::wire::FlushObject;
use lorchestra_core::delivery::{
    Deliveries, DeliveryError, Destination, DestinationConfig, FlushRequest, Incomplete, Progress, Report, Resend,
};
use lorchestra_core::host::state::StateDir;
use lorchestra_core::store::{Backlog, Store};
use std::time::Duration;

/// Default time limit of `events flush`. BigQuery's CreateWriteStream alone may take longer than a minute.
const FLUSH: Duration = Duration::from_secs(180);

/// Schema of the objects that `events flush --json` prints.
const FLUSHED: &str = "lorchestra.events-flush/1";

const NOT_STARTED: &str = "the job was not started, because its events must be delivered (--require-delivery)";

/// Interval between two checks of a permission.
const AGAIN: Duration = Duration::from_secs(1);

/// Returns the configured destinations, or only the one with this name; the error says what to configure.
pub(super) fn chosen<'a>(settings: &'a Settings, name: Option<&str>) -> Result<Vec<&'a DestinationConfig>, CommandError> {
    let chosen: Vec<_> = settings.destinations.iter().filter(|to| name.is_none_or(|name| name == to.name())).collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let what = match name {
        Some(name) => format!("the destination {name} is not configured"),
        None => "no destination is configured: events stay in the store".to_owned(),
    };
    Err(CommandError::new(Code::Config, what)
        .hint("set BQ_EVENTS_DATASET and BQ_EVENTS_TABLE, or [destinations.bigquery] in config.toml, to deliver to BigQuery")
        .hint("set [destinations.jsonl] in config.toml to deliver to JSON Lines files"))
}

pub(super) fn no_thread(error: std::io::Error) -> CommandError {
    CommandError::new(Code::Internal, format!("cannot start the delivery thread: {error}"))
}

pub(super) fn warn_once(settings: &Settings, printer: &mut Printer) {
    if let Some(warning) = &settings.destinations_warning {
        printer.warning(warning);
    }
}

/// Asks a destination whether it accepts events.
pub(super) fn answer(to: &DestinationConfig, limit: Duration) -> Result<(), CommandError> {
    let config = to.clone();
    let checked = blocking(async move {
        let mut destination = config.open()?;
        let late = || DeliveryError::Later {
            reason: format!("no answer within {}", lorchestra_core::plan::duration::show(limit)),
            after: None,
            perhaps_request: false,
        };
        tokio::time::timeout(limit, destination.connect()).await.unwrap_or_else(|_| Err(late()))
    })?;
    checked.map_err(|refusal| refused(&refusal))
}

/// With `--require-delivery`, refuses to start a job whose events cannot be delivered. A server that does not respond now may do so later.
///
/// Nothing has started yet, so a signal simply ends the process.
pub(super) fn check(settings: &Settings, limit: Duration) -> Result<(), CommandError> {
    for to in chosen(settings, None)? {
        let config = to.clone();
        let mut destination = config.open().map_err(|refusal| invalid(&refusal).hint(NOT_STARTED))?;
        let checked = blocking(async move {
            let mut refusal = None;
            let allowed = async {
                // A permission that was just granted takes minutes to apply.
                loop {
                    match destination.connect().await {
                        Err(forbidden @ DeliveryError::Forbidden(_)) => refusal = Some(forbidden),
                        answer => return answer,
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            };
            let answer = tokio::time::timeout(limit, allowed).await;
            answer.unwrap_or_else(|_| refusal.map_or(Ok(()), Err))
        })?;
        match checked {
            Ok(()) | Err(DeliveryError::Later { .. }) => {}
            Err(refusal) => return Err(refused(&refusal).hint(NOT_STARTED)),
        }
    }
    Ok(())
}

/// `events flush`.
pub(super) fn flush(
    (timeout, resend, json): (Option<Duration>, Resend, bool),
    to: Vec<DestinationConfig>,
    history: Option<&(StateDir, Store)>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let Some((state, store)) = history else {
        printer.note("No events yet.");
        let none = |to: &DestinationConfig| FlushObject { destination: to.name().to_owned(), ..FlushObject::default() };
        to.iter().filter(|_| json).for_each(|to| printer.json(&FlushObject { schema: FLUSHED, ..none(to) }));
        return Ok(Code::Success);
    };
    let mut signals = crate::commands::handle_signals()?;
    let request = FlushRequest { timeout: timeout.unwrap_or(FLUSH), insist: true, run_ids: Vec::new(), resend };
    let several = to.len() > 1;
    let mut failed: Option<CommandError> = None;
    let deliveries = Deliveries::start(&to, state).map_err(no_thread)?;
    for (to, report) in deliveries.finish(&request, Some(&mut signals)) {
        let backlog = store.backlog(to.name(), None)?;
        let where_to = if several { format!(" to {}", to.label()) } else { String::new() };
        if json {
            let Progress { delivered, refused, uncertain } = report.progress;
            printer.json(&FlushObject {
                schema: FLUSHED,
                destination: to.name().to_owned(),
                delivered,
                refused,
                uncertain,
                all_refused: backlog.refused,
                all_uncertain: backlog.uncertain,
                pending: backlog.pending,
                stopped: report.trouble.as_ref().map(why),
            });
        } else {
            printer.line(format_args!("Delivered {}{where_to}.", events(report.progress.delivered)));
        }
        // Also those of earlier calls: nothing else sends them.
        let all = Progress { refused: backlog.refused, uncertain: backlog.uncertain, ..report.progress };
        undelivered::report(to, &Report { trouble: None, progress: all }, backlog.pending, printer);
        let Some(failure) = report.trouble.as_ref().and_then(|trouble| flush_failure(trouble, backlog)) else { continue };
        // The first error is the command's; the others become warnings.
        match failed {
            None => failed = Some(failure),
            Some(_) => printer.warning(format_args!("{}: {}", to.label(), failure.message)),
        }
    }
    failed.map_or(Ok(Code::Success), Err)
}

fn flush_failure(trouble: &Incomplete, backlog: Backlog) -> Option<CommandError> {
    if backlog.pending == 0 && matches!(trouble, Incomplete::Elsewhere { .. }) {
        return None;
    }
    let failure = match trouble {
        Incomplete::Blocked(refusal) => refused(refusal),
        Incomplete::Interrupted(signal) => CommandError::new(Code::Interrupted(*signal), why(trouble)),
        other => CommandError::new(Code::Undelivered, why(other)),
    };
    Some(match trouble {
        Incomplete::IntoAnother(_) => failure,
        _ => failure.hint(format!("{} not delivered yet; nothing is lost", are(backlog.pending))),
    })
}

/// Turns an invalid setting of a destination into an error: it is refused without asking the destination.
pub(super) fn invalid(refusal: &DeliveryError) -> CommandError {
    CommandError::new(Code::Config, refusal.to_string()).hint("correct config.toml, or the variable that sets it")
}

/// Turns a refusal into an error. The refusal's text already includes its hint, if it has one.
pub(super) fn refused(refusal: &DeliveryError) -> CommandError {
    let failure = CommandError::new(Code::Undelivered, refusal.to_string());
    match refusal {
        DeliveryError::TargetMissing(_) => failure.hint("run lorchestra events setup to create it"),
        _ => failure,
    }
}
