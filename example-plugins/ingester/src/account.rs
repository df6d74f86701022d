//! The account that mail belongs to, and the file name derived from it.

use std::fmt::Write as _;

/// Maximum length of a file name without `.jsonl`, in bytes. File systems allow 255.
const MAX_FILE_NAME: usize = 200;

/// An account with its file name. Two accounts never have the same file name, not even on a case-insensitive file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    name: String,
    file_name: String,
}

/// Why an account name is invalid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum AccountError {
    #[error("the account is empty; give it a name, or omit --account")]
    Empty,
}

impl Account {
    /// Returns the account with this name, or `default` if there is none.
    ///
    /// The file name keeps `a-z 0-9 @ + - _` and `.` (except at the start, which would hide the file). Every other byte,
    /// including `%` and capitals, becomes `%` and two hexadecimal digits. A name that gets too long is
    /// cut, and ends with its sha256.
    pub(crate) fn new(name: Option<&str>) -> Result<Self, AccountError> {
        let name = name.unwrap_or("default");
        if name.is_empty() {
            return Err(AccountError::Empty);
        }
        let mut file_name = String::with_capacity(name.len() + 6);
        for (i, byte) in name.bytes().enumerate() {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'@' | b'+' | b'-' | b'_' => file_name.push(char::from(byte)),
                b'.' if i > 0 => file_name.push('.'),
                // Writing to a String cannot fail.
                _ => drop(write!(file_name, "%{byte:02x}")),
            }
        }
        let mut file_name = package_support::file_name::cut(file_name, name, MAX_FILE_NAME);
        file_name.push_str(".jsonl");
        Ok(Self { name: name.to_owned(), file_name })
    }

    /// The name as given.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The file name, without a directory.
    pub(crate) fn file_name(&self) -> &str {
        &self.file_name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn file(name: &str) -> String {
        Account::new(Some(name)).unwrap().file_name
    }

    #[test]
    fn usual_names_stay_readable() {
        assert_eq!(file("acct1-personal"), "acct1-personal.jsonl");
        assert_eq!(file("anna.berg+lists@example.org"), "anna.berg+lists@example.org.jsonl");
        assert_eq!(Account::new(None).unwrap(), Account::new(Some("default")).unwrap());
    }

    #[test]
    fn no_name_leaves_the_directory_or_is_hidden() {
        for (name, expected) in [
            ("..", "%2e..jsonl"),
            (".hidden", "%2ehidden.jsonl"),
            ("../../etc/passwd", "%2e.%2f..%2fetc%2fpasswd.jsonl"),
            ("a\0b\n", "a%00b%0a.jsonl"),
            ("Ä", "%c3%84.jsonl"),
        ] {
            assert_eq!(file(name), expected);
        }
    }

    #[test]
    fn different_accounts_have_different_files() {
        let pieces = ["a", "A", "%", "%41", "41", ".", "/", "%2f", "2f", "ä", " ", "-"];
        let mut seen = HashMap::new();
        for x in pieces {
            for y in pieces {
                for z in ["", "a", "%"] {
                    let name = format!("{x}{y}{z}");
                    if let Some(other) = seen.insert(file(&name).to_lowercase(), name.clone()) {
                        assert_eq!(other, name, "two accounts, one file");
                    }
                }
            }
        }
    }

    #[test]
    fn empty_and_overlong_names_are_refused() {
        assert_eq!(Account::new(Some("")), Err(AccountError::Empty));
        let long = ["a".repeat(201), "a".repeat(202), "A".repeat(67), "A".repeat(68), "/".repeat(67)];
        let files: std::collections::BTreeSet<String> =
            long.iter().map(|name| Account::new(Some(name)).unwrap().file_name().to_owned()).collect();
        assert!(files.len() == long.len() && files.iter().all(|file| file.len() <= MAX_FILE_NAME + 6), "{files:?}");
    }
}
