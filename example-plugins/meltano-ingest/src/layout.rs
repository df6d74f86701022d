//! Columns of a stream in Parquet, derived from its JSON Schema.
//!
//! A column has a type only if it keeps every value exactly. If a value does not fit, the column contains JSON from then on, in a new
//! file ([`Layout::widened`]).

use lorchestra_plugin_api::serde_json::Value;
use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::errors::ParquetError;
use parquet::schema::types::{Type, TypePtr};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Name of the column with properties that the schema does not list.
const UNLISTED: &str = "_additional_properties";
/// Maximum number of digits of a decimal.
const DIGITS: u32 = 38;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean,
    /// 64 bits.
    Integer,
    Float,
    Decimal {
        precision: u32,
        scale: u32,
    },
    /// Microseconds, UTC.
    Timestamp,
    Date,
    Text,
    /// The JSON text of a value.
    Json,
}

/// What made columns wider than their schema. Stored, so that the next run uses the same columns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Widened {
    /// Columns that contain JSON, because a value did not fit.
    pub(crate) json: BTreeSet<String>,
    /// Whether there is a column for properties that the schema does not list.
    pub(crate) unlisted: bool,
}

impl Widened {
    /// Returns whether all columns are those of the schema.
    pub(crate) fn is_empty(&self) -> bool {
        self.json.is_empty() && !self.unlisted
    }
}

/// The columns of a file. All are optional: null and absent are the same.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) columns: Vec<(String, Kind)>,
    index: HashMap<String, usize>,
    /// The column with unlisted properties.
    pub(crate) unlisted: Option<usize>,
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.columns == other.columns && self.unlisted == other.unlisted
    }
}

impl Layout {
    /// Returns the columns for a JSON Schema.
    pub(crate) fn of(schema: &Value, widened: &Widened) -> Self {
        let mut columns: Vec<(String, Kind)> = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, property)| {
                let kind = if widened.json.contains(name) { Kind::Json } else { Kind::of(property) };
                (name.clone(), kind)
            })
            .collect();
        let index: HashMap<String, usize> = columns.iter().enumerate().map(|(at, column)| (column.0.clone(), at)).collect();
        // A file needs a column.
        let unlisted = (widened.unlisted || columns.is_empty()).then_some(columns.len());
        if unlisted.is_some() {
            let mut name = UNLISTED.to_owned();
            while index.contains_key(&name) {
                name.push('_');
            }
            columns.push((name, Kind::Json));
        }
        Self { columns, index, unlisted }
    }

    /// Returns the column of a property.
    pub(crate) fn column(&self, property: &str) -> Option<usize> {
        self.index.get(property).copied()
    }

    /// Returns the schema of a file with these columns.
    pub(crate) fn parquet_type(&self) -> Result<TypePtr, ParquetError> {
        let fields = self.columns.iter().map(|(name, kind)| kind.field(name).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(Type::group_type_builder("record").with_fields(fields).build()?))
    }
}

impl Kind {
    fn of(property: &Value) -> Self {
        let mut types = BTreeSet::new();
        let format = constraints(property, &mut types);
        types.remove("null");
        let format = format.unwrap_or(property);
        match (types.len(), types.first().copied()) {
            (1, Some("boolean")) => Self::Boolean,
            (1, Some("integer")) => Self::Integer,
            (1, Some("number")) => match power_of_ten(&format["multipleOf"]) {
                Some(scale) => Self::Decimal { precision: DIGITS, scale },
                None => Self::Float,
            },
            (2, Some("integer")) if types.contains("number") => Self::Float,
            (1, Some("string")) => match format["format"].as_str() {
                Some("date-time") => Self::Timestamp,
                Some("date") => Self::Date,
                Some("singer.decimal" | "x-singer.decimal") => decimal(format).unwrap_or(Self::Text),
                _ => Self::Text,
            },
            _ => Self::Json,
        }
    }

    fn field(self, name: &str) -> Result<Type, ParquetError> {
        let (physical, logical) = match self {
            Self::Boolean => (Physical::BOOLEAN, None),
            Self::Integer => (Physical::INT64, None),
            Self::Float => (Physical::DOUBLE, None),
            Self::Decimal { precision, scale } => {
                let logical = LogicalType::decimal(i32::try_from(scale)?, i32::try_from(precision)?);
                let field = Type::primitive_type_builder(name, Physical::FIXED_LEN_BYTE_ARRAY)
                    .with_length(16)
                    .with_precision(i32::try_from(precision)?)
                    .with_scale(i32::try_from(scale)?);
                return field.with_logical_type(Some(logical)).with_repetition(Repetition::OPTIONAL).build();
            }
            Self::Timestamp => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
            Self::Date => (Physical::INT32, Some(LogicalType::Date)),
            Self::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Self::Json => (Physical::BYTE_ARRAY, Some(LogicalType::Json)),
        };
        Type::primitive_type_builder(name, physical).with_logical_type(logical).with_repetition(Repetition::OPTIONAL).build()
    }
}

