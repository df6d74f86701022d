//! Normalizes a server's responses before the client parses them. Owns the buffer between the socket and the client.
//!
//! The IMAP parsers in Rust (imap-proto, used by imap and async-imap; imap-codec) are strict, and one malformed line ends the
//! session: a keyword in Latin-1 or in quotes, a tab in LIST, two spaces in CAPABILITY. Real servers send such lines. But they
//! frame responses (lines and literals) correctly, so this module relies only on framing. A response that imap-proto can parse
//! is passed on unchanged. From other responses, the required parts are rewritten in strict form and the rest is dropped. So a
//! malformed line affects only itself, not its folder.

use super::utf7;
use imap_proto::parser::parse_response;
use package_support::charset;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};

/// Keywords that are not valid atoms are passed through the client in hexadecimal.
const ODD_KEYWORD: &str = "x-odd-keyword-";

/// A stream of responses that the client can parse.
pub(crate) struct Tolerant<S: Read> {
    stream: BufReader<S>,
    answer: Vec<u8>,
    /// Number of bytes already returned.
    read: usize,
    /// Whether the server has sent a response of IMAP. Before that, other bytes mean that it is another kind of server.
    speaks_imap: bool,
    /// Folder names as passed to the client, and as spelled by the server, both quoted.
    spellings: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Returns the keyword of a flag.
pub(super) fn keyword(flag: &str) -> String {
    let hex = flag.strip_prefix(ODD_KEYWORD).unwrap_or_default();
    let digits = hex.as_bytes().chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    match digits.collect::<Option<Vec<u8>>>() {
        Some(bytes) if !bytes.is_empty() => charset::guess(&bytes),
        _ => flag.to_owned(),
    }
}

impl<S: Read> Tolerant<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream), answer: Vec::new(), read: 0, speaks_imap: false, spellings: BTreeMap::new() }
    }

    /// Reads the next response, including literals. Empty at the end of the stream.
    fn next(&mut self) -> io::Result<()> {
        self.read = 0;
        self.answer.clear();
        loop {
            let start = self.answer.len();
            self.stream.read_until(b'\n', &mut self.answer)?;
            let line = &self.answer[start..];
            if start == 0 && !may_have_literals(line) {
                break;
            }
            let Some(size) = literal(line) else { break };
            self.stream.by_ref().take(size).read_to_end(&mut self.answer)?;
        }
        if self.answer.ends_with(b"\n") {
            if is_valid(&self.answer) {
                self.speaks_imap = true;
            } else {
                let (answer, spelling) = rewritten(&self.answer, self.speaks_imap);
                self.answer = answer;
                self.spellings.extend(spelling);
            }
        }
        Ok(())
    }
}

impl<S: Read> Read for Tolerant<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.answer.len() {
            self.next()?;
            // Dropped completely, or the end of the stream.
            if self.answer.is_empty() && self.stream.fill_buf()?.is_empty() {
                return Ok(0);
            }
        }
        let n = buffer.len().min(self.answer.len() - self.read);
        buffer[..n].copy_from_slice(&self.answer[self.read..self.read + n]);
        self.read += n;
        Ok(n)
    }
}

impl<S: Read + Write> Write for Tolerant<S> {
    /// The client writes complete commands. Replaces a folder's name with the server's spelling.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let found = self.spellings.iter().find_map(|(ours, theirs)| {
            let at = bytes.windows(ours.len()).position(|window| window == ours)?;
            Some([&bytes[..at], theirs, &bytes[at + ours.len()..]].concat())
        });
        self.stream.get_mut().write_all(found.as_deref().unwrap_or(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.get_mut().flush()
    }
}

/// Human-readable responses may end like a literal.
fn may_have_literals(line: &[u8]) -> bool {
    line.starts_with(b"* ")
        && !["OK", "NO", "BAD", "BYE", "PREAUTH"].iter().any(|status| {
            line.get(2..2 + status.len()).is_some_and(|word| word.eq_ignore_ascii_case(status.as_bytes()))
                && line.get(2 + status.len()).is_none_or(u8::is_ascii_whitespace)
        })
}

/// Returns the size of the literal that a line announces.
fn literal(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line).strip_suffix(b"}")?;
    let at = line.iter().rposition(|&b| b == b'{')?;
    std::str::from_utf8(&line[at + 1..]).ok()?.trim_end_matches('+').parse().ok()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    Open,
    Close,
    Atom(&'a [u8]),
    /// A quoted string or a literal.
    Text(Vec<u8>),
}

