//! Compares lorchestra's requests to BigQuery field by field with those of Google's clients for Python: a dataset, a table with its columns,
//! a stream, its rows, its end, and insertAll; each with its path, query string, headers and body. Both talk to a fake that records every request; a list has the differences, with reasons.

use gcp_bigquery_client::google::cloud::bigquery::storage::v1 as api;
use lorchestra_tests::bigquery::emulator;
use lorchestra_tests::bigquery::fake::{Exchange, Fake, Method};
use lorchestra_tests::bigquery::site::{Site, Write};
use prost::Message;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// The accepted differences, with reasons. Every line must be needed.
const DIFFERENCES: &[(&str, &str)] = &[
    ("AppendRows.body.descriptor.name", "any name will do: no other message refers to it"),
    ("AppendRows.body.trace_id", "names the client in Google's logs"),
    ("DatasetsInsert.body.labels", "Python sends an empty set of labels, which is what is there without it"),
    ("TablesInsert.body.labels", "Python sends an empty set of labels, which is what is there without it"),
    ("TablesInsert.body.schema.fields[].description", "for people who look at the table; the client of Python sends none"),
    ("InsertAll.body.ignoreUnknownValues", "gcp-bigquery-client sends the default"),
    ("InsertAll.body.skipInvalidRows", "gcp-bigquery-client sends the default"),
    ("grpc.headers.grpc-accept-encoding", "answers are small: lorchestra asks for no compression"),
    ("grpc.headers.grpc-timeout", "lorchestra ends a request by itself; a server that goes on is met by the offset"),
    ("grpc.headers.user-agent", "names the client"),
    ("grpc.headers.x-goog-api-client", "names the client, for Google's statistics"),
    ("grpc.headers.x-goog-request-params", "slashes escaped, as Google's clients for Go and Java do; a server decodes both"),
    ("rest.query.prettyPrint", "Python asks for answers without spaces; lorchestra reads both"),
    ("rest.headers.accept-encoding", "answers are small: lorchestra asks for no compression, which one emulator refuses"),
    ("rest.headers.authorization", "gcp-bigquery-client cannot send none; an emulator does not look at it"),
    ("rest.headers.connection", "HTTP/1.1 connections are kept alive without being asked to"),
    ("rest.headers.content-length", "the bodies differ by spaces and by what is named above"),
    ("rest.headers.user-agent", "names the client"),
    ("rest.headers.x-goog-api-client", "names the client, for Google's statistics"),
];

/// The rows that arrived after this many, as they were sent.
fn rows(site: &Site, since: usize) -> Vec<Value> {
    site.fake.rows(&site.table).into_iter().skip(since).map(|row| Value::from(row.values)).collect()
}

#[test]
fn requests_match_those_of_googles_clients() {
    let ours = Site::without_table(Write::Storage);
    ours.configure(Write::Storage, "location = \"EU\"\n");
    ours.fake.record();
    ours.sandbox.lorchestra(&["events", "setup"]).exits(0);
    // Setup has written one row.
    ours.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "3", "--account", "me"]).exits(0);
    let storage = rows(&ours, 1);
    ours.configure(Write::InsertAll, "location = \"EU\"\n");
    ours.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "2"]).exits(0);
    let insert_all = rows(&ours, 1 + storage.len());
    assert_eq!((storage.len(), insert_all.len()), (5, 4));

    let theirs = Fake::start();
    theirs.record();
    let script = lorchestra_tests::built::workspace().join("tests/tests/e2e/delivery/conversation.py");
    let mut python = Command::new(emulator::ensure_venv().join("bin/python"))
        .arg(script)
        .args([theirs.rest_endpoint(), theirs.grpc_endpoint().replace("http://", "")])
        .env("PYTHONNOUSERSITE", "1")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let request = json!({"storage": storage, "insert_all": insert_all}).to_string();
    python.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let ended = python.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));

    let (ours, theirs) = (ours.fake.recorded(), theirs.recorded());
    let mut found = BTreeMap::new();
    for method in [
        Method::TablesGet,
        Method::DatasetsGet,
        Method::DatasetsInsert,
        Method::TablesInsert,
        Method::InsertAll,
        Method::CreateStream,
        Method::AppendRows,
        Method::Finalize,
    ] {
        let [ours, theirs] = [&ours, &theirs].map(|all| shown(method, all));
        for (path, sides) in differences(&ours, &theirs) {
            // Headers and options are the same for all requests of an interface.
            let door = if method.is_grpc() { "grpc" } else { "rest" };
            let is_common = path.starts_with(".headers.") || path.starts_with(".query.");
            let path = if is_common { format!("{door}{path}") } else { format!("{method:?}{path}") };
            found.insert(path, sides);
        }
    }
    let known: BTreeMap<&str, &str> = DIFFERENCES.iter().copied().collect();
    let unknown: Vec<_> = found.iter().filter(|(path, _)| !known.contains_key(path.as_str())).collect();
    assert!(unknown.is_empty(), "lorchestra's request, and Google's client's: {unknown:#?}");
    let gone: Vec<_> = known.keys().filter(|path| !found.contains_key(**path)).collect();
    assert!(gone.is_empty(), "these differences no longer exist: {gone:#?}");
    assert!(DIFFERENCES.iter().all(|(_, reason)| reason.len() > 10), "each has its reason");
}

