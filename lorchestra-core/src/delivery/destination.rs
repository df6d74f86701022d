//! The interface of a destination, as the deliverer needs it, and the classes of its answers.
//!
//! The deliverer owns the order (freeze in the store, then send, then record the answer); a destination owns one connection and translates.
//! It never retries, never sleeps, and keeps no state that must survive a crash: stream, offset and rows are in the store before
//! [`Destination::append`] is called.
//!
//! # Streams
//!
//! A stream is an append-only log in the destination. Each target has one in use, and a batch has a fixed position in it.
//!
//! ```text
//!   create ─► open ◄──────────────────── landed (the age of the stream restarts) ────────┐
//!              └─► appending ─┬──────────────────────────────────────────────────────────┤
//!                             ├─ definitely refused ──► open; the rows are free again ───┘
//!                             ├─ no answer ───────────► unknown result: resend the same rows to the same offset
//!                             └─ finalized, gone, or refused without a reason ─► fenced ─► left
//!
//!   fenced: `finalize` was answered. A length shows whether a batch is in the stream. After
//!           [`DeliveryError::StreamGone`] the table is queried. Either way the stream takes no more rows.
//!   left:   the store has dropped it; the next batch creates a new one.
//! ```
//!
//! | part | guarantees |
//! | --- | --- |
//! | store | A batch is committed with stream, offset and rows before it is sent, and is never resized. The age of a stream counts from its last batch that landed. |
//! | deliverer | A batch with an unknown result is taken back only after its stream was fenced, so that no request in flight can land afterwards. A row that the server has not named is suspected only after its stream was fenced and left once. |
//! | destination | [`Destination::append`] is all or nothing. After [`Destination::finalize`] has returned a length or [`DeliveryError::StreamGone`], nothing is added to the stream. |

use super::policy::DeliveryPolicy;
use crate::store::Row;
use std::collections::HashSet;
use std::time::Duration;

/// The position of a frozen batch in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchTarget<'a> {
    /// A slot in a stream, where the batch cannot land twice.
    Stream(Slot<'a>),
    /// Anywhere in the target, with `event_id` as insert id: at least once.
    Anywhere,
}

/// A position in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot<'a> {
    /// The stream's full name, as given by the destination.
    pub stream: &'a str,
    /// Its offset in the stream, in the destination's unit ([`Destination::length`]).
    pub offset: i64,
    /// The length of the batch, in the same unit.
    pub length: i64,
}

/// A batch is in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landed {
    /// This request wrote it.
    Now,
    /// Something is already at its offset, probably from an earlier request. It was not compared.
    Before,
}

/// A row that the server will never accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// Index in the slice of rows.
    pub index: usize,
    /// The server's message, shortened, without row contents.
    pub reason: String,
}

/// Why an operation failed. Messages are one line for a person, name the table and the server's answer, and contain neither row contents
/// nor secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// Network, timeout, 5xx, 429, quota: a retry may help. Whether the rows landed is unknown.
    #[error("{reason}")]
    Later {
        /// The server's answer, or the failure.
        reason: String,
        /// Retry-After, if the server sent one.
        after: Option<Duration>,
        /// This request itself may be the cause (an answer that is not from the API and may mean "too large"; a row that makes the server
        /// fail): after some retries the batch is split.
        perhaps_request: bool,
    },
    /// Definite: nothing of the batch was written, only because of these rows.
    #[error("{} rows were refused", .0.len())]
    Rows(Vec<RefusedRow>),
    /// Definite: nothing was written, because the request exceeds the server's limit.
    #[error("{0}")]
    TooLarge(String),
    /// Definite: nothing was written; the request is invalid, and the server does not say which row is the cause.
    #[error("{0}")]
    Malformed(String),
    /// The stream does not end at the expected offset: an earlier batch is missing, or something else is at the position of this one.
    /// Definite: this batch is not in it.
    #[error("{0}")]
    StreamDamaged(String),
    /// The stream accepts no more rows; [`Destination::finalize`] returns its length.
    #[error("{0}")]
    StreamFinalized(String),
    /// The stream no longer exists (it expired or was removed, or its target was created again).
    #[error("{0}")]
    StreamGone(String),
    /// The target's layout (such as its columns) has changed since connecting. Definite: nothing was written; connect again.
    #[error("{0}")]
    LayoutChanged(String),
    /// The target does not exist.
    #[error("{0}")]
    TargetMissing(String),
    /// Credentials are missing, invalid or refused. The message names the kind of credentials and the hint.
    #[error("{0}")]
    Unauthenticated(String),
    /// Definite: nothing was written. The server gives no usable reason: it may have forgotten the stream, or a permission may not have
    /// propagated yet. The deliverer retries, then leaves the stream, then treats it as [`DeliveryError::Forbidden`].
    #[error("{0}")]
    Precondition(String),
    /// Definite: nothing was written. Every row of a batch was refused for the same reason, so the table or this host is the cause, not the
    /// rows.
    #[error("{0}")]
    EveryRow(String),
    /// Definite: nothing was written. Not permitted, API disabled, billing: a person must change that at the server. It may also pass, because
    /// a new permission takes minutes to apply.
    #[error("{0}")]
    Forbidden(String),
    /// A setting or the target must be changed: no retry will help.
    #[error("{0}")]
    Denied(String),
}

