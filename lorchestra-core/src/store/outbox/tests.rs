//! Several destinations in one store.

use super::*;
use crate::store::retention::{FORGOTTEN, Retention};
use crate::store::tests::{end, new_run, site, started};
use std::time::Duration;

/// A batch of these rows, without a stream.
pub(super) fn batch(rows: &[OutRow]) -> NewBatch {
    NewBatch {
        target: "t".into(),
        stream: None,
        length: 0,
        first: rows[0].n,
        last: rows[rows.len() - 1].n,
        rows: i64::try_from(rows.len()).unwrap(),
    }
}

fn deliver(outbox: &mut Outbox) {
    let new = batch(&outbox.pending_rows(0, 100, usize::MAX).unwrap());
    let frozen = outbox.advance(None, Some(&new)).unwrap().unwrap();
    outbox.advance(Some(&frozen), None).unwrap();
}

fn pending(store: &Store, destination: &str) -> u64 {
    store.backlog(destination, None).unwrap().pending
}

/// Delivered, refused and uncertain events and circuits of one destination do not affect the other.
#[test]
fn each_destination_has_its_own_state() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    store.begin_run(&new_run("r1"), &started()).unwrap();
    store.end_run("r1", &end()).unwrap();
    let open = |name| Outbox::open(Store::open(&site.state).unwrap(), name).unwrap();
    let (mut here, mut there) = (open("here"), open("there"));
    let down = Circuit { until: i64::MAX, reason: "down".into(), route: "r".into() };
    here.set_circuit(Some(&Circuit { until: crate::host::clock::now_micros() + 1_000_000, ..down })).unwrap();
    assert!(there.circuit("r", crate::host::clock::now_micros(), Duration::from_secs(60)).unwrap().is_none());
    let rows = here.pending_rows(0, 1, usize::MAX).unwrap();
    let new = batch(&rows);
    let frozen = here.advance(None, Some(&new)).unwrap().unwrap();
    assert_eq!(there.frozen_batch().unwrap(), None);
    deliver(&mut there);
    assert_eq!((pending(&store, "here"), pending(&store, "there")), (2, 0));
    here.release(&frozen, &[(rows[0].n, RowDisposition::Refused("no".into()))], 1, "no").unwrap();
    let refused = |name| store.backlog(name, None).unwrap().refused;
    assert_eq!((refused("here"), refused("there")), (1, 0));
    assert_eq!(store.destinations().unwrap(), ["here", "there"]);
}

/// A refused event between those of an uncertain batch is resent on its own: it is not part of the batch then or afterwards.
#[test]
fn no_event_is_in_two_batches() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    for run in ["r1", "r2", "r3"] {
        store.begin_run(&new_run(run), &started()).unwrap();
        store.end_run(run, &end()).unwrap();
    }
    let mut outbox = Outbox::open(Store::open(&site.state).unwrap(), "here").unwrap();
    let all = outbox.pending_rows(0, 100, usize::MAX).unwrap();
    assert_eq!(all.len(), 6);
    let first = outbox.advance(None, Some(&batch(&all))).unwrap().unwrap();
    outbox.release(&first, &[(all[1].n, RowDisposition::Refused("no".into()))], 10, "no").unwrap();
    let rest = outbox.pending_rows(0, 100, usize::MAX).unwrap();
    let second = outbox.advance(None, Some(&batch(&rest))).unwrap().unwrap();
    assert_eq!(outbox.rows_of(&second).unwrap().len(), 5);
    outbox.give_up(&second, "silence").unwrap();
    let uncertain = |outbox: &Outbox| {
        let batches = outbox.uncertain_batches().unwrap();
        let rows: Vec<usize> = batches.iter().map(|batch| outbox.rows_of(batch).unwrap().len()).collect();
        (rows, store.backlog("here", None).unwrap().uncertain)
    };
    assert_eq!(uncertain(&outbox), (vec![1, 4], 5));
    outbox.send_set_aside_again(Was::Refused, &[all[1].n], &batch(&all[1..2])).unwrap();
    assert_eq!(uncertain(&outbox), (vec![1, 4], 5), "while it is in flight");
    let again = outbox.frozen_batch().unwrap().unwrap();
    outbox.advance(Some(&again), None).unwrap();
    assert_eq!(uncertain(&outbox), (vec![1, 4], 5), "after it has landed");
    // Nor if the row is refused while the batch is resent.
    let last = outbox.uncertain_batches().unwrap().pop().unwrap();
    let rows = outbox.rows_of(&last).unwrap();
    outbox.send_again(&last, &batch(&rows)).unwrap();
    let frozen = outbox.frozen_batch().unwrap().unwrap();
    outbox.release(&frozen, &[(rows[1].n, RowDisposition::Refused("no".into()))], 10, "no").unwrap();
    assert_eq!(uncertain(&outbox), (vec![1, 1, 2], 4));
    outbox.send_set_aside_again(Was::Refused, &[rows[1].n], &batch(&rows[1..2])).unwrap();
    assert_eq!(uncertain(&outbox), (vec![1, 1, 2], 4));
}