/// The request of this method that carries the events, or the first one, as JSON without process-specific values.
fn shown(method: Method, all: &[Exchange]) -> Value {
    let of: Vec<&Exchange> = all.iter().filter(|exchange| exchange.method == method).collect();
    // Before ours there was the probe of setup, which has a separate stream.
    let at = usize::from(of.len() > 1 && matches!(method, Method::AppendRows | Method::CreateStream));
    let exchange = of.get(at).unwrap_or_else(|| panic!("no {method:?}"));
    let body = match method {
        Method::CreateStream => create(&exchange.body),
        Method::AppendRows => append(&exchange.body),
        Method::Finalize => json!({"name": api::FinalizeWriteStreamRequest::decode(&*exchange.body).unwrap().name}),
        _ if exchange.body.is_empty() => Value::Null,
        _ => serde_json::from_slice(&exchange.body).unwrap(),
    };
    let options = exchange.query.split('&').filter(|option| !option.is_empty());
    let query: BTreeMap<&str, &str> = options.map(|option| option.split_once('=').unwrap_or((option, ""))).collect();
    let text = json!({"path": exchange.path, "query": query, "headers": exchange.headers, "body": body}).to_string();
    // Streams are numbered, and ports are arbitrary.
    let text = regex_lite::Regex::new(r"fake-[0-9]+-[0-9]+").unwrap().replace_all(&text, "STREAM").into_owned();
    let text = regex_lite::Regex::new(r"127\.0\.0\.1:[0-9]+").unwrap().replace_all(&text, "HOST").into_owned();
    serde_json::from_str(&text).unwrap()
}

fn create(body: &[u8]) -> Value {
    let request = api::CreateWriteStreamRequest::decode(body).unwrap();
    let stream = request.write_stream.unwrap();
    let mut others = stream.clone();
    others.r#type = 0;
    assert_eq!(others, api::WriteStream::default(), "nothing else is set");
    json!({"parent": request.parent, "write_stream": {"type": stream.r#type().as_str_name()}})
}

fn append(body: &[u8]) -> Value {
    let mut request = api::AppendRowsRequest::decode(body).unwrap();
    let Some(api::append_rows_request::Rows::ProtoRows(data)) = request.rows.take() else { panic!("no rows of protobuf") };
    let mut descriptor = data.writer_schema.unwrap().proto_descriptor.unwrap();
    let fields: Vec<Value> = std::mem::take(&mut descriptor.field)
        .into_iter()
        .map(|mut field| {
            let shown = json!({
                "name": field.name.take(), "number": field.number.take(), "label": field.label.take(), "type": field.r#type.take(),
            });
            assert_eq!(field, prost_types::FieldDescriptorProto::default(), "nothing else is set");
            shown
        })
        .collect();
    let rows: Vec<String> = data.rows.unwrap().serialized_rows.iter().map(|row| format!("{row:?}")).collect();
    let shown = json!({
        "write_stream": std::mem::take(&mut request.write_stream),
        "offset": request.offset.take(),
        "trace_id": std::mem::take(&mut request.trace_id),
        "descriptor": {"name": descriptor.name.take(), "fields": fields},
        "rows": rows,
    });
    assert_eq!(descriptor, prost_types::DescriptorProto::default(), "nothing else is set");
    assert_eq!(request, api::AppendRowsRequest::default(), "nothing else is set");
    shown
}

/// Every path at which the two differ, with both values.
fn differences(ours: &Value, theirs: &Value) -> Vec<(String, [Value; 2])> {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let none = Value::Null;
            let names: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
            let of = |side: &Map<String, Value>, name: &str| side.get(name).unwrap_or(&none).clone();
            names
                .into_iter()
                .flat_map(|name| {
                    let inner = differences(&of(ours, name), &of(theirs, name));
                    inner.into_iter().map(move |(path, sides)| (format!(".{name}{path}"), sides))
                })
                .collect()
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            let inner = ours.iter().zip(theirs);
            // All items of a list have the same difference.
            let mut found: Vec<(String, [Value; 2])> = inner
                .flat_map(|(ours, theirs)| differences(ours, theirs))
                .map(|(path, sides)| (format!("[]{path}"), sides))
                .collect();
            found.dedup_by(|one, other| one.0 == other.0);
            found
        }
        (ours, theirs) if ours == theirs => Vec::new(),
        (ours, theirs) => vec![(String::new(), [ours.clone(), theirs.clone()])],
    }
}
