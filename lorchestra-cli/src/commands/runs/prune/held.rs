//! Why `runs prune` keeps runs whose events were not delivered, and what to do: one line for each destination and reason.

use crate::failure::CommandError;
use crate::observe::undelivered::{are, events};
use crate::settings::Settings;
use crate::show::{self, counted};
use lorchestra_core::store::retention::FORGOTTEN;
use lorchestra_core::store::{COUNTED, SetAside, Store};
use lorchestra_core::text::printable;

/// Explains why `runs` old runs stay at `now` (microseconds since 1970); no line if there are none.
pub(super) fn notes(runs: u64, store: &Store, settings: &Settings, now: i64) -> Result<Vec<String>, CommandError> {
    if runs == 0 {
        return Ok(Vec::new());
    }
    let stay = if runs == 1 { "stays" } else { "stay" };
    let first = format!("{} with undelivered events {stay}:", counted(usize::try_from(runs).unwrap_or(usize::MAX), "old run"));
    let mut lines = Vec::new();
    for name in store.destinations()? {
        let (pending, SetAside { uncertain, .. }) = (store.pending(&name)?, store.set_aside(&name)?);
        if pending + uncertain == 0 {
            continue;
        }
        let Some(to) = settings.destinations.iter().find(|to| to.name() == name) else {
            lines.extend(forgotten(&name, store, now)?);
            continue;
        };
        let label = to.label();
        if pending > 0 {
            lines.push(format!("  {} not in {label} yet: run lorchestra events flush", are(pending)));
        }
        if uncertain > 0 {
            let n = if uncertain > COUNTED { format!("more than {}", events(COUNTED)) } else { events(uncertain) };
            lines.push(format!(
                "  {label}: cannot confirm that {n} arrived: see lorchestra events list --uncertain; \
                 lorchestra events flush --resend-uncertain sends them again"
            ));
        }
    }
    // Delivered by another process in the meantime.
    if lines.is_empty() {
        lines.push("  run lorchestra events flush".to_owned());
    }
    lines.insert(0, first);
    Ok(lines)
}

/// Explains that runs are kept for a destination that is no longer configured; `None` if they are not any more.
fn forgotten(name: &str, store: &Store, now: i64) -> Result<Option<String>, CommandError> {
    let waited = i64::try_from(FORGOTTEN.as_micros()).unwrap_or(i64::MAX);
    let until = store.last_configured(name)?.map(|seen| seen.saturating_add(waited)).filter(|until| *until > now);
    Ok(until.map(|until| {
        let (name, until) = (printable(name), show::time(until));
        format!("  kept for {name}, which is no longer configured, until {until}: configure it again and flush, or wait")
    }))
}
