//! Write streams: created, appended to at checked offsets, finalized. [`super::grpc`] passes the messages; rows are decoded with the
//! client's descriptor and stored in [`super::tables`].

use super::faults::{Fault, StorageErrorCode};
use super::grpc::status_of;
use super::refusal::Refusal;
use super::state::{Shared, State, Stream};
use super::tables::{Row, Table, TableName, WritePath};
use super::wire::{Fields, Layout, Raw};
use bytes::Bytes;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1 as api;
use gcp_bigquery_client::google::rpc;
use prost::Message;
use serde_json::{Map, Value};
use tonic::{Code, Status};

/// Maximum size of an AppendRows request in bytes.
const LARGEST_REQUEST: usize = 10_000_000;

/// Why something was refused, with the storage API's messages.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    code: Code,
    message: String,
    storage: Option<(StorageErrorCode, String)>,
    rows: Vec<api::RowError>,
}

impl Refused {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), storage: None, rows: Vec::new() }
    }

    fn with(code: Code, message: impl Into<String>, storage: StorageErrorCode, entity: &str) -> Self {
        Self { storage: Some((storage, entity.to_owned())), ..Self::new(code, message) }
    }

    /// The error of an injected fault.
    pub(super) fn scripted(code: Code, message: &str, storage: Option<StorageErrorCode>) -> Self {
        Self { storage: storage.map(|storage| (storage, String::new())), ..Self::new(code, message) }
    }

    fn no_stream(name: &str) -> Self {
        let message = format!("Requested entity was not found. Entity: {name}");
        Self::with(Code::NotFound, message, StorageErrorCode::StreamNotFound, name)
    }

    fn of_table(refusal: &Refusal, table: &TableName) -> Self {
        let status = status_of(refusal);
        match status.code() {
            Code::NotFound => Self::with(Code::NotFound, status.message(), StorageErrorCode::TableNotFound, &table.resource()),
            code => Self::new(code, status.message()),
        }
    }

    fn rpc_status(&self) -> rpc::Status {
        let details = self.storage.iter().map(|(code, entity)| prost_types::Any {
            type_url: "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError".to_owned(),
            value: api::StorageError { code: (*code).into(), entity: entity.clone(), error_message: self.message.clone() }
                .encode_to_vec(),
        });
        rpc::Status { code: self.code as i32, message: self.message.clone(), details: details.collect() }
    }

    /// Converts it to the status that ends a call.
    pub(super) fn into_status(self) -> Status {
        match self.storage {
            Some(_) => Status::with_details(self.code, self.message.clone(), Bytes::from(self.rpc_status().encode_to_vec())),
            None => Status::new(self.code, self.message),
        }
    }

    /// Converts it to an answer within a call.
    pub(super) fn into_response(self) -> api::AppendRowsResponse {
        let error = self.rpc_status();
        api::AppendRowsResponse {
            row_errors: self.rows,
            response: Some(api::append_rows_response::Response::Error(error)),
            ..Default::default()
        }
    }
}

