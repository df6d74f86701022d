//! The Storage Write API: one channel, and one AppendRows connection kept open for the stream in use. Talks to one table's server with the
//! client's generated code. Guarantees that each call sends a batch once, with its offset; that answers are returned in the order of the
//! requests; and that a connection that may be out of sync (after an error or a dropped future) is never used again.

use super::answer::{Operation, ServerError, channel_is_dead, later};
use super::columns::Layout;
use super::connect::{ConnectSettings, Connector};
use super::endpoint::Endpoint;
use super::rest::MAX_REQUEST;
use super::{encode, redact};
use crate::delivery::{DeliveryError, Landed, RefusedRow, Row};
use gcp_bigquery_client::google::cloud::bigquery::storage::v1 as api;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::big_query_write_client::BigQueryWriteClient;
use prost::Message;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::codegen::tokio_stream::Stream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, ClientTlsConfig};
use tonic::{Request, Status, Streaming};

/// Maximum size of an answer, which is small unless it contains a schema.
const LARGEST_ANSWER: usize = 64 << 20;
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
/// Identifies lorchestra in the server's logs.
const TRACE_ID: &str = concat!("lorchestra:", env!("CARGO_PKG_VERSION"));

/// The server of one table's streams.
pub(super) struct Storage {
    to: tonic::transport::Endpoint,
    connector: Connector,
    client: BigQueryWriteClient<Channel>,
    open: Option<Connection>,
    /// Whether the server has reported that the table's columns changed.
    schema_changed: bool,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.open.as_ref().map(|open| &open.stream);
        f.debug_struct("Storage").field("open", &open).finish_non_exhaustive()
    }
}

/// The caller's data for each call.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    /// The table, for errors.
    pub(super) about: &'a str,
    pub(super) token: Option<&'a str>,
    /// The project to bill, if it differs from the table's.
    pub(super) quota_project: Option<&'a str>,
}

/// An AppendRows call, whose first request contained the row descriptor.
struct Connection {
    stream: String,
    requests: mpsc::Sender<api::AppendRowsRequest>,
    answers: Answers,
    /// Number of requests without an answer.
    unanswered: usize,
}

/// A server may start its response to the call only with its first answer, so waiting for the response before sending the next request
/// would block both sides.
enum Answers {
    Beginning(JoinHandle<Result<Streaming<api::AppendRowsResponse>, Status>>),
    Open(Box<Streaming<api::AppendRowsResponse>>),
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Answers::Beginning(call) = &self.answers {
            call.abort();
        }
    }
}

impl Storage {
    /// Connects on first use.
    pub(super) fn new(endpoint: &Endpoint, settings: &ConnectSettings) -> Result<Self, DeliveryError> {
        let wrong = |error: tonic::transport::Error| {
            DeliveryError::Denied(format!("destinations.bigquery.storage_endpoint: {}", super::answer::cause(&error)))
        };
        let mut to = Channel::from_shared(endpoint.url().to_owned())
            .map_err(|_| DeliveryError::Denied("destinations.bigquery.storage_endpoint: not an address".to_owned()))?
            .connect_timeout(settings.connect_timeout())
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .user_agent(concat!("lorchestra/", env!("CARGO_PKG_VERSION")))
            .map_err(wrong)?;
        if !endpoint.is_plain() {
            to = to.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(wrong)?;
        }
        let connector = settings.connector();
        let client = client(&to, &connector);
        Ok(Self { to, connector, client, open: None, schema_changed: false })
    }

    /// Replaces a channel that has ended (for example because its runtime is gone) before the next call.
    fn note_status(&mut self, status: &Status) {
        if channel_is_dead(status) {
            self.client = client(&self.to, &self.connector);
        }
    }

    /// Closes the open connection; the next request uses a new one.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Closes the open connection if it has outstanding answers, which no one will read.
    pub(super) fn hang_up(&mut self) {
        self.open = self.open.take().filter(|open| open.unanswered == 0);
    }

    /// Whether the server has reported new columns since the last call.
    pub(super) fn take_layout_changed(&mut self) -> bool {
        std::mem::take(&mut self.schema_changed)
    }

