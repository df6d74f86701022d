//! Content of a leaf: decodes transfer encoding and charset as far as possible. Nothing here fails; damaged content is decoded
//! on a best-effort basis and marked as damaged.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use package_support::charset;
use std::borrow::Cow;

/// Base64 as found in mail: truncated, with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Strict base64.
const PADDED: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// The content of a leaf, as in the message.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    bytes: &'a [u8],
    encoding: Encoding,
    /// False for a multipart that could not be split.
    readable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Identity,
    Base64,
    QuotedPrintable,
    Unknown,
    /// Already decoded by the source of the message.
    Undone,
}

/// Decoded content, and whether it was valid.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded<T> {
    pub(crate) value: T,
    pub(crate) problem: bool,
}

impl<'a> Content<'a> {
    pub(super) fn new(bytes: &'a [u8], encoding: Option<&str>, readable: bool) -> Self {
        let encoding = match encoding.map(|e| e.trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "7bit" | "8bit" | "binary") => Encoding::Identity,
            Some("base64") => Encoding::Base64,
            Some("quoted-printable") => Encoding::QuotedPrintable,
            Some(_) => Encoding::Unknown,
        };
        Self { bytes, encoding, readable }
    }

    /// Creates content whose transfer encoding is already decoded, and which is probably UTF-8 regardless of its header.
    pub(crate) fn undone(bytes: &'a [u8]) -> Self {
        Self { bytes, encoding: Encoding::Undone, readable: true }
    }

    /// Returns the bytes with the transfer encoding decoded.
    pub(crate) fn decode(&self) -> Decoded<Cow<'a, [u8]>> {
        let (value, problem) = match self.encoding {
            Encoding::Identity | Encoding::Undone => (Cow::Borrowed(self.bytes), false),
            Encoding::Unknown => (Cow::Borrowed(self.bytes), true),
            Encoding::Base64 => decode_base64(self.bytes),
            Encoding::QuotedPrintable => match quoted_printable_decode(self.bytes) {
                Some(value) => (Cow::Owned(value), false),
                None => (Cow::Owned(decode_damaged_quoted_printable(self.bytes)), true),
            },
        };
        Decoded { value, problem: problem || !self.readable }
    }

    /// Returns the text with transfer encoding and charset decoded, and LF line endings.
    pub(crate) fn text(&self, charset: Option<&str>) -> Decoded<String> {
        let bytes = self.decode();
        let charset = if self.encoding == Encoding::Undone && is_utf8(&bytes.value) { Some("utf-8") } else { charset };
        let text = decode_charset(&bytes.value, charset);
        let value = if text.value.contains('\r') { text.value.replace("\r\n", "\n") } else { text.value };
        Decoded { value, problem: bytes.problem || text.problem }
    }
}

/// Text in another charset is rarely valid UTF-8, except for charsets with escape sequences, which consist of ASCII bytes.
fn is_utf8(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok() && (!bytes.is_ascii() || !bytes.contains(&0x1b))
}

fn decode_base64(bytes: &[u8]) -> (Cow<'static, [u8]>, bool) {
    if let Some(value) = decode_whole_base64(bytes) {
        return (Cow::Owned(value), false);
    }
    match decode_pieces_of_base64(bytes) {
        Some(value) => (Cow::Owned(value), false),
        None => {
            let (value, problem) = decode_damaged_base64(bytes);
            (Cow::Owned(value), problem)
        }
    }
}

/// Fast path for padded base64 lines, which nearly all mail has.
fn decode_whole_base64(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut digits = Vec::with_capacity(bytes.len());
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', bytes).chain(Some(bytes.len())) {
        let line = &bytes[start..end];
        digits.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        start = (end + 1).min(bytes.len());
    }
    PADDED.decode(&digits).ok()
}

/// Several concatenated pieces, each padded: some programs encode a file piece by piece.
fn decode_pieces_of_base64(bytes: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let mut value = Vec::with_capacity(digits.len() / 4 * 3);
    let mut rest = digits.as_slice();
    while !rest.is_empty() {
        let padding = rest.iter().position(|&b| b == b'=').unwrap_or(rest.len());
        let end = padding + rest[padding..].iter().take_while(|&&b| b == b'=').count();
        value.extend(PADDED.decode(&rest[..end]).ok()?);
        rest = &rest[end..];
    }
    Some(value)
}

