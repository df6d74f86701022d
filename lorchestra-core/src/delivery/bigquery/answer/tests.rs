//! Examples of every class of answer.

use super::*;
use gcp_bigquery_client::error::ResponseError;
use gcp_bigquery_client::model::error_proto::ErrorProto;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;

const TABLE: &str = "p.d.t";

/// The client's error for Google's JSON.
fn google(code: i64, reason: &str, message: &str) -> BQError {
    let body = json!({ "error": {
        "code": code, "message": message, "status": "SOME_STATUS",
        "errors": [{ "reason": reason, "message": message, "domain": "global" }],
    }});
    BQError::ResponseError { error: serde_json::from_value::<ResponseError>(body).unwrap() }
}

fn class(refusal: &DeliveryError) -> &'static str {
    match refusal {
        DeliveryError::Later { perhaps_request: false, .. } => "later",
        DeliveryError::Later { perhaps_request: true, .. } => "later, perhaps the request",
        DeliveryError::Rows(_) => "rows",
        DeliveryError::TooLarge(_) => "too large",
        DeliveryError::Malformed(_) => "malformed",
        DeliveryError::StreamDamaged(_) => "beyond",
        DeliveryError::StreamFinalized(_) => "finalized",
        DeliveryError::StreamGone(_) => "gone",
        DeliveryError::LayoutChanged(_) => "schema",
        DeliveryError::TargetMissing(_) => "table missing",
        DeliveryError::Unauthenticated(_) => "unauthenticated",
        DeliveryError::Precondition(_) => "precondition",
        DeliveryError::EveryRow(_) => "every row",
        DeliveryError::Forbidden(_) => "forbidden",
        DeliveryError::Denied(_) => "denied",
    }
}

#[test]
fn google_errors_by_code_and_reason() {
    for (code, reason, message, expected) in [
        (400, "invalid", "Invalid value", "denied"),
        (400, "invalid", "Request payload size exceeds the limit: 10485760 bytes.", "too large"),
        (400, "invalid", "too many rows present in the request, limit: 50000 row count: 60000.", "too large"),
        (400, "invalidQuery", "Syntax error", "denied"),
        (400, "backendError", "Error while writing", "later"),
        (401, "authError", "Invalid Credentials", "unauthenticated"),
        (403, "accessDenied", "Access Denied", "forbidden"),
        (403, "billingNotEnabled", "Billing has not been enabled", "forbidden"),
        (403, "accessNotConfigured", "BigQuery API has not been used", "forbidden"),
        (403, "rateLimitExceeded", "Exceeded rate limits", "later"),
        (403, "quotaExceeded", "Quota exceeded", "later"),
        (403, "backendError", "Backend Error", "later"),
        (404, "notFound", "Not found: Table p:d.t", "table missing"),
        (404, "notFound", "Not found: Dataset p:d", "table missing"),
        (409, "duplicate", "Already Exists", "later"),
        (408, "timeout", "Request Timeout", "later"),
        (413, "uploadTooLarge", "Request Entity Too Large", "too large"),
        (429, "rateLimitExceeded", "Slow down", "later"),
        (400, "invalid", "Quota exceeded: bytes per second of the project exceed its limit", "denied"),
        (500, "internalError", "Oops", "later, perhaps the request"),
        (502, "backendError", "Bad gateway", "later"),
        (503, "backendError", "Unavailable", "later"),
    ] {
        let refusal = rest(TABLE, &google(code, reason, message));
        assert_eq!(class(&refusal), expected, "{code} {reason}: {refusal:?}");
        let text = refusal.to_string();
        assert!(text.starts_with(&format!("{TABLE}: {code} {reason}: {message}")), "{text}");
    }
}

#[test]
fn without_a_reason_the_status_is_named() {
    let body = json!({ "error": { "code": 403, "message": "no", "status": "PERMISSION_DENIED", "errors": [] }});
    let refusal = rest(TABLE, &BQError::ResponseError { error: serde_json::from_value(body).unwrap() });
    assert_eq!(refusal, DeliveryError::Forbidden("p.d.t: 403 PERMISSION_DENIED: no".to_owned()));
}

