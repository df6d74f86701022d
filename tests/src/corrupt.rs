//! Damaged libraries: the bytes of `misbehave`, each with one change. Created in memory; tests write them to disk.

use crate::built::Fixture;
use std::sync::OnceLock;

/// Size of a manifest section's header.
const HEADER: usize = 16;

/// The library as built.
pub fn whole() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| std::fs::read(Fixture::Misbehave.built()).expect("a library can be read"))
}

/// The library after `change`.
pub fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = whole().to_vec();
    change(&mut bytes);
    bytes
}

/// Its first bytes.
pub fn cut(len: usize) -> Vec<u8> {
    whole()[..len].to_vec()
}

/// The library with every `from` replaced by `to`, which has the same length.
///
/// # Panics
/// If there is none.
pub fn replaced(from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    changed(|bytes| {
        let places: Vec<usize> = memmem(bytes, from).collect();
        assert!(!places.is_empty(), "{} is in the library", String::from_utf8_lossy(from));
        for at in places {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    })
}

/// One changed byte of its manifest, at an offset from the section's beginning.
pub fn manifest_byte(offset: usize, value: u8) -> Vec<u8> {
    changed(|bytes| {
        let at = manifest_at(bytes).0 + offset;
        assert_ne!(bytes[at], value);
        bytes[at] = value;
    })
}

/// One changed letter of a docstring: the JSON is still valid, but differs from what was written.
pub fn flipped_docs() -> Vec<u8> {
    let (at, len) = manifest_at(whole());
    let found = memmem(&whole()[at..at + HEADER + len], b"Does nothing.").next();
    manifest_byte(found.expect("a docstring"), b'X')
}

/// `from` replaced by `to` in its manifest, with a correct checksum.
pub fn manifest(from: &str, to: &str) -> Vec<u8> {
    manifest_bytes(from.as_bytes(), to.as_bytes())
}

/// Built for another revision of the plugin ABI: `other` of the current one.
///
/// # Panics
/// If either of the two has more than one digit.
pub fn abi(other: impl FnOnce(u8) -> u8) -> Vec<u8> {
    const KEY: &str = "\"abi\":";
    let (at, len) = manifest_at(whole());
    let json = &whole()[at + HEADER..at + HEADER + len];
    let digit = memmem(json, KEY.as_bytes()).next().expect("a revision in the manifest") + KEY.len();
    assert!(!json[digit + 1].is_ascii_digit(), "a revision of one digit");
    let present = json[digit] - b'0';
    manifest(&format!("{KEY}{present}"), &format!("{KEY}{}", other(present)))
}

/// Like [`manifest`], with bytes that are not text.
///
/// # Panics
/// If `from` is not in the manifest, or `to` has another length.
pub fn manifest_bytes(from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    changed(|bytes| {
        let (at, len) = manifest_at(bytes);
        let json = &mut bytes[at + HEADER..at + HEADER + len];
        let found = memmem(json, from).next().unwrap_or_else(|| panic!("{} is in the manifest", String::from_utf8_lossy(from)));
        json[found..found + to.len()].copy_from_slice(to);
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(json);
        bytes[at + 12..at + HEADER].copy_from_slice(&crc.to_le_bytes());
    })
}

/// A manifest that claims this many bytes of JSON.
pub fn manifest_claims(len: u32) -> Vec<u8> {
    changed(|bytes| {
        let at = manifest_at(bytes).0;
        bytes[at + 8..at + 12].copy_from_slice(&len.to_le_bytes());
    })
}

/// A manifest section with another name.
pub fn without_manifest() -> Vec<u8> {
    replaced(b"\0.lorchestra\0", b"\0.norchestra\0")
}

/// As if built on a host with a far newer glibc.
pub fn for_newer_glibc() -> Vec<u8> {
    changed(|bytes| {
        let versions: Vec<usize> = memmem(bytes, b"GLIBC_2.").collect();
        assert!(!versions.is_empty(), "it needs a glibc");
        for at in versions {
            bytes[at + 6] = b'9';
        }
    })
}

/// As if built with an abi_stable of other layout rules: changes the number in the header.
pub fn for_other_abi_stable() -> Vec<u8> {
    // AbiHeader: 32 bytes of magic, then the major version (0) and the minor one, as u32.
    changed(|bytes| {
        let at = memmem(bytes, b"abi stable library for Rust").next().expect("abi_stable's header");
        bytes[at + 36] += 1;
    })
}

/// Offset of the manifest and length of its JSON: magic, format 1, a length that ends in `}`.
fn manifest_at(bytes: &[u8]) -> (usize, usize) {
    let found = memmem(bytes, b"LORCH\0\x01\0").find_map(|at| {
        let rest = &bytes[at..];
        let len = u32::from_le_bytes(rest.get(8..12)?.try_into().ok()?) as usize;
        (rest.get(HEADER + len - 1) == Some(&b'}')).then_some((at, len))
    });
    found.expect("a manifest")
}

/// Offsets of `needle`.
fn memmem<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = needle[0];
    let starts = bytes.iter().enumerate().filter(move |(_, byte)| **byte == first);
    starts.map(|(at, _)| at).filter(move |at| bytes[*at..].starts_with(needle))
}

