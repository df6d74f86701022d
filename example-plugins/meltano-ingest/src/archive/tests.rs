//! What is stored and what is removed, in one process: dropping an archive simulates a killed run.

use super::*;
use std::fs;

const NEVER: Duration = Duration::from_secs(3600);

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn record(archive: &mut Archive, stream: &str, version: Option<i64>, n: u32) -> Option<Taken> {
    archive.record(stream, version, &raw(&format!("{{\"n\":{n}}}")), None).unwrap()
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap().replace("{\"n\":", "").replace("}\n", " ")
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn state_of(dir: &Path) -> Option<String> {
    let archive = Archive::open(dir, Format::Jsonl).unwrap();
    let path = archive.state_file().unwrap()?;
    Some(fs::read_to_string(path).unwrap())
}

#[test]
fn records_are_kept_up_to_the_last_state() {
    for (killed, interval) in [(true, Duration::ZERO), (false, Duration::ZERO), (false, NEVER)] {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Archive::open_with(dir.path(), Format::Jsonl, interval).unwrap();
        archive.begin_stream("a").unwrap();
        archive.begin_stream("b").unwrap();
        record(&mut archive, "a", None, 1);
        record(&mut archive, "b", None, 2);
        archive.mark(&raw("{\"at\":2}")).unwrap();
        record(&mut archive, "a", None, 3);
        archive.set_aside(b"{}").unwrap();
        if killed {
            // Everything that reached the disk.
            archive.streams[0].sync().unwrap();
            assert_eq!(read(dir.path(), "a.jsonl"), "1 3 ");
        } else {
            assert_eq!(archive.roll_back().unwrap(), Some(8 + 3));
            assert_eq!(archive.streams[0].counts.records, 1, "kept records are counted");
        }
        drop(archive);
        assert_eq!(state_of(dir.path()).as_deref(), Some("{\"at\":2}"), "killed {killed}, {interval:?}");
        assert_eq!((read(dir.path(), "a.jsonl"), read(dir.path(), "b.jsonl")), ("1 ".into(), "2 ".into()));
        assert_eq!(read(dir.path(), SET_ASIDE), "");
    }
}

#[test]
fn a_kill_before_a_checkpoint_is_due_keeps_neither_state_nor_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = Archive::open_with(dir.path(), Format::Jsonl, NEVER).unwrap();
    archive.begin_stream("a").unwrap();
    record(&mut archive, "a", None, 1);
    archive.mark(&raw("1")).unwrap();
    archive.tick().unwrap();
    archive.streams[0].sync().unwrap();
    drop(archive);
    assert_eq!(state_of(dir.path()), None);
    assert_eq!(read(dir.path(), "a.jsonl"), "");
}

#[test]
fn success_keeps_records_after_the_last_state_and_the_next_run_appends() {
    let dir = tempfile::tempdir().unwrap();
    for n in [1, 3] {
        let mut archive = Archive::open(dir.path(), Format::Jsonl).unwrap();
        archive.begin_stream("a").unwrap();
        record(&mut archive, "a", None, n);
        archive.mark(&raw(&n.to_string())).unwrap();
        record(&mut archive, "a", None, n + 1);
        archive.finish().unwrap();
    }
    assert_eq!(read(dir.path(), "a.jsonl"), "1 2 3 4 ");
    assert_eq!(state_of(dir.path()).as_deref(), Some("3"));
}