/// CreateWriteStream: only committed streams.
pub(super) fn create(
    shared: &Shared,
    request: &api::CreateWriteStreamRequest,
    fault: Option<&Fault>,
) -> Result<api::WriteStream, Refused> {
    let name = TableName::from_resource(&request.parent)
        .ok_or_else(|| Refused::new(Code::InvalidArgument, format!("Invalid table resource name: {}", request.parent)))?;
    let kind = request.write_stream.as_ref().map(api::WriteStream::r#type);
    if kind != Some(api::write_stream::Type::Committed) {
        return Err(Refused::new(Code::InvalidArgument, format!("the fake has committed streams only, not {kind:?}")));
    }
    let mut state = shared.state();
    state.upset(fault, &name, None);
    let table = state.table(&name).map_err(|refusal| Refused::of_table(&refusal, &name))?;
    if table.is_view() {
        return Err(Refused::new(Code::InvalidArgument, "Cannot write to a view"));
    }
    let schema = schema_of(table);
    // Includes the process's id, so that two fakes do not know each other's streams.
    let stream = format!("{}/streams/fake-{}-{}", name.resource(), std::process::id(), state.streams.len() + 1);
    state.streams.push(Stream { name: stream.clone(), table: name, length: 0, finalized: false, dropped: false });
    Ok(described(stream, Some(schema)))
}

/// GetWriteStream.
pub(super) fn get(
    shared: &Shared,
    request: &api::GetWriteStreamRequest,
    fault: Option<&Fault>,
) -> Result<api::WriteStream, Refused> {
    let mut state = shared.state();
    let (table, _) = upset_stream(&mut state, &request.name, fault)?;
    let full = request.view == i32::from(api::WriteStreamView::Full);
    let table = state.table(&table).map_err(|refusal| Refused::of_table(&refusal, &table))?;
    Ok(described(request.name.clone(), full.then(|| schema_of(table))))
}

/// FinalizeWriteStream: returns the number of rows; the same if repeated.
pub(super) fn finalize(shared: &Shared, name: &str, fault: Option<&Fault>) -> Result<i64, Refused> {
    let mut state = shared.state();
    let (_, length) = upset_stream(&mut state, name, fault)?;
    if let Some(stream) = state.stream(name) {
        stream.finalized = true;
    }
    Ok(length)
}

/// Returns the stream's table and length, after applying the fault.
fn upset_stream(state: &mut State, name: &str, fault: Option<&Fault>) -> Result<(TableName, i64), Refused> {
    let table = state.stream(name).map(|stream| stream.table.clone()).ok_or_else(|| Refused::no_stream(name))?;
    state.upset(fault, &table, Some(name));
    let stream = state.stream(name).ok_or_else(|| Refused::no_stream(name))?;
    Ok((stream.table.clone(), stream.length))
}

fn described(name: String, table_schema: Option<api::TableSchema>) -> api::WriteStream {
    let mode = api::write_stream::WriteMode::Insert.into();
    let r#type = api::write_stream::Type::Committed.into();
    api::WriteStream { name, r#type, table_schema, write_mode: mode, location: "us".to_owned(), ..Default::default() }
}

fn schema_of(table: &Table) -> api::TableSchema {
    use super::columns::Kind;
    use api::table_field_schema::{Mode, Type};
    let fields = table.columns.iter().map(|column| {
        let r#type = match column.kind {
            Kind::String => Type::String,
            Kind::Integer => Type::Int64,
            Kind::Float => Type::Double,
            Kind::Bool => Type::Bool,
            Kind::Timestamp => Type::Timestamp,
            Kind::Date => Type::Date,
            Kind::Json => Type::Json,
            Kind::Bytes => Type::Bytes,
        };
        let mode = if column.required { Mode::Required } else { Mode::Nullable };
        api::TableFieldSchema {
            name: column.name.clone(),
            r#type: r#type.into(),
            mode: mode.into(),
            description: column.description.clone(),
            ..Default::default()
        }
    });
    api::TableSchema { fields: fields.collect() }
}

/// An AppendRows request, with its parts as slices.
#[derive(Debug, Default)]
struct Envelope<'a> {
    stream: &'a str,
    offset: Option<i64>,
    writer_schema: Option<&'a [u8]>,
    rows: Vec<&'a [u8]>,
}