    /// Creates a committed stream in `parent`, a table's resource name. Returns the stream's resource name.
    pub(super) async fn create(&mut self, caller: Caller<'_>, parent: String) -> Result<String, DeliveryError> {
        let route = format!("parent={}", escaped(&parent));
        let stream = api::WriteStream { r#type: api::write_stream::Type::Committed.into(), ..api::WriteStream::default() };
        let request = caller.request(api::CreateWriteStreamRequest { parent, write_stream: Some(stream) }, &route)?;
        match self.client.create_write_stream(request).await {
            Ok(created) => Ok(created.into_inner().name),
            Err(status) => Err(self.refused(&status, caller, Operation::Create)),
        }
    }

    /// Finalizes a stream and returns its number of rows.
    pub(super) async fn finalize(&mut self, caller: Caller<'_>, stream: &str) -> Result<i64, DeliveryError> {
        if self.open.as_ref().is_some_and(|open| open.stream == stream) {
            self.close();
        }
        let request =
            caller.request(api::FinalizeWriteStreamRequest { name: stream.to_owned() }, &format!("name={}", escaped(stream)))?;
        match self.client.finalize_write_stream(request).await {
            Ok(finalized) => Ok(finalized.into_inner().row_count),
            Err(status) => Err(self.refused(&status, caller, Operation::Finalize)),
        }
    }

    /// Sends rows for an offset in a stream, and waits for the answer.
    pub(super) async fn append(
        &mut self,
        caller: Caller<'_>,
        layout: &Layout,
        place: (&str, i64),
        rows: &[Row],
    ) -> Result<Landed, DeliveryError> {
        self.hang_up();
        let reused = self.send(caller, layout, place, rows).await?;
        match self.answer(caller, rows).await {
            // A token may expire during a connection: a new connection gets a new token.
            Err(DeliveryError::Unauthenticated(_)) if reused => {
                Err(later(format!("{}: the connection's token has expired", caller.about)))
            }
            answer => answer,
        }
    }

    /// Sends rows for an offset in a stream, after those already sent. Returns whether it used an existing connection.
    pub(super) async fn send(
        &mut self,
        caller: Caller<'_>,
        layout: &Layout,
        (stream, offset): (&str, i64),
        rows: &[Row],
    ) -> Result<bool, DeliveryError> {
        let serialized_rows: Vec<Vec<u8>> = rows.iter().map(|row| encode::proto(layout, row)).collect();
        let mut request = api::AppendRowsRequest {
            write_stream: stream.to_owned(),
            offset: Some(offset),
            trace_id: TRACE_ID.to_owned(),
            rows: Some(api::append_rows_request::Rows::ProtoRows(api::append_rows_request::ProtoData {
                writer_schema: None,
                rows: Some(api::ProtoRows { serialized_rows }),
            })),
            ..api::AppendRowsRequest::default()
        };
        let size = request.encoded_len();
        if size > MAX_REQUEST {
            let (about, count) = (caller.about, rows.len());
            return Err(DeliveryError::TooLarge(format!(
                "{about}: {size} bytes in one request of {count} rows; the maximum is {MAX_REQUEST}"
            )));
        }
        // Taken out: if this function ends early, the connection is not used again.
        let (mut connection, reused) = match self.usable(stream).await {
            Some(connection) => (connection, true),
            None => {
                if let Some(api::append_rows_request::Rows::ProtoRows(data)) = &mut request.rows {
                    data.writer_schema = Some(api::ProtoSchema { proto_descriptor: Some(layout.descriptor()) });
                }
                (self.connect(caller, stream)?, false)
            }
        };
        // A closed channel is not an error here: the answer has the reason.
        let _ = connection.requests.send(request).await;
        connection.unanswered += 1;
        self.open = Some(connection);
        Ok(reused)
    }

    /// Returns the answer to the oldest unanswered request, which has these rows.
    pub(super) async fn answer(&mut self, caller: Caller<'_>, rows: &[Row]) -> Result<Landed, DeliveryError> {
        let Some(mut connection) = self.open.take() else {
            return Err(later(format!("{}: the connection was closed", caller.about)));
        };
        let hide = |text: &str| redact::without(text, rows);
        match connection.answer().await {
            Ok(answer) => {
                let landed = self.landed(caller, answer, rows);
                connection.unanswered -= 1;
                // After an error a server may have lost the descriptor, or never have read it, so use a new connection.
                if landed == Ok(Landed::Now) {
                    self.open = Some(connection);
                }
                landed
            }
            Err(status) => {
                self.note_status(&status);
                ServerError::from(&status).hide(hide).meaning(caller.about, Operation::Append)
            }
        }
    }

    /// Takes the open connection if it belongs to this stream and is still open.
    async fn usable(&mut self, stream: &str) -> Option<Connection> {
        let mut connection = self.open.take().filter(|open| open.stream == stream)?;
        if connection.unanswered > 0 {
            return Some(connection);
        }
        let Answers::Open(answers) = &mut connection.answers else { return None };
        // The server may have closed it while idle. If the runtime was not running in the meantime, that becomes visible only after the
        // connection's own task has run: yield to it.
        for _ in 0..3 {
            tokio::task::yield_now().await;
            let mut next = pin!(answers.message());
            // No answer is outstanding, so anything but silence makes the connection unusable.
            if poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_ready())).await {
                return None;
            }
        }
        Some(connection)
    }

    /// Opens a connection. Its first request contains the descriptor: a server may respond only after that.
    fn connect(&mut self, caller: Caller<'_>, stream: &str) -> Result<Connection, DeliveryError> {
        let (requests, queue) = mpsc::channel(1);
        let request = caller.request(Requests(queue), &format!("write_stream={}", escaped(stream)))?;
        let mut client = self.client.clone();
        let call = tokio::spawn(async move { client.append_rows(request).await.map(tonic::Response::into_inner) });
        Ok(Connection { stream: stream.to_owned(), requests, answers: Answers::Beginning(call), unanswered: 0 })
    }

    fn refused(&mut self, status: &Status, caller: Caller<'_>, call: Operation) -> DeliveryError {
        self.note_status(status);
        match ServerError::from(status).meaning(caller.about, call) {
            Err(refusal) => refusal,
            // Only an append can have landed before.
            Ok(_) => later(format!("{}: {}", caller.about, redact::one_line(status.message()))),
        }
    }

    fn landed(&mut self, caller: Caller<'_>, answer: api::AppendRowsResponse, rows: &[Row]) -> Result<Landed, DeliveryError> {
        use api::append_rows_response::Response;
        self.schema_changed |= answer.updated_schema.is_some();
        if !answer.row_errors.is_empty() {
            let refused = |error: &api::RowError| {
                let index = usize::try_from(error.index).ok().filter(|index| *index < rows.len())?;
                Some(RefusedRow { index, reason: redact::without(&error.message, rows.get(index)) })
            };
            let mut refused: Vec<RefusedRow> = answer.row_errors.iter().filter_map(refused).collect();
            refused.sort_by_key(|row| row.index);
            refused.dedup_by_key(|row| row.index);
            if !refused.is_empty() {
                return Err(DeliveryError::Rows(refused));
            }
        }
        match answer.response {
            Some(Response::AppendResult(_)) => Ok(Landed::Now),
            Some(Response::Error(status)) => {
                ServerError::from(status).hide(|text| redact::without(text, rows)).meaning(caller.about, Operation::Append)
            }
            None => Err(later(format!("{}: the response has neither a result nor an error", caller.about))),
        }
    }
}

