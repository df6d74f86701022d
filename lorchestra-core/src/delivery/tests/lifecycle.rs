//! Streams that disappear, answer unexpectedly or are written to by others, and refusals that are not caused by a row. See
//! [`super::super::destination`].

use super::*;

pub(super) fn drained(store: &mut Outbox, server: &Rc<RefCell<Server>>, rows: usize) -> (Result<(), Stopped>, Progress) {
    let mut session = Session::new(table(server, true));
    let mut progress = Progress::default();
    let policy = DeliveryPolicy { failures: 6, ..policy(rows) };
    let stopped = runtime().block_on(async { Deliverer::new(store, &mut session, policy, &mut progress).drain(false).await });
    (stopped, progress)
}

/// Adds events to the store.
pub(super) fn emit(store: &mut Outbox, run: &str) {
    store.store.begin_run(&new_run(run), &started()).unwrap();
}

pub(super) fn all_ids(store: &Outbox) -> Vec<String> {
    let mut ids = Vec::new();
    let each = |event: crate::store::Event| {
        ids.push(event.event_id);
        Ok::<(), ()>(())
    };
    store.store.events(&crate::store::EventFilter::default(), each).unwrap().unwrap();
    ids.sort();
    ids
}

/// A state directory as copied by `cp -r`.
pub(super) fn copied(site: &Site, place: &std::path::Path) -> crate::host::state::StateDir {
    let state = crate::host::state::StateDir::open(&place.join("state")).unwrap();
    for entry in std::fs::read_dir(site.state.store().parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, state.store().with_file_name(path.file_name().unwrap())).unwrap();
        }
    }
    state
}

pub(super) fn sorted(rows: &[String]) -> Vec<String> {
    let mut rows = rows.to_vec();
    rows.sort();
    rows
}

/// The server was restarted and has no streams, and reports that in one of three ways. One flush delivers, and no row becomes suspect.
#[test]
fn a_restarted_server_loses_a_stream_and_no_row() {
    for unknown in [Unknown::Gone, Unknown::Malformed, Unknown::Precondition] {
        let site = site();
        let (mut store, _) = filled(&site, 300);
        let server = server([]);
        server.borrow_mut().unknown = unknown;
        deliver_all(&mut store, &server, true, 500);
        for restart in 0..3 {
            server.borrow_mut().streams.clear();
            emit(&mut store, &format!("after {restart}"));
            let before = server.borrow().requests;
            let (stopped, progress) = drained(&mut store, &server, 500);
            assert!(stopped.is_ok(), "{unknown:?}: {stopped:?}");
            assert_eq!(progress, Progress { delivered: 1, refused: 0, uncertain: 0 }, "{unknown:?}");
            let requests = server.borrow().requests - before;
            assert!(requests <= 8, "{unknown:?}: {requests} requests");
        }
        assert_eq!(sorted(&server.borrow().rows), all_ids(&store), "{unknown:?}");
    }
}

/// A failed precondition on every stream: delivery is blocked for a minute, and nothing is set aside.
#[test]
fn a_permanent_precondition_failure_sets_nothing_aside() {
    let site = site();
    let (mut store, ids) = filled(&site, 20);
    let server = server([InjectedFault::None, InjectedFault::None].into_iter().chain([InjectedFault::Precondition; 100]));
    let (stopped, _) = drained(&mut store, &server, 100);
    assert!(matches!(stopped, Err(Stopped::Blocked(DeliveryError::Forbidden(_)))), "{stopped:?}");
    assert!(server.borrow().requests < 20, "{} requests", server.borrow().requests);
    let backlog = store.store.backlog(NAME, None).unwrap();
    assert_eq!((backlog.pending, backlog.refused, backlog.uncertain), (ids.len() as u64, 0, 0));
    server.borrow_mut().script.clear();
    deliver_all(&mut store, &server, true, 100);
    assert_eq!(sorted(&server.borrow().rows), sorted(&ids));
}

