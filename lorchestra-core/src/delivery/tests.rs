//! Tests the order of deliveries against an in-memory table that fails in every way a server can, at any moment.

mod judged;
mod lifecycle;
mod restored;
mod server;

use super::policy::CIRCUIT;
use super::*;
use crate::spool::Cursor;
use crate::spool::record::{self, Record};
use crate::store::Portion;
use crate::store::tests::{Site, new_run, site, started};
use crate::store::{Event, EventFilter, Outbox, Store, Undelivered};
use proptest::prelude::*;
use serde_json::json;
use server::{InjectedFault, Server, Table, Unknown, later};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

/// The destination's name.
const NAME: &str = "there";

/// The id of event `n`.
fn id(n: impl Display) -> String {
    format!("00000000-0000-7000-8000-{n:0>12}")
}

/// Creates a store with `count` events of one run in addition to its `job.started`. Returns the ids of all.
fn filled(site: &Site, count: usize) -> (Outbox, Vec<String>) {
    let mut store = Store::open(&site.state).unwrap();
    store.begin_run(&new_run("run"), &started()).unwrap();
    let lines: Vec<Vec<u8>> = (0..count)
        .map(|i| {
            let mut line = Vec::new();
            let json = json!({"seq": i + 1, "event": {"id": id(i), "at": 5, "type": "t", "payload": {"i": i}}});
            record::frame(&mut line, |out| out.extend_from_slice(json.to_string().as_bytes()));
            line.pop();
            line
        })
        .collect();
    let records: Vec<Record<'_>> = lines.iter().map(|line| record::parse(line).unwrap()).collect();
    store
        .ingest(
            "run",
            1,
            Portion { records: &records, after: Cursor::default(), end: Cursor::default(), damaged: 0 },
            &mut Default::default(),
        )
        .unwrap();
    let store = Outbox::open(store, NAME).unwrap();
    let ids = store.pending_rows(0, usize::MAX, usize::MAX).unwrap().into_iter().map(|out| out.row.event_id).collect();
    (store, ids)
}

fn policy(rows: usize) -> DeliveryPolicy {
    DeliveryPolicy {
        rows,
        bytes: usize::MAX,
        first_wait: Duration::from_millis(10),
        longest_wait: Duration::from_secs(1),
        failures: 4,
        circuit: Duration::from_secs(60),
        patience: 3,
        stream_idle: Duration::from_secs(3600),
    }
}

fn server(script: impl IntoIterator<Item = InjectedFault>) -> Rc<RefCell<Server>> {
    Rc::new(RefCell::new(Server { script: script.into_iter().collect(), limit: usize::MAX, depth: 4, ..Server::default() }))
}

