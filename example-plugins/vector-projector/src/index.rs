//! `index.db`: documents, a full-text index (FTS5) and vectors, in SQLite. Owns the file. One run writes it at a time, under a
//! lock; any number may search it at the same time.
//!
//! The full-text index contains [folded](crate::fold) words and not the texts, which are in the table of documents.
//!
//! The index can be rebuilt from its sources, so a commit must be consistent but need not survive power loss.
//!
//! Vectors are compared one by one: 100,000 of them take 51 MB and about a tenth of a second, and no other data structure must
//! be maintained. All vectors are computed with one method, which the index stores ([`EmbeddingInfo`]). The method changes only
//! together with all vectors, in one transaction. A search also reads in one transaction, so it never sees a mixture.

use crate::document::Document;
use crate::embedding::{BODY, Embedding, Vector};
use crate::fold::fold;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod sources;

/// Incremented when the tables change, or what they contain of a line.
const LAYOUT: i64 = 4;

const TABLES: &str = "
    CREATE TABLE about (embedding TEXT NOT NULL, model BLOB);
    INSERT INTO about VALUES ('', NULL);
    CREATE TABLE sources (source INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
    CREATE TABLE origins (source INTEGER NOT NULL, document INTEGER NOT NULL, PRIMARY KEY (source, document)) WITHOUT ROWID;
    CREATE TABLE documents (
        document INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        hash BLOB NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        date TEXT,
        sender TEXT NOT NULL,
        people TEXT NOT NULL,
        title TEXT NOT NULL,
        body TEXT NOT NULL
    );
    CREATE TABLE vectors (document INTEGER PRIMARY KEY, vector BLOB NOT NULL);
    CREATE VIRTUAL TABLE words USING fts5(
        people, title, body, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 2'
    );
    CREATE TRIGGER document_removed AFTER DELETE ON documents BEGIN
        DELETE FROM words WHERE rowid = old.document;
        DELETE FROM vectors WHERE document = old.document;
    END;
";
const NO_TABLES: &str = "
    DROP TABLE IF EXISTS words; DROP TABLE IF EXISTS vectors; DROP TABLE IF EXISTS documents; DROP TABLE IF EXISTS sources;
    DROP TABLE IF EXISTS origins; DROP TABLE IF EXISTS about;
";

/// Weights of matches in people, title and body.
const WEIGHTS: &str = "2.0, 4.0, 1.0";

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error("{}: another run is writing to it; wait for it to end, then run the job again", .0.display())]
    Busy(PathBuf),
    #[error("there is no index yet; run vector-projector/index_documents first")]
    Missing,
    #[error("{}: is corrupt or not an index; move it away and run vector-projector/index_documents to rebuild it", .path.display())]
    Damaged { path: PathBuf, source: rusqlite::Error },
    #[error("{}: was created by another version; run vector-projector/index_documents to rebuild it", .0.display())]
    OtherVersion(PathBuf),
    #[error("{}: {doing} failed", .path.display())]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    #[error("{}: {doing} failed; committed documents are saved, run the job again to continue", .path.display())]
    Sql { path: PathBuf, doing: &'static str, source: rusqlite::Error },
}

impl IndexError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Missing | Self::Damaged { .. } | Self::OtherVersion(_))
    }
}

/// Identity of a line.
pub(crate) type Hash = [u8; 32];

/// Returns the hash of a line.
pub(crate) fn hash(line: &[u8]) -> Hash {
    Sha256::digest(line).into()
}

/// A search result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Match {
    /// Number of the document in the index.
    pub(crate) document: i64,
    /// Higher is better.
    pub(crate) score: f64,
}

/// The displayed fields of a document.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) date: Option<String>,
    pub(crate) sender: String,
    pub(crate) title: String,
    /// The start of its text.
    pub(crate) beginning: String,
}

/// The method with which the vectors were computed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EmbeddingInfo {
    /// Name of the method; empty if there are no vectors yet.
    pub(crate) embedding: String,
    /// Directory of the model, if there is one.
    pub(crate) model: Option<PathBuf>,
}

impl EmbeddingInfo {
    /// Returns the description of a method, to be stored.
    pub(crate) fn by(embedding: &Embedding) -> Self {
        Self { embedding: embedding.name().to_owned(), model: embedding.model().map(Path::to_owned) }
    }
}