/// Its dynamic section, which the loader needs to find everything else, is noise.
pub fn with_wild_dynamic_section() -> Vec<u8> {
    const PT_DYNAMIC: u32 = 2;
    changed(|bytes| {
        let header = program_headers(bytes, PT_DYNAMIC).next().expect("a dynamic section");
        let (start, len) = (number(bytes, header + 8), number(bytes, header + 32));
        for (n, byte) in bytes[start..start + len].iter_mut().enumerate() {
            *byte = n.wrapping_mul(151) as u8;
        }
    })
}

/// One of its segments needs far more memory than there is.
pub fn with_vast_data() -> Vec<u8> {
    const PT_LOAD: u32 = 1;
    changed(|bytes| {
        let memory = program_headers(bytes, PT_LOAD).last().expect("a segment to load") + 40;
        bytes[memory..memory + 8].copy_from_slice(&(1_u64 << 62).to_le_bytes());
    })
}

/// Offsets of the program headers of a type, which follow the ELF header.
fn program_headers(bytes: &[u8], kind: u32) -> impl Iterator<Item = usize> + '_ {
    let count = usize::from(u16::from_le_bytes([bytes[56], bytes[57]]));
    (0..count).map(|n| 64 + 56 * n).filter(move |at| bytes[*at..].starts_with(&kind.to_le_bytes()))
}

fn number(bytes: &[u8], at: usize) -> usize {
    let bytes: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes");
    usize::try_from(u64::from_le_bytes(bytes)).expect("a place in a file")
}

/// A library whose manifest was changed by `change`, of any length: it is appended to the file. The two lines of the manifest are the array's
/// elements.
pub fn rewritten(library: &[u8], change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    const HEADER_LEN: usize = 64;
    let mut bytes = library.to_vec();
    let (at, len) = manifest_at(&bytes);
    let lines = bytes[at + HEADER..at + HEADER + len].split(|&byte| byte == b'\n');
    let mut lines: serde_json::Value =
        lines.map(|line| serde_json::from_slice::<serde_json::Value>(line).expect("a line of a manifest")).collect();
    change(&mut lines);
    let json = format!("{}\n{}", lines[0], lines[1]).into_bytes();
    let (end, size) = (bytes.len() as u64, (HEADER + json.len()) as u64);
    let mut section = bytes[at..at + 8].to_vec();
    section.extend_from_slice(&u32::try_from(json.len()).expect("a length").to_le_bytes());
    section.extend_from_slice(&crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&json).to_le_bytes());
    section.extend_from_slice(&json);
    bytes.extend_from_slice(&section);
    // The section headers, each with its offset and size.
    let (start, count) = (number(&bytes, 0x28), usize::from(u16::from_le_bytes([bytes[0x3c], bytes[0x3d]])));
    let mut headers = (0..count).map(|n| start + HEADER_LEN * n);
    let header = headers.find(|header| number(&bytes, header + 24) == at).expect("the header of the manifest's section");
    bytes[header + 24..header + 32].copy_from_slice(&end.to_le_bytes());
    bytes[header + 32..header + 40].copy_from_slice(&size.to_le_bytes());
    bytes
}
