//! What a writer leaves on disk after various failures, as seen by a reader.

use super::*;
use crate::spool::Cursor;
use crate::spool::reader::{Reader, Writing};
use lorchestra_plugin_api::invoke::JobReturn;
use lorchestra_plugin_api::limits::MAX_PAYLOAD;

fn event(payload: &str) -> NewEvent<'_> {
    NewEvent { event_type: "t", payload: payload.as_bytes(), schema_ref: "", correlation_id: "", subject_id: "" }
}

fn returned() -> Final {
    Final::Returned { returned: JobReturn::Ok, max_rss_kib: None, bookmark: None }
}

/// Returns everything that a dead writer left, as (seq, payload), and whether there was a final record.
fn read_all(dir: &Path) -> (Vec<(u64, String)>, bool) {
    let mut reader = Reader::with_segments_of(dir, Cursor::default(), 0);
    let (mut events, mut ended) = (Vec::new(), false);
    loop {
        let chunk = reader.read(Writing::Dead).unwrap();
        for record in &chunk.records {
            ended |= record.end.is_some();
            if let Some(event) = &record.event {
                events.push((record.seq, event.payload.get().to_owned()));
            }
        }
        let (end, more) = (chunk.end, chunk.more);
        reader.advance(end).unwrap();
        if !more {
            return (events, ended);
        }
    }
}

#[test]
fn appended_events_are_read_in_order_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::with_segments_of(dir.path(), 1000).unwrap();
    let taken_in = std::thread::spawn({
        let dir = dir.path().to_owned();
        move || {
            let mut reader = Reader::with_segments_of(&dir, Cursor::default(), 0);
            let mut seqs = Vec::new();
            loop {
                let chunk = reader.read(Writing::Alive).unwrap();
                seqs.extend(chunk.records.iter().map(|record| record.seq));
                let ended = chunk.records.iter().any(|record| record.end.is_some());
                let end = chunk.end;
                reader.advance(end).unwrap();
                if ended {
                    return seqs;
                }
            }
        }
    });
    for n in 0..500 {
        writer.append(&event(&format!("{{\"n\":{n}}}")), &|| false).unwrap();
    }
    writer.finish(&returned()).unwrap();
    assert_eq!(taken_in.join().unwrap(), (1..=501).collect::<Vec<_>>());
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 1, "segments that were written are gone");
}

#[test]
fn a_writer_that_is_ahead_waits_until_it_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::with_segments_of(dir.path(), 10).unwrap();
    for _ in 0..MAX_SEGMENTS {
        writer.append(&event("{}"), &|| true).unwrap();
    }
    assert!(matches!(writer.append(&event("{}"), &|| true), Err(AppendError::Cancelled)));
    std::fs::remove_file(segment_path(dir.path(), 1)).unwrap();
    writer.append(&event("{}"), &|| true).unwrap();
}

#[test]
fn nothing_follows_the_final_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path()).unwrap();
    writer.append(&event("{}"), &|| false).unwrap();
    writer.finish(&returned()).unwrap();
    assert!(matches!(writer.append(&event("{}"), &|| false), Err(AppendError::Ended)));
    assert!(matches!(writer.finish(&returned()), Err(AppendError::Ended)));
    assert_eq!(read_all(dir.path()).0.len(), 1);
}

#[test]
fn a_torn_record_ends_a_dead_segment_wherever_it_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path()).unwrap();
    for n in 0..3 {
        writer.append(&event(&format!("{{\"n\":{n}}}")), &|| false).unwrap();
    }
    let path = segment_path(dir.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let complete = ends.iter().filter(|end| **end <= cut).count();
        assert_eq!(read_all(dir.path()).0.len(), complete, "cut at {cut}");
    }
}

/// Limits the size of files, which causes short writes as a full disk does, for all files of the process: so the test runs again in a
/// process of its own, which has the limit.
#[test]
fn a_full_disk_leaves_whole_records() {
    const SMALL: u64 = 1 << 16;
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Fsize).current.filter(|limit| *limit <= SMALL) {
        return short_writes_are_cut_back(limit);
    }
    // Ignore the signal that comes with the limit, as lorchestra does (25 is SIGXFSZ). The limit is in blocks of 512 bytes.
    let script = "trap '' 25; ulimit -f 8; exec \"$0\" --exact spool::writer::tests::a_full_disk_leaves_whole_records";
    let test = std::env::current_exe().unwrap();
    let output = std::process::Command::new("sh").args(["-c", script]).arg(test).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

