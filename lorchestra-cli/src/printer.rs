//! The only place that prints. Data on standard output; everything else on standard error.
//!
//! Colour only where a terminal reads it and NO_COLOR is not set. A reader that has gone away (`| head`) ends the output
//! quietly; any other trouble with standard output is a failure, so that a full disk behind `>` does not look like success.

use crate::exit::Code;
use crate::failure::Failure;
use anstyle::{AnsiColor, Style};
use lorchestra_core::text::{escaped, shortened};
use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const WARNING: Style = AnsiColor::Yellow.on_default();

/// Standard output, buffered, and standard error.
pub(crate) struct Printer {
    out: BufWriter<anstream::AutoStream<io::Stdout>>,
    err: anstream::AutoStream<io::Stderr>,
    broken: Option<io::Error>,
}

impl Printer {
    pub(crate) fn new() -> Self {
        Self { out: BufWriter::new(anstream::stdout()), err: anstream::stderr(), broken: None }
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
        let _ = writeln!(self.err, "{BAD}✗{BAD:#} {}", lines(text));
    }

    /// A line on standard error.
    pub(crate) fn note(&mut self, text: impl Display) {
        self.flush();
        let _ = writeln!(self.err, "{}", lines(text));
    }

    /// `warning: text` on standard error.
    pub(crate) fn warning(&mut self, text: impl Display) {
        self.flush();
        let _ = writeln!(self.err, "{WARNING}warning:{WARNING:#} {}", lines(text));
    }

    /// What went wrong, and the mend below it. Each is a line, whatever was typed into it.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        self.flush();
        let message = line(&failure.message);
        // Unknown package and job keep the words of the tool before this one, without a prefix.
        let _ = match failure.bare {
            true => writeln!(self.err, "{message}"),
            false => writeln!(self.err, "{BAD}error:{BAD:#} {message}"),
        };
        for line in &failure.mends {
            // Commands to copy: never cut where that would make other commands of them.
            let _ = writeln!(self.err, "  {}", shortened(&escaped(line), COMMAND));
        }
    }

    /// How a command ended; what went wrong is printed.
    pub(crate) fn ended(&mut self, result: Result<Code, Failure>) -> Code {
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
            // A closed terminal is no reason for another exit code.
            let _ = write!(self.err, "{}", text.ansi());
            Code::Usage
        } else {
            let result = write!(self.out, "{}", text.ansi());
            self.keep(result);
            Code::Success
        }
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
        match self.broken {
            Some(e) if e.kind() != io::ErrorKind::BrokenPipe && code == Code::Success => {
                let _ = writeln!(self.err, "{BAD}error:{BAD:#} standard output could not be written: {e}");
                Code::NotWritable.into()
            }
            _ => code.into(),
        }
    }

    fn keep(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && self.broken.is_none()
        {
            self.broken = Some(error);
        }
    }
}

/// Characters of a line on standard error: more than any message has, unless it repeats without end what somebody else wrote.
const LONGEST: usize = 2000;
/// Of a command to copy, which may have several paths in it.
const COMMAND: usize = 16_000;

/// A text of lines for standard error, whatever paths and names are in it.
fn lines(text: impl Display) -> String {
    text.to_string().split('\n').map(line).collect::<Vec<_>>().join("\n")
}

fn line(text: &str) -> String {
    shortened(&escaped(text), LONGEST)
}
