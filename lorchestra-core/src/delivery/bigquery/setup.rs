//! Sets up the table: creates what is missing and keeps what exists. Talks to BigQuery through one [`BigQuery`]. Guarantees that [`plan`]
//! changes nothing, that [`apply`] does what the plan says and can be repeated, and that no column is dropped or altered. A view is
//! replaced only if lorchestra created it.

use super::columns::{Column, ENVELOPE, ExistingColumn, Layout};
use super::rest::{Call, TableName};
use super::{BigQuery, RestCall, TableInfo, WriteMethod, answer, read_table, within};
use crate::delivery::{BatchTarget, DeliveryError, Destination, Row, Slot};
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::model::clustering::Clustering;
use gcp_bigquery_client::model::dataset::Dataset;
use gcp_bigquery_client::model::field_type::FieldType;
use gcp_bigquery_client::model::table::Table;
use gcp_bigquery_client::model::table_field_schema::TableFieldSchema;
use gcp_bigquery_client::model::table_schema::TableSchema;
use gcp_bigquery_client::model::time_partitioning::TimePartitioning;
use gcp_bigquery_client::model::view_definition::ViewDefinition;
use reqwest::Method;
use serde_json::{Value, json};
use std::fmt;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Interval between two queries for the probe.
const PAUSE: Duration = Duration::from_millis(500);

/// The steps to take, which `--dry-run` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupPlan {
    /// `project.dataset.table`.
    pub table: String,
    /// The steps in order; empty if nothing is missing.
    pub steps: Vec<SetupStep>,
}

/// One thing to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetupStep {
    /// The dataset is missing.
    CreateDataset {
        /// `project.dataset`.
        dataset: String,
        /// `None` for BigQuery's default.
        location: Option<String>,
    },
    /// The table is missing. It gets the columns of the event envelope, daily partitions by `created_at`, and clustering by `event_type`
    /// and `source`.
    CreateTable {
        /// `project.dataset.table`.
        table: String,
        /// Its columns.
        columns: Vec<String>,
    },
    /// The table lacks these columns, which are added as NULLABLE.
    AddColumns {
        /// `project.dataset.table`.
        table: String,
        /// Their names.
        columns: Vec<String>,
    },
    /// With insert-all: a view that shows each event once.
    CreateView {
        /// `project.dataset.table_once`.
        view: String,
    },
    /// A view that shows the events of runs that count.
    CreateEffectiveView {
        /// `project.dataset.table_effective`.
        view: String,
    },
    /// A view that lorchestra created has another definition than now.
    ReplaceView {
        /// Its full name.
        view: String,
    },
}

/// The views that setup creates, next to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Once,
    Effective,
}

impl View {
    const ALL: [Self; 2] = [Self::Once, Self::Effective];

    fn name(self, table: &TableName) -> TableName {
        let suffix = match self {
            Self::Once => "once",
            Self::Effective => "effective",
        };
        TableName::new(&table.project, &table.dataset, &format!("{}_{suffix}", table.table))
    }

    /// Also shows who created the view.
    fn description(self) -> &'static str {
        match self {
            Self::Once => "Each event once: insertAll may write one twice",
            Self::Effective => "Events of runs that completed: not those of failed, interrupted and superseded runs",
        }
    }

    fn query(self, table: &TableName, write: WriteMethod) -> String {
        match (self, write) {
            (Self::Once, _) => once_query(table),
            (Self::Effective, WriteMethod::InsertAll) => effective_query(&Self::Once.name(table)),
            (Self::Effective, WriteMethod::StorageWrite) => effective_query(table),
        }
    }

    fn create(self, table: &TableName) -> SetupStep {
        let view = self.name(table).full;
        match self {
            Self::Once => SetupStep::CreateView { view },
            Self::Effective => SetupStep::CreateEffectiveView { view },
        }
    }
}

impl fmt::Display for SetupStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateDataset { dataset, location: None } => write!(f, "create dataset {dataset}"),
            Self::CreateDataset { dataset, location: Some(location) } => write!(f, "create dataset {dataset} in {location}"),
            Self::CreateTable { table, columns } => {
                let count = columns.len();
                write!(
                    f,
                    "create table {table} ({count} columns, partitioned by day on created_at, clustered by event_type, source)"
                )
            }
            Self::AddColumns { table, columns } => write!(f, "add to table {table}: {}", columns.join(", ")),
            Self::CreateView { view } => write!(f, "create view {view} (each event once)"),
            Self::CreateEffectiveView { view } => write!(f, "create view {view} (events of completed runs)"),
            Self::ReplaceView { view } => write!(f, "replace view {view} (its definition has changed)"),
        }
    }
}

