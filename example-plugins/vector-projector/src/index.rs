//! `index.db`: documents, their words (FTS5) and their vectors, in SQLite. Owns the file; one run writes it at a time, under a lock,
//! and any number search it meanwhile. Talks to the file system only.
//!
//! It is derived: what is lost with it is the time to make it again. So a commit need not survive power loss, only be whole.
//!
//! Vectors are compared one by one. A hundred thousand of them are 51 MB and about a tenth of a second, and no other structure has to
//! be kept right when documents come and go. All of them are made in one way, which the index remembers ([`Made`]); it is changed
//! together with all vectors, in one transaction, or not at all. A search reads in one transaction too, and so never meets both.

use crate::document::Document;
use crate::embedding::{BODY, Embedding, Vector};
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

/// Grows with the tables.
const LAYOUT: i64 = 2;

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
        people, title, body, content = 'documents', content_rowid = 'document', tokenize = 'unicode61 remove_diacritics 2'
    );
    CREATE TRIGGER document_added AFTER INSERT ON documents BEGIN
        INSERT INTO words (rowid, people, title, body) VALUES (new.document, new.people, new.title, new.body);
    END;
    CREATE TRIGGER document_removed AFTER DELETE ON documents BEGIN
        INSERT INTO words (words, rowid, people, title, body) VALUES ('delete', old.document, old.people, old.title, old.body);
        DELETE FROM vectors WHERE document = old.document;
    END;
    CREATE TRIGGER document_changed AFTER UPDATE ON documents BEGIN
        INSERT INTO words (words, rowid, people, title, body) VALUES ('delete', old.document, old.people, old.title, old.body);
        INSERT INTO words (rowid, people, title, body) VALUES (new.document, new.people, new.title, new.body);
    END;
";
const NO_TABLES: &str = "
    DROP TABLE IF EXISTS words; DROP TABLE IF EXISTS vectors; DROP TABLE IF EXISTS documents; DROP TABLE IF EXISTS sources;
    DROP TABLE IF EXISTS origins; DROP TABLE IF EXISTS about;
";

/// How much more a word says in the people, the title, the body.
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
    /// Whether another attempt must end the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Missing | Self::Damaged { .. } | Self::OtherVersion(_))
    }
}

/// What a line is known by.
pub(crate) type Hash = [u8; 32];

/// The hash of a line.
pub(crate) fn hash(line: &[u8]) -> Hash {
    Sha256::digest(line).into()
}

/// A document that was found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    /// Its number in the index.
    pub(crate) document: i64,
    /// The larger, the better.
    pub(crate) score: f64,
}

/// What is shown of a document.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) date: Option<String>,
    pub(crate) sender: String,
    pub(crate) title: String,
    /// The beginning of its text.
    pub(crate) beginning: String,
}

/// How the vectors were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Made {
    /// The name of the way; empty where no vector was made yet.
    pub(crate) embedding: String,
    /// Where the model was, if it was one.
    pub(crate) model: Option<PathBuf>,
}

impl Made {
    /// What is to be remembered of vectors made in this way.
    pub(crate) fn by(embedding: &Embedding) -> Self {
        Self { embedding: embedding.name().to_owned(), model: embedding.model().map(Path::to_owned) }
    }
}

/// What a vector is made of.
pub(crate) struct Texts {
    pub(crate) document: i64,
    pub(crate) title: String,
    pub(crate) people: String,
    /// Its beginning.
    pub(crate) body: String,
}

/// The index, open.
pub(crate) struct Index {
    path: PathBuf,
    db: Connection,
    /// How its vectors were made.
    pub(crate) made: Made,
    /// Whether an index of another version was thrown away.
    pub(crate) is_anew: bool,
    _lock: Option<File>,
}

impl Index {
    /// The index of a directory, to be written; made if it is not there (0600).
    pub(crate) fn to_write(dir: &Path) -> Result<Self, IndexError> {
        let path = dir.join("index.db");
        let lock = lock(&dir.join(".index.lock"), &path)?;
        // SQLite would make it as the umask has it, and its companions as the file is.
        let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        made.map_err(|source| IndexError::Io { path: path.clone(), doing: "creating it", source })?;
        let mut index = Self::connect(path, Some(lock))?;
        match index.about()? {
            Some((LAYOUT, made)) => index.made = made,
            other => {
                index.is_anew = other.is_some_and(|(layout, _)| layout != 0);
                let tables = format!("BEGIN IMMEDIATE; {NO_TABLES} {TABLES} PRAGMA user_version = {LAYOUT}; COMMIT;");
                index.db.execute_batch(&tables).map_err(|source| index.failed("creating its tables", source))?;
            }
        }
        Ok(index)
    }

