//! `--move-bookmark`: moves the bookmarks of accounts whose windows have all completed, and prints where they are.

use super::Backfill;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::show;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::store::Store;
use lorchestra_core::store::bookmark::Moved;
use lorchestra_core::text::escaped;

/// Maximum number of bookmarks to name.
const NAMED: usize = 5;

/// Moves the bookmarks of accounts for which completed runs cover the whole range: they have no window in the group, if there is one.
pub(super) fn move_covered(
    (command, accounts, group): (&Backfill, &[Option<String>], Option<&str>),
    (range, quiet): ((i64, i64), bool),
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), CommandError> {
    let job = (command.package.as_deref().unwrap_or_default(), command.job.as_deref().unwrap_or_default());
    let state = StateDir::open(&settings.state_dir)?;
    let moved = Store::open(&state)?.move_bookmarks(job, accounts, range, (now_micros(), group))?;
    if !quiet {
        report(&moved, range, printer);
    }
    Ok(())
}

/// Prints where bookmarks are now, and why those that have not moved stay.
pub(super) fn report(moved: &[(Option<String>, Moved)], (from, to): (i64, i64), printer: &mut Printer) {
    for (account, Moved { before, after }) in moved.iter().take(NAMED) {
        let of = account.as_ref().map(|account| format!(" of {}", escaped(account))).unwrap_or_default();
        printer.note(match (before, after) {
            (Some(before), None) if *before >= to => format!("bookmark{of} stays at {}", show::time(*before)),
            (Some(before), None) => {
                let (before, from) = (show::time(*before), show::time(from));
                format!("bookmark{of} stays at {before}: the time from there to --from ({from}) is not covered")
            }
            _ => format!("bookmark{of} moved to {}", show::time(to)),
        });
    }
    let rest = moved.get(NAMED..).unwrap_or_default();
    if !rest.is_empty() {
        let moved = rest.iter().filter(|(_, moved)| moved.after.is_some()).count();
        printer.note(format_args!("{} more: {moved} moved (lorchestra bookmarks show)", show::counted(rest.len(), "bookmark")));
    }
}
