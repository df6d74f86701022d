//! Streams that lorchestra must leave while batches are in doubt: the requests that settle the doubt (FinalizeWriteStream, jobs.query,
//! CreateWriteStream) fail too, and state directories that were copied or restored. Each event is in the table once.

use lorchestra_tests::Sandbox;
use lorchestra_tests::bigquery::fake::{Fault, Method, StorageErrorCode};
use lorchestra_tests::bigquery::site::{Site, Write};
use lorchestra_tests::sandbox::copy_all;
use serde_json::json;
use std::time::Duration;
use tonic::Code;

/// One fault makes a stream unusable with a batch in doubt, and the requests that follow fail twice.
#[test]
fn faults_while_a_stream_is_left_lose_and_duplicate_nothing() {
    let leaving = [
        vec![Fault::Grpc(Code::FailedPrecondition, "no", None)],
        vec![Fault::CommitThenDrop, Fault::Grpc(Code::FailedPrecondition, "no", None)],
        vec![Fault::CommitThenDrop, Fault::DropStream],
        vec![Fault::CommitThenDrop, Fault::InBand(Code::InvalidArgument, "Invalid stream name. Entity: s", None)],
        vec![Fault::FinalizeStream],
        vec![Fault::Grpc(Code::NotFound, "in passing", Some(StorageErrorCode::StreamNotFound))],
    ];
    let settling = [
        (Method::Finalize, Fault::Grpc(Code::Unavailable, "try again", None)),
        (Method::Finalize, Fault::Grpc(Code::Internal, "internal", None)),
        (Method::Finalize, Fault::Grpc(Code::InvalidArgument, "no", None)),
        (Method::Finalize, Fault::CloseHalfWay),
        (Method::Finalize, Fault::CommitThenDrop),
        (Method::Finalize, Fault::DropStream),
        (Method::Query, Fault::Status(503, "backendError")),
        (Method::Query, Fault::Status(403, "rateLimitExceeded")),
        (Method::Query, Fault::Html(502)),
        (Method::Query, Fault::Empty(429, None)),
        (Method::Query, Fault::CloseHalfWay),
        (Method::CreateStream, Fault::Grpc(Code::Unavailable, "try again", None)),
    ];
    let cases: Vec<_> = leaving.iter().flat_map(|leave| settling.iter().map(move |settle| (leave, settle))).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some((leave, settle)) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    leaves(leave, settle);
                }
            });
        }
    });
}

fn leaves(leave: &[Fault], (method, fault): &(Method, Fault)) {
    let times = 2;
    let label = format!("{leave:?}, then {times} × {method:?} {fault:?}");
    let site = Site::new(Write::Storage);
    // The first batch lands, so that there is a stream to leave.
    site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    for fault in leave {
        site.fake.faults().next(Method::AppendRows, fault.clone());
    }
    site.fake.faults().times(times, *method, fault.clone());
    let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "60"]);
    assert_eq!(ended.code(), Some(0), "{label}: {}", ended.shown());
    for _ in 0..=times {
        let ended = site.sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]);
        let is_reported = || ended.code() == Some(69) && ended.err().contains("nothing is lost");
        assert!(ended.code() == Some(0) || is_reported(), "{label}: {}", ended.shown());
    }
    // Not every fault of an append makes each of these requests necessary.
    site.fake.faults().clear(*method);
    site.flushed();
    assert_eq!(site.fake.faults().left(Method::AppendRows), 0, "{label}: the stream had to be left");
    site.all_is_delivered(Write::Storage, &label);
    assert_eq!(site.flushed(), 0, "{label}");
    assert_eq!(not_delivered(&site), "", "{label}");
}

/// The events that are uncertain or set aside, as listed.
fn not_delivered(site: &Site) -> String {
    let listed =
        ["--uncertain", "--failed"].map(|which| site.sandbox.lorchestra(&["events", "list", which]).exits(0).out().to_owned());
    listed.concat()
}

/// The query for an unconfirmed batch is restricted to its times, as a table with a required partition filter demands, and finds all its
/// rows.
#[test]
fn an_unconfirmed_batch_is_found_in_a_table_that_requires_a_partition_filter() {
    let site = Site::without_table(Write::Storage);
    let fields = lorchestra_tests::bigquery::fake::event_columns();
    let partitioned = json!({"schema": {"fields": fields}, "timePartitioning": {"type": "DAY", "field": "created_at"}, "requirePartitionFilter": true});
    site.fake.create_table(&site.table, &partitioned);
    site.fake.faults().next(Method::AppendRows, Fault::CommitThenDrop);
    site.fake.faults().next(Method::AppendRows, Fault::DropStream);
    site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "60"]).exits(0);
    site.flushed();
    assert!(site.fake.requests(Method::Query) > 0, "the table was queried");
    site.all_is_delivered(Write::Storage, "with a partition filter");
    assert_eq!(not_delivered(&site), "");
}

