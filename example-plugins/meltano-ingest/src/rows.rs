//! Records as columns in memory, until they are written to a Parquet file as a row group. Uses [`layout`](crate::layout).
//!
//! A column has an entry only for the rows that have a value. So a record costs time and memory for the properties that it has, not for
//! those that its schema has: schemas of CRM systems list thousands, of which a record fills a few.

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
const MAX_ROWS: u32 = 122_880;
/// Maximum size of the values of a row group in memory, in bytes.
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
    /// None if there are no rows.
    columns: Vec<Column>,
    len: u32,
    /// Size of the values of all columns.
    bytes: usize,
    /// The column of each property of the last record, in its order: most records have the same order.
    order: Vec<usize>,
}

impl Rows {
    pub(crate) fn new(layout: Arc<Layout>) -> Self {
        Self { layout, columns: Vec::new(), len: 0, bytes: 0, order: Vec::new() }
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns the size in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.columns.len() * size_of::<Column>() + self.bytes
    }

    /// Returns whether the rows should be written.
    pub(crate) fn is_full(&self) -> bool {
        self.len >= MAX_ROWS || self.bytes >= MAX_BYTES
    }

    /// Adds a record, which is a JSON object. After an error nothing is added.
    pub(crate) fn push(&mut self, record: &str) -> Result<(), Misfit> {
        let Pairs(pairs) = serde_json::from_str(record).map_err(|_| Misfit::NotText)?;
        if self.columns.is_empty() {
            self.columns = self.layout.columns.iter().map(|(_, kind)| Column::new(*kind)).collect();
        }
        let mut unlisted: Vec<(&str, &str)> = Vec::new();
        let mut result = Ok(());
        for (at, (name, value)) in pairs.iter().enumerate() {
            let hint = self.order.get(at).copied().filter(|&column| self.layout.columns[column].0 == **name);
            // The extra column is no property: its name may be one that the schema does not list.
            match hint.filter(|column| Some(*column) != self.layout.unlisted).or_else(|| self.layout.column(name)) {
                Some(column) => {
                    if hint.is_none() {
                        self.order.resize(self.order.len().max(at + 1), column);
                        self.order[at] = column;
                    }
                    result = self.set(column, value.get());
                    if result.is_err() {
                        break;
                    }
                }
                None => unlisted.push((name, value.get())),
            }
        }
        if result.is_ok() && !unlisted.is_empty() {
            result = match self.layout.unlisted {
                Some(column) => self.set(column, &object_text(&unlisted)),
                None => Err(Misfit::Unlisted),
            };
        }
        if result.is_err() {
            let (row, layout) = (self.len, self.layout.clone());
            for column in pairs.iter().filter_map(|(name, _)| layout.column(name)) {
                self.bytes -= self.columns[column].truncate(row);
            }
        } else {
            self.len += 1;
        }
        result
    }

    /// Sets the value of a column in the row that is being added. The last of several properties with the same name counts.
    fn set(&mut self, column: usize, json: &str) -> Result<(), Misfit> {
        let values = &mut self.columns[column];
        if values.rows.last() == Some(&self.len) {
            self.bytes -= values.truncate(self.len);
        }
        self.bytes += values.push(self.len, json).ok_or(Misfit::Column(column))?;
        Ok(())
    }

    /// Removes all rows but the first ones.
    pub(crate) fn truncate(&mut self, len: usize) {
        let Ok(len) = u32::try_from(len) else { return };
        if len < self.len {
            self.bytes -= self.columns.iter_mut().map(|column| column.truncate(len)).sum::<usize>();
            self.len = len;
            self.free_if_empty();
        }
    }

    /// Writes the first `count` rows as a row group, and removes them. After an error the file cannot be used.
    pub(crate) fn write<W: Write + Send>(
        &mut self,
        count: usize,
        writer: &mut SerializedFileWriter<W>,
    ) -> Result<(), ParquetError> {
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(self.len);
        let mut group = writer.next_row_group()?;
        let mut levels = vec![0; count as usize];
        for column in &mut self.columns {
            let mut chunk = group.next_column()?.ok_or_else(|| ParquetError::General("a column is missing".into()))?;
            self.bytes -= column.write(count, &mut levels, &mut chunk)?;
            chunk.close()?;
        }
        group.close()?;
        self.len -= count;
        self.free_if_empty();
        Ok(())
    }