/// An append without an answer, a stream that is briefly not found, and then the append is executed after all.
#[test]
fn a_slow_append_and_a_stream_briefly_not_found_duplicate_nothing() {
    for after in 0..8 {
        let site = site();
        let (mut store, ids) = filled(&site, 301);
        let server =
            server([InjectedFault::None, InjectedFault::None, InjectedFault::Slow(after), InjectedFault::GoneForAMoment]);
        deliver_all(&mut store, &server, true, 500);
        emit(&mut store, "more");
        deliver_all(&mut store, &server, true, 500);
        assert_eq!(server.borrow().rows.len(), ids.len() + 1, "after {after} requests");
    }
}

/// An append without an answer, a stream that is reported as missing, and a server that refuses to close it without a reason, again and
/// again: the table is not queried, because the append may still be executed. When it is, the rows are there once.
#[test]
fn a_stream_that_cannot_be_closed_keeps_a_slow_append_pending() {
    for after in [2, 5, 9, 14, 40] {
        let site = site();
        let (mut store, ids) = filled(&site, 301);
        let missing = [InjectedFault::GoneForAMoment, InjectedFault::None].repeat(20);
        let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Slow(after)].into_iter().chain(missing));
        server.borrow_mut().depth = 1;
        server.borrow_mut().unclosable = true;
        let mut stopped = Vec::new();
        for _ in 0..4 {
            stopped.push(drained(&mut store, &server, 500).0);
        }
        assert!(matches!(stopped[0], Err(Stopped::Unreachable(_)) | Ok(())), "after {after}: {stopped:?}");
        assert_eq!(store.store.backlog(NAME, None).unwrap().uncertain, 0);
        server.borrow_mut().unclosable = false;
        server.borrow_mut().script.clear();
        deliver_all(&mut store, &server, true, 500);
        emit(&mut store, "more");
        deliver_all(&mut store, &server, true, 500);
        assert_eq!(server.borrow().rows.len(), ids.len() + 1, "after {after} requests");
    }
}

/// Nothing is in flight in a stream that cannot be closed: it is left as it is.
#[test]
fn a_stream_that_cannot_be_closed_is_left_if_nothing_is_in_flight() {
    let site = site();
    let (mut store, ids) = filled(&site, 20);
    let server = server([]);
    deliver_all(&mut store, &server, true, 100);
    emit(&mut store, "more");
    server.borrow_mut().depth = 1;
    server.borrow_mut().unclosable = true;
    server.borrow_mut().unknown = Unknown::Malformed;
    server.borrow_mut().streams.clear();
    let (stopped, progress) = drained(&mut store, &server, 100);
    assert!(stopped.is_ok(), "{stopped:?}");
    assert_eq!((progress.delivered, server.borrow().rows.len()), (1, ids.len() + 1));
}

/// Another writer's rows are at the position of a batch with an unknown result, and querying is not permitted: they are taken for ours only
/// if nothing shows that they are not. Otherwise the events are uncertain.
#[test]
fn rows_at_the_position_of_an_unknown_batch_are_not_taken_for_it_without_evidence() {
    for (strangers_after, is_rebooted, uncertain) in [(3, false, 21), (0, true, 21), (0, false, 0)] {
        let site = site();
        let (mut store, ids) = filled(&site, 20);
        let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Overtaken]);
        server.borrow_mut().depth = 1;
        server.borrow_mut().unreadable = true;
        server.borrow_mut().strangers_after = strangers_after;
        let mut session = Session::new(table(&server, true));
        runtime().block_on(async {
            let mut progress = Progress::default();
            let mut deliverer = Deliverer::new(&mut store, &mut session, policy(100), &mut progress);
            // Killed while it waits for the next attempt.
            assert!(tokio::time::timeout(Duration::from_millis(1), deliverer.drain(false)).await.is_err());
        });
        assert!(store.frozen_batch().unwrap().is_some() && server.borrow().strangers > 0);
        if is_rebooted {
            store.store.change("UPDATE batches SET boot = 'an earlier one'");
        }
        deliver_all(&mut store, &server, true, 100);
        let backlog = store.store.backlog(NAME, None).unwrap();
        let label = format!("{strangers_after} rows more, rebooted {is_rebooted}");
        assert_eq!((backlog.pending, backlog.uncertain), (0, uncertain), "{label}");
        assert_eq!(ids.len(), 21);
        assert!(server.borrow().rows.is_empty(), "{label}");
    }
}