/// Collects the types that a property may have, and returns the schema that has them if it is the only one. Of the alternatives
/// (`anyOf`, `oneOf`) most are a type and null.
fn constraints<'a>(property: &'a Value, types: &mut BTreeSet<&'a str>) -> Option<&'a Value> {
    let alternatives = [&property["anyOf"], &property["oneOf"]].into_iter().find_map(Value::as_array);
    if let Some(alternatives) = alternatives {
        let own: Vec<&Value> = alternatives.iter().filter(|alternative| alternative["type"] != "null").collect();
        for alternative in alternatives {
            if constraints(alternative, types).is_none() {
                types.insert("any");
            }
        }
        return match own[..] {
            [only] => Some(only),
            _ => {
                // A date or a text: none of the formats applies to all values.
                types.insert("any");
                Some(property)
            }
        };
    }
    match &property["type"] {
        Value::String(name) => drop(types.insert(name)),
        Value::Array(names) => types.extend(names.iter().filter_map(Value::as_str)),
        _ => return None,
    }
    Some(property)
}

/// Returns the scale of a step such as 0.01.
fn power_of_ten(step: &Value) -> Option<u32> {
    let step = step.as_number()?.to_string();
    (0..=DIGITS).find(|scale| crate::number::scaled(&step, DIGITS, *scale) == Some(1))
}

fn decimal(schema: &Value) -> Option<Kind> {
    let digits = |key: &str| schema[key].as_u64().and_then(|digits| u32::try_from(digits).ok());
    let (precision, scale) = (digits("precision")?, digits("scale")?);
    ((1..=DIGITS).contains(&precision) && scale <= precision).then_some(Kind::Decimal { precision, scale })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorchestra_plugin_api::serde_json::json;

    #[test]
    fn types_follow_the_schema() {
        let cents = Kind::Decimal { precision: 38, scale: 2 };
        for (property, kind) in [
            (json!({"type": "boolean"}), Kind::Boolean),
            (json!({"type": ["null", "integer"]}), Kind::Integer),
            (json!({"type": ["integer", "number", "null"]}), Kind::Float),
            (json!({"type": "number"}), Kind::Float),
            (json!({"type": "number", "multipleOf": 0.01}), cents),
            (json!({"type": "number", "multipleOf": 1e-15}), Kind::Decimal { precision: 38, scale: 15 }),
            (json!({"type": "number", "multipleOf": 0.05}), Kind::Float),
            (json!({"type": ["string", "null"], "format": "date-time"}), Kind::Timestamp),
            (json!({"type": "string", "format": "date"}), Kind::Date),
            (json!({"type": "string", "format": "time"}), Kind::Text),
            (
                json!({"type": "string", "format": "x-singer.decimal", "precision": 9, "scale": 2}),
                Kind::Decimal { precision: 9, scale: 2 },
            ),
            (json!({"type": "string", "format": "singer.decimal"}), Kind::Text),
            (json!({"type": "string", "format": "singer.decimal", "precision": 2, "scale": 9}), Kind::Text),
            (json!({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}), Kind::Timestamp),
            (json!({"anyOf": [{"type": "string", "format": "date-time"}, {"type": ["string", "null"]}]}), Kind::Json),
            (json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), Kind::Json),
            (json!({"anyOf": [{"type": "integer"}, {}]}), Kind::Json),
            (json!({"type": ["string", "integer"]}), Kind::Json),
            (json!({"type": "object"}), Kind::Json),
            (json!({"type": ["array", "null"]}), Kind::Json),
            (json!({"type": "null"}), Kind::Json),
            (json!({}), Kind::Json),
            (json!(true), Kind::Json),
        ] {
            assert_eq!(Kind::of(&property), kind, "{property}");
        }
    }

    #[test]
    fn a_layout_has_a_column_at_least() {
        let none = Layout::of(&json!({"type": "object"}), &Widened::default());
        assert_eq!((none.columns.len(), none.unlisted), (1, Some(0)));
        let schema = json!({"properties": {"_additional_properties": {"type": "string"}, "n": {"type": "integer"}}});
        let layout = Layout::of(&schema, &Widened { json: ["n".to_owned()].into(), unlisted: true });
        let names: Vec<_> = layout.columns.iter().map(|(name, kind)| (&**name, *kind)).collect();
        let expected = [("_additional_properties", Kind::Text), ("n", Kind::Json), ("_additional_properties_", Kind::Json)];
        assert_eq!((names, layout.unlisted), (expected.to_vec(), Some(2)));
        layout.parquet_type().unwrap();
    }
}