    fn free_if_empty(&mut self) {
        if self.len == 0 {
            self.columns = Vec::new();
            self.bytes = 0;
        }
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
                // The length is not known, and most records have more than four properties, with which a vector begins.
                let mut pairs = Vec::with_capacity(32);
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

/// Values of a column: those that are not null, with their rows.
#[derive(Debug)]
struct Column {
    kind: Kind,
    /// The row of each value, in ascending order.
    rows: Vec<u32>,
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
        Self { kind, rows: Vec::new(), values }
    }

    /// Adds the value with this JSON text. Returns its size in memory; `None` if it does not fit.
    fn push(&mut self, row: u32, json: &str) -> Option<usize> {
        if json == "null" {
            return Some(0);
        }
        let bytes = match (&mut self.values, self.kind) {
            (Values::Boolean(values), _) => push(values, (json == "true" || json == "false").then_some(json == "true")),
            (Values::Int64(values), Kind::Timestamp) => push(values, text(json).and_then(|text| microseconds(&text))),
            (Values::Int64(values), _) => push(values, integer(json)),
            (Values::Float(values), _) => push(values, number::exact_float(json)),
            (Values::Decimal(values), Kind::Decimal { precision, scale }) => {
                let number = text(json);
                push(values, number::scaled(number.as_deref().unwrap_or(json), precision, scale))
            }
            (Values::Decimal(_), _) => None,
            (Values::Int32(values), _) => push(values, text(json).and_then(|text| days(&text))),
            (Values::Bytes(all, ends), Kind::Json) => Some(push_text(all, ends, json)),
            (Values::Bytes(all, ends), _) => text(json).map(|text| push_text(all, ends, &text)),
        }?;
        self.rows.push(row);
        Some(size_of::<u32>() + bytes)
    }

    /// Removes the values of this row and of later ones. Returns their size in memory.
    fn truncate(&mut self, row: u32) -> usize {
        let count = self.rows.partition_point(|at| *at < row);
        let removed = self.rows.len() - count;
        if removed == 0 {
            return 0;
        }
        self.rows.truncate(count);
        let each = size_of::<u32>() + self.values.size();
        let texts = match &mut self.values {
            Values::Boolean(values) => shorten(values, count),
            Values::Int32(values) => shorten(values, count),
            Values::Int64(values) => shorten(values, count),
            Values::Float(values) => shorten(values, count),
            Values::Decimal(values) => shorten(values, count),
            Values::Bytes(all, ends) => {
                ends.truncate(count);
                let before = all.len();
                all.truncate(ends.last().copied().unwrap_or(0));
                before - all.len()
            }
        };
        removed * each + texts
    }

    /// Writes the values of the first rows, and removes them. Returns their size in memory. `levels` has a zero for each of these rows.
    fn write(&mut self, rows: u32, levels: &mut [i16], chunk: &mut SerializedColumnWriter<'_>) -> Result<usize, ParquetError> {
        let count = self.rows.partition_point(|at| *at < rows);
        for at in &self.rows[..count] {
            levels[*at as usize] = 1;
        }
        let mut bytes = count * (size_of::<u32>() + self.values.size());
        let present = Some(&*levels);
        match &mut self.values {
            Values::Boolean(values) => {
                chunk.typed::<BoolType>().write_batch(&values[..count], present, None)?;
                remove_first(values, count);
            }
            Values::Int32(values) => {
                chunk.typed::<Int32Type>().write_batch(&values[..count], present, None)?;
                remove_first(values, count);
            }
            Values::Int64(values) => {
                chunk.typed::<Int64Type>().write_batch(&values[..count], present, None)?;
                remove_first(values, count);
            }
            Values::Float(values) => {
                chunk.typed::<DoubleType>().write_batch(&values[..count], present, None)?;
                remove_first(values, count);
            }
            Values::Decimal(values) => {
                let digits: Bytes = values[..count].iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<u8>>().into();
                let fixed: Vec<FixedLenByteArray> =
                    (0..count).map(|at| ByteArray::from(digits.slice(at * 16..at * 16 + 16)).into()).collect();
                chunk.typed::<FixedLenByteArrayType>().write_batch(&fixed, present, None)?;
                remove_first(values, count);
            }
            Values::Bytes(all, ends) => {
                let end = count.checked_sub(1).map_or(0, |last| ends[last]);
                bytes += end;
                let rest = all.split_off(end);
                let text = Bytes::from(std::mem::replace(all, rest));
                let mut start = 0;
                let values: Vec<ByteArray> = ends[..count]
                    .iter()
                    .map(|end| ByteArray::from(text.slice(std::mem::replace(&mut start, *end)..*end)))
                    .collect();
                remove_first(ends, count);
                ends.iter_mut().for_each(|at| *at -= end);
                chunk.typed::<ByteArrayType>().write_batch(&values, present, None)?;
            }
        }
        for at in &self.rows[..count] {
            levels[*at as usize] = 0;
        }
        remove_first(&mut self.rows, count);
        self.rows.iter_mut().for_each(|at| *at -= rows);
        Ok(bytes)
    }
}

impl Values {
    /// Returns the size of a value in memory; of a text, without the text.
    fn size(&self) -> usize {
        match self {
            Self::Boolean(_) => size_of::<bool>(),
            Self::Int32(_) => size_of::<i32>(),
            Self::Int64(_) => size_of::<i64>(),
            Self::Float(_) => size_of::<f64>(),
            Self::Decimal(_) => size_of::<i128>(),
            Self::Bytes(..) => size_of::<usize>(),
        }
    }
}

/// Adds a value. Returns its size.
fn push<T>(values: &mut Vec<T>, value: Option<T>) -> Option<usize> {
    values.push(value?);
    Some(size_of::<T>())
}

/// Adds a text. Returns its size.
fn push_text(all: &mut Vec<u8>, ends: &mut Vec<usize>, text: &str) -> usize {
    all.extend_from_slice(text.as_bytes());
    ends.push(all.len());
    size_of::<usize>() + text.len()
}

fn shorten<T>(values: &mut Vec<T>, count: usize) -> usize {
    values.truncate(count);
    0
}

/// Removes the first values.
fn remove_first<T>(values: &mut Vec<T>, count: usize) {
    drop(values.drain(..count));
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
