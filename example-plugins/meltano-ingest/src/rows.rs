//! Records as columns in memory, until they are written to a Parquet file as a row group. Uses [`layout`](crate::layout).

use crate::layout::{Kind, Layout};
use crate::message::Text;
use crate::number;
use bytes::Bytes;
use lorchestra_plugin_api::chrono::{DateTime, NaiveDate, NaiveDateTime, Timelike, Utc};
use lorchestra_plugin_api::serde_json::{self, value::RawValue};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt::{self, Formatter};
use std::io::Write;
use std::sync::Arc;

/// Maximum number of rows of a row group: a vector of DuckDB's, which other readers can use as well.
const MAX_ROWS: usize = 122_880;
/// Maximum size of the records of a row group, in bytes of JSON.
const MAX_BYTES: usize = 32 << 20;

/// Why a record does not fit into the columns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// The value of a column has another type, or would lose digits.
    Column(usize),
    /// There is no column for properties that the schema does not list.
    Unlisted,
    /// A property's name is not valid Unicode.
    NotText,
}

/// Records that are not written yet.
#[derive(Debug)]
pub(crate) struct Rows {
    layout: Arc<Layout>,
    columns: Vec<Column>,
    len: usize,
    bytes: usize,
    /// The column of each property of the last record, in its order: most records have the same order.
    order: Vec<usize>,
}

impl Rows {
    pub(crate) fn new(layout: Arc<Layout>) -> Self {
        let columns = layout.columns.iter().map(|(_, kind)| Column::new(*kind)).collect();
        Self { layout, columns, len: 0, bytes: 0, order: Vec::new() }
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the size of the records, in bytes of JSON.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether the rows should be written.
    pub(crate) fn is_full(&self) -> bool {
        self.len >= MAX_ROWS || self.bytes >= MAX_BYTES
    }

    /// Adds a record, which is a JSON object. After an error nothing is added.
    pub(crate) fn push(&mut self, record: &str) -> Result<(), Misfit> {
        let Pairs(pairs) = serde_json::from_str(record).map_err(|_| Misfit::NotText)?;
        let mut slots: Vec<Option<&str>> = vec![None; self.columns.len()];
        let mut unlisted: Vec<(&str, &str)> = Vec::new();
        for (at, (name, value)) in pairs.iter().enumerate() {
            let hint = self.order.get(at).copied().filter(|&column| self.layout.columns[column].0 == **name);
            // The extra column is no property: its name may be one that the schema does not list.
            match hint.filter(|column| Some(*column) != self.layout.unlisted).or_else(|| self.layout.column(name)) {
                Some(column) => {
                    if hint.is_none() {
                        self.order.resize(self.order.len().max(at + 1), column);
                        self.order[at] = column;
                    }
                    slots[column] = Some(value.get());
                }
                None => unlisted.push((name, value.get())),
            }
        }
        let object;
        if !unlisted.is_empty() {
            let Some(column) = self.layout.unlisted else { return Err(Misfit::Unlisted) };
            object = object_text(&unlisted);
            slots[column] = Some(&object);
        }
        for (at, value) in slots.into_iter().enumerate() {
            if !self.columns[at].push(value) {
                self.columns[..at].iter_mut().for_each(|column| column.truncate(self.len));
                return Err(Misfit::Column(at));
            }
        }
        self.len += 1;
        self.bytes += record.len();
        Ok(())
    }

    /// Removes all rows but the first ones.
    pub(crate) fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.columns.iter_mut().for_each(|column| column.truncate(len));
            self.bytes = self.bytes / self.len * len;
            self.len = len;
        }
    }

    /// Writes the first `count` rows as a row group, and removes them. After an error the file cannot be used.
    pub(crate) fn write<W: Write + Send>(
        &mut self,
        count: usize,
        writer: &mut SerializedFileWriter<W>,
    ) -> Result<(), ParquetError> {
        let count = count.min(self.len);
        let mut group = writer.next_row_group()?;
        for column in &mut self.columns {
            let mut chunk = group.next_column()?.ok_or_else(|| ParquetError::General("a column is missing".into()))?;
            column.write(count, &mut chunk)?;
            chunk.close()?;
        }
        group.close()?;
        self.bytes -= self.bytes / self.len.max(1) * count;
        self.len -= count;
        Ok(())
    }
}

