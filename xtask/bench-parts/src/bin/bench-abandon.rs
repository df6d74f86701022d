//! Leaves runs whose supervisor and worker are dead, as if both had been killed in the middle of a job: `bench-abandon STATE RUNS`. Each
//! has three events in its spool that no process has ingested, and half of a fourth.

use bench_parts::{events, runs};
use lorchestra_core::host::process::Identity;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::spool::record::Mark;
use lorchestra_core::spool::writer::{NewEvent, Writer, segment_path};
use lorchestra_core::store::{NewRun, Store};
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(path), Some(runs)) = (args.next(), args.next()) else { return Err("usage: bench-abandon STATE RUNS".into()) };
    let runs: u64 = runs.to_string_lossy().parse()?;
    let state = StateDir::open(path.as_ref())?;
    let mut store = Store::open(&state)?;
    // This process's identity with a later start time: no such process exists, whatever process reuses its pid.
    let identity = Identity::own()?;
    for n in 0..runs {
        let run_id = events::id(n);
        let spool = state.attempt_spool(&run_id, 1);
        fs::create_dir_all(&spool)?;
        fs::create_dir(state.run_logs(&run_id))?;
        let mut run = NewRun { supervisor: Identity { start: identity.start + 1, ..identity.clone() }, ..runs::new_run(&run_id) };
        run.spec.account = Some(format!("account-{n}"));
        store.begin_run(&run, &runs::started())?;
        File::create(state.attempt_note(&run_id, 1))?.write_all(&[b' '; 512])?;
        File::create(state.attempt_lock(&run_id, 1))?;
        let mut writer = Writer::create(&spool)?;
        writer.mark(Mark::Entered)?;
        for _ in 0..3 {
            let payload = br#"{"message":"<1@mail.example.com>"}"#;
            let event = NewEvent {
                event_type: "email.extracted",
                payload,
                schema_ref: "",
                correlation_id: "",
                subject_id: "person@example.com",
            };
            writer.append(&event, &|| false)?;
        }
        File::options().append(true).open(segment_path(&spool, 1))?.write_all(b"00000000 {\"seq\":5,\"ev")?;
    }
    Ok(())
}
