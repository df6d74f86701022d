//! The clients that lorchestra uses, called directly with messages of a test's choice. Independent of the server.

use gcp_bigquery_client::Client;
use gcp_bigquery_client::auth::Authenticator;
use gcp_bigquery_client::client_builder::ClientBuilder;
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1 as api;
use gcp_bigquery_client::google::rpc;
use gcp_bigquery_client::model::table_data_insert_all_request::TableDataInsertAllRequest;
use lorchestra_tests::bigquery::fake::{StorageErrorCode, TableName};
use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldDescriptorProto};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Code;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::{Channel, Endpoint};

pub(super) type WriteClient = api::big_query_write_client::BigQueryWriteClient<Channel>;

pub(super) fn wait<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(lorchestra_tests::DEADLINE, future).await.expect("an answer in time") })
}

#[derive(Clone)]
pub(super) struct Token(String);

#[tonic::async_trait]
impl Authenticator for Token {
    async fn access_token(&self) -> Result<String, BQError> {
        Ok(self.0.clone())
    }
}

/// A REST client for this endpoint.
pub(super) async fn rest(endpoint: &str) -> Client {
    rest_with(endpoint, "none").await
}

pub(super) async fn rest_with(endpoint: &str, token: &str) -> Client {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
    let mut builder = ClientBuilder::new();
    builder.with_client(http).with_v2_base_url(format!("{endpoint}/bigquery/v2"));
    builder.build_from_authenticator(Arc::new(Token(token.to_owned()))).await.unwrap()
}

pub(super) async fn grpc(endpoint: &str) -> WriteClient {
    let channel = Endpoint::from_shared(endpoint.to_owned()).unwrap().connect().await.unwrap();
    WriteClient::new(channel)
}

pub(super) fn event(id: &str) -> Value {
    json!({"event_id": id, "event_type": "mail.received", "source": "ingester/extract_gmail",
           "created_at": "2024-01-31T12:00:00.123456Z", "payload": "{\"n\": 1}", "attempt": 1})
}

pub(super) async fn insert(client: &Client, table: &TableName, rows: &[Value]) -> Result<Vec<(i32, String, String)>, BQError> {
    let mut request = TableDataInsertAllRequest::new();
    for row in rows {
        request.add_row(row["event_id"].as_str().map(str::to_owned), row).unwrap();
    }
    let answer = client.tabledata().insert_all(&table.project, &table.dataset, &table.table, request).await?;
    let errors = answer.insert_errors.unwrap_or_default().into_iter().map(|row| {
        let error = row.errors.unwrap_or_default().remove(0);
        (row.index.unwrap(), error.reason.unwrap_or_default(), error.message.unwrap_or_default())
    });
    Ok(errors.collect())
}

/// Status and reason of an API error.
pub(super) fn refusal(error: BQError) -> (i64, String) {
    match error {
        BQError::ResponseError { error } => (error.error.code, error.error.errors[0]["reason"].clone()),
        other => panic!("not an error of the API: {other}"),
    }
}

pub(super) fn descriptor(fields: &[(&str, Type)]) -> DescriptorProto {
    let field = |(number, (name, kind)): (i32, &(&str, Type))| FieldDescriptorProto {
        name: Some((*name).to_owned()),
        number: Some(number),
        r#type: Some((*kind).into()),
        label: Some(prost_types::field_descriptor_proto::Label::Optional.into()),
        ..Default::default()
    };
    DescriptorProto { name: Some("Event".to_owned()), field: (1..).zip(fields).map(field).collect(), ..Default::default() }
}

pub(super) fn event_descriptor() -> DescriptorProto {
    descriptor(&[
        ("event_id", Type::String),
        ("event_type", Type::String),
        ("source", Type::String),
        ("created_at", Type::Int64),
        ("payload", Type::String),
        ("attempt", Type::Int64),
    ])
}

