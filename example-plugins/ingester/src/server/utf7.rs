//! Encoding of folder names in IMAP: modified UTF-7 (RFC 3501, section 5.1.3).

use base64::Engine as _;
use base64::alphabet::IMAP_MUTF7;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Without padding, and ignoring unused bits in the last character.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &IMAP_MUTF7,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Decodes a name. Invalid modified UTF-7 is returned unchanged.
pub(crate) fn decode(wire: &str) -> String {
    try_decode(wire).unwrap_or_else(|| wire.to_owned())
}

/// Encodes a name for IMAP.
pub(crate) fn encode(name: &str) -> String {
    let mut wire = String::with_capacity(name.len());
    let mut units: Vec<u8> = Vec::new();
    let end_run = |units: &mut Vec<u8>, wire: &mut String| {
        if !units.is_empty() {
            wire.push('&');
            BASE64.encode_string(&units, wire);
            wire.push('-');
            units.clear();
        }
    };
    for c in name.chars() {
        if matches!(c, ' '..='~') {
            end_run(&mut units, &mut wire);
            wire.push(c);
            if c == '&' {
                wire.push('-');
            }
        } else {
            units.extend(c.encode_utf16(&mut [0; 2]).iter().flat_map(|unit| unit.to_be_bytes()));
        }
    }
    end_run(&mut units, &mut wire);
    wire
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
            assert_eq!((decode(wire), encode(name)), (name.to_owned(), wire.to_owned()));
        }
    }

    #[test]
    fn invalid_names_are_unchanged() {
        for wire in ["Tom & Jerry", "&", "&AP-", "&2D0-", "&!!-", "a&b-&"] {
            assert_eq!(decode(wire), wire);
        }
    }
}
