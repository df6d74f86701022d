//! What a tap writes on its standard output: lines, silence, the end. Talks to the pipe.
//!
//! A read waits a tenth of a second at most: whoever listens can look at other things in between.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, BufRead, BufReader, Read};
use std::process::ChildStdout;

/// The longest message that is taken, in bytes.
pub(crate) const MAX_LINE: u64 = 64 << 20;
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A whole line is in the buffer, without its end.
    Line,
    /// The output ends with what is in the buffer, which has no line end.
    Torn,
    /// Nothing new, or not a whole line yet.
    Nothing,
    /// The line is longer than [`MAX_LINE`].
    TooLong,
    /// There will be no more.
    End,
}

/// A tap's output.
#[derive(Debug)]
pub(crate) struct Output(BufReader<Waiting>);

impl Output {
    pub(crate) fn new(pipe: ChildStdout) -> Self {
        Self(BufReader::with_capacity(256 << 10, Waiting(pipe)))
    }

    /// The next line. After anything but [`Heard::Nothing`] the buffer is to be cleared; it gathers the line.
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Heard> {
        let room = (MAX_LINE + 1).saturating_sub(line.len() as u64);
        match self.0.by_ref().take(room).read_until(b'\n', line) {
            // What came before is in the buffer.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Heard::Nothing),
            Err(e) => Err(e),
            Ok(_) if line.ends_with(b"\n") => {
                line.pop();
                Ok(Heard::Line)
            }
            Ok(_) if line.len() as u64 > MAX_LINE => Ok(Heard::TooLong),
            Ok(_) if line.is_empty() => Ok(Heard::End),
            Ok(_) => Ok(Heard::Torn),
        }
    }
}

/// A pipe whose reads end with `WouldBlock` when nothing comes.
#[derive(Debug)]
struct Waiting(ChildStdout);

impl Read for Waiting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&WAIT)) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            // Interrupted: tried again by the reader.
            Err(e) => Err(e.into()),
            Ok(_) => self.0.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn lines_silence_and_an_end_without_a_line_end() {
        let script = "printf 'one\\n\\ntw'; read _; printf 'o\\nhalf'";
        let mut child = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = Output::new(child.stdout.take().unwrap());
        let mut line = Vec::new();
        let mut heard = Vec::new();
        loop {
            match output.next(&mut line).unwrap() {
                Heard::End => break,
                // It says nothing until it is told to go on.
                Heard::Nothing if line == b"tw" => drop(child.stdin.take()),
                Heard::Nothing => {}
                other => {
                    heard.push((other, String::from_utf8(std::mem::take(&mut line)).unwrap()));
                }
            }
        }
        child.wait().unwrap();
        let expected = [(Heard::Line, "one"), (Heard::Line, ""), (Heard::Line, "two"), (Heard::Torn, "half")];
        assert_eq!(heard, expected.map(|(heard, line)| (heard, line.to_owned())));
    }
}
