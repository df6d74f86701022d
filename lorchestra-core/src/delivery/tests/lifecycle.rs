//! Streams that go, that answer oddly and that others write to; refusals that are nobody's row's fault. See [`super::super::destination`].

use super::*;

fn drained(store: &mut Outbox, server: &Rc<RefCell<Server>>, rows: usize) -> (Result<(), Stopped>, Progress) {
    let mut session = Session::new(table(server, true));
    let mut progress = Progress::default();
    let policy = DeliveryPolicy { failures: 6, ..policy(rows) };
    let stopped = runtime().block_on(async { Deliverer::new(store, &mut session, policy, &mut progress).drain(false).await });
    (stopped, progress)
}

/// More events in the store.
fn emit(store: &mut Outbox, run: &str) {
    store.store.begin_run(&new_run(run), &started()).unwrap();
}

fn all_ids(store: &Outbox) -> Vec<String> {
    let mut ids = Vec::new();
    let each = |event: crate::store::Event| {
        ids.push(event.event_id);
        Ok::<(), ()>(())
    };
    store.store.events(&crate::store::EventFilter::default(), each).unwrap().unwrap();
    ids.sort();
    ids
}

/// A state directory as `cp -r` makes it.
fn copied(site: &Site, place: &std::path::Path) -> crate::host::state::StateDir {
    let state = crate::host::state::StateDir::open(&place.join("state")).unwrap();
    for entry in std::fs::read_dir(site.state.store().parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, state.store().with_file_name(path.file_name().unwrap())).unwrap();
        }
    }
    state
}

fn sorted(rows: &[String]) -> Vec<String> {
    let mut rows = rows.to_vec();
    rows.sort();
    rows
}

/// The server was started again and knows no stream; it says so in one of three ways. One flush delivers, and no row is suspected.
#[test]
fn a_restarted_server_costs_a_stream_and_no_row() {
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

/// A precondition that is not met, of every stream: blocked, which is for a minute; and nothing is set aside.
#[test]
fn a_precondition_that_lasts_is_a_denial_that_sets_nothing_aside() {
    let site = site();
    let (mut store, ids) = filled(&site, 20);
    let server = server([InjectedFault::None, InjectedFault::None].into_iter().chain([InjectedFault::Precondition; 100]));
    let (stopped, _) = drained(&mut store, &server, 100);
    assert!(matches!(stopped, Err(Stopped::Blocked(DeliveryError::Denied(_)))), "{stopped:?}");
    assert!(server.borrow().requests < 20, "{} requests", server.borrow().requests);
    let backlog = store.store.backlog(NAME, None).unwrap();
    assert_eq!((backlog.pending, backlog.refused, backlog.uncertain), (ids.len() as u64, 0, 0));
    server.borrow_mut().script.clear();
    deliver_all(&mut store, &server, true, 100);
    assert_eq!(sorted(&server.borrow().rows), sorted(&ids));
}

/// An append that is not answered, a stream that is not found for a moment, and then the append is done after all.
#[test]
fn a_slow_append_and_a_stream_not_found_in_passing_double_nothing() {
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

/// Of unknown fate, and another writer's rows are in its place: they are not mistaken for ours, unless nobody may look.
#[test]
fn another_writer_in_the_place_of_a_batch_of_unknown_fate_is_not_mistaken_for_it() {
    let site = site();
    let (mut store, ids) = filled(&site, 20);
    let server = server([InjectedFault::None, InjectedFault::None, InjectedFault::Overtaken]);
    deliver_all(&mut store, &server, true, 10);
    assert!(server.borrow().strangers > 0);
    assert_eq!(sorted(&server.borrow().rows), sorted(&ids));
}

/// A state directory is copied, with events that are pending, and one on its way. Both deliver, in each order; and a restored one does.
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

/// The table may not be read, and the state directory is a copy: what has something in its place is uncertain, and is not called delivered.
#[test]
fn a_copy_that_may_not_look_calls_nothing_delivered_that_may_be_lost() {
    let site = site();
    let (mut store, ids) = filled(&site, 20);
    let server = server([InjectedFault::None, InjectedFault::None].into_iter().chain([InjectedFault::Later { done: false }; 10]));
    let _ = drained(&mut store, &server, 100);
    server.borrow_mut().script.clear();
    drop(store);
    let copy = tempfile::tempdir().unwrap();
    let state = copied(&site, copy.path());
    let mut restored = Outbox::open(Store::open(&state).unwrap(), NAME).unwrap();
    // The other one's rows, which are not these.
    server.borrow_mut().streams.get_mut("stream1").unwrap().rows.extend((0..40).map(|n| n.to_string()));
    server.borrow_mut().unreadable = true;
    deliver_all(&mut restored, &server, true, 100);
    assert_eq!(restored.store.backlog(NAME, None).unwrap().uncertain, ids.len() as u64);
    assert_eq!(server.borrow().rows.len(), 0);
}

/// The clock is years off, or a column has changed: every row is refused. Nothing is set aside, it costs one request, and it is said once.
#[test]
fn rows_that_are_refused_all_together_stay_pending() {
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

/// A whole batch of rows that are bad themselves, and good ones after it: these do not wait, and then it is known who is to blame.
#[test]
fn a_whole_batch_of_bad_rows_does_not_hold_up_the_rest() {
    let site = site();
    let (mut store, ids) = filled(&site, 30);
    let server = server([]);
    server.borrow_mut().bad = ids[..10].iter().cloned().collect();
    let (stopped, progress) = drained(&mut store, &server, 10);
    assert!(stopped.is_ok(), "{stopped:?}");
    assert_eq!(progress, Progress { delivered: 21, refused: 10, uncertain: 0 });
    assert_eq!(server.borrow().rows, ids[10..]);
}

/// One event alone that is refused: it may be the clock. It stays pending until another has landed, and then it is set aside.
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

/// A stream is as old as its last batch that landed, not as the last try.
#[test]
fn the_age_of_a_stream_counts_from_what_landed() {
    let site = site();
    let (mut store, _) = filled(&site, 0);
    let server = server([]);
    deliver_all(&mut store, &server, true, 10);
    let landed = crate::host::clock::now_micros();
    emit(&mut store, "second");
    server.borrow_mut().script = [InjectedFault::None].into_iter().chain([InjectedFault::Later { done: false }; 10]).collect();
    let _ = drained(&mut store, &server, 10);
    assert!(store.stream("p.d.t", landed).unwrap().is_none(), "a try is no use");
    server.borrow_mut().script.clear();
    deliver_all(&mut store, &server, true, 10);
    assert!(store.stream("p.d.t", landed).unwrap().is_some());
}

/// Whoever gives up waiting for an answer and goes on later does not take the answer to another batch for it.
#[test]
fn an_answer_that_was_not_waited_for_is_nobody_elses() {
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

/// One process gives up in the middle, another one delivers all of it, and the first goes on with what came since: over a connection on
/// which answers were left.
#[test]
fn answers_that_were_left_are_not_those_of_a_later_batch() {
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

/// A permission that is missing for a while blocks for a minute, not for the rest of the run.
#[test]
fn a_passing_denial_blocks_for_a_minute_and_not_for_the_run() {
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
