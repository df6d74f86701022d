//! tabledata.insertAll: rows as JSON, each accepted or refused with Google's message. One bad row prevents all writes, unless the request
//! asks to skip it; a row with a known insert id is accepted but not written again.

use super::faults::Fault;
use super::refusal::Refusal;
use super::state::Shared;
use super::tables::{Row, Table, TableName, WritePath};
use serde_json::{Map, Value, json};

/// Maximum number of rows in one request.
const MOST_ROWS: usize = 50_000;

/// A refused row: reason, column, message.
struct Bad {
    reason: &'static str,
    location: String,
    message: String,
}

impl Bad {
    fn invalid(location: &str, message: impl Into<String>) -> Self {
        Self { reason: "invalid", location: location.to_owned(), message: message.into() }
    }

    fn json(&self, index: usize) -> Value {
        let Self { reason, location, message } = self;
        json!({"index": index, "errors": [{"reason": reason, "location": location, "debugInfo": "", "message": message}]})
    }
}

/// Only the number of rows.
#[derive(serde::Deserialize)]
struct Counted {
    rows: Vec<serde::de::IgnoredAny>,
}

pub(super) fn insert_all(shared: &Shared, name: &TableName, body: &[u8], fault: Option<&Fault>) -> Result<Value, Refusal> {
    let accepted = json!({"kind": "bigquery#tableDataInsertAllResponse"});
    let parse_error = |error: serde_json::Error| Refusal::new(400, "parseError", format!("Parse Error: {error}"));
    if shared.acknowledge_only {
        let counted: Counted = serde_json::from_slice(body).map_err(parse_error)?;
        shared.state().table(name)?.acknowledged += counted.rows.len() as u64;
        return Ok(accepted);
    }
    let mut body: Value = serde_json::from_slice(body).map_err(parse_error)?;
    let flag = |name: &str| body[name].as_bool().unwrap_or_default();
    let (skip_invalid, ignore_unknown) = (flag("skipInvalidRows"), flag("ignoreUnknownValues"));
    let Value::Array(rows) = body["rows"].take() else { return Err(Refusal::invalid("No rows present in the request.")) };
    if rows.is_empty() {
        return Err(Refusal::invalid("No rows present in the request."));
    }
    if rows.len() > MOST_ROWS {
        return Err(Refusal::invalid(format!(
            "too many rows present in the request, limit: {MOST_ROWS} row count: {}.",
            rows.len()
        )));
    }
    let mut state = shared.state();
    let table = state.table(name)?;
    if table.is_view() {
        return Err(Refusal::invalid(format!("Cannot add rows to a view: {name}")));
    }
    let scripted = if let Some(Fault::RowErrors(indices)) = fault { indices.as_slice() } else { &[] };
    let checked: Vec<_> =
        (0..).zip(&rows).map(|(index, row)| check(table, row, ignore_unknown, scripted.contains(&index))).collect();
    let any_bad = checked.iter().any(Result::is_err);
    let mut errors = Vec::new();
    for (index, (row, checked)) in rows.iter().zip(checked).enumerate() {
        match checked {
            Err(bad) => errors.push(bad.json(index)),
            Ok(_) if any_bad && !skip_invalid => {
                errors.push(Bad { reason: "stopped", location: String::new(), message: String::new() }.json(index));
            }
            Ok(values) => {
                let insert_id = row["insertId"].as_str().filter(|id| !id.is_empty()).map(str::to_owned);
                if insert_id.as_ref().is_none_or(|id| table.insert_ids.insert(id.clone())) {
                    table.rows.push(Row { values, path: WritePath::InsertAll(insert_id) });
                }
            }
        }
    }
    let mut answer = accepted;
    if !errors.is_empty() {
        answer["insertErrors"] = errors.into();
    }
    Ok(answer)
}

fn check(table: &Table, row: &Value, ignore_unknown: bool, scripted: bool) -> Result<Map<String, Value>, Bad> {
    if scripted {
        return Err(Bad::invalid("", "scripted row error"));
    }
    let sent = row["json"].as_object().ok_or_else(|| Bad::invalid("", "Missing field: json"))?;
    let mut values = Map::new();
    for (name, value) in sent {
        let Some(column) = table.column(name) else {
            if ignore_unknown {
                continue;
            }
            return Err(Bad::invalid(name, format!("no such field: {name}.")));
        };
        if !value.is_null() {
            let value = column.take_json(value).map_err(|message| Bad::invalid(name, message))?;
            values.insert(column.name.clone(), value);
        }
    }
    match table.lacks(&values) {
        Some(column) => Err(Bad::invalid("", format!("Missing required field: {}.", column.name))),
        None => Ok(values),
    }
}
