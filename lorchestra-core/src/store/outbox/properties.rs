//! Properties of batching, tested on many histories: whatever happens to its batches, each event is in one place, and none is overtaken or
//! forgotten.

use super::*;
use crate::host::state::StateDir;
use crate::spool::Cursor;
use crate::spool::record::{self, Record};
use crate::store::Portion;
use crate::store::tests::{new_run, started};
use crate::store::{EventFilter, Undelivered};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

/// The next step. Does nothing if it does not apply.
#[derive(Debug, Clone)]
enum ModelStep {
    /// A job emits this many events.
    Emit(usize),
    /// Freezes a batch with at most this many rows and bytes; the one before it is delivered.
    Next(usize, usize),
    /// The frozen batch is delivered, and none follows.
    Deliver,
    /// It did not arrive; each row whose bit is set is settled individually. Batches with an unknown result are split to this many rows.
    Release(u16, usize),
    /// Its result is unknown.
    GiveUp,
    /// Resends the oldest batch with an unknown result.
    SendAgain,
    /// Resends the first events that are set aside.
    SendOneAgain(bool),
    /// Uses another stream from now on.
    Stream,
    /// Moves the mark over everything settled.
    Pass,
    /// Another process takes over.
    Reopen,
}

fn step() -> impl Strategy<Value = ModelStep> {
    prop_oneof![
        3 => (0_usize..8).prop_map(ModelStep::Emit),
        6 => (1_usize..6, prop_oneof![Just(usize::MAX), 1_usize..2000]).prop_map(|(rows, bytes)| ModelStep::Next(rows, bytes)),
        2 => Just(ModelStep::Deliver),
        3 => (any::<u16>(), 1_usize..6).prop_map(|(bits, batch_limit)| ModelStep::Release(bits, batch_limit)),
        1 => Just(ModelStep::GiveUp),
        1 => Just(ModelStep::SendAgain),
        2 => any::<bool>().prop_map(ModelStep::SendOneAgain),
        1 => Just(ModelStep::Stream),
        1 => Just(ModelStep::Pass),
        1 => Just(ModelStep::Reopen),
    ]
}

/// The state of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelPlace {
    Pending,
    Frozen,
    /// Frozen again, on request.
    Again,
    Delivered,
    Refused,
    Suspect,
    Present,
    Uncertain,
}

const TABLE: &str = "p.d.t";
const NAME: &str = "there";

/// The id of event `n`.
fn id(n: usize) -> String {
    format!("00000000-0000-7000-8000-{n:012}")
}

fn emit(store: &mut Outbox, from: usize, count: usize) {
    let lines: Vec<Vec<u8>> = (from..from + count)
        .map(|n| {
            let mut line = Vec::new();
            let payload = json!({"n": n, "x": "x".repeat(n * 37 % 500)});
            let json = json!({"seq": n + 1, "event": {"id": id(n), "at": 5, "type": "t", "payload": payload}});
            record::frame(&mut line, |out| out.extend_from_slice(json.to_string().as_bytes()));
            line.pop();
            line
        })
        .collect();
    let records: Vec<Record<'_>> = lines.iter().map(|line| record::parse(line).unwrap()).collect();
    store
        .store
        .ingest(
            "run",
            1,
            Portion { records: &records, after: Cursor::default(), end: Cursor::default(), damaged: 0 },
            &mut Default::default(),
        )
        .unwrap();
}

fn ids(rows: &[OutRow]) -> Vec<String> {
    rows.iter().map(|out| out.row.event_id.clone()).collect()
}

fn listed(store: &Outbox, delivery: Undelivered) -> Vec<String> {
    let mut found = Vec::new();
    let filter = EventFilter { delivery: Some((delivery, NAME.to_owned())), ..EventFilter::default() };
    let each = |event: crate::store::Event| {
        found.push(event.event_id);
        Ok::<(), ()>(())
    };
    store.store.events(&filter, each).unwrap().unwrap();
    found
}

/// Length of one row.
const UNIT: i64 = 7;
const ANY: Batch =
    Batch { id: 0, target: String::new(), place: None, length: 0, first: 0, last: 0, rows: 0, was: None, boot: None };

/// A batch to resend.
fn again(model: &Model, batch: &Batch, streams: bool) -> NewBatch {
    NewBatch {
        target: TABLE.into(),
        stream: streams.then(|| model.stream.0.clone()),
        length: UNIT * batch.rows,
        first: batch.first,
        last: batch.last,
        rows: batch.rows,
    }
}

/// The expected state of the store.
struct Model {
    places: Vec<(String, ModelPlace)>,
    /// The frozen batch and its rows.
    frozen: Option<(Batch, Vec<String>)>,
    /// The event up to which all are settled. Events are numbered from 1.
    mark: i64,
    /// The stream, and the number of rows with a position in it.
    stream: (String, i64),
    streams: u32,
}