/// reqwest's error for a server that sends these bytes and disconnects, or (`None`) never responds.
fn against(reply: Option<&'static str>) -> DeliveryError {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://user@{}/path?key=hunter2", listener.local_addr().unwrap());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let _ = connection.read(&mut [0; 4096]);
        match reply {
            Some(reply) => connection.write_all(reply.as_bytes()).unwrap(),
            None => drop(stopped.recv()),
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(300)).build().unwrap();
        match client.get(url).send().await {
            Ok(response) => response.json::<serde_json::Value>().await.unwrap_err(),
            Err(error) => error,
        }
    });
    drop(stop);
    server.join().unwrap();
    let refusal = rest(TABLE, &BQError::RequestError(error));
    assert!(!refusal.to_string().contains("hunter2"), "{refusal}");
    refusal
}

#[test]
fn responses_that_are_not_from_the_api() {
    let html = "HTTP/1.1 413 Too Large\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>";
    assert_eq!(class(&against(Some(html))), "later");
    assert_eq!(class(&against(Some("HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n"))), "later");
    let closed = against(Some(""));
    assert_eq!(class(&closed), "later");
    assert!(closed.to_string().contains("the connection was lost: 127.0.0.1"), "{closed}");
    let silent = against(None);
    assert_eq!(class(&silent), "later");
    assert!(silent.to_string().contains("no response in time from"), "{silent}");
}

#[test]
fn no_server_is_listening() {
    let url = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error =
        runtime.block_on(async { reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap_err() });
    let refusal = rest(TABLE, &BQError::RequestError(error));
    assert_eq!(class(&refusal), "later");
    let text = refusal.to_string();
    assert!(text.contains("no connection to 127.0.0.1:") && text.contains("Connection refused"), "{text}");
}

fn entry(index: i32, errors: &[(&str, &str)]) -> InsertError {
    let error = |(reason, message): &(&str, &str)| ErrorProto {
        reason: Some((*reason).to_owned()),
        message: Some((*message).to_owned()),
        location: Some("payload".to_owned()),
        debug_info: None,
    };
    InsertError { index: Some(index), errors: Some(errors.iter().map(error).collect()) }
}

fn of_rows(errors: &[InsertError]) -> Option<DeliveryError> {
    inserted(TABLE, 8, errors, |index, text| format!("[{index}] {text}"))
}

#[test]
fn row_errors_of_insert_all() {
    assert_eq!(of_rows(&[]), None);
    let stopped = [("stopped", "")];
    let refused = of_rows(&[
        entry(2, &stopped),
        entry(7, &[("invalid", "bad")]),
        entry(1, &[("stopped", ""), ("invalid", "worse")]),
        entry(7, &[("invalid", "bad again")]),
    ]);
    let row = |index, reason: &str| RefusedRow { index, reason: reason.to_owned() };
    assert_eq!(
        refused,
        Some(DeliveryError::Rows(vec![row(1, "invalid at payload: [1] worse"), row(7, "invalid at payload: [7] bad")]))
    );
    // No row is to blame.
    assert_eq!(of_rows(&[entry(0, &stopped), entry(1, &stopped)]).as_ref().map(class), Some("later"));
    let nowhere = InsertError { index: None, ..entry(0, &stopped) };
    assert_eq!(of_rows(&[nowhere]).as_ref().map(class), Some("later"), "it did not land");
    // A temporary fault is not caused by the row.
    assert_eq!(of_rows(&[entry(0, &[("backendError", "")]), entry(1, &stopped)]).as_ref().map(class), Some("later"));
    // The column no longer exists.
    assert_eq!(of_rows(&[entry(0, &[("invalid", "no such field: job.")])]).as_ref().map(class), Some("schema"));
    // An index that was not sent: if it were believed, the same rows would be resent forever.
    assert_eq!(of_rows(&[entry(8, &[("invalid", "bad")])]).as_ref().map(class), Some("malformed"));
    let unnamed = InsertError { index: None, ..entry(0, &[("invalid", "secret")]) };
    let refusal = of_rows(&[unnamed]).unwrap();
    assert_eq!(class(&refusal), "malformed");
    assert!(!refusal.to_string().contains("secret"));
}

