//! States that are older than their deliveries: a snapshot of the machine, a copied or moved state directory. Nothing of them may be taken
//! for delivered that is not, or be delivered twice.

use super::super::jsonl::{Jsonl, JsonlConfig, Rotate};
use super::lifecycle::{all_ids, copied, drained, emit, sorted, unknown_and_stream_gone};
use super::*;

fn reopened(site: &Site) -> Outbox {
    Outbox::open(Store::open(&site.state).unwrap(), NAME).unwrap()
}

fn is_distinct(rows: &[String]) -> bool {
    let rows = sorted(rows);
    rows.windows(2).all(|pair| pair[0] != pair[1])
}

fn uncertain(store: &Outbox) -> u64 {
    store.store.backlog(NAME, None).unwrap().uncertain
}

/// Resends what is uncertain.
fn resend(store: &mut Outbox, server: &Rc<RefCell<Server>>) -> Progress {
    let (mut session, mut progress) = (Session::new(table(server, true)), Progress::default());
    runtime().block_on(async {
        Deliverer::new(store, &mut session, policy(500), &mut progress).resend_uncertain().await.unwrap();
    });
    progress
}

/// The machine was set back to a snapshot: the files are the same ones, with older contents, and so nothing in them shows it. The stream
/// does, also if it was finalized since, or if other events were sent to it.
#[test]
fn a_restored_snapshot_delivers_nothing_twice() {
    for (finalized, unclosable) in [(false, false), (true, false), (true, true)] {
        for depth in [1, 4] {
            let site = site();
            let (mut store, ids) = filled(&site, 5);
            let server = server([]);
            server.borrow_mut().depth = depth;
            deliver_all(&mut store, &server, true, 7);
            (0..40).for_each(|n| emit(&mut store, &format!("pending {n}")));
            drop(store);
            let snapshot = tempfile::tempdir().unwrap();
            copied(&site, snapshot.path());
            let open = || Outbox::open(Store::open(&site.state).unwrap(), NAME).unwrap();
            let mut store = open();
            deliver_all(&mut store, &server, true, 7);
            emit(&mut store, "lost with the snapshot");
            deliver_all(&mut store, &server, true, 7);
            drop(store);
            assert_eq!(server.borrow().streams.len(), 1, "still the stream that the snapshot knows");
            server.borrow_mut().streams.values_mut().for_each(|stream| stream.finalized = finalized);
            server.borrow_mut().unclosable = unclosable;
            restore_in_place(&site, &snapshot.path().join("state"));
            let mut store = open();
            assert_eq!(store.doubtful_to().unwrap(), 0, "nothing shows it");
            emit(&mut store, "after the restore");
            deliver_all(&mut store, &server, true, 7);
            let rows = sorted(&server.borrow().rows);
            let mut distinct = rows.clone();
            distinct.dedup();
            assert_eq!(rows, distinct, "finalized {finalized}, depth {depth}");
            assert_eq!(rows.len(), ids.len() + 40 + 2);
        }
    }
}

/// Gives the files of the state directory the contents of another one's, as a snapshot of a file system does.
fn restore_in_place(site: &Site, from: &std::path::Path) {
    let to = site.state.store().parent().unwrap().to_owned();
    for entry in std::fs::read_dir(&to).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            match std::fs::read(from.join(path.file_name().unwrap())) {
                Ok(contents) => std::fs::write(&path, contents).unwrap(),
                Err(_) => std::fs::remove_file(&path).unwrap(),
            }
        }
    }
}

