//! Which refused rows are set aside, which stay pending, and what resending them costs; refusals that pass.

use super::lifecycle::{all_ids, drained, emit, sorted};
use super::*;

fn pending(store: &Outbox) -> u64 {
    store.store.backlog(NAME, None).unwrap().pending
}

fn requests(server: &Rc<RefCell<Server>>) -> u32 {
    server.borrow().requests
}

/// Half of the rows of every batch are refused for one reason (a column was changed that only some events have), the others are accepted:
/// none is set aside, they are reported once, and the others arrive. Each later delivery sends one batch of them.
#[test]
fn many_rows_that_are_refused_among_good_ones_stay_pending() {
    for streams in [true, false] {
        let site = site();
        let (mut store, ids) = filled(&site, 400);
        let bad: HashSet<String> = ids.iter().skip(1).step_by(2).cloned().collect();
        let server = server([]);
        server.borrow_mut().bad = bad.clone();
        let deliver = |store: &mut Outbox| {
            let mut session = Session::new(table(&server, streams));
            let mut progress = Progress::default();
            let drain = async { Deliverer::new(store, &mut session, policy(100), &mut progress).drain(false).await };
            let stopped = runtime().block_on(drain);
            (stopped, progress)
        };
        let (stopped, progress) = deliver(&mut store);
        let Err(Stopped::Blocked(DeliveryError::EveryRow(text))) = stopped else { panic!("{stopped:?}") };
        assert!(text.contains("events were refused for one reason and stay pending: invalid"), "{text}");
        assert_eq!((progress.delivered, progress.refused), ((ids.len() - bad.len()) as u64, 0));
        assert_eq!(pending(&store), bad.len() as u64);
        let cost = requests(&server);
        assert!(cost < 100, "{cost} requests");
        for run in ["second", "third"] {
            emit(&mut store, run);
            let (stopped, progress) = deliver(&mut store);
            assert!(matches!(stopped, Err(Stopped::Blocked(DeliveryError::EveryRow(_)))), "{stopped:?}");
            assert_eq!(progress, Progress { delivered: 1, refused: 0, uncertain: 0 });
        }
        let more = requests(&server) - cost;
        assert!(more <= 12, "{more} requests");
        server.borrow_mut().bad.clear();
        emit(&mut store, "repaired");
        deliver_all(&mut store, &server, streams, 100);
        assert_eq!(sorted(&server.borrow().rows), all_ids(&store), "streams {streams}");
    }
}

/// A few rows are refused for one reason with every run: the first ones are set aside, and then it is clear that the rows are not the cause.
#[test]
fn many_rows_that_are_refused_one_by_one_stay_pending() {
    let site = site();
    let (mut store, ids) = filled(&site, 0);
    let server = server([]);
    deliver_all(&mut store, &server, true, 100);
    let mut refused = 0;
    for run in 0..12 {
        let known = all_ids(&store);
        (0..4).for_each(|n| emit(&mut store, &format!("run {run} {n}")));
        let new: Vec<String> = all_ids(&store).into_iter().filter(|id| !known.contains(id)).collect();
        server.borrow_mut().bad.extend(new.into_iter().take(2));
        refused += drained(&mut store, &server, 100).1.refused;
    }
    assert_eq!((refused, pending(&store)), (10, 14));
    server.borrow_mut().bad.clear();
    emit(&mut store, "repaired");
    deliver_all(&mut store, &server, true, 100);
    resend_refused(&mut store, &server, true, 100);
    assert_eq!(sorted(&server.borrow().rows), all_ids(&store));
    assert_eq!(server.borrow().rows.len(), ids.len() + 49);
}

/// Suspects that are next to each other are resent as one batch, and a bad one among them costs a few requests.
#[test]
fn resending_suspects_costs_few_requests() {
    for poison in [false, true] {
        let site = site();
        let (mut store, ids) = filled(&site, 901);
        let server = server([]);
        server.borrow_mut().bad = ids[..600].iter().cloned().collect();
        let _ = drained(&mut store, &server, 300);
        assert_eq!(pending(&store), 600);
        {
            let mut server = server.borrow_mut();
            server.bad.clear();
            server.poison = HashMap::from_iter(poison.then(|| (ids[123].clone(), false)));
        }
        emit(&mut store, "repaired");
        let before = requests(&server);
        let (stopped, progress) = drained(&mut store, &server, 300);
        assert!(stopped.is_ok(), "{stopped:?}");
        assert_eq!((progress.delivered, progress.refused), (601 - u64::from(poison), u64::from(poison)));
        let cost = requests(&server) - before;
        assert!(cost < if poison { 60 } else { 10 }, "{cost} requests");
        assert_eq!(server.borrow().rows.len(), ids.len() + 1 - usize::from(poison));
    }
}