impl<'a> Envelope<'a> {
    fn open(message: &'a [u8]) -> Result<Self, String> {
        let mut envelope = Self::default();
        for field in Fields::of(message) {
            match field? {
                (1, Raw::Bytes(name)) => envelope.stream = std::str::from_utf8(name).map_err(|_| "write_stream is not UTF-8")?,
                (2, Raw::Bytes(wrapped)) => {
                    let value = Fields::of(wrapped).find_map(|field| match field {
                        Ok((1, Raw::Varint(value))) => Some(value.cast_signed()),
                        _ => None,
                    });
                    envelope.offset = Some(value.unwrap_or_default());
                }
                (4, Raw::Bytes(data)) => envelope.open_data(data)?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    fn open_data(&mut self, data: &'a [u8]) -> Result<(), String> {
        for field in Fields::of(data) {
            match field? {
                (1, Raw::Bytes(schema)) => self.writer_schema = Some(schema),
                (2, Raw::Bytes(rows)) => {
                    for row in Fields::of(rows) {
                        if let (1, Raw::Bytes(row)) = row? {
                            self.rows.push(row);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// One AppendRows call, with the values of its first message that apply to the following ones.
#[derive(Debug)]
pub(super) struct Appending {
    stream: Option<String>,
    layout: Option<Layout>,
}

impl Appending {
    pub(super) fn new() -> Self {
        Self { stream: None, layout: None }
    }

    /// Handles one message: all of its rows are written, or none.
    pub(super) fn append(
        &mut self,
        shared: &Shared,
        message: &[u8],
        fault: Option<&Fault>,
    ) -> Result<api::AppendRowsResponse, Refused> {
        let invalid = |words: String| Refused::new(Code::InvalidArgument, words);
        if message.len() > LARGEST_REQUEST {
            return Err(invalid(format!("AppendRows request too large: {} limit {LARGEST_REQUEST}", message.len())));
        }
        let envelope = Envelope::open(message).map_err(invalid)?;
        if !envelope.stream.is_empty() {
            if self.stream.as_deref().is_some_and(|first| first != envelope.stream) {
                return Err(invalid("write_stream is not that of the first request of this connection".to_owned()));
            }
            self.stream = Some(envelope.stream.to_owned());
        }
        let name = self.stream.clone().ok_or_else(|| invalid("The first request must have a write_stream".to_owned()))?;
        if envelope.rows.is_empty() {
            return Err(invalid("Rows must be specified".to_owned()));
        }
        let mut state = shared.state();
        let target = Target::of(&mut state, &name, fault)?;
        target.check_offset(envelope.offset)?;
        let count = i64::try_from(envelope.rows.len()).unwrap_or(i64::MAX);
        let at = target.length;
        let table = state.table(&target.table).map_err(|refusal| Refused::of_table(&refusal, &target.table))?;
        if shared.acknowledge_only {
            table.acknowledged += envelope.rows.len() as u64;
        } else {
            self.learn(envelope.writer_schema, table)?;
            let layout = self.layout.as_ref().ok_or_else(|| invalid("The first request must have a writer_schema".to_owned()))?;
            let scripted = if let Some(Fault::RowErrors(indices)) = fault { indices.as_slice() } else { &[] };
            let rows = decode_rows(table, layout, &envelope.rows, scripted)?;
            let path = |index: i64| match at {
                Some(length) => WritePath::Stream(name.clone(), length + index),
                None => WritePath::DefaultStream,
            };
            table.rows.extend((0..).zip(rows).map(|(index, values)| Row { values, path: path(index) }));
        }
        if let Some(stream) = state.stream(&name) {
            stream.length += count;
        }
        let result = api::append_rows_response::AppendResult { offset: at };
        Ok(api::AppendRowsResponse {
            write_stream: name,
            response: Some(api::append_rows_response::Response::AppendResult(result)),
            ..Default::default()
        })
    }

    /// Stores the descriptor of the following rows, after comparing it with the table.
    fn learn(&mut self, writer_schema: Option<&[u8]>, table: &Table) -> Result<(), Refused> {
        let Some(schema) = writer_schema else { return Ok(()) };
        let invalid = |words: String| Refused::new(Code::InvalidArgument, words);
        let schema = api::ProtoSchema::decode(schema).map_err(|error| invalid(error.to_string()))?;
        let descriptor = schema.proto_descriptor.ok_or_else(|| invalid("writer_schema has no descriptor".to_owned()))?;
        let layout = Layout::of(&descriptor).map_err(|what| invalid(format!("Invalid proto schema: {what}")))?;
        for field in layout.fields() {
            let Some(column) = table.column(&field.name) else {
                let words = format!("Input schema has more fields than BigQuery schema, extra fields: '{}'", field.name);
                return Err(Refused::with(Code::InvalidArgument, words, StorageErrorCode::SchemaMismatchExtraFields, ""));
            };
            if !column.takes(field.kind) {
                let what = format!("the proto field type {}, the BigQuery type {:?}", field.kind.as_str_name(), column.kind);
                return Err(invalid(format!("The proto field mismatched with BigQuery field at {}, {what}", field.name)));
            }
        }
        self.layout = Some(layout);
        Ok(())
    }
}

/// The target of an append.
struct Target {
    table: TableName,
    stream: String,
    /// The length, for a committed stream.
    length: Option<i64>,
}

impl Target {
    fn of(state: &mut State, name: &str, fault: Option<&Fault>) -> Result<Self, Refused> {
        let default = name.strip_suffix("/streams/_default").or_else(|| name.strip_suffix("/_default"));
        if let Some(table) = default {
            let table = TableName::from_resource(table).ok_or_else(|| Refused::no_stream(name))?;
            state.upset(fault, &table, None);
            return Ok(Self { table, stream: name.to_owned(), length: None });
        }
        let (table, length) = upset_stream(state, name, fault)?;
        if state.stream(name).is_some_and(|stream| stream.finalized) {
            let words = format!("Stream has been finalized and cannot be appended: {name}");
            return Err(Refused::with(Code::InvalidArgument, words, StorageErrorCode::StreamFinalized, name));
        }
        Ok(Self { table, stream: name.to_owned(), length: Some(length) })
    }

    fn check_offset(&self, offset: Option<i64>) -> Result<(), Refused> {
        let (Some(offset), name) = (offset, &self.stream) else { return Ok(()) };
        let Some(length) = self.length else {
            return Err(Refused::new(Code::InvalidArgument, "Offset must not be specified for the default stream"));
        };
        if offset < length {
            let words = format!("The offset is within stream, expected offset {length}, received {offset} on stream {name}");
            return Err(Refused::with(Code::AlreadyExists, words, StorageErrorCode::OffsetAlreadyExists, name));
        }
        if offset > length {
            let words = format!("The offset is beyond stream, expected offset {length}, received {offset} on stream {name}");
            return Err(Refused::with(Code::OutOfRange, words, StorageErrorCode::OffsetOutOfRange, name));
        }
        Ok(())
    }
}

/// Decodes all rows, or returns the errors of the invalid ones.
fn decode_rows(table: &Table, layout: &Layout, rows: &[&[u8]], scripted: &[usize]) -> Result<Vec<Map<String, Value>>, Refused> {
    let mut errors = Vec::new();
    let mut decoded = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let values =
            if scripted.contains(&index) { Err("scripted row error".to_owned()) } else { decode_row(table, layout, row) };
        match values {
            Ok(values) => decoded.push(values),
            Err(message) => errors.push(api::RowError {
                index: i64::try_from(index).unwrap_or(i64::MAX),
                code: api::row_error::RowErrorCode::FieldsError.into(),
                message,
            }),
        }
    }
    if errors.is_empty() {
        return Ok(decoded);
    }
    let words = "Errors found while processing rows. Please refer to the row_errors field for details. The list may not be complete \
                 because of the size limitations.";
    Err(Refused { rows: errors, ..Refused::new(Code::InvalidArgument, words) })
}

fn decode_row(table: &Table, layout: &Layout, row: &[u8]) -> Result<Map<String, Value>, String> {
    let mut values = Map::new();
    for (name, scalar) in layout.decode(row)? {
        let column = table.column(name).ok_or_else(|| format!("The field {name} is not in the table any more"))?;
        values.insert(column.name.clone(), column.take_wire(scalar)?);
    }
    match table.lacks(&values) {
        Some(column) => Err(format!("Field {} is required but has no value", column.name)),
        None => Ok(values),
    }
}
