//! Where events go: what the deliverer needs to know of a destination, and the classes of its answers; and the enum of those there are.
//!
//! The deliverer owns the order (freeze in the store, then send, then record what came back); a destination owns one
//! connection and translates. It never retries, never sleeps, and keeps nothing that a crash may not lose: whatever must
//! survive (stream, offset, which rows) is in the store before [`Destination::append`] is called.
//!
//! # Streams
//!
//! A stream is an append-only log in the destination. One is in use for each target, and a batch has a fixed place in it.
//!
//! ```text
//!   create ─► open ◄──────────────────── landed (the age of the stream begins again) ────┐
//!              └─► appending ─┬──────────────────────────────────────────────────────────┤
//!                             ├─ refused for certain ─► open; the rows are free again ───┘
//!                             ├─ no answer ───────────► unknown fate: the same rows to the same offset, again
//!                             └─ finalized, gone, or refused without a reason ─► fenced ─► left
//!
//!   fenced: `finalize` was answered. With a length: the length shows whether a batch is in it. With
//!           [`DeliveryError::StreamGone`]: the table is asked. Either way the stream takes no more rows.
//!   left:   the store has forgotten it; the next batch begins a new one.
//! ```
//!
//! | part | promises |
//! | --- | --- |
//! | store | A batch is committed with stream, offset and rows before it is sent, and is never resized. The age of a stream counts from its last batch that landed. |
//! | deliverer | A batch of unknown fate is taken back only after its stream was fenced: no request that is still on its way can land afterwards. A row is suspected only after its stream was fenced and left once. |
//! | destination | [`Destination::append`] is all or nothing. After [`Destination::finalize`] has returned a length or [`DeliveryError::StreamGone`], nothing is added to the stream. |

use super::policy::DeliveryPolicy;
use crate::store::Row;
use std::collections::HashSet;
use std::time::Duration;

/// Where a frozen batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchTarget<'a> {
    /// In a stream, where landing twice is impossible.
    Stream(Slot<'a>),
    /// Wherever the target takes it; `event_id` as insert id, at least once.
    Anywhere,
}

/// A place in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot<'a> {
    /// The stream's full name, as the destination gave it.
    pub stream: &'a str,
    /// What is before it in the stream, in the destination's unit ([`Destination::length`]).
    pub offset: i64,
    /// What it takes up.
    pub length: i64,
}

/// A batch is in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landed {
    /// By this request.
    Now,
    /// By an earlier one: something is at its offset already, which was not compared.
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
pub enum DeliveryError {
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
    /// The stream does not end where it should: an earlier batch is not there, or something else is in the place of this one. Definite:
    /// this one is not in it.
    #[error("{0}")]
    StreamDamaged(String),
    /// The stream takes no more rows; [`Destination::finalize`] returns its length.
    #[error("{0}")]
    StreamFinalized(String),
    /// The stream is not there any more (expired, removed, or its target was made again).
    #[error("{0}")]
    StreamGone(String),
    /// The target is not laid out as it was when connecting (its columns, say): definite, nothing was written; connect again.
    #[error("{0}")]
    LayoutChanged(String),
    /// The target does not exist.
    #[error("{0}")]
    TargetMissing(String),
    /// Credentials are missing, broken or refused. The text names the form that was tried and the hint.
    #[error("{0}")]
    Unauthenticated(String),
    /// Definite: nothing was written. The server gives no reason that can be read: the stream may be one that it has forgotten, or a
    /// permission may be about to come. Retried; then the stream is left; then it counts as [`DeliveryError::Denied`].
    #[error("{0}")]
    Precondition(String),
    /// Definite: nothing was written. Every row of a batch was refused, for one reason: it is the table or this host, not the rows.
    #[error("{0}")]
    EveryRow(String),
    /// Not allowed, API disabled, billing: no retry within the next minute will help.
    #[error("{0}")]
    Denied(String),
}

/// One target somewhere: a table, a directory.
///
/// All methods end within the destination's own request timeout; none is retried inside. A method may be called again after any
/// error, and a future dropped half way leaves the destination usable.
#[expect(async_fn_in_trait, reason = "used on the delivery thread's own runtime only: no Send needed")]
pub trait Destination {
    /// Which table or directory this is, for the store and for people.
    fn name(&self) -> &str;

    /// Which server and which target, as configured: known before connecting, without a secret. Says whether what befell one process
    /// is of concern to another.
    fn route(&self) -> String;

    /// Who does not answer when a request takes too long: a server's address, a directory.
    fn server(&self) -> &str {
        self.name()
    }

    /// What to check when every row of a batch is refused for one reason: a clause, without a period.
    fn advice(&self) -> &'static str {
        "check the target, and the clock of this host"
    }

    /// Whether batches go to streams ([`BatchTarget::Stream`]).
    fn uses_streams(&self) -> bool;

    /// Sizes and times of its delivery.
    fn policy(&self) -> DeliveryPolicy;

    /// What rows take up in a stream: their number, unless the destination counts otherwise. The same for the same rows, always.
    fn length(&self, rows: &[Row]) -> i64 {
        i64::try_from(rows.len()).unwrap_or(i64::MAX)
    }

    /// Whether a batch of this length may go to this stream, or a new one is to be begun.
    fn has_room(&self, _slot: Slot<'_>) -> bool {
        true
    }

    /// Checks credentials and reads the target's columns; rows sent later have just those. Called before the first use of the others
    /// but [`Destination::name`], and again after [`DeliveryError::LayoutChanged`].
    async fn connect(&mut self) -> Result<(), DeliveryError>;

    /// A new stream: its full name.
    async fn create_stream(&mut self) -> Result<String, DeliveryError>;

    /// Sends one batch (all or nothing) and waits for the answer.
    async fn append(&mut self, place: BatchTarget<'_>, rows: &[Row]) -> Result<Landed, DeliveryError>;

    /// How many batches may be on their way in one stream. With 1, neither [`Destination::send`] nor [`Destination::answer`] is called.
    fn depth(&self) -> usize {
        1
    }

    /// Sends one batch after those that were sent before to the same stream, without waiting for an answer. After an error, all that were
    /// sent and not answered are of unknown fate; but [`DeliveryError::TooLarge`] means that nothing was sent.
    async fn send(&mut self, slot: Slot<'_>, _rows: &[Row]) -> Result<(), DeliveryError> {
        Err(DeliveryError::Denied(format!("{}: one batch at a time", slot.stream)))
    }

    /// Waits for the answer to the oldest batch that was sent and not answered: these rows. After any answer but [`Landed::Now`] all others
    /// are of unknown fate, and the next call of [`Destination::send`] or [`Destination::append`] uses a new connection.
    async fn answer(&mut self, _rows: &[Row]) -> Result<Landed, DeliveryError> {
        Err(DeliveryError::Denied("nothing was sent".into()))
    }

    /// What was sent and not answered will not be asked for any more: an answer to it is nobody else's.
    fn hang_up(&mut self) {}

    /// Closes a stream for ever and returns its length. `rows` is the batch of the slot (empty: of none): when a part of it is in the
    /// stream, all of it is afterwards. Returns the same for a stream that was finalized before, where the destination can tell;
    /// [`DeliveryError::StreamGone`] when it cannot.
    async fn finalize(&mut self, slot: Slot<'_>, rows: &[Row]) -> Result<i64, DeliveryError>;

    /// The `event_id`s of those of these rows that are in the target. May need a permission that writing does not: [`DeliveryError::Denied`].
    async fn present(&mut self, rows: &[Row]) -> Result<HashSet<String>, DeliveryError>;
}
