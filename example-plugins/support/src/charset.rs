//! Conversion of bytes in a charset to text. Uses encoding_rs, which implements the WHATWG list. That list contains neither HZ nor
//! ISO-2022-KR nor UTF-7 (mail-parser has the latter, but drops the end of a text and every plus).
//!
//! Nothing here fails, and ASCII characters are always preserved.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use encoding_rs::{EUC_KR, Encoding, GBK, REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// A text, and whether all bytes were valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The decoded text.
    pub text: String,
    /// Whether some bytes were invalid, or the charset is unknown.
    pub problem: bool,
}

/// Labels used in mail that are missing in the WHATWG list.
const MORE_LABELS: [(&str, &str); 12] = [
    ("cp932", "shift_jis"),
    ("windows-932", "shift_jis"),
    ("cp936", "gbk"),
    ("ms936", "gbk"),
    ("windows-936", "gbk"),
    ("cp949", "euc-kr"),
    ("ms949", "euc-kr"),
    ("cp950", "big5"),
    ("ansi", "windows-1252"),
    ("default", "utf-8"),
    ("unicode", "utf-16le"),
    ("unicode-1-1-utf-8", "utf-8"),
];

/// Converts bytes in the charset with this label.
pub fn decode(bytes: &[u8], label: &str) -> Decoded {
    let label = label.trim().trim_matches(['"', '\'']).to_ascii_lowercase();
    match label.as_str() {
        "hz-gb-2312" | "hz" => return hz(bytes),
        "iso-2022-kr" | "csiso2022kr" => return iso_2022_kr(bytes),
        _ if label.contains("utf-7") || label.contains("utf7") => return utf_7(bytes),
        _ => {}
    }
    match encoding(&label) {
        Some(encoding) if encoding != REPLACEMENT => by(encoding, bytes),
        _ => Decoded { text: String::from_utf8_lossy(bytes).into_owned(), problem: true },
    }
}

/// Converts bytes in an unknown charset: UTF-8 if valid, otherwise Windows-1252.
pub fn guess(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned(),
    }
}

fn encoding(label: &str) -> Option<&'static Encoding> {
    let known = |label: &str| {
        let more = MORE_LABELS.iter().find(|(theirs, _)| *theirs == label).map(|(_, listed)| *listed);
        Encoding::for_label(more.unwrap_or(label).as_bytes())
    };
    // Other spellings: `utf_8`, `iso8859_15`, `x-windows-1251`, `windows1252`.
    known(label)
        .or_else(|| known(&label.replace('_', "-")))
        .or_else(|| known(label.strip_prefix("x-")?))
        .or_else(|| known(&format!("windows-{}", label.strip_prefix("windows")?)))
}

fn by(encoding: &'static Encoding, bytes: &[u8]) -> Decoded {
    let is_utf_16 = encoding == UTF_16LE || encoding == UTF_16BE;
    let mark = [&b"\xff\xfe"[..], b"\xfe\xff"].into_iter().find(|mark| bytes.starts_with(mark));
    let rest = &bytes[mark.map_or(0, <[u8]>::len)..];
    if is_utf_16 && !rest.contains(&0) {
        // Declared with the original charset, but converted to UTF-8 in the meantime. Half a character of UTF-16 may be a control character.
        let is_odd = |c: char| c.is_control() && !c.is_whitespace();
        if mark.is_none() && std::str::from_utf8(bytes).is_ok_and(|text| !text.contains(is_odd)) {
            return by(UTF_8, bytes);
        }
        // After a mark, only a long text is evidence.
        if is_mostly_ascii(rest) && (mark.is_none() || rest.len() >= 32) {
            return Decoded { text: guess(bytes), problem: true };
        }
    }
    // In other charsets the mark is two letters, such as `ÿþ` in Latin-1. Only a text in UTF-16 contains zeros.
    if mark.is_some() && !is_utf_16 && !rest.contains(&0) {
        let (text, problem) = encoding.decode_without_bom_handling(bytes);
        return Decoded { text: text.into_owned(), problem };
    }
    let (text, _, problem) = encoding.decode(bytes);
    Decoded { text: text.into_owned(), problem }
}

/// Returns whether bytes without zeros are not UTF-16: half of the bytes of such a text (Chinese, for example) are not ASCII.
fn is_mostly_ascii(bytes: &[u8]) -> bool {
    let ascii = bytes.iter().filter(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()).count();
    // UTF-16 has an even number of bytes, unless it was cut.
    if bytes.len().is_multiple_of(2) { ascii * 10 >= bytes.len() * 9 } else { ascii * 4 >= bytes.len() * 3 }
}

