//! [`Key`], the identity of a message: the sha256 of its bytes.

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::fmt;

/// Equal bytes have equal keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    /// Length of the hexadecimal form.
    pub(crate) const TEXT_LEN: usize = 64;

    /// Returns the key of a message.
    pub(crate) fn of(raw: &[u8]) -> Self {
        Self(Sha256::digest(raw).into())
    }

    /// Parses 64 lowercase hexadecimal digits.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != Self::TEXT_LEN {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(digits[0])? << 4 | digit(digits[1])?;
        }
        Some(Self(bytes))
    }
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_formatting_and_parsing() {
        let key = Key::of(b"abc");
        let text = key.to_string();
        assert_eq!(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(Key::parse(text.as_bytes()), Some(key));
        assert_eq!(Key::parse(text.to_uppercase().as_bytes()), None, "only lower case is accepted");
        assert_eq!(Key::parse(&text.as_bytes()[1..]), None);
    }
}
