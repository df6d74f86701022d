//! Opens the store of a state directory, makes the commits of a run without events, closes it, and prints how many microseconds
//! that took.
#![expect(clippy::print_stdout, reason = "this is what the program is for")]

use bench_parts::runs;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::store::{NewRun, RunEnd, RunState, Store};
use serde_json::json;
use std::error::Error;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: bench-store STATE")?;
    let state = StateDir::open(path.as_ref())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let micros = i64::try_from(now.as_micros())?;
    // As long as a real one, and never twice the same.
    let run_id = format!("{:032x}-{:03x}", now.as_nanos(), std::process::id() % 4096);
    let run = NewRun { job: "noop".into(), started_at: micros, supervisor_pid: std::process::id(), ..runs::new_run(&run_id) };
    let started = json!({"parameters": {}, "since": null, "until": null, "host": "host", "plugin_sha256": run.plugin_sha256});
    let end = RunEnd {
        state: RunState::Completed,
        cause: None,
        message: None,
        job_result: None,
        ended_at: micros,
        attempt: 1,
        bookmark: None,
        payload: json!({"attempt": 1, "duration_ms": 1, "user_ms": 0, "system_ms": 0, "max_rss_kib": 4096}),
    };
    let start = Instant::now();
    let mut store = Store::open(&state)?;
    store.begin_run(&run, &started)?;
    let ended = store.end_run(&run_id, &end)?;
    drop(store);
    let took = start.elapsed();
    if !ended {
        Err("the run had no end to record")?;
    }
    println!("{}", took.as_micros());
    Ok(())
}
