//! The HTML of a report: one file with inline styles and charts (SVG), without scripts or external resources. Supports light and dark mode,
//! wide and narrow screens. Its size grows with the number of jobs, not with the number of runs. Pure functions only.

use super::{JobRuns, STRIPS, Summary, TopRun};
use crate::cells;
use crate::show;
use std::fmt::Write;
use std::time::Duration;

/// Maximum number of jobs in the timeline.
const ROWS: usize = 60;

const STYLE: &str = "\
:root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--line:#d0d7de;--soft:#f6f8fa;--good:#2da44e;--bad:#cf222e;--mixed:#bf8700}
@media(prefers-color-scheme:dark){:root{--fg:#e6edf3;--bg:#0d1117;--line:#30363d;--soft:#161b22;--good:#3fb950;--bad:#f85149;--mixed:#d29922}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);margin:0 auto;max-width:70rem;padding:1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
.numbers{display:flex;flex-wrap:wrap;gap:1rem}.numbers div{background:var(--soft);border:1px solid var(--line);border-radius:6px;padding:.5rem 1rem}
.numbers b{display:block;font-size:1.4rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}
td.n,th.n{text-align:right}svg{max-width:100%;height:auto}svg.chart{width:100%;min-width:44rem;max-width:none}
.key{display:inline-block;width:.8rem;height:.8rem;margin:0 .3rem 0 .8rem}.key.g{background:var(--good)}.key.m{background:var(--mixed)}.key.b{background:var(--bad)}
.g{fill:var(--good)}.b{fill:var(--bad)}.m{fill:var(--mixed)}.e{fill:var(--soft)}text{fill:var(--fg);font:12px system-ui,sans-serif}";

pub(super) fn html(summary: &Summary) -> String {
    let mut out = String::new();
    let from = show::time(summary.from);
    let until = show::time(summary.until);
    // Writing into a String cannot fail.
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>lorchestra report</title><style>{STYLE}</style></head><body>\n<h1>lorchestra: {} days</h1>\n<p>{from} to {until}</p>\n",
        summary.days
    );
    numbers(&mut out, summary);
    if summary.jobs.is_empty() {
        out.push_str("<p>No runs in this period.</p>\n");
    } else {
        timeline(&mut out, summary);
        causes(&mut out, summary);
        jobs(&mut out, summary);
        top(&mut out, "Slowest runs", "duration", &summary.slowest, took);
        top(&mut out, "Runs with most memory", "peak memory", &summary.largest, |kib| format!("{} MiB", (kib + 1023) / 1024));
    }
    delivery(&mut out, summary);
    out.push_str("</body></html>\n");
    out
}

fn took(micros: i64) -> String {
    show::elapsed(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

fn count(job: &JobRuns, state: &str) -> u64 {
    job.counts.get(state).copied().unwrap_or(0)
}

fn rate(good: u64, bad: u64) -> String {
    if good + bad == 0 { "–".to_owned() } else { format!("{:.1} %", good as f64 * 100.0 / (good + bad) as f64) }
}

fn numbers(out: &mut String, summary: &Summary) {
    let sum = |state: &str| summary.jobs.values().map(|job| count(job, state)).sum::<u64>();
    let (good, failed, refused) = (sum("completed"), sum("failed"), sum("refused"));
    let all: u64 = summary.jobs.values().flat_map(|job| job.counts.values()).sum();
    out.push_str("<div class=\"numbers\">");
    for (name, value) in [
        ("runs", all.to_string()),
        ("success rate", rate(good, failed + refused)),
        ("failed", failed.to_string()),
        ("refused", refused.to_string()),
        ("running", sum("running").to_string()),
        ("jobs", summary.jobs.len().to_string()),
    ] {
        let _ = write!(out, "<div><b>{value}</b>{name}</div>");
    }
    out.push_str("</div>\n");
}

/// Draws a row for each job and a cell for each interval: green if all its runs completed, red if none did.
fn timeline(out: &mut String, summary: &Summary) {
    let (left, top, cell, row) = (260, 18, 6, 18);
    let shown = shown(summary);
    let (width, height) = (left + cell * STRIPS, top + row * shown.len());
    let day = |at: i64| show::time(at).chars().take(10).collect::<String>();
    let _ = write!(
        out,
        "<h2>Timeline</h2><p>Runs of an interval: <span class=\"key g\"></span>all completed <span class=\"key m\"></span>some failed \
         <span class=\"key b\"></span>none completed</p><div class=\"wide\"><svg class=\"chart\" role=\"img\" \
         aria-label=\"runs by job and time\" viewBox=\"0 0 {width} {height}\"><text x=\"{left}\" y=\"12\">{}</text>\
         <text x=\"{width}\" y=\"12\" text-anchor=\"end\">{}</text>",
        day(summary.from),
        day(summary.until)
    );
    for (y, (name, job)) in shown.into_iter().enumerate() {
        let _ = write!(out, "<text x=\"0\" y=\"{}\">{}</text>", top + y * row + 13, escaped(&cells::fitted(name, 40)));
        for (x, [good, bad]) in job.strips.iter().enumerate() {
            let class = match (good, bad) {
                (0, 0) => "e",
                (_, 0) => "g",
                (0, _) => "b",
                _ => "m",
            };
            let (x, y) = (left + x * cell, top + y * row + 2);
            let _ = write!(out, "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\"/>", cell - 1, row - 4);
        }
    }
    out.push_str("</svg></div>\n");
    if summary.jobs.len() > ROWS {
        let _ = write!(out, "<p>The {ROWS} of {} jobs with the most failures.</p>", summary.jobs.len());
    }
}

/// The jobs of the timeline, by name: those with the most failures if there are too many.
fn shown(summary: &Summary) -> Vec<(&String, &JobRuns)> {
    let mut jobs: Vec<(&String, &JobRuns)> = summary.jobs.iter().collect();
    jobs.sort_by_key(|(_, job)| std::cmp::Reverse(count(job, "failed") + count(job, "refused")));
    jobs.truncate(ROWS);
    jobs.sort_by_key(|(name, _)| *name);
    jobs
}

fn jobs(out: &mut String, summary: &Summary) {
    out.push_str(
        "<h2>Jobs</h2><div class=\"wide\"><table><tr><th>job</th><th class=\"n\">runs</th><th class=\"n\">success</th>\
         <th class=\"n\">failed</th><th class=\"n\">refused</th><th class=\"n\">skipped</th><th class=\"n\">median</th>\
         <th class=\"n\">95 %</th><th class=\"n\">longest</th></tr>\n",
    );
    for (name, job) in &summary.jobs {
        let (good, failed, refused) = (count(job, "completed"), count(job, "failed"), count(job, "refused"));
        let at = |percent: usize| {
            job.took.get((job.took.len().saturating_sub(1)) * percent / 100).map_or_else(String::new, |t| took(*t))
        };
        let _ = write!(out, "<tr><td>{}</td>", escaped(name));
        for value in [
            job.counts.values().sum::<u64>().to_string(),
            rate(good, failed + refused),
            failed.to_string(),
            refused.to_string(),
            count(job, "skipped").to_string(),
            at(50),
            at(95),
            at(100),
        ] {
            let _ = write!(out, "<td class=\"n\">{value}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
}

fn causes(out: &mut String, summary: &Summary) {
    let Some(most) = summary.causes.values().max() else { return };
    let (row, width) = (22, 560);
    let height = row * summary.causes.len();
    let _ = write!(
        out,
        "<h2>Failures by cause</h2><svg role=\"img\" aria-label=\"failures by cause\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\">"
    );
    for (n, (cause, count)) in summary.causes.iter().enumerate() {
        let bar = (count * 380 / (*most).max(1)).max(1);
        let (y, text) = (n * row + 3, n * row + 16);
        let _ = write!(
            out,
            "<text x=\"0\" y=\"{text}\">{}</text><rect class=\"b\" x=\"110\" y=\"{y}\" width=\"{bar}\" height=\"16\"/>\
             <text x=\"{}\" y=\"{text}\">{count}</text>",
            escaped(cause),
            120 + bar
        );
    }
    out.push_str("</svg>\n");
}

fn top(out: &mut String, title: &str, what: &str, runs: &[TopRun], value: impl Fn(i64) -> String) {
    if runs.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "<h2>{title}</h2><div class=\"wide\"><table><tr><th>run</th><th>job</th><th>started</th><th class=\"n\">{what}</th></tr>"
    );
    for run in runs {
        let (id, job, started) = (escaped(&run.short_id), escaped(&run.job), show::time(run.started_at));
        let _ = writeln!(out, "<tr><td>{id}</td><td>{job}</td><td>{started}</td><td class=\"n\">{}</td></tr>", value(run.value));
    }
    out.push_str("</table></div>\n");
}

fn delivery(out: &mut String, summary: &Summary) {
    if summary.delivery.is_empty() {
        return;
    }
    out.push_str("<h2>Delivery</h2><table><tr><th>destination</th><th class=\"n\">pending events</th></tr>\n");
    for (to, pending) in &summary.delivery {
        let _ = writeln!(out, "<tr><td>{}</td><td class=\"n\">{pending}</td></tr>", escaped(to));
    }
    out.push_str("</table>\n");
}

/// Escapes text for HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn an_empty_report_is_a_page_and_names_are_escaped() {
        let empty = html(&Summary::default());
        assert!(empty.starts_with("<!DOCTYPE html>") && empty.contains("No runs in this period."));
        let mut summary = Summary::default();
        let job = JobRuns {
            counts: BTreeMap::from([("completed", 3), ("failed", 1)]),
            took: vec![1, 2, 3],
            strips: vec![[1, 0]; STRIPS],
        };
        summary.jobs.insert("a/<b>".into(), job);
        summary.causes.insert("panic".into(), 1);
        let page = html(&summary);
        assert!(page.contains("a/&lt;b&gt;") && !page.contains("a/<b>") && page.contains("75.0 %"), "{page}");
        for outside in ["http://", "https://", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
