//! Parquet files: complete before a state is stored, and only those that belong to it are visible.

use super::*;
use ::parquet::file::reader::{FileReader, SerializedFileReader};

const SCHEMA: &str = r#"{"properties":{"n":{"type":"integer"}}}"#;

fn open(dir: &Path, interval: Duration) -> Archive {
    let mut archive = Archive::open_with(dir, Format::Parquet, interval).unwrap();
    archive.begin_stream("a").unwrap();
    archive.set_schema("a", &serde_json::from_str(SCHEMA).unwrap()).unwrap();
    archive
}

/// The visible files with their numbers, as `1: 1 2, 2: 3`.
fn visible(dir: &Path) -> String {
    let parts: Vec<String> = names(dir)
        .iter()
        .filter(|name| name.ends_with(".parquet"))
        .map(|name| {
            let reader = SerializedFileReader::new(File::open(dir.join(name)).unwrap()).unwrap();
            let rows = reader.get_row_iter(None).unwrap();
            let rows: Vec<String> = rows.map(|row| row.unwrap().to_string().replace("{n: ", "").replace('}', "")).collect();
            format!("{}: {}", name.trim_end_matches(".parquet"), rows.join(" "))
        })
        .collect();
    parts.join(", ")
}

fn hidden(dir: &Path) -> usize {
    names(dir).iter().filter(|name| name.ends_with(checkpoint::UNFINISHED)).count()
}

fn state(dir: &Path) -> Option<String> {
    Some(Checkpoint::read(dir).unwrap().unwrap().unwrap().state?.get().to_owned())
}

#[test]
fn files_are_visible_when_their_state_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = open(dir.path(), NEVER);
    record(&mut archive, "a", None, 1);
    archive.mark(&raw("1")).unwrap();
    archive.streams[0].flush().unwrap();
    assert_eq!((visible(dir.path()), hidden(dir.path()), state(dir.path())), (String::new(), 1, None));
    // Killed.
    drop(archive);
    let mut archive = open(dir.path(), Duration::ZERO);
    assert_eq!(hidden(dir.path()), 0, "a killed run's files are removed");
    record(&mut archive, "a", None, 1);
    record(&mut archive, "a", None, 2);
    archive.mark(&raw("2")).unwrap();
    assert_eq!((visible(dir.path()), state(dir.path())), ("a.00001: 1 2".into(), Some("2".into())));
    record(&mut archive, "a", None, 3);
    archive.streams[0].flush().unwrap();
    archive.tick().unwrap();
    assert_eq!(archive.roll_back().unwrap(), Some(8));
    assert_eq!((visible(dir.path()), hidden(dir.path())), ("a.00001: 1 2".into(), 0));
    drop(archive);
    let mut archive = open(dir.path(), NEVER);
    record(&mut archive, "a", None, 3);
    archive.mark(&raw("3")).unwrap();
    record(&mut archive, "a", None, 4);
    assert_eq!(archive.roll_back().unwrap(), Some(8), "the records up to the last state are kept");
    assert_eq!((visible(dir.path()), state(dir.path())), ("a.00001: 1 2, a.00002: 3".into(), Some("3".into())));
    drop(archive);
    let mut archive = open(dir.path(), NEVER);
    archive.mark(&raw("4")).unwrap();
    archive.finish().unwrap();
    assert_eq!((visible(dir.path()), state(dir.path())), ("a.00001: 1 2, a.00002: 3".into(), Some("4".into())), "no empty file");
}

/// A record waits in memory while an earlier state is stored, and then no other record comes.
#[test]
fn a_record_after_a_state_that_was_stored_late_is_stored_with_the_next_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = open(dir.path(), NEVER);
    record(&mut archive, "a", None, 1);
    archive.mark(&raw("1")).unwrap();
    record(&mut archive, "a", None, 2);
    archive.commit().unwrap();
    assert_eq!((visible(dir.path()), state(dir.path())), ("a.00001: 1".into(), Some("1".into())));
    archive.mark(&raw("2")).unwrap();
    archive.finish().unwrap();
    assert_eq!((visible(dir.path()), state(dir.path())), ("a.00001: 1, a.00002: 2".into(), Some("2".into())));
}

