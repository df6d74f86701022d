//! jobs.query, for the only question of a deliverer: which of these ids are in the table.
//!
//! Accepts `SELECT [DISTINCT] column FROM table WHERE column IN (…) [AND column BETWEEN @first AND @last]`, with the values of `IN` as literals
//! or parameters in any form: all strings in the query and its parameters count as values. Applies the bounds, and refuses a query without
//! them if the table requires a filter on that column. Refuses other queries as unknown.

use super::refusal::Refusal;
use super::state::State;
use super::tables::{Row, TableName};
use chrono::{DateTime, FixedOffset};
use serde_json::{Value, json};
use std::collections::HashSet;

pub(super) fn query(state: &mut State, project: &str, body: &Value) -> Result<Value, Refusal> {
    let text = body["query"].as_str().ok_or_else(|| Refusal::invalid("Required parameter is missing: query"))?;
    if body["useLegacySql"].as_bool() != Some(false) {
        return Err(Refusal::new(400, "invalidQuery", "the fake does not support legacy SQL; set useLegacySql to false"));
    }
    let question = Question::read(text, project, body).ok_or_else(|| {
        let known = "SELECT [DISTINCT] column FROM `[project.]dataset.table` WHERE column IN (...)";
        Refusal::new(400, "invalidQuery", format!("the fake supports only one query: {known}"))
    })?;
    let table = state.table(&question.table)?;
    let column = table
        .column(&question.column)
        .cloned()
        .ok_or_else(|| Refusal::new(400, "invalidQuery", format!("Unrecognized name: {}", question.column)))?;
    if table.resource["requirePartitionFilter"].as_bool() == Some(true) {
        let by = table.resource["timePartitioning"]["field"].as_str().unwrap_or("_PARTITIONTIME");
        if question.bounds.as_ref().is_none_or(|bounds| !bounds.column.eq_ignore_ascii_case(by)) {
            let what = "Cannot query over table without a filter over column(s)";
            let message = format!("{what} '{by}' that can be used for partition elimination");
            return Err(Refusal::new(400, "invalidQuery", message));
        }
    }
    let mut seen = HashSet::new();
    let within = |row: &&Row| question.bounds.as_ref().is_none_or(|bounds| bounds.include(row));
    let found = table.rows.iter().filter(within).filter_map(|row| row.values.get(&column.name)?.as_str());
    let found = found.filter(|value| question.values.contains(*value) && (seen.insert(*value) || !question.distinct));
    let rows: Vec<Value> = found.map(|value| json!({"f": [{"v": value}]})).collect();
    Ok(json!({
        "kind": "bigquery#queryResponse",
        "schema": {"fields": [{"name": column.name, "type": "STRING", "mode": "NULLABLE"}]},
        "jobReference": {"projectId": project, "jobId": "fake-query", "location": "US"},
        "totalRows": rows.len().to_string(),
        "rows": rows,
        "totalBytesProcessed": "0",
        "jobComplete": true,
        "cacheHit": false,
    }))
}

struct Question {
    column: String,
    distinct: bool,
    table: TableName,
    values: HashSet<String>,
    bounds: Option<Bounds>,
}

/// `column BETWEEN @first AND @last`, both inclusive.
struct Bounds {
    column: String,
    first: DateTime<FixedOffset>,
    last: DateTime<FixedOffset>,
}

impl Bounds {
    /// Parses the text after `BETWEEN`, using the parameters; `None` if the query has another form.
    fn read(words: &[&str], body: &Value) -> Option<Self> {
        let [column, between, first, and, last] = words else { return None };
        if !is(between, "BETWEEN") || !is(and, "AND") {
            return None;
        }
        let time = |name: &str| {
            let name = name.strip_prefix('@')?;
            let parameter = body["queryParameters"].as_array()?.iter().find(|parameter| parameter["name"] == name)?;
            if parameter["parameterType"]["type"] != "TIMESTAMP" {
                return None;
            }
            DateTime::parse_from_rfc3339(parameter["parameterValue"]["value"].as_str()?).ok()
        };
        Some(Self { column: column.replace('`', ""), first: time(first)?, last: time(last)? })
    }

    fn include(&self, row: &Row) -> bool {
        let value = row.values.iter().find(|(name, _)| name.eq_ignore_ascii_case(&self.column));
        let at = value.and_then(|(_, value)| DateTime::parse_from_rfc3339(value.as_str()?).ok());
        at.is_some_and(|at| self.first <= at && at <= self.last)
    }
}

impl Question {
    fn read(text: &str, project: &str, body: &Value) -> Option<Self> {
        let mut values = HashSet::new();
        let bare = take_literals(text, &mut values)?;
        strings_of(&body["queryParameters"], &mut values);
        let upper = bare.to_ascii_uppercase();
        if !upper.contains(" IN ") && !upper.contains(" IN(") {
            return None;
        }
        let words: Vec<&str> = bare.split_whitespace().collect();
        let (distinct, column, rest) = match &words[..] {
            [select, distinct, column, rest @ ..] if is(select, "SELECT") && is(distinct, "DISTINCT") => (true, *column, rest),
            [select, column, rest @ ..] if is(select, "SELECT") => (false, *column, rest),
            _ => return None,
        };
        let [from, table, where_, ..] = rest else { return None };
        if !is(from, "FROM") || !is(where_, "WHERE") {
            return None;
        }
        let table = table.replace('`', "");
        let table = match table.split('.').collect::<Vec<_>>()[..] {
            [project, dataset, table] => TableName::new(project, dataset, table),
            [dataset, table] => TableName::new(project, dataset, table),
            [table] => TableName::new(project, body["defaultDataset"]["datasetId"].as_str()?, table),
            _ => return None,
        };
        let bounds = match words.iter().position(|word| is(word, "BETWEEN")) {
            Some(at) => Some(Bounds::read(&words[at - 1..], body)?),
            None => None,
        };
        Some(Self { column: column.replace('`', ""), distinct, table, values, bounds })
    }
}

fn is(word: &str, keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword)
}

/// Removes string literals from the text and adds them to `values`; `None` if one has no end.
fn take_literals(text: &str, values: &mut HashSet<String>) -> Option<String> {
    let mut bare = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(['\'', '"']) {
        let (before, quoted) = rest.split_at(start);
        let quote = &quoted[..1];
        let (literal, behind) = quoted[1..].split_once(quote)?;
        bare.push_str(before);
        bare.push('?');
        values.insert(literal.to_owned());
        rest = behind;
    }
    bare.push_str(rest);
    Some(bare)
}

/// Collects every string under a `value`, at any depth.
fn strings_of(parameters: &Value, values: &mut HashSet<String>) {
    match parameters {
        Value::Array(items) => items.iter().for_each(|item| strings_of(item, values)),
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if key == "value" => drop(values.insert(text.to_owned())),
                    _ => strings_of(value, values),
                }
            }
        }
        _ => {}
    }
}