/// The same for pieces that are damaged, such as a last one without padding, and for content with other characters.
///
/// Text after the padding of a piece is another piece if its line consists of digits only. Otherwise it and everything after it is text:
/// mailing lists append their footers there.
fn decode_damaged_base64(bytes: &[u8]) -> (Vec<u8>, bool) {
    if is_prose(bytes) {
        return (bytes.to_vec(), true);
    }
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    let mut value = Vec::with_capacity(bytes.len() / 4 * 3);
    let mut problem = false;
    let mut digits = Vec::new();
    let mut is_first_piece = true;
    'lines: for line in bytes.split(|&b| b == b'\n') {
        let mut rest = line.trim_ascii();
        while !rest.is_empty() {
            if !is_first_piece && !rest.iter().all(|b| is_digit(b) || *b == b'=') {
                problem = true;
                break 'lines;
            }
            let padding = rest.iter().position(|&b| b == b'=').unwrap_or(rest.len());
            problem |= !rest[..padding].iter().all(|b| is_digit(b) || b.is_ascii_whitespace());
            digits.extend(rest[..padding].iter().copied().filter(is_digit));
            let end = rest[padding..].iter().position(|&b| b != b'=').map_or(rest.len(), |at| padding + at);
            if end > padding {
                problem |= decode_piece(&mut digits, &mut value);
                is_first_piece = false;
            }
            rest = rest[end..].trim_ascii_start();
        }
    }
    problem |= !digits.len().is_multiple_of(4);
    problem |= decode_piece(&mut digits, &mut value);
    (value, problem)
}

/// Returns whether content is text that was never encoded: short words, several on the first line and on most others.
fn is_prose(bytes: &[u8]) -> bool {
    let words_of = |line: &[u8]| line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).count();
    let mut counts = bytes.split(|&b| b == b'\n').map(words_of).filter(|words| *words > 0).peekable();
    let starts_with_words = counts.peek().is_some_and(|words| *words > 1);
    let (lines, words) = counts.fold((0, 0), |(lines, words), count| (lines + 1, words + count));
    starts_with_words && words >= 2 * lines && bytes.len() / words < 20
}

/// Decodes and removes the digits of a piece. Returns whether it was cut inside a byte.
fn decode_piece(digits: &mut Vec<u8>, value: &mut Vec<u8>) -> bool {
    // Six bits are less than a byte.
    let is_cut = digits.len() % 4 == 1;
    digits.truncate(digits.len() - usize::from(is_cut));
    // Only digits are left, so there is nothing to refuse.
    if let Ok(bytes) = LENIENT.decode(&digits) {
        value.extend(bytes);
    }
    digits.clear();
    is_cut
}

/// RFC 2045, section 6.7: a `=` that does not start an escape is kept, and decoding continues. (mail-parser stops at the first
/// one; the crate quoted_printable drops 8-bit bytes, which occur in mail, and converts every line ending to CRLF.)
fn decode_damaged_quoted_printable(bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|&b| b == b'\n') {
        let content = line.trim_ascii_end();
        let line_end: &[u8] = if line.ends_with(b"\r\n") {
            b"\r\n"
        } else if line.ends_with(b"\n") {
            b"\n"
        } else {
            b""
        };
        let mut rest = content;
        let mut is_soft = false;
        while let Some(at) = memchr::memchr(b'=', rest) {
            value.extend_from_slice(&rest[..at]);
            rest = &rest[at + 1..];
            let hex = |i: usize| rest.get(i).and_then(|&b| char::from(b).to_digit(16));
            match (hex(0), hex(1)) {
                (Some(high), Some(low)) => {
                    value.push((high << 4 | low) as u8);
                    rest = &rest[2..];
                }
                _ if rest.is_empty() => is_soft = true,
                _ => value.push(b'='),
            }
        }
        value.extend_from_slice(rest);
        if !is_soft {
            value.extend_from_slice(line_end);
        }
    }
    value
}