/// Splits a response into tokens, whatever their characters are.
fn tokens(answer: &[u8]) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = answer;
    while let Some((&byte, tail)) = rest.split_first() {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => rest = tail,
            b'(' | b')' => {
                tokens.push(if byte == b'(' { Token::Open } else { Token::Close });
                rest = tail;
            }
            b'"' => {
                let (text, after) = quoted(tail);
                tokens.push(Token::Text(text));
                rest = after;
            }
            b'{' if let Some((text, after)) = literal_at(rest) => {
                tokens.push(Token::Text(text.to_vec()));
                rest = after;
            }
            _ => {
                let is_end = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b'(' | b')');
                let mut end = rest.iter().position(is_end).unwrap_or(rest.len());
                // `BODY[HEADER.FIELDS (DATE)]`
                if rest[..end].to_ascii_uppercase().starts_with(b"BODY[")
                    && let Some(close) = rest.iter().position(|&b| b == b']')
                {
                    end = end.max(close + 1);
                }
                tokens.push(Token::Atom(&rest[..end]));
                rest = &rest[end..];
            }
        }
    }
    tokens
}

fn quoted(rest: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut text = Vec::new();
    let mut i = 0;
    while let Some(&byte) = rest.get(i) {
        match byte {
            b'"' => return (text, &rest[i + 1..]),
            // Not closed: it ends with the line.
            b'\r' | b'\n' => break,
            b'\\' if i + 1 < rest.len() => {
                text.push(rest[i + 1]);
                i += 1;
            }
            _ => text.push(byte),
        }
        i += 1;
    }
    (text, &rest[i..])
}

fn literal_at(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = rest.iter().position(|&b| b == b'\n')?;
    let size = usize::try_from(literal(&rest[..=end])?).ok()?;
    Some((rest.get(end + 1..end + 1 + size)?, &rest[end + 1 + size..]))
}

type Spelling = Option<(Vec<u8>, Vec<u8>)>;

fn is_valid(answer: &[u8]) -> bool {
    matches!(parse_response(answer), Ok((b"", _)))
}

/// Rewrites the required parts of a response in strict form; empty if nothing is required. Lines of another protocol are unchanged until
/// the server has spoken IMAP, and dropped afterwards: empty lines, or the end of a text that is longer than the server said.
fn rewritten(answer: &[u8], speaks_imap: bool) -> (Vec<u8>, Spelling) {
    let words = tokens(answer);
    let atom = |n: usize| match words.get(n) {
        Some(Token::Atom(atom)) => atom.to_ascii_uppercase(),
        _ => Vec::new(),
    };
    let (first, second, third) = (atom(0), atom(1), atom(2));
    let status = |word: &[u8]| [&b"OK"[..], b"NO", b"BAD", b"BYE", b"PREAUTH"].contains(&word);
    if first == b"+" {
        return (answer.to_vec(), None);
    }
    if first != b"*" {
        // The end of a command with an invalid human-readable text. The first word is the tag.
        let is_tag = matches!(words.first(), Some(Token::Atom(tag)) if tag.iter().all(u8::is_ascii_alphanumeric));
        if !is_tag || !status(&second) {
            return (if speaks_imap { Vec::new() } else { answer.to_vec() }, None);
        }
        return (sentence(answer, &words[..2]), None);
    }
    let atoms = words[1..].iter().filter_map(|token| if let Token::Atom(atom) = token { Some(*atom) } else { None });
    let (strict, spelling) = match (second.as_slice(), third.as_slice()) {
        (word, _) if status(word) => (sentence(answer, &words[..2]), None),
        (b"CAPABILITY", _) => {
            let atoms: Vec<&[u8]> = atoms.filter(|atom| atom.iter().all(u8::is_ascii_graphic)).collect();
            ([b"* ", atoms.join(&b' ').as_slice(), b"\r\n"].concat(), None)
        }
        (b"SEARCH", _) => {
            let numbers = atoms.skip(1).flat_map(|atom| atom.split(|&b| b == b','));
            let is_number = |number: &&[u8]| std::str::from_utf8(number).is_ok_and(|text| text.parse::<u32>().is_ok());
            let parts: Vec<&[u8]> = std::iter::once(&b"* SEARCH"[..]).chain(numbers.filter(is_number)).collect();
            ([parts.join(&b' ').as_slice(), b"\r\n"].concat(), None)
        }
        (b"LIST", _) => list(&words[2..]).unwrap_or_default(),
        (number, b"FETCH") if number.iter().all(u8::is_ascii_digit) => {
            ([b"* ", number, b" FETCH (", &items(&words[3..]), b")\r\n"].concat(), None)
        }
        (number, b"EXISTS" | b"RECENT" | b"EXPUNGE") => ([b"* ", number, b" ", &third, b"\r\n"].concat(), None),
        // `FLAGS`, and unsolicited responses.
        _ => (Vec::new(), None),
    };
    if is_valid(&strict) { (strict, spelling) } else { (Vec::new(), None) }
}