fn table(server: &Rc<RefCell<Server>>, streams: bool) -> Table {
    Table { server: Rc::clone(server), streams, name: "p.d.t".into(), answers: VecDeque::new() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// Delivers with one process after another, each for at most twice ten seconds, until nothing is pending.
fn deliver_all(store: &mut Outbox, server: &Rc<RefCell<Server>>, streams: bool, rows: usize) {
    let runtime = runtime();
    for _ in 0..200 {
        let mut session = Session::new(table(server, streams));
        runtime.block_on(async {
            let mut progress = Progress::default();
            let mut deliverer = Deliverer::new(store, &mut session, policy(rows), &mut progress);
            // Interrupted and resumed, as during a run.
            for _ in 0..2 {
                let _ = tokio::time::timeout(Duration::from_secs(10), deliverer.drain(false)).await;
            }
        });
        let mut pending = store.pending_rows(0, usize::MAX, usize::MAX).unwrap();
        // Suspects are pending too: the next process may deliver them.
        let mut last = 0;
        while let Some(suspect) = store.suspect(last).unwrap() {
            pending.extend(store.row(suspect).unwrap());
            last = suspect;
        }
        let server = server.borrow();
        // A refused event may stay suspect as long as nothing lands after it.
        let refused = |id: &String| server.poison.contains_key(id) || server.bad.contains(id);
        if pending.is_empty() || server.script.is_empty() && pending.iter().all(|out| refused(&out.row.event_id)) {
            return;
        }
    }
    panic!("never done: {:?}", server.borrow());
}

fn resend_refused(store: &mut Outbox, server: &Rc<RefCell<Server>>, streams: bool, rows: usize) {
    let mut session = Session::new(table(server, streams));
    runtime().block_on(async {
        let mut progress = Progress::default();
        let mut deliverer = Deliverer::new(store, &mut session, policy(rows), &mut progress);
        let _ = tokio::time::timeout(Duration::from_secs(60), deliverer.resend_refused()).await;
    });
}

fn faults() -> impl Strategy<Value = Vec<InjectedFault>> {
    let fault = prop_oneof![
        3 => Just(InjectedFault::None),
        2 => any::<bool>().prop_map(|done| InjectedFault::Later { done }),
        2 => any::<bool>().prop_map(|done| InjectedFault::Silent { done }),
        1 => Just(InjectedFault::Stumble),
        1 => Just(InjectedFault::Finalized),
        1 => Just(InjectedFault::Gone),
        1 => Just(InjectedFault::Missing),
        1 => Just(InjectedFault::LayoutChanged),
        1 => Just(InjectedFault::GoneForAMoment),
        2 => (0_u8..8).prop_map(InjectedFault::Slow),
        1 => Just(InjectedFault::Restart),
        1 => Just(InjectedFault::Precondition),
        1 => Just(InjectedFault::Overtaken),
    ];
    prop::collection::vec(fault, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever fails, and whichever process dies, each event is in the table once, or set aside because the server refused it.
    #[test]
    fn streams_deliver_exactly_once(
        script in faults(), count in 0_usize..60, rows in 1_usize..20, limit in 1_usize..20,
        bad in prop_oneof![2 => prop::collection::hash_set(0_usize..60, 0..4), 1 => prop::collection::hash_set(0_usize..60, 8..40)],
        poison in prop::collection::hash_map(0_usize..60, any::<bool>(), 0..3),
        depth in 1_usize..6, unknown in prop_oneof![Just(Unknown::Gone), Just(Unknown::Malformed), Just(Unknown::Precondition)],
    ) {
        let site = site();
        let (mut store, ids) = filled(&site, count);
        let server = server(script);
        server.borrow_mut().limit = limit;
        server.borrow_mut().unknown = unknown;
        server.borrow_mut().depth = depth;
        server.borrow_mut().bad = bad.iter().map(id).collect();
        server.borrow_mut().poison = poison.iter().map(|(i, stumbles)| (id(i), *stumbles)).collect();
        deliver_all(&mut store, &server, true, rows);
        let server = server.borrow();
        let innocent = |id: &&String| !server.bad.contains(*id) && !server.poison.contains_key(*id);
        let mut expected: Vec<&String> = ids.iter().filter(innocent).collect();
        let mut arrived: Vec<&String> = server.rows.iter().collect();
        expected.sort();
        arrived.sort();
        prop_assert_eq!(arrived, expected);
        let backlog = store.store.backlog(NAME, None).unwrap();
        prop_assert_eq!((backlog.pending + backlog.refused, backlog.uncertain), ((ids.len() - server.rows.len()) as u64, 0));
    }

    #[test]
    fn single_requests_deliver_at_least_once(
        script in faults(), count in 0_usize..60, rows in 1_usize..20, limit in 1_usize..20,
        bad in prop_oneof![2 => prop::collection::hash_set(0_usize..60, 0..4), 1 => prop::collection::hash_set(0_usize..60, 8..40)],
    ) {
        let site = site();
        let (mut store, ids) = filled(&site, count);
        let server = server(script);
        server.borrow_mut().limit = limit;
        server.borrow_mut().bad = bad.iter().map(id).collect();
        deliver_all(&mut store, &server, false, rows);
        let server = server.borrow();
        let expected: HashSet<&String> = ids.iter().filter(|id| !server.bad.contains(*id)).collect();
        prop_assert_eq!(server.rows.iter().collect::<HashSet<_>>(), expected);
    }
}

/// The server refuses one row without identifying it: the other rows arrive, and the number of attempts is bounded.
#[test]
fn a_row_that_poisons_its_batch_is_found_and_set_aside() {
    for streams in [true, false] {
        for stumbles in [true, false] {
            let site = site();
            let (mut store, ids) = filled(&site, 500);
            let server = server([]);
            server.borrow_mut().poison = HashMap::from([(id(123), stumbles)]);
            let mut session = Session::new(table(&server, streams));
            let mut progress = Progress::default();
            runtime().block_on(async {
                Deliverer::new(&mut store, &mut session, policy(500), &mut progress).drain(false).await.unwrap();
            });
            assert_eq!(progress, Progress { delivered: ids.len() as u64 - 1, refused: 1, uncertain: 0 });
            assert_eq!(server.borrow().rows.len(), ids.len() - 1);
            assert!(server.borrow().requests < 100, "{} requests", server.borrow().requests);
            // Once fixed, it is delivered once on request.
            server.borrow_mut().poison.clear();
            resend_refused(&mut store, &server, streams, 500);
            assert_eq!(store.store.backlog(NAME, None).unwrap(), crate::store::Backlog::default());
            assert_eq!(server.borrow().rows.iter().filter(|row| **row == id(123)).count(), 1);
        }
    }
}

/// A server that refuses every row with the same answer: nothing is set aside.
#[test]
fn a_server_that_refuses_everything_is_not_mistaken_for_bad_rows() {
    for streams in [true, false] {
        for stumbles in [true, false] {
            let site = site();
            let (mut store, ids) = filled(&site, 50);
            let server = server([]);
            server.borrow_mut().poison = ids.iter().map(|id| (id.clone(), stumbles)).collect();
            let mut session = Session::new(table(&server, streams));
            let stopped = runtime().block_on(async {
                Deliverer::new(&mut store, &mut session, policy(50), &mut Progress::default()).drain(false).await
            });
            let passing = matches!(stopped, Err(Stopped::Unreachable(_)));
            assert!(passing == stumbles && stopped.is_err(), "{stopped:?}");
            let backlog = store.store.backlog(NAME, None).unwrap();
            assert_eq!((backlog.pending, backlog.refused), (ids.len() as u64, 0));
            assert!(server.borrow().requests < 100, "{} requests", server.borrow().requests);
            // The server recovers.
            server.borrow_mut().poison.clear();
            deliver_all(&mut store, &server, streams, 50);
            let mut arrived = server.borrow().rows.clone();
            arrived.sort();
            let mut expected = ids.clone();
            expected.sort();
            assert_eq!(arrived, expected);
        }
    }
}

/// Rows that were set aside while the server failed on everything are retried when it has recovered.
#[test]
fn rows_suspected_during_an_outage_are_delivered() {
    let site = site();
    let (mut store, ids) = filled(&site, 5);
    // Three attempts with the whole batch, three with each of the first two rows, and then the server recovers.
    let server = server([InjectedFault::None].into_iter().chain(std::iter::repeat_n(InjectedFault::Stumble, 9)));
    let mut session = Session::new(table(&server, false));
    let mut progress = Progress::default();
    runtime().block_on(async {
        Deliverer::new(&mut store, &mut session, policy(5), &mut progress).drain(false).await.unwrap();
    });
    assert_eq!(progress, Progress { delivered: ids.len() as u64, refused: 0, uncertain: 0 });
    let mut arrived = server.borrow().rows.clone();
    arrived.sort();
    let mut expected = ids.clone();
    expected.sort();
    assert_eq!(arrived, expected);
}

/// A batch that is resent on request and taken back keeps its state: nothing is lost before the delivered mark.
#[test]
fn events_refused_again_after_a_manual_resend_are_kept() {
    let site = site();
    let (mut store, _) = filled(&site, 9);
    let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Later { done: true }, InjectedFault::Gone]);
    server.borrow_mut().depth = 1;
    server.borrow_mut().unreadable = true;
    deliver_all(&mut store, &server, true, 5);
    assert_eq!(store.store.backlog(NAME, None).unwrap().uncertain, 5);
    // The batch is too large now, and one of its rows is refused.
    let second = store.rows_of(&store.uncertain_batches().unwrap()[0]).unwrap()[1].row.event_id.clone();
    server.borrow_mut().limit = 2;
    server.borrow_mut().bad = HashSet::from([second]);
    let mut session = Session::new(table(&server, true));
    let mut progress = Progress::default();
    runtime().block_on(async {
        Deliverer::new(&mut store, &mut session, policy(5), &mut progress).resend_uncertain().await.unwrap();
    });
    let backlog = store.store.backlog(NAME, None).unwrap();
    assert_eq!((backlog.pending, backlog.refused, backlog.uncertain), (0, 1, 0));
    assert_eq!(progress.delivered, 4);
}

/// Reading the table is not permitted, and the server loses every stream: each batch is retried once per call, not forever.
#[test]
fn uncertain_batches_are_resent_once_per_call() {
    let site = site();
    let (mut store, _) = filled(&site, 9);
    let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Later { done: true }, InjectedFault::Gone]);
    server.borrow_mut().depth = 1;
    server.borrow_mut().unreadable = true;
    deliver_all(&mut store, &server, true, 5);
    let before = server.borrow().requests;
    server.borrow_mut().script = std::iter::repeat_n(InjectedFault::Gone, 100).collect();
    let mut session = Session::new(table(&server, true));
    let mut progress = Progress::default();
    runtime().block_on(async {
        let again = Deliverer::new(&mut store, &mut session, policy(5), &mut progress).resend_uncertain().await;
        assert!(again.is_ok(), "{again:?}");
    });
    assert_eq!((progress.uncertain, store.store.backlog(NAME, None).unwrap().uncertain), (5, 5));
    assert!(server.borrow().requests - before < 10);
}

