//! Which documents are in which files: a document stays in the index as long as a file contains it. Part of [`Index`]; uses
//! only its database.

use super::{Index, IndexError};
use rusqlite::params;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

impl Index {
    /// Returns the number of a file by its real path, if it was ever read.
    pub(crate) fn source(&self, path: &Path) -> Result<Option<i64>, IndexError> {
        self.number("SELECT source FROM sources WHERE path = ?1", path.as_os_str().as_bytes())
    }

    /// Returns the number of a file, which is assigned if necessary.
    pub(crate) fn enter_source(&self, path: &Path) -> Result<i64, IndexError> {
        if let Some(source) = self.source(path)? {
            return Ok(source);
        }
        let enter = || self.db.prepare_cached("INSERT INTO sources (path) VALUES (?1)")?.insert([path.as_os_str().as_bytes()]);
        enter().map_err(|source| self.failed("writing", source))
    }

    /// Returns all files ever read, in the order of the first time.
    pub(crate) fn sources(&self) -> Result<Vec<PathBuf>, IndexError> {
        let read = || -> rusqlite::Result<Vec<PathBuf>> {
            let mut select = self.db.prepare("SELECT path FROM sources ORDER BY source")?;
            let paths = select.query_map([], |row| Ok(PathBuf::from(OsStr::from_bytes(row.get_ref(0)?.as_blob()?))))?;
            paths.collect()
        };
        read().map_err(|source| self.failed("reading", source))
    }

    /// Returns the documents of a file, ascending.
    pub(crate) fn of_source(&self, source: i64) -> Result<Vec<i64>, IndexError> {
        let read = || -> rusqlite::Result<Vec<i64>> {
            let mut select = self.db.prepare_cached("SELECT document FROM origins WHERE source = ?1 ORDER BY document")?;
            select.query_map([source], |row| row.get(0))?.collect()
        };
        read().map_err(|source| self.failed("reading", source))
    }

    /// Records that a file contains a document.
    pub(crate) fn add_origin(&self, source: i64, document: i64) -> Result<(), IndexError> {
        let add = || self.db.prepare_cached("INSERT INTO origins VALUES (?1, ?2)")?.execute(params![source, document]);
        add().map(drop).map_err(|source| self.failed("writing", source))
    }

    /// Records that a file no longer contains these documents, in one transaction. Removes those that are in no other file,
    /// and returns their number.
    pub(crate) fn leave(&self, source: i64, documents: &[i64]) -> Result<u64, IndexError> {
        self.begin()?;
        let leave = || -> rusqlite::Result<usize> {
            let mut leave = self.db.prepare_cached("DELETE FROM origins WHERE source = ?1 AND document = ?2")?;
            // One query per file: there are few files, and an index by document would make every insert slower.
            let sql = "DELETE FROM documents WHERE document = ?1 AND NOT EXISTS (SELECT 1 FROM sources CROSS JOIN origins \
                       ON origins.source = sources.source AND origins.document = ?1)";
            let mut delete = self.db.prepare_cached(sql)?;
            let mut removed = 0;
            for document in documents {
                leave.execute(params![source, document])?;
                removed += delete.execute([document])?;
            }
            Ok(removed)
        };
        let removed = leave().map_err(|source| self.failed("removing", source))?;
        self.commit()?;
        Ok(removed as u64)
    }

    /// Removes a file without documents from the list.
    pub(crate) fn drop_source(&self, source: i64) -> Result<(), IndexError> {
        let dropped = self.db.execute("DELETE FROM sources WHERE source = ?1", [source]);
        dropped.map(drop).map_err(|source| self.failed("removing", source))
    }
}
