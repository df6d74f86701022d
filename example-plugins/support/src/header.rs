//! Finds the header of a message and its fields.
//!
//! Mail that was saved, forwarded or moved by scripts may have a byte order mark, an empty line or a banner before its first
//! field. Mail programs accept this, and so does this module.

/// Maximum number of text lines before the first field. With more, the message is a text without a header.
const BANNER_LINES: usize = 3;
/// Maximum number of lines before the first field.
const PRELUDE_LINES: usize = 10;
/// Number of bytes in which the first field must start.
const PRELUDE: usize = 8 << 10;

/// Fields that identify a header after a banner. Other names may also occur in a text ("Note: …").
const KNOWN: [&str; 18] = [
    "bcc",
    "cc",
    "content-transfer-encoding",
    "content-type",
    "date",
    "delivered-to",
    "dkim-signature",
    "from",
    "in-reply-to",
    "message-id",
    "mime-version",
    "received",
    "references",
    "reply-to",
    "return-path",
    "sender",
    "subject",
    "to",
];

/// Returns the offset of a message's header: 0, or after a byte order mark, empty lines and a banner.
///
/// Only for messages: a part of a multipart that starts with an empty line has no header.
pub fn start(message: &[u8]) -> usize {
    let mark = if message.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let looked_at = &message[mark..message.len().min(PRELUDE)];
    let (mut offset, mut banner) = (mark, 0);
    for (n, line) in looked_at.split_inclusive(|&b| b == b'\n').enumerate() {
        if let Some(name) = field_name(line) {
            return if n == 0 || (is_known(name) && known_fields(&message[offset..]) >= 2) { offset } else { mark };
        }
        banner += usize::from(!line.trim_ascii().is_empty());
        if n == PRELUDE_LINES || banner > BANNER_LINES {
            break;
        }
        offset += line.len();
    }
    mark
}

/// Returns the name of a field if the line starts one: printable ASCII without spaces, then a colon.
pub fn field_name(line: &[u8]) -> Option<&[u8]> {
    let colon = line.iter().position(|&b| b == b':')?;
    let name = line[..colon].trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}

fn is_known(name: &[u8]) -> bool {
    KNOWN.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// Counts known fields up to the first line that cannot be part of a header.
fn known_fields(header: &[u8]) -> usize {
    let header = &header[..header.len().min(PRELUDE)];
    let mut known = 0;
    for line in header.split_inclusive(|&b| b == b'\n') {
        match field_name(line) {
            Some(name) => known += usize::from(is_known(name)),
            None if matches!(line[0], b' ' | b'\t') && !line.trim_ascii().is_empty() => {}
            None => break,
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_before_the_header_are_skipped() {
        const MAIL: &str = "Date: Mon, 1 Jan 2024 12:00:00 +0000\r\nFrom: a@x.example\r\n\r\nbody";
        for before in [
            "",
            "\u{feff}",
            "\r\n",
            "          \r\n",
            "\n\n",
            "*** from archive ***\n",
            "From a@x.example Mon Jan  1 12:00:00 2024\n",
            ">From a@x.example Mon Jan  1 12:00:00 2024\n\n",
            "-----Original Message-----\r\n\r\n",
            "\u{feff}\r\n# exported\r\n",
        ] {
            assert_eq!(start(format!("{before}{MAIL}").as_bytes()), before.len(), "{before:?}");
        }
    }

    #[test]
    fn plain_text_is_not_a_header() {
        for text in [
            "",
            "\nbody",
            "\nNote: this is a text\n\nbody",
            "\nFrom: here on all is text\nand goes on\n",
            "no header here\n\nbody",
            "Dear all,\nplease\nread\nthis\nFrom: a\nTo: b\n\nbody",
            "X: 1\n\nFrom: a\nTo: b\n",
            "\u{0}\u{1}",
        ] {
            assert_eq!(start(text.as_bytes()), 0, "{text:?}");
        }
    }
}
