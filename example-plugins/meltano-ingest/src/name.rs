//! Conversion of the names of taps, accounts and streams to file names.

use std::fmt::Write as _;

/// Maximum length of a file name without its extension, in bytes. File systems allow 255.
const MAX: usize = 200;

/// Reserved file names, without extension, used by the archive.
const OURS: [&str; 1] = ["set_aside"];

/// Why a name cannot be converted to a file name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum NameError {
    #[error("the name of {0} is empty")]
    Empty(&'static str),
}

/// Returns the file name for a tap, an account or a stream (`what`).
///
/// It keeps `a-z 0-9 @ + - _` and `.` (except at the start, which would hide the file). Every other byte, including `%`, `~`
/// and capitals, becomes `%` and two hexadecimal digits. Two names never have the same file name, not even on a
/// case-insensitive file system. A name that gets too long is cut, and ends with its sha256.
pub(crate) fn file_name(what: &'static str, name: &str) -> Result<String, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty(what));
    }
    let ours = OURS.contains(&name);
    let mut file_name = String::with_capacity(name.len());
    for (i, byte) in name.bytes().enumerate() {
        match byte {
            _ if ours && i == 0 => drop(write!(file_name, "%{byte:02x}")),
            b'a'..=b'z' | b'0'..=b'9' | b'@' | b'+' | b'-' | b'_' => file_name.push(char::from(byte)),
            b'.' if i > 0 => file_name.push('.'),
            // Writing to a String cannot fail.
            _ => drop(write!(file_name, "%{byte:02x}")),
        }
    }
    Ok(package_support::file_name::cut(file_name, name, MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn file(name: &str) -> String {
        file_name("a stream", name).unwrap()
    }

    #[test]
    fn usual_names_stay_readable() {
        for name in ["people", "public-order_items", "tap-csv", "anna@example.org", "a.b"] {
            assert_eq!(file(name), name);
        }
    }

    #[test]
    fn no_name_leaves_the_directory_is_hidden_or_clashes_with_the_archive() {
        for (name, expected) in [
            ("..", "%2e."),
            (".hidden", "%2ehidden"),
            ("../../etc/passwd", "%2e.%2f..%2fetc%2fpasswd"),
            ("a\0b\n", "a%00b%0a"),
            ("people~7", "people%7e7"),
            ("set_aside", "%73et_aside"),
        ] {
            assert_eq!(file(name), expected);
        }
    }

    #[test]
    fn different_names_have_different_files() {
        let pieces = ["a", "A", "%", "%41", "41", ".", "/", "%2f", "~", "ä", " ", "set_aside"];
        let mut seen = HashMap::new();
        for x in pieces {
            for y in pieces.into_iter().chain([""]) {
                let name = format!("{x}{y}");
                if let Some(other) = seen.insert(file(&name).to_lowercase(), name.clone()) {
                    assert_eq!(other, name, "two names, one file");
                }
            }
        }
    }

    #[test]
    fn empty_names_are_refused_and_long_ones_stay_distinct() {
        assert_eq!(file_name("a stream", ""), Err(NameError::Empty("a stream")));
        let capitals = "PUBLIC_ORDER_ITEMS_".repeat(10);
        let names = [capitals.clone(), format!("{capitals}A"), format!("{capitals}a"), "ä".repeat(200), "x".repeat(5000)];
        let files: std::collections::BTreeSet<String> = names.iter().map(|name| file(name)).collect();
        assert_eq!(files.len(), names.len(), "{files:?}");
        assert!(files.iter().all(|file| file.len() <= MAX && *file == file.to_lowercase()), "{files:?}");
    }
}
