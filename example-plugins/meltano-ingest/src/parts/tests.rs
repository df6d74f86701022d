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
        parts.push(&format!("{{\"n\":{n}}}")).unwrap().unwrap();
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
    assert_eq!((parts.len(), parts.lanes[0].rows.len()), (12, 2));
    parts.flush().unwrap();
    assert_eq!((finished(&parts), parts.lanes[0].rows.len(), files(dir.path())), (vec![3], 0, 2));
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
fn each_layout_has_a_part_and_returning_to_one_continues_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = Parts::new(dir.path(), "a", layout("n"), 0);
    let push = |parts: &mut Parts, column: &str, n: u32| {
        parts.set_layout(&layout(column)).unwrap();
        parts.push(&format!("{{\"{column}\":{n}}}")).unwrap().unwrap();
    };
    for n in 0..50 {
        push(&mut parts, ["n", "m"][n as usize % 2], n);
        if n == 9 {
            parts.mark();
        }
        if n == 19 {
            parts.flush().unwrap();
            parts.sync().unwrap();
            assert_eq!(finished(&parts), [5, 5], "up to the mark");
            parts.published();
        }
    }
    assert_eq!((parts.len(), parts.lanes.len()), (50, 2));
    // After the mark nothing is stored: all of it is removed, from memory, open parts and complete ones.
    push(&mut parts, "n", 50);
    parts.flush().unwrap();
    parts.cut(10).unwrap();
    assert_eq!((parts.len(), parts.buffered(), files(dir.path())), (10, 0, 2));
    for n in 50..60 {
        push(&mut parts, ["n", "m"][n as usize % 2], n);
        parts.mark();
    }
    parts.sync().unwrap();
    let all: Vec<_> = parts.finished().map(rows).collect();
    assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5]);
    assert_eq!((&*all[0][0], &*all[1][4]), ("{n: 50}", "{m: 59}"));
    let error = parts.cut(11).unwrap_err();
    assert!(error.to_string().contains("the last ones are 20 and 10"), "{error}");
    parts.cut(10).unwrap();
    assert_eq!((parts.len(), files(dir.path())), (10, 2), "back to the stored state");
}

#[test]
fn a_layout_too_many_completes_the_part_of_the_one_not_used_for_the_longest_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = Parts::new(dir.path(), "a", layout("c0"), 0);
    for n in [0, 1, 2, 3, 0, 4] {
        parts.set_layout(&layout(&format!("c{n}"))).unwrap();
        parts.push(&format!("{{\"c{n}\":1}}")).unwrap().unwrap();
    }
    assert_eq!((parts.lanes.len(), files(dir.path())), (MAX_LANES, 1), "that of c1");
    parts.mark();
    parts.sync().unwrap();
    let all: Vec<_> = parts.finished().map(|path| rows(path).join(" ")).collect();
    assert_eq!(all, ["{c1: 1}", "{c0: 1} {c0: 1}", "{c2: 1}", "{c3: 1}", "{c4: 1}"]);
}

/// The footer of a wide file has an entry for each column of each row group.
#[test]
fn a_part_with_a_large_footer_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let columns: lorchestra_plugin_api::serde_json::Map<_, _> =
        (0..100).map(|n| (format!("c{n}"), json!({"type": "integer"}))).collect();
    let wide = Arc::new(Layout::of(&json!({"properties": columns}), &Widened::default()));
    let mut parts = Parts::new(dir.path(), "a", wide, 0);
    for n in 0..3 {
        parts.push(&format!("{{\"c{n}\":1}}")).unwrap().unwrap();
        parts.flush_lane(0).unwrap();
        assert_eq!(parts.finished.len(), [0, 0, 1][n]);
        let Some(part) = &mut parts.lanes[0].open else { break };
        // As after many row groups.
        part.footer_bytes = MAX_FOOTER - (2 - n) * 100 * FOOTER_ENTRY;
        assert!(parts.buffered() < MAX_FOOTER);
    }
    assert_eq!((parts.finished.len(), parts.buffered()), (1, 0));
}

#[test]
fn a_failed_write_is_not_retried() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = Parts::new(dir.path(), "a", layout("n"), 0);
    push(&mut parts, 0..1);
    parts.mark();
    parts.flush().unwrap();
    // Read-only: the footer cannot be written.
    let open = parts.lanes[0].open.as_mut().unwrap();
    let read_only = BufWriter::new(File::open(&open.path).unwrap());
    open.writer = SerializedFileWriter::new(read_only, layout("n").parquet_type().unwrap(), Arc::default()).unwrap();
    parts.sync().unwrap_err();
    parts.sync().unwrap_err();
    parts.cut(0).unwrap();
    assert_eq!(files(dir.path()), 0);
}
