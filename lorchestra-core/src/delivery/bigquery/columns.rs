//! The columns of an event: those of a table that lorchestra creates, and those of an existing table. Pure functions only. Guarantees that
//! a [`Layout`] names only columns that the table has, each with a type that fits its values.

use super::redact::one_line;
use crate::delivery::DeliveryError;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};

/// A value of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    EventId,
    EventType,
    Source,
    SchemaRef,
    CreatedAt,
    CorrelationId,
    SubjectId,
    Payload,
    RunId,
    Attempt,
    Package,
    Job,
}

impl Field {
    /// Whether some events have no value for it.
    fn may_be_missing(self) -> bool {
        matches!(self, Self::SchemaRef | Self::SubjectId)
    }
}

/// A column as lorchestra creates it.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) field: Field,
    pub(super) name: &'static str,
    /// BigQuery's name of the type.
    pub(super) kind: &'static str,
    pub(super) required: bool,
    pub(super) description: &'static str,
}

const fn column(field: Field, name: &'static str, kind: &'static str, required: bool, description: &'static str) -> Column {
    Column { field, name, kind, required, description }
}

/// The event envelope.
pub(super) const ENVELOPE: [Column; 12] = [
    column(Field::EventId, "event_id", "STRING", true, "Identity of the event (UUIDv7, sorts by time)"),
    column(Field::EventType, "event_type", "STRING", true, "What happened, such as job.started"),
    column(Field::Source, "source", "STRING", true, "Source of the event: package/job"),
    column(Field::SchemaRef, "schema_ref", "STRING", false, "Schema of the payload, if the job set one"),
    column(Field::CreatedAt, "created_at", "TIMESTAMP", true, "When the event was emitted (UTC, microseconds)"),
    column(
        Field::CorrelationId,
        "correlation_id",
        "STRING",
        false,
        "Groups related events: the run's id, unless the job set another",
    ),
    column(Field::SubjectId, "subject_id", "STRING", false, "Subject of the event; personal data"),
    column(Field::Payload, "payload", "JSON", false, "Payload of the job; may contain personal data"),
    column(Field::RunId, "run_id", "STRING", false, "The run that emitted it (UUIDv7)"),
    column(Field::Attempt, "attempt", "INTEGER", false, "Attempt of the run, from 1"),
    column(Field::Package, "package", "STRING", false, "First half of source"),
    column(Field::Job, "job", "STRING", false, "Second half of source"),
];

/// A column of the existing table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExistingColumn {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) mode: String,
}

impl ExistingColumn {
    pub(super) fn new(name: &str, kind: &str, mode: Option<&str>) -> Self {
        Self { name: name.to_owned(), kind: kind.to_ascii_uppercase(), mode: mode.unwrap_or("NULLABLE").to_ascii_uppercase() }
    }
}

/// The encoding of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// Unchanged text.
    Text,
    /// Microseconds since 1970.
    Micros,
    /// RFC 3339 with microseconds and `Z`: a time in a STRING column.
    Rfc3339,
    /// An integer.
    Whole,
}

/// A value of ours and the table's column for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) field: Field,
    /// In the table's spelling: BigQuery ignores case.
    pub(super) name: String,
    pub(super) wire: Wire,
    /// Number of the field in the row's message, from 1 without gaps.
    pub(super) tag: u32,
}

/// The mapping of values to the columns of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    columns: Vec<Placed>,
}