fn client(to: &tonic::transport::Endpoint, connector: &Connector) -> BigQueryWriteClient<Channel> {
    let channel = to.connect_with_connector_lazy(connector.clone());
    BigQueryWriteClient::new(channel).max_decoding_message_size(LARGEST_ANSWER).max_encoding_message_size(usize::MAX)
}

impl Connection {
    async fn answer(&mut self) -> Result<api::AppendRowsResponse, Status> {
        if let Answers::Beginning(call) = &mut self.answers {
            let begun = call.await.map_err(|error| Status::unavailable(error.to_string()))?;
            self.answers = Answers::Open(Box::new(begun?));
        }
        let Answers::Open(answers) = &mut self.answers else { return Err(Status::unavailable("the call has no answers")) };
        answers.message().await?.ok_or_else(|| Status::unavailable("the server closed the connection without a response"))
    }
}

impl Caller<'_> {
    /// Builds a request with its token and its route, without which Google's front end cannot route it.
    fn request<T>(self, message: T, route: &str) -> Result<Request<T>, DeliveryError> {
        let mut request = Request::new(message);
        let headers = request.metadata_mut();
        let mut put = |name: &'static str, text: &str| match MetadataValue::try_from(text) {
            Ok(value) => {
                headers.insert(name, value);
                Ok(())
            }
            // The error's text could contain the token.
            Err(_) => {
                Err(DeliveryError::Denied(format!("{}: {name} contains characters that are not allowed in a header", self.about)))
            }
        };
        put("x-goog-request-params", route)?;
        if let Some(token) = self.token {
            put("authorization", &format!("Bearer {token}"))?;
        }
        if let Some(project) = self.quota_project {
            put("x-goog-user-project", project)?;
        }
        Ok(request)
    }
}

/// Percent-encodes a resource name for the routing header.
fn escaped(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// The requests of a connection, as a stream for tonic.
struct Requests(mpsc::Receiver<api::AppendRowsRequest>);

impl Stream for Requests {
    type Item = api::AppendRowsRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