/// A snapshot with uncertain events was restored, and the table cannot be queried. They are resent: the rows at their position are those of
/// other events, and prove nothing.
#[test]
fn resending_from_a_restored_snapshot_loses_nothing() {
    for unreadable in [true, false] {
        let site = site();
        let (mut store, ids) = filled(&site, 20);
        let server = unknown_and_stream_gone(&mut store, false);
        server.borrow_mut().unreadable = true;
        emit(&mut store, "in the next stream");
        deliver_all(&mut store, &server, true, 100);
        let ids: Vec<String> = ids.into_iter().filter(|id| !server.borrow().rows.contains(id)).collect();
        assert_eq!((uncertain(&store), ids.len()), (10, 10), "one batch");
        drop(store);
        let snapshot = tempfile::tempdir().unwrap();
        copied(&site, snapshot.path());
        let mut store = reopened(&site);
        (0..30).for_each(|n| emit(&mut store, &format!("lost with the snapshot {n}")));
        deliver_all(&mut store, &server, true, 100);
        drop(store);
        restore_in_place(&site, &snapshot.path().join("state"));
        server.borrow_mut().unreadable = unreadable;
        let mut store = reopened(&site);
        let progress = resend(&mut store, &server);
        let delivered = server.borrow().rows.iter().filter(|id| ids.contains(id)).count();
        assert_eq!(delivered + usize::try_from(uncertain(&store)).unwrap(), ids.len(), "unreadable {unreadable}");
        assert_eq!(progress.delivered, delivered as u64, "unreadable {unreadable}");
        assert!(is_distinct(&server.borrow().rows));
        // The second attempt is made in a stream of its own.
        resend(&mut store, &server);
        assert_eq!(server.borrow().rows.iter().filter(|id| ids.contains(id)).count(), ids.len());
        assert_eq!(uncertain(&store), 0);
    }
}

/// The state directory was moved with batches in flight and events behind them, and the table cannot be queried: what is in flight is
/// delivered once, and the rest is uncertain.
#[test]
fn a_moved_state_directory_with_batches_in_flight_delivers_nothing_twice() {
    for depth in [1, 4] {
        let site = site();
        let (mut store, ids) = filled(&site, 60);
        let faults = [InjectedFault::None; 2].into_iter().chain([InjectedFault::Later { done: false }; 20]);
        let server = server(faults);
        server.borrow_mut().depth = depth;
        let _ = drained(&mut store, &server, 7);
        server.borrow_mut().script.clear();
        assert!(store.frozen_batch().unwrap().is_some() && server.borrow().rows.is_empty());
        drop(store);
        let other = tempfile::tempdir().unwrap();
        let state = copied(&site, other.path());
        let mut moved = Outbox::open(Store::open(&state).unwrap(), NAME).unwrap();
        server.borrow_mut().unreadable = true;
        deliver_all(&mut moved, &server, true, 7);
        let rows = server.borrow().rows.clone();
        assert!(is_distinct(&rows), "depth {depth}: {rows:?}");
        assert!(!rows.is_empty(), "what was in flight");
        assert_eq!(rows.len() + usize::try_from(uncertain(&moved)).unwrap(), ids.len(), "depth {depth}");
        assert_eq!(moved.suspect(0).unwrap(), None, "depth {depth}");
        resend(&mut moved, &server);
        assert_eq!(sorted(&server.borrow().rows), all_ids(&moved), "depth {depth}");
    }
}

/// A copy has a suspect that the original has delivered since: it is looked up, or uncertain.
#[test]
fn a_suspect_that_another_copy_has_delivered_is_not_sent_again() {
    for unreadable in [false, true] {
        let site = site();
        let (mut store, ids) = filled(&site, 4);
        let server = server([]);
        server.borrow_mut().poison = HashMap::from([(ids[2].clone(), false)]);
        server.borrow_mut().bad = ids.iter().filter(|id| **id != ids[2]).cloned().collect();
        let _ = drained(&mut store, &server, 100);
        assert!(store.suspect(0).unwrap().is_some(), "nothing else has landed, so it may be the server's fault");
        drop(store);
        let other = tempfile::tempdir().unwrap();
        let state = copied(&site, other.path());
        server.borrow_mut().poison.clear();
        deliver_all(&mut reopened(&site), &server, true, 100);
        assert!(server.borrow().rows.contains(&ids[2]));
        server.borrow_mut().unreadable = unreadable;
        let mut copy = Outbox::open(Store::open(&state).unwrap(), NAME).unwrap();
        deliver_all(&mut copy, &server, true, 100);
        assert!(is_distinct(&server.borrow().rows), "unreadable {unreadable}: {:?}", server.borrow().rows);
        assert_eq!(uncertain(&copy) > 0, unreadable);
    }
}