fn detail(code: StorageErrorCode) -> prost_types::Any {
    let error = StorageError { code: code.into(), entity: "stream".to_owned(), error_message: String::new() };
    prost_types::Any {
        type_url: "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError".to_owned(),
        value: error.encode_to_vec(),
    }
}

fn in_band(code: Code, message: &str, details: Vec<prost_types::Any>) -> rpc::Status {
    rpc::Status { code: code as i32, message: message.to_owned(), details }
}

/// Classifies both an answer inside the call and the call's status, which must agree.
fn means(code: Code, message: &str, details: Vec<prost_types::Any>, call: Operation) -> &'static str {
    let status = in_band(code, message, details);
    let outside = tonic::Status::with_details(code, message, status.encode_to_vec().into());
    let inside = ServerError::from(status).meaning(TABLE, call);
    assert_eq!(inside, ServerError::from(&outside).meaning(TABLE, call));
    match &inside {
        Ok(landed) => {
            assert_eq!(*landed, Landed::Before);
            "before"
        }
        Err(refusal) => class(refusal),
    }
}

#[test]
fn storage_errors_by_detail() {
    use StorageErrorCode as S;
    for (code, storage, expected, at_finalize) in [
        (Code::AlreadyExists, S::OffsetAlreadyExists, "before", "later"),
        (Code::OutOfRange, S::OffsetOutOfRange, "beyond", "beyond"),
        (Code::NotFound, S::StreamNotFound, "gone", "gone"),
        (Code::NotFound, S::TableNotFound, "table missing", "table missing"),
        (Code::InvalidArgument, S::StreamFinalized, "finalized", "gone"),
        (Code::FailedPrecondition, S::StreamAlreadyCommitted, "finalized", "gone"),
        (Code::InvalidArgument, S::InvalidStreamState, "finalized", "gone"),
        (Code::InvalidArgument, S::InvalidStreamType, "denied", "denied"),
        (Code::InvalidArgument, S::SchemaMismatchExtraFields, "schema", "schema"),
        (Code::FailedPrecondition, S::KmsPermissionDenied, "forbidden", "forbidden"),
        (Code::Internal, S::KmsServiceError, "later", "later"),
    ] {
        assert_eq!(means(code, "m", vec![detail(storage)], Operation::Append), expected, "{storage:?}");
        assert_eq!(means(code, "m", vec![detail(storage)], Operation::Finalize), at_finalize, "{storage:?}");
    }
}

