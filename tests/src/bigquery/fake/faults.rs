//! Faults that a test injects: a script for each method, changed at any time while the servers run. The servers consult it for each
//! request; this module does not know what a request is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tonic::Code;

pub use gcp_bigquery_client::google::cloud::bigquery::storage::v1::storage_error::StorageErrorCode;

/// What a client can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// REST datasets.get.
    DatasetsGet,
    /// REST datasets.insert.
    DatasetsInsert,
    /// REST tables.get.
    TablesGet,
    /// REST tables.insert, also of views.
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
    /// Anything else; counted only.
    Other,
}

impl Method {
    /// Whether it comes over gRPC.
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::CreateStream | Self::GetStream | Self::AppendRows | Self::Finalize)
    }
}

/// What goes wrong with one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// An error of the API: this HTTP status, Google's JSON with this reason, and a message. REST only.
    Status(u16, &'static str),
    /// This HTTP status with a page of HTML, as a proxy answers. REST only.
    Html(u16),
    /// This HTTP status without a body, with `Retry-After` in seconds if given. REST only.
    Empty(u16, Option<u32>),
    /// This status ends the call. With a code of the storage API: in its details. gRPC only.
    Grpc(Code, &'static str, Option<StorageErrorCode>),
    /// The same as an answer within the call, which goes on. AppendRows only.
    InBand(Code, &'static str, Option<StorageErrorCode>),
    /// No answer until [`Faults::release`]; then the work is done and answered, if the client still waits.
    Silent,
    /// The work is done, and not answered until [`Faults::release`].
    CommitThenSilent,
    /// The connection is dropped, nothing was done.
    CloseHalfWay,
    /// The work is done, then the connection is dropped without an answer.
    CommitThenDrop,
    /// Everything as always, this much later.
    Delay(Duration),
    /// The work is done at once, and its answer comes this much later; what comes in between is worked on. AppendRows only.
    Latency(Duration),
    /// The rows with these indices are refused, so none is written. InsertAll and AppendRows only.
    RowErrors(Vec<usize>),
    /// The stream is finalised by somebody else first; then as always. AppendRows and Finalize only.
    FinalizeStream,
    /// The stream is gone, its rows stay; then as always. AppendRows, GetStream and Finalize only.
    DropStream,
    /// Table deleted and created again: no rows, no streams; then as always. AppendRows, CreateStream, TablesGet and InsertAll only.
    RecreateTable,
    /// For this request and the next ones, so many in all, whatever they ask of a table: there is no table. REST of tables, CreateStream
    /// and AppendRows only.
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

/// The scripts, one a method. A clone is the same scripts.
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

    /// The next request of this method, after those that were scripted before, goes wrong so.
    ///
    /// # Panics
    /// If the method cannot go wrong in this way.
    pub fn next(&self, method: Method, fault: Fault) {
        self.times(1, method, fault);
    }

    /// The next `times` requests.
    ///
    /// # Panics
    /// If the method cannot go wrong in this way.
    pub fn times(&self, times: usize, method: Method, fault: Fault) {
        assert!(fault.fits(method), "{fault:?} is no fault of {method:?}");
        self.scripts().entry(method).or_default().queue.extend(std::iter::repeat_n(fault, times));
    }

    /// All requests after those that were scripted, until [`Faults::clear`].
    ///
    /// # Panics
    /// If the method cannot go wrong in this way.
    pub fn forever(&self, method: Method, fault: Fault) {
        assert!(fault.fits(method), "{fault:?} is no fault of {method:?}");
        self.scripts().entry(method).or_default().forever = Some(fault);
    }

    /// Nothing more goes wrong with this method; requests that were silenced stay so.
    pub fn clear(&self, method: Method) {
        self.scripts().remove(&method);
    }

    /// How many scripted faults of this method were not met yet, those of [`Faults::forever`] not counted.
    pub fn left(&self, method: Method) -> usize {
        self.scripts().get(&method).map_or(0, |script| script.queue.len())
    }

    /// Lets every request go on that is silent now.
    pub fn release(&self) {
        self.released.send_modify(|count| *count += 1);
    }

    /// The fault of the request that has just come.
    pub(super) fn meet(&self, method: Method) -> Option<Fault> {
        let mut scripts = self.scripts();
        let script = scripts.get_mut(&method)?;
        script.queue.pop_front().or_else(|| script.forever.clone())
    }

    /// Ends with the next release.
    pub(super) async fn released(&self) {
        // Never an error: the sender lives as long as self.
        let _ = self.released.subscribe().changed().await;
    }
}
