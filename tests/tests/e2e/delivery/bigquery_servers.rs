//! The servers for delivery tests behave as the tests expect: checked with Google's own messages, through the clients that lorchestra uses.

mod clients;

use clients::{
    Appended, Connection, WriteClient, append_request, create_stream, descriptor, encoded, event, event_descriptor, finalize,
    grpc, insert, refusal, rest, rest_with, storage_code_of, wait,
};
use gcp_bigquery_client::Client;
use gcp_bigquery_client::client_builder::ClientBuilder;
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1 as api;
use gcp_bigquery_client::model::query_request::QueryRequest;
use lorchestra_tests::bigquery::emulator;
use lorchestra_tests::bigquery::fake::{Fake, Fault, Method, Options, StorageErrorCode, TableName, WritePath};
use prost_types::field_descriptor_proto::Type;
use serde_json::{Value, json};
use std::time::Duration;
use tonic::Code;

fn fake() -> (Fake, TableName) {
    let fake = Fake::start();
    let table = TableName::parse("acme-prod.events.log");
    fake.create_event_table(&table);
    (fake, table)
}

fn ids(fake: &Fake, table: &TableName) -> Vec<String> {
    fake.rows(table).iter().map(|row| row.values["event_id"].as_str().unwrap().to_owned()).collect()
}