/// Determines what is missing. Changes nothing.
///
/// # Errors
/// Those of [`Destination::connect`]; [`DeliveryError::Denied`] for a table or view that cannot be fixed by adding something.
pub async fn plan(to: &mut BigQuery) -> Result<SetupPlan, DeliveryError> {
    let limit = to.settings.timeout();
    let looked = within(limit * 2, look(to)).await;
    to.finish_call(looked)
}

async fn look(to: &mut BigQuery) -> Result<SetupPlan, DeliveryError> {
    let write = to.config.write;
    let location = to.config.location.clone();
    let call = to.rest().await?;
    let table = call.table.clone();
    let mut steps = Vec::new();
    let mut is_new = false;
    match columns(&call).await? {
        Some(found) => steps.extend(missing(&table, &found)?),
        None => {
            is_new = true;
            let about = format!("{}.{}", table.project, table.dataset);
            let got = call.client().dataset().get(&table.project, &table.dataset).await;
            if absent(got.map(drop), &about)? {
                steps.push(SetupStep::CreateDataset { dataset: about, location });
            }
            let columns = ENVELOPE.iter().map(|column| column.name.to_owned()).collect();
            steps.push(SetupStep::CreateTable { table: table.full.clone(), columns });
        }
    }
    for view in View::ALL {
        // Without insertAll, no event is there twice. A view from a time with it is kept up to date.
        let is_needed = view == View::Effective || write == WriteMethod::InsertAll;
        match (is_new, is_needed) {
            (true, true) => steps.push(view.create(&table)),
            (true, false) => {}
            (false, _) => steps.extend(of_view(&call, view, write, is_needed).await?),
        }
    }
    Ok(SetupPlan { table: table.full, steps })
}

/// Returns the step that creates or replaces a view. Refuses anything else of that name, and keeps a view that others created.
async fn of_view(
    call: &RestCall<'_>,
    view: View,
    write: WriteMethod,
    is_needed: bool,
) -> Result<Option<SetupStep>, DeliveryError> {
    let name = view.name(call.table);
    match read_table(call.rest, &name, call.token.as_deref()).await {
        Err(DeliveryError::TargetMissing(_)) => Ok(is_needed.then(|| view.create(call.table))),
        Err(refusal) => Err(refusal),
        Ok(TableInfo { kind: Some(kind), .. }) if kind != "VIEW" => {
            if !is_needed {
                return Ok(None);
            }
            Err(DeliveryError::Denied(format!("{}: is a {kind}, and a view must be created there: rename it", name.full)))
        }
        Ok(TableInfo { query, description, .. }) => {
            let words = |query: &str| query.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let is_current = query.is_none_or(|query| words(&query) == words(&view.query(call.table, write)));
            let is_ours = description.as_deref() == Some(view.description());
            Ok((is_ours && !is_current).then_some(SetupStep::ReplaceView { view: name.full }))
        }
    }
}

/// Executes the plan. Treats anything created by others in the meantime as done.
///
/// # Errors
/// Those of the first step that fails; the steps before it are done.
pub async fn apply(to: &mut BigQuery, plan: &SetupPlan) -> Result<(), DeliveryError> {
    let limit = to.settings.timeout();
    for step in &plan.steps {
        // At most two requests: a schema is read before it is patched, and a created object may be looked up.
        let done = within(limit * 2, perform(to, step)).await;
        to.finish_call(done)?;
    }
    Ok(())
}