impl Layout {
    /// Creates the mapping from the table's columns. Ignores foreign columns and skips missing ones; only `event_id` is required, because
    /// all delivery guarantees depend on it. Refuses a table that requires a value that events may not have: each such event would be
    /// refused.
    ///
    /// # Errors
    /// [`DeliveryError::Denied`], which names table, column and fix.
    pub(super) fn read(table: &str, found: &[ExistingColumn]) -> Result<Self, DeliveryError> {
        let mut layout = Self { columns: Vec::new() };
        for column in &ENVELOPE {
            let Some(there) = found.iter().find(|there| there.name.eq_ignore_ascii_case(column.name)) else {
                continue;
            };
            let wire = wire(column.field, there).ok_or_else(|| {
                let (name, kind, mode) = (one_line(&there.name), one_line(&there.kind), &there.mode);
                let mode = if mode == "REPEATED" { "REPEATED " } else { "" };
                DeliveryError::Denied(format!(
                    "{table}: column {name} is {mode}{kind}, but {} is required: use a separate table for events",
                    column.kind
                ))
            })?;
            let tag = layout.columns.len() as u32 + 1;
            layout.columns.push(Placed { field: column.field, name: there.name.clone(), wire, tag });
        }
        if layout.name_of(Field::EventId).is_none() {
            return Err(DeliveryError::Denied(format!(
                "{table}: no column event_id: it is not an events table; `lorchestra events setup` adds it"
            )));
        }
        for column in &layout.columns {
            let is_required = |there: &ExistingColumn| there.name == column.name && there.mode == "REQUIRED";
            if column.field.may_be_missing() && found.iter().any(is_required) {
                let name = one_line(&column.name);
                return Err(DeliveryError::Denied(format!(
                    "{table}: column {name} is REQUIRED, but some events have no value for it: make it NULLABLE"
                )));
            }
        }
        for there in found {
            if there.mode == "REQUIRED" && !ENVELOPE.iter().any(|column| there.name.eq_ignore_ascii_case(column.name)) {
                let name = one_line(&there.name);
                return Err(DeliveryError::Denied(format!(
                    "{table}: column {name} is REQUIRED, but events have no value for it: make it NULLABLE"
                )));
            }
        }
        Ok(layout)
    }

    pub(super) fn columns(&self) -> &[Placed] {
        &self.columns
    }

    /// The table's spelling of a column.
    pub(super) fn name_of(&self, field: Field) -> Option<&str> {
        self.columns.iter().find(|column| column.field == field).map(|column| column.name.as_str())
    }

    /// The table's spelling of a column that is a TIMESTAMP there.
    pub(super) fn timestamp(&self, field: Field) -> Option<&str> {
        let is = |column: &&Placed| column.field == field && column.wire == Wire::Micros;
        self.columns.iter().find(is).map(|column| column.name.as_str())
    }

    /// The row's message type for the Storage Write API.
    pub(super) fn descriptor(&self) -> DescriptorProto {
        let field = |column: &Placed| FieldDescriptorProto {
            name: Some(column.name.clone()),
            number: Some(column.tag as i32),
            label: Some(Label::Optional.into()),
            r#type: Some(match column.wire {
                Wire::Text | Wire::Rfc3339 => Type::String.into(),
                Wire::Micros | Wire::Whole => Type::Int64.into(),
            }),
            ..FieldDescriptorProto::default()
        };
        DescriptorProto {
            name: Some("Event".to_owned()),
            field: self.columns.iter().map(field).collect(),
            ..DescriptorProto::default()
        }
    }
}