/// A row with the fields of [`event_descriptor`].
pub(super) fn encoded(id: &str, payload: &str) -> Vec<u8> {
    let mut row = Vec::new();
    for (number, text) in [(1, id), (2, "mail.received"), (3, "ingester/extract_gmail"), (5, payload)] {
        prost::encoding::string::encode(number, &text.to_owned(), &mut row);
    }
    prost::encoding::int64::encode(4, &1_706_702_400_123_456, &mut row);
    prost::encoding::int64::encode(6, &1, &mut row);
    row
}

pub(super) fn append_request(
    stream: &str,
    offset: Option<i64>,
    schema: Option<DescriptorProto>,
    rows: Vec<Vec<u8>>,
) -> api::AppendRowsRequest {
    let data = api::append_rows_request::ProtoData {
        writer_schema: schema.map(|descriptor| api::ProtoSchema { proto_descriptor: Some(descriptor) }),
        rows: Some(api::ProtoRows { serialized_rows: rows }),
    };
    api::AppendRowsRequest {
        write_stream: stream.to_owned(),
        offset,
        rows: Some(api::append_rows_request::Rows::ProtoRows(data)),
        ..Default::default()
    }
}

pub(super) async fn create_stream(client: &mut WriteClient, table: &TableName) -> Result<String, tonic::Status> {
    let parent = format!("projects/{}/datasets/{}/tables/{}", table.project, table.dataset, table.table);
    let write_stream = api::WriteStream { r#type: api::write_stream::Type::Committed.into(), ..Default::default() };
    let request = api::CreateWriteStreamRequest { parent, write_stream: Some(write_stream) };
    Ok(client.create_write_stream(request).await?.into_inner().name)
}

pub(super) async fn finalize(client: &mut WriteClient, stream: &str) -> Result<i64, tonic::Status> {
    let request = api::FinalizeWriteStreamRequest { name: stream.to_owned() };
    Ok(client.finalize_write_stream(request).await?.into_inner().row_count)
}

/// One message at a time.
pub(super) struct Messages(mpsc::Receiver<api::AppendRowsRequest>);

impl Stream for Messages {
    type Item = api::AppendRowsRequest;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// An AppendRows call.
pub(super) struct Connection {
    send: mpsc::Sender<api::AppendRowsRequest>,
    answers: tonic::Streaming<api::AppendRowsResponse>,
}

impl Connection {
    /// Opens it with its first request: the server's headers come with its first answer.
    pub(super) async fn open(client: &mut WriteClient, first: api::AppendRowsRequest) -> Result<(Self, Appended), tonic::Status> {
        let (send, receive) = mpsc::channel(8);
        send.send(first).await.unwrap();
        let answers = client.append_rows(Messages(receive)).await?.into_inner();
        let mut connection = Self { send, answers };
        let answer = connection.answer().await?;
        Ok((connection, answer))
    }

    pub(super) async fn append(&mut self, request: api::AppendRowsRequest) -> Result<Appended, tonic::Status> {
        self.send.send(request).await.unwrap();
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Appended, tonic::Status> {
        let answer = self.answers.message().await?.expect("an answer, not the end");
        Ok(match answer.response.expect("a result or an error") {
            api::append_rows_response::Response::AppendResult(result) => Appended::At(result.offset),
            api::append_rows_response::Response::Error(status) => {
                let rows = answer.row_errors.iter().map(|row| row.index).collect();
                Appended::Refused(Code::from(status.code), storage_code(&status), rows)
            }
        })
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum Appended {
    At(Option<i64>),
    Refused(Code, Option<StorageErrorCode>, Vec<i64>),
}

pub(super) fn storage_code(status: &rpc::Status) -> Option<StorageErrorCode> {
    let details = status.details.first()?;
    assert_eq!(details.type_url, "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError");
    Some(api::StorageError::decode(details.value.as_slice()).unwrap().code())
}

/// The error of a status that ended a call.
pub(super) fn storage_code_of(status: &tonic::Status) -> Option<StorageErrorCode> {
    storage_code(&rpc::Status::decode(status.details()).unwrap())
}