/// RFC 2152: ASCII, with UTF-16 in base64 between `+` and the next character that is not a digit of it; `+-` is a plus. A `+` before
/// anything else is itself.
fn utf_7(bytes: &[u8]) -> Decoded {
    let mut decoded = Decoded { text: String::with_capacity(bytes.len()), problem: !bytes.is_ascii() };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&b| b == b'+') {
        decoded.text.push_str(&guess(&rest[..at]));
        let after = &rest[at + 1..];
        let is_digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
        let end = after.iter().position(|b| !is_digit(b)).unwrap_or(after.len());
        // It must end in a whole unit, so words in ASCII after a plus are nearly never valid.
        let units = STANDARD_NO_PAD.decode(&after[..end]).ok().filter(|units| !units.is_empty() && units.len().is_multiple_of(2));
        let units =
            units.map(|units| units.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])).collect::<Vec<_>>());
        match units.and_then(|units| String::from_utf16(&units).ok()) {
            Some(text) => {
                decoded.text.push_str(&text);
                rest = after[end..].strip_prefix(b"-").unwrap_or(&after[end..]);
            }
            None => {
                decoded.text.push('+');
                decoded.problem |= end > 0;
                rest = if end == 0 { after.strip_prefix(b"-").unwrap_or(after) } else { after };
            }
        }
    }
    decoded.text.push_str(&guess(rest));
    decoded
}

/// RFC 1843: ASCII, with GB 2312 between `~{` and `~}`; `~~` is a tilde.
fn hz(bytes: &[u8]) -> Decoded {
    let mut gbk = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match (byte, tail.first()) {
            (b'~', Some(b'{')) => {
                let text = &tail[1..];
                // The end of the line also ends an open sequence.
                let line = text.iter().position(|&b| b == b'\n').unwrap_or(text.len());
                let end = text[..line].windows(2).position(|pair| pair == b"~}");
                // Rows 1 to 9 are symbols, 16 to 55 the common characters. A stray `~{` before a text in ASCII would turn it into rare ones.
                let is_common = |lead| (0x21..=0x29).contains(&lead) || (0x30..=0x57).contains(&lead);
                let pairs = Pairs::of(&text[..line]);
                if end.is_some() || !pairs.is_odd && pairs.is_mostly(is_common) {
                    shift(&text[..end.unwrap_or(line)], &mut gbk);
                    &text[end.map_or(line, |end| end + 2)..]
                } else {
                    gbk.extend_from_slice(b"~{");
                    text
                }
            }
            (b'~', Some(b'~')) => {
                gbk.push(b'~');
                &tail[1..]
            }
            (b'~', Some(b'\n')) => &tail[1..],
            _ => {
                gbk.push(byte);
                tail
            }
        };
    }
    by(GBK, &gbk)
}

/// RFC 1557: ASCII, with KS X 1001 between SO and SI; the header `ESC $ ) C` is dropped.
fn iso_2022_kr(bytes: &[u8]) -> Decoded {
    let mut euc = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\x1b$)C") {
            rest = after;
            continue;
        }
        rest = match byte {
            0x0e => {
                // The end of the line also ends an open sequence.
                let end = tail.iter().position(|b| matches!(b, 0x0e | 0x0f | b'\n')).unwrap_or(tail.len());
                let (text, after) = tail.split_at(end);
                let pairs = Pairs::of(text);
                // Rows 1 to 12 are symbols, 16 to 40 Hangul. A stray SO before a text in ASCII would turn it into rare characters.
                let is_common = |lead| (0x21..=0x2c).contains(&lead) || (0x30..=0x48).contains(&lead);
                if pairs.is_mostly(is_common) || after.first() == Some(&0x0f) && !pairs.is_odd {
                    shift(text, &mut euc);
                } else {
                    euc.extend_from_slice(text);
                }
                after
            }
            0x0f => tail,
            _ => {
                euc.push(byte);
                tail
            }
        };
    }
    by(EUC_KR, &euc)
}

/// The pairs of bytes of a text in a charset with two bytes for each character.
struct Pairs {
    leads: Vec<u8>,
    /// Whether half a pair is left somewhere.
    is_odd: bool,
}

impl Pairs {
    fn of(text: &[u8]) -> Self {
        let (mut leads, mut is_odd) = (Vec::new(), false);
        for run in text.split(|b| !(0x21..=0x7e).contains(b)) {
            leads.extend(run.chunks_exact(2).map(|pair| pair[0]));
            is_odd |= !run.len().is_multiple_of(2);
        }
        Self { leads, is_odd }
    }