/// Google may take longer to create a stream than to answer any other request: lorchestra waits, and does not send the request again.
#[test]
fn delivery_waits_for_a_stream_that_is_created_slowly() {
    let site = Site::new(Write::Storage);
    site.fake.faults().next(Method::CreateStream, Fault::Delay(Duration::from_secs(13)));
    let ended = site.sandbox.lorchestra(&["run-job", "--delivery-timeout", "50s", "misbehave", "noop"]).exits(0);
    assert_eq!(ended.err(), "", "{}", ended.shown());
    assert_eq!(site.fake.requests(Method::CreateStream), 1);
    site.all_is_delivered(Write::Storage, "a slow creation");
}

/// An older copy of the state directory takes the place of the newer one, and continues to deliver to the stream in which the newer one
/// has written other rows. Both writers' events arrive once.
#[test]
fn a_restored_state_directory_loses_and_duplicates_nothing() {
    let site = Site::new(Write::Storage);
    site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "10"]).exits(0);
    let (state, backup, newer) = (site.sandbox.state(), site.sandbox.path("backup"), site.sandbox.path("newer"));
    copy_all(&state, &backup);
    site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "25"]).exits(0);
    let mut written = site.stored();
    std::fs::rename(&state, &newer).unwrap();
    std::fs::rename(&backup, &state).unwrap();
    let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "40"]).exits(0);
    assert_eq!(ended.err(), "", "{}", ended.shown());
    site.flushed();
    written.extend(site.stored());
    written.sort();
    written.dedup();
    let mut delivered = site.delivered();
    delivered.sort();
    assert_eq!(delivered, written, "each event of both histories is there once");
    assert_eq!(not_delivered(&site), "");
}

/// An older copy of the database is written over the newer one, which keeps its inode: events that were pending in the copy have been
/// delivered since.
#[test]
fn a_database_restored_in_place_duplicates_nothing() {
    let site = Site::new(Write::Storage);
    site.fake.go_down();
    site.sandbox.lorchestra(&["run-job", "--delivery-timeout", "0s", "misbehave", "numbered", "--count", "10"]).exits(0);
    let (state, backup) = (site.sandbox.state(), site.sandbox.path("backup"));
    let pending = site.stored();
    copy_all(&state, &backup);
    site.fake.come_up();
    assert_eq!(site.flushed(), 12);
    site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "5"]).exits(0);
    let mut written = site.stored();
    for name in ["lorchestra.db", "lorchestra.db-wal"] {
        std::fs::write(state.join(name), std::fs::read(backup.join(name)).unwrap()).unwrap();
    }
    assert_eq!(site.stored(), pending);
    site.flushed();
    let mut delivered = site.delivered();
    written.sort();
    delivered.sort();
    assert_eq!(delivered, written, "each event is there once");
    assert_eq!(not_delivered(&site), "");
}

/// Two hosts were made from one image, so they have the same stream: each event of both arrives once.
#[test]
fn a_copied_state_directory_loses_and_duplicates_nothing() {
    let site = Site::new(Write::Storage);
    site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "10"]).exits(0);
    let twin = Site { sandbox: Sandbox::with(&[lorchestra_tests::Fixture::Misbehave]), ..Site::new(Write::Storage) };
    let mut written = site.stored();
    // The twin delivers to the first one's server.
    twin.sandbox.configure(&std::fs::read_to_string(site.sandbox.home().join(".config/lorchestra/config.toml")).unwrap());
    copy_all(&site.sandbox.state(), &twin.sandbox.state());
    for count in ["20", "30"] {
        std::thread::scope(|scope| {
            for sandbox in [&site.sandbox, &twin.sandbox] {
                scope.spawn(|| sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", count]).exits(0));
            }
        });
    }
    for sandbox in [&site.sandbox, &twin.sandbox] {
        sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]).exits(0);
        let listed = sandbox.lorchestra(&["events", "list", "--json"]).exits(0);
        written
            .extend(listed.json_lines("lorchestra.event/1").iter().map(|event| event["event_id"].as_str().unwrap().to_owned()));
    }
    written.sort();
    written.dedup();
    let mut delivered = site.delivered();
    delivered.sort();
    assert_eq!(delivered, written, "each event of both hosts is there once");
}