    /// The index of a directory, to be searched.
    pub(crate) fn to_search(dir: &Path) -> Result<Self, IndexError> {
        let path = dir.join("index.db");
        if !path.is_file() {
            return Err(IndexError::Missing);
        }
        let mut index = Self::connect(path, None)?;
        // Until it is closed: what was read of it stays true.
        index.db.execute_batch("BEGIN").map_err(|source| index.failed("opening it", source))?;
        match index.about()? {
            // Made, and killed before the first tables or vectors were there.
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
        Ok(Self { path, db, made: Made::default(), is_anew: false, _lock: lock })
    }

    /// Layout and embedding; a layout of 0 is an empty file, and of another one only the number is read.
    fn about(&self) -> Result<Option<(i64, Made)>, IndexError> {
        let read = || -> rusqlite::Result<Option<(i64, Made)>> {
            let layout: i64 = self.db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if layout == 0 {
                let tables: i64 = self.db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
                return Ok((tables == 0).then(|| (0, Made::default())));
            }
            if layout != LAYOUT {
                return Ok(Some((layout, Made::default())));
            }
            let made = self.db.query_row("SELECT embedding, model FROM about", [], |row| {
                let model: Option<Vec<u8>> = row.get(1)?;
                Ok(Made { embedding: row.get(0)?, model: model.map(|path| PathBuf::from(OsStr::from_bytes(&path))) })
            });
            Ok(Some((layout, made?)))
        };
        read().map_err(|source| self.failed("reading its size", source))
    }

    /// Begins a batch: all of it is written, or nothing.
    pub(crate) fn begin(&self) -> Result<(), IndexError> {
        self.db.execute_batch("BEGIN IMMEDIATE").map_err(|source| self.failed("writing", source))
    }

    /// Ends a batch.
    pub(crate) fn commit(&self) -> Result<(), IndexError> {
        self.db.execute_batch("COMMIT").map_err(|source| self.failed("writing", source))
    }

    /// The document that was made of this line.
    pub(crate) fn of_line(&self, hash: &Hash) -> Result<Option<i64>, IndexError> {
        self.number("SELECT document FROM documents WHERE hash = ?1", hash.as_slice())
    }

    /// The document of this id.
    pub(crate) fn of_id(&self, id: &str) -> Result<Option<i64>, IndexError> {
        self.number("SELECT document FROM documents WHERE id = ?1", id)
    }

    fn number(&self, sql: &str, key: impl rusqlite::ToSql) -> Result<Option<i64>, IndexError> {
        let look = || self.db.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional();
        look().map_err(|source| self.failed("reading", source))
    }

    /// Writes a document in the place of `old`, or a new one, and its vector. Answers with its number.
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

    /// What the vectors of the documents after this one are made of, at most `limit` of them, in their order.
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

    /// Remembers how the vectors were made: in the transaction that makes them.
    pub(crate) fn remember(&mut self, made: Made) -> Result<(), IndexError> {
        let model = made.model.as_ref().map(|path| path.as_os_str().as_bytes());
        let written = self.db.execute("UPDATE about SET embedding = ?1, model = ?2", params![made.embedding, model]);
        written.map_err(|source| self.failed("writing", source))?;
        self.made = made;
        Ok(())
    }

    /// How many documents there are.
    pub(crate) fn len(&self) -> Result<u64, IndexError> {
        let count = self.db.query_row("SELECT count(*) FROM documents", [], |row| row.get::<_, i64>(0));
        count.map(i64::unsigned_abs).map_err(|source| self.failed("reading", source))
    }

    /// Bytes of the file, after what is beside it was put into it.
    pub(crate) fn size(&self) -> Result<u64, IndexError> {
        // Where somebody searches, a part of it stays outside: no error.
        let folded = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        folded.map_err(|source| self.failed("writing", source))?;
        let size = std::fs::metadata(&self.path).map(|metadata| metadata.len());
        size.map_err(|source| IndexError::Io { path: self.path.clone(), doing: "reading its size", source })
    }

    /// The best by words, best first. `terms`: as FTS5 takes it.
    pub(crate) fn by_words(&self, terms: &str, limit: usize) -> Result<Vec<Found>, IndexError> {
        let sql = format!(
            "SELECT rowid, -bm25(words, {WEIGHTS}) AS score FROM words WHERE words MATCH ?1 ORDER BY score DESC, rowid LIMIT ?2"
        );
        let read = || -> rusqlite::Result<Vec<Found>> {
            let found = |row: &rusqlite::Row<'_>| Ok(Found { document: row.get(0)?, score: row.get(1)? });
            self.db.prepare_cached(&sql)?.query_map(params![terms, as_limit(limit)], found)?.collect()
        };
        read().map_err(|source| self.failed("searching", source))
    }

    /// The nearest to a vector, nearest first; none that is farther than `least`.
    pub(crate) fn by_vector(&self, wanted: &Vector, limit: usize, least: f64) -> Result<Vec<Found>, IndexError> {
        let read = || -> rusqlite::Result<Vec<Found>> {
            let mut select = self.db.prepare_cached("SELECT document, vector FROM vectors")?;
            let mut rows = select.query([])?;
            let mut found: Vec<Found> = Vec::new();
            let mut least = least;
            while let Some(row) = rows.next()? {
                let stored = row.get_ref(1)?.as_blob().unwrap_or_default();
                let Some(score) = wanted.nearness(stored).map(f64::from).filter(|score| *score >= least) else { continue };
                found.push(Found { document: row.get(0)?, score });
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

    /// What is shown of a document.
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

    /// The place in a document's text where the words are; `None` if they are not in it.
    pub(crate) fn snippet(&self, terms: &str, document: i64) -> Result<Option<String>, IndexError> {
        let sql = "SELECT snippet(words, 2, '', '', '…', 24) FROM words WHERE words MATCH ?1 AND rowid = ?2";
        let read = || self.db.prepare_cached(sql)?.query_row(params![terms, document], |row| row.get(0)).optional();
        read().map_err(|source| self.failed("searching", source))
    }

    /// That the vectors are of a version before or after this one.
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

fn keep_best(found: &mut Vec<Found>, limit: usize) {
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
