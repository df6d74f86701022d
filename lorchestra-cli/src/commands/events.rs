//! `events list`, `flush`, `setup`.

use super::{delivery, find_run, history, setup};
use crate::exit::Code;
use crate::failure::Failure;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::values;
use chrono::Utc;
use clap::{Args, Subcommand};
use lorchestra_core::delivery::{DestinationConfig, Resend};
use lorchestra_core::plan;
use lorchestra_core::store::{Event, EventFilter, Store, Undelivered};
use lorchestra_core::text::printable;
use serde::Serialize;
use std::time::Duration;

/// An event as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    #[serde(flatten)]
    event: &'a Event,
    /// Of events that are not delivered: where to.
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Events {
    /// List events, oldest first
    #[command(
        before_help = "Examples:\n  lorchestra events list --since -1d --type job.failed\n  lorchestra events list --run 019ab --payload"
    )]
    List(EventList),
    /// Deliver pending events to the configured destinations
    #[command(before_help = "Examples:\n  lorchestra events flush\n  lorchestra events flush --timeout 10m")]
    Flush {
        /// How long to try [default: 60s]
        #[arg(long, value_parser = values::limit, value_name = "DURATION")]
        timeout: Option<Duration>,
        /// Deliver to this destination only
        #[arg(long, value_parser = DestinationConfig::NAMES, value_name = "NAME")]
        destination: Option<String>,
        /// Also send again what may have arrived already; it may then be there twice
        #[arg(long)]
        resend_uncertain: bool,
        /// Also send again what a destination refused, after the cause was fixed
        #[arg(long)]
        resend_failed: bool,
    },
    /// Create what the configured destinations lack (table, directory) and test them
    #[command(before_help = "Examples:\n  lorchestra events setup --dry-run\n  lorchestra events setup")]
    Setup {
        /// Say what would be made; make nothing
        #[arg(long)]
        dry_run: bool,
        /// How long to wait for the row that is written to show: a new table may take some minutes [default: 3m]
        #[arg(long, value_parser = values::limit, value_name = "DURATION")]
        timeout: Option<Duration>,
        /// Set up this destination only
        #[arg(long, value_parser = DestinationConfig::NAMES, value_name = "NAME")]
        destination: Option<String>,
    },
}

/// Which events are listed, and how.
#[derive(Debug, Args)]
pub(crate) struct EventList {
    /// Only those of this run: its id, or enough of its beginning or end
    #[arg(long)]
    pub(crate) run: Option<String>,
    /// Only those of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// Only those emitted at or after this time, e.g. -1d, yesterday, 2024-01-31
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Also payloads and subject ids, which may be personal
    #[arg(long)]
    pub(crate) payload: bool,
    /// Only events that are still to be delivered, of each destination
    #[arg(long, group = "delivery")]
    pub(crate) pending: bool,
    /// Only events that a destination refused for good, with its reason
    #[arg(long, group = "delivery")]
    pub(crate) failed: bool,
    /// Only events whose delivery could not be confirmed
    #[arg(long, group = "delivery")]
    pub(crate) uncertain: bool,
    /// With --pending, --failed or --uncertain: of this destination only
    #[arg(long, requires = "delivery", value_parser = DestinationConfig::NAMES, value_name = "NAME")]
    pub(crate) destination: Option<String>,
    /// One JSON object a line (schema lorchestra.event/1)
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn run(
    command: &Events,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, Failure> {
    match command {
        Events::List(wanted) => list(wanted, settings, notices, printer),
        Events::Flush { timeout, destination, resend_uncertain, resend_failed } => {
            let to = delivery::chosen(settings, destination.as_deref())?.into_iter().cloned().collect();
            delivery::warn_once(settings, printer);
            let history = history(settings, notices, printer)?;
            let resend = Resend { uncertain: *resend_uncertain, refused: *resend_failed };
            delivery::flush(*timeout, resend, to, history.as_ref(), printer)
        }
        Events::Setup { dry_run, timeout, destination } => {
            let to = delivery::chosen(settings, destination.as_deref())?.into_iter().cloned().collect();
            setup::set_up(*dry_run, *timeout, to, settings, printer)
        }
    }
}

fn list(wanted: &EventList, settings: &Settings, notices: &mut Notices<'_>, printer: &mut Printer) -> Result<Code, Failure> {
    let delivery = match (wanted.pending, wanted.failed, wanted.uncertain) {
        (true, ..) => Some(Undelivered::Pending),
        (_, true, _) => Some(Undelivered::Refused),
        (.., true) => Some(Undelivered::Uncertain),
        _ => None,
    };
    let since = match &wanted.since {
        None => None,
        Some(text) => Some(
            plan::time::parse(text, Utc::now())
                .map_err(|e| Failure::new(Code::Usage, format!("--since {text:?}: {e}")))?
                .timestamp_micros(),
        ),
    };
    let history = history(settings, notices, printer)?;
    let store = history.as_ref().map(|(_, store)| store);
    let run_id = match &wanted.run {
        None => None,
        Some(run) => Some(find_run(store, settings, run)?.run_id),
    };
    let Some(store) = store else {
        printer.note("No events yet.");
        return Ok(Code::Success);
    };
    let filter = EventFilter { run_id, event_type: wanted.event_type.clone(), since, delivery: None };
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
            printer.json(&Line { schema: "lorchestra.event/1", event: &event, destination });
        } else {
            printer.line(text(&event, destination.filter(|_| several)));
        }
        // A reader that has gone away: there is no use in reading on.
        if printer.is_broken() { Err(()) } else { Ok(()) }
    };
    // Err means that the reader went away; the printer knows.
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

/// Names of the destinations whose undelivered events are listed: those that are configured, else those that the store knows.
fn listed(wanted: &EventList, settings: &Settings, store: &Store) -> Result<Vec<String>, Failure> {
    if let Some(name) = &wanted.destination {
        return Ok(vec![name.clone()]);
    }
    let configured: Vec<String> = settings.destinations.iter().map(|to| to.name().to_owned()).collect();
    Ok(if configured.is_empty() { store.destinations()? } else { configured })
}

fn text(event: &Event, destination: Option<&str>) -> String {
    let mut text = format!("{}  {}  {}  run {}", event.created_at, event.event_type, event.source, event.run_id);
    if let Some(subject) = &event.subject_id {
        text.push_str(&format!("  subject {subject}"));
    }
    match (destination, &event.delivery_error) {
        (Some(name), Some(error)) => text.push_str(&format!("  ({name}: {error})")),
        (Some(name), None) => text.push_str(&format!("  ({name})")),
        (None, Some(error)) => text.push_str(&format!("  ({error})")),
        (None, None) => {}
    }
    if let Some(payload) = &event.payload {
        text.push_str("  ");
        text.push_str(payload.get());
    }
    printable(&text).replace('\n', " ")
}