    fn is_mostly(&self, is_common: impl Fn(u8) -> bool) -> bool {
        self.leads.iter().filter(|lead| is_common(**lead)).count() * 2 > self.leads.len()
    }
}

/// Appends pairs of seven-bit bytes with the eighth bit, and everything else unchanged.
fn shift(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        match tail.first() {
            Some(&second) if (0x21..=0x7e).contains(&byte) && (0x21..=0x7e).contains(&second) => {
                out.extend([byte | 0x80, second | 0x80]);
                rest = &tail[1..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_browsers_and_of_mail() {
        for (bytes, label, expected) in [
            (&b"\xe4"[..], "latin1", "ä"),
            (b"\x80", "iso-8859-1", "€"),
            (b"\xe4", "\"ISO_8859-1\"", "ä"),
            (b"\xa4", "iso8859_15", "€"),
            (b"\xb9", "iso-8859-2", "š"),
            (b"\xf0\xd2", "koi8-r", "Пр"),
            (b"\xcf\xf0", "x-windows-1251", "Пр"),
            (b"\xcf\xf0", "windows1251", "Пр"),
            (b"\xc4\xe3\xba\xc3", "cp936", "你好"),
            (b"\xc4\xe3\xba\xc3", "gb2312", "你好"),
            (b"\xb0\xa1", "ks_c_5601-1987", "가"),
            (b"\x1b$B2q5D\x1b(B", "iso-2022-jp", "会議"),
            (b"~{<:Ky2;~}ab~~", "hz-gb-2312", "己所不ab~"),
            (b"\x1b$)C\x0e0!\x0f ok", "iso-2022-kr", "가 ok"),
            (b"a+AOQ-", "utf-7", "aä"),
            (b"+2D3eAA 1 +- 2 + 3 +AOQ", "utf-7", "😀 1 + 2 + 3 ä"),
            ("Grüße".as_bytes(), "utf_8", "Grüße"),
            (b"plain text", "utf-16", "plain text"),
            (b"a\0b\0", "utf-16le", "ab"),
            (b"\x4f\x60\x59\x7d\x4e\x16\x75\x4c", "utf-16be", "你好世界"),
            // A byte order mark of UTF-16 is two letters in Latin-1.
            (b"\xff\xfe is a body", "iso-8859-1", "ÿþ is a body"),
            (b"\xfe\xff", "us-ascii", "þÿ"),
            (b"\xff\xfea\0b\0", "iso-8859-1", "ab"),
            (b"\xff\xfe\x60\x4f\x7d\x59", "utf-16", "你好"),
            (b"\xef\xbb\xbfGr\xc3\xbc\xc3\x9fe", "iso-8859-1", "Grüße"),
            (b"~{<:Ky", "hz", "己所"),
            (b"\x0e0!", "iso-2022-kr", "가"),
        ] {
            assert_eq!(decode(bytes, label), Decoded { text: expected.into(), problem: false }, "{label}");
        }
    }

    #[test]
    fn ascii_is_never_lost() {
        for label in
            ["utf-8", "us-ascii", "iso-2022-jp", "iso-2022-kr", "iso-2022-cn", "hz-gb-2312", "gb18030", "x-made-up", "utf-16", ""]
        {
            for bytes in [
                &b"Total 42"[..],
                b"Total 42\xff",
                b"Total 42\x0e",
                b"Total 42~",
                b"\xe4Total 42",
                b"Total 42.\xe4",
                b"\xe4 und Total 42",
            ] {
                let text = decode(bytes, label).text;
                // An invalid first byte may consume the next one.
                assert!(text.contains("otal 42"), "{label} {bytes:?} {text:?}");
            }
        }
        // Bytes that begin characters of the charset, without any.
        for (bytes, label) in [
            (&b"\x0eTotal 42"[..], "iso-2022-kr"),
            (b"\x1b$)C\x0eTotal 42\x0f ok", "iso-2022-kr"),
            (b"\x0e\x0fTotal 42\x0e\x0e\n\x0f", "iso-2022-kr"),
            (b"~{Total 42", "hz-gb-2312"),
            (b"Total 42~{~}~", "hz-gb-2312"),
            (b"\xff\xfeTotal 42", "koi8-r"),
            (b"\xff\xfeTotal 42", "utf-8"),
            (b"\xff\xfeThis is a text with a mark before Total 42", "utf-16"),
            (b"+Total 42", "utf-7"),
            (b"Total 42 + 1 - 2 +", "utf-7"),
        ] {
            let text = decode(bytes, label).text;
            assert!(text.contains("otal 42"), "{label} {bytes:?} {text:?}");
        }
    }
}
