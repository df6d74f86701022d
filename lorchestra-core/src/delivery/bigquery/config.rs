//! The user's configuration of the destination. Values only: nothing here is checked or read.

use super::CredentialSources;
use std::fmt;
use std::time::Duration;

/// How to write batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteMethod {
    /// Committed streams with offsets: each event exactly once.
    #[default]
    StorageWrite,
    /// insertAll: each event at least once; the view of [`super::setup`] shows it once.
    InsertAll,
}

/// The user's configuration.
#[derive(Clone)]
pub struct BigQueryConfig {
    /// `None` for the project of the credentials.
    pub project: Option<String>,
    /// Dataset id.
    pub dataset: String,
    /// Table id.
    pub table: String,
    /// Where setup creates a missing dataset, such as `EU`. `None` for BigQuery's default.
    pub location: Option<String>,
    /// How to write batches.
    pub write: WriteMethod,
    /// REST endpoint: `host:port`, `http://…` (plain text: an emulator, no credentials) or `https://…`. `None` for Google's.
    pub endpoint: Option<String>,
    /// gRPC endpoint, in the same forms. `None` for Google's; with a plain-text `endpoint` there is no default.
    pub storage_endpoint: Option<String>,
    /// Where to look for credentials.
    pub credentials: CredentialSources,
    /// HTTPS_PROXY: proxy for https endpoints and for token requests.
    pub proxy: Option<String>,
    /// NO_PROXY: hosts to connect to directly.
    pub no_proxy: Option<String>,
    /// Time limit of one request. Connecting has the same limit, but at most 5 s.
    pub timeout: Duration,
}

impl fmt::Debug for BigQueryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses and the proxy may contain a password.
        f.debug_struct("BigQueryConfig")
            .field("project", &self.project)
            .field("dataset", &self.dataset)
            .field("table", &self.table)
            .field("location", &self.location)
            .field("write", &self.write)
            .field("credentials", &self.credentials)
            .field("proxy", &self.proxy.is_some())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