#[test]
fn storage_errors_by_code_and_message() {
    for (code, message, expected) in [
        (Code::AlreadyExists, "The offset is within stream", "before"),
        (Code::OutOfRange, "The offset is beyond stream, expected offset 5, received 9", "beyond"),
        (Code::OutOfRange, "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes", "too large"),
        (Code::ResourceExhausted, "Received message larger than max (20971520 vs. 10485760)", "too large"),
        (Code::ResourceExhausted, "Exceeds 'AppendRows throughput' quota", "later"),
        (Code::ResourceExhausted, "Quota exceeded for quota metric 'AppendBytesThroughputPerProject' and limit 'bytes'", "later"),
        (Code::ResourceExhausted, "grpc: received message larger than max (5 vs. 4)", "too large"),
        (Code::InvalidArgument, "AppendRows request is too large: 10485778, maximum allowed 10000000", "too large"),
        (Code::InvalidArgument, "Request size exceeds 10 MB", "too large"),
        (Code::InvalidArgument, "Schema mismatch due to extra fields in user schema", "schema"),
        (Code::InvalidArgument, "Missing writer schema", "malformed"),
        (Code::FailedPrecondition, "Stream is FINALIZED", "finalized"),
        (Code::FailedPrecondition, "Billing is off", "precondition"),
        (Code::FailedPrecondition, "", "precondition"),
        (Code::FailedPrecondition, "Entity not found: s", "gone"),
        (Code::InvalidArgument, "Invalid stream name. Entity: s", "gone"),
        (Code::InvalidArgument, "Requested entity was not found. Entity: s", "gone"),
        (Code::NotFound, "Requested entity was not found. Entity: projects/p/datasets/d/tables/t/streams/s", "gone"),
        (Code::NotFound, "Table not found: t", "table missing"),
        (Code::PermissionDenied, "Permission 'TABLES_UPDATE_DATA' denied", "forbidden"),
        (Code::Unauthenticated, "Request had invalid authentication credentials", "unauthenticated"),
        (Code::Unimplemented, "grpc-status header missing, mapped from HTTP status code 404", "denied"),
        (Code::Unavailable, "try again", "later"),
        (Code::DeadlineExceeded, "", "later"),
        (Code::Internal, "oops", "later, perhaps the request"),
        (Code::Internal, "Internal error. Entity: projects/834130/datasets/d", "later, perhaps the request"),
        (Code::Internal, "grpc-status header missing, mapped from HTTP status code 413", "too large"),
        (Code::Aborted, "", "later"),
        (Code::Cancelled, "", "later"),
        (Code::Unknown, "a page of a proxy", "later, perhaps the request"),
        (Code::Unknown, "grpc-status header missing, mapped from HTTP status code 413", "too large"),
        (Code::Unknown, "Service was not ready: transport error", "later"),
    ] {
        assert_eq!(means(code, message, Vec::new(), Operation::Append), expected, "{code:?} {message}");
    }
    assert_eq!(means(Code::NotFound, "Requested entity was not found", Vec::new(), Operation::Create), "table missing");
    assert_eq!(means(Code::AlreadyExists, "", Vec::new(), Operation::Create), "later");
    assert_eq!(means(Code::FailedPrecondition, "Billing is off", Vec::new(), Operation::Create), "forbidden");
    assert_eq!(means(Code::FailedPrecondition, "no", Vec::new(), Operation::Finalize), "precondition");
    assert_eq!(means(Code::FailedPrecondition, "stream is finalized", Vec::new(), Operation::Finalize), "gone");
    assert_eq!(means(Code::InvalidArgument, "Invalid stream name. Entity: s", Vec::new(), Operation::Finalize), "gone");
    // Nothing here says that the stream takes no more rows.
    for message in ["no", "Request contains an invalid argument.", "the stream cannot be finalized", ""] {
        assert_eq!(means(Code::InvalidArgument, message, Vec::new(), Operation::Finalize), "precondition", "{message}");
        assert_eq!(means(Code::FailedPrecondition, message, Vec::new(), Operation::Finalize), "precondition", "{message}");
    }
}

#[test]
fn retry_info_is_kept() {
    let delay = RetryInfo { retry_delay: Some(prost_types::Duration { seconds: 7, nanos: 0 }) };
    let detail =
        prost_types::Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: delay.encode_to_vec() };
    let refusal =
        ServerError::from(in_band(Code::ResourceExhausted, "quota", vec![detail])).meaning(TABLE, Operation::Append).unwrap_err();
    assert!(matches!(refusal, DeliveryError::Later { after: Some(after), .. } if after == Duration::from_secs(7)), "{refusal:?}");
}

/// lorchestra's action, in the words of docs/reference/bigquery-errors.md.
fn action(meaning: &Result<Landed, DeliveryError>, call: Operation) -> &'static str {
    let Err(refusal) = meaning else { return "landed before" };
    match (class(refusal), call) {
        ("later", _) | ("later, perhaps the request", Operation::Create | Operation::Finalize) => "retry",
        ("later, perhaps the request", Operation::Append) => "retry, then split",
        ("too large", Operation::Append) => "split",
        ("malformed", Operation::Append) => "new stream, then split",
        ("beyond", Operation::Append) => "new stream",
        ("finalized" | "gone", Operation::Append) => "fence",
        ("gone", Operation::Finalize) => "query",
        ("precondition", Operation::Append) => "retry, then fence, then wait",
        ("precondition", Operation::Finalize) => "retry",
        ("schema", _) => "reconnect",
        ("forbidden", _) => "wait",
        _ => "stop",
    }
}

