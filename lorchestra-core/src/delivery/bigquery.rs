//! BigQuery as a [`Destination`]: the Storage Write API with committed streams and offsets, or insertAll.
//!
//! Owns one table: its name, its columns as last read, the credentials, one HTTP client and one gRPC channel. Talks to Google, or to an
//! emulator at a plain-text endpoint; reads no environment. In addition to the trait's guarantees, no secret and no row contents are in any
//! error or Debug output, and nothing connects before [`Destination::connect`].
//!
//! ```text
//!  BigQuery ─┬─ rest     tables.get, insertAll, query, setup (gcp-bigquery-client) ──┐
//!            ├─ storage  CreateWriteStream, AppendRows, FinalizeWriteStream ────────┼─ answer: what an error means
//!            ├─ columns, encode: the table's columns, rows as bytes                 │
//!            └─ credentials, token, connect: identity, and connections via a proxy ──┘
//! ```

mod answer;
mod columns;
mod config;
mod connect;
mod credentials;
mod encode;
mod endpoint;
mod redact;
mod rest;
pub mod setup;
mod storage;
#[cfg(test)]
mod tests;
mod token;

pub use config::{BigQueryConfig, WriteMethod};
pub use credentials::CredentialSources;

use super::{BatchTarget, DeliveryError, DeliveryPolicy, Destination, Landed, Row, Slot};
use columns::{ExistingColumn, Field, Layout};
use connect::ConnectSettings;
use credentials::Credentials;
use endpoint::Endpoint;
use gcp_bigquery_client::Client;
use rest::{Call, LookUp, Rest, TableName};
use serde_json::Value;
use std::collections::HashSet;
use std::future::Future;
use std::path::Path;
use std::time::Duration;
use storage::{Caller, Storage};
use token::Tokens;
use tonic::codegen::http::{HeaderMap, HeaderValue};

/// The domain of Google's services for credentials that name no other.
const UNIVERSE: &str = "googleapis.com";
const REST: &str = "https://bigquery.googleapis.com";
const STORAGE: &str = "https://bigquerystorage.googleapis.com";
/// Number of rows in a batch for a stream (few, large requests), and in a single request: the number that Google recommends.
const STREAM_ROWS: usize = 5000;
const INSERT_ROWS: usize = 500;
/// Maximum number of batches in flight in one stream. At 400,000 rows per second from the store this covers 80 ms of latency.
const DEPTH: usize = 8;
/// Approximate maximum size of a batch: less than half of a request's limit.
const BATCH_BYTES: usize = 4 << 20;
/// Number of retries while Google does not know a new table or column.
const PATIENCE: u32 = 3;
/// How long a stream may be idle and still be expected to exist: Google keeps streams for three days.
const STREAM_IDLE: Duration = Duration::from_secs(60 * 60 * 60);
/// Time limit for creating a stream: Google's clients wait twenty minutes.
const CREATE: Duration = Duration::from_secs(120);
/// Number of ids in one query of [`Destination::present`].
const IDS: usize = 5000;

/// A BigQuery table.
#[derive(Debug)]
pub struct BigQuery {
    config: BigQueryConfig,
    endpoint: Endpoint,
    storage_endpoint: Option<Endpoint>,
    settings: ConnectSettings,
    name: String,
    tokens: Option<Tokens>,
    rest: Option<Rest>,
    storage: Option<Storage>,
    table: Option<TableName>,
    read: Option<ConnectedTable>,
}

/// What connecting has determined about the table.
#[derive(Debug)]
struct ConnectedTable {
    layout: Layout,
    location: Option<String>,
}