/// A target: a table, a directory.
///
/// All methods return within the destination's own request timeout, and none retries. A method may be called again after any error, and a
/// dropped future leaves the destination usable.
#[expect(async_fn_in_trait, reason = "used on the delivery thread's own runtime only: no Send needed")]
pub trait Destination {
    /// The name of the table or directory, for the store and for people.
    fn name(&self) -> &str;

    /// The server and the target, as configured: known before connecting, without a secret. Shows whether a failure seen by one process
    /// concerns another.
    fn route(&self) -> String;

    /// The name to show if a request takes too long: a server's address, a directory.
    fn server(&self) -> &str {
        self.name()
    }

    /// What to check if every row of a batch is refused for the same reason: a clause without a period.
    fn advice(&self) -> &'static str {
        "check the target, and the clock of this host"
    }

    /// Whether batches go to streams ([`BatchTarget::Stream`]).
    fn uses_streams(&self) -> bool;

    /// Batch sizes, delays and other policy of its delivery.
    fn policy(&self) -> DeliveryPolicy;

    /// The length of rows in a stream: their number, unless the destination uses another unit. Always the same for the same rows.
    fn length(&self, rows: &[Row]) -> i64 {
        i64::try_from(rows.len()).unwrap_or(i64::MAX)
    }

    /// Whether a batch of this length may go to this stream, rather than to a new one.
    fn has_room(&self, _slot: Slot<'_>) -> bool {
        true
    }

    /// Whether this row is sent: some destinations pass over what is not for them. A row that is not sent proves nothing about the server.
    fn is_sent(&self, _row: &Row) -> bool {
        true
    }

    /// Whether the stream is longer than its slot's offset, at which nothing was sent yet: another store has written to it. Only if that is
    /// known without a request; otherwise [`Destination::append`] shows it.
    fn is_ahead(&self, _slot: Slot<'_>) -> bool {
        false
    }

    /// Checks credentials and reads the target's columns, which later rows use. Called before all other methods except
    /// [`Destination::name`], and again after [`DeliveryError::LayoutChanged`].
    async fn connect(&mut self) -> Result<(), DeliveryError>;

    /// Creates a stream and returns its full name.
    async fn create_stream(&mut self) -> Result<String, DeliveryError>;

    /// Sends one batch (all or nothing) and waits for the answer.
    async fn append(&mut self, place: BatchTarget<'_>, rows: &[Row]) -> Result<Landed, DeliveryError>;

    /// Maximum number of batches in flight in one stream. If 1, neither [`Destination::send`] nor [`Destination::answer`] is called.
    fn depth(&self) -> usize {
        1
    }

    /// Sends one batch after those already sent to the same stream, without waiting for an answer. After an error, all unanswered batches
    /// have an unknown result; but [`DeliveryError::TooLarge`] means that nothing was sent.
    async fn send(&mut self, slot: Slot<'_>, _rows: &[Row]) -> Result<(), DeliveryError> {
        Err(DeliveryError::Denied(format!("{}: one batch at a time", slot.stream)))
    }

    /// Waits for the answer to the oldest unanswered batch, which has these rows. After any answer other than [`Landed::Now`], all other
    /// batches have an unknown result, and the next call of [`Destination::send`] or [`Destination::append`] uses a new connection.
    async fn answer(&mut self, _rows: &[Row]) -> Result<Landed, DeliveryError> {
        Err(DeliveryError::Denied("nothing was sent".into()))
    }

    /// Discards the connection if answers are outstanding, so that none is taken for the answer to a later batch.
    fn hang_up(&mut self) {}

    /// Closes a stream permanently and returns its length. `rows` is the batch of the slot (or empty): if a part of it is in the stream,
    /// all of it is there afterwards. Returns the same length for a stream that is already finalized, if the destination knows it;
    /// otherwise [`DeliveryError::StreamGone`].
    async fn finalize(&mut self, slot: Slot<'_>, rows: &[Row]) -> Result<i64, DeliveryError>;

    /// Whether [`Destination::finalize`] compares the rows with the contents of the stream, so that no other rows are taken for them.
    fn compares(&self) -> bool {
        false
    }

    /// Returns the `event_id`s of those rows that are in the target. May need a permission that writing does not:
    /// [`DeliveryError::Forbidden`] or [`DeliveryError::Denied`].
    async fn present(&mut self, rows: &[Row]) -> Result<HashSet<String>, DeliveryError>;
}