/// Events that can never be delivered (the clock was wrong when they were emitted) stay pending until the user asks for what was refused:
/// then they are set aside, without another request for each. Events that were never sent are not.
#[test]
fn events_that_stay_pending_are_set_aside_on_request() {
    let site = site();
    let (mut store, ids) = filled(&site, 500);
    let server = server([]);
    server.borrow_mut().bad = ids[..300].iter().cloned().collect();
    let _ = drained(&mut store, &server, 100);
    assert_eq!((pending(&store), store.store.backlog(NAME, None).unwrap().refused), (300, 0));
    let before = requests(&server);
    resend_refused(&mut store, &server, true, 100);
    let backlog = store.store.backlog(NAME, None).unwrap();
    assert_eq!((backlog.pending, backlog.refused), (0, 300));
    assert!(requests(&server) - before < 20, "{} requests", requests(&server) - before);
    // The table is the cause of everything: what was never sent stays pending.
    emit(&mut store, "more");
    server.borrow_mut().every_row = Some("out of range");
    resend_refused(&mut store, &server, true, 100);
    assert_eq!(pending(&store), 1);
    server.borrow_mut().every_row = None;
    server.borrow_mut().bad.clear();
    resend_refused(&mut store, &server, true, 100);
    assert_eq!(sorted(&server.borrow().rows), all_ids(&store));
}

/// The server loses its streams twice, just before a single row: it is not blamed for that, because its stream is left first.
#[test]
fn a_row_is_suspected_only_after_its_stream_was_left() {
    let site = site();
    let (mut store, ids) = filled(&site, 2);
    let faults = [InjectedFault::None; 3].into_iter().chain([InjectedFault::Restart]);
    let server = server(faults.chain([InjectedFault::None; 4]).chain([InjectedFault::Restart]));
    server.borrow_mut().depth = 1;
    server.borrow_mut().unknown = Unknown::Malformed;
    let (stopped, progress) = drained(&mut store, &server, 1);
    assert!(stopped.is_ok(), "{stopped:?}");
    assert_eq!(progress, Progress { delivered: ids.len() as u64, refused: 0, uncertain: 0 });
}

/// A suspect is resent, and the server loses every stream: delivery ends with an error, after pauses, and not as if all was done.
#[test]
fn a_suspect_whose_streams_are_all_gone_ends_the_delivery_with_an_error() {
    let site = site();
    let (mut store, ids) = filled(&site, 0);
    let server = server([]);
    server.borrow_mut().poison = HashMap::from([(ids[0].clone(), false)]);
    let (stopped, _) = drained(&mut store, &server, 10);
    assert!(matches!(stopped, Err(Stopped::Blocked(_))), "{stopped:?}");
    assert!(store.suspect(0).unwrap().is_some());
    server.borrow_mut().poison.clear();
    server.borrow_mut().script = std::iter::repeat_n(InjectedFault::Gone, 10_000).collect();
    let before = requests(&server);
    let (stopped, _) = drained(&mut store, &server, 10);
    assert!(matches!(stopped, Err(Stopped::Unreachable(_))), "{stopped:?}");
    let cost = requests(&server) - before;
    assert!(cost < 60, "{cost} requests");
    let mut session = Session::new(table(&server, true));
    runtime().block_on(async {
        let mut progress = Progress::default();
        let mut deliverer = Deliverer::new(&mut store, &mut session, policy(10), &mut progress);
        let stopped = tokio::time::timeout(Duration::from_secs(60), deliverer.drain(true)).await;
        assert!(stopped.is_err(), "it keeps retrying: {stopped:?}");
    });
    let cost = requests(&server) - before - cost;
    assert!(cost < 400, "{cost} requests in a minute");
    server.borrow_mut().script.clear();
    deliver_all(&mut store, &server, true, 10);
    assert_eq!(server.borrow().rows, ids);
}

/// A permission that was just granted does not apply yet: a caller with a time limit waits for it, and one without gets the error.
#[test]
fn a_denial_that_passes_is_waited_for_within_the_time_limit() {
    for persistent in [true, false] {
        let site = site();
        let (mut store, ids) = filled(&site, 3);
        let server = server([InjectedFault::None; 2].into_iter().chain([InjectedFault::Denied; 9]));
        let mut session = Session::new(table(&server, true));
        let (drained, took) = runtime().block_on(async {
            let begun = tokio::time::Instant::now();
            let mut progress = Progress::default();
            let mut deliverer = Deliverer::new(&mut store, &mut session, policy(5), &mut progress);
            let drained = tokio::time::timeout(Duration::from_secs(180), deliverer.drain(persistent)).await;
            (drained, begun.elapsed())
        });
        match persistent {
            true => assert!(matches!(drained, Ok(Ok(()))) && took > Duration::from_secs(1), "{drained:?} {took:?}"),
            false => assert!(matches!(drained, Ok(Err(Stopped::Blocked(DeliveryError::Forbidden(_))))), "{drained:?}"),
        }
        assert_eq!(server.borrow().rows.len(), if persistent { ids.len() } else { 0 });
        assert_eq!(pending(&store), if persistent { 0 } else { ids.len() as u64 });
    }
}
