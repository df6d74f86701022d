//! Datasets, tables, and rows: the data of the fake. Knows no protocol; [`super::rest`] and [`super::append`] pass decoded rows.

use super::columns::{Column, Kind};
use super::refusal::Refusal;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::fmt;

/// `project.dataset.table`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// The project's id.
    pub project: String,
    /// The dataset's id.
    pub dataset: String,
    /// The table's id.
    pub table: String,
}

impl TableName {
    /// Creates the name from its three parts.
    pub fn new(project: &str, dataset: &str, table: &str) -> Self {
        Self { project: project.to_owned(), dataset: dataset.to_owned(), table: table.to_owned() }
    }

    /// Parses `project.dataset.table`.
    ///
    /// # Panics
    /// If it has another form.
    pub fn parse(dotted: &str) -> Self {
        let parts: Vec<&str> = dotted.split('.').collect();
        let [project, dataset, table] = parts[..] else { panic!("{dotted} is not project.dataset.table") };
        Self::new(project, dataset, table)
    }

    /// Parses `projects/p/datasets/d/tables/t`.
    pub(super) fn from_resource(resource: &str) -> Option<Self> {
        let parts: Vec<&str> = resource.split('/').collect();
        let ["projects", project, "datasets", dataset, "tables", table] = parts[..] else { return None };
        Some(Self::new(project, dataset, table))
    }

    /// `projects/p/datasets/d/tables/t`.
    pub(super) fn resource(&self) -> String {
        format!("projects/{}/datasets/{}/tables/{}", self.project, self.dataset, self.table)
    }

    pub(super) fn missing(&self) -> Refusal {
        Refusal::not_found(format!("Not found: Table {}:{}.{}", self.project, self.dataset, self.table))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.project, self.dataset, self.table)
    }
}

/// How a row was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WritePath {
    /// By insertAll, with this insert id.
    InsertAll(Option<String>),
    /// By AppendRows to this committed stream, at this offset.
    Stream(String, i64),
    /// By AppendRows to the table's default stream.
    DefaultStream,
}

/// A row of a table, without nulls.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Values by column.
    pub values: Map<String, Value>,
    /// How it was written.
    pub path: WritePath,
}

/// A table or a view.
#[derive(Debug)]
pub(super) struct Table {
    /// As returned by tables.get.
    pub(super) resource: Value,
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
    pub(super) insert_ids: HashSet<String>,
    /// Number of rows that were acknowledged but not stored.
    pub(super) acknowledged: u64,
}

impl Table {
    /// Creates it from the body of tables.insert.
    pub(super) fn create(name: &TableName, body: &Value) -> Result<Self, Refusal> {
        let mut resource = body.as_object().cloned().ok_or_else(|| Refusal::invalid("Required parameter is missing: table"))?;
        let view = resource.contains_key("view");
        if view && body["view"]["query"].as_str().is_none_or(str::is_empty) {
            return Err(Refusal::invalid("Required parameter is missing: view.query"));
        }
        let columns = columns_of(&body["schema"]["fields"])?;
        check_layout(body, &columns)?;
        resource.insert("kind".into(), "bigquery#table".into());
        resource.insert("id".into(), format!("{}:{}.{}", name.project, name.dataset, name.table).into());
        resource.insert("type".into(), if view { "VIEW" } else { "TABLE" }.into());
        resource.insert(
            "tableReference".into(),
            json!({"projectId": name.project, "datasetId": name.dataset, "tableId": name.table}),
        );
        resource.entry("location").or_insert("US".into());
        Ok(Self { resource: resource.into(), columns, rows: Vec::new(), insert_ids: HashSet::new(), acknowledged: 0 })
    }

