//! A BigQuery in this process: REST and the Storage Write API on 127.0.0.1, in memory.
//!
//! It is strict where Google's servers are: offsets, row errors that write nothing, REQUIRED columns, JSON columns that take text, limits
//! of requests, insert ids. It refuses anything unknown. [`Fake::faults`] makes requests fail.
//!
//! ```text
//! client ─► serving ─┬─ HTTP/1 ─► rest ──────────────┐
//!                    └─ HTTP/2 ─► grpc ─► streams ───┴─► state: tables, streams, tokens
//!                                   └─ faults: consulted for each request
//! ```

mod columns;
mod credentials;
mod faults;
mod grpc;
mod insert_all;
mod query;
mod refusal;
mod rest;
mod serving;
mod state;
mod streams;
mod tables;
mod wire;

pub use faults::{Fault, Faults, Method, StorageErrorCode};
pub use state::{Exchange, Stream};
pub use tables::{Row, TableName, WritePath};

use serde_json::{Value, json};
use serving::{Protocol, Reserved};
use state::Shared;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::watch;

/// How to start a fake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Only count rows, without decoding, checking or storing them: for benches. Offsets are still checked.
    pub acknowledge_only: bool,
    /// Port of REST; 0 for any free one.
    pub rest_port: u16,
    /// Port of gRPC; 0 for any free one.
    pub grpc_port: u16,
}

/// A running fake. Stops, with all its connections, when dropped.
#[derive(Debug)]
pub struct Fake {
    shared: Arc<Shared>,
    rest: SocketAddr,
    grpc: SocketAddr,
    /// Reserved even while it is not listening.
    _ports: [Reserved; 2],
    /// Whether it is listening; dropping it stops the servers.
    up: Option<watch::Sender<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self::start()
    }
}

