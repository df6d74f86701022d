//! An mbox file, read as a stream, in the mboxrd dialect of Google Takeout.
//!
//! - A message starts after a separator line `From sender date`. Takeout writes `From 1754173012221210512@xxx Thu Jan 05
//!   09:09:08 +0000 2023`. Usually an empty line precedes it; without one it counts if a header field follows.
//! - A line `From …` without a date is text, as programs write it that do not quote. Only in a file whose first separator has no
//!   date, it is a separator after an empty line.
//! - What has only some of these signs is a [`Suspect`]: a separator that was damaged, or text that looks like one.
//! - One `>` is removed from lines `>From …`, `>>From …`.
//! - The empty line before the next separator or before the end of the file is not part of the message.
//! - Lines end in LF or CRLF, possibly mixed, and keep their line endings.
//!
//! mail-parser's mailbox reader is not used: it reads messages of any size into memory, splits at every `From `, and does not
//! provide offsets.

use super::{Entry, Fault, MAX_MESSAGE, Place, SourceError};
use lorchestra_plugin_api::chrono::{DateTime, NaiveDateTime, Utc};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Maximum length of a line that is read at once. A line may be as long as a message, or longer.
const CHUNK: u64 = 64 << 10;

/// A reader positioned at a separator line or at the end.
pub(crate) struct Mbox<R> {
    path: PathBuf,
    reader: BufReader<R>,
    /// Offset of the chunk.
    offset: u64,
    /// The separator before the next message.
    separator: Option<Separator>,
    /// Whether the first separator has a date.
    is_dated: bool,
    chunk: Vec<u8>,
    /// The chunk after it, if that was needed to judge it.
    ahead: Option<Vec<u8>>,
    suspects: Vec<Suspect>,
    max_message: usize,
}

/// A line that has only some signs of a separator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Suspect {
    pub(crate) offset: u64,
    /// The missing sign: `no_empty_line` before it, or `no_date`.
    pub(crate) missing: &'static str,
    /// Whether a message starts after it.
    pub(crate) is_separator: bool,
}

struct Separator {
    offset: u64,
    received: Option<DateTime<Utc>>,
}

impl<R: Read> Mbox<R> {
    /// Reads up to the first message.
    pub(crate) fn open(path: &Path, reader: R) -> Result<Self, SourceError> {
        Self::with(path, BufReader::with_capacity(256 << 10, reader), MAX_MESSAGE)
    }

    fn with(path: &Path, reader: BufReader<R>, max_message: usize) -> Result<Self, SourceError> {
        let mut mbox = Self {
            path: path.to_owned(),
            reader,
            offset: 0,
            separator: None,
            is_dated: false,
            chunk: Vec::new(),
            ahead: None,
            suspects: Vec::new(),
            max_message,
        };
        let not_an_mbox = |looks, wanted| Err(SourceError::NotAnMbox { path: path.to_owned(), looks, wanted });
        mbox.read_chunk()?;
        match mbox.chunk.as_slice() {
            [] => Err(SourceError::Empty { path: path.to_owned() }),
            line if has_bare_cr(line) => {
                not_an_mbox("a file with CR line endings", "a copy whose lines end in LF: tr '\\r' '\\n' <old >new")
            }
            line if line.starts_with(b"From ") => {
                mbox.is_dated = has_date(line);
                mbox.separator = Some(mbox.take_separator()?);
                Ok(mbox)
            }
            line if line.starts_with(b"PK\x03\x04") => not_an_mbox("a zip archive", "the mbox file inside it"),
            line if line.starts_with(b"\x1f\x8b") => not_an_mbox("a gzip archive", "the mbox file inside it"),
            _ => not_an_mbox("not an mbox file: its first line does not start with `From `", "an mbox file or a Maildir"),
        }
    }