#[test]
fn a_new_version_waits_and_then_replaces_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = Archive::open_with(dir.path(), Format::Jsonl, NEVER).unwrap();
    archive.begin_stream("a").unwrap();
    // Nothing to replace: it is active immediately.
    record(&mut archive, "a", Some(5), 1);
    archive.finish().unwrap();
    for n in [2, 3] {
        record(&mut archive, "a", Some(7), n);
    }
    archive.mark(&raw("1")).unwrap();
    assert_eq!(record(&mut archive, "a", Some(5), 4), Some(Taken::Kept), "still the active one");
    assert_eq!(record(&mut archive, "a", Some(4), 9), Some(Taken::Retired));
    archive.finish().unwrap();
    assert_eq!((read(dir.path(), "a.jsonl"), read(dir.path(), "a~7.jsonl")), ("1 4 ".into(), "2 3 ".into()));
    assert!(archive.take_activated().is_empty());
    drop(archive);

    // Killed in a run that continued with the new version.
    let mut archive = Archive::open_with(dir.path(), Format::Jsonl, NEVER).unwrap();
    archive.begin_stream("a").unwrap();
    record(&mut archive, "a", Some(7), 5);
    assert_eq!(archive.activate("a", 7).unwrap(), Some(Taken::Kept));
    assert_eq!(read(dir.path(), "a.jsonl"), "1 4 ", "not before the next state");
    drop(archive);

    let mut archive = Archive::open_with(dir.path(), Format::Jsonl, NEVER).unwrap();
    record(&mut archive, "a", Some(7), 6);
    archive.activate("a", 7).unwrap();
    // Without a version: the active file.
    record(&mut archive, "a", None, 7);
    archive.mark(&raw("2")).unwrap();
    assert_eq!(archive.take_activated(), [Activated { stream: "a".into(), version: 7, retired: 16 }]);
    assert_eq!(read(dir.path(), "a.jsonl"), "2 3 6 7 ");
    assert_eq!(record(&mut archive, "a", Some(7), 8), Some(Taken::Kept));
    assert_eq!(archive.activate("a", 7).unwrap(), Some(Taken::Kept), "again");
    assert_eq!(archive.activate("a", 5).unwrap(), Some(Taken::Retired));
    archive.finish().unwrap();
    drop(archive);
    Archive::open(dir.path(), Format::Jsonl).unwrap();
    assert_eq!(read(dir.path(), "a.jsonl"), "2 3 6 7 8 ");
    assert_eq!(names(dir.path()), [".lock", "a.jsonl", SET_ASIDE, "state.json"]);
}

#[test]
fn an_empty_version_empties_the_stream_and_removes_older_waiting_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = Archive::open(dir.path(), Format::Jsonl).unwrap();
    archive.begin_stream("a").unwrap();
    record(&mut archive, "a", None, 1);
    archive.finish().unwrap();
    record(&mut archive, "a", Some(2), 2);
    archive.activate("a", 3).unwrap();
    archive.finish().unwrap();
    assert_eq!(read(dir.path(), "a.jsonl"), "");
    assert_eq!(names(dir.path()), [".lock", "a.jsonl", SET_ASIDE, "state.json"]);
}

#[test]
fn files_changed_by_another_program() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let run = |n: u32| {
        let mut archive = Archive::open(dir.path(), Format::Jsonl)?;
        archive.begin_stream("a")?;
        record(&mut archive, "a", None, n);
        archive.finish()
    };
    run(1).unwrap();
    fs::remove_file(&path).unwrap();
    run(2).unwrap();
    assert_eq!(read(dir.path(), "a.jsonl"), "2 ", "removed by a reader: starts over");
    fs::write(&path, "").unwrap();
    let error = run(3).unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("has 0 bytes, but 8 belong to"), "{error}");
    fs::write(&path, "{\"n\":2}\n").unwrap();

    fs::write(dir.path().join("state.json"), "{}").unwrap();
    let error = run(3).unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("move it away to start over"), "{error}");
    fs::remove_file(dir.path().join("state.json")).unwrap();
    run(3).unwrap();
    assert_eq!(read(dir.path(), "a.jsonl"), "2 3 ", "earlier records stay");
    fs::remove_file(dir.path().join("state.json")).unwrap();
    fs::write(&path, "half").unwrap();
    assert!(matches!(run(4).unwrap_err(), ArchiveError::NoLine(_)));
}

