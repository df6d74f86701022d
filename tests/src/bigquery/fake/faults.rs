//! Faults that a test injects: a script for each method, changed at any time while the servers run. The servers consult it for each
//! request; this module does not know what a request is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tonic::Code;

pub use gcp_bigquery_client::google::cloud::bigquery::storage::v1::storage_error::StorageErrorCode;

/// The methods that a client can call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// REST datasets.get.
    DatasetsGet,
    /// REST datasets.insert.
    DatasetsInsert,
    /// REST tables.get.
    TablesGet,
    /// REST tables.insert, including views.
    TablesInsert,
    /// REST tables.patch and tables.update.
    TablesPatch,
    /// REST tables.delete.
    TablesDelete,
    /// REST tabledata.insertAll.
    InsertAll,
    /// REST jobs.query.
    Query,
    /// The OAuth token endpoint.
    Token,
    /// The metadata server.
    Metadata,
    /// gRPC CreateWriteStream.
    CreateStream,
    /// gRPC GetWriteStream.
    GetStream,
    /// gRPC AppendRows: counted, and faulted, for each message of a call.
    AppendRows,
    /// gRPC FinalizeWriteStream.
    Finalize,
    /// Anything else; only counted.
    Other,
}

impl Method {
    /// Whether it uses gRPC.
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::CreateStream | Self::GetStream | Self::AppendRows | Self::Finalize)
    }
}

/// The fault of one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// An API error: this HTTP status, Google's JSON with this reason, and a message. REST only.
    Status(u16, &'static str),
    /// This HTTP status with an HTML page, as from a proxy. REST only.
    Html(u16),
    /// This HTTP status without a body, with `Retry-After` in seconds if given. REST only.
    Empty(u16, Option<u32>),
    /// This status ends the call. A code of the storage API is in its details. gRPC only.
    Grpc(Code, &'static str, Option<StorageErrorCode>),
    /// The same as an answer within the call, which continues. AppendRows only.
    InBand(Code, &'static str, Option<StorageErrorCode>),
    /// No answer until [`Faults::release`]; then the work is done and answered, if the client is still waiting.
    Silent,
    /// The work is done, but not answered until [`Faults::release`].
    CommitThenSilent,
    /// The connection is dropped; nothing was done.
    CloseHalfWay,
    /// The work is done, then the connection is dropped without an answer.
    CommitThenDrop,
    /// Normal processing, delayed by this time.
    Delay(Duration),
    /// The work is done immediately, and its answer is delayed by this time; messages in between are processed. AppendRows only.
    Latency(Duration),
    /// The rows with these indices are refused, so none is written. InsertAll and AppendRows only.
    RowErrors(Vec<usize>),
    /// Another client finalizes the stream first; then normal processing. AppendRows and Finalize only.
    FinalizeStream,
    /// The stream is gone, its rows stay; then normal processing. AppendRows, GetStream and Finalize only.
    DropStream,
    /// The table is deleted and created again, without rows and streams; then normal processing. AppendRows, CreateStream, TablesGet and
    /// InsertAll only.
    RecreateTable,
    /// For this and the following requests, this many in total: the table does not exist. REST of tables, CreateStream and AppendRows only.
    VanishTable(u32),
}

impl Fault {
    fn fits(&self, method: Method) -> bool {
        use Method::{AppendRows, CreateStream, Finalize, GetStream, InsertAll, Query, TablesGet, TablesPatch};
        match self {
            Self::Status(..) | Self::Html(_) | Self::Empty(..) => !method.is_grpc() && method != Method::Other,
            Self::Grpc(..) => method.is_grpc(),
            Self::InBand(..) | Self::Latency(_) => method == AppendRows,
            Self::Silent | Self::CommitThenSilent | Self::CloseHalfWay | Self::CommitThenDrop | Self::Delay(_) => {
                method != Method::Other
            }
            Self::RowErrors(_) => matches!(method, InsertAll | AppendRows),
            Self::FinalizeStream => matches!(method, AppendRows | Finalize),
            Self::DropStream => matches!(method, AppendRows | GetStream | Finalize),
            Self::RecreateTable => matches!(method, AppendRows | CreateStream | TablesGet | InsertAll),
            Self::VanishTable(_) => matches!(method, AppendRows | CreateStream | TablesGet | TablesPatch | InsertAll | Query),
        }
    }
}

#[derive(Debug, Default)]
struct Script {
    queue: VecDeque<Fault>,
    forever: Option<Fault>,
}

/// The scripts, one for each method. Clones share them.
#[derive(Debug, Clone)]
pub struct Faults {
    scripts: Arc<Mutex<HashMap<Method, Script>>>,
    /// Counts releases.
    released: Arc<watch::Sender<u64>>,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self { scripts: Arc::default(), released: Arc::new(watch::Sender::new(0)) }
    }

    fn scripts(&self) -> MutexGuard<'_, HashMap<Method, Script>> {
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Injects a fault into the next request of this method, after those already scripted.
    ///
    /// # Panics
    /// If the method does not support this fault.
    pub fn next(&self, method: Method, fault: Fault) {
        self.times(1, method, fault);
    }

    /// Injects a fault into the next `times` requests.
    ///
    /// # Panics
    /// If the method does not support this fault.
    pub fn times(&self, times: usize, method: Method, fault: Fault) {
        assert!(fault.fits(method), "{method:?} does not support {fault:?}");
        self.scripts().entry(method).or_default().queue.extend(std::iter::repeat_n(fault, times));
    }

    /// Injects a fault into all requests after those already scripted, until [`Faults::clear`].
    ///
    /// # Panics
    /// If the method does not support this fault.
    pub fn forever(&self, method: Method, fault: Fault) {
        assert!(fault.fits(method), "{method:?} does not support {fault:?}");
        self.scripts().entry(method).or_default().forever = Some(fault);
    }

    /// Removes all faults of this method; requests that are already silent stay so.
    pub fn clear(&self, method: Method) {
        self.scripts().remove(&method);
    }

    /// Number of scripted faults of this method that have not been used yet, not counting those of [`Faults::forever`].
    pub fn left(&self, method: Method) -> usize {
        self.scripts().get(&method).map_or(0, |script| script.queue.len())
    }

    /// Lets every currently silent request continue.
    pub fn release(&self) {
        self.released.send_modify(|count| *count += 1);
    }

    /// Returns the fault of the request that has just arrived.
    pub(super) fn meet(&self, method: Method) -> Option<Fault> {
        let mut scripts = self.scripts();
        let script = scripts.get_mut(&method)?;
        script.queue.pop_front().or_else(|| script.forever.clone())
    }

    /// Returns at the next release.
    pub(super) async fn released(&self) {
        // Cannot fail: the sender lives as long as self.
        let _ = self.released.subscribe().changed().await;
    }
}