/// The properties of a record in their order, with the JSON text of each value.
struct Pairs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    pairs.push((name.0, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

fn object_text(properties: &[(&str, &str)]) -> String {
    let texts: Vec<String> =
        properties.iter().map(|(name, value)| format!("{}:{value}", serde_json::Value::from(*name))).collect();
    format!("{{{}}}", texts.join(","))
}

/// Values of a column: those that are not null, and for each row whether there is one.
#[derive(Debug)]
struct Column {
    kind: Kind,
    levels: Vec<i16>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Boolean(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float(Vec<f64>),
    Decimal(Vec<i128>),
    /// All texts in one, and the end of each.
    Bytes(Vec<u8>, Vec<usize>),
}

impl Column {
    fn new(kind: Kind) -> Self {
        let values = match kind {
            Kind::Boolean => Values::Boolean(Vec::new()),
            Kind::Integer | Kind::Timestamp => Values::Int64(Vec::new()),
            Kind::Float => Values::Float(Vec::new()),
            Kind::Decimal { .. } => Values::Decimal(Vec::new()),
            Kind::Date => Values::Int32(Vec::new()),
            Kind::Text | Kind::Json => Values::Bytes(Vec::new(), Vec::new()),
        };
        Self { kind, levels: Vec::new(), values }
    }

    /// Adds the value with this JSON text. Returns false if it does not fit.
    fn push(&mut self, json: Option<&str>) -> bool {
        let Some(json) = json.filter(|json| *json != "null") else {
            self.levels.push(0);
            return true;
        };
        let has_pushed = match (&mut self.values, self.kind) {
            (Values::Boolean(values), _) => push(values, (json == "true" || json == "false").then_some(json == "true")),
            (Values::Int64(values), Kind::Timestamp) => push(values, text(json).and_then(|text| microseconds(&text))),
            (Values::Int64(values), _) => push(values, integer(json)),
            (Values::Float(values), _) => push(values, number::exact_float(json)),
            (Values::Decimal(values), Kind::Decimal { precision, scale }) => {
                let number = text(json);
                push(values, number::scaled(number.as_deref().unwrap_or(json), precision, scale))
            }
            (Values::Int32(values), _) => push(values, text(json).and_then(|text| days(&text))),
            (Values::Bytes(all, ends), Kind::Json) => {
                all.extend_from_slice(json.as_bytes());
                ends.push(all.len());
                true
            }
            (Values::Bytes(all, ends), _) => text(json).is_some_and(|text| {
                all.extend_from_slice(text.as_bytes());
                ends.push(all.len());
                true
            }),
            (Values::Decimal(_), _) => false,
        };
        if has_pushed {
            self.levels.push(1);
        }
        has_pushed
    }

    fn truncate(&mut self, rows: usize) {
        let count = present(&self.levels[..rows.min(self.levels.len())]);
        self.levels.truncate(rows);
        match &mut self.values {
            Values::Boolean(values) => values.truncate(count),
            Values::Int32(values) => values.truncate(count),
            Values::Int64(values) => values.truncate(count),
            Values::Float(values) => values.truncate(count),
            Values::Decimal(values) => values.truncate(count),
            Values::Bytes(all, ends) => {
                ends.truncate(count);
                all.truncate(ends.last().copied().unwrap_or(0));
            }
        }
    }

    /// Writes the values of the first rows, and removes them.
    fn write(&mut self, rows: usize, chunk: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let levels: Vec<i16> = self.levels.drain(..rows).collect();
        let count = present(&levels);
        let levels = Some(&levels[..]);
        match &mut self.values {
            Values::Boolean(values) => {
                let values: Vec<bool> = values.drain(..count).collect();
                chunk.typed::<BoolType>().write_batch(&values, levels, None)?;
            }
            Values::Int32(values) => {
                let values: Vec<i32> = values.drain(..count).collect();
                chunk.typed::<Int32Type>().write_batch(&values, levels, None)?;
            }
            Values::Int64(values) => {
                let values: Vec<i64> = values.drain(..count).collect();
                chunk.typed::<Int64Type>().write_batch(&values, levels, None)?;
            }
            Values::Float(values) => {
                let values: Vec<f64> = values.drain(..count).collect();
                chunk.typed::<DoubleType>().write_batch(&values, levels, None)?;
            }
            Values::Decimal(values) => {
                let digits: Bytes = values.drain(..count).flat_map(i128::to_be_bytes).collect::<Vec<u8>>().into();
                let values: Vec<FixedLenByteArray> =
                    (0..count).map(|at| ByteArray::from(digits.slice(at * 16..at * 16 + 16)).into()).collect();
                chunk.typed::<FixedLenByteArrayType>().write_batch(&values, levels, None)?;
            }
            Values::Bytes(all, ends) => {
                let end = count.checked_sub(1).map_or(0, |last| ends[last]);
                let rest = all.split_off(end);
                let bytes = Bytes::from(std::mem::replace(all, rest));
                let mut start = 0;
                let values: Vec<ByteArray> = ends
                    .drain(..count)
                    .map(|end| ByteArray::from(bytes.slice(std::mem::replace(&mut start, end)..end)))
                    .collect();
                ends.iter_mut().for_each(|at| *at -= end);
                chunk.typed::<ByteArrayType>().write_batch(&values, levels, None)?;
            }
        }
        Ok(())
    }
}

fn push<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
    value.is_some_and(|value| {
        values.push(value);
        true
    })
}

fn present(levels: &[i16]) -> usize {
    levels.iter().filter(|level| **level == 1).count()
}

/// Returns the text of a JSON string.
fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<Text<'_>>(json).ok().map(|text| text.0)
}

fn integer(json: &str) -> Option<i64> {
    json.parse().ok().or_else(|| i64::try_from(number::scaled(json, 19, 0)?).ok())
}

/// Returns the microseconds since 1970. A time without a zone is UTC, as in Meltano's SDK. `None` also for leap seconds and for
/// digits after the microseconds, which would be lost.
fn microseconds(text: &str) -> Option<i64> {
    let time: DateTime<Utc> = match DateTime::parse_from_rfc3339(text) {
        Ok(time) => time.to_utc(),
        Err(_) => {
            let formats = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
            formats.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())?.and_utc()
        }
    };
    (time.nanosecond() < 1_000_000_000 && time.nanosecond().is_multiple_of(1000)).then(|| time.timestamp_micros())
}

/// Returns the days since 1970.
fn days(text: &str) -> Option<i32> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|_| text.len() == 10)?;
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

#[cfg(test)]
mod tests;