/// Several batches are frozen, and another writer's rows end in the middle of the second: neither batch is taken for delivered.
#[test]
fn a_stream_that_ends_within_a_batch_was_written_by_another_store() {
    let site = site();
    let (mut store, ids) = filled(&site, 29);
    let server = server([InjectedFault::None; 2].into_iter().chain([InjectedFault::Later { done: false }; 20]));
    let _ = drained(&mut store, &server, 10);
    server.borrow_mut().script.clear();
    assert!(store.frozen_batches().unwrap().len() > 1 && server.borrow().rows.is_empty());
    server.borrow_mut().streams.get_mut("stream1").unwrap().rows.extend((0..15).map(|n| n.to_string()));
    server.borrow_mut().unreadable = true;
    deliver_all(&mut store, &server, true, 10);
    let backlog = store.store.backlog(NAME, None).unwrap();
    assert_eq!(backlog.uncertain + server.borrow().rows.len() as u64, ids.len() as u64, "none is lost");
    assert!(backlog.uncertain >= 20);
}

/// A batch has an unknown result, and another writer's rows are at its position: they are not taken for ours.
#[test]
fn rows_at_the_position_of_an_unknown_batch_are_not_mistaken_for_it() {
    let site = site();
    let (mut store, ids) = filled(&site, 20);
    let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Overtaken]);
    deliver_all(&mut store, &server, true, 10);
    assert!(server.borrow().strangers > 0);
    assert_eq!(sorted(&server.borrow().rows), sorted(&ids));
}

/// A state directory is copied with pending events, one of them in flight. Both copies deliver, in either order, and so does a restored
/// one.
#[test]
fn a_copied_state_directory_delivers_nothing_twice_and_loses_nothing() {
    for frozen in [false, true] {
        for stream_gone in [false, true] {
            let site = site();
            let (mut store, ids) = filled(&site, 30);
            let there = if frozen {
                vec![
                    InjectedFault::None,
                    InjectedFault::None,
                    InjectedFault::Later { done: true },
                    InjectedFault::Later { done: false },
                ]
            } else {
                vec![]
            };
            let server =
                server(there.into_iter().chain(if frozen { vec![InjectedFault::Later { done: false }; 10] } else { vec![] }));
            if frozen {
                let _ = drained(&mut store, &server, 7);
                server.borrow_mut().script.clear();
            }
            drop(store);
            let copy = tempfile::tempdir().unwrap();
            let state = copied(&site, copy.path());
            let open = |state| Outbox::open(Store::open(state).unwrap(), NAME).unwrap();
            let mut original = open(&site.state);
            assert_eq!(original.doubtful_to().unwrap(), 0);
            deliver_all(&mut original, &server, true, 7);
            emit(&mut original, "of the original");
            if stream_gone {
                server.borrow_mut().streams.clear();
            }
            let mut restored = open(&state);
            assert_eq!(restored.doubtful_to().unwrap(), 31);
            emit(&mut restored, "of the copy");
            deliver_all(&mut restored, &server, true, 7);
            deliver_all(&mut original, &server, true, 7);
            let reported = format!("frozen {frozen}, stream gone {stream_gone}");
            let mut expected = all_ids(&original);
            expected.extend(all_ids(&restored));
            expected.sort();
            expected.dedup();
            assert_eq!(sorted(&server.borrow().rows), expected, "{reported}");
            assert_eq!(expected.len(), ids.len() + 2, "{reported}");
        }
    }
}