impl BigQuery {
    /// Checks the settings. Makes no connection and reads no file.
    ///
    /// # Errors
    /// [`DeliveryError::Denied`], which names the invalid setting.
    pub fn new(config: BigQueryConfig) -> Result<Self, DeliveryError> {
        for (key, id) in [("destinations.bigquery.dataset", &config.dataset), ("destinations.bigquery.table", &config.table)] {
            check_id(key, id)?;
        }
        if let Some(project) = &config.project {
            check_id("destinations.bigquery.project", project)?;
        }
        let endpoint = Endpoint::parse(config.endpoint.as_deref().unwrap_or(REST), "destinations.bigquery.endpoint")?;
        let storage_endpoint = match config.storage_endpoint.as_deref() {
            Some(text) => Some(Endpoint::parse(text, "destinations.bigquery.storage_endpoint")?),
            // Events for an emulator must never go to Google.
            None if endpoint.is_plain() => None,
            None => Some(Endpoint::parse(STORAGE, "destinations.bigquery.storage_endpoint")?),
        };
        if storage_endpoint.is_none() && config.write == WriteMethod::StorageWrite {
            return Err(no_storage_endpoint());
        }
        let settings = ConnectSettings::new(config.timeout, config.proxy.as_deref(), config.no_proxy.as_deref())?;
        let name = format!("{}.{}.{}", config.project.as_deref().unwrap_or("?"), config.dataset, config.table);
        let (tokens, rest, storage, table, read) = (None, None, None, None, None);
        Ok(Self { config, endpoint, storage_endpoint, settings, name, tokens, rest, storage, table, read })
    }

    /// Determines the project, and with it the [`Destination::name`]: from the settings, or else from the credentials file, or else from
    /// the metadata server. [`Destination::connect`] does that too; this is for callers that need the name before. Makes no call to
    /// BigQuery.
    ///
    /// # Errors
    /// [`DeliveryError::Unauthenticated`], or [`DeliveryError::Denied`] if nothing names a project.
    pub async fn resolve(&mut self) -> Result<(), DeliveryError> {
        if self.table.is_some() && self.tokens.is_some() {
            return Ok(());
        }
        let plain = self.endpoint.is_plain() && self.storage_endpoint.as_ref().is_none_or(Endpoint::is_plain);
        let found = Credentials::find(&self.config.credentials, plain)?;
        self.move_to(found.universe_domain.as_deref().unwrap_or(UNIVERSE))?;
        // Credentials that are read again change who writes, not where to.
        let known = self.table.as_ref().map(|table| table.project.clone());
        let project = known.or_else(|| self.config.project.clone()).or_else(|| found.project.clone());
        let mut tokens = Tokens::new(found, self.settings.clone());
        let project = match project {
            Some(project) => Some(project),
            None => tokens.machine_project().await?,
        };
        let project = project.ok_or_else(|| {
            DeliveryError::Denied(
                "no project: the credentials name none: set destinations.bigquery.project or BQ_EVENTS_PROJECT".to_owned(),
            )
        })?;
        check_id("the credentials' project", &project)?;
        let table = TableName::new(&project, &self.config.dataset, &self.config.table);
        self.name.clone_from(&table.full);
        self.table = Some(table);
        self.tokens = Some(tokens);
        Ok(())
    }

    /// Uses the addresses of the services of a universe, unless the configuration names others. Connections to those of another one are
    /// closed: the credentials were replaced.
    fn move_to(&mut self, universe_domain: &str) -> Result<(), DeliveryError> {
        check_id("universe_domain", universe_domain)?;
        let at = |service: &str| Endpoint::parse(&format!("https://{service}.{universe_domain}"), "universe_domain");
        if self.config.endpoint.is_none() {
            let endpoint = at("bigquery")?;
            if self.endpoint != endpoint {
                (self.endpoint, self.rest) = (endpoint, None);
            }
            if self.config.storage_endpoint.is_none() {
                let endpoint = Some(at("bigquerystorage")?);
                if self.storage_endpoint != endpoint {
                    (self.storage_endpoint, self.storage) = (endpoint, None);
                }
            }
        }
        Ok(())
    }