/// The input for a vector.
pub(crate) struct Texts {
    pub(crate) document: i64,
    pub(crate) title: String,
    pub(crate) people: String,
    /// The start of the text.
    pub(crate) body: String,
}

/// An open index.
pub(crate) struct Index {
    path: PathBuf,
    db: Connection,
    /// The method with which the vectors were computed.
    pub(crate) made: EmbeddingInfo,
    /// Whether an index with an old layout was discarded.
    pub(crate) is_rebuilt: bool,
    _lock: Option<File>,
}

impl Index {
    /// Opens the index of a directory for writing. Creates it with mode 0600 if necessary.
    pub(crate) fn to_write(dir: &Path) -> Result<Self, IndexError> {
        let path = dir.join("index.db");
        let lock = lock(&dir.join(".index.lock"), &path)?;
        // SQLite would create it with the umask's mode; its auxiliary files inherit the mode of this file.
        let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        made.map_err(|source| IndexError::Io { path: path.clone(), doing: "creating it", source })?;
        let mut index = Self::connect(path, Some(lock))?;
        match index.about()? {
            Some((LAYOUT, made)) => index.made = made,
            other => {
                index.is_rebuilt = other.is_some_and(|(layout, _)| layout != 0);
                let tables = format!("BEGIN IMMEDIATE; {NO_TABLES} {TABLES} PRAGMA user_version = {LAYOUT}; COMMIT;");
                index.db.execute_batch(&tables).map_err(|source| index.failed("creating its tables", source))?;
            }
        }
        Ok(index)
    }

    /// Opens the index of a directory for searching.
    pub(crate) fn to_search(dir: &Path) -> Result<Self, IndexError> {
        let path = dir.join("index.db");
        if !path.is_file() {
            return Err(IndexError::Missing);
        }
        let mut index = Self::connect(path, None)?;
        // One read transaction until it is closed, for consistent results.
        index.db.execute_batch("BEGIN").map_err(|source| index.failed("opening it", source))?;
        match index.about()? {
            // Created, but killed before it had tables or vectors.
            Some((0, _)) | None => Err(IndexError::Missing),
            Some((LAYOUT, made)) if made.embedding.is_empty() => Err(IndexError::Missing),
            Some((LAYOUT, made)) => {
                index.made = made;
                Ok(index)
            }
            Some(_) => Err(index.other_version()),
        }
    }

