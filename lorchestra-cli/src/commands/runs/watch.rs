//! `runs watch`: running runs on a terminal, drawn again and again: age, progress, memory, last line of output. Reads the store and files
//! of runs; affects none.
//!
//! [`screen`] owns the terminal while it runs; what is on it is drawn by `ratatui`, which writes only the cells that change.

mod screen;

use super::style;
use crate::cells;
use crate::commands::unclosed::Unclosed;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::follow::readable;
use crate::notify::Notices;
use crate::printer::{BAD, GOOD, Printer, WARNING};
use crate::settings::Settings;
use crate::show;
use anstyle::Style;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::process::tree_rss_kib;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::log;
use lorchestra_core::run::recovery::close_all_abandoned;
use lorchestra_core::run::supervisor::progress;
use lorchestra_core::store::{Run, RunFilter, RunState, Store, short_id};
use lorchestra_core::text::{self, escaped, printable};
use ratatui_core::layout::{Constraint, Layout};
use ratatui_core::terminal::Frame;
use ratatui_core::text::{Line, Text};
use screen::{WatchScreen, WatchStep};
use std::path::Path;
use std::time::{Duration, Instant};

/// Number of bytes to read for the last line of a log.
const TAIL: usize = 4 << 10;
/// Maximum number of ended runs to show.
const ENDED: usize = 5;
/// Width of the columns RUN, AGE, PROGRESS and MEMORY with their gaps.
const COLUMNS: usize = 8 + 2 + 4 + 2 + 22 + 2 + 8 + 2;
/// Indentation of a run's second line.
const INDENT: usize = 10;

/// A running run, as it is drawn.
#[derive(Debug, Default)]
struct WatchedRun {
    short_id: String,
    started_at: i64,
    name: String,
    progress: Option<(u64, u64)>,
    rss_kib: Option<u64>,
    last: String,
}

pub(super) fn watch(
    interval: Duration,
    mut history: Option<(StateDir, Store)>,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let is_dumb = settings.variable("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if printer.size().is_none() || is_dumb {
        let why = "runs watch draws on a terminal, and stdout is not one that can move its cursor";
        return Err(CommandError::new(Code::Usage, why)
            .hint("run lorchestra runs list --running for a list, with --json for a program")
            .hint("run lorchestra runs logs -f RUN to follow one run"));
    }
    let mut signals = crate::commands::handle_signals()?;
    printer.flush();
    let lost = |error: std::io::Error| CommandError::new(Code::Failed, format!("cannot draw on the terminal: {error}"));
    let mut screen = WatchScreen::enter(printer).map_err(lost)?;
    let mut running: Vec<Run> = Vec::new();
    let mut ended: Vec<Run> = Vec::new();
    let code = loop {
        if history.is_none() {
            history = crate::commands::open_again(settings, notices)?;
        }
        let mut lines = Vec::new();
        if let Some((state, store)) = &mut history {
            let (now, unclosed) = running_now(state, store, notices)?;
            // Until they can be closed, these have not ended in the store either.
            ended.retain(|run| run.state != RunState::Running);
            for run in running.iter().filter(|run| now.iter().all(|other| other.run_id != run.run_id)) {
                ended.extend(store.run(&run.run_id)?.filter(|run| run.state != RunState::Running));
            }
            ended.extend(unclosed);
            ended.drain(..ended.len().saturating_sub(ENDED));
            for run in &now {
                lines.push(watched(state, store, run)?);
            }
            running = now;
        }
        let now = now_micros();
        let due = Instant::now() + interval;
        let step = loop {
            let view = |frame: &mut Frame<'_>| {
                let rows = rows(&lines, &ended, now, usize::from(frame.area().width));
                draw(frame, &rows, printer);
            };
            if screen.draw(printer, view).is_err() {
                break WatchStep::GONE;
            }
            match screen.wait(&mut signals, due, printer) {
                WatchStep::Resized => {}
                step => break step,
            }
        };
        if let WatchStep::Leave(code) = step {
            break code;
        }
    };
    drop(screen);
    Ok(code)
}

