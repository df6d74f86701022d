//! Encodes events: as a protobuf message of the table's own [`Layout`] for the Storage Write API, as a JSON object for insertAll. Pure
//! functions only. Guarantees that a row contains exactly the columns of the layout for which the event has a value.

use super::columns::{Field, Layout, Wire};
use crate::delivery::Row;
use chrono::{DateTime, SecondsFormat};
use prost::encoding;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// Encodes one event in the wire format of [`Layout::descriptor`], field by field, without an intermediate message.
pub(super) fn proto(layout: &Layout, row: &Row) -> Vec<u8> {
    // One allocation per row. 8 bytes cover the tag and length of a text, and all but the tag of an integer.
    let texts: usize = layout.columns().iter().map(|column| text(column.field, row).map_or(16, |text| text.len() + 8)).sum();
    let mut bytes = Vec::with_capacity(texts + 16);
    for column in layout.columns() {
        match column.wire {
            Wire::Text => {
                if let Some(text) = text(column.field, row) {
                    encoding::string::encode(column.tag, text, &mut bytes);
                }
            }
            Wire::Rfc3339 => {
                if let Some(time) = rfc3339(row.created_at) {
                    encoding::string::encode(column.tag, &time, &mut bytes);
                }
            }
            Wire::Micros => encoding::int64::encode(column.tag, &row.created_at, &mut bytes),
            Wire::Whole => {
                if let Some(number) = row.attempt {
                    encoding::int64::encode(column.tag, &number, &mut bytes);
                }
            }
        }
    }
    bytes
}

/// An insertAll request that serializes directly from the rows: the client's model of maps and strings costs more than everything else in
/// sending. Neither skips invalid rows nor ignores unknown values.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InsertAll<'a> {
    skip_invalid_rows: bool,
    ignore_unknown_values: bool,
    rows: Vec<InsertRow<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InsertRow<'a> {
    insert_id: &'a str,
    json: Object<'a>,
}

impl<'a> InsertAll<'a> {
    /// Creates a request with these rows, each with its `event_id` as insert id.
    pub(super) fn of(layout: &'a Layout, rows: &'a [Row]) -> Self {
        let entry = |row: &'a Row| InsertRow { insert_id: &row.event_id, json: Object { layout, row } };
        Self { skip_invalid_rows: false, ignore_unknown_values: false, rows: rows.iter().map(entry).collect() }
    }
}

/// One event in the format of insertAll: times as RFC 3339, JSON as a string.
#[derive(Debug)]
pub(super) struct Object<'a> {
    layout: &'a Layout,
    row: &'a Row,
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for column in self.layout.columns() {
            match column.wire {
                Wire::Text => {
                    if let Some(text) = text(column.field, self.row) {
                        object.serialize_entry(&column.name, text)?;
                    }
                }
                Wire::Rfc3339 | Wire::Micros => {
                    if let Some(time) = rfc3339(self.row.created_at) {
                        object.serialize_entry(&column.name, &time)?;
                    }
                }
                Wire::Whole => {
                    if let Some(number) = self.row.attempt {
                        object.serialize_entry(&column.name, &number)?;
                    }
                }
            }
        }
        object.end()
    }
}

fn text(field: Field, row: &Row) -> Option<&String> {
    match field {
        Field::EventId => Some(&row.event_id),
        Field::EventType => Some(&row.event_type),
        Field::Source => Some(&row.source),
        Field::SchemaRef => row.schema_ref.as_ref(),
        Field::CorrelationId => row.correlation_id.as_ref(),
        Field::SubjectId => row.subject_id.as_ref(),
        Field::Payload => row.payload.as_ref(),
        Field::RunId => row.run_id.as_ref(),
        Field::Package => row.package.as_ref(),
        Field::Job => row.job.as_ref(),
        Field::CreatedAt | Field::Attempt => None,
    }
}

