//! The values that leave a store: rows, the batches in which they are sent, and the streams that batches go to; and how a batch is read
//! back.

/// An event to send: the columns of the envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// UUIDv7, the event's identity everywhere.
    pub event_id: String,
    /// The type, such as `job.started`.
    pub event_type: String,
    /// `package/job`.
    pub source: String,
    /// The schema of the payload, if the job set one.
    pub schema_ref: Option<String>,
    /// Microseconds since 1970, UTC.
    pub created_at: i64,
    /// The run's id, unless the job set another.
    pub correlation_id: Option<String>,
    /// Personal data: never in a log or an error.
    pub subject_id: Option<String>,
    /// A JSON object as text: never in a log or an error.
    pub payload: Option<String>,
    /// UUIDv7 of the run.
    pub run_id: Option<String>,
    /// Attempt of the run, counted from 1.
    pub attempt: Option<i64>,
    /// First half of `source`.
    pub package: Option<String>,
    /// Second half of `source`.
    pub job: Option<String>,
}

/// An event to send, with its number in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutRow {
    /// Its number, which orders all events of a store.
    pub n: i64,
    /// The row to send.
    pub row: Row,
    /// Whether it matches the checksum with which it was stored.
    pub intact: bool,
}

/// An event that was set aside as a suspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Its number.
    pub n: i64,
    /// Why the destination refused it.
    pub reason: String,
}

/// Rows that are sent together: all that are not settled, from `first` to `last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its number.
    pub id: i64,
    /// The target in the destination: a table, a directory.
    pub target: String,
    /// Stream and offset; `None` without streams, where delivery is at least once.
    pub place: Option<(String, i64)>,
    /// Its length in the stream, in the destination's unit: rows, bytes.
    pub length: i64,
    /// Number of its first event.
    pub first: i64,
    /// Number of its last event.
    pub last: i64,
    /// The number of rows.
    pub rows: i64,
    /// The previous state of its rows if it is resent on request; `None` if they were pending.
    pub was: Option<Was>,
    /// The boot of the host in which its stream was created, if it goes to one.
    pub boot: Option<String>,
}

/// The state of rows before they were resent on request. They are before the delivered mark, so if they are taken back, they must return to
/// this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// Set aside because the server had refused them.
    Refused,
    /// Set aside as suspects: the server had refused them, and nothing landed after that.
    Suspect,
    /// With an unknown result.
    Uncertain,
}

/// A batch to freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBatch {
    /// The target in the destination: a table, a directory.
    pub target: String,
    /// The stream it goes to; its offset is the end of the previous batch.
    pub stream: Option<String>,
    /// Its length in the stream.
    pub length: i64,
    /// Number of its first event.
    pub first: i64,
    /// Number of its last event.
    pub last: i64,
    /// The number of rows.
    pub rows: i64,
}

/// The state of an individually settled row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowDisposition {
    /// The server will never accept it, for this reason.
    Refused(String),
    /// The server refused it, possibly because of its own fault: it counts as pending, and other rows are sent before it.
    Suspect(String),
    /// It is already in the table.
    Present,
}

impl Was {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Suspect => "suspect",
            Self::Uncertain => "uncertain",
        }
    }

    fn read(text: &str) -> Self {
        match text {
            "refused" => Self::Refused,
            "suspect" => Self::Suspect,
            _ => Self::Uncertain,
        }
    }
}

/// Selects the columns for [`batch`].
pub(super) const BATCH: &str = "SELECT n, target, stream, start, length, first, last, rows, was, boot FROM batches";

pub(super) fn batch(row: &rusqlite::Row<'_>) -> rusqlite::Result<Batch> {
    let was: Option<String> = row.get(8)?;
    Ok(Batch {
        id: row.get(0)?,
        target: row.get(1)?,
        place: row.get::<_, Option<String>>(2)?.zip(row.get(3)?),
        length: row.get(4)?,
        first: row.get(5)?,
        last: row.get(6)?,
        rows: row.get(7)?,
        was: was.as_deref().map(Was::read),
        boot: row.get(9)?,
    })
}
