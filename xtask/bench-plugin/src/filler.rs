//! Jobs for listings, documented like real ones. No bench calls them, except one for windows; each returns an error that explains this.

use lorchestra_plugin_api::prelude::*;

fn not_real(account: Option<&str>, time: Option<DateTime<Utc>>, page_size: u32) -> JobResult {
    Err(format!("this job is there to be listed (account {account:?}, time {time:?}, page size {page_size})")).permanent()
}

/// Extract the mail of an account from its mailbox.
///
/// Writes one JSON object per line to the package's data directory; a second run adds no duplicates. Unreadable items are
/// reported in an event, and the rest is processed.
#[job]
pub(crate) fn extract_mail(
    _cx: &JobContext,
    /// Account; also the name of the output file.
    account: Option<String>,
    /// Only items dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only items dated before this time.
    until: Option<DateTime<Utc>>,
    /// Items per request.
    #[param(default = 500)]
    page_size: u32,
) -> JobResult {
    not_real(account.as_deref(), since.or(until), page_size)
}

/// Extract the messages of a workspace's channels.
///
/// Writes one JSON object per line to the package's data directory; a second run adds no duplicates. Unreadable items are
/// reported in an event, and the rest is processed.
#[job]
pub(crate) fn extract_chat(
    _cx: &JobContext,
    /// Account; also the name of the output file.
    account: Option<String>,
    /// Only items dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only items dated before this time.
    until: Option<DateTime<Utc>>,
    /// Items per request.
    #[param(default = 500)]
    page_size: u32,
) -> JobResult {
    not_real(account.as_deref(), since.or(until), page_size)
}

/// Extract the events of a calendar.
///
/// Writes one JSON object per line to the package's data directory; a second run adds no duplicates. Unreadable items are
/// reported in an event, and the rest is processed.
#[job]
pub(crate) fn extract_calendar(
    _cx: &JobContext,
    /// Account; also the name of the output file.
    account: Option<String>,
    /// Only items dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only items dated before this time.
    until: Option<DateTime<Utc>>,
    /// Items per request.
    #[param(default = 500)]
    page_size: u32,
) -> JobResult {
    not_real(account.as_deref(), since.or(until), page_size)
}

/// Update the address book.
///
/// Writes one JSON object per line to the package's data directory; a second run adds no duplicates. Unreadable items are
/// reported in an event, and the rest is processed.
#[job]
pub(crate) fn sync_contacts(
    _cx: &JobContext,
    /// Account; also the name of the output file.
    account: Option<String>,
    /// Only items dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only items dated before this time.
    until: Option<DateTime<Utc>>,
    /// Items per request.
    #[param(default = 500)]
    page_size: u32,
) -> JobResult {
    not_real(account.as_deref(), since.or(until), page_size)
}

/// Archive the invoices of a period.
///
/// Writes one JSON object per line to the package's data directory; a second run adds no duplicates. Unreadable items are
/// reported in an event, and the rest is processed.
#[job]
pub(crate) fn archive_invoices(
    _cx: &JobContext,
    /// Account; also the name of the output file.
    account: Option<String>,
    /// Only items dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only items dated before this time.
    until: Option<DateTime<Utc>>,
    /// Items per request.
    #[param(default = 500)]
    page_size: u32,
) -> JobResult {
    not_real(account.as_deref(), since.or(until), page_size)
}

/// Rebuild the search index of a period.
///
/// Writes one JSON object per line to the package's data directory; a second run adds no duplicates. Unreadable items are
/// reported in an event, and the rest is processed.
#[job]
pub(crate) fn refresh_index(
    _cx: &JobContext,
    /// Account; also the name of the output file.
    account: Option<String>,
    /// Only items dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only items dated before this time.
    until: Option<DateTime<Utc>>,
    /// Items per request.
    #[param(default = 500)]
    page_size: u32,
) -> JobResult {
    // The bench of backfills runs it for windows.
    if since.is_some() && until.is_some() { Ok(()) } else { not_real(account.as_deref(), since.or(until), page_size) }
}