/// Returns the running runs, oldest first, after closing those of dead supervisors; and those of these that cannot be closed.
fn running_now(state: &StateDir, store: &mut Store, notices: &mut Notices<'_>) -> Result<(Vec<Run>, Vec<Run>), CommandError> {
    let all = RunFilter { running: true, limit: None };
    let mut runs = store.runs(&all)?;
    let mut unclosed = Unclosed::default();
    if runs.iter().any(|run| !run.is_supervised()) {
        let closed = close_all_abandoned(state, store)?;
        notices.add_recovered(&closed);
        unclosed = Unclosed::of(&closed);
        runs = store.runs(&all)?;
    }
    runs.retain(|run| unclosed.reason(run).is_none());
    runs.reverse();
    Ok((runs, unclosed.runs(store)?))
}

fn watched(state: &StateDir, store: &Store, run: &Run) -> Result<WatchedRun, CommandError> {
    let worker = store.attempts(&run.run_id)?.pop().and_then(|attempt| attempt.worker_pid);
    let account = run.account.as_deref().map(|account| format!(" {}", escaped(&text::one_line(account)))).unwrap_or_default();
    let attempt = if run.attempts > 1 { format!(" (attempt {})", run.attempts) } else { String::new() };
    let printed = last_line(&state.output(&run.run_id, run.attempts)).map(|line| printable(&String::from_utf8_lossy(&line)));
    let traced = || last_line(&state.trace(&run.run_id)).map(|line| readable(&line));
    Ok(WatchedRun {
        short_id: short_id(&run.run_id).to_owned(),
        started_at: run.started_at,
        name: format!("{}/{}{account}{attempt}", run.package, run.job),
        progress: progress(state, &run.run_id),
        rss_kib: worker.and_then(tree_rss_kib),
        last: text::one_line(&printed.or_else(traced).unwrap_or_default()),
    })
}

/// The last line of a log that has text.
fn last_line(path: &Path) -> Option<Vec<u8>> {
    let tail = log::tail(path, TAIL).ok()?;
    tail.split(|byte| *byte == b'\n').rfind(|line| !line.trim_ascii().is_empty()).map(<[u8]>::to_vec)
}

/// A row of the screen: its text and its style.
#[derive(Debug)]
struct ScreenRow(String, Style);

/// Returns the rows of the screen. Those of the first line do not scroll away.
fn rows(lines: &[WatchedRun], ended: &[Run], now: i64, columns: usize) -> Vec<ScreenRow> {
    let plain = |text: String| ScreenRow(text, Style::new());
    let time = show::time(now);
    let mut rows = vec![ScreenRow(format!("{} running · {time} · q or Ctrl-C to leave", lines.len()), Style::new().bold())];
    if !lines.is_empty() {
        rows.push(plain(String::new()));
        rows.push(plain(row(["RUN", "AGE", "PROGRESS", "MEMORY", "JOB"], false)));
    }
    // A name that is cut names nothing: without room for the longest one, each has lines of its own.
    let is_narrow = COLUMNS + cells::widest(lines.iter().map(|line| line.name.as_str())) > columns;
    for line in lines {
        let age = show::age(now, line.started_at);
        let memory = line.rss_kib.map(|kib| format!("{} MiB", kib.div_ceil(1024))).unwrap_or_default();
        let done = line.progress.map(|(done, total)| done_of(done, total)).unwrap_or_default();
        rows.push(plain(row([&line.short_id, &age, &done, &memory, &line.name], is_narrow)));
        let room = columns.saturating_sub(INDENT).max(1);
        let below = cells::folded(if is_narrow { &line.name } else { "" }, room);
        let last = Some(cells::fitted(&line.last, room)).filter(|last| !last.is_empty());
        rows.extend(below.into_iter().chain(last).map(|text| plain(format!("{:INDENT$}{text}", ""))));
    }
    if !ended.is_empty() {
        rows.push(plain(String::new()));
    }
    for run in ended.iter().rev() {
        if run.state == RunState::Running {
            let why = run.message.as_deref().map(text::one_line).unwrap_or_default();
            let text = format!("{} abandoned {}/{}: cannot be closed yet: {why}", short_id(&run.run_id), run.package, run.job);
            rows.push(ScreenRow(text, BAD));
            continue;
        }
        let took = super::duration(run).map(show::elapsed).unwrap_or_default();
        let why = super::why(run).map(|why| format!(": {why}")).unwrap_or_default();
        let text = format!("{} {} {}/{} after {took}{why}", short_id(&run.run_id), run.state.as_str(), run.package, run.job);
        rows.push(ScreenRow(text, if run.state == RunState::Completed { GOOD } else { style(run.state) }));
    }
    rows
}

