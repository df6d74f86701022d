//! Jobs to be listed, described as real ones are. None is called by a bench; each answers with an error that says so.

use lorchestra_plugin_api::prelude::*;

fn not_real(account: Option<&str>, time: Option<DateTime<Utc>>, page_size: u32) -> JobResult {
    Err(format!("this job is there to be listed (account {account:?}, time {time:?}, page size {page_size})")).permanent()
}

/// Extract the mail of an account from its mailbox.
///
/// Writes one JSON object a line into the package's data directory; running it again adds nothing twice. What cannot be read
/// is named in an event, and the rest goes on.
#[job]
pub(crate) fn extract_mail(
    _cx: &JobContext,
    /// Whose it is; names the output file.
    account: Option<String>,
    /// Only what is dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only what is dated before this time.
    until: Option<DateTime<Utc>>,
    /// How many at once.
    #[param(default = 500)]
    page_size: u32,
) -> JobResult {
    not_real(account.as_deref(), since.or(until), page_size)
}

/// Extract the messages of a workspace's channels.
///
/// Writes one JSON object a line into the package's data directory; running it again adds nothing twice. What cannot be read
/// is named in an event, and the rest goes on.
#[job]
pub(crate) fn extract_chat(
    _cx: &JobContext,
    /// Whose it is; names the output file.
    account: Option<String>,
    /// Only what is dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only what is dated before this time.
    until: Option<DateTime<Utc>>,
    /// How many at once.
    #[param(default = 500)]
    page_size: u32,
) -> JobResult {
    not_real(account.as_deref(), since.or(until), page_size)
}

/// Extract the events of a calendar.
///
/// Writes one JSON object a line into the package's data directory; running it again adds nothing twice. What cannot be read
/// is named in an event, and the rest goes on.
#[job]
pub(crate) fn extract_calendar(
    _cx: &JobContext,
    /// Whose it is; names the output file.
    account: Option<String>,
    /// Only what is dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only what is dated before this time.
    until: Option<DateTime<Utc>>,
    /// How many at once.
    #[param(default = 500)]
    page_size: u32,
) -> JobResult {
    not_real(account.as_deref(), since.or(until), page_size)
}

/// Bring the address book up to date.
///
/// Writes one JSON object a line into the package's data directory; running it again adds nothing twice. What cannot be read
/// is named in an event, and the rest goes on.
#[job]
pub(crate) fn sync_contacts(
    _cx: &JobContext,
    /// Whose it is; names the output file.
    account: Option<String>,
    /// Only what is dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only what is dated before this time.
    until: Option<DateTime<Utc>>,
    /// How many at once.
    #[param(default = 500)]
    page_size: u32,
) -> JobResult {
    not_real(account.as_deref(), since.or(until), page_size)
}

/// Put invoices of a period into the archive.
///
/// Writes one JSON object a line into the package's data directory; running it again adds nothing twice. What cannot be read
/// is named in an event, and the rest goes on.
#[job]
pub(crate) fn archive_invoices(
    _cx: &JobContext,
    /// Whose it is; names the output file.
    account: Option<String>,
    /// Only what is dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only what is dated before this time.
    until: Option<DateTime<Utc>>,
    /// How many at once.
    #[param(default = 500)]
    page_size: u32,
) -> JobResult {
    not_real(account.as_deref(), since.or(until), page_size)
}

/// Build the search index of a period again.
///
/// Writes one JSON object a line into the package's data directory; running it again adds nothing twice. What cannot be read
/// is named in an event, and the rest goes on.
#[job]
pub(crate) fn refresh_index(
    _cx: &JobContext,
    /// Whose it is; names the output file.
    account: Option<String>,
    /// Only what is dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only what is dated before this time.
    until: Option<DateTime<Utc>>,
    /// How many at once.
    #[param(default = 500)]
    page_size: u32,
) -> JobResult {
    not_real(account.as_deref(), since.or(until), page_size)
}
