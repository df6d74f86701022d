//! Encoded words in header fields (RFC 2047), including common violations: without padding, split inside a character, in any
//! charset; and unencoded 8-bit bytes.
//!
//! [`decode`] returns a text. [`normalize`] is for structured fields such as addresses, in which decoded words must not become
//! commas and angle brackets before the field is parsed.

use crate::charset;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::borrow::Cow;

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns the field in UTF-8, each run of encoded words as one word in UTF-8 and padded base64: what every parser reads.
pub fn normalize(value: &[u8]) -> Cow<'_, [u8]> {
    let value = utf8(value);
    if !value.contains("=?") {
        return match value {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
    }
    Cow::Owned(
        rewrite(&value, |text, out| {
            out.push_str("=?utf-8?B?");
            STANDARD.encode_string(text.as_bytes(), out);
            out.push_str("?=");
        })
        .into_bytes(),
    )
}

/// Returns the text of a field without structure.
pub fn decode(value: &str) -> String {
    rewrite(value, |text, out| out.push_str(text))
}

/// Bytes in a header that are not UTF-8 are probably Latin-1.
fn utf8(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(charset::guess(value)),
    }
}

/// Adjacent encoded words, and their decoded text.
#[derive(Default)]
struct Run {
    text: String,
    charset: String,
    /// Bytes in `charset` that are not decoded yet: a character may continue in the next word.
    bytes: Vec<u8>,
}

impl Run {
    fn add(&mut self, word: Word<'_>) {
        if !word.charset.eq_ignore_ascii_case(&self.charset) {
            self.read();
            word.charset.clone_into(&mut self.charset);
        }
        self.bytes.extend_from_slice(&word.bytes);
    }

    fn read(&mut self) {
        let text = charset::decode(&self.bytes, &self.charset).text;
        // A line break in a word would end the field.
        self.text.extend(text.chars().map(|c| if matches!(c, '\r' | '\n' | '\0') { ' ' } else { c }));
        self.bytes.clear();
    }
}

/// Returns the text with each run of encoded words replaced by the result of `emit`.
fn rewrite(value: &str, mut emit: impl FnMut(&str, &mut String)) -> String {
    let mut out = String::with_capacity(value.len());
    let mut run: Option<Run> = None;
    let mut rest = value;
    loop {
        let at = rest.find("=?");
        let before = &rest[..at.unwrap_or(rest.len())];
        let word = at.and_then(|at| Word::read(&rest[at..]));
        // Spaces between two encoded words are separators and not part of the text.
        if let Some(mut ended) = run.take_if(|_| word.is_none() || !before.trim().is_empty()) {
            ended.read();
            emit(&ended.text, &mut out);
        }
        if run.is_none() {
            out.push_str(before);
        }
        match (at, word) {
            (Some(at), Some(word)) => {
                let end = at + word.len;
                run.get_or_insert_default().add(word);
                rest = &rest[end..];
            }
            (Some(at), None) => {
                out.push_str("=?");
                rest = &rest[at + 2..];
            }
            (None, _) => return out,
        }
    }
}

/// An encoded word with its transfer encoding decoded.
struct Word<'a> {
    charset: &'a str,
    bytes: Vec<u8>,
    /// Length of the whole word, in bytes.
    len: usize,
}

impl<'a> Word<'a> {
    /// Parses the encoded word at the start of a text.
    fn read(text: &'a str) -> Option<Self> {
        let (charset, rest) = text.strip_prefix("=?")?.split_once('?')?;
        // RFC 2231: a language may follow.
        let charset = charset.split('*').next().filter(|name| name.len() > 1 && name.bytes().all(|b| b.is_ascii_graphic()))?;
        let (encoding, rest) = rest.split_once('?')?;
        let (data, after) = rest.split_once("?=")?;
        let bytes = match encoding {
            "b" | "B" => base64(data)?,
            "q" | "Q" if !data.is_ascii() => {
                let bytes = with_raw_characters(data, charset).into_bytes();
                return Some(Self { charset: "utf-8", bytes, len: text.len() - after.len() });
            }
            "q" | "Q" => quoted(data),
            _ => return None,
        };
        Some(Self { charset, bytes, len: text.len() - after.len() })
    }
}

