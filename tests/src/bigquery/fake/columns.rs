//! Columns of a table, and the values they accept: from insertAll's JSON, and from the fields of a row descriptor. Knows no table and no
//! protocol; returns the value as the table stores it, or the server's error message.
//!
//! Stored values: TIMESTAMP as RFC 3339 in UTC with microseconds, JSON as the text that was sent, BYTES in base64.

use super::wire::Scalar;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};
use prost_types::field_descriptor_proto::Type as ProtoType;
use serde_json::Value;

/// The types that the fake knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Integer,
    Float,
    Bool,
    Timestamp,
    Date,
    Json,
    Bytes,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) required: bool,
    pub(super) description: String,
}

impl Column {
    /// Parses a field of a table's schema in REST's form.
    pub(super) fn from_field(field: &Value) -> Result<Self, String> {
        let text = |key: &str| field[key].as_str().unwrap_or_default();
        let name = text("name");
        let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !first || name.len() > 300 || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(format!("Invalid field name \"{name}\"."));
        }
        let kind = match text("type").to_ascii_uppercase().as_str() {
            "STRING" => Kind::String,
            "INTEGER" | "INT64" => Kind::Integer,
            "FLOAT" | "FLOAT64" => Kind::Float,
            "BOOLEAN" | "BOOL" => Kind::Bool,
            "TIMESTAMP" => Kind::Timestamp,
            "DATE" => Kind::Date,
            "JSON" => Kind::Json,
            "BYTES" => Kind::Bytes,
            other => return Err(format!("Invalid value for type: {other} is not a valid value (the fake has no such type)")),
        };
        let required = match text("mode").to_ascii_uppercase().as_str() {
            "" | "NULLABLE" => false,
            "REQUIRED" => true,
            other => return Err(format!("Invalid value for mode: {other} is not a valid value (the fake has no such mode)")),
        };
        Ok(Self { name: name.to_owned(), kind, required, description: text("description").to_owned() })
    }

    /// Converts a value from insertAll for this column; never null.
    pub(super) fn take_json(&self, value: &Value) -> Result<Value, String> {
        if value.is_object() {
            return Err(format!("This field: {} is not a record.", self.name));
        }
        if value.is_array() {
            return Err("Array specified for non-repeated field.".to_owned());
        }
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let wrong = |what: &str| format!("Cannot convert value to {what} (bad value): {text}");
        match self.kind {
            Kind::String => Ok(text.into()),
            Kind::Integer => text.parse::<i64>().map(Value::from).map_err(|_| wrong("integer")),
            Kind::Float => text.parse::<f64>().map(Value::from).map_err(|_| wrong("float")),
            Kind::Bool => text.to_ascii_lowercase().parse::<bool>().map(Value::from).map_err(|_| wrong("bool")),
            Kind::Timestamp => timestamp(&text),
            Kind::Date => date(&text),
            Kind::Json if value.is_string() => json(text),
            Kind::Json => Err(format!("Cannot convert value of column {} to JSON: it is not a string", self.name)),
            Kind::Bytes => STANDARD.decode(&text).map(|_| text.clone().into()).map_err(|_| wrong("bytes")),
        }
    }

    /// Whether a field of this type in a row descriptor is valid for this column.
    pub(super) fn takes(&self, proto: ProtoType) -> bool {
        match self.kind {
            Kind::String | Kind::Json => proto == ProtoType::String,
            Kind::Integer | Kind::Timestamp => matches!(proto, ProtoType::Int64 | ProtoType::Int32 | ProtoType::Uint32),
            Kind::Date => matches!(proto, ProtoType::Int64 | ProtoType::Int32),
            Kind::Float => proto == ProtoType::Double,
            Kind::Bool => matches!(proto, ProtoType::Bool | ProtoType::Int64 | ProtoType::Int32 | ProtoType::Uint32),
            Kind::Bytes => matches!(proto, ProtoType::Bytes | ProtoType::String),
        }
    }

    /// Converts the value of a row's field, whose type the column [accepts](Self::takes).
    pub(super) fn take_wire(&self, scalar: Scalar) -> Result<Value, String> {
        match (self.kind, scalar) {
            (Kind::String, Scalar::Text(text)) => Ok(text.into()),
            (Kind::Json, Scalar::Text(text)) => json(text),
            (Kind::Integer, Scalar::Int(number)) => Ok(number.into()),
            (Kind::Timestamp, Scalar::Int(micros)) => DateTime::from_timestamp_micros(micros)
                .map(canonical)
                .ok_or_else(|| format!("Timestamp field value is out of range: {micros} on field {}.", self.name)),
            (Kind::Date, Scalar::Int(days)) => days
                .checked_mul(86_400)
                .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
                .map(|at| at.date_naive().to_string().into())
                .ok_or_else(|| format!("Date field value is out of range: {days} on field {}.", self.name)),
            (Kind::Float, Scalar::Double(number)) => Ok(number.into()),
            (Kind::Bool, Scalar::Bool(yes)) => Ok(yes.into()),
            (Kind::Bool, Scalar::Int(number)) => Ok((number != 0).into()),
            (Kind::Bytes, Scalar::Bytes(bytes)) => Ok(STANDARD.encode(bytes).into()),
            (Kind::Bytes, Scalar::Text(text)) => Ok(STANDARD.encode(text).into()),
            _ => Err(format!("Field {} does not hold what its descriptor says", self.name)),
        }
    }
}

/// Parses RFC 3339, or BigQuery's own forms with a space and `UTC` or nothing at the end, or seconds since 1970.
fn timestamp(text: &str) -> Result<Value, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(canonical(at.to_utc()));
    }
    let bare = text.strip_suffix(" UTC").or_else(|| text.strip_suffix('Z')).unwrap_or(text);
    for form in ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"] {
        if let Ok(at) = NaiveDateTime::parse_from_str(bare, form) {
            return Ok(canonical(at.and_utc()));
        }
    }
    let micros = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite()).map(|seconds| (seconds * 1e6).round());
    #[expect(clippy::cast_possible_truncation, reason = "out of range becomes a time out of range, which is refused")]
    let at = micros.and_then(|micros| DateTime::from_timestamp_micros(micros as i64));
    at.map(canonical)
        .ok_or_else(|| format!("Could not parse '{text}' as a timestamp. Required format is YYYY-MM-DD HH:MM[:SS[.SSSSSS]]"))
}

fn date(text: &str) -> Result<Value, String> {
    let day = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d");
    day.map(|day| day.to_string().into()).map_err(|_| format!("Invalid date: '{text}'"))
}

fn json(text: String) -> Result<Value, String> {
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!("Invalid JSON: syntax error while parsing value ({error})")),
    }
}

fn canonical(at: DateTime<Utc>) -> Value {
    at.to_rfc3339_opts(SecondsFormat::Micros, true).into()
}