fn row([run, age, done, memory, name]: [&str; 5], is_narrow: bool) -> String {
    let name = if is_narrow { "" } else { name };
    format!("{run:<8}  {age:>4}  {done:<22}  {memory:>8}  {name}").trim_end().to_owned()
}

/// Draws the first rows that fit. The last row of the screen stays free, or shows the number of those that do not fit.
fn draw(frame: &mut Frame<'_>, rows: &[ScreenRow], printer: &Printer) {
    let [body, foot] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    let width = usize::from(frame.area().width);
    let line = |text: &str, style: Style| {
        let text = printer.own_marks(&cells::fitted(text, width)).into_owned();
        Line::styled(text, if printer.has_color() { style.into() } else { ratatui_core::style::Style::new() })
    };
    let fits = usize::from(body.height);
    frame.render_widget(Text::from_iter(rows.iter().take(fits).map(|ScreenRow(text, style)| line(text, *style))), body);
    if rows.len() > fits {
        frame.render_widget(line(&format!("… {} more lines", rows.len() - fits), WARNING), foot);
    }
}

/// `1204/10000 [====     ]`, or `1204` if the total is unknown.
fn done_of(done: u64, total: u64) -> String {
    const BAR: u64 = 8;
    if total == 0 {
        return done.to_string();
    }
    let full = usize::try_from(u128::from(done.min(total)) * u128::from(BAR) / u128::from(total)).unwrap_or(0);
    let percent = u128::from(done.min(total)) * 100 / u128::from(total);
    let bar = format!("{:<8}", "=".repeat(full));
    let numbers = format!("{done}/{total}");
    let text = format!("[{bar}] {percent:>3}% {numbers}");
    if text.len() <= 22 { text } else { format!("[{bar}] {percent:>3}%") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui_core::backend::TestBackend;
    use ratatui_core::terminal::Terminal;

    fn run(name: &str) -> WatchedRun {
        WatchedRun {
            short_id: "7c41d03f".into(),
            started_at: 0,
            name: name.into(),
            progress: Some((u64::MAX - 1, u64::MAX)),
            rss_kib: Some(123_456_789),
            last: "x".repeat(500),
        }
    }

    /// What is on a screen of this size.
    fn drawn(lines: &[WatchedRun], columns: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(columns, height)).unwrap();
        let printer = Printer::new();
        terminal.draw(|frame| draw(frame, &rows(lines, &[], 60_000_000, usize::from(columns)), &printer)).unwrap();
        let buffer = terminal.backend().buffer();
        let text = |y: u16| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(text).collect()
    }

    #[test]
    fn names_are_whole_on_every_screen() {
        let long = "p".repeat(64) + "/" + &"j".repeat(64);
        for columns in [20, 40, 80, 200] {
            let text = drawn(&[run(&long), run("p/short")], columns, 50).concat().replace(' ', "");
            assert!(text.contains(&long) && text.contains("p/short"), "{columns}: {text}");
        }
        let eighty = drawn(&[run("p/short")], 80, 24);
        assert_eq!(eighty[2], "RUN        AGE  PROGRESS                  MEMORY  JOB");
        assert_eq!(eighty[3], "7c41d03f    1m  [======= ]  99%         120564 MiB  p/short");
        assert_eq!(eighty[4].len(), 82, "the mark of what is cut has three bytes: {:?}", eighty[4]);
    }

    #[test]
    fn the_last_row_names_what_does_not_fit() {
        let many: Vec<WatchedRun> = (0..20).map(|n| run(&format!("p/j{n}"))).collect();
        let screen = drawn(&many, 80, 24);
        assert!(screen[0].starts_with("20 running · ") && screen[23] == "… 20 more lines", "{screen:#?}");
        assert_eq!(drawn(&many[..5], 80, 24)[23], "", "free");
    }

    #[test]
    fn progress_is_a_bar_if_the_total_is_known() {
        assert_eq!(done_of(5, 10), "[====    ]  50% 5/10");
        assert_eq!(done_of(20, 10), "[========] 100% 20/10");
        assert_eq!(done_of(1_000_000, 4_000_000), "[==      ]  25%");
        assert_eq!(done_of(7, 0), "7");
    }
}
