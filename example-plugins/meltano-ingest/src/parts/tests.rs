//! Parts without an archive: what is in which file, and what is removed.

use super::*;
use crate::layout::Widened;
use lorchestra_plugin_api::serde_json::json;
use parquet::file::reader::{FileReader, SerializedFileReader};

fn layout(column: &str) -> Arc<Layout> {
    Arc::new(Layout::of(&json!({"properties": {column: {"type": "integer"}}}), &Widened::default()))
}

fn rows(path: &Path) -> Vec<String> {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect()
}

fn push(parts: &mut Parts, numbers: std::ops::Range<u32>) {
    for n in numbers {
        parts.push(format!("{{\"n\":{n}}}").as_bytes()).unwrap().unwrap();
    }
}

fn finished(parts: &Parts) -> Vec<usize> {
    parts.finished().map(|path| rows(path).len()).collect()
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn no_part_contains_rows_before_and_after_the_mark() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = Parts::new(dir.path(), "a", layout("n"), 7);
    push(&mut parts, 0..3);
    parts.mark();
    push(&mut parts, 3..5);
    // Three rows before the mark, two after it.
    parts.flush().unwrap();
    assert_eq!((parts.written, parts.rows.len()), (10, 2));
    parts.flush().unwrap();
    assert_eq!((finished(&parts), parts.written, files(dir.path())), (vec![3], 12, 2));
    push(&mut parts, 5..6);
    parts.sync().unwrap();
    assert_eq!(finished(&parts), [3], "the open part is after the mark");
    parts.cut(10).unwrap();
    assert_eq!((parts.len(), finished(&parts), files(dir.path())), (10, vec![3], 1));
    push(&mut parts, 6..8);
    parts.flush().unwrap();
    parts.mark();
    push(&mut parts, 8..9);
    parts.mark();
    parts.sync().unwrap();
    assert_eq!(finished(&parts), [3, 3]);
    let second = rows(parts.finished().nth(1).unwrap());
    assert_eq!(second, ["{n: 6}", "{n: 7}", "{n: 8}"]);
    parts.published();
    assert_eq!(finished(&parts), [0; 0]);
    parts.cut(13).unwrap();
    assert_eq!(files(dir.path()), 2, "published files are not removed");
}

#[test]
fn everything_is_removed_if_no_state_was_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = Parts::new(dir.path(), "a", layout("n"), 0);
    for _ in 0..2 {
        push(&mut parts, 0..2);
        parts.mark();
        parts.flush().unwrap();
        push(&mut parts, 2..4);
        parts.flush().unwrap();
        parts.sync().unwrap();
        parts.cut(0).unwrap();
        assert_eq!((parts.len(), files(dir.path())), (0, 0));
    }
}

#[test]
fn other_columns_begin_another_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = Parts::new(dir.path(), "a", layout("n"), 0);
    push(&mut parts, 0..1);
    parts.mark();
    push(&mut parts, 1..3);
    parts.set_layout(&layout("n")).unwrap();
    assert_eq!(files(dir.path()), 0, "the same columns");
    parts.set_layout(&layout("m")).unwrap();
    parts.push(b"{\"m\":4}").unwrap().unwrap();
    parts.sync().unwrap();
    assert_eq!(finished(&parts), [1], "two more are complete, but after the mark");
    parts.mark();
    parts.sync().unwrap();
    let all: Vec<_> = parts.finished().map(rows).collect();
    assert_eq!(all, [vec!["{n: 0}"], vec!["{n: 1}", "{n: 2}"], vec!["{m: 4}"]]);
}

#[test]
fn a_failed_write_is_not_retried() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = Parts::new(dir.path(), "a", layout("n"), 0);
    push(&mut parts, 0..1);
    parts.mark();
    parts.flush().unwrap();
    // Read-only: the footer cannot be written.
    let open = parts.open.as_mut().unwrap();
    let read_only = BufWriter::new(File::open(&open.path).unwrap());
    open.writer = SerializedFileWriter::new(read_only, layout("n").parquet_type().unwrap(), Arc::default()).unwrap();
    parts.sync().unwrap_err();
    parts.sync().unwrap_err();
    parts.cut(0).unwrap();
    assert_eq!(files(dir.path()), 0);
}