fn actions(code: Code, details: &[prost_types::Any]) -> String {
    let of = |call| action(&ServerError::from(in_band(code, "", details.to_vec())).meaning(TABLE, call), call);
    [Operation::Append, Operation::Finalize, Operation::Create].map(of).join(" | ")
}

fn of_storage_error(code: StorageErrorCode) -> &'static str {
    use StorageErrorCode as S;
    match code {
        S::Unspecified => "Nothing: the gRPC code decides, see below",
        S::TableNotFound => "Run `lorchestra events setup`; a new table may take some minutes",
        S::StreamAlreadyCommitted | S::StreamFinalized | S::InvalidStreamState => "Nothing: another client closed the stream",
        S::StreamNotFound => "Nothing: the stream expired, or the table was recreated",
        S::InvalidStreamType => "Report it: lorchestra creates committed streams only",
        S::SchemaMismatchExtraFields => "Nothing, if a column was just added; else run `lorchestra events setup`",
        S::OffsetAlreadyExists => "Nothing: an earlier request arrived; lorchestra looks up its events",
        S::OffsetOutOfRange => "Nothing; if it repeats, check that no copy of the state directory is in use",
        S::CmekNotProvided | S::InvalidCmekProvided | S::CmekEncryptionError | S::KmsPermissionDenied => {
            "Check the table's encryption key, and that BigQuery's service account may use it"
        }
        S::KmsServiceError => "Nothing: the problem is temporary",
    }
}

fn of_code(code: Code) -> &'static str {
    match code {
        Code::Ok => "Nothing: the answer is inconclusive",
        Code::Cancelled | Code::Aborted | Code::Unavailable | Code::DeadlineExceeded => "Nothing: the problem is temporary",
        Code::Unknown => "Check for a proxy that answers instead of BigQuery",
        Code::InvalidArgument => "Check `events list --failed`: BigQuery may refuse a row without naming it",
        Code::NotFound => "Nothing: the stream expired, or the table was recreated",
        Code::AlreadyExists => "Nothing: an earlier request arrived; lorchestra looks up its events",
        Code::PermissionDenied => "Grant `roles/bigquery.dataEditor` on the table; lorchestra retries within a minute",
        Code::ResourceExhausted => "Nothing, or ask for more quota",
        Code::FailedPrecondition => "Check that billing and the API are enabled; lorchestra retries within a minute",
        Code::OutOfRange => "Nothing; if it repeats, check that no copy of the state directory is in use",
        Code::Unimplemented => "Set `write = \"insert-all\"`: the endpoint has no Storage Write API",
        Code::Internal => "Nothing; if an event is set aside, the server fails on it",
        Code::DataLoss => "Nothing; if it lasts, ask Google",
        Code::Unauthenticated => "Check the credentials",
    }
}

/// The reference documents the decisions of this code.
#[test]
fn the_documented_table_of_answers_matches_the_code() {
    use StorageErrorCode as S;
    let storage: Vec<S> = (0..100).filter_map(|code| S::try_from(code).ok()).collect();
    assert!(storage.len() >= 15, "every code is covered: {storage:?}");
    let head =
        "| answer | AppendRows | FinalizeWriteStream | CreateWriteStream | what to do |\n| --- | --- | --- | --- | --- |\n";
    let mut expected = format!("With a StorageError in the details:\n\n{head}");
    for code in storage {
        // With the code that has the least meaning of its own.
        let actions = actions(Code::Unavailable, &[detail(code)]);
        expected.push_str(&format!("| `{}` | {actions} | {} |\n", code.as_str_name(), of_storage_error(code)));
    }
    expected.push_str(&format!("\nWithout:\n\n{head}"));
    for code in (0..17).map(Code::from_i32) {
        expected.push_str(&format!("| `{code:?}` | {} | {} |\n", actions(code, &[]), of_code(code)));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/bigquery-errors.md");
    let page = std::fs::read_to_string(path).unwrap();
    let table = page.split("<!-- answers -->\n").nth(1).unwrap_or_default();
    assert_eq!(table.trim(), expected.trim(), "put this into {path}:\n{expected}");
}
