//! Converts a limit on the number of runs, or on their size, to the age from which runs are too many.

use crate::store::{Store, StoreError};
use rusqlite::OptionalExtension;

impl Store {
    /// Returns when the newest run ended that is not among the `keep` newest ended ones. Walks over `keep` entries of an index.
    pub fn end_beyond(&self, keep: u64) -> Result<Option<i64>, StoreError> {
        self.read("counting runs", |db| {
            let sql = "SELECT ended_at FROM runs WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT 1 OFFSET ?1";
            db.query_row(sql, [i64::try_from(keep).unwrap_or(i64::MAX)], |row| row.get(0)).optional()
        })
    }

    /// Returns the number of runs that have ended. Walks over an index.
    pub fn ended_runs(&self) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM runs WHERE ended_at IS NOT NULL";
        let count: i64 = self.read("counting runs", |db| db.query_row(sql, [], |row| row.get(0)))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Returns the number of bytes of the store that are in use: free pages are reused before the file grows.
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        let bytes = self.read("measuring the store", |db| {
            let value = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            Ok((value("page_count")? - value("freelist_count")?) * value("page_size")?)
        })?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }
}