    /// Returns the next message, see [`Source::next`](super::Source::next).
    pub(crate) fn next(&mut self, raw: &mut Vec<u8>) -> Result<Option<Entry>, SourceError> {
        raw.clear();
        let Some(Separator { offset, received }) = self.separator.take() else { return Ok(None) };
        let mut at_line_start = true;
        // The previous line with its line ending, if it was empty: it belongs to the separator if one follows.
        let mut empty_line: &[u8] = b"";
        let mut too_large = false;
        loop {
            self.read_chunk()?;
            if self.chunk.is_empty() {
                break;
            }
            if at_line_start && self.chunk.starts_with(b"From ") && self.is_separator(!empty_line.is_empty())? {
                self.separator = Some(self.take_separator()?);
                break;
            }
            let line = if at_line_start { unquoted(&self.chunk) } else { &self.chunk };
            // The empty line at the end is removed again, so it is not counted.
            if raw.len() + line.len() > self.max_message + 2 {
                too_large = true;
            }
            if too_large {
                raw.clear();
                raw.shrink_to(CHUNK as usize);
            } else {
                raw.extend_from_slice(line);
            }
            empty_line = match line {
                b"\n" if at_line_start => b"\n",
                b"\r\n" if at_line_start => b"\r\n",
                _ => b"",
            };
            at_line_start = self.chunk.ends_with(b"\n");
        }
        if !too_large {
            raw.truncate(raw.len() - empty_line.len());
            too_large = raw.len() > self.max_message;
        }
        let fault = if too_large {
            raw.clear();
            Some(Fault::TooLarge)
        } else {
            raw.is_empty().then_some(Fault::Empty)
        };
        Ok(Some(Entry { place: Place::Offset(offset), received, flags: None, labels: None, is_whole: true, fault }))
    }

    /// Returns the suspects since the last call.
    pub(crate) fn take_suspects(&mut self) -> Vec<Suspect> {
        std::mem::take(&mut self.suspects)
    }

    /// Judges a chunk that starts with `From `.
    fn is_separator(&mut self, is_after_empty_line: bool) -> Result<bool, SourceError> {
        let is_dated = has_date(&self.chunk);
        let missing = match (is_after_empty_line, is_dated) {
            (true, true) => return Ok(true),
            (true, false) if !self.is_dated => return Ok(true),
            (true, false) => "no_date",
            (false, true) => "no_empty_line",
            (false, false) => return Ok(false),
        };
        // A header field after it is the other sign. Without it, the line is part of the text.
        if !self.chunk.ends_with(b"\n") || !starts_with_field(self.peek()?) {
            return Ok(false);
        }
        self.suspects.push(Suspect { offset: self.offset, missing, is_separator: is_dated });
        Ok(is_dated)
    }

    /// Parses the chunk as a separator, and skips the rest of its line.
    fn take_separator(&mut self) -> Result<Separator, SourceError> {
        let (offset, received) = (self.offset, received(&self.chunk));
        while !self.chunk.is_empty() && !self.chunk.ends_with(b"\n") {
            self.read_chunk()?;
        }
        Ok(Separator { offset, received })
    }

    /// Reads a line, or as much of it as fits. Empty at the end of the file.
    fn read_chunk(&mut self) -> Result<(), SourceError> {
        self.offset += self.chunk.len() as u64;
        if let Some(ahead) = self.ahead.take() {
            self.chunk = ahead;
            return Ok(());
        }
        self.chunk.clear();
        let read = self.reader.by_ref().take(CHUNK).read_until(b'\n', &mut self.chunk);
        read.map(drop).map_err(|source| self.read_error(source))
    }

    /// Returns the chunk after the current one.
    fn peek(&mut self) -> Result<&[u8], SourceError> {
        if self.ahead.is_none() {
            let mut ahead = Vec::new();
            let read = self.reader.by_ref().take(CHUNK).read_until(b'\n', &mut ahead);
            read.map_err(|source| self.read_error(source))?;
            self.ahead = Some(ahead);
        }
        Ok(self.ahead.as_deref().unwrap_or_default())
    }

    fn read_error(&self, source: io::Error) -> SourceError {
        SourceError::Read { path: self.path.clone(), at: format!("byte {}", self.offset), source }
    }
}

/// Returns whether a line contains a date as in a separator: `Thu Jan 05 09:09:08 +0000 2023`, with or without seconds and zone,
/// the zone before or after the year. Not how the sender is written: some write `-`, `???@???`, or a name with blanks.
fn has_date(line: &[u8]) -> bool {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // A longer line is not a separator, regardless of its content.
    let Some(line) = line.get(..line.len().min(1000)).filter(|_| line.len() <= 1000) else { return false };
    let text = String::from_utf8_lossy(line);
    let words: Vec<&str> = text.split_ascii_whitespace().skip(1).collect();
    let number = |word: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit())
    };
    words.windows(4).enumerate().any(|(at, four)| {
        let [day, month, of_month, time] = four else { return false };
        let parts: Vec<&str> = time.split(':').collect();
        DAYS.contains(day)
            && MONTHS.contains(month)
            && number(of_month, 1..=2)
            && (2..=3).contains(&parts.len())
            && parts.iter().all(|part| number(part, 1..=2))
            && words[at + 4..].iter().take(3).any(|word| number(word, 4..=4))
    })
}

