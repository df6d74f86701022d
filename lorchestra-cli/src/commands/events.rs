//! `events list`, `flush`, `setup`.

use super::{delivery, find_run, history};
use crate::args::{EventList, Events};
use crate::exit::Code;
use crate::failure::Failure;
use crate::notify::Notices;
use crate::printer::Printer;
use crate::settings::Settings;
use chrono::Utc;
use lorchestra_core::delivery::Resend;
use lorchestra_core::plan;
use lorchestra_core::store::{Event, EventFilter, Undelivered};
use lorchestra_core::text::printable;
use serde::Serialize;

/// An event as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    #[serde(flatten)]
    event: &'a Event,
}

pub(super) fn run(
    command: &Events,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, Failure> {
    match command {
        Events::List(wanted) => list(wanted, settings, notices, printer),
        Events::Flush { timeout, resend_uncertain, resend_failed } => {
            let history = history(settings, notices, printer)?;
            let resend = Resend { uncertain: *resend_uncertain, refused: *resend_failed };
            delivery::flush(*timeout, resend, settings, history.as_ref(), printer)
        }
        Events::Setup { dry_run, timeout } => delivery::set_up(*dry_run, *timeout, settings, printer),
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
    let filter = EventFilter { run_id, event_type: wanted.event_type.clone(), since, delivery };
    let mut any = false;
    let each = |mut event: Event| {
        any = true;
        if !wanted.payload {
            event.payload = None;
            event.subject_id = None;
        }
        if wanted.json {
            printer.json(&Line { schema: "lorchestra.event/1", event: &event });
        } else {
            printer.line(text(&event));
        }
        // A reader that has gone away: there is no use in reading on.
        if printer.is_broken() { Err(()) } else { Ok(()) }
    };
    // Err means that the reader went away; the printer knows.
    let _ = store.events(&filter, each)?;
    if !any {
        printer.note("No such events.");
    }
    Ok(Code::Success)
}

fn text(event: &Event) -> String {
    let mut text = format!("{}  {}  {}  run {}", event.created_at, event.event_type, event.source, event.run_id);
    if let Some(subject) = &event.subject_id {
        text.push_str(&format!("  subject {subject}"));
    }
    if let Some(error) = &event.delivery_error {
        text.push_str(&format!("  ({error})"));
    }
    if let Some(payload) = &event.payload {
        text.push_str("  ");
        text.push_str(payload.get());
    }
    printable(&text).replace('\n', " ")
}
