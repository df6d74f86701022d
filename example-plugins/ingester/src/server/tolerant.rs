//! Normalizes a server's responses before the client parses them. Owns the buffer between the socket and the client.
//!
//! The IMAP parsers in Rust (imap-proto, used by imap and async-imap; imap-codec) are strict, and one malformed line ends the
//! session: a keyword in Latin-1 or in quotes, a tab in LIST, two spaces in CAPABILITY. Real servers send such lines. But they
//! frame responses (lines and literals) correctly, so this module relies only on framing. A response that imap-proto can parse
//! is passed on unchanged. From other responses, the required parts are rewritten in strict form and the rest is dropped. So a
//! malformed line affects only itself, not its folder. What is lost with it is recorded in [`Losses`].

mod losses;
mod tokens;

pub(crate) use losses::Losses;

use super::utf7;
use imap_proto::parser::parse_response;
use package_support::charset;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use tokens::{Token, literal, may_have_literals, pieces, quoted, tokens};

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
    losses: Losses,
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
    pub(crate) fn new(stream: S, losses: Losses) -> Self {
        let (answer, spellings) = (Vec::new(), BTreeMap::new());
        Self { stream: BufReader::new(stream), answer, read: 0, speaks_imap: false, spellings, losses }
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
                self.losses.note(&self.answer, &answer);
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
        (b"LIST", _) => list(answer).unwrap_or_default(),
        (number, b"FETCH") if number.iter().all(u8::is_ascii_digit) => {
            let (mut items, salvaged) = (items(&words[3..]), salvaged(answer));
            let name = |item: &[u8]| item.split(|&b| b == b' ').next().unwrap_or_default().to_vec();
            // If the tokens are not where they seem to be, neither are the flags.
            if salvaged.iter().any(|one| !items.iter().any(|item| name(item) == name(one))) {
                items = salvaged;
            }
            ([b"* ", number, b" FETCH (", items.join(&b' ').as_slice(), b")\r\n"].concat(), None)
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

/// Parses `(attributes) delimiter name`, of which only the name is required. The name is everything up to the end of the line if it has
/// no quotes.
fn list(answer: &[u8]) -> Option<(Vec<u8>, Spelling)> {
    let word = |text: &[u8]| text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    let rest = answer.strip_prefix(b"*")?.trim_ascii_start();
    let mut rest = rest[word(rest)..].trim_ascii();
    let mut attributes: Vec<&[u8]> = Vec::new();
    if let Some(after) = rest.strip_prefix(b"(") {
        // Without the closing parenthesis, they are the words that look like attributes.
        let close = after.iter().position(|&b| b == b')');
        rest = after;
        loop {
            rest = rest.trim_ascii_start();
            if rest.first().is_none_or(|&b| b == b')' || close.is_none() && b != b'\\') {
                break;
            }
            let end = rest.iter().position(|b| b.is_ascii_whitespace() || *b == b')').unwrap_or(rest.len());
            attributes.push(&rest[..end]);
            rest = &rest[end..];
        }
        rest = rest.strip_prefix(b")").unwrap_or(rest).trim_ascii_start();
    }
    attributes.retain(|attribute| attribute.iter().all(u8::is_ascii_graphic));
    let (delimiter, after) = match rest.first()? {
        b'"' => quoted(&rest[1..]),
        _ if word(rest) == 1 => (rest[..1].to_vec(), &rest[1..]),
        _ if rest[..word(rest)].eq_ignore_ascii_case(b"NIL") => (Vec::new(), &rest[3..]),
        _ => (Vec::new(), rest),
    };
    let after = after.trim_ascii();
    // `() "INBOX"` has no delimiter.
    let (delimiter, name) = if after.is_empty() && delimiter.len() > 1 {
        (Vec::new(), delimiter)
    } else {
        let name = match after.first()? {
            b'"' => quoted(&after[1..]).0,
            // The literal may end with the line break that was trimmed from the response.
            b'{' if after.contains(&b'\n') => pieces(answer).into_iter().find_map(|(_, literal)| literal)?.to_vec(),
            _ => after.split(|&b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default().to_vec(),
        };
        (delimiter, name)
    };
    let delimiter = if delimiter.len() == 1 { quote(&delimiter) } else { b"NIL".to_vec() };
    let ours = quote(&ascii(&name));
    let answer = [b"* LIST (", attributes.join(&b' ').as_slice(), b") ", &delimiter, b" ", &ours, b"\r\n"].concat();
    let theirs = quote(&name);
    Some((answer, (ours != theirs).then_some((ours, theirs))))
}

/// Returns UID and text of a message by their position in the lines: `… UID 3 …`, `… BODY[] {size}`. For responses that cannot be split
/// into tokens, such as after a quote that is not closed.
fn salvaged(answer: &[u8]) -> Vec<Vec<u8>> {
    let mut items: Vec<Vec<u8>> = Vec::new();
    for (line, literal) in pieces(answer) {
        let upper = line.to_ascii_uppercase();
        let uid = upper.windows(5).position(|window| matches!(window[0], b' ' | b'(' | b')') && &window[1..] == b"UID ");
        if let Some(at) = uid {
            let digits: Vec<u8> = upper[at + 5..].iter().copied().take_while(u8::is_ascii_digit).collect();
            let is_number = std::str::from_utf8(&digits).is_ok_and(|digits| digits.parse::<u32>().is_ok());
            items.extend(is_number.then(|| [&b"UID "[..], &digits].concat()));
        }
        let body = upper.windows(5).rposition(|window| window == b"BODY[");
        if let (Some(at), Some(text)) = (body, literal)
            && let Some(close) = upper[at..].iter().position(|&b| b == b']')
            && upper[at + close + 1..].trim_ascii_start().starts_with(b"{")
        {
            items.push([&upper[at..=at + close], format!(" {{{}}}\r\n", text.len()).as_bytes(), text].concat());
        }
    }
    items
}

/// Returns the requested items of a message that can be parsed.
fn items(words: &[Token<'_>]) -> Vec<Vec<u8>> {
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
    items
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
    use super::losses::Lost;
    use super::*;

    fn read_with_losses(answers: &[u8]) -> (Vec<u8>, Lost) {
        let (mut text, losses) = (Vec::new(), Losses::default());
        Tolerant::new(answers, losses.clone()).read_to_end(&mut text).unwrap();
        (text, losses.take())
    }

    fn read(answers: &[u8]) -> Vec<u8> {
        read_with_losses(answers).0
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

    #[test]
    fn a_folder_is_found_in_a_malformed_line() {
        for (line, expected) in [
            ("(\\HasNoChildren \\Sent \"/\" \"Sent Mail\"", "(\\HasNoChildren \\Sent) \"/\" \"Sent Mail\""),
            ("(\\HasNoChildren) \"/\" My Folder", "(\\HasNoChildren) \"/\" \"My Folder\""),
            ("() / Archive (old)", "() \"/\" \"Archive (old)\""),
            ("() \"INBOX\"", "() NIL \"INBOX\""),
            ("() nil\tA B", "() NIL \"A B\""),
            ("(\\A\u{e9}) \"/\" {3}\r\na b", "() \"/\" \"a b\""),
            ("\"/\" \"no attributes", "() \"/\" \"no attributes\""),
        ] {
            let (text, lost) = read_with_losses(format!("* LIST {line}\r\n").as_bytes());
            assert_eq!(String::from_utf8(text).unwrap(), format!("* LIST {expected}\r\n"), "{line}");
            assert_eq!(lost, Lost::default());
        }
        for line in ["* LIST", "* LIST ()", "* LIST () \"/\"", "* LIST (\\Sent \u{1}"] {
            let (text, lost) = read_with_losses(format!("{line}\r\n* 2 EXISTS\r\n").as_bytes());
            assert_eq!((&*text, lost.folders.len()), (&b"* 2 EXISTS\r\n"[..], 1), "{line}");
            assert_eq!(lost.folders[0], line.replace('\u{1}', "?"));
        }
    }

    #[test]
    fn a_message_is_found_in_a_malformed_response_and_its_loss_is_counted() {
        let (text, lost) = read_with_losses(b"* 1 FETCH (FLAGS (\"Junk) UID 3 BODY[] {5}\r\na(\r\n\")\r\n");
        assert_eq!(String::from_utf8(text).unwrap(), "* 1 FETCH (UID 3 BODY[] {5}\r\na(\r\n\")\r\n");
        assert_eq!(lost, Lost::default());
        for (answer, lost) in [
            ("* 1 FETCH (UID x3 BODY[] {1}\r\nx)\r\n", 1),
            ("* 1 FETCH (UID 3 BODY[] x)\r\n", 1),
            ("* 1 FETCH (UID 3 RFC822.SIZE many)\r\n", 1),
            ("* 1 FETCH (FLAGS (Caf\u{e9}))\r\n", 0),
            ("* 1 FETCH (UID 3 FLAGS (\"UID RFC822.SIZE BODY[\" Caf\u{e9}) RFC822.SIZE 3 BODY[] {10}\r\nBODY[ UID )\r\n", 0),
            ("* 1 EXISTS UID BODY[\r\n", 0),
        ] {
            assert_eq!(read_with_losses(answer.as_bytes()).1.messages, lost, "{answer}");
        }
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
