//! Every fault of BigQuery, with both write methods, once, three times, and permanently: nothing is lost or duplicated, and a run ends in
//! time with few requests. Against a fake server that fails on demand.

use lorchestra_tests::bigquery::fake::{Fault, Method, StorageErrorCode};
use lorchestra_tests::bigquery::site::{Site, Write, carrier};
use lorchestra_tests::eventually;
use tonic::Code;

/// Every fault of every request, with both write methods: the run's outcome is unaffected, the number of attempts is bounded, and
/// afterwards all events are there, exactly once with streams.
#[test]
fn no_fault_loses_or_duplicates_an_event() {
    let rest = |fault: Fault| (Method::TablesGet, fault);
    let mut storage = vec![
        (Method::AppendRows, Fault::Grpc(Code::Unavailable, "try again", None)),
        (Method::AppendRows, Fault::Grpc(Code::Internal, "internal", None)),
        (Method::AppendRows, Fault::Grpc(Code::ResourceExhausted, "quota", None)),
        (Method::AppendRows, Fault::InBand(Code::Aborted, "aborted", None)),
        (Method::AppendRows, Fault::InBand(Code::Unavailable, "try again", None)),
        (Method::AppendRows, Fault::CloseHalfWay),
        (Method::AppendRows, Fault::CommitThenDrop),
        (Method::AppendRows, Fault::FinalizeStream),
        (Method::AppendRows, Fault::DropStream),
        (Method::AppendRows, Fault::VanishTable(2)),
        (
            Method::AppendRows,
            Fault::InBand(Code::InvalidArgument, "extra fields", Some(StorageErrorCode::SchemaMismatchExtraFields)),
        ),
        (Method::AppendRows, Fault::InBand(Code::OutOfRange, "beyond", Some(StorageErrorCode::OffsetOutOfRange))),
        (Method::AppendRows, Fault::Grpc(Code::NotFound, "in passing", Some(StorageErrorCode::StreamNotFound))),
        (Method::AppendRows, Fault::InBand(Code::InvalidArgument, "Invalid stream name. Entity: s", None)),
        (Method::AppendRows, Fault::InBand(Code::InvalidArgument, "no", None)),
        (Method::AppendRows, Fault::Grpc(Code::FailedPrecondition, "no", None)),
        (Method::AppendRows, Fault::Grpc(Code::PermissionDenied, "no", None)),
        (Method::AppendRows, Fault::RowErrors((0..5000).collect())),
        (Method::CreateStream, Fault::Grpc(Code::FailedPrecondition, "no", None)),
        (Method::CreateStream, Fault::Grpc(Code::Unavailable, "try again", None)),
        (Method::CreateStream, Fault::Grpc(Code::NotFound, "not yet", Some(StorageErrorCode::TableNotFound))),
        (Method::CreateStream, Fault::CloseHalfWay),
        (Method::CreateStream, Fault::CommitThenDrop),
    ];
    let mut insert_all = vec![
        (Method::InsertAll, Fault::Status(403, "rateLimitExceeded")),
        (Method::InsertAll, Fault::Status(403, "quotaExceeded")),
        (Method::InsertAll, Fault::Status(404, "notFound")),
        (Method::InsertAll, Fault::Status(409, "conflict")),
        (Method::InsertAll, Fault::Status(413, "uploadTooLarge")),
        (Method::InsertAll, Fault::Html(413)),
        (Method::InsertAll, Fault::Html(502)),
        (Method::InsertAll, Fault::Empty(429, Some(1))),
        (Method::InsertAll, Fault::Status(429, "rateLimitExceeded")),
        (Method::InsertAll, Fault::Status(500, "internalError")),
        (Method::InsertAll, Fault::Status(502, "backendError")),
        (Method::InsertAll, Fault::Status(503, "backendError")),
        (Method::InsertAll, Fault::CloseHalfWay),
        (Method::InsertAll, Fault::CommitThenDrop),
        (Method::InsertAll, Fault::VanishTable(2)),
        (Method::InsertAll, Fault::RowErrors((0..500).collect())),
    ];
    let connecting = [
        rest(Fault::Status(503, "backendError")),
        rest(Fault::Status(403, "rateLimitExceeded")),
        rest(Fault::Html(502)),
        rest(Fault::Empty(429, None)),
        rest(Fault::CloseHalfWay),
        rest(Fault::VanishTable(1)),
    ];
    storage.extend(connecting.clone());
    insert_all.extend(connecting);
    let matrix =
        storage.into_iter().map(|row| (Write::Storage, row)).chain(insert_all.into_iter().map(|row| (Write::InsertAll, row)));
    let cases: Vec<_> = matrix.flat_map(|case| [1, 3].map(|times| (case.clone(), times))).collect();
    // Cases mostly wait, so run several at once.
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(((write, (method, fault)), times)) =
                    cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    meets(*write, *method, fault, *times);
                }
            });
        }
    });
}

