//! A job that says which stage of its life it has come to, by a line in a file, and stays there until it is killed or told to end.
#![expect(unsafe_code, reason = "a constructor")]
#![expect(clippy::disallowed_methods, reason = "a constructor has no other way to be told anything")]

use lorchestra_plugin_api::prelude::*;
use std::cell::RefCell;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

plugin! { package = "stages", jobs = [staged] }

/// Events before any stage.
const BEFORE: u64 = 50;
/// Events in a stage, at most: then the job waits.
const WITHIN: u64 = 20_000;
/// Flushes in a stage, at most.
const FLUSHES: u64 = 2_000;

fn mark(path: &Path, stage: &str) {
    if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
        let _ = file.write_all(format!("{stage}\n").as_bytes());
    }
}

/// Emits numbers, each written to `acknowledged` after its emit returned, and stays at a stage.
#[job]
fn staged(
    cx: &JobContext,
    /// `emitting`, `flushing`, `final` (it returns at once), `after` (the process stays after it has returned); else none.
    stage: String,
    marker: PathBuf,
    acknowledged: PathBuf,
) -> JobResult {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(acknowledged)?;
    let mut n = 0;
    let mut emit = || -> JobResult {
        cx.emit("number", json!({"n": n}))?;
        // One write: what is in this file was acknowledged.
        file.write_all(format!("{n}\n").as_bytes())?;
        n += 1;
        Ok(())
    };
    (0..BEFORE).try_for_each(|_| emit())?;
    if cx.is_cancelled() {
        Err("told to end")?;
    }
    let flushes = match &*stage {
        "emitting" => false,
        "flushing" => true,
        "after" => {
            LINGERS.with(|lingers| lingers.0.replace(Some(marker)));
            return Ok(());
        }
        _ => {
            mark(&marker, &stage);
            return Ok(());
        }
    };
    mark(&marker, &stage);
    for _ in 0..if flushes { FLUSHES } else { WITHIN } {
        emit()?;
        if flushes {
            cx.flush()?;
        }
        if cx.is_cancelled() {
            Err("told to end")?;
        }
    }
    while !cx.is_cancelled() {
        std::thread::sleep(Duration::from_millis(5));
    }
    Err("told to end")?
}

/// Dropped when the worker's main thread ends, after the final record.
struct Lingers(RefCell<Option<PathBuf>>);

impl Drop for Lingers {
    fn drop(&mut self) {
        if let Some(marker) = self.0.take() {
            mark(&marker, "after");
            std::thread::sleep(Duration::from_secs(60));
        }
    }
}

thread_local! {
    static LINGERS: Lingers = const { Lingers(RefCell::new(None)) };
}

#[used]
// SAFETY: functions in this section are called by the loader without arguments that we read.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

/// Waits while the file `STAGES_LOADING` is there, having written its own marker beside it.
extern "C" fn constructor() {
    if let Some(path) = std::env::var_os("STAGES_LOADING").map(std::path::PathBuf::from)
        && path.exists()
    {
        mark(&path.with_extension("reached"), "loading");
        while path.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