/// `None` for years that chrono does not support: the server's error then names the missing value.
pub(super) fn rfc3339(micros: i64) -> Option<String> {
    DateTime::from_timestamp_micros(micros).map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::columns::tests::{old, ours};
    use super::*;
    use std::collections::BTreeMap;

    pub(in super::super) fn full() -> Row {
        Row {
            event_id: "0190c0de-0000-7000-8000-000000000001".to_owned(),
            event_type: "email.received".to_owned(),
            source: "ingester/extract_gmail".to_owned(),
            schema_ref: Some("email/1".to_owned()),
            created_at: 1_706_700_000_000_001,
            correlation_id: Some("c".to_owned()),
            subject_id: Some("alice@example.com".to_owned()),
            payload: Some(r#"{"n":1,"ü":"\n"}"#.to_owned()),
            run_id: Some("r".to_owned()),
            attempt: Some(2),
            package: Some("ingester".to_owned()),
            job: Some("extract_gmail".to_owned()),
        }
    }

    pub(in super::super) fn bare() -> Row {
        Row {
            schema_ref: None,
            correlation_id: None,
            subject_id: None,
            payload: None,
            run_id: None,
            attempt: None,
            package: None,
            job: None,
            created_at: -1,
            ..full()
        }
    }

    #[derive(Debug, PartialEq)]
    enum Read {
        Text(String),
        Int(i64),
    }

    /// Decodes protobuf's wire format, written from its specification: varints and length-delimited strings.
    fn decode(mut bytes: &[u8]) -> BTreeMap<u32, Read> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let (byte, rest) = bytes.split_first().unwrap();
                *bytes = rest;
                value |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    return value;
                }
            }
            unreachable!()
        }
        let mut fields = BTreeMap::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let value = match key & 7 {
                0 => Read::Int(varint(&mut bytes) as i64),
                2 => {
                    let length = varint(&mut bytes) as usize;
                    let (text, rest) = bytes.split_at(length);
                    bytes = rest;
                    Read::Text(String::from_utf8(text.to_vec()).unwrap())
                }
                other => panic!("wire type {other}"),
            };
            assert!(fields.insert((key >> 3) as u32, value).is_none());
        }
        fields
    }

    fn read(layout: &Layout, row: &Row) -> BTreeMap<String, Read> {
        let descriptor = layout.descriptor();
        let name = |tag| descriptor.field.iter().find(|f| f.number() == tag as i32).unwrap().name().to_owned();
        decode(&proto(layout, row)).into_iter().map(|(tag, value)| (name(tag), value)).collect()
    }

    #[test]
    fn every_column_by_its_descriptor() {
        let layout = Layout::read("t", &ours()).unwrap();
        let row = full();
        let text = |text: &str| Read::Text(text.to_owned());
        let expected = BTreeMap::from([
            ("event_id".to_owned(), text(&row.event_id)),
            ("event_type".to_owned(), text("email.received")),
            ("source".to_owned(), text("ingester/extract_gmail")),
            ("schema_ref".to_owned(), text("email/1")),
            ("created_at".to_owned(), Read::Int(1_706_700_000_000_001)),
            ("correlation_id".to_owned(), text("c")),
            ("subject_id".to_owned(), text("alice@example.com")),
            ("payload".to_owned(), text(r#"{"n":1,"ü":"\n"}"#)),
            ("run_id".to_owned(), text("r")),
            ("attempt".to_owned(), Read::Int(2)),
            ("package".to_owned(), text("ingester")),
            ("job".to_owned(), text("extract_gmail")),
        ]);
        assert_eq!(read(&layout, &row), expected);
    }

    #[test]
    fn missing_values_are_not_written() {
        let layout = Layout::read("t", &ours()).unwrap();
        let fields = read(&layout, &bare());
        let names: Vec<_> = fields.keys().map(String::as_str).collect();
        assert_eq!(names, ["created_at", "event_id", "event_type", "source"]);
        assert_eq!(fields["created_at"], Read::Int(-1));
    }

    #[test]
    fn string_time_and_eight_columns() {
        let layout = Layout::read("t", &old()).unwrap();
        let fields = read(&layout, &full());
        assert_eq!(fields.len(), 8);
        assert_eq!(fields["created_at"], Read::Text("2024-01-31T11:20:00.000001Z".to_owned()));
        assert_eq!(read(&layout, &bare())["created_at"], Read::Text("1969-12-31T23:59:59.999999Z".to_owned()));
    }

    #[test]
    fn json_for_insert_all() {
        let json = |layout: &Layout, row: &Row| serde_json::to_value(Object { layout, row }).unwrap();
        let layout = Layout::read("t", &ours()).unwrap();
        let value = json(&layout, &full());
        assert_eq!(value["created_at"], "2024-01-31T11:20:00.000001Z");
        assert_eq!(value["payload"], r#"{"n":1,"ü":"\n"}"#);
        assert_eq!(value["attempt"], 2);
        assert_eq!(value.as_object().unwrap().len(), 12);
        assert_eq!(json(&layout, &bare()).as_object().unwrap().len(), 4);
        assert_eq!(json(&Layout::read("t", &old()).unwrap(), &full()).as_object().unwrap().len(), 8);
        let request = serde_json::to_value(InsertAll::of(&layout, &[full(), bare()])).unwrap();
        assert_eq!(request["rows"][0]["insertId"], full().event_id);
        assert_eq!((&request["skipInvalidRows"], &request["ignoreUnknownValues"]), (&false.into(), &false.into()));
    }
}
