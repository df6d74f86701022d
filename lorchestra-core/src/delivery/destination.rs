//! Where events go: what the deliverer needs to know of a destination, and the classes of its answers.
//!
//! The deliverer owns the order (freeze in the store, then send, then record what came back); a destination owns one
//! connection and translates. It never retries, never sleeps, and keeps nothing that a crash may not lose: whatever must
//! survive (stream, offset, which rows) is in the store before [`Destination::append`] is called.

use std::collections::HashSet;
use std::time::Duration;

/// One event as it leaves: the columns of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// UUIDv7, the identity everywhere.
    pub event_id: String,
    /// Such as `job.started`.
    pub event_type: String,
    /// `package/job`.
    pub source: String,
    /// The schema of the payload, if the job named one.
    pub schema_ref: Option<String>,
    /// Microseconds since 1970, UTC.
    pub created_at: i64,
    /// The run's id, unless the job gave another.
    pub correlation_id: Option<String>,
    /// Personal: never in a log or an error.
    pub subject_id: Option<String>,
    /// A JSON object, as text: never in a log or an error.
    pub payload: Option<String>,
    /// UUIDv7 of the run.
    pub run_id: Option<String>,
    /// From 1.
    pub attempt: Option<i64>,
    /// Half of `source`.
    pub package: Option<String>,
    /// The other half.
    pub job: Option<String>,
}

/// Where a frozen batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// At this row offset of this committed stream: landing twice is impossible.
    Stream {
        /// Full resource name, as the server gave it.
        stream: &'a str,
        /// Rows before it in the stream.
        offset: i64,
    },
    /// Wherever the table takes it; `event_id` as insert id, at least once.
    Table,
}

/// A batch is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landed {
    /// By this request.
    Now,
    /// By an earlier one: ALREADY_EXISTS at its offset.
    Before,
}

/// A row that the server will never take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// Index in the slice that was sent.
    pub index: usize,
    /// The server's words, shortened, without row contents.
    pub reason: String,
}

/// Why something did not happen. Texts are one line for a person, name the table and what was answered, and hold neither row
/// contents nor secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Network, timeout, 5xx, 429, quota: worth another try. Whether the rows landed is not known.
    #[error("{reason}")]
    Later {
        /// What was answered.
        reason: String,
        /// Retry-After, if the server gave one.
        after: Option<Duration>,
        /// The cause may be this request alone (an answer that was none of the API's and may hide "too large"; a row on which the
        /// server stumbles): after some tries it is cut.
        perhaps_request: bool,
    },
    /// Definite: nothing of the batch was written, because of these rows alone.
    #[error("{} rows were refused", .0.len())]
    Rows(Vec<RefusedRow>),
    /// Definite: nothing was written, the request is over the server's limit.
    #[error("{0}")]
    TooLarge(String),
    /// Definite: nothing was written, something in the request is wrong, and the server does not say in which row.
    #[error("{0}")]
    Malformed(String),
    /// The offset lies beyond the stream's end: an earlier batch is not there.
    #[error("{0}")]
    OffsetBeyondEnd(String),
    /// The stream takes no more rows; [`Destination::finalize`] tells how many it has.
    #[error("{0}")]
    StreamFinalized(String),
    /// The stream is not there any more (idle for three days, or its table was recreated).
    #[error("{0}")]
    StreamGone(String),
    /// The table's columns are not those read when connecting: definite, nothing was written; connect again.
    #[error("{0}")]
    SchemaChanged(String),
    /// Dataset or table are not there.
    #[error("{0}")]
    TableMissing(String),
    /// Credentials are missing, broken or refused. The text names the form that was tried and the mend.
    #[error("{0}")]
    Unauthenticated(String),
    /// Not allowed, API disabled, billing: no retry will help.
    #[error("{0}")]
    Denied(String),
}

/// One table somewhere.
///
/// All methods end within the destination's own request timeout; none is retried inside. A method may be called again after any
/// error, and a future dropped half way leaves the destination usable.
#[expect(async_fn_in_trait, reason = "used on the delivery thread's own runtime only: no Send needed")]
pub trait Destination {
    /// `project.dataset.table`: which table this is, for the store and for people.
    fn name(&self) -> &str;

    /// Which server and which table, as configured: known before connecting, without a secret. Says whether what befell one process
    /// is of concern to another.
    fn route(&self) -> String;

    /// Whether batches go to streams ([`Place::Stream`]) or to the table.
    fn uses_streams(&self) -> bool;

    /// Checks credentials and reads the table's columns; rows sent later have just those. Called before the first use of the others
    /// but [`Destination::name`], and again after [`Refusal::SchemaChanged`].
    async fn connect(&mut self) -> Result<(), Refusal>;

    /// A new committed stream: its full resource name.
    async fn create_stream(&mut self) -> Result<String, Refusal>;

    /// Sends one batch (all or nothing) and waits for the answer.
    async fn append(&mut self, place: Place<'_>, rows: &[Row]) -> Result<Landed, Refusal>;

    /// Closes a stream for ever: the number of rows in it. Answers the same for a stream that was finalised before, where the server can
    /// tell; [`Refusal::StreamGone`] when it cannot.
    async fn finalize(&mut self, stream: &str) -> Result<i64, Refusal>;

    /// Which of these are in the table. May need a permission that writing does not: [`Refusal::Denied`].
    async fn present(&mut self, event_ids: &[&str]) -> Result<HashSet<String>, Refusal>;
}
