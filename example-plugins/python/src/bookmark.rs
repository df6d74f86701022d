//! Where `--since last` starts: when the last successful run of a function and an account began that was started with it.
//!
//! lorchestra's own bookmarks need a `since` that is a time. That of a Python job is a text whose meaning only the job knows, so the package
//! keeps these in its data directory, one file per function and account.

use lorchestra_plugin_api::chrono::{DateTime, SecondsFormat, Utc};
use lorchestra_plugin_api::serde_json;
use package_support::{atomic_file, file_name};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Maximum length of a file name without its extension, in bytes.
const MAX_NAME: usize = 200;

/// Why a run cannot start where the last one began.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BookmarkError {
    #[error(
        "--since last: {entry} for account {account} has no bookmark yet; use --since last:-30d to start there the first time"
    )]
    Missing { entry: String, account: String },
    #[error("--since last: the bookmark is the start of the run, so --until cannot be set; give a time as --since")]
    Until,
    #[error("cannot read the bookmark {}: {reason}; remove the file and use --since last:TIME", .path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("cannot store the bookmark {}", .path.display())]
    Store { path: PathBuf, source: io::Error },
}

/// The bookmark of a function and an account, which the run moves if it succeeds.
#[derive(Debug)]
pub(crate) struct Bookmark {
    path: PathBuf,
    started: DateTime<Utc>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    at: String,
}

impl Bookmark {
    /// Resolves a `since` of `last` or `last:TEXT` (`TEXT` is for the first run). `None`: it is something else.
    pub(crate) fn resolve(
        since: Option<&str>,
        until: Option<&str>,
        data_dir: &Path,
        (entry, account): (&str, Option<&str>),
    ) -> Result<Option<(Self, String)>, BookmarkError> {
        let first = match since {
            Some("last") => None,
            Some(text) => match text.strip_prefix("last:") {
                Some(first) => Some(first),
                None => return Ok(None),
            },
            None => return Ok(None),
        };
        if until.is_some() {
            return Err(BookmarkError::Until);
        }
        let account = account.unwrap_or("default");
        let bookmark = Self { path: data_dir.join("bookmarks").join(name(entry, account)), started: Utc::now() };
        let unreadable = |reason| BookmarkError::Unreadable { path: bookmark.path.clone(), reason };
        let since = match fs::read(&bookmark.path) {
            Ok(text) => serde_json::from_slice::<Stored>(&text).map_err(|error| unreadable(error.to_string()))?.at,
            Err(error) if error.kind() == io::ErrorKind::NotFound => match first {
                Some(first) => first.to_owned(),
                None => return Err(BookmarkError::Missing { entry: entry.to_owned(), account: account.to_owned() }),
            },
            Err(error) => return Err(unreadable(error.to_string())),
        };
        Ok(Some((bookmark, since)))
    }

    /// The run has succeeded: the next one starts where it began.
    pub(crate) fn advance(&self) -> Result<(), BookmarkError> {
        // `datetime.fromisoformat` of Python 3.8 does not know `Z`.
        let at = self.started.to_rfc3339_opts(SecondsFormat::Micros, false);
        atomic_file::replace(&self.path, &Stored { at })
            .map_err(|source| BookmarkError::Store { path: self.path.clone(), source })
    }
}

impl BookmarkError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        !matches!(self, Self::Store { .. })
    }
}

/// Two functions or accounts never share a name.
fn name(entry: &str, account: &str) -> String {
    let mut escaped = format!("{entry}~");
    for byte in account.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'@' | b'+' | b'-' | b'_' | b'.' => escaped.push(char::from(byte)),
            other => escaped.push_str(&format!("%{other:02x}")),
        }
    }
    file_name::cut(escaped, &format!("{entry}~{account}"), MAX_NAME) + ".json"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_starts_where_the_last_successful_one_began() {
        let dir = tempfile::tempdir().unwrap();
        let resolve = |since: &str, account: &str| {
            Bookmark::resolve(Some(since), None, dir.path(), ("jobs:run", Some(account))).map_err(|error| error.to_string())
        };
        assert!(resolve("-7d", "a").unwrap().is_none() && resolve("lastly", "a").unwrap().is_none());
        let error = resolve("last", "a").unwrap_err();
        assert_eq!(
            error,
            "--since last: jobs:run for account a has no bookmark yet; use --since last:-30d to start there the first time"
        );
        let (bookmark, since) = resolve("last:-30d", "a").unwrap().unwrap();
        assert_eq!(since, "-30d");
        let (_, again) = resolve("last:-30d", "a").unwrap().unwrap();
        assert_eq!(again, "-30d", "the run has not succeeded");
        bookmark.advance().unwrap();
        let (_, since) = resolve("last:-30d", "a").unwrap().unwrap();
        assert_eq!(DateTime::parse_from_rfc3339(&since).unwrap().timestamp_micros(), bookmark.started.timestamp_micros());
        assert!(since.ends_with("+00:00"), "{since}");
        resolve("last", "b/c").unwrap_err();
        assert!(matches!(
            Bookmark::resolve(Some("last"), Some("2024-01-01"), dir.path(), ("jobs:run", Some("a"))),
            Err(BookmarkError::Until)
        ));
    }

    #[test]
    fn every_function_and_account_has_a_file() {
        assert_eq!(name("a.b:c", "Anna@x.example"), "a.b:c~Anna@x.example.json");
        assert_eq!(name("a:b", "../c~"), "a:b~..%2fc%7e.json");
        assert!(name("a:b", &"x".repeat(1000)).len() < 256);
    }
}