fn decode_charset(bytes: &[u8], label: Option<&str>) -> Decoded<String> {
    let label = label.unwrap_or("us-ascii").trim();
    let ascii_only = label.len() >= 5 && label[label.len() - 5..].eq_ignore_ascii_case("ascii");
    // Otherwise read as Windows-1252, like everything declared as ASCII.
    let label = if ascii_only && std::str::from_utf8(bytes).is_ok() { "utf-8" } else { label };
    let charset::Decoded { text, problem } = charset::decode(bytes, label);
    Decoded { problem: problem || (ascii_only && !bytes.is_ascii()), value: text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8], encoding: &str) -> (Vec<u8>, bool) {
        let Decoded { value, problem } = Content::new(bytes, Some(encoding), true).decode();
        (value.into_owned(), problem)
    }

    #[test]
    fn valid_and_damaged_base64() {
        for (text, expected, problem) in [
            ("SGVsbG8=", "Hello", false),
            ("SGVs\r\nbG8=\r\n", "Hello", false),
            ("SGVsbG8=\r\nIHdvcmxk\r\nIQ==\r\n", "Hello world!", false),
            ("SGVsbG8=\r\nUnsubscribe here\r\n", "Hello", true),
            // The last piece lacks its padding, or a part.
            ("SGVsbG8=\r\nIHdvcmxkIQ\r\n", "Hello world!", true),
            ("SGVsbG8=IHdvcmxkIQ", "Hello world!", true),
            ("SGVsbG8=\nIHdvcmxk\nI", "Hello world", true),
            ("SGVsbG8=\nIHdvcmxk\nIQ==\n_____\nA list's footer\n", "Hello world!", true),
            ("SGVs=bG8=", "Hello", false),
            ("SGVs!bG8=\nIHdvcmxkIQ", "Hello world!", true),
            // Not encoded at all.
            ("Hello Ben,\n\nthe total is 42.\n", "Hello Ben,\n\nthe total is 42.\n", true),
            ("SGVsbG8=\n_____\nThis is the footer of a list with many words\n", "Hello", true),
            ("SGVsbG8", "Hello", true),
            ("SGVsbG", "Hell", true),
            ("SGVsb", "Hel", true),
            ("SGVs!bG8=", "Hello", true),
            ("SGVsbG8=\n_____\nA list's footer\n", "Hello", true),
            ("", "", false),
            ("====", "", false),
        ] {
            assert_eq!(decoded(text.as_bytes(), "BASE64"), (expected.as_bytes().to_vec(), problem), "{text:?}");
        }
    }

    #[test]
    fn every_prefix_of_base64_decodes() {
        let text = b"AAECAwQFBgcICQoL/+8=";
        for cut in 0..=text.len() {
            assert!(decoded(&text[..cut], "base64").0.len() <= 14);
        }
    }

    #[test]
    fn quoted_printable_and_the_others() {
        assert_eq!(decoded(b"a=3Db=\nc \n", "quoted-printable"), (b"a=bc\n".to_vec(), false));
        // RFC 2045, section 6.7: an invalid escape is kept, and decoding continues.
        for (text, expected) in [
            (&b"a==b"[..], &b"a==b"[..]),
            (b"100 =% of =C3=A4 \r\n=3D=\r\nx=4", b"100 =% of \xc3\xa4\r\n=x=4"),
            (b"a=ZZ=41 \xe4=\n=", b"a=ZZA \xe4"),
            (b"==3D=3d\t\n", b"===\n"),
        ] {
            assert_eq!(decoded(text, "quoted-printable"), (expected.to_vec(), true), "{text:?}");
        }
        assert_eq!(decoded(b"a=3D", "8bit"), (b"a=3D".to_vec(), false));
        assert_eq!(decoded(b"a=3D", "x-uuencode"), (b"a=3D".to_vec(), true));
    }

    #[test]
    fn decoded_text_is_utf8_if_possible() {
        for (bytes, charset, expected) in [
            ("ä".as_bytes(), "iso-8859-1", "ä"),
            ("会議".as_bytes(), "iso-2022-jp", "会議"),
            (b"\xe4", "iso-8859-1", "ä"),
            (b"\x1b$B2q5D\x1b(B", "iso-2022-jp", "会議"),
            (b"plain", "utf-16", "plain"),
        ] {
            let Decoded { value, problem } = Content::undone(bytes).text(Some(charset));
            assert_eq!((value.as_str(), problem), (expected, false), "{charset}");
        }
    }

    fn text(bytes: &[u8], charset: Option<&str>) -> (String, bool) {
        let Decoded { value, problem } = Content::new(bytes, None, true).text(charset);
        (value, problem)
    }

    #[test]
    fn charsets() {
        for (bytes, charset, expected, problem) in [
            (&b"plain\r\nlines\r\n"[..], None, "plain\nlines\n", false),
            ("ä".as_bytes(), Some("UTF-8"), "ä", false),
            (b"\xef\xbb\xbfx", Some("utf-8"), "x", false),
            (b"\xe4", Some("utf-8"), "\u{fffd}", true),
            (b"\xe4", Some("ISO-8859-1"), "ä", false),
            (b"\x80", Some("windows-1252"), "€", false),
            (b"\xf0\xd2", Some("koi8-r"), "Пр", false),
            (b"\x1b$B2q5D\x1b(B", Some("iso-2022-jp"), "会議", false),
            ("ä".as_bytes(), None, "ä", true),
            (b"\xe4", None, "ä", true),
            (b"\xe4x", Some("x-made-up"), "\u{fffd}x", true),
            (b"~{<:Ky~}.", Some("hz-gb-2312"), "己所.", false),
            (b"\x1b$)C\x0e0!\x0f", Some("ISO-2022-KR"), "가", false),
            (b"\xcf\xf0", Some("x-cp1251"), "Пр", false),
            (b"NUL \0", Some("us-ascii"), "NUL \0", false),
        ] {
            assert_eq!(text(bytes, charset), (expected.to_owned(), problem), "{bytes:?} {charset:?}");
        }
    }
}