    fn connect(path: PathBuf, lock: Option<File>) -> Result<Self, IndexError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags);
        let db = opened.map_err(|source| failed(&path, "opening it", source))?;
        let set = db.busy_timeout(Duration::from_secs(60)).and_then(|()| {
            db.set_prepared_statement_cache_capacity(32);
            db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
        });
        set.map_err(|source| failed(&path, "opening it", source))?;
        Ok(Self { path, db, made: EmbeddingInfo::default(), is_rebuilt: false, _lock: lock })
    }

    /// Reads layout and method. Layout 0 is an empty file; of an unknown layout only the number is read.
    fn about(&self) -> Result<Option<(i64, EmbeddingInfo)>, IndexError> {
        let read = || -> rusqlite::Result<Option<(i64, EmbeddingInfo)>> {
            let layout: i64 = self.db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if layout == 0 {
                let tables: i64 = self.db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
                return Ok((tables == 0).then(|| (0, EmbeddingInfo::default())));
            }
            if layout != LAYOUT {
                return Ok(Some((layout, EmbeddingInfo::default())));
            }
            let made = self.db.query_row("SELECT embedding, model FROM about", [], |row| {
                let model: Option<Vec<u8>> = row.get(1)?;
                Ok(EmbeddingInfo { embedding: row.get(0)?, model: model.map(|path| PathBuf::from(OsStr::from_bytes(&path))) })
            });
            Ok(Some((layout, made?)))
        };
        read().map_err(|source| self.failed("reading its size", source))
    }

    /// Starts a batch, which is a transaction.
    pub(crate) fn begin(&self) -> Result<(), IndexError> {
        self.db.execute_batch("BEGIN IMMEDIATE").map_err(|source| self.failed("writing", source))
    }

    /// Commits a batch.
    pub(crate) fn commit(&self) -> Result<(), IndexError> {
        self.db.execute_batch("COMMIT").map_err(|source| self.failed("writing", source))
    }

    /// Returns the document of a line with this hash.
    pub(crate) fn of_line(&self, hash: &Hash) -> Result<Option<i64>, IndexError> {
        self.number("SELECT document FROM documents WHERE hash = ?1", hash.as_slice())
    }

    /// Returns the document with this id.
    pub(crate) fn of_id(&self, id: &str) -> Result<Option<i64>, IndexError> {
        self.number("SELECT document FROM documents WHERE id = ?1", id)
    }

    fn number(&self, sql: &str, key: impl rusqlite::ToSql) -> Result<Option<i64>, IndexError> {
        let look = || self.db.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional();
        look().map_err(|source| self.failed("reading", source))
    }

    /// Writes a document and its vector, replacing `old` if given. Returns its number.
    pub(crate) fn put(&mut self, old: Option<i64>, document: &Document, vector: &Vector, hash: &Hash) -> Result<i64, IndexError> {
        let Document { id, kind, date, sender, people, title, body, .. } = document;
        let put = || -> rusqlite::Result<i64> {
            let number = match old {
                Some(number) => {
                    let sql = "UPDATE documents SET id = ?1, hash = ?2, kind = ?3, date = ?4, sender = ?5, people = ?6, \
                               title = ?7, body = ?8 WHERE document = ?9";
                    let mut update = self.db.prepare_cached(sql)?;
                    update.execute(params![id, hash, kind, date, sender, people, title, body, number])?;
                    number
                }
                None => {
                    let sql = "INSERT INTO documents (id, hash, kind, date, sender, people, title, body) \
                               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
                    let mut insert = self.db.prepare_cached(sql)?;
                    insert.insert(params![id, hash, kind, date, sender, people, title, body])?
                }
            };
            let words = "REPLACE INTO words (rowid, people, title, body) VALUES (?1, ?2, ?3, ?4)";
            self.db.prepare_cached(words)?.execute(params![number, fold(people), fold(title), fold(body)])?;
            Ok(number)
        };
        let number = put().map_err(|source| self.failed("writing", source))?;
        self.put_vector(number, vector)?;
        Ok(number)
    }

    /// Writes the vector of a document.
    pub(crate) fn put_vector(&self, document: i64, vector: &Vector) -> Result<(), IndexError> {
        let put = || self.db.prepare_cached("REPLACE INTO vectors VALUES (?1, ?2)")?.execute(params![document, vector.bytes()]);
        put().map(drop).map_err(|source| self.failed("writing", source))
    }

    /// Returns the vector inputs of at most `limit` documents after this one, in order.
    pub(crate) fn texts_after(&self, document: i64, limit: usize) -> Result<Vec<Texts>, IndexError> {
        let read = || -> rusqlite::Result<Vec<Texts>> {
            let sql = "SELECT document, title, people, substr(body, 1, ?3) FROM documents WHERE document > ?1 ORDER BY document LIMIT ?2";
            let texts = |row: &rusqlite::Row<'_>| {
                Ok(Texts { document: row.get(0)?, title: row.get(1)?, people: row.get(2)?, body: row.get(3)? })
            };
            self.db.prepare_cached(sql)?.query_map(params![document, as_limit(limit), as_limit(BODY)], texts)?.collect()
        };
        read().map_err(|source| self.failed("reading", source))
    }

    /// Stores the method, in the transaction that recomputes the vectors.
    pub(crate) fn remember(&mut self, made: EmbeddingInfo) -> Result<(), IndexError> {
        let model = made.model.as_ref().map(|path| path.as_os_str().as_bytes());
        let written = self.db.execute("UPDATE about SET embedding = ?1, model = ?2", params![made.embedding, model]);
        written.map_err(|source| self.failed("writing", source))?;
        self.made = made;
        Ok(())
    }

    /// Returns the number of documents.
    pub(crate) fn len(&self) -> Result<u64, IndexError> {
        let count = self.db.query_row("SELECT count(*) FROM documents", [], |row| row.get::<_, i64>(0));
        count.map(i64::unsigned_abs).map_err(|source| self.failed("reading", source))
    }

    /// Returns the size of the file after a checkpoint of the write-ahead log.
    pub(crate) fn size(&self) -> Result<u64, IndexError> {
        // The checkpoint is incomplete during a search, which is not an error.
        let folded = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        folded.map_err(|source| self.failed("writing", source))?;
        let size = std::fs::metadata(&self.path).map(|metadata| metadata.len());
        size.map_err(|source| IndexError::Io { path: self.path.clone(), doing: "reading its size", source })
    }

    /// Returns the best matches by words, best first. `terms` is an FTS5 query.
    pub(crate) fn by_words(&self, terms: &str, limit: usize) -> Result<Vec<Match>, IndexError> {
        let sql = format!(
            "SELECT rowid, -bm25(words, {WEIGHTS}) AS score FROM words WHERE words MATCH ?1 ORDER BY score DESC, rowid LIMIT ?2"
        );
        let read = || -> rusqlite::Result<Vec<Match>> {
            let found = |row: &rusqlite::Row<'_>| Ok(Match { document: row.get(0)?, score: row.get(1)? });
            self.db.prepare_cached(&sql)?.query_map(params![terms, as_limit(limit)], found)?.collect()
        };
        read().map_err(|source| self.failed("searching", source))
    }

    /// Returns the most similar documents with a similarity of at least `least`, best first.
    pub(crate) fn by_vector(&self, wanted: &Vector, limit: usize, least: f64) -> Result<Vec<Match>, IndexError> {
        let read = || -> rusqlite::Result<Vec<Match>> {
            let mut select = self.db.prepare_cached("SELECT document, vector FROM vectors")?;
            let mut rows = select.query([])?;
            let mut found: Vec<Match> = Vec::new();
            let mut least = least;
            while let Some(row) = rows.next()? {
                let stored = row.get_ref(1)?.as_blob().unwrap_or_default();
                let Some(score) = wanted.nearness(stored).map(f64::from).filter(|score| *score >= least) else { continue };
                found.push(Match { document: row.get(0)?, score });
                if found.len() >= limit.saturating_mul(4).max(64) {
                    keep_best(&mut found, limit);
                    least = found.last().map_or(least, |worst| worst.score);
                }
            }
            keep_best(&mut found, limit);
            Ok(found)
        };
        read().map_err(|source| self.failed("searching", source))
    }

    /// Returns the displayed fields of a document.
    pub(crate) fn shown(&self, document: i64) -> Result<Shown, IndexError> {
        let read = || -> rusqlite::Result<Shown> {
            let sql = "SELECT id, kind, date, sender, title, substr(body, 1, 400) FROM documents WHERE document = ?1";
            self.db.prepare_cached(sql)?.query_row([document], |row| {
                Ok(Shown {
                    id: row.get(0)?,
                    kind: row.get(1)?,
                    date: row.get(2)?,
                    sender: row.get(3)?,
                    title: row.get(4)?,
                    beginning: row.get(5)?,
                })
            })
        };
        read().map_err(|source| self.failed("reading", source))
    }

    /// Returns a document's text.
    pub(crate) fn body(&self, document: i64) -> Result<String, IndexError> {
        let read =
            || self.db.prepare_cached("SELECT body FROM documents WHERE document = ?1")?.query_row([document], |row| row.get(0));
        read().map_err(|source| self.failed("reading", source))
    }

    /// The error for vectors of another version.
    pub(crate) fn other_version(&self) -> IndexError {
        IndexError::OtherVersion(self.path.clone())
    }

    fn failed(&self, doing: &'static str, source: rusqlite::Error) -> IndexError {
        failed(&self.path, doing, source)
    }
}

fn failed(path: &Path, doing: &'static str, source: rusqlite::Error) -> IndexError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => IndexError::Damaged { path, source },
        _ => IndexError::Sql { path, doing, source },
    }
}

fn keep_best(found: &mut Vec<Match>, limit: usize) {
    found.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.document.cmp(&b.document)));
    found.truncate(limit);
}

fn as_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn lock(lock: &Path, index: &Path) -> Result<File, IndexError> {
    let failed = |doing| move |source| IndexError::Io { path: lock.to_owned(), doing, source };
    let file = package_support::lock::open(lock).map_err(failed("opening it"))?;
    if package_support::lock::acquire(&file).map_err(failed("locking it"))? {
        Ok(file)
    } else {
        Err(IndexError::Busy(index.to_owned()))
    }
}