fn wire(field: Field, there: &ExistingColumn) -> Option<Wire> {
    if there.mode == "REPEATED" {
        return None;
    }
    match (field, there.kind.as_str()) {
        (Field::CreatedAt, "TIMESTAMP") => Some(Wire::Micros),
        (Field::CreatedAt, "STRING") => Some(Wire::Rfc3339),
        (Field::CreatedAt, _) => None,
        (Field::Attempt, "INTEGER" | "INT64") => Some(Wire::Whole),
        (Field::Attempt, _) => None,
        (Field::Payload, "JSON") | (_, "STRING") => Some(Wire::Text),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The table as created by setup.
    pub(in super::super) fn ours() -> Vec<ExistingColumn> {
        ENVELOPE
            .iter()
            .map(|column| {
                ExistingColumn::new(column.name, column.kind, Some(if column.required { "REQUIRED" } else { "NULLABLE" }))
            })
            .collect()
    }

    /// The table of the Python tool: eight columns, the time as a string.
    pub(in super::super) fn old() -> Vec<ExistingColumn> {
        let mut found = ours();
        found.truncate(8);
        found[4].kind = "STRING".to_owned();
        found
    }

    #[test]
    fn full_descriptor() {
        let descriptor = Layout::read("t", &ours()).unwrap().descriptor();
        let fields: Vec<_> = descriptor.field.iter().map(|f| (f.name(), f.number(), f.r#type())).collect();
        let (s, i) = (Type::String, Type::Int64);
        let expected = [
            ("event_id", 1, s),
            ("event_type", 2, s),
            ("source", 3, s),
            ("schema_ref", 4, s),
            ("created_at", 5, i),
            ("correlation_id", 6, s),
            ("subject_id", 7, s),
            ("payload", 8, s),
            ("run_id", 9, s),
            ("attempt", 10, i),
            ("package", 11, s),
            ("job", 12, s),
        ];
        assert_eq!(fields, expected);
        assert!(descriptor.field.iter().all(|f| f.label() == Label::Optional));
    }

    #[test]
    fn eight_columns_with_a_string_time() {
        let layout = Layout::read("t", &old()).unwrap();
        assert_eq!(layout.columns().len(), 8);
        let left_out = [Field::RunId, Field::Attempt, Field::Package, Field::Job];
        assert!(left_out.into_iter().all(|field| layout.name_of(field).is_none()));
        assert_eq!(layout.columns()[4].wire, Wire::Rfc3339);
        assert_eq!(layout.descriptor().field[4].r#type(), Type::String);
    }

    #[test]
    fn missing_reordered_differently_cased_and_foreign_columns() {
        let found = [
            ExistingColumn::new("JOB", "STRING", None),
            ExistingColumn::new("amount", "NUMERIC", None),
            ExistingColumn::new("Event_Id", "string", Some("required")),
            ExistingColumn::new("Attempt", "INT64", None),
        ];
        let layout = Layout::read("t", &found).unwrap();
        let columns: Vec<_> = layout.columns().iter().map(|c| (c.name.as_str(), c.tag)).collect();
        assert_eq!(columns, [("Event_Id", 1), ("Attempt", 2), ("JOB", 3)]);
        assert_eq!(layout.name_of(Field::EventId), Some("Event_Id"));
        assert_eq!(layout.name_of(Field::Payload), None);
    }

    #[test]
    fn refused_tables_name_the_column() {
        let with = |column: ExistingColumn| {
            let mut found = ours();
            found.retain(|there| there.name != column.name);
            found.push(column);
            Layout::read("p.d.t", &found).unwrap_err().to_string()
        };
        let text = with(ExistingColumn::new("tenant", "STRING", Some("REQUIRED")));
        assert!(text.contains("p.d.t: column tenant is REQUIRED"), "{text}");
        for name in ["schema_ref", "Subject_ID"] {
            let mut found = ours();
            found.retain(|there| !there.name.eq_ignore_ascii_case(name));
            found.push(ExistingColumn::new(name, "STRING", Some("REQUIRED")));
            let text = Layout::read("p.d.t", &found).unwrap_err().to_string();
            let expected = format!("p.d.t: column {name} is REQUIRED, but some events have no value for it: make it NULLABLE");
            assert_eq!(text, expected);
        }
        // Every event has these, also the one that setup writes.
        let all = ours().into_iter().map(|there| match there.name.as_str() {
            "schema_ref" | "subject_id" => there,
            _ => ExistingColumn { mode: "REQUIRED".to_owned(), ..there },
        });
        assert!(Layout::read("p.d.t", &all.collect::<Vec<_>>()).is_ok());
        let text = with(ExistingColumn::new("created_at", "DATE", None));
        assert!(text.contains("created_at is DATE, but TIMESTAMP is required"), "{text}");
        let text = with(ExistingColumn::new("payload", "STRING", Some("REPEATED")));
        assert!(text.contains("payload is REPEATED STRING"), "{text}");
        let text = with(ExistingColumn::new("source", "JSON", None));
        assert!(text.contains("source is JSON"), "{text}");
        let text = Layout::read("p.d.t", &ours()[1..]).unwrap_err().to_string();
        assert!(text.contains("no column event_id"), "{text}");
    }
}