    /// Returns everything that a REST call needs.
    async fn rest(&mut self) -> Result<RestCall<'_>, DeliveryError> {
        self.resolve().await?;
        let (Some(tokens), Some(table)) = (&mut self.tokens, &self.table) else { return Err(not_connected(&self.name)) };
        if self.rest.is_none() {
            let mut headers = HeaderMap::new();
            if let Some(project) = tokens.quota_project()
                && let Ok(project) = HeaderValue::from_str(project)
            {
                headers.insert("x-goog-user-project", project);
            }
            let http = self.settings.http(headers, self.endpoint.is_plain())?;
            self.rest = Some(Rest::new(self.endpoint.v2(), http, self.settings.timeout()).await?);
        }
        let rest = self.rest.as_ref().ok_or_else(|| not_connected(&self.name))?;
        let token = if anonymous(&self.endpoint, &self.config.credentials) { None } else { tokens.bearer().await? };
        Ok(RestCall { rest, table, read: self.read.as_ref(), token })
    }

    /// Returns everything that a call for a stream needs.
    async fn storage(&mut self) -> Result<StorageCall<'_>, DeliveryError> {
        self.resolve().await?;
        let (Some(tokens), Some(table)) = (&mut self.tokens, &self.table) else { return Err(not_connected(&self.name)) };
        let endpoint = self.storage_endpoint.as_ref().ok_or_else(no_storage_endpoint)?;
        if self.storage.is_none() {
            self.storage = Some(Storage::new(endpoint, &self.settings)?);
        }
        let storage = self.storage.as_mut().ok_or_else(|| not_connected(&self.name))?;
        let token = if anonymous(endpoint, &self.config.credentials) { None } else { tokens.bearer().await? };
        let quota_project = tokens.quota_project().map(str::to_owned);
        Ok(StorageCall { storage, table, read: self.read.as_ref(), token, quota_project })
    }

    /// Maps a timeout to an error. Drops a cached token that was refused: it has expired (a machine that was suspended does not notice),
    /// and the next attempt gets a new one. If a new one is refused too, or none is issued, the next attempt reads the credentials again:
    /// a user may have replaced them.
    fn finish_call<T>(
        &mut self,
        outcome: Result<Result<T, DeliveryError>, tokio::time::error::Elapsed>,
    ) -> Result<T, DeliveryError> {
        let outcome = outcome.unwrap_or_else(|_| Err(answer::too_late(&self.name, self.settings.timeout())));
        match (outcome, &mut self.tokens) {
            (Err(DeliveryError::Unauthenticated(reason)), Some(tokens)) => {
                if tokens.was_kept() {
                    tokens.forget();
                    return Err(answer::later(reason));
                }
                self.tokens = None;
                // Its headers name the project to bill, which is the credentials'.
                self.rest = None;
                Err(DeliveryError::Unauthenticated(reason))
            }
            (outcome, _) => outcome,
        }
    }

    async fn read_table(&mut self) -> Result<(), DeliveryError> {
        let call = self.rest().await?;
        let TableInfo { columns, location, needs_filter, .. } = call.seen().await?;
        let layout = Layout::read(&call.table.full, &columns)?;
        if let Some(by) = needs_filter
            && layout.timestamp(Field::CreatedAt).is_none_or(|column| !column.eq_ignore_ascii_case(&by))
        {
            let by = if by.is_empty() { "the time of ingestion".to_owned() } else { format!("column {by}") };
            return Err(DeliveryError::Denied(format!(
                "{}: it requires a partition filter on {by}, and events are looked up by created_at: partition it by created_at, or set \
                 require_partition_filter to false",
                call.table.full
            )));
        }
        // The descriptor of an open connection may be outdated.
        if let Some(storage) = &mut self.storage {
            let changed = storage.take_layout_changed() || self.read.as_ref().is_none_or(|read| read.layout != layout);
            if changed {
                storage.close();
            }
        }
        self.read = Some(ConnectedTable { layout, location });
        Ok(())
    }

    async fn append_to(&mut self, place: BatchTarget<'_>, rows: &[Row]) -> Result<Landed, DeliveryError> {
        match place {
            BatchTarget::Stream(Slot { stream, offset, .. }) => {
                let mut call = self.storage().await?;
                let read = call.read.ok_or_else(|| not_connected(&call.table.full))?;
                let (storage, caller) = call.parts();
                storage.append(caller, &read.layout, (stream, offset), rows).await
            }
            BatchTarget::Anywhere => {
                let RestCall { rest, table, read, token } = self.rest().await?;
                let read = read.ok_or_else(|| not_connected(&table.full))?;
                rest.insert_all(table, token.as_deref(), &read.layout, rows).await?;
                Ok(Landed::Now)
            }
        }
    }

    /// Returns the events of these types that were created between two times (microseconds since 1970), oldest first: each as a JSON object
    /// with `run_id`, `event_type`, `source`, `at` (microseconds since 1970) and `payload`.
    ///
    /// # Errors
    /// Those of [`Destination::connect`], and of the query.
    pub async fn events_of_types(&mut self, types: &[&str], (from, until): (i64, i64)) -> Result<Vec<String>, DeliveryError> {
        self.connect().await?;
        let limit = self.settings.timeout();
        let answered = within(limit * 2, self.query_types(types, (from, until))).await;
        self.finish_call(answered)
    }

    async fn query_types(&mut self, types: &[&str], (from, until): (i64, i64)) -> Result<Vec<String>, DeliveryError> {
        let RestCall { rest, table, read, token } = self.rest().await?;
        let name =
            |field: Field, usual: &'static str| read.and_then(|read| read.layout.name_of(field)).unwrap_or(usual).to_owned();
        let [run, kind, source, at, payload] = [
            name(Field::RunId, "run_id"),
            name(Field::EventType, "event_type"),
            name(Field::Source, "source"),
            name(Field::CreatedAt, "created_at"),
            name(Field::Payload, "payload"),
        ];
        if read.is_some_and(|read| read.layout.timestamp(Field::CreatedAt).is_none()) {
            let name = &table.full;
            return Err(DeliveryError::Denied(format!(
                "{name}: created_at is not a TIMESTAMP, so its events cannot be selected by time"
            )));
        }
        let sql = format!(
            "SELECT CONCAT('{{\"run_id\":', TO_JSON_STRING(`{run}`), ',\"event_type\":', TO_JSON_STRING(`{kind}`), \
             ',\"source\":', TO_JSON_STRING(`{source}`), ',\"at\":', CAST(UNIX_MICROS(`{at}`) AS STRING), ',\"payload\":', TO_JSON_STRING(`{payload}`), '}}') \
             FROM `{table}` WHERE `{kind}` IN UNNEST(@ids) AND `{run}` IS NOT NULL AND `{at}` BETWEEN @first AND @last ORDER BY `{at}`",
            table = table.full,
        );
        let between = encode::rfc3339(from).zip(encode::rfc3339(until)).map(|(first, last)| [first, last]);
        let location = read.and_then(|read| read.location.as_deref());
        rest.query(table, token.as_deref(), LookUp { location, sql, ids: types, between }).await
    }

    /// Restricted to the rows' `created_at`, so that only their partitions are read, and to satisfy a table that requires a partition
    /// filter.
    async fn present_among(&mut self, rows: &[Row]) -> Result<Vec<String>, DeliveryError> {
        let RestCall { rest, table, read, token } = self.rest().await?;
        let column = read.and_then(|read| read.layout.name_of(Field::EventId)).unwrap_or("event_id");
        let location = read.and_then(|read| read.location.as_deref());
        let mut sql = format!("SELECT DISTINCT `{column}` FROM `{}` WHERE `{column}` IN UNNEST(@ids)", table.full);
        let times = rows.iter().map(|row| row.created_at);
        let extremes = times.clone().min().and_then(encode::rfc3339).zip(times.max().and_then(encode::rfc3339));
        let between = extremes.zip(read.and_then(|read| read.layout.timestamp(Field::CreatedAt)));
        let between = between.map(|((first, last), column)| {
            sql.push_str(&format!(" AND `{column}` BETWEEN @first AND @last"));
            [first, last]
        });
        let ids: Vec<&str> = rows.iter().map(|row| row.event_id.as_str()).collect();
        rest.query(table, token.as_deref(), LookUp { location, sql, ids: &ids, between }).await
    }
}

