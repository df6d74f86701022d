//! Generates the tables of docs/reference/events.md from the JSON Schemas that the built binary prints: the envelope, lorchestra's own event
//! types with the keys of their payloads, and the causes.

use super::{between, pages};
use crate::Result;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// The page, relative to the workspace's root.
const PAGE: &str = "docs/reference/events.md";

/// Returns the page with its tables; `schemas` has the path and the text of every schema.
pub(super) fn page(root: &Path, schemas: &[(String, String)]) -> Result<(&'static str, String)> {
    let parse = |name: &str| -> Result<Value> {
        let (_, text) = schemas
            .iter()
            .find(|(path, _)| path.ends_with(&format!("/{name}.json")))
            .ok_or_else(|| format!("{PAGE}: the binary has no schema {name}"))?;
        Ok(serde_json::from_str(text)?)
    };
    let own = schemas.iter().filter_map(|(path, text)| {
        let name = path.rsplit('/').next()?.strip_suffix(".json")?;
        name.starts_with("job.").then(|| serde_json::from_str(text))
    });
    let own = own.collect::<std::result::Result<Vec<Value>, _>>()?;
    let mut text = pages::read(root, PAGE)?;
    let tables = [
        ("envelope", envelope(&parse("event")?)),
        ("event types", types(&own)),
        ("payloads", payloads(&own)),
        ("causes", causes(&parse("run")?)?),
    ];
    for (name, table) in tables {
        text = between(PAGE, &text, name, &table)?;
    }
    Ok((PAGE, text))
}

/// Returns the columns of the envelope.
fn envelope(schema: &Value) -> String {
    let mut table = "| column | type | meaning |\n| --- | --- | --- |\n".to_owned();
    // What `events list` adds to the envelope.
    let added = ["schema", "destination", "delivery_error", "damaged"];
    for (name, property) in properties(schema).filter(|(name, _)| !added.contains(&name.as_str())) {
        let _ = writeln!(table, "| `{name}` | {} | {} |", kind(property), meaning(property));
    }
    table
}

fn types(schemas: &[Value]) -> String {
    let mut table = "| event type | reports |\n| --- | --- |\n".to_owned();
    for schema in schemas {
        let name = schema["title"].as_str().unwrap_or_default();
        let _ = writeln!(table, "| [`{name}`](schemas/{name}.json) | {} |", meaning(schema));
    }
    table
}

/// Returns one row for each key of the payloads, with the types of events that have it.
fn payloads(schemas: &[Value]) -> String {
    let mut rows: Vec<(&String, &Value, Vec<&str>)> = Vec::new();
    for schema in schemas {
        let of = schema["title"].as_str().and_then(|title| title.strip_prefix("job.")).unwrap_or_default();
        for (key, property) in properties(schema) {
            match rows.iter_mut().find(|(known, other, _)| *known == key && meaning(other) == meaning(property)) {
                Some((.., types)) => types.push(of),
                None => rows.push((key, property, vec![of])),
            }
        }
    }
    let mut table = "| key | type | in `job.` | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for (key, property, types) in rows {
        let _ = writeln!(table, "| `{key}` | {} | {} | {} |", kind(property), types.join(", "), meaning(property));
    }
    table
}

fn causes(schema: &Value) -> Result<String> {
    let all = schema["$defs"]["Cause"]["oneOf"].as_array().ok_or_else(|| format!("{PAGE}: the schema run has no causes"))?;
    let mut table = "| cause | meaning |\n| --- | --- |\n".to_owned();
    for cause in all {
        writeln!(table, "| `{}` | {} |", cause["const"].as_str().unwrap_or_default(), meaning(cause))?;
    }
    Ok(table)
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// Returns the description on one line, without its period.
fn meaning(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    text.trim_end_matches('.').to_owned()
}

/// Returns the type of a property in words.
fn kind(property: &Value) -> String {
    let named = |name: &str| match name {
        "string" => "text",
        "integer" => "integer",
        "number" => "number",
        "boolean" => "true or false",
        "object" => "object",
        "array" => "list",
        _ => "any",
    };
    match &property["type"] {
        Value::String(name) => named(name).to_owned(),
        Value::Array(names) => {
            let named: Vec<&str> = names.iter().filter_map(Value::as_str).filter(|name| *name != "null").map(named).collect();
            format!("{} or null", named.join(", "))
        }
        // Another definition, such as a cause.
        _ => {
            let text = property.to_string();
            let null = if text.contains("\"null\"") { " or null" } else { "" };
            let name = text.split("#/$defs/").nth(1).and_then(|rest| rest.split('"').next());
            match name {
                Some("Cause") => format!("a [cause](#causes){null}"),
                Some(_) => format!("object{null}"),
                None => "any JSON".to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_of_several_types_is_one_row() {
        let of = |name: &str, key: &str| json!({"title": name, "properties": {"n": {"type": ["integer", "null"], "description": "A\nnumber."}, key: {"type": "string", "description": "x"}}});
        let table = payloads(&[of("job.a", "p"), of("job.b", "q")]);
        assert_eq!(
            table.lines().skip(2).collect::<Vec<_>>(),
            ["| `n` | integer or null | a, b | A number |", "| `p` | text | a | x |", "| `q` | text | b | x |"]
        );
    }

    #[test]
    fn a_cause_has_its_description() {
        let schema = json!({"$defs": {"Cause": {"oneOf": [{"const": "error", "description": "The job\nfailed."}]}}});
        assert!(causes(&schema).unwrap().ends_with("| `error` | The job failed |\n"));
        assert!(causes(&json!({})).is_err());
    }
}