/// Returns whether a line is the start of a header field, also of a quoted one as some programs write first.
fn starts_with_field(line: &[u8]) -> bool {
    let name = line.iter().take(80).position(|&byte| byte == b':').map(|end| &line[..end]);
    name.is_some_and(|name| !name.is_empty() && name.iter().all(|byte| matches!(byte, 33..=126)))
}

/// Returns whether there is a CR before the end of the line. A file with CR line endings would look like one line, and so like
/// one empty message.
fn has_bare_cr(line: &[u8]) -> bool {
    line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line)).contains(&b'\r')
}

/// Returns a line without the `>` that escapes `From `.
fn unquoted(line: &[u8]) -> &[u8] {
    let quotes = line.iter().take_while(|&&b| b == b'>').count();
    if quotes > 0 && line[quotes..].starts_with(b"From ") { &line[1..] } else { line }
}

/// Parses the date of a separator line: `From id@xxx Thu Jan 05 09:09:08 +0000 2023`, or without a zone, which means UTC.
fn received(line: &[u8]) -> Option<DateTime<Utc>> {
    let line = std::str::from_utf8(line).ok()?;
    let words: Vec<&str> = line.split_ascii_whitespace().skip(2).collect();
    let text = words.join(" ");
    DateTime::parse_from_str(&text, "%a %b %d %H:%M:%S %z %Y")
        .map(|at| at.to_utc())
        .or_else(|_| NaiveDateTime::parse_from_str(&text, "%a %b %d %H:%M:%S %Y").map(|at| at.and_utc()))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mbox<R: Read>(reader: R, buffer: usize) -> Mbox<R> {
        Mbox::with(Path::new("test.mbox"), BufReader::with_capacity(buffer, reader), 10_000).unwrap()
    }

    /// Returns offset, fault and bytes of each message.
    fn all<R: Read>(mut mbox: Mbox<R>) -> Vec<(u64, Option<Fault>, Vec<u8>)> {
        let mut found = Vec::new();
        let mut raw = b"left over".to_vec();
        while let Some(entry) = mbox.next(&mut raw).unwrap() {
            let Place::Offset(offset) = entry.place else { panic!("an mbox has offsets") };
            found.push((offset, entry.fault, raw.clone()));
        }
        assert!(mbox.next(&mut raw).unwrap().is_none(), "the end is returned again");
        found
    }

    fn messages(text: &str) -> Vec<String> {
        all(mbox(text.as_bytes(), 4096)).into_iter().map(|(_, _, raw)| String::from_utf8(raw).unwrap()).collect()
    }

    #[test]
    fn only_the_separator_and_its_empty_line_are_removed() {
        assert_eq!(
            messages("From a\nA: 1\n\nbody\n\nFrom b\nB: 2\n\n\n\nFrom c\nC: 3"),
            ["A: 1\n\nbody\n", "B: 2\n\n\n", "C: 3"]
        );
        assert_eq!(messages("From a\r\nA: 1\r\n\r\nbody\r\n\r\nFrom b\r\nB: 2\r\n\r\n"), ["A: 1\r\n\r\nbody\r\n", "B: 2\r\n"]);
    }

    #[test]
    fn the_last_message_is_the_same_with_and_without_the_files_last_empty_line() {
        let with = messages("From a\nA: 1\n\nbody\n\n");
        assert_eq!(with, messages("From a\nA: 1\n\nbody\n"));
        assert_eq!(with, messages("From a\nA: 1\n\nbody\n\nFrom b\nB\n")[..1]);
    }

    #[test]
    fn from_is_a_separator_only_after_an_empty_line() {
        let text = "From a\nSubject: x\nFrom me\n\nHello\nFrom here on\n > From\n\nfrom below\n\nFROM x\n\nFromage\n";
        assert_eq!(messages(text).len(), 1);
        assert_eq!(messages("From a\n\nFrom b\n").len(), 2, "a message may be empty");
        // A line with only a CR or spaces is not empty.
        assert_eq!(messages("From a\nx\n \nFrom b\n\r \nFrom c\n").len(), 1);
    }

    /// Sentences of people and damaged separators, in a file whose separators have dates.
    #[test]
    fn a_separator_is_recognized_by_its_form() {
        let date = "Thu Jan  5 09:09:08 2023";
        let text = format!(
            "From a {date}\nA: 1\n\nHello\n\nFrom here on it is text\nand goes on\n\nFrom b {date}\nA: 2\n\nno empty line\n\
             From c@x {date}\nA: 3\n\nI wrote:\nFrom d {date}\nwith no field\n\nFrom e\nA: 4\n\nend\n"
        );
        let mut mbox = mbox(text.as_bytes(), 7);
        let (mut raw, mut found) = (Vec::new(), Vec::new());
        while mbox.next(&mut raw).unwrap().is_some() {
            found.push(String::from_utf8(raw.clone()).unwrap());
        }
        assert_eq!(
            found,
            [
                "A: 1\n\nHello\n\nFrom here on it is text\nand goes on\n",
                "A: 2\n\nno empty line\n",
                &format!("A: 3\n\nI wrote:\nFrom d {date}\nwith no field\n\nFrom e\nA: 4\n\nend\n"),
            ]
        );
        let offset = |of: &str| text.find(of).unwrap() as u64;
        let suspects = [
            Suspect { offset: offset("From c"), missing: "no_empty_line", is_separator: true },
            Suspect { offset: offset("From e"), missing: "no_date", is_separator: false },
        ];
        assert_eq!(mbox.take_suspects(), suspects);
        assert!(mbox.take_suspects().is_empty());
    }

    #[test]
    fn dates_of_separators_in_all_their_forms() {
        for line in [
            "From 1754173012221210512@xxx Thu Jan 05 09:09:08 +0000 2023",
            "From - Tue Apr 27 19:42:01 1999",
            "From ???@??? Fri Aug 13 06:57:53 2004",
            "From anna@example.org  Mon Jan  1 10:00 2024",
            "From MAILER-DAEMON Fri Jul  8 12:08:34 EST 2011",
            "From a b c Sat Jan 01 1:02:03 2022 +0100",
            "From anna Sat Jan  1 01:02:03 2022 remote from uucp",
            "From Sat Jan  1 01:02:03 2022",
        ] {
            assert!(has_date(line.as_bytes()), "{line}");
        }
        for line in
            ["From a", "From Monday on", "From Mon Jan 5 we are here 2023", "From a Thu Jan 5 09:09:08", "From a 2023-01-05"]
        {
            assert!(!has_date(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn one_quote_is_removed() {
        let text = "From a\n>From head\n\n>From x\n>>From y\n> From z\n>from q\n>\n>>From\n>From ";
        assert_eq!(messages(text), ["From head\n\nFrom x\n>From y\n> From z\n>from q\n>\n>>From\nFrom "]);
    }

    #[test]
    fn lines_that_end_in_cr_alone_are_refused() {
        let open = |text: &str| Mbox::open(Path::new("mac.mbox"), text.as_bytes()).err().map(|error| error.to_string());
        for text in ["From a\rA: 1\r\rbody\r\rFrom b\rB: 2\r", "From a\r", "From a\rA: 1\n\nbody\n"] {
            let refused = "mac.mbox: is a file with CR line endings; \
                           set --source to a copy whose lines end in LF: tr '\\r' '\\n' <old >new";
            assert_eq!(open(text).as_deref(), Some(refused), "{text:?}");
        }
        for text in ["From a\r\nA: 1\r\n", "From a\nA: \r 1\n", "From a"] {
            assert_eq!(open(text), None, "{text:?}");
        }
    }

    #[test]
    fn offsets_are_those_of_the_separators() {
        let text = b"From a\nA\n\nFrom b\nB\n\n\nFrom c\n";
        let offsets: Vec<u64> = all(mbox(&text[..], 3)).into_iter().map(|(offset, ..)| offset).collect();
        assert_eq!(offsets, [0, 10, 21]);
        for offset in offsets {
            assert!(text[offset as usize..].starts_with(b"From "));
        }
    }

    #[test]
    fn separator_dates() {
        let at = |line: &str| received(line.as_bytes()).map(|at| at.to_rfc3339());
        assert_eq!(at("From 1@xxx Thu Jan 05 09:09:08 +0200 2023\r\n").as_deref(), Some("2023-01-05T07:09:08+00:00"));
        assert_eq!(at("From anna@example.org Thu Jan  5 09:09:08 2023\n").as_deref(), Some("2023-01-05T09:09:08+00:00"));
        assert_eq!(at("From MAILER-DAEMON\n"), None);
        assert_eq!(at("From \n"), None);
    }

    #[test]
    fn too_large_messages_are_reported_and_the_rest_is_read() {
        let text = format!("From a\n{}\n\nFrom b\n{}\n\nFrom c\nok\n", "x".repeat(10_000), "y".repeat(9_999));
        let found = all(mbox(text.as_bytes(), 64));
        let faults: Vec<_> = found.iter().map(|(_, fault, raw)| (*fault, raw.len())).collect();
        assert_eq!(faults, [(Some(Fault::TooLarge), 0), (None, 10_000), (None, 3)]);
    }

    #[test]
    fn thirty_megabytes_without_a_line_end() {
        let line = "From x ".repeat((30 << 20) / 7);
        let text = format!("From a\nSubject: long\n\n {line}");
        let mut mbox = Mbox::open(Path::new("long.mbox"), text.as_bytes()).unwrap();
        let mut raw = Vec::new();
        assert_eq!(mbox.next(&mut raw).unwrap().unwrap().fault, None);
        assert_eq!(raw.len(), text.len() - 7);
        assert!(raw == text.as_bytes()[7..], "the bytes are the same");
        assert!(mbox.chunk.capacity() <= 4 * CHUNK as usize, "a line is never held in memory in addition to the message");
    }

    #[test]
    fn a_piece_of_a_long_line_is_not_a_line() {
        let filler = "x".repeat(CHUNK as usize);
        for rest in ["From b\n", ">From b\n", "\nFrom b\n", "\r\nFrom b\n"] {
            let text = format!("From a\nA: 1\n\n{filler}{rest}");
            let mut mbox = Mbox::open(Path::new("long.mbox"), text.as_bytes()).unwrap();
            let mut raw = Vec::new();
            mbox.next(&mut raw).unwrap().unwrap();
            assert!(raw == text.as_bytes()[7..], "changed: {rest:?}");
            assert!(mbox.next(&mut raw).unwrap().is_none(), "split: {rest:?}");
        }
    }

    /// Returns pieces of random lengths, with interruptions in between.
    struct Ragged<'a> {
        rest: &'a [u8],
        random: u64,
    }

    impl Read for Ragged<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let random = (self.random >> 33) as usize;
            if random.is_multiple_of(5) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let n = (random % 9 + 1).min(out.len()).min(self.rest.len());
            out[..n].copy_from_slice(&self.rest[..n]);
            self.rest = &self.rest[n..];
            Ok(n)
        }
    }

    #[test]
    fn the_size_of_reads_makes_no_difference() {
        let pieces = [
            "\n",
            "\r\n",
            "From ",
            "From a\n",
            "From x Thu Jan  5 09:09:08 2023\n",
            "A: 1\n",
            ">",
            ">From ",
            "x",
            "\r",
            "From",
            "\n\n",
            " ",
            "\0",
        ];
        for seed in 0..400_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut text = "From first\n".to_owned();
            for _ in 0..60 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                text.push_str(pieces[(random % pieces.len() as u64) as usize]);
            }
            let whole = all(mbox(text.as_bytes(), 1 << 16));
            assert!(
                whole.iter().map(|(.., raw)| raw.len() as u64).sum::<u64>() <= text.len() as u64,
                "nothing is read twice: {text:?}"
            );
            for buffer in [1, 2, 5, 64] {
                assert_eq!(all(mbox(Ragged { rest: text.as_bytes(), random }, buffer)), whole, "seed {seed}, buffer {buffer}");
            }
        }
    }

    #[test]
    fn quoting_and_unquoting_is_the_identity() {
        for seed in 0..300_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let lines = ["From me", ">From you", "", "text", ">>From", "From ", "F", ">"];
            let originals: Vec<String> = (0..4)
                .map(|_| {
                    let mut message = "Subject: x\n".to_owned();
                    for _ in 0..6 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        message.push_str(lines[(random % lines.len() as u64) as usize]);
                        message.push('\n');
                    }
                    message
                })
                .collect();
            let mut file = String::new();
            for message in &originals {
                file.push_str("From 1@xxx Thu Jan 05 09:09:08 +0000 2023\n");
                for line in message.split_inclusive('\n') {
                    if line.trim_start_matches('>').starts_with("From ") {
                        file.push('>');
                    }
                    file.push_str(line);
                }
                file.push('\n');
            }
            assert_eq!(messages(&file), originals, "seed {seed}");
        }
    }

    #[test]
    fn a_read_error_names_the_offset() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 1 {
                    return Err(io::Error::other("disk on fire"));
                }
                out[..9].copy_from_slice(b"From a\nA\n");
                Ok(9)
            }
        }
        let error = mbox(Broken(0), 64).next(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().starts_with("test.mbox: reading failed at byte 9;"), "{error}");
        assert!(!error.is_permanent());
    }
}