/// What a REST call needs.
struct RestCall<'a> {
    rest: &'a Rest,
    table: &'a TableName,
    read: Option<&'a ConnectedTable>,
    token: Option<String>,
}

impl RestCall<'_> {
    fn client(&self) -> &Client {
        self.rest.with(self.token.as_deref())
    }

    /// Reads the table. Refuses a view, which cannot be written to.
    async fn seen(&self) -> Result<TableInfo, DeliveryError> {
        let seen = read_table(self.rest, self.table, self.token.as_deref()).await?;
        match seen.kind.as_deref() {
            None | Some("TABLE") => Ok(seen),
            Some(kind) => {
                let name = &self.table.full;
                Err(DeliveryError::Denied(format!("{name}: is a {kind}: name the table to write events to")))
            }
        }
    }
}

/// What a call for a stream needs.
struct StorageCall<'a> {
    storage: &'a mut Storage,
    table: &'a TableName,
    read: Option<&'a ConnectedTable>,
    token: Option<String>,
    quota_project: Option<String>,
}

impl StorageCall<'_> {
    fn parts(&mut self) -> (&mut Storage, Caller<'_>) {
        let (token, quota_project) = (self.token.as_deref(), self.quota_project.as_deref());
        (self.storage, Caller { about: &self.table.full, token, quota_project })
    }
}

