//! Properties of spool recovery: whatever the disk has done to a spool and a job has forged in it, every intact record is ingested exactly
//! once, at whatever point ingestion was interrupted, and everything ingested can be listed.

use super::reader::{Reader, Writing};
use super::record::{Final, frame, parse};
use super::writer::{NewEvent, Writer, segment_path};
use crate::host::state::StateDir;
use crate::store::Portion;
use crate::store::event::IngestState;
use crate::store::tests::{new_run, started};
use crate::store::{EventFilter, Store};
use lorchestra_plugin_api::invoke::JobReturn;
use proptest::prelude::*;
use std::path::Path;

/// Payload sizes: mostly small, some so large that a few fill a chunk.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0_usize..200, 1 => 200_000_usize..500_000, 1 => 1_000_000_usize..1_040_000]
}

/// Damage by the disk. Segment and byte are fractions of the totals.
#[derive(Debug, Clone, Copy)]
enum Damage {
    None,
    /// The segment ends here; the rest is missing.
    Cut(f64, f64),
    /// One byte has changed.
    Byte(f64, f64, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    let share = || 0.0..1.0_f64;
    prop_oneof![
        1 => Just(Damage::None),
        3 => (share(), share()).prop_map(|(segment, byte)| Damage::Cut(segment, byte)),
        3 => (share(), share(), 1_u8..).prop_map(|(segment, byte, flip)| Damage::Byte(segment, byte, flip)),
        // Line ends matter more than other bytes.
        1 => (share(), share()).prop_map(|(segment, byte)| Damage::Byte(segment, byte, b'\n')),
    ]
}

/// Writes a complete spool and returns the bytes of its segments.
fn written(dir: &Path, sizes: &[usize], segment_bytes: u64) -> Vec<Vec<u8>> {
    let mut writer = Writer::with_segments_of(dir, segment_bytes).unwrap();
    for (n, size) in sizes.iter().enumerate() {
        let payload = format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(*size));
        let event = NewEvent { event_type: "t", payload: payload.as_bytes(), schema_ref: "", correlation_id: "", subject_id: "" };
        // There is no reader, so a full spool would block forever: cancel instead.
        if writer.append(&event, &|| true).is_err() {
            break;
        }
    }
    writer.finish(&Final::Returned { returned: JobReturn::Ok, max_rss_kib: None, bookmark: None }).unwrap();
    let paths = (1..).map(|n| segment_path(dir, n)).take_while(|path| path.exists());
    paths.map(|path| std::fs::read(path).unwrap()).collect()
}

fn damaged(mut segments: Vec<Vec<u8>>, damage: Damage) -> Vec<Vec<u8>> {
    let pick = |share: f64, of: usize| ((share * of as f64) as usize).min(of - 1);
    match damage {
        Damage::None => {}
        Damage::Cut(segment, byte) => {
            let segment = pick(segment, segments.len());
            segments.truncate(segment + 1);
            let len = segments[segment].len();
            segments[segment].truncate(pick(byte, len + 1));
        }
        Damage::Byte(segment, byte, flip) => {
            let segment = pick(segment, segments.len());
            let byte = pick(byte, segments[segment].len());
            segments[segment][byte] ^= flip;
        }
    }
    segments
}

/// Lines with a correct checksum that no worker writes, one of each kind.
const FORGERIES: [&str; 7] = [
    r#"{"seq":1,"event":{"id":"01890a5d-ac96-774b-bcce-b302099a8057","at":-9223372036854775808,"type":"t","payload":{"n":1}}}"#,
    r#"{"seq":1,"event":{"id":"01890a5d-ac96-774b-bcce-b302099a8057","at":5,"type":"job.completed","payload":{}}}"#,
    r#"{"seq":1,"event":{"id":"01890a5d-ac96-774b-bcce-b302099a8057","at":5,"type":"t","payload":[1]}}"#,
    r#"{"seq":1,"event":{"id":"x","at":5,"type":"t","payload":{"n":1}}}"#,
    r#"{"seq":1,"final":{"end":"returned","returned":{"status":"ok"},"bookmark":9223372036854775807}}"#,
    r#"{"seq":1,"mark":"left"}"#,
    "{}",
];

/// Inserts the forgeries at line ends. Segment and line are fractions of the totals.
fn forged(mut segments: Vec<Vec<u8>>, forgeries: &[(usize, f64, f64)]) -> Vec<Vec<u8>> {
    for (which, segment, line) in forgeries {
        let segment = (segment * segments.len() as f64) as usize;
        let ends: Vec<usize> = segments[segment].iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        let at = ends.get((line * (ends.len() + 1) as f64) as usize).copied().unwrap_or(0);
        let mut bytes = Vec::new();
        frame(&mut bytes, |out| out.extend_from_slice(FORGERIES[*which].as_bytes()));
        segments[segment].splice(at..at, bytes);
    }
    segments
}

