//! The lines that another process writes to a pipe or socket, with pauses and the end.
//!
//! A read waits for at most a tenth of a second, so that the caller can do other checks in between.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;

/// Maximum length of a line, in bytes.
pub const MAX_LINE: u64 = 64 << 20;
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEvent {
    /// The buffer contains a complete line, without its line ending.
    Line,
    /// The output has ended, and the buffer contains the rest, without a line ending.
    Torn,
    /// Nothing new, or an incomplete line.
    Nothing,
    /// The line is longer than [`MAX_LINE`].
    TooLong,
    /// The output has ended.
    End,
}

/// The lines of a pipe or socket.
#[derive(Debug)]
pub struct Lines<R>(BufReader<Waiting<R>>);

impl<R: Read + AsFd> Lines<R> {
    /// Reads lines from this end of a pipe or socket.
    pub fn new(pipe: R) -> Self {
        Self(BufReader::with_capacity(256 << 10, Waiting(pipe)))
    }

    /// Reads the next line. After any result except [`LineEvent::Nothing`], the caller must clear the buffer.
    pub fn next(&mut self, line: &mut Vec<u8>) -> io::Result<LineEvent> {
        let room = (MAX_LINE + 1).saturating_sub(line.len() as u64);
        match self.0.by_ref().take(room).read_until(b'\n', line) {
            // Earlier bytes are in the buffer.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(LineEvent::Nothing),
            Err(e) => Err(e),
            Ok(_) if line.ends_with(b"\n") => {
                line.pop();
                Ok(LineEvent::Line)
            }
            Ok(_) if line.len() as u64 > MAX_LINE => Ok(LineEvent::TooLong),
            Ok(_) if line.is_empty() => Ok(LineEvent::End),
            Ok(_) => Ok(LineEvent::Torn),
        }
    }
}

/// A pipe whose reads return `WouldBlock` after a timeout.
#[derive(Debug)]
struct Waiting<R>(R);

impl<R: Read + AsFd> Read for Waiting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&WAIT)) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            // Interrupted: the reader retries.
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
    fn lines_pauses_and_an_end_without_a_line_end() {
        let script = "printf 'one\\n\\ntw'; read _; printf 'o\\nhalf'";
        let mut child = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = Lines::new(child.stdout.take().unwrap());
        let mut line = Vec::new();
        let mut heard = Vec::new();
        loop {
            match lines.next(&mut line).unwrap() {
                LineEvent::End => break,
                // Prints nothing until it is told to continue.
                LineEvent::Nothing if line == b"tw" => drop(child.stdin.take()),
                LineEvent::Nothing => {}
                other => {
                    heard.push((other, String::from_utf8(std::mem::take(&mut line)).unwrap()));
                }
            }
        }
        child.wait().unwrap();
        let expected = [(LineEvent::Line, "one"), (LineEvent::Line, ""), (LineEvent::Line, "two"), (LineEvent::Torn, "half")];
        assert_eq!(heard, expected.map(|(heard, line)| (heard, line.to_owned())));
    }
}
