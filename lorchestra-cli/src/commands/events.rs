//! `events list`, `export`, `flush`, `setup`.

mod export;

use super::{delivery, find_run, history, setup};
use crate::complete;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::values;
use crate::wire::EventLine;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use lorchestra_core::delivery::{DestinationConfig, Resend};
use lorchestra_core::store::{Event, EventFilter, Store, Undelivered, short_id};
use lorchestra_core::text::printable;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Events {
    /// List events, oldest first
    #[command(
        before_help = "Examples:\n  lorchestra events list --since -1d --type job.failed\n  lorchestra events list --run last --payload"
    )]
    List(EventList),
    /// Export events with their payloads
    #[command(
        before_help = "Examples:\n  lorchestra events export --format jsonl --since -1d\n  lorchestra events export --format csv -o events.csv"
    )]
    Export(export::EventExport),
    /// Deliver pending events to the configured destinations
    #[command(before_help = "Examples:\n  lorchestra events flush\n  lorchestra events flush --timeout 10m")]
    Flush {
        /// Stop after this long [default: 3m]
        #[arg(long, value_parser = values::patience, value_name = "DURATION")]
        timeout: Option<Duration>,
        /// Deliver only to this destination
        #[arg(long, value_parser = DestinationConfig::NAMES, value_name = "NAME")]
        destination: Option<String>,
        /// Also resend events whose delivery could not be confirmed (may create duplicates)
        #[arg(long)]
        resend_uncertain: bool,
        /// Also resend events that a destination refused (once the cause is fixed)
        #[arg(long)]
        resend_failed: bool,
        /// Print one JSON object per destination and line (schema lorchestra.events-flush/1)
        #[arg(long)]
        json: bool,
    },
    /// Create missing tables and directories of the configured destinations, and test them
    #[command(before_help = "Examples:\n  lorchestra events setup --dry-run\n  lorchestra events setup")]
    Setup {
        /// Print what would be created without creating it
        #[arg(long)]
        dry_run: bool,
        /// Wait this long for the test row to appear (a new table can take minutes) [default: 3m]
        #[arg(long, value_parser = values::patience, value_name = "DURATION")]
        timeout: Option<Duration>,
        /// Set up only this destination
        #[arg(long, value_parser = DestinationConfig::NAMES, value_name = "NAME")]
        destination: Option<String>,
        /// Print one JSON object per destination and line (schema lorchestra.events-setup/1)
        #[arg(long)]
        json: bool,
    },
}