/// Tag, status, and the human-readable text in ASCII.
fn sentence(answer: &[u8], start: &[Token<'_>]) -> Vec<u8> {
    let mut sentence = Vec::new();
    for token in start {
        if let Token::Atom(atom) = token {
            sentence.extend_from_slice(atom);
            sentence.push(b' ');
        }
    }
    let words = answer.splitn(3, |b| matches!(b, b' ' | b'\t')).nth(2).unwrap_or_default();
    let readable = |&b: &u8| if b.is_ascii_graphic() { b } else { b' ' };
    // Drop the brackets of a response code that could not be parsed.
    sentence.extend(words.trim_ascii().iter().map(readable).map(|b| if b == b'[' { b'(' } else { b }));
    sentence.extend_from_slice(b".\r\n");
    sentence
}

/// Parses `(attributes) delimiter name`.
fn list(words: &[Token<'_>]) -> Option<(Vec<u8>, Spelling)> {
    let close = words.iter().position(|word| *word == Token::Close)?;
    let attributes = words[..close].iter().filter_map(|word| match word {
        Token::Atom(atom) if atom.iter().all(u8::is_ascii_graphic) => Some(*atom),
        _ => None,
    });
    let attributes = attributes.collect::<Vec<_>>().join(&b' ');
    let delimiter = match words.get(close + 1)? {
        Token::Text(text) if text.len() == 1 => quote(text),
        _ => b"NIL".to_vec(),
    };
    let name = match words.get(close + 2)? {
        Token::Atom(atom) => atom.to_vec(),
        Token::Text(text) => text.clone(),
        _ => return None,
    };
    let ours = quote(&ascii(&name));
    let answer = [b"* LIST (", attributes.as_slice(), b") ", &delimiter, b" ", &ours, b"\r\n"].concat();
    let theirs = quote(&name);
    Some((answer, (ours != theirs).then_some((ours, theirs))))
}

/// Returns the requested items of a message that can be parsed.
fn items(words: &[Token<'_>]) -> Vec<u8> {
    let mut items: Vec<Vec<u8>> = Vec::new();
    let mut words = words.iter().skip_while(|word| **word == Token::Open).peekable();
    while let Some(word) = words.next() {
        let Token::Atom(name) = word else { continue };
        let name = name.to_ascii_uppercase();
        let mut values: Vec<&Token<'_>> = Vec::new();
        if words.next_if(|word| **word == Token::Open).is_some() {
            let mut depth = 1;
            for word in words.by_ref() {
                depth = match word {
                    Token::Open => depth + 1,
                    Token::Close => depth - 1,
                    _ => depth,
                };
                if depth == 0 {
                    break;
                }
                values.push(word);
            }
        } else {
            values.extend(words.next_if(|word| **word != Token::Close));
        }
        let strict = match (name.as_slice(), values.first()) {
            (b"UID" | b"RFC822.SIZE", Some(Token::Atom(number))) if number.iter().all(u8::is_ascii_digit) => number.to_vec(),
            (b"INTERNALDATE", Some(Token::Text(date))) if date.iter().all(u8::is_ascii) => quote(date),
            (b"FLAGS", _) => {
                [b"(", values.iter().filter_map(|flag| strict_flag(flag)).collect::<Vec<_>>().join(&b' ').as_slice(), b")"]
                    .concat()
            }
            (b"X-GM-LABELS", _) => {
                let labels = values.iter().filter_map(|label| match label {
                    Token::Atom(label) => Some(quote(&ascii(label))),
                    Token::Text(label) => Some(quote(&ascii(label))),
                    _ => None,
                });
                [b"(", labels.collect::<Vec<_>>().join(&b' ').as_slice(), b")"].concat()
            }
            (body, Some(Token::Text(text))) if body.starts_with(b"BODY[") => {
                [format!("{{{}}}\r\n", text.len()).as_bytes(), text].concat()
            }
            (body, Some(Token::Atom(b"NIL"))) if body.starts_with(b"BODY[") => b"NIL".to_vec(),
            _ => continue,
        };
        items.push([name.as_slice(), b" ", &strict].concat());
    }
    items.join(&b' ')
}

/// A system flag or a keyword; one that is not a valid atom in hexadecimal.
fn strict_flag(flag: &Token<'_>) -> Option<Vec<u8>> {
    let flag: &[u8] = match flag {
        Token::Atom(flag) => flag,
        Token::Text(flag) => flag,
        _ => return None,
    };
    let name = flag.strip_prefix(b"\\").unwrap_or(flag);
    let is_atom = |b: &u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'$' | b'_' | b'-' | b'.' | b'/' | b':' | b'+' | b'!' | b'\'' | b'&' | b'=')
    };
    if name.is_empty() {
        None
    } else if name.iter().all(is_atom) {
        Some(flag.to_vec())
    } else {
        let hex: String = flag.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("{ODD_KEYWORD}{hex}").into_bytes())
    }
}

