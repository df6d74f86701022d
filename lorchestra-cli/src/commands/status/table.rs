//! The table of `status`: a line for each job, and below it what needs an explanation. If the lines do not fit the terminal, a block of
//! lines for each job, because a name that is cut names nothing.

use super::{Judged, Word};
use crate::cells::{self, aligned_right, folded, padded};
use crate::commands::runs::{duration, why};
use crate::printer::Printer;
use crate::show;
use chrono::{DateTime, Utc};
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::plan;
use lorchestra_core::store::{JobHealth, MAX_FAILURES, Run, RunState, short_id};
use lorchestra_core::text::{self, escaped};

/// Width of the column STATUS with its gap, in cells; explanations begin below what follows.
const STATUS: usize = 9;
/// Indentation in a block, in cells.
const INDENT: usize = 2;
/// Number of cells of an explanation that are shown on a narrow terminal too.
const EXPLAINED: usize = 140;
/// Age from which a time is shown as a date without a year's ambiguity, in microseconds.
const OLD: u64 = 300 * 86_400_000_000;

/// The texts of a job. An empty one has no value.
#[derive(Debug, Clone)]
struct JobRow {
    word: Word,
    name: String,
    account: String,
    success: String,
    took: String,
    usual: String,
    pending: String,
    next: String,
    explanations: Vec<String>,
}

/// A line; it begins with a status if it has one.
#[derive(Debug, PartialEq, Eq)]
struct TableLine {
    text: String,
    status: Option<Word>,
}

