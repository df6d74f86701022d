//! Reports runs that recovery closed: one line each, up to a limit.

use crate::printer::Printer;
use crate::show::counted;
use lorchestra_core::outcome::Outcome;
use lorchestra_core::run::recovery::{Closed, Recovered};
use lorchestra_core::store::short_id;
use lorchestra_core::text;

/// Prints the runs of dead supervisors that were closed. One that cannot be closed is only a warning, since it blocks neither the history
/// nor other jobs.
pub(crate) fn show(closed: &Closed, printer: &mut Printer) {
    if closed.missing > 0 {
        printer.warning(format_args!(
            "about {} of the newest events are missing from lorchestra.db: its write-ahead log was damaged, or an older copy was restored; runs \
             of that period may have to be repeated",
            closed.missing
        ));
    }
    let recovered = &closed.recovered;
    let reported = if recovered.len() > MAX_REPORTED { MAX_REPORTED - 1 } else { MAX_REPORTED };
    for Recovered { run, outcome } in recovered.iter().take(reported) {
        let name = format!("run {} of {}/{}", short_id(&run.run_id), run.package, run.job);
        printer.warning(match outcome {
            Outcome::Completed => format!("{name} completed before its supervisor died; recorded now"),
            Outcome::Failed(failure) => {
                format!("{name} was closed as {}: {}", failure.cause.as_str(), text::first_line(&failure.message))
            }
        });
    }
    if recovered.len() > reported {
        let more = recovered.len() - reported;
        let (more, were) = (counted(more, "more run"), if more == 1 { "was" } else { "were" });
        printer.warning(format_args!("{more} with dead supervisors {were} closed (see lorchestra runs list)"));
    }
    let stuck = closed.stuck.len();
    if let Some((run_id, error)) = closed.stuck.first() {
        let others = if stuck > 1 { format!(" (and {} others)", stuck - 1) } else { String::new() };
        printer.warning(format_args!("cannot close run {}{others} yet: {}", short_id(run_id), crate::failure::stuck(error)));
    }
}

/// Maximum number of closed runs to report: after a crash of the machine there may be thousands.
const MAX_REPORTED: usize = 4;
