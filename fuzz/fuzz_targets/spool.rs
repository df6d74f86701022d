//! The segments of a dead worker after any damage on the disk. The reader finds exactly the records that parsing line by line finds, once
//! each, even if it is stopped after any chunk and restarted at its end. Everything that was read is ingested, and everything ingested can
//! be listed: a job can append lines of its own with correct checksums.
//!
//! `spool/properties.rs` of core tests spools that are longer than one chunk: they would be too slow here.
//!
//! The input is a script, so that the fuzzer need not guess checksums, with one command per line.
//!
//! ```text
//! !TEXT   a record of this text, with a correct checksum
//! =       the segment ends
//! \       the next line has no end
//! TEXT    these bytes, unchanged
//! ```
#![no_main]
#![expect(clippy::expect_used, reason = "a panic is a finding")]

use libfuzzer_sys::fuzz_target;
use lorchestra_core::host::process::Identity;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::plan::{RequestedBy, RunSpec};
use lorchestra_core::spool::Cursor;
use lorchestra_core::spool::reader::{Reader, Writing};
use lorchestra_core::spool::record::{Record, frame, parse};
use lorchestra_core::spool::writer::segment_path;
use lorchestra_core::store::Portion;
use lorchestra_core::store::event::IngestState;
use lorchestra_core::store::{Event, EventFilter, NewRun, Started, Store};
use lorchestra_plugin_api::limits::RESERVED_TYPES;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// The maximum that an attempt may be ahead of the store.
const SEGMENTS: usize = 4;

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(lorchestra_fuzz::directory);

fuzz_target!(|script: &[u8]| {
    let segments = segments(script);
    let expected = by_lines(&segments);
    assert_eq!(read(&segments, false), expected, "in one go");
    assert_eq!(read(&segments, true), expected, "stopped after each chunk");
    listed(&segments);
});

/// Ingests the records of all lines into a separate store, and lists everything.
fn listed(segments: &[Vec<u8>]) {
    let lines = segments.iter().flat_map(|segment| segment.split(|&b| b == b'\n'));
    let records: Vec<Record<'_>> = lines.filter_map(|line| parse(line).ok()).collect();
    if records.is_empty() {
        return;
    }
    let ids: BTreeSet<&str> = records.iter().filter_map(|record| Some(record.event.as_ref()?.id)).collect();
    let dir = lorchestra_fuzz::directory();
    let state = StateDir::open(dir.path()).expect("a state directory");
    let mut store = Store::open(&state).expect("a store");
    store.begin_run(&run(), &started()).expect("a run");
    let mut ingested = IngestState::default();
    store
        .ingest(
            "run",
            1,
            Portion { records: &records, after: ingested.cursor, end: Cursor::default(), damaged: 0 },
            &mut ingested,
        )
        .expect("what was parsed is ingested");
    let mut found = BTreeSet::new();
    let each = |event: Event| {
        assert!(serde_json::to_string(&event).is_ok());
        assert!(event.created_at.len() == 27 && event.created_at.ends_with('Z'), "{event:?}");
        if event.event_type != "job.started" {
            assert!(!RESERVED_TYPES.contains(&&*event.event_type), "{event:?}");
            assert!(event.payload.as_ref().is_some_and(|json| json.get().starts_with('{')), "{event:?}");
            found.insert(event.event_id);
        }
        Ok::<(), ()>(())
    };
    store.events(&EventFilter::default(), each).expect("a listing").expect("no reader that goes away");
    assert!(found.iter().map(String::as_str).eq(ids), "{found:?}");
    assert_eq!(store.ingested("run", 1).expect("an attempt"), ingested);
}

fn run() -> NewRun {
    NewRun {
        run_id: "run".into(),
        spec: RunSpec::bare("pkg", "job", "1.0.0", chrono::DateTime::UNIX_EPOCH),
        started_at: 1,
        plugin_path: String::new(),
        plugin_sha256: String::new(),
        location: String::new(),
        host: String::new(),
        supervisor: Identity { pid: 1, start: 1, boot_id: String::new() },
        worker_pid: Some(1),
        keeps_bookmark: false,
    }
}

fn started() -> Started {
    Started {
        parameters: serde_json::Map::new(),
        since: None,
        until: None,
        host: String::new(),
        lorchestra_version: String::new(),
        plugin_path: String::new(),
        plugin_version: String::new(),
        plugin_sha256: String::new(),
        retries: 0,
        memory_max: None,
        requested_by: RequestedBy::CommandLine,
        group: None,
        trace_parent: None,
        held_by: None,
    }
}

/// The result: sequence numbers, and the number of damaged lines.
type Found = (Vec<u64>, u64);

fn segments(script: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = vec![Vec::new()];
    let mut open = false;
    for line in script.split(|&b| b == b'\n') {
        if line == b"=" && segments.len() < SEGMENTS {
            segments.push(Vec::new());
            continue;
        }
        let Some(segment) = segments.last_mut() else { return segments };
        match line {
            b"\\" => open = true,
            [b'!', json @ ..] => {
                frame(segment, |out| out.extend(json));
                if std::mem::take(&mut open) {
                    segment.pop();
                }
            }
            bytes => {
                segment.extend(bytes);
                if !std::mem::take(&mut open) {
                    segment.push(b'\n');
                }
            }
        }
    }
    segments
}

fn by_lines(segments: &[Vec<u8>]) -> Found {
    let (mut seqs, mut damaged) = (Vec::new(), 0);
    let mut ended = false;
    for segment in segments {
        if ended {
            // The segment with the final record is never left.
            break;
        }
        // The bytes after the last line end are a torn record.
        let whole = segment.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        for line in segment[..whole].split_inclusive(|&b| b == b'\n') {
            match parse(&line[..line.len() - 1]) {
                Ok(record) => {
                    ended |= record.end.is_some();
                    seqs.push(record.seq);
                }
                Err(_) => damaged += 1,
            }
        }
    }
    (seqs, damaged)
}

fn read(segments: &[Vec<u8>], anew: bool) -> Found {
    for (n, segment) in (1..).zip(segments) {
        std::fs::write(segment_path(DIR.path(), n), segment).expect("a segment");
    }
    let mut reader = Reader::with_segments_of(DIR.path(), Cursor::default(), 0);
    let (mut seqs, mut damaged, mut ended) = (Vec::new(), 0, false);
    loop {
        let chunk = reader.read(Writing::Dead).expect("a file that is there");
        seqs.extend(chunk.records.iter().map(|record| record.seq));
        damaged += chunk.damaged;
        ended |= chunk.records.iter().any(|record| record.end.is_some());
        let (end, more) = (chunk.end, chunk.more);
        reader.advance(end).expect("a segment is removed");
        if !more {
            break;
        }
        // A reader that starts after the final record would learn that from its caller.
        if anew && !ended {
            reader = Reader::with_segments_of(DIR.path(), end, 0);
        }
    }
    for n in 1..=SEGMENTS as u32 {
        let _ = std::fs::remove_file(segment_path(DIR.path(), n));
    }
    (seqs, damaged)
}