#[test]
fn a_file_moved_away_is_recreated_even_after_a_failed_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut archive = Archive::open(dir.path(), Format::Jsonl).unwrap();
    archive.begin_stream("a").unwrap();
    record(&mut archive, "a", Some(5), 1);
    record(&mut archive, "a", Some(7), 2);
    archive.set_aside(b"{}").unwrap();
    archive.finish().unwrap();
    drop(archive);
    for name in ["a.jsonl", "a~7.jsonl", SET_ASIDE] {
        fs::remove_file(path(name)).unwrap();
        // Killed before anything was stored.
        drop(Archive::open(dir.path(), Format::Jsonl).unwrap());
        assert_eq!(read(dir.path(), name), "", "{name}");
    }
    let mut archive = Archive::open(dir.path(), Format::Jsonl).unwrap();
    record(&mut archive, "a", Some(5), 3);
    record(&mut archive, "a", Some(7), 4);
    archive.set_aside(b"[]").unwrap();
    archive.finish().unwrap();
    assert_eq!(["a.jsonl", "a~7.jsonl", SET_ASIDE].map(|name| read(dir.path(), name)), ["3 ", "4 ", "[]\n"]);
}

#[test]
fn checkpointed_records_are_not_truncated_when_a_later_step_fails() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = Archive::open_with(dir.path(), Format::Jsonl, NEVER).unwrap();
    archive.begin_stream("a").unwrap();
    record(&mut archive, "a", Some(5), 1);
    record(&mut archive, "a", Some(7), 2);
    archive.finish().unwrap();
    record(&mut archive, "a", Some(7), 3);
    archive.activate("a", 7).unwrap();
    // The new version cannot replace the old one, because a directory is in the way.
    fs::rename(dir.path().join("a.jsonl"), dir.path().join("away")).unwrap();
    fs::create_dir_all(dir.path().join("a.jsonl/in-the-way")).unwrap();
    archive.mark(&raw("3")).unwrap_err();
    record(&mut archive, "a", Some(7), 4);
    let _ = archive.roll_back();
    drop(archive);
    fs::remove_dir_all(dir.path().join("a.jsonl")).unwrap();
    fs::rename(dir.path().join("away"), dir.path().join("a.jsonl")).unwrap();
    assert_eq!(state_of(dir.path()).as_deref(), Some("3"));
    assert_eq!(read(dir.path(), "a.jsonl"), "2 3 ");
}

#[test]
fn a_waiting_version_whose_state_was_removed_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = Archive::open(dir.path(), Format::Jsonl).unwrap();
    archive.begin_stream("a").unwrap();
    record(&mut archive, "a", Some(5), 1);
    record(&mut archive, "a", Some(-7), 9);
    record(&mut archive, "a", Some(7), 2);
    archive.finish().unwrap();
    drop(archive);
    assert!(Archive::open(dir.path(), Format::Jsonl).unwrap().take_stale().is_empty());
    fs::remove_file(dir.path().join("state.json")).unwrap();
    let mut archive = Archive::open(dir.path(), Format::Jsonl).unwrap();
    archive.begin_stream("a").unwrap();
    assert_eq!(archive.take_stale(), [Stale { stream: "a".into(), files: 1, bytes: 8 }]);
    assert_eq!(read(dir.path(), "a~7.jsonl.stale"), "2 ");
    record(&mut archive, "a", None, 3);
    record(&mut archive, "a", Some(7), 4);
    archive.activate("a", 7).unwrap();
    archive.finish().unwrap();
    assert_eq!(read(dir.path(), "a.jsonl"), "4 ");
}

#[test]
fn a_second_run_fails() {
    let dir = tempfile::tempdir().unwrap();
    let first = Archive::open(dir.path(), Format::Jsonl).unwrap();
    let error = Archive::open(dir.path(), Format::Jsonl).unwrap_err();
    assert!(matches!(error, ArchiveError::Busy(_)) && !error.is_permanent());
    drop(first);
    Archive::open(dir.path(), Format::Jsonl).unwrap();
}

mod parquet;
