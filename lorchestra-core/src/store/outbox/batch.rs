//! What leaves a store: rows, the batches they are sent in, and the streams that batches go to. Values, and how a batch is read back.

/// One event as it leaves: the columns of the envelope.
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

/// An event on its way out, with its number in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutRow {
    /// Its number, which orders all events of a store.
    pub n: i64,
    /// What is sent.
    pub row: Row,
    /// Whether it has the checksum that it had when it was stored.
    pub intact: bool,
}

/// Rows that are sent together: all that are not settled, from `first` to `last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its number.
    pub id: i64,
    /// Where in the destination: a table, a directory.
    pub target: String,
    /// Stream and offset in it; `None`: no streams, at least once.
    pub place: Option<(String, i64)>,
    /// What it takes up in its stream, in the destination's unit: rows, bytes.
    pub length: i64,
    /// Number of its first event.
    pub first: i64,
    /// Number of its last event.
    pub last: i64,
    /// How many rows it has.
    pub rows: i64,
    /// What its rows were, if it is sent on request; `None`: pending.
    pub was: Option<Was>,
}

/// What rows were before they were sent once more on request. They lie behind the delivered mark: taken back, they must become that again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// Set aside: the server had refused them.
    Refused,
    /// Set aside on suspicion: the server had refused them, and nothing landed after that.
    Suspect,
    /// Of unknown fate.
    Uncertain,
}

/// A batch that is to be frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBatch {
    /// Where in the destination: a table, a directory.
    pub target: String,
    /// The stream it goes to; its offset is what was given out before.
    pub stream: Option<String>,
    /// What it takes up in its stream.
    pub length: i64,
    /// Number of its first event.
    pub first: i64,
    /// Number of its last event.
    pub last: i64,
    /// How many rows it has.
    pub rows: i64,
}

/// A stream that batches go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Where the next batch begins.
    pub offset: i64,
}

/// A row that is settled by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowDisposition {
    /// The server will never take it, for this reason.
    Refused(String),
    /// The server refused it, and that may be the server's fault: it counts as pending, and others go before it.
    Suspect(String),
    /// It is in the table already.
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

/// What [`batch`] reads.
pub(super) const BATCH: &str = "SELECT n, target, stream, start, length, first, last, rows, was FROM batches";

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
    })
}
