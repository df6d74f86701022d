//! Opens the store of a state directory, makes the commits of a run without events, closes it, and prints how many microseconds
//! that took.
#![expect(clippy::print_stdout, reason = "this is what the program is for")]

use bench_parts::runs;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::store::{NewRun, RunEnd, Store};
use std::error::Error;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: bench-store STATE")?;
    let state = StateDir::open(path.as_ref())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let micros = i64::try_from(now.as_micros())?;
    // As long as a real id, and unique.
    let run_id = format!("{:032x}-{:03x}", now.as_nanos(), std::process::id() % 4096);
    let mut run = NewRun { started_at: micros, ..runs::new_run(&run_id) };
    run.spec.job = "noop".into();
    run.supervisor.pid = std::process::id();
    let end = RunEnd { ended_at: micros, ..runs::end() };
    let start = Instant::now();
    let mut store = Store::open(&state)?;
    store.begin_run(&run, &runs::started())?;
    let ended = store.end_run(&run_id, &end)?;
    drop(store);
    let took = start.elapsed();
    if !ended {
        Err("the run had no end to record")?;
    }
    println!("{}", took.as_micros());
    Ok(())
}
