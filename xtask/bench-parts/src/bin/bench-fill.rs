//! Creates the store of a state directory with the events of one completed run: `bench-fill STATE EVENTS`. The number includes the run's
//! first and last event.

use bench_parts::{events, runs};
use lorchestra_core::host::state::StateDir;
use lorchestra_core::spool::Cursor;
use lorchestra_core::spool::record::{self, Record};
use lorchestra_core::store::Portion;
use lorchestra_core::store::Store;
use std::error::Error;

/// About as many as a supervisor ingests at once.
const CHUNK: u64 = 3000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(path), Some(count)) = (args.next(), args.next()) else { return Err("usage: bench-fill STATE EVENTS".into()) };
    let count: u64 = count.to_string_lossy().parse()?;
    let emitted = count.checked_sub(2).ok_or("a run that is done has two events at least")?;
    let mut store = Store::open(&StateDir::open(path.as_ref())?)?;
    let run_id = events::run_id();
    store.begin_run(&runs::new_run(&run_id), &runs::started())?;
    let mut ingested = store.ingested(&run_id, 1)?;
    let mut from = 0;
    while from < emitted {
        let until = emitted.min(from + CHUNK);
        let lines: Vec<Vec<u8>> = (from..until).map(events::record).collect();
        let records = lines.iter().map(|line| record::parse(line)).collect::<Result<Vec<Record<'_>>, _>>()?;
        store.ingest(
            &run_id,
            1,
            Portion { records: &records, after: ingested.cursor, end: Cursor { segment: 1, byte: until }, damaged: 0 },
            &mut ingested,
        )?;
        from = until;
    }
    if !store.end_run(&run_id, &runs::end())? {
        return Err("the store has such a run already".into());
    }
    let pending = store.backlog("bigquery", None)?.pending;
    if pending == count { Ok(()) } else { Err(format!("{pending} of {count} events are pending").into()) }
}