fn meets(write: Write, method: Method, fault: &Fault, times: usize) {
    let label = format!("{write:?}, {times} × {method:?} {fault:?}");
    let site = Site::new(write);
    site.fake.faults().times(times, method, fault.clone());
    let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "60"]);
    assert_eq!(ended.code(), Some(0), "{label}: {}", ended.shown());
    assert!(ended.err().lines().count() <= 2, "{label}: {}", ended.shown());
    assert!(site.fake.requests(method) > 0, "{label}: the fault occurred");
    let requests =
        site.fake.requests(Method::AppendRows) + site.fake.requests(Method::InsertAll) + site.fake.requests(Method::TablesGet);
    assert!(requests <= 40, "{label}: {requests} requests");
    // An error that a person must fix ends a flush: it is reported, and the next flush retries.
    for _ in 0..times {
        let ended = site.sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]);
        let is_reported = || ended.code() == Some(69) && ended.err().contains("nothing is lost");
        assert!(ended.code() == Some(0) || is_reported(), "{label}: {}", ended.shown());
    }
    site.flushed();
    assert_eq!(site.fake.faults().left(method), 0, "{label}: all faults occurred");
    site.all_is_delivered(write, &label);
    assert_eq!(site.flushed(), 0, "{label}");
}

/// Permanent faults: the run still ends, with few requests, and nothing is set aside because of the server; when it recovers, all events
/// arrive.
#[test]
fn a_permanent_fault_prints_one_line_and_loses_no_event() {
    let quota = "Quota exceeded for quota metric 'AppendBytesThroughputPerProject', limit 'bytes per minute'";
    let cases = [
        (Write::Storage, Fault::Grpc(Code::ResourceExhausted, quota, None)),
        (Write::Storage, Fault::Grpc(Code::Internal, "Internal error. Entity: projects/834130/datasets/d", None)),
        (Write::Storage, Fault::Grpc(Code::PermissionDenied, "no", None)),
        (Write::Storage, Fault::Grpc(Code::Unauthenticated, "no", None)),
        (Write::Storage, Fault::Grpc(Code::Unavailable, "try again", None)),
        (Write::Storage, Fault::InBand(Code::InvalidArgument, "something is wrong", None)),
        (Write::Storage, Fault::InBand(Code::FailedPrecondition, "something is wrong", None)),
        (Write::Storage, Fault::Grpc(Code::InvalidArgument, "Invalid stream name. Entity: s", None)),
        (Write::Storage, Fault::RowErrors((0..5000).collect())),
        (Write::Storage, Fault::CloseHalfWay),
        (Write::InsertAll, Fault::Status(400, "invalid")),
        (Write::InsertAll, Fault::Status(401, "authError")),
        (Write::InsertAll, Fault::Status(403, "accessDenied")),
        (Write::InsertAll, Fault::Status(403, "quotaExceeded")),
        (Write::InsertAll, Fault::Status(500, "internalError")),
        (Write::InsertAll, Fault::Html(413)),
        (Write::InsertAll, Fault::Html(502)),
        (Write::InsertAll, Fault::Empty(429, None)),
        (Write::InsertAll, Fault::CloseHalfWay),
        (Write::InsertAll, Fault::RowErrors((0..500).collect())),
    ];
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some((write, fault)) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    outlasts(*write, fault);
                }
            });
        }
    });
}

/// An append without an answer, a stream that is not found, perhaps a server that does not close it and does not say why, and then the append
/// is executed after all: the rows are there once.
#[test]
fn a_slow_append_lands_once() {
    std::thread::scope(|scope| {
        for unclosable in [None, Some(Code::InvalidArgument), Some(Code::FailedPrecondition)] {
            scope.spawn(move || slow_append(unclosable));
        }
    });
}

fn slow_append(unclosable: Option<Code>) {
    const TIMES: usize = 4;
    let site = Site::new(Write::Storage);
    let faults = site.fake.faults();
    faults.next(Method::AppendRows, Fault::Silent);
    let missing = Fault::Grpc(Code::NotFound, "in passing", Some(StorageErrorCode::StreamNotFound));
    faults.times(if unclosable.is_some() { TIMES } else { 1 }, Method::AppendRows, missing);
    if let Some(code) = unclosable {
        faults.times(TIMES, Method::Finalize, Fault::Grpc(code, "no", None));
    }
    let running = site.sandbox.start(&["run-job", "--delivery-timeout", "40s", "misbehave", "numbered", "--count", "300"]);
    eventually("the stream was not found", || faults.left(Method::AppendRows) == 0 && faults.left(Method::Finalize) == 0);
    let label = format!("a slow append, {unclosable:?}");
    assert_eq!(site.fake.requests(Method::Query), 0, "{label}: the append may still be executed");
    faults.release();
    running.wait().exits(0);
    site.flushed();
    site.all_is_delivered(Write::Storage, &label);
}

fn outlasts(write: Write, fault: &Fault) {
    let label = format!("{write:?} {fault:?}");
    let site = Site::new(write);
    site.fake.faults().forever(carrier(write), fault.clone());
    let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "60"]);
    assert_eq!(ended.code(), Some(0), "{label}: {}", ended.shown());
    assert_eq!(ended.err().lines().count(), 1, "{label}: {}", ended.shown());
    assert!(ended.err().contains("62 events are not in BigQuery yet"), "{label}: {}", ended.shown());
    let requests = site.fake.requests(carrier(write));
    assert!((1..=60).contains(&requests), "{label}: {requests} requests");
    site.fake.faults().clear(carrier(write));
    assert_eq!(site.flushed(), 62, "{label}");
    let (mut stored, mut delivered) = (site.stored(), site.delivered());
    stored.sort();
    delivered.sort();
    assert_eq!(delivered, stored, "{label}");
    let failed = site.sandbox.lorchestra(&["events", "list", "--failed"]).exits(0);
    assert_eq!(failed.out(), "", "{label}");
}