/// Another writer's rows are in the stream, and then it is finalized: its row count proves nothing about a batch that was never sent.
#[test]
fn rows_of_another_writer_in_a_finalized_stream_are_not_mistaken_for_ours() {
    let site = site();
    let (mut store, ids) = filled(&site, 4);
    let server = server([]);
    deliver_all(&mut store, &server, true, 2);
    let strangers = ["x", "y", "z"].map(String::from);
    server.borrow_mut().streams.get_mut("stream1").unwrap().rows.extend(strangers);
    server.borrow_mut().streams.get_mut("stream1").unwrap().finalized = true;
    store.store.begin_run(&new_run("second"), &started()).unwrap();
    deliver_all(&mut store, &server, true, 2);
    assert_eq!(server.borrow().rows.len(), ids.len() + 1);
}

/// If the table cannot be queried because of credentials, the query is retried later rather than given up.
#[test]
fn only_a_denied_query_makes_a_batch_uncertain() {
    for refusal in [DeliveryError::Unauthenticated("401".into()), later()] {
        let site = site();
        let (mut store, ids) = filled(&site, 9);
        let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Later { done: true }, InjectedFault::Gone]);
        server.borrow_mut().look = Some(refusal);
        let mut session = Session::new(table(&server, true));
        let stopped = runtime()
            .block_on(async { Deliverer::new(&mut store, &mut session, policy(5), &mut Progress::default()).drain(false).await });
        assert!(stopped.is_err());
        assert_eq!(store.store.backlog(NAME, None).unwrap().uncertain, 0);
        server.borrow_mut().look = None;
        deliver_all(&mut store, &server, true, 5);
        assert_eq!(server.borrow().rows, ids);
    }
}