/// Whether to send no credentials: to emulators, unless some were named explicitly.
fn anonymous(endpoint: &Endpoint, credentials: &CredentialSources) -> bool {
    endpoint.is_plain() && credentials.file.is_none()
}

impl Destination for BigQuery {
    fn name(&self) -> &str {
        &self.name
    }

    fn route(&self) -> String {
        let BigQueryConfig { project, dataset, table, .. } = &self.config;
        // As configured: the universe is known only once the credentials are read.
        let (rest, storage) = (self.config.endpoint.as_deref(), self.config.storage_endpoint.clone());
        let writes = storage.filter(|_| self.uses_streams());
        let credentials = self.config.credentials.file.as_deref().map(Path::display);
        let mut route = format!("{} {}.{dataset}.{table}", rest.unwrap_or(REST), project.as_deref().unwrap_or("?"));
        // The identity and the route of requests affect the answers too.
        // The proxy without its password.
        let proxy = self.config.proxy.as_deref().and_then(|proxy| proxy.rsplit('@').next()).map(str::to_owned);
        let exempt = self.config.no_proxy.clone();
        for part in [writes, credentials.map(|file| file.to_string()), proxy, exempt].into_iter().flatten() {
            route.push(' ');
            route.push_str(&part);
        }
        route
    }

    fn server(&self) -> &str {
        self.endpoint.url()
    }