async fn perform(to: &mut BigQuery, step: &SetupStep) -> Result<(), DeliveryError> {
    let write = to.config.write;
    let call = to.rest().await?;
    let table = call.table;
    match step {
        SetupStep::CreateDataset { dataset, location } => {
            let mut made = Dataset::new(&table.project, &table.dataset);
            made.location.clone_from(location);
            match call.client().dataset().create(made).await {
                Err(BQError::ResponseError { error }) if error.error.code == 409 => Ok(()),
                made => made.map(drop).map_err(|error| answer::rest(dataset, &error)),
            }
        }
        SetupStep::CreateTable { .. } => {
            let schema = TableSchema::new(ENVELOPE.iter().map(schema).collect());
            let made = Table::new(&table.project, &table.dataset, &table.table, schema)
                .description("Events of lorchestra's jobs")
                .time_partitioning(TimePartitioning::per_day().field("created_at"))
                .clustering(Clustering { fields: Some(vec!["event_type".to_owned(), "source".to_owned()]) });
            create(&call, table, made).await
        }
        SetupStep::AddColumns { columns, .. } => add(&call, columns).await,
        SetupStep::CreateView { .. } => create_view(&call, View::Once, write).await,
        SetupStep::CreateEffectiveView { .. } => create_view(&call, View::Effective, write).await,
        SetupStep::ReplaceView { view: name } => {
            let Some(view) = View::ALL.into_iter().find(|view| view.name(table).full == *name) else { return Ok(()) };
            let patch = json!({ "view": { "query": view.query(table, write), "useLegacySql": false } });
            let (token, path) = (call.token.as_deref(), view.name(table).resource());
            let request = Call { about: name, token, method: Method::PATCH, path: &path };
            call.rest.raw(request, Some(&patch)).await.map(drop)
        }
    }
}

async fn create_view(call: &RestCall<'_>, view: View, write: WriteMethod) -> Result<(), DeliveryError> {
    let (name, query) = (view.name(call.table), view.query(call.table, write));
    let definition = ViewDefinition { query, use_legacy_sql: Some(false), user_defined_function_resources: None };
    let made = Table::new(&name.project, &name.dataset, &name.table, TableSchema::default())
        .description(view.description())
        .view(definition);
    create(call, &name, made).await
}