/// The clock was set back after a circuit had opened, or the configuration now names another server.
#[test]
fn a_circuit_is_for_one_server_and_one_minute() {
    let site = site();
    let (mut store, _) = filled(&site, 1);
    let now = 1_000_000_000_000_000;
    let open = |until| crate::store::Circuit { until, reason: "down".into(), route: "a".into() };
    store.set_circuit(Some(&open(now + 60_000_000))).unwrap();
    assert!(store.circuit("a", now, CIRCUIT).unwrap().is_some() && store.circuit("b", now, CIRCUIT).unwrap().is_none());
    store.set_circuit(Some(&open(now + 3_600_000_000))).unwrap();
    assert!(store.circuit("a", now, CIRCUIT).unwrap().is_none(), "the deliverer does not wait for an hour");
}

/// A batch with an unknown result, a lost stream, and no permission to read: the batch is kept as uncertain, and nothing else waits for it.
#[test]
fn a_batch_that_cannot_be_checked_is_uncertain_until_it_is_resent() {
    let site = site();
    let (mut store, ids) = filled(&site, 9);
    let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Later { done: true }, InjectedFault::Gone]);
    server.borrow_mut().depth = 1;
    server.borrow_mut().unreadable = true;
    deliver_all(&mut store, &server, true, 5);
    let backlog = store.store.backlog(NAME, None).unwrap();
    assert_eq!((backlog.pending, backlog.uncertain), (0, 5));
    assert_eq!(server.borrow().rows.len(), ids.len(), "they had landed, but the table cannot be queried");
    let mut session = Session::new(table(&server, true));
    runtime().block_on(async {
        Deliverer::new(&mut store, &mut session, policy(5), &mut Progress::default()).resend_uncertain().await.unwrap();
    });
    assert_eq!(store.store.backlog(NAME, None).unwrap().uncertain, 0);
    assert_eq!(server.borrow().rows.len(), ids.len() + 5, "resent on request, so they are there twice");
}