/// Filters and format of `events list`.
#[derive(Debug, Args)]
pub(crate) struct EventList {
    /// Show only events of this run (id, short id, `last`, or PACKAGE/JOB for its newest run)
    #[arg(long, add = ArgValueCompleter::new(complete::runs))]
    pub(crate) run: Option<String>,
    /// Show only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// Show only events emitted at or after this time, e.g. -1d, yesterday, 2024-01-31
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Show payloads and subject ids as well (they may contain personal data)
    #[arg(long)]
    pub(crate) payload: bool,
    /// Show only events that are not delivered yet, per destination
    #[arg(long, group = "delivery")]
    pub(crate) pending: bool,
    /// Show only events that a destination refused, with the reason
    #[arg(long, group = "delivery")]
    pub(crate) failed: bool,
    /// Show only events whose delivery could not be confirmed
    #[arg(long, group = "delivery")]
    pub(crate) uncertain: bool,
    /// With --pending, --failed or --uncertain: show only this destination
    #[arg(long, requires = "delivery", value_parser = DestinationConfig::NAMES, value_name = "NAME")]
    pub(crate) destination: Option<String>,
    /// Print one JSON object per line (schema lorchestra.event/1)
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn run(
    command: &Events,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    match command {
        Events::List(wanted) => list(wanted, settings, notices, printer),
        Events::Export(wanted) => export::export(wanted, settings, notices, printer),
        Events::Flush { timeout, destination, resend_uncertain, resend_failed, json } => {
            let to = delivery::chosen(settings, destination.as_deref())?.into_iter().cloned().collect();
            delivery::warn_once(settings, printer);
            let history = history(settings, notices, printer)?;
            let resend = Resend { uncertain: *resend_uncertain, refused: *resend_failed };
            delivery::flush((*timeout, resend, *json), to, history.as_ref(), printer)
        }
        Events::Setup { dry_run, timeout, destination, json } => {
            let to = delivery::chosen(settings, destination.as_deref())?.into_iter().cloned().collect();
            setup::set_up([*dry_run, *json], *timeout, to, settings, printer)
        }
    }
}

/// Returns the filter for the events of a run, of a type, since a time.
fn filter(
    run: Option<&str>,
    event_type: Option<&str>,
    since: Option<i64>,
    store: Option<&Store>,
    settings: &Settings,
) -> Result<EventFilter, CommandError> {
    let run_id = run.map(|run| find_run(store, settings, run)).transpose()?.map(|run| run.run_id);
    Ok(EventFilter { run_id, event_type: event_type.map(str::to_owned), since, delivery: None })
}

fn list(wanted: &EventList, settings: &Settings, notices: &mut Notices<'_>, printer: &mut Printer) -> Result<Code, CommandError> {
    let delivery = match (wanted.pending, wanted.failed, wanted.uncertain) {
        (true, ..) => Some(Undelivered::Pending),
        (_, true, _) => Some(Undelivered::Refused),
        (.., true) => Some(Undelivered::Uncertain),
        _ => None,
    };
    let since = values::time("--since", wanted.since.as_deref())?;
    let history = history(settings, notices, printer)?;
    let store = history.as_ref().map(|(_, store)| store);
    let filter = filter(wanted.run.as_deref(), wanted.event_type.as_deref(), since, store, settings)?;
    let Some(store) = store else {
        if let Some(name) = &wanted.destination {
            delivery::chosen(settings, Some(name))?;
        }
        printer.note("No events yet.");
        return Ok(Code::Success);
    };
    let names = listed(wanted, settings, store)?;
    let several = names.len() > 1;
    let mut any = false;
    let mut each = |mut event: Event, destination: Option<&str>| {
        any = true;
        if !wanted.payload {
            event.payload = None;
            event.subject_id = None;
        }
        if wanted.json {
            printer.json(&EventLine { schema: "lorchestra.event/1", event: &event, destination });
        } else {
            printer.line(text(&event, destination.filter(|_| several)));
        }
        // Stop if the reader has gone away.
        if printer.is_broken() { Err(()) } else { Ok(()) }
    };
    // `Err` means that the reader has gone away, which the printer knows.
    match delivery {
        None => drop(store.events(&filter, |event| each(event, None))?),
        Some(state) => {
            for name in &names {
                let filter = EventFilter { delivery: Some((state, name.clone())), ..filter.clone() };
                if store.events(&filter, |event| each(event, Some(name)))?.is_err() {
                    break;
                }
            }
        }
    }
    if !any {
        printer.note("No such events.");
    }
    Ok(Code::Success)
}

/// Returns the names of the destinations whose undelivered events to list: the configured ones, or else those in the store.
fn listed(wanted: &EventList, settings: &Settings, store: &Store) -> Result<Vec<String>, CommandError> {
    if let Some(name) = &wanted.destination {
        // Events of a destination that is no longer configured are still in the store.
        if !store.destinations()?.contains(name) {
            delivery::chosen(settings, Some(name))?;
        }
        return Ok(vec![name.clone()]);
    }
    let configured: Vec<String> = settings.destinations.iter().map(|to| to.name().to_owned()).collect();
    Ok(if configured.is_empty() { store.destinations()? } else { configured })
}

/// Formats an event with its payload as a line of JSON.
fn json_line(event: &Event) -> String {
    let line = EventLine { schema: "lorchestra.event/1", event, destination: None };
    serde_json::to_string(&line).unwrap_or_default()
}

fn text(event: &Event, destination: Option<&str>) -> String {
    let mut text = format!("{}  {}  {}  run {}", event.created_at, event.event_type, event.source, short_id(&event.run_id));
    if let Some(subject) = &event.subject_id {
        text.push_str(&format!("  subject {subject}"));
    }
    match (destination, &event.delivery_error) {
        (Some(name), Some(error)) => text.push_str(&format!("  ({name}: {error})")),
        (Some(name), None) => text.push_str(&format!("  ({name})")),
        (None, Some(error)) => text.push_str(&format!("  ({error})")),
        (None, None) => {}
    }
    if event.damaged {
        text.push_str("  (damaged in the store: its checksum does not match)");
    }
    if let Some(payload) = &event.payload {
        text.push_str("  ");
        text.push_str(payload.get());
    }
    printable(&text).replace('\n', " ")
}