/// Querying the table is not permitted, and the state directory is a copy: a batch with something at its position is uncertain, not
/// delivered.
#[test]
fn a_copy_that_cannot_query_reports_nothing_as_delivered_that_may_be_lost() {
    let site = site();
    let (mut store, ids) = filled(&site, 20);
    let server = server([InjectedFault::None, InjectedFault::None].into_iter().chain([InjectedFault::Later { done: false }; 10]));
    let _ = drained(&mut store, &server, 100);
    server.borrow_mut().script.clear();
    drop(store);
    let copy = tempfile::tempdir().unwrap();
    let state = copied(&site, copy.path());
    let mut restored = Outbox::open(Store::open(&state).unwrap(), NAME).unwrap();
    // The other copy's rows, which differ from ours.
    server.borrow_mut().streams.get_mut("stream1").unwrap().rows.extend((0..40).map(|n| n.to_string()));
    server.borrow_mut().unreadable = true;
    deliver_all(&mut restored, &server, true, 100);
    assert_eq!(restored.store.backlog(NAME, None).unwrap().uncertain, ids.len() as u64);
    assert_eq!(server.borrow().rows.len(), 0);
}

/// The clock is years off, or a column has changed: every row is refused. Nothing is set aside, it costs one request, and it is reported
/// once.
#[test]
fn rows_that_are_all_refused_stay_pending() {
    for streams in [true, false] {
        let site = site();
        let (mut store, ids) = filled(&site, 301);
        let server = server([]);
        server.borrow_mut().every_row = Some("out of range");
        for _ in 0..3 {
            let before = server.borrow().requests;
            let mut session = Session::new(table(&server, streams));
            let mut progress = Progress::default();
            let stopped = runtime()
                .block_on(async { Deliverer::new(&mut store, &mut session, policy(500), &mut progress).drain(false).await });
            let Err(Stopped::Blocked(DeliveryError::EveryRow(text))) = stopped else { panic!("{stopped:?}") };
            assert!(text.contains("all 302 events of a batch were refused for one reason: out of range"), "{text}");
            assert_eq!(progress, Progress::default());
            assert!(server.borrow().requests - before <= 3);
        }
        let backlog = store.store.backlog(NAME, None).unwrap();
        assert_eq!((backlog.pending, backlog.refused), (ids.len() as u64, 0));
        server.borrow_mut().every_row = None;
        deliver_all(&mut store, &server, streams, 500);
        assert_eq!(sorted(&server.borrow().rows), sorted(&ids));
    }
}

/// The clock jumps after some batches have landed: these prove nothing about what is refused afterwards, and nothing is set aside.
#[test]
fn rows_that_are_all_refused_after_others_have_landed_stay_pending() {
    for depth in [1, 4] {
        let site = site();
        let (mut store, ids) = filled(&site, 99);
        let server = server([]);
        {
            let mut server = server.borrow_mut();
            (server.depth, server.every_row, server.every_row_after) = (depth, Some("out of range"), 10);
        }
        for _ in 0..3 {
            let (stopped, progress) = drained(&mut store, &server, 10);
            assert!(matches!(stopped, Err(Stopped::Blocked(DeliveryError::EveryRow(_)))), "{stopped:?}");
            assert_eq!((progress.refused, progress.uncertain), (0, 0));
        }
        let backlog = store.store.backlog(NAME, None).unwrap();
        assert_eq!((backlog.pending, backlog.refused), (ids.len() as u64 - 10, 0), "depth {depth}");
        server.borrow_mut().every_row = None;
        deliver_all(&mut store, &server, true, 10);
        assert_eq!(sorted(&server.borrow().rows), sorted(&ids), "depth {depth}");
    }
}

/// A server where a batch has landed whose sender was killed before the answer, and that has forgotten the stream since.
fn landed_unknown_and_stream_gone(store: &mut Outbox, count: usize) -> Rc<RefCell<Server>> {
    let server = unknown_and_stream_gone(store, true);
    assert_eq!(server.borrow().rows.len(), count, "it landed");
    server
}