/// Returns the numbers of the events in complete lines, the number of complete lines that are not records, and whether the final record is
/// there.
fn by_lines(segments: &[Vec<u8>]) -> (Vec<u64>, u64, bool) {
    let (mut numbers, mut damaged, mut ended) = (Vec::new(), 0, false);
    for segment in segments {
        let whole = segment.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        for line in segment[..whole].split_inclusive(|&b| b == b'\n') {
            match parse(&line[..line.len() - 1]) {
                Ok(record) => {
                    ended |= record.end.is_some();
                    numbers.extend(record.event.map(|event| number(event.payload.get())));
                }
                Err(_) => damaged += 1,
            }
        }
    }
    (numbers, damaged, ended)
}

fn number(payload: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(payload).unwrap()["n"].as_u64().unwrap()
}

/// When the ingesting process dies while it handles a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CrashPoint {
    None,
    /// Before the chunk is committed.
    Before,
    /// After that, but before finished segments are removed.
    After,
}

/// Ingests a spool as a supervisor and then recovery do, with the given crashes. Returns the contents of the store.
fn ingest(state: &StateDir, dir: &Path, deaths: &[CrashPoint]) -> (Vec<u64>, IngestState) {
    let mut store = Store::open(state).unwrap();
    store.begin_run(&new_run("run"), &started()).unwrap();
    let mut deaths = deaths.iter().copied().chain(std::iter::repeat(CrashPoint::None));
    'dead: loop {
        let mut ingested = store.ingested("run", 1).unwrap();
        let mut reader = Reader::with_segments_of(dir, ingested.cursor, 0);
        loop {
            let death = deaths.next().unwrap();
            let chunk = reader.read(Writing::Dead).unwrap();
            let (end, more) = (chunk.end, chunk.more);
            if death == CrashPoint::Before {
                continue 'dead;
            }
            store
                .ingest(
                    "run",
                    1,
                    Portion { records: &chunk.records, after: ingested.cursor, end, damaged: chunk.damaged },
                    &mut ingested,
                )
                .unwrap();
            if death == CrashPoint::After {
                continue 'dead;
            }
            reader.advance(end).unwrap();
            if !more {
                break 'dead;
            }
        }
    }
    let mut numbers = Vec::new();
    let each = |event: crate::store::Event| {
        assert!(event.created_at.ends_with('Z'), "{event:?}");
        match &*event.event_type {
            "job.started" => {}
            "t" => numbers.push(number(event.payload.unwrap().get())),
            _ => panic!("{event:?}"),
        }
        Ok::<(), ()>(())
    };
    store.events(&EventFilter::default(), each).unwrap().unwrap();
    (numbers, store.ingested("run", 1).unwrap())
}

fn deaths() -> impl Strategy<Value = Vec<CrashPoint>> {
    let death = prop_oneof![2 => Just(CrashPoint::None), 1 => Just(CrashPoint::Before), 1 => Just(CrashPoint::After)];
    prop::collection::vec(death, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn intact_records_are_ingested_once_wherever_ingestion_was_interrupted(
        sizes in prop::collection::vec(size(), 0..12), segment_bytes in prop_oneof![1_u64..2000, Just(1 << 20), Just(64 << 20)],
        damage in damage(), deaths in deaths(),
        forgeries in prop::collection::vec((0..FORGERIES.len(), 0.0..1.0_f64, 0.0..1.0_f64), 0..4),
    ) {
        let site = tempfile::tempdir().unwrap();
        let state = StateDir::open(&site.path().join("state")).unwrap();
        let dir = site.path().join("spool");
        std::fs::create_dir(&dir).unwrap();
        let segments = written(&dir, &sizes, segment_bytes);
        let before = by_lines(&segments);
        prop_assert_eq!((before.1, before.2), (0, true), "an undisturbed spool is intact");
        let segments = damaged(segments, damage);
        let expected = by_lines(&segments);
        let segments = forged(segments, &forgeries);
        let found = by_lines(&segments);
        let wanted = (expected.0.clone(), expected.1 + forgeries.len() as u64, expected.2);
        prop_assert_eq!(&found, &wanted, "forgeries count as damaged, and change nothing");
        for n in 1.. {
            match segments.get(n as usize - 1) {
                Some(bytes) => std::fs::write(segment_path(&dir, n), bytes).unwrap(),
                None if segment_path(&dir, n).exists() => std::fs::remove_file(segment_path(&dir, n)).unwrap(),
                None => break,
            }
        }
        // Damage costs at most the records that it touches: two if it is between them.
        let lost = before.0.len() - expected.0.len();
        match damage {
            Damage::None => prop_assert_eq!(lost, 0),
            Damage::Byte(..) => prop_assert!(lost <= 2 && expected.1 <= 2, "{} lost, {} damaged", lost, expected.1),
            // The records before the cut survive.
            Damage::Cut(..) => prop_assert!(before.0.starts_with(&expected.0) && expected.1 == 0),
        }
        let (numbers, ingested) = ingest(&state, &dir, &deaths);
        prop_assert_eq!(numbers, expected.0);
        prop_assert_eq!((ingested.damaged, ingested.end.is_some()), (found.1, expected.2));
    }
}
