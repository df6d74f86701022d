//! `runs watch`: running runs on a terminal, drawn again and again: age, progress, memory, last line of output. Reads the store and files
//! of runs; affects none.
//!
//! Owns the terminal while it runs ([`WatchScreen`]) and restores it on every way out. One frame is one write and never larger than the screen.

use super::style;
use crate::cells;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::follow::readable;
use crate::notify::Notices;
use crate::printer::{BAD, GOOD, Printer, WARNING};
use crate::settings::Settings;
use crate::show;
use lorchestra_core::host::clock::{now_micros, timespec};
use lorchestra_core::host::process::tree_rss_kib;
use lorchestra_core::host::signals::Signals;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::log;
use lorchestra_core::run::recovery::close_all_abandoned;
use lorchestra_core::run::supervisor::progress;
use lorchestra_core::store::{Run, RunFilter, RunState, Store, short_id};
use lorchestra_core::text::{self, escaped, printable};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
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
struct Line {
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
    let screen = WatchScreen::enter();
    let mut running: Vec<Run> = Vec::new();
    let mut ended: Vec<Run> = Vec::new();
    let code = loop {
        if history.is_none() {
            history = crate::commands::open_again(settings, notices)?;
        }
        let mut lines = Vec::new();
        if let Some((state, store)) = &mut history {
            let now = running_now(state, store, notices)?;
            for run in running.iter().filter(|run| now.iter().all(|other| other.run_id != run.run_id)) {
                ended.extend(store.run(&run.run_id)?);
            }
            ended.drain(..ended.len().saturating_sub(ENDED));
            for run in &now {
                lines.push(line(state, store, run)?);
            }
            running = now;
        }
        let (columns, rows) = printer.size().unwrap_or((80, 24));
        screen.draw(&frame(&lines, &ended, now_micros(), columns), rows, printer);
        if printer.is_broken() {
            break Code::Success;
        }
        if let Some(code) = screen.wait(&mut signals, interval) {
            break code;
        }
    };
    screen.leave(printer);
    Ok(code)
}

/// Returns the running runs, oldest first, after closing those of dead supervisors.
fn running_now(state: &StateDir, store: &mut Store, notices: &mut Notices<'_>) -> Result<Vec<Run>, CommandError> {
    let all = RunFilter { running: true, limit: None };
    let mut runs = store.runs(&all)?;
    if runs.iter().any(|run| !run.is_supervised()) {
        notices.add_recovered(&close_all_abandoned(state, store)?);
        runs = store.runs(&all)?;
    }
    runs.reverse();
    Ok(runs)
}

