//! `runs prune`: removes at once everything that retention removes in small steps after each run. Runs with events that a destination has not
//! received, and active runs, are kept.

use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show::counted;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::store::Store;
use lorchestra_core::store::retention::Pruned;
use std::time::Duration;

/// Number of consecutive calls without a removal that show that nothing is left: each call examines the next fifty runs.
const IDLE: u32 = 3;

pub(super) fn prune(
    older_than: Option<Duration>,
    dry_run: bool,
    (state, mut store): (StateDir, Store),
    settings: &Settings,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let mut retention = settings.retention.clone();
    if let Some(age) = older_than {
        (retention.runs, retention.logs) = (age, age.min(retention.logs));
        retention.payloads = age.min(retention.payloads);
    }
    let now = now_micros();
    let before = store.prunable(&retention, now)?;
    if before.undelivered > 0 {
        let runs = counted(usize::try_from(before.undelivered).unwrap_or(usize::MAX), "old run");
        printer.note(format_args!("{runs} with undelivered events stay: run lorchestra events flush."));
    }
    if dry_run {
        printer.line(format_args!("would remove {} runs and the logs of {}", before.runs, before.logs));
        return Ok(Code::Success);
    }
    let mut all = Pruned::default();
    // Enough calls to pass over all runs once, plus the calls that remove nothing.
    let mut left = (before.runs + before.logs + before.undelivered) / 50 + u64::from(IDLE);
    let mut idle = 0;
    while idle < IDLE || left > 0 {
        let Pruned { runs, logs, payloads } = store.prune(&state, &retention, now)?;
        idle = if runs + logs + payloads == 0 { idle + 1 } else { 0 };
        left = left.saturating_sub(1);
        all = Pruned { runs: all.runs + runs, logs: all.logs + logs, payloads: all.payloads + payloads };
    }
    printer.good(format_args!("removed {} runs, the logs of {} and the payloads of {}", all.runs, all.logs, all.payloads));
    Ok(Code::Success)
}