impl Model {
    fn at(&self, place: ModelPlace) -> Vec<String> {
        self.places.iter().filter(|(_, at)| *at == place).map(|(id, _)| id.clone()).collect()
    }

    fn put(&mut self, ids: &[String], place: ModelPlace) {
        self.places.iter_mut().filter(|(id, _)| ids.contains(id)).for_each(|(_, at)| *at = place);
    }

    /// These rows are frozen again.
    fn again(&mut self, store: &Outbox, rows: Vec<String>) -> Result<(), TestCaseError> {
        let frozen = store.frozen_batch().unwrap().unwrap();
        self.put(&rows, ModelPlace::Again);
        if let Some((_, offset)) = &frozen.place {
            prop_assert_eq!(*offset, self.stream.1);
            self.stream.1 += frozen.length;
        }
        self.frozen = Some((frozen, rows));
        Ok(())
    }

    fn check(&self, store: &Outbox) -> Result<(), TestCaseError> {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (n, (_, place)) in (1..).zip(&self.places) {
            let name = match place {
                ModelPlace::Pending | ModelPlace::Frozen | ModelPlace::Suspect => "pending",
                ModelPlace::Again if n > self.mark => "pending",
                ModelPlace::Refused => "refused",
                ModelPlace::Uncertain => "uncertain",
                ModelPlace::Delivered | ModelPlace::Present | ModelPlace::Again => "delivered, or in flight",
            };
            *counts.entry(name).or_default() += 1;
        }
        let count = |name: &str| counts.get(name).copied().unwrap_or(0);
        let expected = Backlog { pending: count("pending"), refused: count("refused"), uncertain: count("uncertain") };
        prop_assert_eq!(store.store.backlog(NAME, None).unwrap(), expected);
        prop_assert_eq!(listed(store, Undelivered::Refused), self.at(ModelPlace::Refused));
        prop_assert_eq!(listed(store, Undelivered::Uncertain), self.at(ModelPlace::Uncertain));
        prop_assert_eq!(store.suspect(0).unwrap().is_some(), !self.at(ModelPlace::Suspect).is_empty());
        let frozen = store.frozen_batch().unwrap();
        prop_assert_eq!(frozen.as_ref(), self.frozen.as_ref().map(|(batch, _)| batch));
        if let Some((batch, rows)) = &self.frozen {
            prop_assert_eq!(&ids(&store.rows_of(batch).unwrap()), rows, "a batch is never resized");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_event_is_in_one_place(steps in prop::collection::vec(step(), 0..40), streams in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        let mut store = Outbox::open(Store::open(&state).unwrap(), NAME).unwrap();
        store.store.begin_run(&new_run("run"), &started()).unwrap();
        let first = ids(&store.pending_rows(0, 1, usize::MAX).unwrap()).remove(0);
        store.use_stream(TABLE, "s0").unwrap();
        let mut model =
            Model { places: vec![(first, ModelPlace::Pending)], frozen: None, mark: 0, stream: ("s0".into(), 0), streams: 1 };
        for step in steps {
            match step {
                ModelStep::Emit(count) => {
                    let from = model.places.len() - 1;
                    emit(&mut store, from, count);
                    model.places.extend((from..from + count).map(|n| (id(n), ModelPlace::Pending)));
                }
                ModelStep::Next(rows, bytes) => {
                    let after = model.frozen.as_ref().map_or(0, |(batch, _)| batch.last);
                    let next = store.pending_rows(after, rows, bytes).unwrap();
                    let pending = model.at(ModelPlace::Pending);
                    prop_assert!(pending.starts_with(&ids(&next)) && next.len() <= rows, "the oldest first");
                    prop_assert_eq!(next.is_empty(), pending.is_empty(), "one event is always accepted, however large");
                    let new = next.first().zip(next.last()).map(|(first, last)| NewBatch {
                        target: TABLE.into(),
                        stream: streams.then(|| model.stream.0.clone()),
                        // In a separate unit, as bytes are.
                        length: UNIT * i64::try_from(next.len()).unwrap(),
                        first: first.n,
                        last: last.n,
                        rows: i64::try_from(next.len()).unwrap(),
                    });
                    let done = model.frozen.take();
                    let frozen = store.advance(done.as_ref().map(|(batch, _)| batch), new.as_ref()).unwrap();
                    if let Some((batch, rows)) = done {
                        model.put(&rows, ModelPlace::Delivered);
                        model.mark = model.mark.max(batch.last);
                    }
                    if let Some(batch) = frozen {
                        let rows = ids(&next);
                        model.put(&rows, ModelPlace::Frozen);
                        if let Some((stream, offset)) = &batch.place {
                            prop_assert_eq!((stream, *offset), (&model.stream.0, model.stream.1), "directly after the previous batch");
                            model.stream.1 += batch.length;
                        }
                        model.frozen = Some((batch, rows));
                    }
                }
                ModelStep::Deliver => {
                    if let Some((batch, rows)) = model.frozen.take() {
                        store.advance(Some(&batch), None).unwrap();
                        model.put(&rows, ModelPlace::Delivered);
                        model.mark = model.mark.max(batch.last);
                    }
                }
                ModelStep::Release(bits, batch_limit) => {
                    if let Some((batch, rows)) = model.frozen.take() {
                        let numbers: Vec<i64> = store.rows_of(&batch).unwrap().iter().map(|out| out.n).collect();
                        let mut settled = Vec::new();
                        // Their previous state.
                        let before = match batch.was {
                            None => ModelPlace::Pending,
                            Some(Was::Refused) => ModelPlace::Refused,
                            Some(Was::Suspect) => ModelPlace::Suspect,
                            Some(Was::Uncertain) => ModelPlace::Uncertain,
                        };
                        model.put(&rows, before);
                        for (i, (id, n)) in rows.iter().zip(numbers).enumerate() {
                            let (how, place) = match bits >> (2 * i) & 3 {
                                1 => (RowDisposition::Refused("no".into()), ModelPlace::Refused),
                                2 => (RowDisposition::Present, ModelPlace::Present),
                                3 => (RowDisposition::Suspect("perhaps".into()), ModelPlace::Suspect),
                                _ => continue,
                            };
                            settled.push((n, how));
                            model.put(std::slice::from_ref(id), place);
                        }
                        store.release(&batch, &settled, batch_limit, "no").unwrap();
                        if let Some((stream, offset)) = batch.place
                            && stream == model.stream.0
                        {
                            model.stream.1 = offset;
                        }
                    }
                }
                ModelStep::GiveUp => {
                    if let Some((batch, rows)) = model.frozen.take() {
                        store.give_up(&batch, "who knows").unwrap();
                        model.mark = model.mark.max(batch.last);
                        model.put(&rows, ModelPlace::Uncertain);
                    }
                }
                ModelStep::SendAgain => {
                    if model.frozen.is_none()
                        && let Some(batch) = store.uncertain_batches().unwrap().into_iter().next()
                    {
                        let rows = ids(&store.rows_of(&batch).unwrap());
                        let uncertain = model.at(ModelPlace::Uncertain);
                        prop_assert!(!rows.is_empty() && rows.iter().all(|id| uncertain.contains(id)));
                        prop_assert_eq!(batch.rows, i64::try_from(rows.len()).unwrap());
                        store.send_again(&batch, &again(&model, &batch, streams)).unwrap();
                        model.again(&store, rows)?;
                    }
                }
                ModelStep::SendOneAgain(suspect) => {
                    let (was, events) = match suspect {
                        true => (Was::Suspect, store.suspects(0, 3).unwrap().into_iter().map(|suspect| suspect.n).collect()),
                        false => (Was::Refused, Vec::from_iter(store.refused_event(0).unwrap())),
                    };
                    // Like the deliverer: older pending events go first.
                    let older = |event: i64| (1..event).zip(&model.places).any(|(_, (_, place))| *place == ModelPlace::Pending);
                    if model.frozen.is_none()
                        && let (Some(first), Some(last)) = (events.first().copied(), events.last().copied())
                        && !older(first)
                    {
                        let rows = i64::try_from(events.len()).unwrap();
                        let new = NewBatch { first, last, rows, length: UNIT * rows, ..again(&model, &ANY, streams) };
                        store.send_set_aside_again(was, &events, &new).unwrap();
                        let rows = ids(&store.rows_of(&store.frozen_batch().unwrap().unwrap()).unwrap());
                        let place = if suspect { ModelPlace::Suspect } else { ModelPlace::Refused };
                        prop_assert_eq!(&rows[..], &model.at(place)[..events.len()], "the first ones");
                        model.again(&store, rows)?;
                    }
                }
                ModelStep::Stream => {
                    if model.frozen.is_none() {
                        let name = format!("s{}", model.streams);
                        store.use_stream(TABLE, &name).unwrap();
                        model.streams += 1;
                        model.stream = (name, 0);
                    }
                }
                ModelStep::Pass => {
                    store.pass_settled().unwrap();
                    let unsent = |(n, (_, place)): (i64, &(String, ModelPlace))| match place {
                        ModelPlace::Pending | ModelPlace::Frozen => true,
                        ModelPlace::Again => n > model.mark,
                        _ => false,
                    };
                    if !(1..).zip(&model.places).any(unsent) {
                        model.mark = i64::try_from(model.places.len()).unwrap();
                    }
                }
                ModelStep::Reopen => store = Outbox::open(Store::open(&state).unwrap(), NAME).unwrap(),
            }
            model.check(&store)?;
        }
    }
}
