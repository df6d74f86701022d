//! Jobs that emit invalid events, and jobs that tamper with the spool.

use super::mark;
use super::process::spool;
use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::serde_json::value::RawValue;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Emits a payload of exactly this size in bytes.
#[job]
pub(crate) fn emit_sized(cx: &JobContext, marker: PathBuf, bytes: u32) -> JobResult {
    mark(&marker)?;
    let frame = r#"{"x":""}"#.len();
    cx.emit("sized", json!({"x": "y".repeat(usize::try_from(bytes)? - frame)}))?;
    Ok(())
}

/// Emits a payload that no serializer would write: `nan`, `deep` (10,000 levels), `two`, `torn`, `latin`, `half` a surrogate pair, `nul`,
/// `breaks`, `vast` (a number), `number` (one that loses digits), `invisible` (characters).
#[job]
pub(crate) fn emit_raw(cx: &JobContext, marker: PathBuf, what: String) -> JobResult {
    let text: Vec<u8> = match &*what {
        "nan" => br#"{"x":NaN}"#.to_vec(),
        "deep" => format!("{{\"x\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes(),
        "two" => br#"{"x":1}{"x":2}"#.to_vec(),
        "torn" => br#"{"x":"#.to_vec(),
        "latin" => b"{\"x\":\"\xe9\"}".to_vec(),
        "half" => br#"{"x":"\ud83d"}"#.to_vec(),
        "nul" => b"{\"x\":\"\0\"}".to_vec(),
        "breaks" => b"{\"x\":\n1}\n{\"seq\":99}".to_vec(),
        "vast" => br#"{"x":[1e400]}"#.to_vec(),
        "number" => br#"{"x":123456789012345678901}"#.to_vec(),
        "invisible" => {
            let text: String =
                (0..=0xe_0fff).filter_map(char::from_u32).filter(|c| !matches!(c, '"' | '\\') && *c >= ' ').collect();
            format!("{{\"invisible\":\"{}\"}}", text.chars().filter(|c| !c.is_alphanumeric()).take(200_000).collect::<String>())
                .into_bytes()
        }
        other => Err(format!("what is {other}?"))?,
    };
    mark(&marker)?;
    // SAFETY: none: this creates a RawValue from invalid JSON and a str from invalid UTF-8. This is the intended fault. `RawValue` is a
    // transparent `str`.
    let raw: Box<RawValue> = unsafe { std::mem::transmute::<Box<str>, Box<RawValue>>(String::from_utf8_unchecked(text).into()) };
    cx.emit(if what == "invisible" { "r\u{1b}[2J\u{202e}a\u{ad}w\u{e0041}" } else { "raw" }, raw)?;
    Ok(())
}

/// Writes its own lines to the spool.
#[job]
pub(crate) fn scribble(cx: &JobContext, marker: PathBuf) -> JobResult {
    cx.emit("before", json!({}))?;
    let (segment, _) = spool()?;
    mark(&marker)?;
    let line = "00000000 {\"seq\":9,\"final\":{\"end\":\"returned\",\"returned\":{\"status\":\"ok\"}}}\n";
    File::from(segment).write_all(line.repeat(1000).as_bytes())?;
    Ok(())
}

/// Appends forged records with correct checksums, including an end of the run and an invalid time; then aborts.
#[job]
pub(crate) fn forge(cx: &JobContext, marker: PathBuf) -> JobResult {
    cx.emit("before", json!({}))?;
    let (segment, _) = spool()?;
    mark(&marker)?;
    let event = |kind: &str, at: i64| json!({"seq": 9, "event": {"id": "01890a5d-ac96-774b-bcce-b302099a8057", "at": at, "type": kind, "payload": {}}});
    let mut file = File::from(segment);
    for record in [event("job.completed", 1), event("forged", i64::MIN)] {
        let json = record.to_string();
        file.write_all(format!("{:08x} {json}\n", crc32c(json.as_bytes())).as_bytes())?;
    }
    std::process::abort();
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (crc & 1).wrapping_neg() & 0x82f6_3b78))
}

/// Truncates the spool; or waits until it has been read, truncates it to zero, emits again, and aborts.
#[job]
pub(crate) fn cut_spool(cx: &JobContext, marker: PathBuf, abort: bool) -> JobResult {
    for n in 0..10 {
        cx.emit("number", json!({"n": n}))?;
    }
    let (segment, _) = spool()?;
    mark(&marker)?;
    if abort {
        std::thread::sleep(std::time::Duration::from_millis(500));
        File::from(segment).set_len(0)?;
        for n in 10..15 {
            cx.emit("number", json!({"n": n}))?;
        }
        std::process::abort();
    }
    File::from(segment).set_len(7)?;
    Ok(())
}

/// Creates 10,000 files named like segments, empty or with one line; emits, and returns.
#[job]
pub(crate) fn flood_spool(cx: &JobContext, marker: PathBuf, full: bool) -> JobResult {
    let (_, segment) = spool()?;
    let attempt = segment.parent().ok_or("a segment is in the directory of an attempt")?;
    mark(&marker)?;
    for n in 2..10_002 {
        std::fs::write(attempt.join(n.to_string()), if full { "not a record\n" } else { "" })?;
    }
    cx.emit("after", json!({}))?;
    Ok(())
}