    fn advice(&self) -> &'static str {
        "check the columns of the table, and the clock of this host"
    }

    fn uses_streams(&self) -> bool {
        self.config.write == WriteMethod::StorageWrite
    }

    fn policy(&self) -> DeliveryPolicy {
        let rows = if self.uses_streams() { STREAM_ROWS } else { INSERT_ROWS };
        DeliveryPolicy { stream_idle: STREAM_IDLE, patience: PATIENCE, ..DeliveryPolicy::new(rows, BATCH_BYTES) }
    }

    async fn connect(&mut self) -> Result<(), DeliveryError> {
        let done = within(self.settings.timeout(), self.read_table()).await;
        self.finish_call(done)
    }

    async fn create_stream(&mut self) -> Result<String, DeliveryError> {
        // Google may be slow when many streams are created at once; an abandoned one costs nothing.
        let limit = self.settings.timeout().max(CREATE);
        let created = within(limit, async {
            let mut call = self.storage().await?;
            let parent = call.table.resource();
            let (storage, caller) = call.parts();
            storage.create(caller, parent).await
        });
        let created = created.await.unwrap_or_else(|_| Err(answer::too_late(&self.name, limit)));
        self.finish_call(Ok(created))
    }

    async fn append(&mut self, place: BatchTarget<'_>, rows: &[Row]) -> Result<Landed, DeliveryError> {
        if rows.is_empty() {
            return Ok(Landed::Now);
        }
        let limit = self.settings.timeout();
        let appended = within(limit, self.append_to(place, rows)).await;
        self.finish_call(Ok(appended.unwrap_or_else(|_| Err(answer::rows_too_late(&self.name, limit)))))
    }

    fn depth(&self) -> usize {
        DEPTH
    }

    fn hang_up(&mut self) {
        if let Some(storage) = &mut self.storage {
            storage.hang_up();
        }
    }

    async fn send(&mut self, slot: Slot<'_>, rows: &[Row]) -> Result<(), DeliveryError> {
        let limit = self.settings.timeout();
        let sent = within(limit, async {
            let mut call = self.storage().await?;
            let read = call.read.ok_or_else(|| not_connected(&call.table.full))?;
            let (storage, caller) = call.parts();
            storage.send(caller, &read.layout, (slot.stream, slot.offset), rows).await.map(drop)
        });
        let sent = sent.await;
        self.finish_call(sent)
    }

    async fn answer(&mut self, rows: &[Row]) -> Result<Landed, DeliveryError> {
        let limit = self.settings.timeout();
        let answered = within(limit, async {
            let mut call = self.storage().await?;
            let (storage, caller) = call.parts();
            storage.answer(caller, rows).await
        });
        let answered = Ok(answered.await.unwrap_or_else(|_| Err(answer::rows_too_late(&self.name, limit))));
        // A token may expire during a connection: a new connection gets a new token.
        match self.finish_call(answered) {
            Err(DeliveryError::Unauthenticated(reason)) => Err(answer::later(reason)),
            answered => answered,
        }
    }

    async fn finalize(&mut self, slot: Slot<'_>, _rows: &[Row]) -> Result<i64, DeliveryError> {
        let limit = self.settings.timeout();
        let finalized = within(limit, async {
            let mut call = self.storage().await?;
            let (storage, caller) = call.parts();
            storage.finalize(caller, slot.stream).await
        });
        let finalized = finalized.await;
        self.finish_call(finalized)
    }

    /// One query for every 5000 ids, each with its own time limit.
    async fn present(&mut self, rows: &[Row]) -> Result<HashSet<String>, DeliveryError> {
        let mut found = HashSet::new();
        for rows in rows.chunks(IDS) {
            let answered = within(self.settings.timeout(), self.present_among(rows)).await;
            found.extend(self.finish_call(answered)?);
        }
        Ok(found)
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, tokio::time::error::Elapsed> {
    tokio::time::timeout(limit, work).await
}

/// Properties of a table or view.
struct TableInfo {
    columns: Vec<ExistingColumn>,
    /// TABLE, VIEW and so on.
    kind: Option<String>,
    location: Option<String>,
    /// The column that every query must filter by; empty for ingestion time.
    needs_filter: Option<String>,
    /// The query of a view.
    query: Option<String>,
    description: Option<String>,
}

/// Reads a table or view. Bypasses the client, which cannot parse a table with a type that it does not know.
async fn read_table(rest: &Rest, table: &TableName, token: Option<&str>) -> Result<TableInfo, DeliveryError> {
    let resource =
        rest.raw(Call { about: &table.full, token, method: reqwest::Method::GET, path: &table.resource() }, None).await?;
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let fields = resource.pointer("/schema/fields").and_then(Value::as_array);
    let found = fields.into_iter().flatten().filter_map(|field| {
        Some(ExistingColumn::new(&text(field, "name")?, &text(field, "type")?, text(field, "mode").as_deref()))
    });
    let requires = |at: &str| resource.pointer(at).and_then(Value::as_bool) == Some(true);
    let column =
        ["/timePartitioning/field", "/rangePartitioning/field"].into_iter().find_map(|at| resource.pointer(at)?.as_str());
    let needs_filter = (requires("/requirePartitionFilter") || requires("/timePartitioning/requirePartitionFilter"))
        .then(|| redact::one_line(column.unwrap_or_default()));
    Ok(TableInfo {
        columns: found.collect(),
        kind: text(&resource, "type").map(|kind| redact::one_line(&kind)),
        location: text(&resource, "location"),
        needs_filter,
        query: resource.get("view").and_then(|view| text(view, "query")),
        description: text(&resource, "description"),
    })
}

fn no_storage_endpoint() -> DeliveryError {
    DeliveryError::Denied(
        "destinations.bigquery.storage_endpoint: an emulator's Storage Write API has an address of its own: set it, or \
         `write = \"insert-all\"`"
            .to_owned(),
    )
}

fn not_connected(name: &str) -> DeliveryError {
    DeliveryError::Denied(format!("{name}: not connected yet"))
}

/// Ids become part of addresses, resource names and quoted SQL names.
fn check_id(key: &str, id: &str) -> Result<(), DeliveryError> {
    let legal = |c: char| c.is_alphanumeric() || "-_:.".contains(c);
    if id.is_empty() || id.len() > 1024 || !id.chars().all(legal) {
        return Err(DeliveryError::Denied(format!("{key}: `{}` is not an id", redact::one_line(id))));
    }
    Ok(())
}