fn short_writes_are_cut_back(limit: u64) {
    let dir = tempfile::tempdir().unwrap();
    let segment = segment_path(dir.path(), 1);
    let mut writer = Writer::create(dir.path()).unwrap();
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(300));
    let mut written = 0;
    let error = loop {
        match writer.append(&event(&long), &|| false) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("cannot write the event"), "{error}");
    let len = std::fs::metadata(&segment).unwrap().len();
    assert!(len < limit, "part of a record fit, and it was truncated");
    assert_eq!(read_all(dir.path()).0.len(), written);
    // Of several events in one write, the complete ones stay and are reported; the rest is truncated.
    let several = ["{}"; 100].map(event);
    let (whole, result) = writer.append_all(several.into_iter(), &|| false);
    assert!(matches!(result, Err(AppendError::Io { .. })), "{result:?}");
    assert!(whole > 0 && std::fs::metadata(&segment).unwrap().len() < limit, "{whole} of 100");
    // The next write follows a complete record: nothing is lost, damaged or numbered twice.
    writer.begin_segment().unwrap();
    writer.finish(&returned()).unwrap();
    let (events, ended) = read_all(dir.path());
    let all = written as u64 + whole;
    assert!(ended);
    assert_eq!(events.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (1..=all).collect::<Vec<_>>());
}

#[test]
fn a_flush_syncs_to_disk_and_a_full_segment_is_synced_before_the_next() {
    thread_local! {
        static SYNCED: std::cell::RefCell<Vec<PathBuf>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    fn note(path: &Path) -> io::Result<()> {
        SYNCED.with_borrow_mut(|synced| synced.push(path.to_owned()));
        Ok(())
    }
    let top = tempfile::tempdir().unwrap();
    let (run, dir) = (top.path().join("run"), top.path().join("run/1"));
    std::fs::create_dir_all(&dir).unwrap();
    let mut writer = Writer::with_segments_of(&dir, 10).unwrap();
    writer.disk = Disk { content: |_, path| note(path), names: note };
    writer.append(&event("{}"), &|| false).unwrap();
    assert_eq!(SYNCED.take(), Vec::<PathBuf>::new(), "an emit does not wait for the disk");
    writer.flush().unwrap();
    assert_eq!(
        SYNCED.take(),
        [segment_path(&dir, 1), dir.clone(), run, top.path().to_owned()],
        "the content, then the directories above it"
    );
    // The segment is full: the next event begins another one, and the end of the full one must be durable.
    writer.append(&event("{}"), &|| false).unwrap();
    assert_eq!(SYNCED.take(), [segment_path(&dir, 1)]);
    // A flush fails if the disk refuses it.
    writer.disk.names = |_| Err(io::ErrorKind::StorageFull.into());
    assert!(matches!(writer.flush(), Err(AppendError::Io { .. })));
    assert_eq!(SYNCED.take(), [segment_path(&dir, 2)]);
}

#[test]
fn a_replaced_descriptor_makes_the_spool_unusable() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path()).unwrap();
    writer.append(&event("{}"), &|| false).unwrap();
    writer.file = tempfile::tempfile().unwrap();
    assert!(matches!(writer.flush(), Err(AppendError::Fault(_))));
    assert!(matches!(writer.append(&event("{}"), &|| false), Err(AppendError::Fault(_))));
    writer.finish(&returned()).unwrap();
    let text = std::fs::read_to_string(segment_path(dir.path(), 2)).unwrap();
    assert!(text.contains("spool_fault"), "{text}");
}

#[test]
fn an_invalid_event_is_refused_and_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path()).unwrap();
    let deep = format!("{{\"x\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(MAX_PAYLOAD));
    for bad in ["", "[]", "1", "{", "{\"a\":}", "{} {}", "{\"a\":NaN}", &deep, &long] {
        assert!(matches!(writer.append(&event(bad), &|| false), Err(AppendError::Invalid(_))), "{}", &bad[..bad.len().min(40)]);
    }
    let not_utf8 = NewEvent { payload: b"{\"a\":\"\xff\"}", ..event("") };
    assert!(matches!(writer.append(&not_utf8, &|| false), Err(AppendError::Invalid(_))));
    assert_eq!(std::fs::metadata(segment_path(dir.path(), 1)).unwrap().len(), 0);
}

#[test]
fn a_payload_with_line_breaks_is_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path()).unwrap();
    writer.append(&event("{\r\n  \"a\": \"[{\\\"\\n\"\n}"), &|| false).unwrap();
    writer.finish(&returned()).unwrap();
    let (events, ended) = read_all(dir.path());
    assert!(ended);
    let value: serde_json::Value = serde_json::from_str(&events[0].1).unwrap();
    assert_eq!(value["a"], "[{\"\n");
}

/// The disk lost the line end between two of the longest records: together they are longer than any record, and only they are lost.
#[test]
fn a_lost_line_end_loses_only_the_two_records_it_separated() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path()).unwrap();
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(MAX_PAYLOAD - 8));
    for payload in ["{\"n\":0}", &long, &long, "{\"n\":3}"] {
        writer.append(&event(payload), &|| false).unwrap();
    }
    writer.finish(&returned()).unwrap();
    let path = segment_path(dir.path(), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    let second = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0;
    bytes[second] = b' ';
    std::fs::write(&path, bytes).unwrap();
    let (events, ended) = read_all(dir.path());
    assert_eq!((events.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), ended), (vec![1, 4], true));
}