/// A server to which a batch was sent, and landed or not; its sender was killed before the answer, and the stream is forgotten.
pub(super) fn unknown_and_stream_gone(store: &mut Outbox, landed: bool) -> Rc<RefCell<Server>> {
    let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Silent { done: landed }]);
    server.borrow_mut().depth = 1;
    let mut session = Session::new(table(&server, true));
    let mut progress = Progress::default();
    let sent = runtime().block_on(async {
        let mut deliverer = Deliverer::new(store, &mut session, policy(10), &mut progress);
        tokio::time::timeout(Duration::from_secs(1), deliverer.drain(false)).await
    });
    assert!(sent.is_err(), "no answer came");
    server.borrow_mut().streams.clear();
    server
}

/// A batch of unknown fate was sent to one table, its stream is gone, and another table is configured now: that one is not asked.
#[test]
fn a_batch_for_another_table_whose_stream_is_gone_is_uncertain() {
    let site = site();
    let (mut store, ids) = filled(&site, 4);
    let server = landed_unknown_and_stream_gone(&mut store, ids.len());
    let mut session = Session::new(Table { name: "p.d.other".into(), ..table(&server, true) });
    let stopped = runtime()
        .block_on(async { Deliverer::new(&mut store, &mut session, policy(10), &mut Progress::default()).drain(false).await });
    assert!(stopped.is_ok(), "{stopped:?}");
    assert_eq!(store.store.backlog(NAME, None).unwrap().uncertain, ids.len() as u64);
    assert_eq!(server.borrow().rows.len(), ids.len());
}

/// The stream is reported as gone, and closing it is refused without a reason: the batch stays pending until the server says that the
/// stream is gone, and then it is looked up.
#[test]
fn a_batch_waits_until_its_stream_is_closed_or_gone() {
    let site = site();
    let (mut store, ids) = filled(&site, 4);
    let server = landed_unknown_and_stream_gone(&mut store, ids.len());
    server.borrow_mut().unclosable = true;
    for _ in 0..2 {
        let (stopped, _) = drained(&mut store, &server, 10);
        let Err(Stopped::Unreachable(text)) = stopped else { panic!("{stopped:?}") };
        assert!(text.contains("the stream of an unconfirmed batch cannot be closed"), "{text}");
        assert!(store.frozen_batch().unwrap().is_some(), "it keeps its place");
    }
    server.borrow_mut().unclosable = false;
    let (stopped, _) = drained(&mut store, &server, 10);
    assert!(stopped.is_ok(), "{stopped:?}");
    assert_eq!(sorted(&server.borrow().rows), sorted(&ids));
}

/// A copy of a state directory that may not query the table, and the stream of both copies is gone: events that the original may have
/// delivered are not resent.
#[test]
fn a_copy_that_cannot_query_sends_nothing_that_the_original_may_have_sent() {
    let site = site();
    let (store, ids) = filled(&site, 20);
    let server = server([]);
    drop(store);
    let copy = tempfile::tempdir().unwrap();
    let state = copied(&site, copy.path());
    let open = |state| Outbox::open(Store::open(state).unwrap(), NAME).unwrap();
    let mut original = open(&site.state);
    deliver_all(&mut original, &server, true, 100);
    server.borrow_mut().unreadable = true;
    let mut restored = open(&state);
    emit(&mut restored, "of the copy");
    deliver_all(&mut restored, &server, true, 100);
    assert_eq!(restored.store.backlog(NAME, None).unwrap().uncertain, ids.len() as u64);
    assert_eq!(server.borrow().rows.len(), ids.len() + 1, "the event of the copy itself is sent");
}

/// A whole batch of bad rows with good ones after it: the good ones do not wait, and show which rows are to blame.
#[test]
fn a_whole_batch_of_bad_rows_does_not_block_the_rest() {
    let site = site();
    let (mut store, ids) = filled(&site, 30);
    let server = server([]);
    server.borrow_mut().bad = ids[..10].iter().cloned().collect();
    let (stopped, progress) = drained(&mut store, &server, 10);
    assert!(stopped.is_ok(), "{stopped:?}");
    assert_eq!(progress, Progress { delivered: 21, refused: 10, uncertain: 0 });
    assert_eq!(server.borrow().rows, ids[10..]);
}

