//! The terminal while `runs watch` owns it: its other screen, drawn by `ratatui`, without a cursor, and with keys that arrive at once. Restored
//! on every way out: at the end, by a signal that ends the command, and before a panic is reported.

use crate::exit::Code;
use crate::printer::Printer;
use lorchestra_core::host::clock::timespec;
use lorchestra_core::host::signals::Signals;
use ratatui_core::layout::Rect;
use ratatui_core::terminal::{Frame, Terminal, TerminalOptions, Viewport};
use ratatui_termion::TermionBackend;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::io::{self, BufWriter, Stdout};
use std::mem::ManuallyDrop;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Size of the buffer for a frame, which usually is one write.
const BUFFER: usize = 1 << 16;
/// Interval between two looks at the size of the terminal.
const RESIZED: Duration = Duration::from_millis(200);

/// The settings of the terminal before, if stdin is one; `None` if there is nothing to restore.
static BEFORE: Mutex<Option<Option<Termios>>> = Mutex::new(None);

/// The other screen of the terminal.
pub(super) struct WatchScreen {
    /// Never dropped: `ratatui` would print an error, or panic, if the terminal is gone.
    terminal: ManuallyDrop<Terminal<TermionBackend<BufWriter<Stdout>>>>,
    area: Rect,
    has_keys: bool,
}

/// Why [`WatchScreen::wait`] has returned.
pub(super) enum WatchStep {
    /// The next update is due.
    Due,
    /// The terminal has another size.
    Resized,
    /// The user leaves.
    Leave(Code),
}

impl WatchStep {
    /// The terminal is gone, of which SIGHUP may come too late, or only to another process.
    pub(super) const GONE: Self = Self::Leave(Code::Interrupted(Signal::HUP.as_raw()));
}

impl WatchScreen {
    pub(super) fn enter(printer: &Printer) -> io::Result<Self> {
        let area = area(printer);
        let backend = TermionBackend::new(BufWriter::with_capacity(BUFFER, io::stdout()));
        let terminal = ManuallyDrop::new(Terminal::with_options(backend, TerminalOptions { viewport: Viewport::Fixed(area) })?);
        let before = tcgetattr(rustix::stdio::stdin()).ok();
        let has_keys = before.is_some();
        if let Some(before) = &before {
            let mut keys = before.clone();
            keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            // A process that is stopped or killed (Ctrl-Z, Ctrl-\) would leave the other screen in place.
            keys.special_codes[SpecialCodeIndex::VSUSP] = 0;
            keys.special_codes[SpecialCodeIndex::VQUIT] = 0;
            // Reading must not wait: Ctrl-C discards keys that were not read yet.
            keys.special_codes[SpecialCodeIndex::VMIN] = 0;
            keys.special_codes[SpecialCodeIndex::VTIME] = 0;
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &keys);
        }
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        // The message of a panic would disappear with the other screen.
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            report(info);
        }));
        put(b"\x1b[?1049h\x1b[?25l");
        Ok(Self { terminal, area, has_keys })
    }

    /// Draws a frame of the size that the terminal has now.
    pub(super) fn draw(&mut self, printer: &Printer, view: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        let area = area(printer);
        if area != self.area {
            self.terminal.resize(area)?;
            self.area = area;
        }
        self.terminal.draw(view).map(drop)
    }

    /// Waits for the next update, for another size of the terminal, or for the user to leave.
    pub(super) fn wait(&self, signals: &mut Signals, until: Instant, printer: &Printer) -> WatchStep {
        loop {
            if let Some(signal) = signals.endings().first() {
                return WatchStep::Leave(Code::Interrupted(*signal));
            }
            if area(printer) != self.area {
                return WatchStep::Resized;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return WatchStep::Due;
            }
            let stdin = rustix::stdio::stdin();
            let mut fds = vec![PollFd::new(&*signals, PollFlags::IN)];
            if self.has_keys {
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
            let _ = poll(&mut fds, Some(&timespec(left.min(RESIZED))));
            let mut key = [0; 16];
            let keys = fds.get(1).map_or(PollFlags::empty(), |fd| fd.revents());
            if !keys.is_empty() {
                match rustix::io::read(stdin, &mut key) {
                    Ok(0) if !keys.intersects(PollFlags::HUP | PollFlags::ERR) => {}
                    // Ctrl-D is a key here.
                    Ok(0) | Err(_) => return WatchStep::GONE,
                    // Ctrl-D is not a signal.
                    Ok(n) if key[..n].iter().any(|key| matches!(key, b'q' | b'Q' | 4)) => return WatchStep::Leave(Code::Success),
                    Ok(_) => {}
                }
            }
        }
    }
}

impl Drop for WatchScreen {
    fn drop(&mut self) {
        restore();
    }
}

fn area(printer: &Printer) -> Rect {
    let (columns, rows) = printer.size().unwrap_or((80, 24));
    let cells = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    Rect::new(0, 0, cells(columns), cells(rows))
}

/// Brings the screen of before back, once.
fn restore() {
    let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    put(b"\x1b[?25h\x1b[?1049l");
    if let Some(before) = &before {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
    }
}

/// Writes to the terminal; if it is gone, there is nothing to restore.
fn put(bytes: &[u8]) {
    let _ = rustix::io::write(rustix::stdio::stdout(), bytes);
}