impl Fake {
    /// Starts one that stores rows, on free ports.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts one with these options.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start_with(options: Options) -> Self {
        let shared = Arc::new(Shared::new(options.acknowledge_only));
        let (up, is_up) = watch::channel(true);
        let reserve = |port| Reserved::new(port).expect("a port on 127.0.0.1");
        let ports = [reserve(options.rest_port), reserve(options.grpc_port)];
        let [rest, grpc] = ports.each_ref().map(Reserved::address);
        let [rest_listener, grpc_listener] = [rest, grpc].map(|address| serving::listen(address).expect("the fake listens"));
        let served = Arc::clone(&shared);
        let serving = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listen = |listener| Some(tokio::net::TcpListener::from_std(listener).expect("a listener for the runtime"));
                tokio::join!(
                    serving::serve(listen(rest_listener), rest, Protocol::Rest, Arc::clone(&served), is_up.clone()),
                    serving::serve(listen(grpc_listener), grpc, Protocol::Grpc, served, is_up),
                );
            });
        };
        let thread = std::thread::Builder::new().name("fake-bigquery".to_owned()).spawn(serving).expect("a thread for the fake");
        Self { shared, rest, grpc, _ports: ports, up: Some(up), thread: Some(thread) }
    }

    /// `http://127.0.0.1:PORT`: the value for `BIGQUERY_EMULATOR_HOST`; the API is under `/bigquery/v2`.
    pub fn rest_endpoint(&self) -> String {
        format!("http://{}", self.rest)
    }

    /// `http://127.0.0.1:PORT` of the Storage Write API.
    pub fn grpc_endpoint(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// The faults to inject.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Stops listening and drops every connection; tables and streams stay.
    pub fn go_down(&self) {
        self.set_up(false);
    }

    /// Listens again, on the same ports.
    pub fn come_up(&self) {
        self.set_up(true);
    }

    /// Returns when both ports are open, or closed.
    fn set_up(&self, now: bool) {
        if let Some(up) = &self.up {
            up.send_replace(now);
        }
        for address in [self.rest, self.grpc] {
            crate::eventually("the fake goes down or comes up", || std::net::TcpStream::connect(address).is_ok() == now);
        }
    }

    /// From now on all requests need tokens issued by this fake (except those to the token endpoint and the metadata server).
    pub fn require_auth(&self, required: bool) {
        self.shared.state().require_auth = required;
    }

    /// The key file of a service account whose token endpoint is this fake.
    pub fn service_account_key(&self) -> Value {
        credentials::service_account_key(&self.rest_endpoint())
    }

    /// A user's credentials file whose `token_uri` is this fake.
    pub fn authorized_user(&self) -> Value {
        credentials::authorized_user(&self.rest_endpoint())
    }

    /// A credentials file of workload identity federation whose token server is this fake. The identity provider's token, in the file
    /// `subject`, must be `fake-subject-token`.
    pub fn external_account(&self, subject: &str) -> Value {
        credentials::external_account(&self.rest_endpoint(), subject)
    }

    /// Refuses every token issued so far from now on.
    pub fn expire_tokens(&self) {
        self.shared.state().tokens.clear();
    }

    /// The token requests in order: `service_account SCOPE…`, `authorized_user`, `metadata`.
    pub fn grants(&self) -> Vec<String> {
        self.shared.state().grants.clone()
    }

    /// Makes in-band errors of AppendRows (offsets, schema, rows) end the call with the same status instead of being an answer in it. Row
    /// errors then have no details, because a status cannot contain them.
    pub fn end_calls_on_errors(&self, ending: bool) {
        self.shared.state().errors_end_calls = ending;
    }

    /// Creates an empty dataset, unless it exists.
    pub fn create_dataset(&self, project: &str, dataset: &str) {
        // It already exists, as requested.
        let _ = self.shared.state().create_dataset(project, dataset, &Value::Null);
    }

    /// Creates a table, and its dataset if it is missing; `resource` is the body of tables.insert.
    ///
    /// # Panics
    /// If the table exists, or is invalid.
    pub fn create_table(&self, name: &TableName, resource: &Value) {
        self.create_dataset(&name.project, &name.dataset);
        let created = self.shared.state().create_table(name, resource);
        created.unwrap_or_else(|refusal| panic!("{name}: {}", refusal.message));
    }

    /// Creates a table with the columns of an event.
    ///
    /// # Panics
    /// If the table exists.
    pub fn create_event_table(&self, name: &TableName) {
        self.create_table(name, &json!({"schema": {"fields": event_columns()}}));
    }

    /// Deletes a table; its streams are gone.
    ///
    /// # Panics
    /// If it does not exist.
    pub fn drop_table(&self, name: &TableName) {
        self.shared.state().drop_table(name).unwrap_or_else(|refusal| panic!("{}", refusal.message));
    }

    /// Resets the table as if it had been deleted and created again: no rows, no streams.
    pub fn recreate_table(&self, name: &TableName) {
        self.shared.state().recreate_table(name);
    }

    /// Its rows, in order of arrival.
    ///
    /// # Panics
    /// If the table does not exist.
    pub fn rows(&self, name: &TableName) -> Vec<Row> {
        self.shared.state().tables.get(name).unwrap_or_else(|| panic!("there is no table {name}")).rows.clone()
    }

    /// Number of its rows, including those that were only acknowledged.
    ///
    /// # Panics
    /// If the table does not exist.
    pub fn row_count(&self, name: &TableName) -> u64 {
        let state = self.shared.state();
        let table = state.tables.get(name).unwrap_or_else(|| panic!("there is no table {name}"));
        table.acknowledged + table.rows.len() as u64
    }

    /// The table as returned by tables.get; `None` if it does not exist.
    pub fn table_resource(&self, name: &TableName) -> Option<Value> {
        self.shared.state().tables.get(name).map(|table| table.resource.clone())
    }

    /// Every stream ever created, in order.
    pub fn streams(&self) -> Vec<Stream> {
        self.shared.state().streams.clone()
    }

    /// Finalizes a stream, as another client would.
    pub fn finalize_stream(&self, name: &str) {
        self.shared.state().stream(name).into_iter().for_each(|stream| stream.finalized = true);
    }

    /// Removes the stream; its rows stay.
    pub fn drop_stream(&self, name: &str) {
        self.shared.state().stream(name).into_iter().for_each(|stream| stream.dropped = true);
    }

    /// Records every request from now on.
    pub fn record(&self) {
        self.shared.state().recorded = Some(Vec::new());
    }

    /// The requests since [`Fake::record`], in order.
    pub fn recorded(&self) -> Vec<Exchange> {
        self.shared.state().recorded.clone().unwrap_or_default()
    }

    /// Number of requests of this method, including those with a fault.
    pub fn requests(&self, method: Method) -> u64 {
        self.shared.state().requests.get(&method).copied().unwrap_or_default()
    }

    /// Maximum number of AppendRows calls that were open at the same time.
    pub fn peak_append_calls(&self) -> usize {
        self.shared.state().peak_appends
    }

    /// Number of AppendRows calls that are open now.
    pub fn open_append_calls(&self) -> usize {
        self.shared.state().open_appends
    }

    /// `x-goog-request-params` of each AppendRows call, empty if missing.
    pub fn routing_headers(&self) -> Vec<String> {
        self.shared.state().routing.clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.up = None;
        self.thread.take().map(JoinHandle::join);
    }
}

/// The columns of an event, in REST's form.
pub fn event_columns() -> Value {
    let column = |name: &str, kind: &str, mode: &str| json!({"name": name, "type": kind, "mode": mode});
    let required = |name, kind| column(name, kind, "REQUIRED");
    let nullable = |name, kind| column(name, kind, "NULLABLE");
    json!([
        required("event_id", "STRING"),
        required("event_type", "STRING"),
        required("source", "STRING"),
        nullable("schema_ref", "STRING"),
        required("created_at", "TIMESTAMP"),
        nullable("correlation_id", "STRING"),
        nullable("subject_id", "STRING"),
        nullable("payload", "JSON"),
        nullable("run_id", "STRING"),
        nullable("attempt", "INTEGER"),
        nullable("package", "STRING"),
        nullable("job", "STRING"),
    ])
}