/// A single event is refused, perhaps because of the clock. It stays pending until another event has landed, and then it is set aside.
#[test]
fn an_event_that_is_refused_alone_is_suspect_first() {
    let site = site();
    let (mut store, ids) = filled(&site, 0);
    let server = server([]);
    server.borrow_mut().bad = HashSet::from([ids[0].clone()]);
    let (stopped, progress) = drained(&mut store, &server, 10);
    assert!(matches!(stopped, Err(Stopped::Blocked(DeliveryError::EveryRow(_)))), "{stopped:?}");
    assert_eq!((progress.refused, store.store.backlog(NAME, None).unwrap().pending), (0, 1));
    emit(&mut store, "another");
    let (stopped, progress) = drained(&mut store, &server, 10);
    assert!(stopped.is_ok(), "{stopped:?}");
    assert_eq!(progress, Progress { delivered: 1, refused: 1, uncertain: 0 });
}

/// The age of a stream counts from its last batch that landed, not from the last attempt.
#[test]
fn the_age_of_a_stream_counts_from_its_last_landed_batch() {
    let site = site();
    let (mut store, _) = filled(&site, 0);
    let server = server([]);
    deliver_all(&mut store, &server, true, 10);
    let landed = crate::host::clock::now_micros();
    emit(&mut store, "second");
    server.borrow_mut().script = [InjectedFault::None].into_iter().chain([InjectedFault::Later { done: false }; 10]).collect();
    let _ = drained(&mut store, &server, 10);
    assert!(store.stream("p.d.t", landed).unwrap().is_none(), "a retry is useless");
    server.borrow_mut().script.clear();
    deliver_all(&mut store, &server, true, 10);
    assert!(store.stream("p.d.t", landed).unwrap().is_some());
}

/// A deliverer that stops waiting for an answer and continues later does not take it for the answer to another batch.
#[test]
fn an_abandoned_answer_is_not_taken_for_another_batch() {
    let site = site();
    let (mut store, ids) = filled(&site, 6);
    let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Silent { done: true }, InjectedFault::Restart]);
    let mut session = Session::new(table(&server, true));
    let mut progress = Progress::default();
    runtime().block_on(async {
        let mut deliverer = Deliverer::new(&mut store, &mut session, policy(1), &mut progress);
        for _ in 0..2 {
            let _ = tokio::time::timeout(Duration::from_secs(10), deliverer.drain(false)).await;
        }
    });
    assert_eq!(sorted(&server.borrow().rows), sorted(&ids));
}

/// One process stops halfway, another one delivers everything, and the first continues with newer events, over a connection with
/// outstanding answers.
#[test]
fn outstanding_answers_are_not_taken_for_those_of_a_later_batch() {
    let site = site();
    let (mut store, _) = filled(&site, 3);
    let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Silent { done: true }]);
    let mut session = Session::new(table(&server, true));
    runtime().block_on(async {
        let mut progress = Progress::default();
        let mut deliverer = Deliverer::new(&mut store, &mut session, policy(1), &mut progress);
        let _ = tokio::time::timeout(Duration::from_secs(10), deliverer.drain(false)).await;
    });
    deliver_all(&mut store, &server, true, 1);
    emit(&mut store, "more");
    server.borrow_mut().script = VecDeque::from([InjectedFault::Later { done: false }]);
    runtime().block_on(async {
        let mut progress = Progress::default();
        Deliverer::new(&mut store, &mut session, policy(1), &mut progress).drain(false).await.unwrap();
    });
    assert_eq!(sorted(&server.borrow().rows), all_ids(&store));
}

/// A temporarily missing permission blocks delivery for a minute, not for the rest of the run.
#[test]
fn a_temporary_denial_blocks_for_a_minute_and_not_for_the_run() {
    for (seconds, delivered) in [(50, 0), (70, 4)] {
        let site = site();
        let (store, _) = filled(&site, 3);
        let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Denied]);
        let lock = site.state.lock("delivery+there");
        std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
        let limit = Duration::from_secs(seconds);
        let progress = runtime().block_on(super::super::live::tests::beside(store, table(&server, true), lock, limit));
        assert_eq!(progress.delivered, delivered, "after {seconds} s");
    }
}
