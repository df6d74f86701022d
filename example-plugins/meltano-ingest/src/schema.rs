//! The last schema of a stream, stored next to its records, and the differences to a new one.

use crate::checkpoint;
use crate::message::Fault;
use lorchestra_plugin_api::serde_json::{self, Map, Value, json, value::RawValue};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Maximum number of forms of a schema that are remembered in a run.
const MAX_FORMS: usize = 8;

/// A schema as stored in `<stream>.schema.json`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schema(Value);

/// The changes in a new schema: names of top-level properties.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// There was no schema before.
    pub(crate) is_first: bool,
    pub(crate) added: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) changed: Vec<String>,
    /// Key or bookmark properties, or keywords that apply to all properties.
    pub(crate) other: bool,
}

impl Schema {
    /// Returns the schema of a SCHEMA message.
    ///
    /// # Errors
    /// It is not an object, or nested too deep to be compared.
    pub(crate) fn of(
        stream: &str,
        schema: &RawValue,
        key_properties: Option<&RawValue>,
        bookmark_properties: Option<&RawValue>,
    ) -> Result<Self, Fault> {
        let parse = |text: &RawValue| serde_json::from_str::<Value>(text.get()).ok();
        // The text is JSON already: what cannot be read of it is too deep.
        let mut schema = parse(schema).ok_or(Fault::TooDeep)?;
        if !schema.is_object() {
            return Err(Fault::Incomplete("SCHEMA", "a schema that is an object"));
        }
        sort_sets(&mut schema);
        Ok(Self(json!({
            "stream": stream,
            "key_properties": key_properties.and_then(parse),
            "bookmark_properties": bookmark_properties.and_then(parse),
            "schema": schema,
        })))
    }

    /// Reads the stored schema; `None` if it does not exist or is invalid.
    pub(crate) fn read(dir: &Path, file: &str) -> Option<Self> {
        fs::read(dir.join(name(file))).ok().and_then(|text| serde_json::from_slice(&text).ok()).map(Self)
    }

    /// Returns the JSON Schema of the records.
    pub(crate) fn json(&self) -> &Value {
        &self.0["schema"]
    }

    /// Returns the JSON Schema of the records.
    pub(crate) fn into_json(mut self) -> Value {
        self.0["schema"].take()
    }

    /// Stores the schema.
    pub(crate) fn write(&self, dir: &Path, file: &str) -> io::Result<()> {
        checkpoint::replace(dir, &name(file), &serde_json::to_vec_pretty(&self.0)?)
    }

    /// Returns the changes since another schema; `None` if there are none.
    pub(crate) fn change_from(&self, before: Option<&Self>) -> Option<Change> {
        if before == Some(self) {
            return None;
        }
        let none = Map::new();
        let properties = |schema: &'_ Value| schema["schema"]["properties"].as_object().cloned();
        let new = properties(&self.0).unwrap_or_default();
        let old = before.and_then(|before| properties(&before.0)).unwrap_or(none);
        let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
        let mut change = Change { is_first: before.is_none(), ..Change::default() };
        for name in names {
            match (old.get(name), new.get(name)) {
                (None, _) => change.added.push(name.clone()),
                (_, None) => change.removed.push(name.clone()),
                (a, b) if a != b => change.changed.push(name.clone()),
                _ => {}
            }
        }
        let rest = |schema: &Value| {
            let mut rest = schema.clone();
            if let Some(schema) = rest["schema"].as_object_mut() {
                schema.remove("properties");
            }
            rest
        };
        change.other = before.is_some_and(|before| rest(&before.0) != rest(&self.0));
        Some(change)
    }
}

/// The SCHEMA messages of a stream in a run. Most taps repeat one; some alternate between a few forms, which are reported once each.
#[derive(Debug)]
pub(crate) struct Forms {
    /// Messages, each with its schema.
    seen: Vec<(Vec<u8>, Arc<Schema>)>,
    /// The schema of the last message.
    current: Arc<Schema>,
    /// The schema that was reported and stored last.
    stored: Arc<Schema>,
}