/// Encodes text that should be modified UTF-7 but is not.
fn ascii(text: &[u8]) -> Vec<u8> {
    if text.iter().all(|b| (0x20..0x7f).contains(b)) { text.to_vec() } else { utf7::encode(&charset::guess(text)).into_bytes() }
}

fn quote(text: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for &byte in text {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(byte);
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answers: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        Tolerant::new(answers).read_to_end(&mut text).unwrap();
        text
    }

    #[test]
    fn valid_responses_are_unchanged() {
        for answer in [
            "* 3 EXISTS\r\n",
            "* LIST (\\HasNoChildren) \"/\" \"INBOX\"\r\n",
            "* 1 FETCH (UID 3 FLAGS (\\Seen) BODY[] {4}\r\n) \r\n)\r\n",
            "a1 OK [READ-ONLY] done {5}\r\n",
            "+ go on\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
        ] {
            assert_eq!(String::from_utf8(read(answer.as_bytes())).unwrap(), answer);
        }
    }

    #[test]
    fn invalid_responses_are_rewritten() {
        for (answer, expected) in [
            (&b"* CAPABILITY IMAP4rev1  AUTH=XOAUTH2 \xff \r\n"[..], "* CAPABILITY IMAP4rev1 AUTH=XOAUTH2\r\n"),
            (b"* SEARCH  3 4 \r\n", "* SEARCH 3 4\r\n"),
            (b"* SEARCH 1,2 x\r\n", "* SEARCH 1 2\r\n"),
            (b"* SEARCH x\r\n", "* SEARCH\r\n"),
            (b"* 99999999999 EXISTS\r\n* 2 EXISTS\r\n", "* 2 EXISTS\r\n"),
            (b"* FLAGS (\\Seen Caf\xc3\xa9)\r\n* 3 EXISTS\r\n", "* 3 EXISTS\r\n"),
            (b"* LIST (\\HasNoChildren)\t\"/\"\t\"Entw\xfcrfe\"\r\n", "* LIST (\\HasNoChildren) \"/\" \"Entw&APw-rfe\"\r\n"),
            (b"* 1 FETCH (FLAGS (\\Seen Caf\xe9) UID 3)\r\n", "* 1 FETCH (FLAGS (\\Seen x-odd-keyword-436166e9) UID 3)\r\n"),
            (
                b"* 1 FETCH (UID 3 FLAGS (\"Important!\" \"a b\") X-GM-LABELS ({4}\r\nW\xf6rk) BODY[] {5}\r\n) \"\r\n)\r\n",
                "* 1 FETCH (UID 3 FLAGS (Important! x-odd-keyword-612062) X-GM-LABELS (\"W&APY-rk\") BODY[] {5}\r\n) \"\r\n)\r\n",
            ),
            (b"* 1 FETCH (UID 3 RFC822.SIZE many)\r\n", "* 1 FETCH (UID 3)\r\n"),
            (b"* 1 FETCH ((((\r\n* 2 EXISTS\r\n", "* 2 EXISTS\r\n"),
        ] {
            let text = String::from_utf8(read(answer)).unwrap();
            assert_eq!(text, expected, "{}", String::from_utf8_lossy(answer));
            assert!(matches!(parse_response(text.as_bytes()), Ok((b"", _))), "{text}");
        }
        assert_eq!((keyword("x-odd-keyword-436166e9"), keyword("$Work")), ("Café".into(), "$Work".into()));
    }

    /// Noise in the middle of a session does not end it; a server of another protocol is not mistaken for a silent one.
    #[test]
    fn lines_of_no_response_are_dropped_once_the_server_has_spoken_imap() {
        assert_eq!(read(b"* OK hi\r\n\r\nend of a text\r\n)\r\na1 OK done\r\n"), b"* OK hi\r\na1 OK done\r\n");
        assert_eq!(read(b"HTTP/1.1 400 Bad Request\r\n"), b"HTTP/1.1 400 Bad Request\r\n");
    }

    #[test]
    fn any_bytes_terminate() {
        let pieces = [
            &b"* "[..],
            b"1 ",
            b"FETCH ",
            b"(",
            b")",
            b"UID ",
            b"FLAGS ",
            b"BODY[",
            b"]",
            b"{3}\r\n",
            b"\"",
            b"\\",
            b"\xff",
            b"\r\n",
            b"LIST ",
        ];
        for seed in 0..3000_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut bytes = b"* ".to_vec();
            for _ in 0..20 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                bytes.extend_from_slice(pieces[(random % pieces.len() as u64) as usize]);
            }
            let _ = read(&bytes);
        }
    }
}
