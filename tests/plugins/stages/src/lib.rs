//! A job that writes the stage it has reached to a file, and stays there until it is killed or cancelled.
#![expect(unsafe_code, reason = "a constructor")]
#![expect(clippy::disallowed_methods, reason = "a constructor receives no other input")]

use lorchestra_plugin_api::prelude::*;
use std::cell::RefCell;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

plugin! { package = "stages", jobs = [staged] }

/// Number of events before the first stage.
const BEFORE: u64 = 50;
/// Maximum number of events in a stage; then the job waits.
const WITHIN: u64 = 20_000;
/// Maximum number of flushes in a stage.
const FLUSHES: u64 = 2_000;

fn mark(path: &Path, stage: &str) {
    if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
        let _ = file.write_all(format!("{stage}\n").as_bytes());
    }
}

/// Emits numbers, writes each to `acknowledged` after `emit` returned, and stays at a stage.
#[job]
fn staged(
    cx: &JobContext,
    /// `emitting`, `flushing`, `final` (returns at once), `after` (the process stays after the job has returned); otherwise none
    stage: String,
    marker: PathBuf,
    acknowledged: PathBuf,
) -> JobResult {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(acknowledged)?;
    let mut n = 0;
    let mut emit = || -> JobResult {
        cx.emit("number", json!({"n": n}))?;
        // A single write, so that every number in the file was acknowledged.
        file.write_all(format!("{n}\n").as_bytes())?;
        n += 1;
        Ok(())
    };
    (0..BEFORE).try_for_each(|_| emit())?;
    if cx.is_cancelled() {
        Err("asked to stop")?;
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
            Err("asked to stop")?;
        }
    }
    while !cx.is_cancelled() {
        std::thread::sleep(Duration::from_millis(5));
    }
    Err("asked to stop")?
}

/// Dropped at the end of the worker's main thread, after the final record.
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
// SAFETY: the loader calls the functions in this section; they do not read its arguments.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

/// Writes a marker next to the file `STAGES_LOADING`, then waits until that file is removed.
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