#[test]
fn a_kill_between_checkpoint_and_names_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = open(dir.path(), NEVER);
    record(&mut archive, "a", None, 1);
    archive.mark(&raw("1")).unwrap();
    // The directory in the way makes the rename fail, as a kill would.
    fs::create_dir_all(dir.path().join("a.00001.parquet/in-the-way")).unwrap();
    archive.commit().unwrap_err();
    let _ = archive.roll_back();
    drop(archive);
    assert_eq!((hidden(dir.path()), state(dir.path())), (1, Some("1".into())));
    fs::remove_dir_all(dir.path().join("a.00001.parquet")).unwrap();
    let mut archive = open(dir.path(), NEVER);
    assert_eq!((visible(dir.path()), hidden(dir.path())), ("a.00001: 1".into(), 0));
    record(&mut archive, "a", None, 2);
    archive.finish().unwrap();
    assert_eq!(visible(dir.path()), "a.00001: 1, a.00002: 2");
}

#[test]
fn a_version_replaces_all_files_of_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = open(dir.path(), Duration::ZERO);
    for n in 1..3 {
        record(&mut archive, "a", Some(5), n);
        archive.mark(&raw("0")).unwrap();
    }
    record(&mut archive, "a", Some(7), 3);
    archive.mark(&raw("0")).unwrap();
    assert_eq!(visible(dir.path()), "a.00001: 1, a.00002: 2, a~7.00003: 3");
    drop(archive);
    let mut archive = open(dir.path(), Duration::ZERO);
    record(&mut archive, "a", Some(7), 4);
    assert_eq!(record(&mut archive, "a", Some(4), 9), Some(Taken::Retired));
    archive.activate("a", 7).unwrap();
    record(&mut archive, "a", None, 5);
    archive.mark(&raw("1")).unwrap();
    assert_eq!(visible(dir.path()), "a.00003: 3, a.00004: 4 5");
    let activated = archive.take_activated();
    assert!(activated[0].version == 7 && activated[0].retired > 400, "{activated:?}");
    record(&mut archive, "a", Some(7), 6);
    archive.finish().unwrap();
    drop(archive);
    assert_eq!(visible(dir.path()), "a.00003: 3, a.00004: 4 5, a.00005: 6");
    // To start over: the files stay, and the numbers go on.
    fs::remove_file(dir.path().join("state.json")).unwrap();
    let mut archive = open(dir.path(), NEVER);
    record(&mut archive, "a", None, 7);
    archive.finish().unwrap();
    assert_eq!(visible(dir.path()), "a.00003: 3, a.00004: 4 5, a.00005: 6, a.00006: 7");
}

