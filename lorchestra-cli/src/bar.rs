//! The progress bar of a running job on a terminal: done, rate, time left. Runs in its own thread, like the trace's follower, and draws
//! through [`crate::stream`], so a blocked terminal blocks nothing else.
//!
//! The bar appears when the job first reports progress, and disappears when the run ends.

use crate::stream::STDERR;
use indicatif::{HumanDuration, HumanFloatCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike};
use lorchestra_core::host::state::StateDir;
use lorchestra_core::run::supervisor::progress;
use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Interval between two reads of the progress.
const INTERVAL: Duration = Duration::from_millis(100);

/// A progress bar, which may not be drawn yet.
pub(crate) struct Bar {
    bar: ProgressBar,
    run_ended: Sender<()>,
    thread: JoinHandle<()>,
}

impl Bar {
    /// Whether there is a terminal to show it.
    pub(crate) fn is_seen() -> bool {
        // The terminal must be able to move its cursor.
        !ProgressDrawTarget::stderr().is_hidden()
    }

    /// Draws the progress of a run that has started. Returns `None` if no thread can be started: the run continues without it.
    pub(crate) fn start(state: &StateDir, run_id: &str, name: String) -> Option<Self> {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_prefix(name);
        let (run_ended, ended) = channel();
        let (state, run_id, drawn) = (state.clone(), run_id.to_owned(), bar.clone());
        let thread = std::thread::Builder::new()
            .name("lorchestra-bar".into())
            .spawn(move || draw(&state, &run_id, &drawn, &ended))
            .ok()?;
        Some(Self { bar, run_ended, thread })
    }

    /// Prints something above the bar.
    pub(crate) fn aside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Removes the bar at the end of the run.
    pub(crate) fn finish(self) {
        let _ = self.run_ended.send(());
        let _ = self.thread.join();
    }
}

/// The progress bar of a group of runs: members that have ended, rate, time left. Not drawn if there is no terminal.
pub(crate) struct GroupBar(ProgressBar);

impl GroupBar {
    /// Draws the bar of a group of which `done` of `all` members have ended.
    pub(crate) fn start(name: String, done: u64, all: u64) -> Self {
        let bar =
            ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::hidden()).with_prefix(name).with_style(style(true));
        bar.set_position(done);
        bar.reset_eta();
        bar.set_draw_target(ProgressDrawTarget::term_like(Box::<Screen>::default()));
        Self(bar)
    }

    /// Shows how many members have ended.
    pub(crate) fn update(&self, done: u64) {
        if !STDERR.is_stuck() {
            self.0.set_position(done);
            self.0.tick();
        }
    }

    /// Prints something above the bar.
    pub(crate) fn aside(&self, print: impl FnOnce()) {
        self.0.suspend(print);
    }

    /// Removes the bar.
    pub(crate) fn finish(self) {
        self.0.finish_and_clear();
    }
}

fn draw(state: &StateDir, run_id: &str, bar: &ProgressBar, ended: &Receiver<()>) {
    let mut shown = None;
    while matches!(ended.recv_timeout(INTERVAL), Err(RecvTimeoutError::Timeout)) {
        if STDERR.is_stuck() {
            continue;
        }
        let Some((done, total)) = progress(state, run_id) else { continue };
        let known = total > 0;
        if shown != Some(known) {
            bar.set_style(style(known));
        }
        if known {
            bar.set_length(total);
        } else {
            bar.unset_length();
        }
        bar.set_position(done);
        if shown.is_none() {
            // Rate and time left count from here, not from the start of the worker, and do not count earlier progress.
            bar.tick();
            bar.reset_eta();
            bar.set_draw_target(ProgressDrawTarget::term_like(Box::<Screen>::default()));
        }
        shown = Some(known);
        bar.tick();
    }
    bar.finish_and_clear();
}

/// The bar's view of the terminal: one frame is one write.
#[derive(Debug, Default)]
struct Screen {
    frame: Mutex<String>,
}

impl Screen {
    fn add(&self, text: fmt::Arguments<'_>) -> io::Result<()> {
        let mut frame = self.frame.lock().unwrap_or_else(PoisonError::into_inner);
        fmt::Write::write_fmt(&mut *frame, text).map_err(io::Error::other)
    }

    /// A movement by zero cells would move by one.
    fn moved(&self, cells: usize, direction: char) -> io::Result<()> {
        if cells == 0 { Ok(()) } else { self.add(format_args!("\x1b[{cells}{direction}")) }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        rustix::termios::tcgetwinsize(rustix::stdio::stderr()).map_or(80, |size| size.ws_col.max(1))
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.moved(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.moved(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.moved(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.moved(n, 'D')
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.add(format_args!("{line}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(format_args!("{text}"))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add(format_args!("\r\x1b[2K"))
    }

    fn flush(&self) -> io::Result<()> {
        let frame = std::mem::take(&mut *self.frame.lock().unwrap_or_else(PoisonError::into_inner));
        if !frame.is_empty() {
            STDERR.write(frame.as_bytes());
        }
        Ok(())
    }
}

/// For a job that knows its total, and for one that does not.
const TEMPLATES: [&str; 2] =
    ["{prefix} [{wide_bar}] {human_pos}/{human_len} {percent}% {rate}{left}", "{prefix} {spinner} {human_pos} {rate} {elapsed}"];

fn style(known: bool) -> ProgressStyle {
    let template = TEMPLATES[usize::from(!known)];
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
            let _ = text.write_str(&rate(state.per_sec()));
        })
        .with_key("left", |state: &ProgressState, text: &mut dyn fmt::Write| {
            // Once there is an estimate.
            if state.per_sec() > 0.0 {
                let _ = write!(text, " {:#} left", HumanDuration(state.eta()));
            }
        })
        .progress_chars("=> ")
}

/// Formats a rate per second with few enough digits to read while it changes; slow rates per minute or hour.
fn rate(per_sec: f64) -> String {
    const LEAST: f64 = 0.05;
    let shown = [(1.0, "s"), (60.0, "min"), (3600.0, "h")].map(|(seconds, unit)| (per_sec * seconds, unit));
    match shown.into_iter().find(|(rate, _)| *rate >= LEAST) {
        Some((rate, unit)) if rate < 99.95 => format!("{rate:.1}/{unit}"),
        Some((rate, unit)) => format!("{:.0}/{unit}", HumanFloatCount(rate)),
        // Zero, or nearly zero per hour.
        None => "0/s".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid() {
        for template in TEMPLATES {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_rate_has_few_digits() {
        for (per_sec, shown) in [
            (0.0, "0/s"),
            (f64::NAN, "0/s"),
            (12.3456, "12.3/s"),
            (1.0, "1.0/s"),
            (0.05, "0.1/s"),
            (99.94, "99.9/s"),
            (99.96, "100/s"),
            (1204.4, "1,204/s"),
            (1_234_567.8, "1,234,568/s"),
            (0.02, "1.2/min"),
            (0.0003, "1.1/h"),
            (0.000_001, "0/s"),
        ] {
            assert_eq!(rate(per_sec), shown, "{per_sec}");
        }
    }
}