/// Another program changed a payload in the database: the event is set aside with the reason, even on request, and the others are
/// delivered.
#[test]
fn an_event_that_is_damaged_in_the_store_is_not_sent() {
    let site = site();
    let (mut store, ids) = filled(&site, 5);
    store.store.change("UPDATE events SET payload = '{\"i\":7}' WHERE payload = '{\"i\":2}'");
    let server = server([]);
    deliver_all(&mut store, &server, true, 5);
    let mut session = Session::new(table(&server, true));
    runtime().block_on(async {
        Deliverer::new(&mut store, &mut session, policy(5), &mut Progress::default()).resend_refused().await.unwrap();
    });
    let (rows, backlog) = (server.borrow().rows.clone(), store.store.backlog(NAME, None).unwrap());
    assert_eq!((rows.len(), backlog.pending, backlog.refused), (ids.len() - 1, 0, 1));
    let mut damaged = Vec::new();
    let filter = EventFilter { delivery: Some((Undelivered::Refused, NAME.into())), ..EventFilter::default() };
    let each = |event: Event| {
        damaged.push((event.damaged, event.delivery_error));
        Ok::<(), ()>(())
    };
    store.store.events(&filter, each).unwrap().unwrap();
    assert_eq!(damaged, [(true, Some("damaged in the store: its checksum does not match".to_owned()))]);
}

#[test]
fn a_failing_destination_is_left_alone() {
    let site = site();
    let (mut store, _) = filled(&site, 3);
    let server = server([InjectedFault::Later { done: false }; 100]);
    let mut session = Session::new(table(&server, true));
    let stopped = runtime()
        .block_on(async { Deliverer::new(&mut store, &mut session, policy(5), &mut Progress::default()).drain(false).await });
    assert!(matches!(stopped, Err(Stopped::Unreachable(_))), "{stopped:?}");
    assert_eq!(server.borrow().requests, 4, "attempts are bounded");
    let circuit = store.circuit("p.d.t", crate::host::clock::now_micros(), CIRCUIT).unwrap().unwrap();
    assert_eq!(circuit.reason, "503");
    assert!(store.circuit("p.d.t", crate::host::clock::now_micros() + 61_000_000, CIRCUIT).unwrap().is_none(), "for a minute");
}

#[test]
fn a_missing_table_is_reported_after_some_retries() {
    let site = site();
    let (mut store, _) = filled(&site, 3);
    let server = server([InjectedFault::Missing; 100]);
    let mut session = Session::new(table(&server, false));
    let stopped = runtime()
        .block_on(async { Deliverer::new(&mut store, &mut session, policy(5), &mut Progress::default()).drain(true).await });
    assert!(matches!(stopped, Err(Stopped::Blocked(DeliveryError::TargetMissing(_)))), "{stopped:?}");
    assert_eq!(server.borrow().requests, 4);
    assert_eq!(store.store.backlog(NAME, None).unwrap().pending, 4);
}

/// `tables.get` shows a table as soon as it is created; for minutes after that, writes may still fail as if it did not exist.
#[test]
fn delivery_waits_for_a_new_table_if_there_is_time() {
    let not_yet = [InjectedFault::None, InjectedFault::Missing].repeat(8);
    for (persistent, delivered) in [(true, true), (false, false)] {
        let site = site();
        let (mut store, ids) = filled(&site, 3);
        let server = server(not_yet.clone());
        let mut session = Session::new(table(&server, false));
        let mut policy = policy(5);
        policy.failures = 100;
        let drained = runtime().block_on(async {
            Deliverer::new(&mut store, &mut session, policy, &mut Progress::default()).drain(persistent).await
        });
        assert_eq!(drained.is_ok(), delivered, "{drained:?}");
        assert_eq!(server.borrow().rows.len(), if delivered { ids.len() } else { 0 });
    }
}