/// In the first attempt, creates something at the path of the next attempt's `spool`, `lock`, `end`, `out` or `trace`; or removes the run's `logs` (`no-logs`: and puts a file there). Then dies.
#[job]
pub(crate) fn obstruct_next(cx: &JobContext, marker: PathBuf, what: String) -> JobResult {
    let (_, segment) = spool()?;
    let run = segment.ancestors().nth(2).ok_or("a segment is in the directory of an attempt")?;
    let state = run.ancestors().nth(2).ok_or("the spool is in the state directory")?;
    let logs = state.join("logs").join(cx.run_id());
    if cx.attempt() == 1 {
        mark(&marker)?;
        match &*what {
            "spool" => fifo(&run.join("2"))?,
            "segment" => {
                std::fs::create_dir(run.join("2"))?;
                fifo(&run.join("2/1"))?;
            }
            "lock" => std::fs::create_dir(run.join("2.lock"))?,
            "end" => fifo(&run.join("2.end"))?,
            "out" => fifo(&logs.join("2.out"))?,
            "trace" => fifo(&logs.join("trace.jsonl"))?,
            "logs" => std::fs::remove_dir_all(&logs)?,
            "no-logs" => {
                std::fs::remove_dir_all(&logs)?;
                std::fs::write(&logs, "")?;
            }
            other => Err(format!("what is {other}?"))?,
        }
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    }
    cx.emit("second", json!({}))?;
    Ok(())
}

/// Replaces its attempt's `lock`, its run's lock (`run-lock`) or its run's `spool` with something else, and kills its supervisor.
#[job]
pub(crate) fn obstruct_recovery(cx: &JobContext, marker: PathBuf, what: String) -> JobResult {
    cx.emit("before", json!({}))?;
    let (_, segment) = spool()?;
    let run = segment.ancestors().nth(2).ok_or("a segment is in the directory of an attempt")?;
    let directory = |path: PathBuf| std::fs::remove_file(&path).and_then(|()| std::fs::create_dir(&path));
    match &*what {
        "lock" => directory(run.join("1.lock"))?,
        "run-lock" => directory(run.join("lock"))?,
        "spool" => {
            std::fs::remove_dir_all(run)?;
            fifo(run)?;
        }
        other => Err(format!("what is {other}?"))?,
    }
    mark(&marker)?;
    let supervisor = rustix::process::getppid().ok_or("an orphan")?;
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL)?;
    std::thread::sleep(std::time::Duration::from_secs(3000));
    Ok(())
}

/// Creates files that block a reader forever: a FIFO in place of the spool's `segment`, of the `next` one, of the `log` or its next
/// `piece`; or an endless file (`zero`) as the next segment. Emits before and after.
#[job]
pub(crate) fn obstruct(cx: &JobContext, marker: PathBuf, what: String) -> JobResult {
    let (_, segment) = spool()?;
    let attempt = segment.parent().ok_or("a segment is in the directory of an attempt")?;
    let state = attempt.ancestors().nth(3).ok_or("the spool is in the state directory")?;
    let log = state.join("logs").join(cx.run_id()).join(format!("{}.out", cx.attempt()));
    // Half of the limit, after which a new piece starts.
    let half = 32 << 20;
    mark(&marker)?;
    match &*what {
        "segment" => fifo(&segment)?,
        "next" => fifo(&attempt.join("2"))?,
        "zero" => std::os::unix::fs::symlink("/dev/zero", attempt.join("2"))?,
        "log" => fifo(&log)?,
        "piece" => fifo(&log.with_extension(format!("out.{half}")))?,
        other => Err(format!("what is {other}?"))?,
    }
    cx.emit("before", json!({}))?;
    if what == "piece" {
        let mut out = std::io::stdout().lock();
        out.write_all(&"nothing to say, at length\n".repeat(half / 20).into_bytes())?;
    }
    // Wait until the supervisor has read it.
    std::thread::sleep(std::time::Duration::from_millis(300));
    cx.emit("after", json!({}))?;
    Ok(())
}

/// Removes the spool's directory; continues or aborts.
#[job]
pub(crate) fn remove_spool(cx: &JobContext, marker: PathBuf, abort: bool) -> JobResult {
    cx.emit("before", json!({}))?;
    let (_, path) = spool()?;
    mark(&marker)?;
    // The attempt's directory, and with it the run's.
    let run = path.ancestors().nth(2).ok_or("a segment is in the directory of an attempt")?;
    std::fs::remove_dir_all(run)?;
    if abort {
        std::process::abort();
    }
    cx.emit("after", json!({}))?;
    Ok(())
}

/// Replaces a file with a FIFO.
fn fifo(path: &Path) -> rustix::io::Result<()> {
    let _ = std::fs::remove_file(path);
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
}