/// Files outlive a snapshot of the state directory that is restored: nothing is written twice.
#[test]
fn files_that_are_ahead_of_a_restored_snapshot_get_nothing_twice() {
    let (site, dir) = (site(), tempfile::tempdir().unwrap());
    let deliver = |store: &mut Outbox| {
        let config = JsonlConfig { dir: dir.path().to_owned(), rotate_size: 1 << 20, rotate: Rotate::Never };
        let (mut session, mut progress) = (Session::new(Jsonl::new(config)), Progress::default());
        runtime().block_on(async {
            Deliverer::new(store, &mut session, policy(100), &mut progress).drain(false).await.unwrap();
        });
    };
    let (mut store, ids) = filled(&site, 5);
    deliver(&mut store);
    (0..9).for_each(|n| emit(&mut store, &format!("pending {n}")));
    drop(store);
    let snapshot = tempfile::tempdir().unwrap();
    copied(&site, snapshot.path());
    deliver(&mut reopened(&site));
    restore_in_place(&site, &snapshot.path().join("state"));
    let mut store = reopened(&site);
    deliver(&mut store);
    assert_eq!(uncertain(&store), 9, "they may be in files that were moved away");
    emit(&mut store, "after the restore");
    deliver(&mut store);
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        lines.extend(std::fs::read_to_string(entry.unwrap().path()).unwrap().lines().map(str::to_owned));
    }
    assert!(is_distinct(&lines), "{lines:?}");
    assert_eq!(lines.len(), ids.len() + 9 + 1);
}

/// The snapshot has a batch in flight. Since then, its stream was left, and everything was sent to another one.
#[test]
fn a_snapshot_with_a_batch_in_flight_whose_stream_was_left_delivers_nothing_twice() {
    for unclosable in [false, true] {
        let site = site();
        let (mut store, ids) = filled(&site, 30);
        let server = server([InjectedFault::None; 2].into_iter().chain([InjectedFault::Later { done: false }; 20]));
        let _ = drained(&mut store, &server, 7);
        server.borrow_mut().script.clear();
        (0..5).for_each(|n| emit(&mut store, &format!("pending {n}")));
        assert!(store.frozen_batch().unwrap().is_some() && server.borrow().rows.is_empty());
        drop(store);
        let snapshot = tempfile::tempdir().unwrap();
        copied(&site, snapshot.path());
        server.borrow_mut().streams.values_mut().for_each(|stream| stream.finalized = true);
        deliver_all(&mut reopened(&site), &server, true, 7);
        assert_eq!(server.borrow().rows.len(), ids.len() + 5);
        restore_in_place(&site, &snapshot.path().join("state"));
        server.borrow_mut().unclosable = unclosable;
        let mut store = reopened(&site);
        emit(&mut store, "after the restore");
        deliver_all(&mut store, &server, true, 7);
        let rows = server.borrow().rows.clone();
        assert!(is_distinct(&rows), "unclosable {unclosable}: {rows:?}");
        assert_eq!(rows.len(), ids.len() + 5 + 1);
    }
}

/// This store finalizes a stream, and the answer is lost: no other store has done it, so nothing becomes uncertain.
#[test]
fn a_stream_that_this_store_has_finalized_raises_no_doubt() {
    let site = site();
    let (mut store, ids) = filled(&site, 20);
    let server = server([InjectedFault::None; 2]);
    server.borrow_mut().unreadable = true;
    server.borrow_mut().poison = HashMap::from([(ids[3].clone(), false)]);
    server.borrow_mut().finalize_unanswered = 1;
    deliver_all(&mut store, &server, true, 100);
    assert_eq!(server.borrow().finalize_unanswered, 0, "it was needed");
    assert_eq!(uncertain(&store), 0);
    assert_eq!(server.borrow().rows.len(), ids.len() - 1);
}
