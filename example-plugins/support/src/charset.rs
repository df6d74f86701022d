//! Conversion of bytes in a charset to text. Uses encoding_rs, which implements the WHATWG list, and mail-parser for UTF-7,
//! which that list does not contain.
//!
//! Nothing here fails, and ASCII characters are always preserved.

use encoding_rs::{EUC_KR, Encoding, GBK, REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use mail_parser::decoders::charsets::map::charset_decoder;

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
        _ => {}
    }
    match encoding(&label) {
        Some(encoding) if encoding != REPLACEMENT => by(encoding, bytes),
        _ => match charset_decoder(label.as_bytes()).filter(|_| label.contains("utf-7") || label.contains("utf7")) {
            Some(decode) => {
                let text = decode(bytes);
                Decoded { problem: text.contains(char::REPLACEMENT_CHARACTER), text }
            }
            None => Decoded { text: String::from_utf8_lossy(bytes).into_owned(), problem: true },
        },
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
    let has_mark = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    if is_utf_16 && !has_mark && !bytes.contains(&0) {
        // Declared with the original charset, but converted to UTF-8 in the meantime. Half a character of UTF-16 may be a control character.
        let is_odd = |c: char| c.is_control() && !c.is_whitespace();
        if std::str::from_utf8(bytes).is_ok_and(|text| !text.contains(is_odd)) {
            return by(UTF_8, bytes);
        }
        if is_mostly_ascii(bytes) {
            return Decoded { text: guess(bytes), problem: true };
        }
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

/// RFC 1843: ASCII, with GB 2312 between `~{` and `~}`; `~~` is a tilde.
fn hz(bytes: &[u8]) -> Decoded {
    let mut gbk = Vec::with_capacity(bytes.len());
    let (mut rest, mut in_gb) = (bytes, false);
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, rest.first()) {
            (b'~', Some(b'{')) if !in_gb => in_gb = true,
            (b'~', Some(b'}')) if in_gb => in_gb = false,
            (b'~', Some(b'~')) if !in_gb => gbk.push(b'~'),
            (b'~', Some(b'\n')) if !in_gb => {}
            // The end of the line also ends an open sequence.
            (b'\n', _) => {
                in_gb = false;
                gbk.push(byte);
                continue;
            }
            (byte, Some(&second)) if in_gb && (0x21..=0x77).contains(&byte) && (0x21..=0x7e).contains(&second) => {
                gbk.extend([byte | 0x80, second | 0x80]);
            }
            _ => {
                gbk.push(byte);
                continue;
            }
        }
        rest = &rest[1..];
    }
    by(GBK, &gbk)
}

/// RFC 1557: ASCII, with KS X 1001 between SO and SI; the header `ESC $ ) C` is dropped.
fn iso_2022_kr(bytes: &[u8]) -> Decoded {
    let mut euc = Vec::with_capacity(bytes.len());
    let (mut rest, mut shifted) = (bytes, false);
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\x1b$)C") {
            rest = after;
            continue;
        }
        rest = tail;
        match byte {
            0x0e => shifted = true,
            0x0f => shifted = false,
            b'\n' => {
                shifted = false;
                euc.push(byte);
            }
            0x21..=0x7e if shifted => euc.push(byte | 0x80),
            _ => euc.push(byte),
        }
    }
    by(EUC_KR, &euc)
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
            ("Grüße".as_bytes(), "utf_8", "Grüße"),
            (b"plain text", "utf-16", "plain text"),
            (b"a\0b\0", "utf-16le", "ab"),
            (b"\x4f\x60\x59\x7d\x4e\x16\x75\x4c", "utf-16be", "你好世界"),
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
    }
}