#[test]
fn columns_change_with_schema_and_values() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = open(dir.path(), NEVER);
    record(&mut archive, "a", None, 1);
    let wider = r#"{"properties":{"n":{"type":"integer"},"m":{"type":"string"}}}"#;
    archive.set_schema("a", &serde_json::from_str(wider).unwrap()).unwrap();
    for text in [r#"{"n":2,"m":"x"}"#, r#"{"n":99999999999999999999}"#, r#"{"n":3,"k":true}"#, r#"{"n":4}"#] {
        assert_eq!(archive.record("a", None, &raw(text), None).unwrap(), Some(Taken::Kept));
    }
    let widened = archive.take_widened();
    assert_eq!(
        widened.iter().map(|each| (&*each.stream, each.column.as_deref())).collect::<Vec<_>>(),
        [("a", Some("n")), ("a", None)]
    );
    assert_eq!(archive.record("a", None, &raw(r#"{"\ud83d":1}"#), None).unwrap(), Some(Taken::NotText));
    archive.finish().unwrap();
    drop(archive);
    let all = [
        "a.00001: 1",
        "a.00002: {m: \"x\", n: 2",
        "a.00003: {m: null, n: \"99999999999999999999\"",
        "a.00004: {m: null, n: \"3\", _additional_properties: \"{\"k\":true\" {m: null, n: \"4\", _additional_properties: null",
    ];
    assert_eq!(visible(dir.path()), all.join(", "));
    // The next run uses the wider columns from the start.
    let mut archive = open(dir.path(), NEVER);
    archive.set_schema("a", &serde_json::from_str(wider).unwrap()).unwrap();
    record(&mut archive, "a", None, 5);
    archive.finish().unwrap();
    assert!(visible(dir.path()).ends_with("a.00005: {m: null, n: \"5\", _additional_properties: null"));
}

#[test]
fn a_directory_has_one_format() {
    let dir = tempfile::tempdir().unwrap();
    drop(Archive::open(dir.path(), Format::Jsonl).unwrap());
    drop(open(dir.path(), NEVER));
    let error = Archive::open(dir.path(), Format::Jsonl).unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("use --format parquet, or another --name"), "{error}");
}

#[test]
fn a_schema_that_alternates_has_a_file_for_each_form_and_state() {
    let dir = tempfile::tempdir().unwrap();
    let forms = [SCHEMA, r#"{"properties":{"m":{"type":"integer"}}}"#].map(|text| serde_json::from_str::<Value>(text).unwrap());
    let mut archive = open(dir.path(), NEVER);
    for n in 0..10 {
        archive.set_schema("a", &forms[n % 2]).unwrap();
        let text = format!("{{\"{}\":{n}}}", ["n", "m"][n % 2]);
        assert_eq!(archive.record("a", None, &raw(&text), None).unwrap(), Some(Taken::Kept));
        if n == 5 {
            archive.mark(&raw("5")).unwrap();
        }
    }
    // The run fails: the records up to the state are kept, in complete files, before the state is.
    assert_eq!(archive.roll_back().unwrap(), Some(4 * 8));
    assert_eq!((visible(dir.path()), state(dir.path())), ("a.00001: 0 2 4, a.00002: {m: 1 {m: 3 {m: 5".into(), Some("5".into())));
    assert_eq!(hidden(dir.path()), 0);
}

/// Files of a version whose state was removed, and those after a state that was put back.
#[test]
fn files_that_belong_to_no_state_do_not_join_a_later_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut archive = open(dir.path(), Duration::ZERO);
    record(&mut archive, "a", Some(5), 1);
    archive.mark(&raw("1")).unwrap();
    let first = fs::read(path("state.json")).unwrap();
    record(&mut archive, "a", Some(7), 2);
    archive.mark(&raw("2")).unwrap();
    drop(archive);
    assert_eq!(visible(dir.path()), "a.00001: 1, a~7.00002: 2");

    fs::remove_file(path("state.json")).unwrap();
    let mut archive = open(dir.path(), Duration::ZERO);
    let stale = archive.take_stale();
    assert_eq!((&*stale[0].stream, stale[0].files), ("a", 1));
    assert_eq!(stale[0].bytes, fs::metadata(path("a~7.00002.parquet.stale")).unwrap().len());
    record(&mut archive, "a", None, 3);
    archive.mark(&raw("3")).unwrap();
    record(&mut archive, "a", Some(7), 4);
    archive.activate("a", 7).unwrap();
    archive.mark(&raw("4")).unwrap();
    assert!(archive.take_stale().is_empty());
    drop(archive);
    assert_eq!(visible(dir.path()), "a.00003: 4", "not the 2 of the earlier version 7");

    // The first state is put back, with its file.
    fs::write(path("state.json"), &first).unwrap();
    fs::rename(path("a.00003.parquet"), path("a~7.00002.parquet")).unwrap();
    fs::copy(path("a~7.00002.parquet"), path("a.00002.parquet")).unwrap();
    let mut archive = open(dir.path(), Duration::ZERO);
    assert_eq!(archive.take_stale()[0].files, 2);
    record(&mut archive, "a", Some(7), 5);
    archive.activate("a", 7).unwrap();
    archive.mark(&raw("5")).unwrap();
    assert_eq!(visible(dir.path()), "a.00002: 5");
    assert!(path("a.00002.parquet.stale").exists() && path("a~7.00002.parquet.stale.2").exists());
}
