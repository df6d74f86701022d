//! Folder names as IMAP sends them: modified UTF-7 (RFC 3501, 5.1.3), and back. Talks to nobody.

use base64::Engine as _;
use base64::alphabet::IMAP_MUTF7;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Without padding, and not strict about the bits that fill up the last character.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &IMAP_MUTF7,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// The name that people see. What is not modified UTF-7 stays as it is.
pub(crate) fn decode(wire: &str) -> String {
    try_decode(wire).unwrap_or_else(|| wire.to_owned())
}

fn try_decode(wire: &str) -> Option<String> {
    let mut pieces = wire.split('&');
    let mut name = pieces.next()?.to_owned();
    for piece in pieces {
        let (encoded, plain) = piece.split_once('-')?;
        if encoded.is_empty() {
            name.push('&');
        } else {
            let bytes = BASE64.decode(encoded).ok()?;
            if !bytes.len().is_multiple_of(2) {
                return None;
            }
            let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            name.push_str(&String::from_utf16(&units).ok()?);
        }
        name.push_str(plain);
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        for (wire, name) in [
            ("INBOX", "INBOX"),
            ("Entw&APw-rfe", "Entwürfe"),
            ("~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),
            ("Tom &- Jerry", "Tom & Jerry"),
            ("&2D3cxA-", "📄"),
        ] {
            assert_eq!(decode(wire), name);
        }
    }

    #[test]
    fn what_is_none_stays() {
        for wire in ["Tom & Jerry", "&", "&AP-", "&2D0-", "&!!-", "a&b-&"] {
            assert_eq!(decode(wire), wire);
        }
    }
}