/// Events that one destination has not received are kept while any command has it configured, and for a week after that.
#[test]
fn events_are_kept_for_a_destination_until_it_is_forgotten() {
    let site = site();
    let mut store = Store::open(&site.state).unwrap();
    store.begin_run(&new_run("r1"), &started()).unwrap();
    store.end_run("r1", &end()).unwrap();
    let open = |name| Outbox::open(Store::open(&site.state).unwrap(), name).unwrap();
    deliver(&mut open("here"));
    drop(open("there"));
    let retention = |names: &[&str]| Retention {
        payloads: Duration::ZERO,
        destinations: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Retention::default()
    };
    let now = crate::host::clock::now_micros();
    let later = now + i64::try_from(FORGOTTEN.as_micros()).unwrap() + 1_000_000;
    let mut payloads = |names: &[&str], at| store.prune(&site.state, &retention(names), at).unwrap().payloads;
    assert_eq!(payloads(&["here", "there"], later), 0, "it is configured");
    assert_eq!(payloads(&["here"], now), 0, "another command may have it configured");
    assert_eq!(payloads(&["here"], later), 1, "no command has it configured");
    // A new destination is not sent events that have been removed.
    store.begin_run(&new_run("r2"), &started()).unwrap();
    assert_eq!(open("late").pending_rows(0, 10, usize::MAX).unwrap().len(), 1);
    assert_eq!(pending(&store, "unknown"), 3);
}

/// Two batches of one event each, frozen one after the other in one stream; and a third event.
fn two_frozen(site: &crate::store::tests::Site) -> (Outbox, [Batch; 2]) {
    let mut store = Store::open(&site.state).unwrap();
    store.begin_run(&new_run("r1"), &started()).unwrap();
    store.end_run("r1", &end()).unwrap();
    store.begin_run(&new_run("r2"), &started()).unwrap();
    let mut outbox = Outbox::open(store, "there").unwrap();
    outbox.use_stream("t", "s").unwrap();
    let rows = outbox.pending_rows(0, 10, usize::MAX).unwrap();
    assert_eq!(rows.len(), 3);
    let new = |n: i64| NewBatch { target: "t".into(), stream: Some("s".into()), length: 7, first: n, last: n, rows: 1 };
    let batches = [rows[0].n, rows[1].n].map(|n| outbox.advance(None, Some(&new(n))).unwrap().unwrap());
    assert_eq!(outbox.frozen_batches().unwrap(), batches);
    assert_eq!(batches.each_ref().map(|batch| batch.place.as_ref().unwrap().1), [0, 7]);
    (outbox, batches)
}

fn pending_numbers(outbox: &Outbox) -> Vec<i64> {
    outbox.pending_rows(0, 10, usize::MAX).unwrap().into_iter().map(|row| row.n).collect()
}

/// The first batch was taken back, and the second landed all the same: the mark does not pass the first.
#[test]
fn a_landed_batch_does_not_hide_one_that_was_taken_back_before_it() {
    let site = site();
    let (mut outbox, [first, second]) = two_frozen(&site);
    outbox.release(&first, &[], 10, "no").unwrap();
    assert_eq!(outbox.stream("t", 0).unwrap(), None, "no other batch may use the second one's offset");
    outbox.advance(Some(&second), None).unwrap();
    assert_eq!(pending_numbers(&outbox), [first.first, second.last + 1]);
    assert_eq!(pending(&outbox.store, "there"), 2);
}

/// The first batch was taken back, and the result of the second is unknown: both keep their states.
#[test]
fn an_uncertain_batch_does_not_hide_one_that_was_taken_back_before_it() {
    let site = site();
    let (mut outbox, [first, second]) = two_frozen(&site);
    outbox.release(&first, &[], 10, "no").unwrap();
    outbox.give_up(&second, "silence").unwrap();
    let backlog = outbox.store.backlog("there", None).unwrap();
    assert_eq!((backlog.pending, backlog.uncertain, backlog.refused), (2, 1, 0));
    assert_eq!((outbox.suspect(0).unwrap(), pending_numbers(&outbox)), (Some(first.first), vec![second.last + 1]));
}

/// In order, as answers arrive.
#[test]
fn batches_frozen_together_are_delivered_in_order() {
    let site = site();
    let (mut outbox, [first, second]) = two_frozen(&site);
    outbox.advance(Some(&first), None).unwrap();
    assert_eq!(outbox.frozen_batches().unwrap(), std::slice::from_ref(&second));
    outbox.release(&second, &[], 10, "no").unwrap();
    assert_eq!(outbox.stream("t", 0).unwrap().map(|stream| stream.offset), Some(7), "its offset is free again");
    assert_eq!(pending_numbers(&outbox), [second.first, second.last + 1]);
}