fn line(state: &StateDir, store: &Store, run: &Run) -> Result<Line, CommandError> {
    let worker = store.attempts(&run.run_id)?.pop().and_then(|attempt| attempt.worker_pid);
    let account = run.account.as_deref().map(|account| format!(" {}", escaped(&text::one_line(account)))).unwrap_or_default();
    let attempt = if run.attempts > 1 { format!(" (attempt {})", run.attempts) } else { String::new() };
    let printed = last_line(&state.output(&run.run_id, run.attempts)).map(|line| printable(&String::from_utf8_lossy(&line)));
    let traced = || last_line(&state.trace(&run.run_id)).map(|line| readable(&line));
    Ok(Line {
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

/// Formats the screen: a line without style, and the style of its first characters.
fn frame(lines: &[Line], ended: &[Run], now: i64, columns: usize) -> Vec<String> {
    let time = show::time(now);
    let mut frame = vec![cells::fitted(&format!("{} running · {time} · q or Ctrl-C to leave", lines.len()), columns)];
    if !lines.is_empty() {
        frame.push(String::new());
        frame.push(row(["RUN", "AGE", "PROGRESS", "MEMORY", "JOB"], columns));
    }
    for line in lines {
        let age = show::age(now, line.started_at);
        let memory = line.rss_kib.map(|kib| format!("{} MiB", kib.div_ceil(1024))).unwrap_or_default();
        let done = line.progress.map(|(done, total)| done_of(done, total)).unwrap_or_default();
        frame.push(row([&line.short_id, &age, &done, &memory, &line.name], columns));
        if !line.last.is_empty() {
            frame.push(format!("{:INDENT$}{}", "", cells::fitted(&line.last, columns.saturating_sub(INDENT))));
        }
    }
    if !ended.is_empty() {
        frame.push(String::new());
    }
    for run in ended.iter().rev() {
        let took = super::duration(run).map(show::elapsed).unwrap_or_default();
        let why = super::why(run).map(|why| format!(": {why}")).unwrap_or_default();
        let text = format!("{} {} {}/{} after {took}{why}", short_id(&run.run_id), run.state.as_str(), run.package, run.job);
        let style = if run.state == RunState::Completed { GOOD } else { style(run.state) };
        frame.push(format!("{style}{}{style:#}", cells::fitted(&text, columns)));
    }
    frame
}

fn row([run, age, done, memory, name]: [&str; 5], columns: usize) -> String {
    let name = cells::fitted(name, columns.saturating_sub(COLUMNS).max(10));
    cells::fitted(format!("{run:<8}  {age:>4}  {done:<22}  {memory:>8}  {name}").trim_end(), columns)
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

/// The terminal while it shows the runs: its other screen, without a cursor, and keys that arrive at once.
struct WatchScreen {
    /// The settings of the terminal before, if stdin is one.
    before: Option<Termios>,
}

impl WatchScreen {
    fn enter() -> Self {
        let before = tcgetattr(rustix::stdio::stdin()).ok();
        if let Some(before) = &before {
            let mut keys = before.clone();
            keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            // A stopped process would leave the other screen in place.
            keys.special_codes[SpecialCodeIndex::VSUSP] = 0;
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &keys);
        }
        put(b"\x1b[?1049h\x1b[?25l");
        Self { before }
    }

    /// Draws the first lines that fit. The last row stays free, or names the number of lines that do not fit.
    fn draw(&self, lines: &[String], rows: usize, printer: &mut Printer) {
        let fits = rows.saturating_sub(1).max(1);
        let mut frame = String::from("\x1b[H");
        for line in lines.iter().take(fits) {
            frame.push_str(&format!("{line}\x1b[K\r\n"));
        }
        frame.push_str("\x1b[J");
        if lines.len() > fits {
            frame.push_str(&format!("{WARNING}… {} more lines{WARNING:#}", lines.len() - fits));
        }
        if !printer.has_color() {
            frame = plain(&frame);
        }
        printer.bytes(frame.as_bytes());
        printer.flush();
    }

    /// Waits for the next update. Returns an exit code if the user leaves.
    fn wait(&self, signals: &mut Signals, interval: Duration) -> Option<Code> {
        let until = Instant::now() + interval;
        loop {
            if let Some(signal) = signals.endings().first() {
                return Some(Code::Interrupted(*signal));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let stdin = rustix::stdio::stdin();
            let mut fds = vec![PollFd::new(&*signals, PollFlags::IN)];
            if self.before.is_some() {
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
            let _ = poll(&mut fds, Some(&timespec(left)));
            let readable = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
            let mut key = [0; 16];
            if readable {
                match rustix::io::read(stdin, &mut key) {
                    // The terminal is gone.
                    Ok(0) | Err(_) => return Some(Code::Success),
                    Ok(n) if key[..n].iter().any(|key| matches!(key, b'q' | b'Q' | 4)) => return Some(Code::Success),
                    Ok(_) => {}
                }
            }
        }
    }

    fn leave(self, printer: &mut Printer) {
        printer.flush();
        drop(self);
    }
}

impl Drop for WatchScreen {
    fn drop(&mut self) {
        put(b"\x1b[?25h\x1b[?1049l");
        if let Some(before) = &self.before {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Writes to the terminal; if it is gone, there is nothing to restore.
fn put(bytes: &[u8]) {
    let _ = rustix::io::write(rustix::stdio::stdout(), bytes);
}

/// Removes colours, but not movements of the cursor.
fn plain(frame: &str) -> String {
    [GOOD, BAD, WARNING].iter().fold(frame.to_owned(), |text, style| text.replace(&style.to_string(), "")).replace("\x1b[0m", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_its_columns() {
        let line = Line {
            short_id: "7c41d03f".into(),
            started_at: 0,
            name: "p".repeat(64) + "/" + &"j".repeat(64),
            progress: Some((u64::MAX - 1, u64::MAX)),
            rss_kib: Some(123_456_789),
            last: "x".repeat(500),
        };
        for columns in [80, 200, 20] {
            for text in frame(std::slice::from_ref(&line), &[], 60_000_000, columns) {
                assert!(cells::width(&text) <= columns, "{columns}: {text:?}");
            }
        }
    }

    #[test]
    fn progress_is_a_bar_if_the_total_is_known() {
        assert_eq!(done_of(5, 10), "[====    ]  50% 5/10");
        assert_eq!(done_of(20, 10), "[========] 100% 20/10");
        assert_eq!(done_of(1_000_000, 4_000_000), "[==      ]  25%");
        assert_eq!(done_of(7, 0), "7");
    }
}
