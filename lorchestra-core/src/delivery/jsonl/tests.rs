//! What may have happened to a file between two batches, and how delivery continues.

use super::*;
use std::fs;

fn row(n: u32) -> Row {
    Row {
        event_id: format!("00000000-0000-7000-8000-{n:012}"),
        event_type: "t".into(),
        source: "p/j".into(),
        schema_ref: None,
        created_at: 5,
        correlation_id: None,
        subject_id: None,
        payload: Some("{\"text\":\"two\\nlines\",\n\"n\":1e400}".into()),
        run_id: None,
        attempt: Some(1),
        package: None,
        job: None,
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

struct TestDirectory {
    dir: tempfile::TempDir,
    to: Jsonl,
    stream: String,
    first: Vec<Row>,
    second: Vec<Row>,
}

/// A file with a first batch in it.
fn begun() -> TestDirectory {
    let dir = tempfile::tempdir().unwrap();
    let mut to = Jsonl::new(JsonlConfig { dir: dir.path().to_owned(), rotate_size: 10_000, rotate: Rotate::Day });
    run(to.connect()).unwrap();
    let stream = run(to.create_stream()).unwrap();
    let (first, second) = (vec![row(1), row(2)], vec![row(3), row(4), row(5)]);
    let mut place = TestDirectory { dir, to, stream, first, second };
    assert_eq!(place.append(0, &place.first.clone()), Ok(Landed::Now));
    place
}

impl TestDirectory {
    fn append(&mut self, offset: i64, rows: &[Row]) -> Result<Landed, DeliveryError> {
        let length = self.to.length(rows);
        run(self.to.append(super::BatchTarget::Stream(Slot { stream: &self.stream, offset, length }), rows))
    }

    fn second(&mut self) -> Result<Landed, DeliveryError> {
        self.append(self.to.length(&self.first), &self.second.clone())
    }

    fn text(&self) -> Vec<u8> {
        fs::read(&self.stream).unwrap()
    }

    fn whole(&self) -> Vec<u8> {
        line::lines(&[self.first.clone(), self.second.clone()].concat())
    }

    fn set(&self, tail: &[u8]) {
        fs::write(&self.stream, [&line::lines(&self.first), tail].concat()).unwrap();
    }
}

#[test]
fn a_line_is_one_line_of_json() {
    let text = String::from_utf8(line::lines(&[row(1), row(2)])).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(text.lines().all(|line| line.contains(r#""payload":{"text":"two\nlines", "n":1e400}"#)), "{text}");
    assert!(text.contains(r#""created_at":"1970-01-01T00:00:00.000005Z""#), "{text}");
}

/// Truncated at every byte, as by a crash; with zeros at the end, as by a power loss; or complete.
#[test]
fn a_batch_that_a_crash_left_incomplete_is_completed() {
    let mut place = begun();
    let second = line::lines(&place.second);
    for cut in 0..=second.len() {
        for zeros in [0, 1, second.len() - cut] {
            let mut tail = second[..cut].to_vec();
            tail.resize((cut + zeros).min(second.len()), 0);
            place.set(&tail);
            assert_eq!(place.second(), Ok(Landed::Now), "cut at {cut}, {zeros} zeros");
            assert_eq!(place.text(), place.whole(), "cut at {cut}, {zeros} zeros");
        }
    }
    // A batch also counts as present if something follows it.
    let more = [place.whole(), b"{}\n".to_vec()].concat();
    fs::write(&place.stream, &more).unwrap();
    assert_eq!((place.second(), place.text()), (Ok(Landed::Now), more));
}

#[test]
fn a_file_with_foreign_bytes_is_left_alone() {
    let mut place = begun();
    for tail in [&b"x"[..], b"{\"event_id\":\"another\"}\n", &[b'x'; 2000]] {
        place.set(tail);
        let before = place.text();
        assert!(matches!(place.second(), Err(DeliveryError::StreamDamaged(_))));
        assert_eq!(place.text(), before);
    }
}

#[test]
fn a_file_that_was_cut_or_removed_is_gone() {
    let mut place = begun();
    let slot = |place: &TestDirectory| (place.to.length(&place.first), place.to.length(&place.second));
    let (offset, length) = slot(&place);
    assert!(place.to.has_room(Slot { stream: &place.stream, offset, length }));
    fs::write(&place.stream, "").unwrap();
    assert!(matches!(place.second(), Err(DeliveryError::StreamGone(_))));
    assert!(!place.to.has_room(Slot { stream: &place.stream, offset, length }), "a new one at once");
    fs::remove_file(&place.stream).unwrap();
    assert!(matches!(place.second(), Err(DeliveryError::StreamGone(_))));
    std::os::unix::fs::symlink("/dev/zero", &place.stream).unwrap();
    assert!(matches!(place.second(), Err(DeliveryError::StreamGone(_))));
    let stream = place.stream.clone();
    let closed = run(place.to.finalize(Slot { stream: &stream, offset, length }, &[]));
    assert!(matches!(closed, Err(DeliveryError::StreamGone(_))));
    assert!(matches!(run(place.to.present(&[])), Err(DeliveryError::Denied(_))));
    drop(place.dir);
    assert!(matches!(run(place.to.connect()), Err(DeliveryError::TargetMissing(_))));
}

/// The configuration changes to another directory while half a batch is in the first one.
#[test]
fn a_file_that_is_left_has_complete_batches() {
    let mut place = begun();
    let (offset, length) = (place.to.length(&place.first), place.to.length(&place.second));
    let second = line::lines(&place.second);
    let stream = place.stream.clone();
    let finalize = |place: &mut TestDirectory| {
        let rows = place.second.clone();
        run(place.to.finalize(Slot { stream: &stream, offset, length }, &rows))
    };
    for there in [1, 20, second.len() - 1, second.len()] {
        place.set(&second[..there]);
        assert_eq!(finalize(&mut place), Ok(offset + length));
        assert_eq!(place.text(), place.whole(), "{there} bytes: completed, not truncated");
    }
    place.set(b"");
    assert_eq!(
        (finalize(&mut place), place.text()),
        (Ok(offset), line::lines(&place.first)),
        "the file had no byte of the batch"
    );
    place.set(b"{\"event_id\":\"of another program\"}");
    let before = place.text();
    assert_eq!((finalize(&mut place), place.text()), (Ok(offset), before), "a foreign file is not changed");
    let other = File::open(&place.stream).unwrap();
    rustix::fs::flock(&other, FlockOperation::LockExclusive).unwrap();
    assert!(matches!(finalize(&mut place), Err(DeliveryError::Later { .. })), "another process is writing to it");
}

#[test]
fn a_new_file_starts_at_the_size_limit_and_each_day() {
    let mut place = begun();
    let room = |place: &TestDirectory, stream: &str, length| {
        place.to.has_room(Slot { stream, offset: i64::try_from(fs::metadata(stream).unwrap().len()).unwrap(), length })
    };
    let stream = place.stream.clone();
    assert!(room(&place, &stream, 1) && !room(&place, &stream, 10_000));
    let old = place.dir.path().join("events-2020-02-02-x.jsonl").display().to_string();
    fs::write(&old, "").unwrap();
    assert!(!room(&place, &old, 1));
    place.to.config.rotate = Rotate::Never;
    assert!(room(&place, &old, 1_000_000), "an empty file accepts a batch of any size");
}

/// A line of lorchestra shows that another store has written to the file; the bytes of other programs do not.
#[test]
fn a_file_is_ahead_if_an_event_follows() {
    for (more, is_ahead) in [
        (&b""[..], false),
        (b"what another program wrote\n", false),
        (b"{\"event_id\":5}\n", false),
        (b"\xff\xfe\n", false),
        (b"{\"event_id\":\"00000000-0000-7000-8000-000000000009\"", false),
        (b"{\"event_id\":\"00000000-0000-7000-8000-000000000009\"}\n", true),
    ] {
        let place = begun();
        let offset = place.to.length(&place.first);
        let mut text = place.text();
        text.extend_from_slice(more);
        fs::write(&place.stream, text).unwrap();
        assert_eq!(place.to.is_ahead(Slot { stream: &place.stream, offset, length: 9 }), is_ahead, "{more:?}");
    }
    let place = begun();
    assert!(
        place.to.is_ahead(Slot { stream: &place.stream, offset: 0, length: 9 }),
        "its own lines, of which the store knows nothing"
    );
}