/// A column: its title, whether it is aligned to the right, and its text.
type StatusColumn = (&'static str, bool, fn(&JobRow) -> &str);

const COLUMNS: [StatusColumn; 7] = [
    ("JOB", false, |row| &row.name),
    ("ACCOUNT", false, |row| &row.account),
    ("SUCCESS", true, |row| &row.success),
    ("TOOK", true, |row| &row.took),
    ("USUAL", true, |row| &row.usual),
    ("PENDING", true, |row| &row.pending),
    ("NEXT FROM", false, |row| &row.next),
];

/// Prints the jobs.
pub(super) fn print(jobs: &[Judged], printer: &mut Printer) {
    for TableLine { text, status } in lines(&rows(jobs, now_micros()), printer.width()) {
        match status {
            Some(word) => {
                let (status, rest) = text.split_at(word.as_str().len());
                let style = word.style();
                printer.line(format_args!("{style}{status}{style:#}{rest}"));
            }
            None => printer.line(text),
        }
    }
}

/// Returns the name of a job, with its account.
pub(super) fn name(job: &Judged) -> String {
    let JobHealth { package, job, account, .. } = &job.health;
    let account = account.as_ref().map(|account| format!(" ({})", plain(account))).unwrap_or_default();
    plain(&format!("{package}/{job}")) + &account
}

/// Makes a name from a store or an events table harmless.
fn plain(name: &str) -> String {
    escaped(&text::one_line(name))
}

fn rows(jobs: &[Judged], now: i64) -> Vec<JobRow> {
    let has_pending = jobs.iter().flat_map(|job| &job.pending).any(|pending| pending.events > 0 || pending.is_minimum);
    let row = |job: &Judged| {
        let JobHealth { package, job: name, account, last_success, last, usual, .. } = &job.health;
        // An event that several destinations lack is one event.
        let most = job.pending.iter().max_by_key(|pending| (pending.events, pending.is_minimum)).filter(|_| has_pending);
        JobRow {
            word: job.word,
            name: plain(&format!("{package}/{name}")),
            account: account.as_deref().map(plain).unwrap_or_default(),
            success: last_success.as_ref().map_or("never".into(), |run| show::age(now, run.ended_at.unwrap_or(run.started_at))),
            took: last.as_ref().filter(|run| has_started(run)).and_then(duration).map(show::elapsed).unwrap_or_default(),
            usual: usual.map(show::elapsed).unwrap_or_default(),
            pending: most.map(|most| format!("{}{}", most.events, if most.is_minimum { "+" } else { "" })).unwrap_or_default(),
            next: job.bookmark.map(|at| moment(at, now)).unwrap_or_default(),
            explanations: explanations(job, now),
        }
    };
    jobs.iter().map(row).collect()
}

/// Whether a run started its job: otherwise its duration is not one of the job.
fn has_started(run: &Run) -> bool {
    !matches!(run.state, RunState::Refused | RunState::Skipped)
}

/// Says what failed, hangs or is missing.
fn explanations(job: &Judged, now: i64) -> Vec<String> {
    let JobHealth { last_success, running, failure, failures, .. } = &job.health;
    let ago = |run: &Run| format!("{} ago (run {})", show::age(now, run.started_at), short_id(&run.run_id));
    let mut lines = Vec::new();
    if let Some(run) = failure {
        let times = match *failures {
            0 | 1 => "failed".to_owned(),
            MAX_FAILURES.. => format!("failed {MAX_FAILURES} times or more, last"),
            n => format!("failed {n} times, last"),
        };
        let why = why(run).map(|why| format!(": {why}")).unwrap_or_default();
        lines.push(format!("{times} {}{why}", ago(run)));
    }
    if let Some(run) = &job.abandoned {
        lines.push(format!("abandoned {}: its supervisor died, and the run cannot be closed yet", ago(run)));
    }
    if let Some(run) = running {
        lines.push(format!("running for {} (run {})", show::age(now, run.started_at), short_id(&run.run_id)));
    }
    if job.word == Word::Stale {
        let limit = job.limit.map(plan::duration::show).unwrap_or_default();
        lines.push(match job.expected_every {
            Some(every) => format!("expected every {}", plan::duration::show(every)),
            None if last_success.is_none() => format!("no success within {limit}"),
            None => format!("no success for more than {limit}"),
        });
    }
    lines
}

/// Formats a time as `ls` does: with the hour if it is less than a year away, otherwise with the year.
fn moment(micros: i64, now: i64) -> String {
    let Some(at) = DateTime::<Utc>::from_timestamp_micros(micros) else { return micros.to_string() };
    let format = if now.abs_diff(micros) < OLD { "%m-%d %H:%M" } else { "%Y-%m-%d" };
    at.format(format).to_string()
}

fn lines(rows: &[JobRow], width: Option<usize>) -> Vec<TableLine> {
    let has_value = |(_, _, text): &StatusColumn| rows.iter().any(|row| !text(row).is_empty());
    let columns: Vec<(StatusColumn, usize)> = COLUMNS
        .into_iter()
        .filter(has_value)
        .map(|column| (column, cells::widest(rows.iter().map(column.2)).max(column.0.len())))
        .collect();
    let needed = STATUS + columns.iter().map(|(_, width)| width + 2).sum::<usize>().saturating_sub(2);
    match width {
        _ if rows.is_empty() => Vec::new(),
        Some(width) if needed > width => blocks(rows, width.max(STATUS + INDENT)),
        _ => table(rows, &columns, width),
    }
}

fn table(rows: &[JobRow], columns: &[(StatusColumn, usize)], width: Option<usize>) -> Vec<TableLine> {
    let line = |status: &str, text: &dyn Fn(&StatusColumn) -> String| {
        let texts = columns.iter().map(|(column, width)| {
            let text = text(column);
            if column.1 { aligned_right(&text, *width) } else { padded(&text, *width) }
        });
        let line = padded(status, STATUS) + &texts.collect::<Vec<_>>().join("  ");
        line.trim_end().to_owned()
    };
    let mut lines = vec![TableLine { text: line("STATUS", &|column| column.0.to_owned()), status: None }];
    for row in rows {
        let text = line(row.word.as_str(), &|column| column.2(row).to_owned());
        lines.push(TableLine { text, status: Some(row.word) });
        lines.extend(row.explanations.iter().flat_map(|text| explained(text, width, STATUS)));
    }
    lines
}

/// Fits an explanation below its job.
fn explained(text: &str, width: Option<usize>, indent: usize) -> Vec<TableLine> {
    let lines = match width.map(|width| width.saturating_sub(indent).max(1)) {
        Some(room) => folded(&cells::fitted(text, EXPLAINED.max(2 * room)), room),
        None => vec![cells::fitted(text, text::LINE)],
    };
    lines.into_iter().map(|line| TableLine { text: format!("{:indent$}{line}", ""), status: None }).collect()
}

fn blocks(rows: &[JobRow], width: usize) -> Vec<TableLine> {
    // Names are aligned if the longest one has room for that.
    let status = if STATUS + cells::widest(rows.iter().map(|row| row.name.as_str())) > width { 0 } else { STATUS };
    let mut lines = Vec::new();
    for row in rows {
        let first = if status == 0 { format!("{} ", row.word.as_str()) } else { padded(row.word.as_str(), status) };
        if cells::width(&first) + cells::width(&row.name) + 2 + cells::width(&row.account) <= width {
            let text = format!("{first}{}  {}", row.name, row.account).trim_end().to_owned();
            lines.push(TableLine { text, status: Some(row.word) });
        } else {
            // The name begins after the status; what it has no room for follows below.
            let room = width.saturating_sub(cells::width(&first));
            let (name, rest) = cells::split_at(&row.name, room);
            lines.push(TableLine { text: format!("{first}{name}"), status: Some(row.word) });
            let rest = format!("{rest} {}", row.account);
            lines.extend(explained(rest.trim(), Some(width), INDENT).into_iter().filter(|_| !rest.trim().is_empty()));
        }
        lines.extend(explained(&facts(row), Some(width), INDENT));
        lines.extend(row.explanations.iter().flat_map(|text| explained(text, Some(width), INDENT)));
    }
    lines
}

/// Returns the columns of a job as one text.
fn facts(row: &JobRow) -> String {
    let JobRow { success, took, usual, pending, next, .. } = row;
    let success = if success == "never" { "never succeeded".to_owned() } else { format!("success {success} ago") };
    let took = match (took.as_str(), usual.as_str()) {
        ("", "") => String::new(),
        (took, "") => format!("took {took}"),
        ("", usual) => format!("usually {usual}"),
        (took, usual) => format!("took {took} (usually {usual})"),
    };
    let pending = if pending.is_empty() || pending == "0" { String::new() } else { format!("{pending} pending") };
    let next = if next.is_empty() { String::new() } else { format!("next from {next}") };
    let facts = [success, took, pending, next];
    facts.into_iter().filter(|fact| !fact.is_empty()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::PendingCount;
    use super::*;
    use lorchestra_core::outcome::Cause;
    use std::time::Duration;

    const HOUR: i64 = 3_600_000_000;
    const NOW: i64 = 1_790_000_000_000_000;

    pub(in super::super) fn run() -> Run {
        Run {
            run_id: "01a22706-a31b-74c2-bfd6-aa30d8da6609".into(),
            package: "ingester".into(),
            job: "extract_gmail".into(),
            account: None,
            state: RunState::Completed,
            cause: None,
            message: None,
            job_result: None,
            started_at: NOW - 2 * HOUR,
            ended_at: Some(NOW - 2 * HOUR + 210_000),
            attempts: 1,
            spec_json: String::new(),
            since: None,
            until: None,
            plugin_path: String::new(),
            plugin_version: String::new(),
            plugin_sha256: String::new(),
            location: String::new(),
            host: String::new(),
            supervisor_pid: 1,
            supervisor_start: 1,
            boot_id: String::new(),
            bookmark: None,
        }
    }

    fn ok(package: &str, name: &str, account: Option<&str>) -> Judged {
        let health = JobHealth {
            account: account.map(str::to_owned),
            last_success: Some(run()),
            last: Some(run()),
            usual: Some(Duration::from_millis(200)),
            ..JobHealth::never_run(package, name)
        };
        let (expected_every, limit, bookmark, abandoned) = (None, None, None, None);
        Judged { health, word: Word::Ok, expected_every, limit, bookmark, pending: Vec::new(), abandoned }
    }

    fn failing(package: &str, name: &str, failures: u64) -> Judged {
        let failure = Run {
            state: RunState::Failed,
            cause: Some(Cause::Error),
            message: Some("/srv/mail/takeout.mbox: no such file or directory".into()),
            ..run()
        };
        let never = JobHealth::never_run(package, name);
        let health = JobHealth { last: Some(failure.clone()), failure: Some(failure), failures, ..never };
        Judged { health, word: Word::Failing, ..ok(package, name, None) }
    }

    fn stale(package: &str, name: &str) -> Judged {
        let day = Some(Duration::from_secs(86_400));
        let hangs = Run { state: RunState::Running, started_at: NOW - 72 * HOUR, ended_at: None, ..run() };
        let health = JobHealth { running: Some(hangs), ..JobHealth::never_run(package, name) };
        Judged { health, word: Word::Stale, expected_every: day, limit: day, ..ok(package, name, None) }
    }

    fn pending(events: u64, is_minimum: bool) -> PendingCount {
        PendingCount { destination: "bigquery".into(), events, is_minimum }
    }

    fn drawn(jobs: &[Judged], width: Option<usize>) -> String {
        let lines = lines(&rows(jobs, NOW), width);
        for TableLine { text, status } in &lines {
            assert!(width.is_none_or(|width| cells::width(text) <= width), "{width:?}: {text:?}");
            assert!(status.is_none_or(|word| text.starts_with(word.as_str())), "{text:?}");
        }
        lines.into_iter().map(|line| format!("{}\n", line.text)).collect()
    }

    #[test]
    fn a_line_has_everything_if_it_fits() {
        let next = |job: Judged, at| Judged { bookmark: Some(at), pending: vec![pending(12, false)], ..job };
        let jobs = [
            failing("canonizer", "canonicalize_email", 3),
            next(ok("ingester", "extract_gmail", Some("anna")), NOW - 3 * HOUR),
            next(ok("ingester", "extract_slack", None), 1_600_000_000_000_000),
            stale("vector-projector", "index"),
        ];
        let expected = "\
STATUS   JOB                           ACCOUNT  SUCCESS   TOOK  USUAL  PENDING  NEXT FROM
failing  canonizer/canonicalize_email             never  0.21s
         failed 3 times, last 2h ago (run d8da6609): error: /srv/mail/takeout.mbox: no such file or directory
ok       ingester/extract_gmail        anna          1h  0.21s  0.20s       12  09-21 11:13
ok       ingester/extract_slack                      1h  0.21s  0.20s       12  2020-09-13
stale    vector-projector/index                   never
         running for 3d (run d8da6609)
         expected every 1d
";
        assert_eq!(drawn(&jobs, None), expected);
    }

    /// A refusal takes no time, which next to the usual duration would look like a fast run.
    #[test]
    fn only_a_run_that_started_has_a_duration() {
        for (state, shows) in
            [(RunState::Completed, true), (RunState::Failed, true), (RunState::Refused, false), (RunState::Skipped, false)]
        {
            let last = Some(Run { state, ..run() });
            let job = ok("a", "one", None);
            let job = Judged { health: JobHealth { last, ..job.health }, ..job };
            assert_eq!(drawn(&[job], Some(80)).contains("0.21s  0.20s"), shows, "{state:?}");
        }
    }

    #[test]
    fn an_abandoned_run_is_explained() {
        let hangs = Run { state: RunState::Running, started_at: NOW - 72 * HOUR, ended_at: None, ..run() };
        let job = Judged { word: Word::Failing, abandoned: Some(hangs), ..ok("a", "one", None) };
        let text = drawn(&[job], Some(80));
        assert!(text.contains("\n         abandoned 3d ago (run d8da6609): its supervisor died, and the run\n"), "{text}");
    }

    #[test]
    fn columns_without_values_are_left_out() {
        let quiet = |job: Judged| Judged { pending: vec![pending(0, false)], ..job };
        let jobs = [quiet(ok("a", "one", None)), quiet(ok("a", "two", None))];
        assert_eq!(
            drawn(&jobs, Some(40)),
            "STATUS   JOB    SUCCESS   TOOK  USUAL\nok       a/one       1h  0.21s  0.20s\nok       a/two       1h  0.21s  0.20s\n"
        );
        // What another job has is shown as 0, and what may be more is marked.
        let jobs =
            [Judged { pending: vec![pending(3, false), pending(7, true)], ..ok("a", "one", None) }, quiet(ok("a", "two", None))];
        let text = drawn(&jobs, Some(80));
        assert!(text.contains("PENDING\nok       a/one       1h  0.21s  0.20s       7+\n"), "{text}");
        assert!(text.ends_with("        0\n"), "{text}");
    }

    #[test]
    fn names_are_whole_on_a_narrow_terminal() {
        let jobs = [
            failing("canonizer", "canonicalize_email", 1),
            Judged {
                bookmark: Some(NOW - 3 * HOUR),
                pending: vec![pending(12, false)],
                ..ok("ingester", "extract_gmail", Some("anna@a-rather-long-domain.example.org"))
            },
            stale("vector-projector", "index_documents"),
        ];
        let expected = "\
failing canonizer/canonicalize_email
  never succeeded, took 0.21s
  failed 2h ago (run d8da6609): error:
  /srv/mail/takeout.mbox: no such file
  or directory
ok ingester/extract_gmail
  anna@a-rather-long-domain.example.org
  success 1h ago, took 0.21s (usually
  0.20s), 12 pending, next from 09-21
  11:13
stale vector-projector/index_documents
  never succeeded
  running for 3d (run d8da6609)
  expected every 1d
";
        let jobs =
            jobs.map(|job| Judged { pending: if job.pending.is_empty() { vec![pending(0, false)] } else { job.pending }, ..job });
        assert_eq!(drawn(&jobs, Some(40)), expected);
        let eighty = drawn(&jobs, Some(80));
        assert!(eighty.starts_with("failing  canonizer/canonicalize_email\n  never succeeded"), "{eighty}");
        assert!(eighty.contains("\nok       ingester/extract_gmail  anna@a-rather-long-domain.example.org\n"), "{eighty}");
        // Every name is there at every width.
        for width in 12..120 {
            let text = drawn(&jobs, Some(width)).replace([' ', '\n'], "");
            assert!(text.contains("ingester/extract_gmailanna@a-rather-long-domain.example.org"), "{width}: {text}");
            assert!(text.contains("vector-projector/index_documents"), "{width}: {text}");
        }
    }

    #[test]
    fn columns_are_aligned_by_cells() {
        let jobs = ["anna", "日本語", "📬 mail", "cafe\u{301}"].map(|account| ok("ingester", "extract_gmail", Some(account)));
        let text = drawn(&jobs, Some(80));
        let ends: Vec<usize> = text.lines().map(|line| cells::width(line.rsplit_once("  ").unwrap().0)).collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}\n{text}");
    }

    #[test]
    fn names_cannot_control_the_terminal() {
        let hostile = ok("p\u{1b}[31m", "j\nk", Some("a\u{202e}b"));
        let text = drawn(std::slice::from_ref(&hostile), Some(80));
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']) && !name(&hostile).contains(['\u{1b}', '\n', '\u{202e}']), "{text:?}");
    }

    #[test]
    fn many_failures_are_counted_up_to_a_limit() {
        let text = |failures| drawn(&[failing("p", "j", failures)], None);
        assert!(text(MAX_FAILURES).contains("failed 1000 times or more, last 2h ago"), "{}", text(MAX_FAILURES));
        assert!(text(2).contains("failed 2 times, last 2h ago"), "{}", text(2));
    }
}