/// Bypasses the client: the patch sends the whole schema, and must keep everything in it that the client's model does not know.
async fn add(call: &RestCall<'_>, columns: &[String]) -> Result<(), DeliveryError> {
    let RestCall { rest, table, token, .. } = call;
    let (about, token) = (&table.full, token.as_deref());
    let path = table.resource();
    let mut resource = rest.raw(Call { about, token, method: Method::GET, path: &path }, None).await?;
    let Some(Value::Array(fields)) = resource.pointer_mut("/schema/fields") else {
        return Err(DeliveryError::Denied(format!("{about}: the response has no columns")));
    };
    for column in ENVELOPE.iter().filter(|column| columns.iter().any(|name| name == column.name)) {
        let is = |field: &Value| field["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(column.name));
        if !fields.iter().any(is) {
            let (name, kind, description) = (column.name, column.kind, column.description);
            fields.push(json!({ "name": name, "type": kind, "mode": "NULLABLE", "description": description }));
        }
    }
    let patch = json!({ "schema": { "fields": fields } });
    rest.raw(Call { about, token, method: Method::PATCH, path: &path }, Some(&patch)).await.map(drop)
}

fn schema(column: &Column) -> TableFieldSchema {
    let kind = match column.kind {
        "TIMESTAMP" => FieldType::Timestamp,
        "INTEGER" => FieldType::Integer,
        "JSON" => FieldType::Json,
        _ => FieldType::String,
    };
    let mut field = TableFieldSchema::new(column.name, kind);
    field.mode = Some(if column.required { "REQUIRED" } else { "NULLABLE" }.to_owned());
    field.description = Some(column.description.to_owned());
    field
}

/// Returns the table's columns; `None` if it does not exist.
async fn columns(call: &RestCall<'_>) -> Result<Option<Vec<ExistingColumn>>, DeliveryError> {
    match call.seen().await {
        Ok(seen) => Ok(Some(seen.columns)),
        Err(DeliveryError::TargetMissing(_)) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// Returns the step that adds missing columns. Refuses, before any change, a table that would still be unusable.
fn missing(table: &TableName, found: &[ExistingColumn]) -> Result<Option<SetupStep>, DeliveryError> {
    let lacks = |column: &&Column| !found.iter().any(|there| there.name.eq_ignore_ascii_case(column.name));
    let columns: Vec<&Column> = ENVELOPE.iter().filter(lacks).collect();
    let mut after = found.to_vec();
    after.extend(columns.iter().map(|column| ExistingColumn::new(column.name, column.kind, None)));
    Layout::read(&table.full, &after)?;
    let columns: Vec<String> = columns.iter().map(|column| column.name.to_owned()).collect();
    Ok((!columns.is_empty()).then(|| SetupStep::AddColumns { table: table.full.clone(), columns }))
}

/// The query of docs/guides/sql/effective.sql. A run of an engine's window is completed only if it has the claim of that window, and another
/// host may have recorded that before its own host has delivered its end.
///
/// A filter of the reader on `created_at` applies to the events, and not to the ends of runs, which are later. Those need a filter of their
/// own if the table requires one; it is a text, which BigQuery compares with a TIMESTAMP and with a STRING.
fn effective_query(table: &TableName) -> String {
    format!(
        "SELECT event.*\nFROM `{0}` AS event\nJOIN (\n  \
         SELECT DISTINCT run_id\n  FROM `{0}`\n  WHERE event_type IN ('job.completed', 'job.claimed') AND created_at >= '1970-01-01'\n) AS completed\n\
         ON event.run_id = completed.run_id",
        table.full
    )
}

/// Duplicates of an event have the same `created_at`. Including it in the columns of the row number lets BigQuery apply a filter on it
/// before numbering the rows: it reads only the requested partitions, and satisfies a table that requires such a filter.
fn once_query(table: &TableName) -> String {
    format!(
        "SELECT * EXCEPT (copy) FROM (\n  \
         SELECT *, ROW_NUMBER() OVER (PARTITION BY created_at, event_id) AS copy\n  FROM `{}`\n)\n\
         WHERE copy = 1",
        table.full
    )
}

/// Whether an object does not exist.
fn absent(got: Result<(), BQError>, about: &str) -> Result<bool, DeliveryError> {
    match got {
        Ok(()) => Ok(false),
        Err(error) => match answer::rest(about, &error) {
            DeliveryError::TargetMissing(_) => Ok(true),
            refusal => Err(refusal),
        },
    }
}

/// Creates a table or view, or accepts an existing one.
async fn create(call: &RestCall<'_>, name: &TableName, made: Table) -> Result<(), DeliveryError> {
    match call.client().table().create(made).await {
        Ok(_) => Ok(()),
        Err(BQError::ResponseError { error }) if error.error.code == 409 => Ok(()),
        // Some servers omit a view's columns, without which the client cannot parse the response: check whether the view exists.
        Err(BQError::RequestError(error)) if error.is_decode() => {
            read_table(call.rest, name, call.token.as_deref()).await.map(drop)
        }
        Err(error) => Err(answer::rest(&name.full, &error)),
    }
}

/// Writes one event (`lorchestra.probe`, from `lorchestra/setup`) with the configured method, and reads it back with a query. Returns its
/// event_id. A new table may take some minutes: retries temporary errors until `deadline` from now.
///
/// # Errors
/// The last refusal; [`DeliveryError::Later`] if the row was written but cannot be read back.
pub async fn probe(to: &mut BigQuery, deadline: Duration) -> Result<String, DeliveryError> {
    let ended = Instant::now() + deadline;
    let row = probe_row();
    // The stream and whether it has the row, kept across retries: the same row at the same offset lands once.
    let mut stream: Option<String> = None;
    patiently(ended, async || {
        to.connect().await?;
        if to.uses_streams() {
            let stream = match &stream {
                Some(stream) => stream,
                None => stream.insert(to.create_stream().await?),
            };
            to.append(BatchTarget::Stream(Slot { stream, offset: 0, length: 1 }), std::slice::from_ref(&row)).await
        } else {
            to.append(BatchTarget::Anywhere, std::slice::from_ref(&row)).await
        }
    })
    .await?;
    if let Some(stream) = &stream {
        let rows = patiently(ended, async || to.finalize(Slot { stream, offset: 0, length: 1 }, &[]).await).await?;
        if rows != 1 {
            return Err(DeliveryError::Denied(format!("{}: the probe's stream has {rows} rows, but 1 was written", to.name())));
        }
    }
    patiently(ended, async || {
        if to.present(std::slice::from_ref(&row)).await?.contains(&row.event_id) {
            return Ok(());
        }
        Err(answer::later(format!("{}: the probe {} was written, but no query returns it", to.name(), row.event_id)))
    })
    .await?;
    Ok(row.event_id)
}

/// An event that belongs to no run. Has every value that events always have, so that a table may require them.
fn probe_row() -> Row {
    let (package, job) = ("lorchestra", "setup");
    let event_id = Uuid::now_v7().to_string();
    Row {
        event_id: event_id.clone(),
        event_type: "lorchestra.probe".to_owned(),
        source: format!("{package}/{job}"),
        schema_ref: None,
        created_at: crate::host::clock::now_micros(),
        correlation_id: Some(event_id.clone()),
        subject_id: None,
        payload: Some("{}".to_owned()),
        run_id: Some(event_id),
        attempt: Some(0),
        package: Some(package.to_owned()),
        job: Some(job.to_owned()),
    }
}

/// Retries until success, a permanent error, or the deadline.
async fn patiently<T>(ended: Instant, mut work: impl AsyncFnMut() -> Result<T, DeliveryError>) -> Result<T, DeliveryError> {
    loop {
        match work().await {
            Err(DeliveryError::Later { .. } | DeliveryError::TargetMissing(_) | DeliveryError::LayoutChanged(_))
                if Instant::now() + PAUSE < ended =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::columns::Field;
    use super::super::columns::tests::{old, ours};
    use super::*;

    fn table() -> TableName {
        TableName::new("p", "d", "t")
    }

    #[test]
    fn a_table_with_all_columns_needs_no_step() {
        assert_eq!(missing(&table(), &ours()).unwrap(), None);
    }

    #[test]
    fn an_old_table_gets_the_new_columns() {
        let step = missing(&table(), &old()).unwrap().unwrap();
        assert_eq!(step.to_string(), "add to table p.d.t: run_id, attempt, package, job");
        // Without event_id it is not an events table, but it can become one.
        let step = missing(&table(), &ours()[1..]).unwrap().unwrap();
        assert_eq!(step.to_string(), "add to table p.d.t: event_id");
    }

    #[test]
    fn a_table_that_adding_columns_cannot_fix_is_left_alone() {
        let mut found = old();
        found.push(ExistingColumn::new("tenant", "STRING", Some("REQUIRED")));
        assert!(matches!(missing(&table(), &found), Err(DeliveryError::Denied(why)) if why.contains("tenant")));
    }

    #[test]
    fn the_schema_of_a_new_table() {
        let made: Vec<_> = ENVELOPE.iter().map(|column| serde_json::to_value(schema(column)).unwrap()).collect();
        assert_eq!(
            made[4],
            json!({ "name": "created_at", "type": "TIMESTAMP", "mode": "REQUIRED", "description": ENVELOPE[4].description })
        );
        let of = |field: Field| &made[ENVELOPE.iter().position(|column| column.field == field).unwrap()];
        assert_eq!((&of(Field::Payload)["type"], &of(Field::Attempt)["type"]), (&json!("JSON"), &json!("INTEGER")));
        let required: Vec<_> =
            made.iter().filter(|field| field["mode"] == "REQUIRED").map(|field| field["name"].as_str().unwrap()).collect();
        assert_eq!(required, ["event_id", "event_type", "source", "created_at"]);
        assert!(made.iter().all(|field| field["description"].as_str().is_some_and(|text| !text.is_empty())));
    }

    #[test]
    fn steps_are_printed_for_people() {
        let shown = [
            SetupStep::CreateDataset { dataset: "p.d".to_owned(), location: Some("EU".to_owned()) },
            SetupStep::CreateTable { table: "p.d.t".to_owned(), columns: vec![String::new(); 12] },
            SetupStep::CreateView { view: View::Once.name(&table()).full },
            SetupStep::ReplaceView { view: View::Effective.name(&table()).full },
        ]
        .map(|step| step.to_string());
        assert_eq!(shown[0], "create dataset p.d in EU");
        assert_eq!(
            shown[1],
            "create table p.d.t (12 columns, partitioned by day on created_at, clustered by event_type, source)"
        );
        assert_eq!(shown[2], "create view p.d.t_once (each event once)");
        assert_eq!(shown[3], "replace view p.d.t_effective (its definition has changed)");
    }

    /// Every use of the table in the view either has its own filter on the partition column or takes that of the reader.
    #[test]
    fn the_documented_query_of_effective_events_is_that_of_the_view() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guides/sql/effective.sql");
        let page = std::fs::read_to_string(path).unwrap();
        let query: Vec<&str> = page.lines().filter(|line| !line.starts_with("--")).collect();
        assert_eq!(query.join("\n"), effective_query(&TableName { full: "lorchestra.events".to_owned(), ..table() }));
        let inner = query.join("\n").split("JOIN (").nth(1).unwrap().to_owned();
        assert!(inner.contains("AND created_at >= '"), "{inner}");
    }
}