    /// Applies the body of tables.patch: top-level fields replace; columns may only be added, described, or made nullable.
    pub(super) fn patch(&mut self, name: &TableName, body: &Value) -> Result<(), Refusal> {
        let changes = body.as_object().ok_or_else(|| Refusal::invalid("Required parameter is missing: table"))?;
        let mut resource = self.resource.clone();
        for (key, value) in changes.iter().filter(|(key, _)| !["tableReference", "kind", "id", "type"].contains(&key.as_str())) {
            resource[key] = value.clone();
        }
        let columns = columns_of(&resource["schema"]["fields"])?;
        let mismatch = |what: String| {
            Refusal::invalid(format!(
                "Provided Schema does not match Table {}:{}.{}. {what}",
                name.project, name.dataset, name.table
            ))
        };
        for old in &self.columns {
            let Some(new) = columns.iter().find(|new| new.name == old.name) else {
                return Err(mismatch(format!("Field {} is missing in new schema", old.name)));
            };
            if new.kind != old.kind {
                return Err(mismatch(format!("Field {} has changed type from {:?} to {:?}", old.name, old.kind, new.kind)));
            }
            if new.required && !old.required {
                return Err(mismatch(format!("Field {} has changed mode from NULLABLE to REQUIRED", old.name)));
            }
        }
        if let Some(new) = columns.iter().find(|new| new.required && !self.columns.iter().any(|old| old.name == new.name)) {
            return Err(mismatch(format!("Cannot add required fields to an existing schema. (field: {})", new.name)));
        }
        check_layout(&resource, &columns)?;
        self.resource = resource;
        self.columns = columns;
        Ok(())
    }

    pub(super) fn is_view(&self) -> bool {
        self.resource["type"] == "VIEW"
    }

    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        // Column names are compared ignoring case.
        self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// Returns the first REQUIRED column without a value.
    pub(super) fn lacks(&self, values: &Map<String, Value>) -> Option<&Column> {
        self.columns.iter().find(|column| column.required && !values.contains_key(&column.name))
    }

    /// Deletes and creates it again with the same schema.
    pub(super) fn recreate(&mut self) {
        self.rows.clear();
        self.insert_ids.clear();
        self.acknowledged = 0;
    }
}

fn columns_of(fields: &Value) -> Result<Vec<Column>, Refusal> {
    let mut names = HashSet::new();
    let mut columns = Vec::new();
    for field in fields.as_array().into_iter().flatten() {
        let column = Column::from_field(field).map_err(Refusal::invalid)?;
        if !names.insert(column.name.to_ascii_lowercase()) {
            return Err(Refusal::invalid(format!("Field {} already exists in schema", column.name)));
        }
        columns.push(column);
    }
    Ok(columns)
}

/// Checks that partitioning and clustering name columns that exist and are suitable.
fn check_layout(resource: &Value, columns: &[Column]) -> Result<(), Refusal> {
    let kind_of = |name: &str| columns.iter().find(|column| column.name == name).map(|column| column.kind);
    if let Some(partitioning) = resource["timePartitioning"].as_object() {
        let unit = partitioning.get("type").and_then(Value::as_str).unwrap_or_default();
        if !["HOUR", "DAY", "MONTH", "YEAR"].contains(&unit) {
            return Err(Refusal::invalid(format!("Invalid value for timePartitioning.type: {unit} is not a valid value")));
        }
        if let Some(field) = partitioning.get("field").and_then(Value::as_str) {
            match kind_of(field) {
                Some(Kind::Timestamp | Kind::Date) => {}
                Some(_) => {
                    let what = "The field specified for partitioning can only be of type TIMESTAMP, DATE or DATETIME. The type found is another:";
                    return Err(Refusal::invalid(format!("{what} {field}")));
                }
                None => {
                    let what = "The field specified for partitioning cannot be found in the schema";
                    return Err(Refusal::invalid(format!("{what}: {field}")));
                }
            }
        }
    }
    let clustering: Vec<&str> =
        resource["clustering"]["fields"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if clustering.len() > 4 {
        return Err(Refusal::invalid("Too many clustering fields: at most 4"));
    }
    for field in clustering {
        match kind_of(field) {
            None => {
                return Err(Refusal::invalid(format!(
                    "The field specified for clustering cannot be found in the schema: {field}"
                )));
            }
            Some(Kind::Json | Kind::Bytes | Kind::Float) => {
                return Err(Refusal::invalid(format!("Field {field} has a type that is not supported for clustering")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