/// The state directory was copied, and both copies deliver: the rows in the stream belong to the other one.
#[test]
fn rows_of_another_writer_are_not_mistaken_for_ours() {
    let site = site();
    let (mut store, ids) = filled(&site, 4);
    let server = server([]);
    deliver_all(&mut store, &server, true, 2);
    server.borrow_mut().streams.get_mut("stream1").unwrap().rows.extend(["x", "y", "z"].map(String::from));
    store.store.begin_run(&new_run("second"), &started()).unwrap();
    deliver_all(&mut store, &server, true, 2);
    assert_eq!(server.borrow().rows.len(), ids.len() + 1);
    assert_eq!(server.borrow().streams.len(), 2, "a stream of its own");
}

/// The configuration changes to another table while a batch is in flight to the first.
#[test]
fn a_batch_for_the_previous_table_is_settled_there() {
    for done in [true, false] {
        let site = site();
        let (mut store, ids) = filled(&site, 4);
        let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Silent { done }]);
        let runtime = runtime();
        let mut first = Session::new(table(&server, true));
        runtime.block_on(async {
            let mut progress = Progress::default();
            let mut deliverer = Deliverer::new(&mut store, &mut first, policy(100), &mut progress);
            assert!(tokio::time::timeout(Duration::from_secs(1), deliverer.drain(false)).await.is_err());
        });
        let mut second = Session::new(Table { name: "p.d.other".into(), ..table(&server, true) });
        runtime.block_on(async {
            Deliverer::new(&mut store, &mut second, policy(100), &mut Progress::default()).drain(false).await.unwrap();
        });
        assert_eq!(server.borrow().rows, ids, "once, in one of the two");
    }
}

/// One server is down for a simulated hour (it fails, or does not respond); the other one receives each event within a minute, from the
/// same store at the same time.
#[test]
fn a_server_that_is_down_for_an_hour_does_not_delay_another() {
    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);
    for silent in [false, true] {
        let site = site();
        let (mut here, _) = filled(&site, 3);
        let mut there = Outbox::open(Store::open(&site.state).unwrap(), "other").unwrap();
        let fault = if silent { InjectedFault::Silent { done: false } } else { InjectedFault::Later { done: false } };
        let (up, down) = (server([]), server([fault; 10_000]));
        let (mut session, mut progress) = (Session::new(table(&down, true)), Progress::default());
        let down_for_an_hour = async {
            let mut deliverer = Deliverer::new(&mut there, &mut session, policy(5), &mut progress);
            let stopped = tokio::time::timeout(HOUR, deliverer.drain(true)).await;
            assert!(stopped.is_err(), "it keeps retrying: {stopped:?}");
        };
        let up_all_the_while = async {
            let (mut session, mut progress) = (Session::new(table(&up, true)), Progress::default());
            for minute in 0..60 {
                here.store.begin_run(&new_run(&format!("run{minute}")), &started()).unwrap();
                let mut deliverer = Deliverer::new(&mut here, &mut session, policy(5), &mut progress);
                let done = tokio::time::timeout(MINUTE, deliverer.drain(false)).await;
                assert!(matches!(done, Ok(Ok(()))), "minute {minute}: {done:?}");
                assert_eq!(here.store.backlog(NAME, None).unwrap().pending, 0, "minute {minute}");
                tokio::time::sleep(MINUTE).await;
            }
        };
        runtime().block_on(async { tokio::join!(down_for_an_hour, up_all_the_while) });
        assert_eq!((down.borrow().rows.len(), down.borrow().requests > 10), (0, !silent), "silent: {silent}");
        down.borrow_mut().script.clear();
        deliver_all(&mut there, &down, true, 5);
        let ids = up.borrow().rows.clone();
        assert_eq!((ids.len(), &ids), (64, &down.borrow().rows), "each destination has each event, in order");
    }
}
