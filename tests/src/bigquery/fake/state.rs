//! The state of the fake behind one lock, and what its two interfaces share: the lock, the faults, request counts.

use super::faults::{Fault, Faults, Method};
use super::refusal::Refusal;
use super::serving::Door;
use super::tables::{Table, TableName};
use hyper::Uri;
use hyper::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A committed stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Full resource name.
    pub name: String,
    /// The table of its rows.
    pub table: TableName,
    /// Number of rows.
    pub length: i64,
    /// Whether it is finalized.
    pub finalized: bool,
    /// Whether it is gone, so that it can be neither written to nor queried.
    pub dropped: bool,
}

/// One recorded request; for AppendRows, one message of a call.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Its method.
    pub method: Method,
    /// The path of its address.
    pub path: String,
    /// The query string of its address.
    pub query: String,
    /// Its headers by lower-case name; for AppendRows, those of the call.
    pub headers: BTreeMap<String, String>,
    /// JSON, or a protobuf message.
    pub body: Vec<u8>,
}

/// A dataset: project and id.
pub(super) type DatasetName = (String, String);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) datasets: BTreeMap<DatasetName, Value>,
    pub(super) tables: BTreeMap<TableName, Table>,
    /// In the order of creation.
    pub(super) streams: Vec<Stream>,
    /// Number of further requests that find no table.
    vanished: u32,
    pub(super) requests: HashMap<Method, u64>,
    pub(super) open_appends: usize,
    pub(super) peak_appends: usize,
    /// The routing header of each AppendRows call, empty if missing.
    pub(super) routing: Vec<String>,
    pub(super) tokens: HashSet<String>,
    pub(super) tokens_issued: u64,
    /// Scopes and grants of token requests, in order.
    pub(super) grants: Vec<String>,
    pub(super) require_auth: bool,
    /// Whether in-band errors also end the call.
    pub(super) errors_end_calls: bool,
    /// The recorded requests, if recording is on.
    pub(super) recorded: Option<Vec<Exchange>>,
}

impl State {
    pub(super) fn record(&mut self, method: Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) {
        if let Some(recorded) = &mut self.recorded {
            let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
            let headers = headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
            let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
            recorded.push(Exchange { method, path, query, headers, body: body.to_vec() });
        }
    }

    /// Returns the table of a request. Called once for each request that needs one.
    pub(super) fn table(&mut self, name: &TableName) -> Result<&mut Table, Refusal> {
        if self.vanished > 0 {
            self.vanished -= 1;
            return Err(name.missing());
        }
        if !self.datasets.contains_key(&(name.project.clone(), name.dataset.clone())) {
            return Err(Refusal::not_found(format!("Not found: Dataset {}:{}", name.project, name.dataset)));
        }
        self.tables.get_mut(name).ok_or_else(|| name.missing())
    }

    pub(super) fn stream(&mut self, name: &str) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.name == name && !stream.dropped)
    }

    pub(super) fn create_dataset(&mut self, project: &str, dataset: &str, body: &Value) -> Result<Value, Refusal> {
        check_id("dataset ID", dataset)?;
        let mut resource = body.as_object().cloned().unwrap_or_default();
        resource.insert("kind".into(), "bigquery#dataset".into());
        resource.insert("id".into(), format!("{project}:{dataset}").into());
        resource.insert("datasetReference".into(), json!({"projectId": project, "datasetId": dataset}));
        resource.entry("location").or_insert("US".into());
        let resource = Value::from(resource);
        let name = (project.to_owned(), dataset.to_owned());
        if self.datasets.contains_key(&name) {
            return Err(Refusal::duplicate(format!("Already Exists: Dataset {project}:{dataset}")));
        }
        self.datasets.insert(name, resource.clone());
        Ok(resource)
    }

    pub(super) fn create_table(&mut self, name: &TableName, body: &Value) -> Result<Value, Refusal> {
        check_id("table ID", &name.table)?;
        if !self.datasets.contains_key(&(name.project.clone(), name.dataset.clone())) {
            return Err(Refusal::not_found(format!("Not found: Dataset {}:{}", name.project, name.dataset)));
        }
        if self.tables.contains_key(name) {
            return Err(Refusal::duplicate(format!("Already Exists: Table {}:{}.{}", name.project, name.dataset, name.table)));
        }
        let table = Table::create(name, body)?;
        let resource = table.resource.clone();
        self.tables.insert(name.clone(), table);
        Ok(resource)
    }

    pub(super) fn drop_table(&mut self, name: &TableName) -> Result<(), Refusal> {
        self.drop_streams(name);
        self.tables.remove(name).map(drop).ok_or_else(|| name.missing())
    }

    /// Deletes and creates the table again: no rows, and its streams are gone.
    pub(super) fn recreate_table(&mut self, name: &TableName) {
        self.drop_streams(name);
        if let Some(table) = self.tables.get_mut(name) {
            table.recreate();
        }
    }

    fn drop_streams(&mut self, table: &TableName) {
        for stream in self.streams.iter_mut().filter(|stream| stream.table == *table) {
            stream.dropped = true;
        }
    }

    /// Applies a fault to table and stream.
    pub(super) fn upset(&mut self, fault: Option<&Fault>, table: &TableName, stream: Option<&str>) {
        match fault {
            Some(Fault::VanishTable(requests)) => self.vanished = *requests,
            Some(Fault::RecreateTable) => self.recreate_table(table),
            Some(Fault::FinalizeStream) => {
                if let Some(stream) = stream.and_then(|name| self.stream(name)) {
                    stream.finalized = true;
                }
            }
            Some(Fault::DropStream) => {
                if let Some(stream) = stream.and_then(|name| self.stream(name)) {
                    stream.dropped = true;
                }
            }
            _ => {}
        }
    }

    pub(super) fn may_pass(&self, authorization: Option<&str>) -> bool {
        !self.require_auth
            || authorization.and_then(|value| value.strip_prefix("Bearer ")).is_some_and(|token| self.tokens.contains(token))
    }
}

fn check_id(what: &str, id: &str) -> Result<(), Refusal> {
    if id.is_empty() || id.len() > 1024 || !id.chars().all(|c| c.is_alphanumeric() || c == '_') {
        let rule = "must be alphanumeric (plus underscores) and must be at most 1024 characters long";
        return Err(Refusal::invalid(format!("Invalid {what} \"{id}\". It {rule}.")));
    }
    Ok(())
}

/// The state shared by all connections.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) faults: Faults,
    /// Whether rows are only counted, neither checked nor stored.
    pub(super) acknowledge_only: bool,
}

impl Shared {
    pub(super) fn new(acknowledge_only: bool) -> Self {
        Self { state: Mutex::default(), faults: Faults::new(), acknowledge_only }
    }

    /// Never held across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request, and returns its fault.
    pub(super) fn meet(&self, method: Method) -> Option<Fault> {
        *self.state().requests.entry(method).or_default() += 1;
        self.faults.meet(method)
    }

    /// Delays before the work. Does not end when the connection is dropped.
    pub(super) async fn before(&self, fault: Option<&Fault>, door: &Door) {
        match fault {
            Some(Fault::Delay(late)) => tokio::time::sleep(*late).await,
            Some(Fault::Silent) => self.faults.released().await,
            Some(Fault::CloseHalfWay) => door.slam().await,
            _ => {}
        }
    }

    /// Delays after the work, before the answer.
    pub(super) async fn after(&self, fault: Option<&Fault>, door: &Door) {
        match fault {
            Some(Fault::CommitThenSilent) => self.faults.released().await,
            Some(Fault::CommitThenDrop) => door.slam().await,
            _ => {}
        }
    }
}
