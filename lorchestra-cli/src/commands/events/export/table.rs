//! Events as a Parquet file: one column per field of the envelope, the payload as JSON. Rows wait in memory until there are enough for a row
//! group, so memory does not grow with the number of events.

use super::COLUMNS;
use chrono::DateTime;
use lorchestra_core::store::Event;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};
use std::io::{self, Write};
use std::sync::Arc;

/// Maximum number of rows of a row group.
const MAX_ROWS: usize = 65_536;
/// Maximum size of the payloads of a row group, in bytes.
const MAX_BYTES: usize = 16 << 20;

/// A Parquet file that is being written.
pub(super) struct EventTable<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    events: Vec<Event>,
    bytes: usize,
}

impl<W: Write + Send> EventTable<W> {
    pub(super) fn new(file: W) -> io::Result<Self> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .build();
        let writer = SerializedFileWriter::new(file, schema().map_err(io_error)?, Arc::new(properties)).map_err(io_error)?;
        Ok(Self { writer, events: Vec::new(), bytes: 0 })
    }

    /// Adds a row.
    pub(super) fn push(&mut self, event: Event) -> io::Result<()> {
        self.bytes += event.payload.as_ref().map_or(0, |payload| payload.get().len());
        self.events.push(event);
        if self.events.len() >= MAX_ROWS || self.bytes >= MAX_BYTES { self.write() } else { Ok(()) }
    }

    /// Completes the file.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write()?;
        self.writer.into_inner().map_err(io_error)
    }

    fn write(&mut self) -> io::Result<()> {
        let events = std::mem::take(&mut self.events);
        self.bytes = 0;
        if events.is_empty() { Ok(()) } else { self.write_group(&events).map_err(io_error) }
    }

    fn write_group(&mut self, events: &[Event]) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        for name in COLUMNS {
            let mut column = group.next_column()?.ok_or_else(|| ParquetError::General("a column is missing".into()))?;
            match name {
                "created_at" => {
                    let times: Vec<Option<i64>> = events.iter().map(|event| microseconds(&event.created_at)).collect();
                    let levels: Vec<i16> = times.iter().map(|time| i16::from(time.is_some())).collect();
                    let times: Vec<i64> = times.into_iter().flatten().collect();
                    column.typed::<Int64Type>().write_batch(&times, Some(&levels), None)?;
                }
                "attempt" => {
                    let attempts = events.iter().map(|event| i32::try_from(event.attempt)).collect::<Result<Vec<_>, _>>()?;
                    column.typed::<Int32Type>().write_batch(&attempts, Some(&vec![1; events.len()]), None)?;
                }
                name => write_texts(&mut column, events.iter().map(|event| text(event, name)))?,
            }
            column.close()?;
        }
        group.close()?;
        Ok(())
    }
}

fn write_texts<'a>(
    column: &mut SerializedColumnWriter<'_>,
    texts: impl Iterator<Item = Option<&'a str>>,
) -> Result<(), ParquetError> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    for text in texts {
        levels.push(i16::from(text.is_some()));
        values.extend(text.map(ByteArray::from));
    }
    column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
    Ok(())
}

/// Returns the value of a column of text, if the event has one.
pub(super) fn text<'a>(event: &'a Event, column: &str) -> Option<&'a str> {
    Some(match column {
        "event_id" => &event.event_id,
        "event_type" => &event.event_type,
        "source" => &event.source,
        "schema_ref" => return event.schema_ref.as_deref(),
        "correlation_id" => &event.correlation_id,
        "subject_id" => return event.subject_id.as_deref(),
        "payload" => return event.payload.as_ref().map(|payload| payload.get()),
        "run_id" => &event.run_id,
        "package" => &event.package,
        "job" => &event.job,
        _ => return None,
    })
}

/// Returns the microseconds since 1970, of a time as an [`Event`] has it.
fn microseconds(time: &str) -> Option<i64> {
    time.parse().ok().or_else(|| DateTime::parse_from_rfc3339(time).ok().map(|time| time.timestamp_micros()))
}

fn schema() -> Result<TypePtr, ParquetError> {
    let field = |name: &str| {
        let (physical, logical) = match name {
            "created_at" => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
            "attempt" => (Physical::INT32, None),
            "payload" => (Physical::BYTE_ARRAY, Some(LogicalType::Json)),
            _ => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let field = Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
        field.with_logical_type(logical).build().map(Arc::new)
    };
    let fields = COLUMNS.into_iter().map(field).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(Type::group_type_builder("event").with_fields(fields).build()?))
}

/// Returns the system error in an error of the Parquet writer, if there is one.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        other => io::Error::other(other),
    }
}
