//! The only module that prints. Data goes to stdout; everything else to stderr.
//!
//! On a terminal without UTF-8, its own marks have ASCII forms ([`crate::charset`]). Uses colour only on a terminal and if NO_COLOR is not set. If the reader has gone away (`| head`), output ends silently; any other error
//! of stdout is a failure, so that a full disk behind `>` does not look like success. Stderr is best effort ([`crate::stream`]): errors
//! there affect neither the command nor its exit code.

use crate::charset;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::stream::{BestEffort, Limited, STDERR};
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use lorchestra_core::text::{escaped, shortened, shortened_inside};
use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;

/// The style of success, if colour is used.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// The style of a failure, if colour is used.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// The style of a warning, if colour is used.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default();

/// Buffered stdout, and stderr.
pub(crate) struct Printer {
    out: BufWriter<AutoStream<Box<dyn Write>>>,
    err_color: ColorChoice,
    /// Whether stdout and stderr are terminals without UTF-8.
    is_ascii: [bool; 2],
    broken: Option<io::Error>,
}

impl Printer {
    pub(crate) fn new() -> Self {
        let terminals = [io::stdout().is_terminal(), io::stderr().is_terminal()];
        let is_ascii = if terminals == [false; 2] || charset::has_utf8() { [false; 2] } else { terminals };
        Self { out: out(Box::new(io::stdout())), err_color: AutoStream::choice(&io::stderr()), is_ascii, broken: None }
    }

    /// Limits the time that a reader of stdout may block the command to a few seconds; after that it is an error of stdout. For a run,
    /// which has work to do after it has printed its outcome.
    pub(crate) fn limit_waiting(&mut self) {
        self.flush();
        self.out = out(Box::new(Limited));
    }

    /// Prints a line of data.
    pub(crate) fn line(&mut self, text: impl Display) {
        let result = if self.is_ascii[0] {
            let text = text.to_string();
            writeln!(self.out, "{}", self.own_marks(&text))
        } else {
            writeln!(self.out, "{text}")
        };
        self.keep(result);
    }

    /// Prints bytes of data, unchanged.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        // Bypasses the colour filter, because these bytes come from a job.
        let result = self.out.flush().and_then(|()| io::stdout().write_all(bytes));
        self.keep(result);
    }

    /// Prints a value as one line of JSON.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => {
                let result = writeln!(self.out, "{text}");
                self.keep(result);
            }
            Err(e) => self.keep(Err(e.into())),
        }
    }

    /// Prints `✓ text`.
    pub(crate) fn good(&mut self, text: impl Display) {
        self.line(format_args!("{GOOD}✓{GOOD:#} {text}"));
    }

    /// Prints `✗ text` on stderr.
    pub(crate) fn bad(&mut self, text: impl Display) {
        self.flush();
        self.err(format_args!("{BAD}✗{BAD:#} {}\n", lines(text)));
    }

    /// Prints a line on stderr.
    pub(crate) fn note(&mut self, text: impl Display) {
        self.flush();
        self.err(format_args!("{}\n", lines(text)));
    }

    /// Prints `warning: text` on stderr.
    pub(crate) fn warning(&mut self, text: impl Display) {
        self.flush();
        self.err(format_args!("{WARNING}warning:{WARNING:#} {}\n", lines(text)));
    }

    /// Prints an error and its hints, one line each, even if they contain typed line breaks.
    pub(crate) fn failure(&mut self, failure: &CommandError) {
        self.flush();
        // The reason is often at the end, after a value of any length.
        let message = shortened_inside(&escaped(&failure.message), LONGEST);
        // For unknown packages and jobs, the message is that of the Python tool, without a prefix.
        let prefix = if failure.bare { String::new() } else { format!("{BAD}error:{BAD:#} ") };
        let hints: String = failure.hints.iter().map(|line| format!("  {}\n", shortened(&escaped(line), COMMAND))).collect();
        self.err(format_args!("{prefix}{message}\n{hints}"));
    }

    /// Prints the error of a command, if any, and returns its exit code.
    pub(crate) fn ended(&mut self, result: Result<Code, CommandError>) -> Code {
        result.unwrap_or_else(|failure| {
            self.failure(&failure);
            failure.code
        })
    }

    /// Prints clap's output: help and version are data, anything else is a usage error.
    pub(crate) fn clap(&mut self, error: &clap::Error) -> Code {
        let text = error.render();
        if error.use_stderr() {
            self.flush();
            self.err(format_args!("{}", text.ansi()));
            Code::Usage
        } else {
            let text = text.ansi().to_string();
            let text = self.own_marks(&text).into_owned();
            let result = self.out.write_all(text.as_bytes());
            self.keep(result);
            Code::Success
        }
    }

    /// Width of the terminal if stdout is one; otherwise `None`, for lines of any length.
    pub(crate) fn width(&self) -> Option<usize> {
        self.size().map(|(columns, _)| columns)
    }

    /// Columns and rows of the terminal if stdout is one.
    pub(crate) fn size(&self) -> Option<(usize, usize)> {
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
        // A terminal that does not know its size reports 0.
        let or = |value: u16, default| if value == 0 { default } else { usize::from(value) };
        Some((or(size.ws_col, 80), or(size.ws_row, 24)))
    }

    /// Whether stdout shows colours.
    pub(crate) fn has_color(&self) -> bool {
        AutoStream::choice(&io::stdout()) != ColorChoice::Never
    }

    /// Returns a text for stdout: with ASCII forms of lorchestra's own marks, if stdout is a terminal without UTF-8.
    pub(crate) fn own_marks<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.is_ascii[0] { charset::ascii(text, self.width()) } else { text.into() }
    }

    /// Whether the reader of stdout has gone away.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Flushes the output so far.
    pub(crate) fn flush(&mut self) {
        let result = self.out.flush();
        self.keep(result);
    }

    /// Flushes everything, and returns the exit code, or another one if that failed.
    pub(crate) fn finish(mut self, code: Code) -> ExitCode {
        self.flush();
        match &self.broken {
            Some(e) if e.kind() != io::ErrorKind::BrokenPipe && code == Code::Success => {
                let text = format!("{BAD}error:{BAD:#} cannot write to stdout: {e}\n");
                self.err(format_args!("{text}"));
                Code::NotWritable.into()
            }
            _ => code.into(),
        }
    }

    /// One write for the whole text, because other processes may print to the same terminal.
    fn err(&self, text: fmt::Arguments<'_>) {
        let mut shown = AutoStream::new(Vec::new(), self.err_color);
        // Formatting into memory cannot fail.
        let _ = if self.is_ascii[1] {
            shown.write_all(charset::ascii(&text.to_string(), None).as_bytes())
        } else {
            shown.write_fmt(text)
        };
        let _ = BestEffort(&STDERR).write_all(&shown.into_inner());
    }

    fn keep(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && self.broken.is_none()
        {
            self.broken = Some(error);
        }
    }
}

fn out(writer: Box<dyn Write>) -> BufWriter<AutoStream<Box<dyn Write>>> {
    BufWriter::new(AutoStream::new(writer, AutoStream::choice(&io::stdout())))
}

/// Maximum length of a line on stderr in characters: longer than any message, unless it repeats foreign text.
const LONGEST: usize = 2000;
/// Maximum length of a command to copy, which may contain several paths. If it were cut, it would be another command.
const COMMAND: usize = 16_000;

/// Escapes and shortens each line of a text for stderr.
fn lines(text: impl Display) -> String {
    text.to_string().split('\n').map(line).collect::<Vec<_>>().join("\n")
}

fn line(text: &str) -> String {
    shortened(&escaped(text), LONGEST)
}