impl Forms {
    /// Begins with the schema of a message.
    pub(crate) fn new(message: &[u8], schema: Schema) -> Self {
        let schema = Arc::new(schema);
        Self { seen: vec![(message.to_vec(), schema.clone())], current: schema.clone(), stored: schema }
    }

    /// Returns whether this message was the last one.
    pub(crate) fn is_current(&self, message: &[u8]) -> bool {
        self.seen.iter().any(|(seen, schema)| seen == message && Arc::ptr_eq(schema, &self.current))
    }

    /// Returns to the schema of an earlier message; `None` if this message is new.
    pub(crate) fn select(&mut self, message: &[u8]) -> Option<&Schema> {
        let (_, schema) = self.seen.iter().find(|(seen, _)| seen == message)?;
        self.current = schema.clone();
        Some(&self.current)
    }

    /// Adds the schema of a new message, which is reported and stored.
    pub(crate) fn add(&mut self, message: &[u8], schema: Schema) {
        if self.seen.len() >= MAX_FORMS {
            self.seen.remove(0);
        }
        let schema = Arc::new(schema);
        self.seen.push((message.to_vec(), schema.clone()));
        (self.current, self.stored) = (schema.clone(), schema);
    }

    /// Returns the schema that was reported and stored last.
    pub(crate) fn stored(&self) -> &Schema {
        &self.stored
    }

    /// Returns the schema of the last message if another one was stored after it, and regards it as stored.
    pub(crate) fn take_unstored(&mut self) -> Option<(Arc<Schema>, Arc<Schema>)> {
        let before = std::mem::replace(&mut self.stored, self.current.clone());
        (before != self.current).then(|| (before, self.current.clone()))
    }
}

/// Returns the file name, for a stream's file name without extension.
fn name(file: &str) -> String {
    format!("{file}.schema.json")
}

/// Taps write sets as lists, some in a different order each time.
fn sort_sets(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::Array(set) if key == "type" || key == "required" => set.sort_by_cached_key(Value::to_string),
                    other => sort_sets(other),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(sort_sets),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str, keys: &str) -> Option<Schema> {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        Schema::of("a", &raw(text), Some(&raw(keys)), None).ok()
    }

    #[test]
    fn changes_are_reported_by_name() {
        let old = schema(r#"{"properties":{"a":{"type":["null","string"]},"b":{},"c":{"type":"integer"}}}"#, "[]").unwrap();
        let same = schema(r#"{"properties":{"c":{"type":"integer"},"b":{},"a":{"type":["string","null"]}}}"#, "[]").unwrap();
        assert_eq!(same.change_from(Some(&old)), None, "the order does not matter");
        let new = schema(r#"{"properties":{"a":{"type":["null","string"]},"c":{"type":"number"},"d":{}}}"#, "[]").unwrap();
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let change = Change { added: names(&["d"]), removed: names(&["b"]), changed: names(&["c"]), ..Change::default() };
        assert_eq!(new.change_from(Some(&old)), Some(change));
        let first = Change { is_first: true, added: names(&["a", "b", "c"]), ..Change::default() };
        assert_eq!(old.change_from(None), Some(first));
        let keyed =
            schema(r#"{"properties":{"c":{"type":"integer"},"b":{},"a":{"type":["string","null"]}}}"#, "[\"a\"]").unwrap();
        assert_eq!(keyed.change_from(Some(&old)), Some(Change { other: true, ..Change::default() }));
        assert!(schema("true", "[]").is_none());
        let deep = |levels: usize| RawValue::from_string("{\"a\":".repeat(levels) + "1" + &"}".repeat(levels)).unwrap();
        assert!(Schema::of("a", &deep(crate::message::DEEPEST), None, None).is_ok());
        assert_eq!(Schema::of("a", &deep(crate::message::DEEPEST + 1), None, None), Err(Fault::TooDeep));
    }

    #[test]
    fn it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Schema::read(dir.path(), "a").is_none());
        let schema = schema(r#"{"properties":{"a":{}}}"#, "[]").unwrap();
        schema.write(dir.path(), "a").unwrap();
        assert_eq!(Schema::read(dir.path(), "a"), Some(schema));
    }
}