/// Sends requests until this holds, and is not answered.
async fn unanswered<T>(asking: impl Future<Output = T>, until: impl Fn() -> bool) {
    let mut asking = std::pin::pin!(asking);
    while !until() {
        tokio::select! {
            _ = &mut asking => panic!("answered"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
}

#[test]
fn offsets_decide_what_an_append_does() {
    let (fake, table) = fake();
    wait(async {
        let mut client = grpc(&fake.grpc_endpoint()).await;
        let stream = create_stream(&mut client, &table).await.unwrap();
        let first =
            append_request(&stream, Some(0), Some(event_descriptor()), vec![encoded("a", "{}"), encoded("b", "{\"x\":[1]}")]);
        let (mut open, answer) = Connection::open(&mut client, first.clone()).await.unwrap();
        assert_eq!(answer, Appended::At(Some(0)));
        // The same again, and a part of it: already there.
        let exists = Appended::Refused(Code::AlreadyExists, Some(StorageErrorCode::OffsetAlreadyExists), vec![]);
        assert_eq!(open.append(first).await.unwrap(), exists);
        let rows = |id| vec![encoded(id, "{}")];
        assert_eq!(open.append(append_request("", Some(1), None, rows("z"))).await.unwrap(), exists);
        let beyond = Appended::Refused(Code::OutOfRange, Some(StorageErrorCode::OffsetOutOfRange), vec![]);
        assert_eq!(open.append(append_request("", Some(3), None, rows("z"))).await.unwrap(), beyond);
        // Neither stream nor descriptor is repeated.
        assert_eq!(open.append(append_request("", Some(2), None, rows("c"))).await.unwrap(), Appended::At(Some(2)));
        assert_eq!(finalize(&mut client, &stream).await.unwrap(), 3);
        assert_eq!(finalize(&mut client, &stream).await.unwrap(), 3);
        let finalized = Appended::Refused(Code::InvalidArgument, Some(StorageErrorCode::StreamFinalized), vec![]);
        assert_eq!(open.append(append_request("", Some(3), None, rows("d"))).await.unwrap(), finalized);
        assert_eq!(ids(&fake, &table), ["a", "b", "c"]);
        let row = &fake.rows(&table)[1];
        assert_eq!(row.path, WritePath::Stream(stream.clone(), 1));
        let expected = json!({"event_id": "b", "event_type": "mail.received", "source": "ingester/extract_gmail",
                              "created_at": "2024-01-31T12:00:00.123456Z", "payload": "{\"x\":[1]}", "attempt": 1});
        assert_eq!(Value::from(row.values.clone()), expected);
        assert_eq!((fake.requests(Method::AppendRows), fake.requests(Method::Finalize), fake.peak_append_calls()), (6, 2, 1));
        assert_eq!(fake.streams().len(), 1);
    });
}

#[test]
fn appends_that_do_not_fit_write_nothing() {
    let (fake, table) = fake();
    wait(async {
        let mut client = grpc(&fake.grpc_endpoint()).await;
        let stream = create_stream(&mut client, &table).await.unwrap();
        let append = async |client: &mut WriteClient, stream: &str, schema, rows| {
            Connection::open(client, append_request(stream, Some(0), schema, rows)).await.unwrap().1
        };
        let row = || vec![encoded("a", "{}")];
        let invalid = |storage| Appended::Refused(Code::InvalidArgument, storage, vec![]);
        // Rows of which one is not JSON and one has no event_id.
        let rows = vec![encoded("a", "{}"), encoded("b", "{"), Vec::new()];
        let refused = append(&mut client, &stream, Some(event_descriptor()), rows).await;
        assert_eq!(refused, Appended::Refused(Code::InvalidArgument, None, vec![1, 2]));
        let extra = descriptor(&[("event_id", Type::String), ("colour", Type::String)]);
        assert_eq!(
            append(&mut client, &stream, Some(extra), row()).await,
            invalid(Some(StorageErrorCode::SchemaMismatchExtraFields))
        );
        let text_for_time = descriptor(&[("event_id", Type::String), ("created_at", Type::String)]);
        assert_eq!(append(&mut client, &stream, Some(text_for_time), row()).await, invalid(None));
        assert_eq!(append(&mut client, &stream, None, row()).await, invalid(None), "a descriptor is needed first");
        let large = vec![encoded("a", &format!("\"{}\"", "x".repeat(10_000_000)))];
        assert_eq!(append(&mut client, &stream, Some(event_descriptor()), large).await, invalid(None));
        let none = Appended::Refused(Code::NotFound, Some(StorageErrorCode::StreamNotFound), vec![]);
        assert_eq!(append(&mut client, &format!("{stream}0"), Some(event_descriptor()), row()).await, none);
        fake.recreate_table(&table);
        assert_eq!(append(&mut client, &stream, Some(event_descriptor()), row()).await, none, "the stream went with its table");
        let gone = finalize(&mut client, &stream).await.unwrap_err();
        assert_eq!((gone.code(), storage_code_of(&gone)), (Code::NotFound, Some(StorageErrorCode::StreamNotFound)));
        let missing = create_stream(&mut client, &TableName::parse("acme-prod.events.other")).await.unwrap_err();
        assert_eq!((missing.code(), storage_code_of(&missing)), (Code::NotFound, Some(StorageErrorCode::TableNotFound)));
        assert_eq!(fake.rows(&table), []);
        // Errors as the end of the call, with the same details.
        fake.end_calls_on_errors(true);
        let request = append_request(&stream, Some(0), Some(event_descriptor()), row());
        let ended = Connection::open(&mut client, request).await.err().unwrap();
        assert_eq!((ended.code(), storage_code_of(&ended)), (Code::NotFound, Some(StorageErrorCode::StreamNotFound)));
    });
}

#[test]
fn insert_all_takes_good_rows_once_and_refuses_all_for_a_bad_one() {
    let (fake, table) = fake();
    wait(async {
        let client = rest(&fake.rest_endpoint()).await;
        assert_eq!(insert(&client, &table, &[event("a"), event("b")]).await.unwrap(), []);
        assert_eq!(insert(&client, &table, &[event("b"), event("c")]).await.unwrap(), [], "b is accepted but not written again");
        assert_eq!(ids(&fake, &table), ["a", "b", "c"]);
        assert_eq!(fake.rows(&table)[0].values["created_at"], "2024-01-31T12:00:00.123456Z");
        assert_eq!(fake.rows(&table)[2].path, WritePath::InsertAll(Some("c".to_owned())));
        for (column, value, message) in [
            ("payload", json!({"n": 1}), "This field: payload is not a record."),
            ("payload", json!("{"), "Invalid JSON"),
            ("created_at", json!("yesterday"), "Could not parse 'yesterday' as a timestamp"),
            ("source", Value::Null, "Missing required field: source."),
            ("colour", json!("red"), "no such field: colour."),
            ("attempt", json!("one"), "Cannot convert value to integer"),
        ] {
            let mut bad = event("d");
            bad[column] = value;
            let errors = insert(&client, &table, &[event("e"), bad]).await.unwrap();
            assert_eq!((errors[0].0, errors[0].1.as_str(), errors[1].0, errors[1].1.as_str()), (0, "stopped", 1, "invalid"));
            assert!(errors[1].2.starts_with(message), "{} does not begin with {message}", errors[1].2);
        }
        assert_eq!(ids(&fake, &table), ["a", "b", "c"], "nothing was written with a bad row");
        let mut large = event("f");
        large["payload"] = format!("\"{}\"", "x".repeat(10_000_000)).into();
        assert!(
            matches!(insert(&client, &table, &[large]).await.unwrap_err(), BQError::RequestError(error) if error.is_decode())
        );
        let none = insert(&client, &table, &[]).await.unwrap_err();
        assert_eq!(refusal(none), (400, "invalid".to_owned()));
        let missing = insert(&client, &TableName::parse("acme-prod.events.other"), &[event("a")]).await.unwrap_err();
        assert_eq!(refusal(missing), (404, "notFound".to_owned()));
    });
}

#[test]
fn a_query_returns_the_ids_that_exist() {
    let (fake, table) = fake();
    wait(async {
        let client = rest(&fake.rest_endpoint()).await;
        insert(&client, &table, &[event("a"), event("b")]).await.unwrap();
        let sql = "SELECT event_id FROM `acme-prod.events.log` WHERE event_id IN ('b', \"x\", 'a')";
        let mut found = client.job().query("acme-prod", QueryRequest::new(sql)).await.unwrap().rows.unwrap_or_default();
        let first = found.remove(0).columns.unwrap().remove(0).value.unwrap();
        assert_eq!((first, found.len()), (json!("a"), 1));
        let http = reqwest::Client::new();
        let body = json!({"query": "select distinct event_id from events.log where event_id in unnest(@ids)", "useLegacySql": false,
            "parameterMode": "NAMED", "queryParameters": [{"name": "ids",
                "parameterType": {"type": "ARRAY", "arrayType": {"type": "STRING"}},
                "parameterValue": {"arrayValues": [{"value": "b"}, {"value": "c"}]}}]});
        let url = format!("{}/bigquery/v2/projects/acme-prod/queries", fake.rest_endpoint());
        let answer: Value = http.post(url).json(&body).send().await.unwrap().json().await.unwrap();
        assert_eq!((&answer["rows"], &answer["totalRows"]), (&json!([{"f": [{"v": "b"}]}]), &json!("1")));
        let unknown = client.job().query("acme-prod", QueryRequest::new("SELECT 1")).await.unwrap_err();
        assert_eq!(refusal(unknown), (400, "invalidQuery".to_owned()));
    });
}

#[test]
fn tables_keep_the_properties_they_were_created_with() {
    let fake = Fake::start();
    wait(async {
        let http = reqwest::Client::new();
        let base = format!("{}/bigquery/v2/projects/acme-prod/datasets", fake.rest_endpoint());
        let send = async |request: reqwest::RequestBuilder, body: Value| {
            let answer = request.json(&body).send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        };
        let dataset = json!({"datasetReference": {"datasetId": "events"}, "location": "EU"});
        assert_eq!(send(http.get(format!("{base}/events")), Value::Null).await.0, 404);
        assert_eq!(send(http.post(&base), dataset.clone()).await.0, 200);
        let (code, twice) = send(http.post(&base), dataset).await;
        assert_eq!(
            (code, &twice["error"]["errors"][0]["reason"], &twice["error"]["status"]),
            (409, &json!("duplicate"), &json!("ALREADY_EXISTS"))
        );
        assert_eq!(send(http.get(format!("{base}/events")), Value::Null).await.1["location"], "EU");

        let field = |name: &str, kind: &str, mode: &str| json!({"name": name, "type": kind, "mode": mode, "description": format!("the {name}")});
        let fields = json!([field("event_id", "STRING", "REQUIRED"), field("created_at", "TIMESTAMP", "REQUIRED")]);
        let table = json!({"tableReference": {"tableId": "log"}, "schema": {"fields": fields}, "description": "Events",
            "timePartitioning": {"type": "DAY", "field": "created_at"}, "clustering": {"fields": ["event_id"]}});
        let tables = format!("{base}/events/tables");
        let mut wrong = table.clone();
        wrong["timePartitioning"]["field"] = "event_id".into();
        assert_eq!(send(http.post(&tables), wrong).await.0, 400, "no partitions by text");
        assert_eq!(send(http.post(&tables), table.clone()).await.0, 200);
        let (_, kept) = send(http.get(format!("{tables}/log")), Value::Null).await;
        for key in ["schema", "description", "timePartitioning", "clustering"] {
            assert_eq!(kept[key], table[key], "{key}");
        }
        let patch =
            async |fields: Value| send(http.patch(format!("{tables}/log")), json!({"schema": {"fields": fields}})).await.0;
        assert_eq!(patch(json!([fields[0]])).await, 400, "a column cannot be removed");
        assert_eq!(
            patch(json!([fields[0], fields[1], field("payload", "JSON", "REQUIRED")])).await,
            400,
            "a column cannot be added as REQUIRED"
        );
        assert_eq!(patch(json!([fields[0], fields[1], field("payload", "JSON", "NULLABLE")])).await, 200);
        let view = json!({"tableReference": {"tableId": "log_once"}, "view": {"query": "SELECT 1", "useLegacySql": false}});
        assert_eq!(send(http.post(&tables), view).await.1["type"], "VIEW");
        let client = rest(&fake.rest_endpoint()).await;
        let name = TableName::parse("acme-prod.events.log");
        let row = json!({"event_id": "a", "created_at": 1_706_702_400.5, "payload": "1"});
        assert_eq!(insert(&client, &name, &[row]).await.unwrap(), []);
        assert_eq!(fake.rows(&name)[0].values["created_at"], "2024-01-31T12:00:00.500000Z");
        let into_view = insert(&client, &TableName::parse("acme-prod.events.log_once"), &[event("a")]).await.unwrap_err();
        assert_eq!(refusal(into_view).0, 400);
    });
}

#[test]
fn faults_of_rest_follow_the_script() {
    let (fake, table) = fake();
    wait(async {
        let client = rest(&fake.rest_endpoint()).await;
        let once = async |fault: Fault, id: &str| {
            fake.faults().next(Method::InsertAll, fault);
            insert(&client, &table, &[event(id)]).await
        };
        assert_eq!(refusal(once(Fault::Status(403, "quotaExceeded"), "a").await.unwrap_err()), (403, "quotaExceeded".to_owned()));
        assert!(matches!(once(Fault::Html(502), "a").await.unwrap_err(), BQError::RequestError(error) if error.is_decode()));
        assert!(
            matches!(once(Fault::Empty(429, Some(7)), "a").await.unwrap_err(), BQError::RequestError(error) if error.is_decode())
        );
        assert!(matches!(once(Fault::CloseHalfWay, "a").await.unwrap_err(), BQError::RequestError(error) if error.is_request()));
        assert_eq!(once(Fault::RowErrors(vec![0]), "a").await.unwrap()[0].1, "invalid");
        assert_eq!(ids(&fake, &table), Vec::<String>::new());
        assert!(once(Fault::CommitThenDrop, "a").await.is_err());
        assert_eq!(ids(&fake, &table), ["a"], "committed, and no client was informed");
        once(Fault::Delay(Duration::from_millis(20)), "b").await.unwrap();
        once(Fault::VanishTable(2), "c").await.unwrap_err();
        insert(&client, &table, &[event("c")]).await.unwrap_err();
        insert(&client, &table, &[event("c")]).await.unwrap();
        once(Fault::RecreateTable, "d").await.unwrap();
        assert_eq!(ids(&fake, &table), ["d"]);

        // Silence ends when it is released, and then the work is done.
        fake.faults().next(Method::InsertAll, Fault::Silent);
        let requests = fake.requests(Method::InsertAll);
        let rows = [event("e")];
        let mut silent = std::pin::pin!(insert(&client, &table, &rows));
        unanswered(silent.as_mut(), || fake.requests(Method::InsertAll) > requests).await;
        assert_eq!(ids(&fake, &table), ["d"]);
        fake.faults().release();
        silent.await.unwrap();
        assert_eq!(ids(&fake, &table), ["d", "e"]);

        fake.faults().forever(Method::TablesGet, Fault::Status(503, "backendError"));
        for _ in 0..3 {
            let error = client.table().get(&table.project, &table.dataset, &table.table, None).await.unwrap_err();
            assert_eq!(refusal(error), (503, "backendError".to_owned()));
        }
        fake.faults().clear(Method::TablesGet);
        client.table().get(&table.project, &table.dataset, &table.table, None).await.unwrap();

        fake.go_down();
        insert(&client, &table, &[event("f")]).await.unwrap_err();
        let down = insert(&rest(&fake.rest_endpoint()).await, &table, &[event("f")]).await.unwrap_err();
        assert!(matches!(down, BQError::RequestError(error) if error.is_connect()));
        fake.come_up();
        insert(&client, &table, &[event("f")]).await.unwrap();
    });
}

#[test]
fn faults_of_grpc_follow_the_script() {
    let (fake, table) = fake();
    wait(async {
        let faults = fake.faults();
        let mut client = grpc(&fake.grpc_endpoint()).await;
        faults.next(Method::CreateStream, Fault::Grpc(Code::ResourceExhausted, "quota", None));
        assert_eq!(create_stream(&mut client, &table).await.unwrap_err().code(), Code::ResourceExhausted);
        let stream = create_stream(&mut client, &table).await.unwrap();
        let request = |offset, id: &str| append_request(&stream, Some(offset), Some(event_descriptor()), vec![encoded(id, "{}")]);
        let (mut open, _) = Connection::open(&mut client, request(0, "a")).await.unwrap();
        faults.next(Method::AppendRows, Fault::InBand(Code::Internal, "later", None));
        assert_eq!(open.append(request(1, "b")).await.unwrap(), Appended::Refused(Code::Internal, None, vec![]));
        faults.next(Method::AppendRows, Fault::RowErrors(vec![0]));
        assert_eq!(open.append(request(1, "b")).await.unwrap(), Appended::Refused(Code::InvalidArgument, None, vec![0]));
        faults.next(Method::AppendRows, Fault::Grpc(Code::Unavailable, "going away", Some(StorageErrorCode::StreamNotFound)));
        let ended = open.append(request(1, "b")).await.unwrap_err();
        assert_eq!((ended.code(), storage_code_of(&ended)), (Code::Unavailable, Some(StorageErrorCode::StreamNotFound)));
        assert_eq!(ids(&fake, &table), ["a"]);

        // Dropped connections: before the work, and after it.
        let (mut open, answer) = Connection::open(&mut client, request(1, "b")).await.unwrap();
        assert_eq!(answer, Appended::At(Some(1)));
        faults.next(Method::AppendRows, Fault::CloseHalfWay);
        open.append(request(2, "c")).await.unwrap_err();
        assert_eq!(ids(&fake, &table), ["a", "b"]);
        faults.next(Method::AppendRows, Fault::CommitThenDrop);
        Connection::open(&mut client, request(2, "c")).await.err().unwrap();
        assert_eq!(ids(&fake, &table), ["a", "b", "c"]);
        let (mut open, answer) = Connection::open(&mut client, request(2, "c")).await.unwrap();
        assert_eq!(answer, Appended::Refused(Code::AlreadyExists, Some(StorageErrorCode::OffsetAlreadyExists), vec![]));

        // A server that does not answer; the client disconnects, and nothing was done.
        faults.next(Method::AppendRows, Fault::Silent);
        unanswered(open.append(request(3, "d")), || faults.left(Method::AppendRows) == 0).await;
        drop(open);
        while fake.open_append_calls() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        faults.release();
        faults.next(Method::AppendRows, Fault::FinalizeStream);
        let (_, answer) = Connection::open(&mut client, request(3, "d")).await.unwrap();
        assert_eq!(answer, Appended::Refused(Code::InvalidArgument, Some(StorageErrorCode::StreamFinalized), vec![]));
        faults.next(Method::Finalize, Fault::DropStream);
        assert_eq!(finalize(&mut client, &stream).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(ids(&fake, &table), ["a", "b", "c"]);
        faults.next(Method::CreateStream, Fault::VanishTable(1));
        assert_eq!(create_stream(&mut client, &table).await.unwrap_err().code(), Code::NotFound);
        let stream = create_stream(&mut client, &table).await.unwrap();
        let request = |offset, id: &str| append_request(&stream, Some(offset), Some(event_descriptor()), vec![encoded(id, "{}")]);

        // Committed without an answer.
        faults.next(Method::AppendRows, Fault::CommitThenSilent);
        unanswered(Connection::open(&mut client, request(0, "d")), || ids(&fake, &table) == ["a", "b", "c", "d"]).await;
        // The stream disappears and its rows stay; then the table disappears with its rows.
        faults.next(Method::AppendRows, Fault::DropStream);
        let none = Appended::Refused(Code::NotFound, Some(StorageErrorCode::StreamNotFound), vec![]);
        assert_eq!(Connection::open(&mut client, request(1, "e")).await.unwrap().1, none);
        assert_eq!(ids(&fake, &table), ["a", "b", "c", "d"]);
        let stream = create_stream(&mut client, &table).await.unwrap();
        faults.next(Method::AppendRows, Fault::RecreateTable);
        let request = append_request(&stream, Some(0), Some(event_descriptor()), vec![encoded("e", "{}")]);
        assert_eq!(Connection::open(&mut client, request).await.unwrap().1, none);
        assert_eq!(fake.rows(&table), []);

        // The default stream accepts rows only without an offset.
        let default = "projects/acme-prod/datasets/events/tables/log/streams/_default";
        let request = |offset| append_request(default, offset, Some(event_descriptor()), vec![encoded("f", "{}")]);
        let (mut open, answer) = Connection::open(&mut client, request(None)).await.unwrap();
        assert_eq!(answer, Appended::At(None));
        assert_eq!(open.append(request(Some(1))).await.unwrap(), Appended::Refused(Code::InvalidArgument, None, vec![]));
        assert_eq!(fake.rows(&table)[0].path, WritePath::DefaultStream);
    });
}

#[test]
#[should_panic(expected = "does not support")]
fn an_impossible_fault_is_refused_when_it_is_scripted() {
    Fake::start().faults().next(Method::InsertAll, Fault::DropStream);
}

#[test]
fn a_fake_that_only_acknowledges_counts() {
    let fake = Fake::start_with(Options { acknowledge_only: true, ..Options::default() });
    let table = TableName::parse("acme-prod.events.log");
    fake.create_event_table(&table);
    wait(async {
        let mut client = grpc(&fake.grpc_endpoint()).await;
        let stream = create_stream(&mut client, &table).await.unwrap();
        let request = append_request(&stream, Some(0), Some(event_descriptor()), vec![encoded("a", "{}"); 3]);
        let (mut open, answer) = Connection::open(&mut client, request.clone()).await.unwrap();
        assert_eq!(answer, Appended::At(Some(0)));
        assert!(matches!(open.append(request).await.unwrap(), Appended::Refused(Code::AlreadyExists, ..)));
        assert_eq!(finalize(&mut client, &stream).await.unwrap(), 3);
        insert(&rest(&fake.rest_endpoint()).await, &table, &[event("a"), event("a")]).await.unwrap();
        assert_eq!((fake.row_count(&table), fake.rows(&table).len()), (5, 0));
    });
}

#[test]
fn the_emulator_takes_a_row_on_both_paths() {
    let emulator = emulator::shared();
    let dataset = emulator.own_dataset();
    emulator.create_event_table(&dataset, "log");
    let table = TableName::new(emulator.project(), &dataset, "log");
    wait(async {
        assert_eq!(insert(&rest(&emulator.rest_endpoint()).await, &table, &[event("a")]).await.unwrap(), []);
        let mut client = grpc(&emulator.grpc_endpoint()).await;
        let stream = create_stream(&mut client, &table).await.unwrap();
        let request = append_request(&stream, Some(0), Some(event_descriptor()), vec![encoded("b", "{\"n\": 1}")]);
        let (mut open, answer) = Connection::open(&mut client, request.clone()).await.unwrap();
        assert_eq!(answer, Appended::At(Some(0)));
        assert!(matches!(open.append(request).await.unwrap(), Appended::Refused(Code::AlreadyExists, ..)));
        assert_eq!(finalize(&mut client, &stream).await.unwrap(), 1);
        let rows = emulator.rows(&format!(
            "SELECT event_id, attempt, UNIX_MICROS(created_at) AS micros, JSON_VALUE(payload, '$.n') AS n, subject_id \
             FROM `{dataset}.log` ORDER BY event_id"
        ));
        let row = |id| json!({"event_id": id, "attempt": 1, "micros": 1_706_702_400_123_456_i64, "n": "1", "subject_id": null});
        assert_eq!(rows, [row("a"), row("b")]);
    });
}

#[test]
fn the_fake_accepts_only_its_own_tokens_if_authentication_is_on() {
    let (fake, table) = fake();
    fake.require_auth(true);
    wait(async {
        let get = async |client: &Client| client.table().get(&table.project, &table.dataset, &table.table, None).await;
        let error = get(&rest(&fake.rest_endpoint()).await).await.unwrap_err();
        assert_eq!(refusal(error), (401, "required".to_owned()));
        let mut client = grpc(&fake.grpc_endpoint()).await;
        assert_eq!(create_stream(&mut client, &table).await.unwrap_err().code(), Code::Unauthenticated);
        let request = append_request("projects/p/datasets/d/tables/t/streams/s", None, None, vec![]);
        assert_eq!(Connection::open(&mut client, request).await.err().unwrap().code(), Code::Unauthenticated);

        // A service account's key, used through the client's own API.
        let key = serde_json::from_value(fake.service_account_key()).unwrap();
        let mut builder = ClientBuilder::new();
        builder.with_v2_base_url(format!("{}/bigquery/v2", fake.rest_endpoint()));
        let keyed = builder.build_from_service_account_key(key, false).await.unwrap();
        get(&keyed).await.unwrap();
        assert!(fake.grants()[0].starts_with("service_account https://www.googleapis.com/auth/bigquery"), "{:?}", fake.grants());

        let http = reqwest::Client::new();
        let token = async |form: &[(&str, &str)]| {
            let answer = http.post(format!("{}/token", fake.rest_endpoint())).form(form).send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        };
        let user = fake.authorized_user();
        let of_user = |name: &str| user[name].as_str().unwrap();
        let mut form =
            [("grant_type", "refresh_token"), ("client_id", of_user("client_id")), ("refresh_token", of_user("refresh_token"))];
        let (code, answer) = token(&form).await;
        assert_eq!((code, &answer["access_token"]), (200, &json!("fake-token-2")));
        let with_token = rest_with(&fake.rest_endpoint(), "fake-token-2").await;
        get(&with_token).await.unwrap();
        form[2].1 = "another";
        assert_eq!(
            token(&form).await,
            (400, json!({"error": "invalid_grant", "error_description": "Token has been expired or revoked."}))
        );
        fake.faults().next(Method::Token, Fault::Status(503, "backendError"));
        assert_eq!(token(&form).await.0, 503);

        let metadata = async |path: &str, flavor: &str| {
            let url = format!("{}/computeMetadata/v1/{path}", fake.rest_endpoint());
            let answer = http.get(url).header("Metadata-Flavor", flavor).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        assert_eq!(metadata("project/project-id", "Google").await, (200, "fake-project".to_owned()));
        assert_eq!(metadata("project/project-id", "").await.0, 403);
        let (_, answer) = metadata("instance/service-accounts/default/token", "Google").await;
        assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["access_token"], "fake-token-3");
        let mut request = tonic::Request::new(api::FinalizeWriteStreamRequest { name: "projects/p".to_owned() });
        request.metadata_mut().insert("authorization", "Bearer fake-token-3".parse().unwrap());
        assert_eq!(
            client.finalize_write_stream(request).await.unwrap_err().code(),
            Code::NotFound,
            "authorized, but the stream does not exist"
        );
        fake.expire_tokens();
        assert_eq!(refusal(get(&with_token).await.unwrap_err()).0, 401);
    });
}
