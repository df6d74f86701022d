//! The segments of a dead worker, whatever became of them on the disk. The reader finds the very records that a reading line by
//! line finds, once each; and so does one that is stopped after any chunk and begins again at its end.
//!
//! Spools that are longer than what is read at once are tried by `spool/properties.rs` of the core: they cost too much here.
//!
//! The input is a script, so that the fuzzer need not guess checksums: a line each.
//!
//! ```text
//! !TEXT   a record of this text, its checksum right
//! =       the segment ends
//! \       the next line has no end
//! TEXT    the bytes as they are
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;
use lorchestra_core::spool::Cursor;
use lorchestra_core::spool::reader::{Reader, Writing};
use lorchestra_core::spool::record::{frame, parse};
use lorchestra_core::spool::writer::segment_path;
use std::sync::LazyLock;

/// What an attempt may have ahead of the store.
const SEGMENTS: usize = 4;

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(lorchestra_fuzz::directory);

fuzz_target!(|script: &[u8]| {
    let segments = segments(script);
    let expected = by_lines(&segments);
    assert_eq!(read(&segments, false), expected, "in one go");
    assert_eq!(read(&segments, true), expected, "stopped after each chunk");
});

/// What was read: sequence numbers, and how many lines were damaged.
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
    for segment in segments {
        // What is behind the last end of a line was torn.
        let whole = segment.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        for line in segment[..whole].split_inclusive(|&b| b == b'\n') {
            match parse(&line[..line.len() - 1]) {
                Ok(record) => seqs.push(record.seq),
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
    let (mut seqs, mut damaged) = (Vec::new(), 0);
    loop {
        let chunk = reader.read(Writing::Dead).expect("a file that is there");
        seqs.extend(chunk.records.iter().map(|record| record.seq));
        damaged += chunk.damaged;
        let (end, more) = (chunk.end, chunk.more);
        reader.taken(end).expect("a segment is removed");
        if !more {
            break;
        }
        if anew {
            reader = Reader::with_segments_of(DIR.path(), end, 0);
        }
    }
    for n in 1..=SEGMENTS as u32 {
        let _ = std::fs::remove_file(segment_path(DIR.path(), n));
    }
    (seqs, damaged)
}