/// Decodes base64 with or without padding, or several concatenated padded pieces.
fn base64(data: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(data.len());
    let digits: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    for piece in digits.split('=').filter(|piece| !piece.is_empty()) {
        // Six bits are less than a byte: truncated.
        let whole = if piece.len() % 4 == 1 { piece.len() - 1 } else { piece.len() };
        if whole == 0 {
            return None;
        }
        bytes.extend(LENIENT.decode(piece.as_bytes().get(..whole)?).ok()?);
    }
    Some(bytes)
}

/// Decodes a word that also contains characters that should have been encoded. They are characters already, in no charset.
fn with_raw_characters(data: &str, charset: &str) -> String {
    let mut text = String::new();
    for piece in data.split_inclusive(|c: char| !c.is_ascii()) {
        let raw = piece.chars().next_back().filter(|c| !c.is_ascii());
        let encoded = &piece[..piece.len() - raw.map_or(0, char::len_utf8)];
        text.push_str(&charset::decode(&quoted(encoded), charset).text);
        text.extend(raw);
    }
    text
}

fn quoted(data: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len());
    let mut rest = data.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let hex = |i: usize| tail.get(i).and_then(|&b| char::from(b).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'=', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &tail[2..];
            }
            (b'_', ..) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_found_in_mail() {
        for (value, expected) in [
            ("plain =? text", "plain =? text"),
            ("=?utf-8?B?QsO8Y2hlcg?=", "Bücher"),
            ("=?utf-8?B?QsO8Y2hlcg==?= und =?iso-8859-1?Q?K=E4se?=", "Bücher und Käse"),
            // Split inside a character, with the charset in different case.
            ("=?utf-8?B?QsM=?=\r\n =?UTF-8?B?vGNoZXI=?=", "Bücher"),
            ("=?utf-8?Q?B=C3?= =?utf-8?Q?=BCcher?=", "Bücher"),
            ("=?iso-8859-1?Q?=FC?= =?utf-8?Q?=C3=BC?=", "üü"),
            ("=?utf-8*de?q?Gr=C3=BC=C3=9Fe_an_alle?=", "Grüße an alle"),
            ("=?utf-8?B?SGFs?= =?utf-8?B?bG8=?= x", "Hallo x"),
            ("=?utf-8?B?SGVs=bG8=?=", "Hello"),
            ("=?gb2312?B?xOO6ww==?=", "你好"),
            ("=?hz-gb-2312?Q?~{<:Ky~}?=", "己所"),
            ("=?utf-8?X?abc?= =?utf-8?B?%?=", "=?utf-8?X?abc?= =?utf-8?B?%?="),
            ("=?utf-8?Q?with space?=", "with space"),
            // Characters that should have been encoded.
            ("=?iso-8859-1?Q?Die_Fr\u{f6}sche_=FC?= =?iso-8859-1?Q?\u{e4}?=", "Die Frösche üä"),
            ("=?utf-8?Q?\u{f6}=C3=B6?=", "öö"),
            ("=?utf-8?Q??=x", "x"),
            ("=?x-made-up?Q?Total_42=FF?=", "Total 42\u{fffd}"),
            ("=?utf-8?Q?a=0D=0AX:_y?=", "a  X: y"),
        ] {
            assert_eq!(decode(value), expected, "{value}");
        }
    }

    #[test]
    fn normalized_words_are_valid_for_every_parser() {
        let normal = |value: &[u8]| String::from_utf8(normalize(value).into_owned()).unwrap();
        assert_eq!(normal(b"=?utf-8?B?SsO2cmcgTcO8bGxlcg?= <j@x.example>"), "=?utf-8?B?SsO2cmcgTcO8bGxlcg==?= <j@x.example>");
        assert_eq!(normal(b"\"=?utf-8?Q?a,_b?=\" <a@x>"), "\"=?utf-8?B?YSwgYg==?=\" <a@x>");
        assert_eq!(normal(b"J\xf6rg <j@x.example>"), "Jörg <j@x.example>");
        assert_eq!(normal(b"=?iso-8859-1?Q?J\xf6rg?= <j@x>"), format!("=?utf-8?B?{}?= <j@x>", STANDARD.encode("Jörg")));
        assert!(matches!(normalize("Jörg".as_bytes()), Cow::Borrowed(_)));
    }
}
