//! The package that the benches list and run, and that emits. It has ten jobs, like each of the listed packages; four of them do something.
//!
//! The name is `pkg-0000` so that copies of the library can be given other names of the same length.
#![forbid(unsafe_code)]

mod emit;
mod filler;

use emit::{compare_emit, flood, paced};
use filler::{archive_invoices, extract_calendar, extract_chat, extract_mail, refresh_index, sync_contacts};
use lorchestra_plugin_api::prelude::*;

plugin! {
    package = "pkg-0000",
    jobs = [
        noop, compare_emit, flood, paced, extract_mail, extract_chat, extract_calendar, sync_contacts, archive_invoices,
        refresh_index,
    ]
}

/// Does nothing.
#[job]
fn noop(_cx: &JobContext) -> JobResult {
    Ok(())
}
