//! The only place that prints. Data on standard output; everything else on standard error.
//!
//! Colour only where a terminal reads it and NO_COLOR is not set. A reader that has gone away (`| head`) ends the output
//! quietly; any other error of standard output is a failure, so that a full disk behind `>` does not look like success.
//! Standard error is best effort ([`crate::stream`]): whatever becomes of it, the command goes on and keeps its exit code.

use crate::exit::Code;
use crate::failure::CommandError;
use crate::stream::{BestEffort, Limited, STDERR};
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use lorchestra_core::text::{escaped, shortened};
use std::fmt::{self, Display};
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

/// How success looks where there is colour.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// How a failure looks where there is colour.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// How a warning looks where there is colour.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default();

/// Standard output, buffered, and standard error.
pub(crate) struct Printer {
    out: BufWriter<AutoStream<Box<dyn Write>>>,
    err_color: ColorChoice,
    broken: Option<io::Error>,
}

impl Printer {
    pub(crate) fn new() -> Self {
        Self { out: out(Box::new(io::stdout())), err_color: AutoStream::choice(&io::stderr()), broken: None }
    }

    /// From now on nobody who does not read standard output holds up the command: after a few seconds that is an error of it. For a run,
    /// which has things to do after it has printed its outcome.
    pub(crate) fn limit_waiting(&mut self) {
        self.flush();
        self.out = out(Box::new(Limited));
    }

    /// A line of data.
    pub(crate) fn line(&mut self, text: impl Display) {
        let result = writeln!(self.out, "{text}");
        self.keep(result);
    }

    /// Bytes of data, as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        // Past the colour filter: these are somebody else's bytes.
        let result = self.out.flush().and_then(|()| io::stdout().write_all(bytes));
        self.keep(result);
    }

    /// A value as one line of JSON.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => self.line(text),
            Err(e) => self.keep(Err(e.into())),
        }
    }

    /// `✓ text`
    pub(crate) fn good(&mut self, text: impl Display) {
        self.line(format_args!("{GOOD}✓{GOOD:#} {text}"));
    }

    /// `✗ text` on standard error.
    pub(crate) fn bad(&mut self, text: impl Display) {
        self.flush();
        self.err(format_args!("{BAD}✗{BAD:#} {}\n", lines(text)));
    }

    /// A line on standard error.
    pub(crate) fn note(&mut self, text: impl Display) {
        self.flush();
        self.err(format_args!("{}\n", lines(text)));
    }

    /// `warning: text` on standard error.
    pub(crate) fn warning(&mut self, text: impl Display) {
        self.flush();
        self.err(format_args!("{WARNING}warning:{WARNING:#} {}\n", lines(text)));
    }

    /// What went wrong, and the hint below it. Each is a line, whatever was typed into it.
    pub(crate) fn failure(&mut self, failure: &CommandError) {
        self.flush();
        let message = line(&failure.message);
        // Unknown package and job keep the words of the tool before this one, without a prefix.
        let prefix = if failure.bare { String::new() } else { format!("{BAD}error:{BAD:#} ") };
        let hints: String = failure.hints.iter().map(|line| format!("  {}\n", shortened(&escaped(line), COMMAND))).collect();
        self.err(format_args!("{prefix}{message}\n{hints}"));
    }

    /// How a command ended; what went wrong is printed.
    pub(crate) fn ended(&mut self, result: Result<Code, CommandError>) -> Code {
        result.unwrap_or_else(|failure| {
            self.failure(&failure);
            failure.code
        })
    }

    /// What clap has to say: help and version are data, anything else is bad usage.
    pub(crate) fn clap(&mut self, error: &clap::Error) -> Code {
        let text = error.render();
        if error.use_stderr() {
            self.flush();
            self.err(format_args!("{}", text.ansi()));
            Code::Usage
        } else {
            let result = write!(self.out, "{}", text.ansi());
            self.keep(result);
            Code::Success
        }
    }

    /// Columns of the terminal that standard output is; `None` where it is something else, which takes lines of any length.
    pub(crate) fn width(&self) -> Option<usize> {
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
        // A terminal that does not know its size says 0.
        Some(if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) })
    }

    /// Whether nobody reads standard output any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Makes what was printed so far visible.
    pub(crate) fn flush(&mut self) {
        let result = self.out.flush();
        self.keep(result);
    }

    /// Everything is printed: the exit code, or another one if it was not.
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

    /// One write for the whole text: other processes may print to the same terminal.
    fn err(&self, text: fmt::Arguments<'_>) {
        let mut shown = AutoStream::new(Vec::new(), self.err_color);
        // Into memory: that cannot fail.
        let _ = shown.write_fmt(text);
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

/// Characters of a line on standard error: more than any message has, unless it repeats without end what somebody else wrote.
const LONGEST: usize = 2000;
/// Of a command to copy, which may have several paths in it: cut, it would be another command.
const COMMAND: usize = 16_000;

/// A text of lines for standard error, whatever paths and names are in it.
fn lines(text: impl Display) -> String {
    text.to_string().split('\n').map(line).collect::<Vec<_>>().join("\n")
}

fn line(text: &str) -> String {
    shortened(&escaped(text), LONGEST)
}
