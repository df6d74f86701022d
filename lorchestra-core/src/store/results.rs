//! Results of runs. While an attempt runs, its results are with the attempt, for recovery; at the run's end they become part of the terminal
//! event. Artifacts have a table of their own, because their files are removed with the run, also those of earlier attempts.

use super::{Store, StoreError};
use lorchestra_plugin_api::results::{Artifact, Results};
use rusqlite::{Transaction, params};

/// Keeps the results of a running attempt.
pub(super) fn keep(tx: &Transaction<'_>, run: i64, attempt: u32, results: &Results) -> rusqlite::Result<()> {
    // Serializing cannot fail: they were read from JSON.
    let json = serde_json::to_string(results).ok();
    tx.prepare_cached("UPDATE attempts SET results = ?3 WHERE run = ?1 AND attempt = ?2")?
        .execute(params![run, attempt, json])?;
    keep_artifacts(tx, run, &results.artifacts)
}

/// Keeps the artifacts of an attempt that has ended; its other results are no longer needed here.
pub(super) fn settle(tx: &Transaction<'_>, run: i64, attempt: u32, results: &Results) -> rusqlite::Result<()> {
    if results.is_empty() {
        return Ok(());
    }
    tx.prepare_cached("UPDATE attempts SET results = NULL WHERE run = ?1 AND attempt = ?2")?.execute(params![run, attempt])?;
    keep_artifacts(tx, run, &results.artifacts)
}

fn keep_artifacts(tx: &Transaction<'_>, run: i64, artifacts: &[Artifact]) -> rusqlite::Result<()> {
    let mut statement =
        tx.prepare_cached("INSERT OR REPLACE INTO artifacts (run, path, bytes, inode, changed) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for Artifact { path, bytes, version: (inode, changed) } in artifacts {
        statement.execute(params![run, path, bytes.cast_signed(), inode.cast_signed(), changed])?;
    }
    Ok(())
}

impl Store {
    /// Returns the artifacts of a run, by path.
    pub fn artifacts(&self, run_id: &str) -> Result<Vec<Artifact>, StoreError> {
        let sql =
            "SELECT path, bytes, inode, changed FROM artifacts WHERE run = (SELECT n FROM runs WHERE run_id = ?1) ORDER BY path";
        self.select_artifacts(sql, params![run_id])
    }

    /// Removes the files of a run's artifacts: those that are still the files that the run listed, and that no other run lists. A file that
    /// cannot be removed stays.
    pub(super) fn remove_artifacts(&self, run: i64) -> Result<(), StoreError> {
        let sql = "SELECT path, bytes, inode, changed FROM artifacts a WHERE run = ?1
            AND NOT EXISTS (SELECT 1 FROM artifacts other WHERE other.path = a.path AND other.run <> a.run)";
        for artifact in self.select_artifacts(sql, params![run])? {
            if Artifact::at(&artifact.path).as_ref() == Ok(&artifact)
                && let Err(error) = std::fs::remove_file(&artifact.path)
            {
                tracing::warn!(path = artifact.path, %error, "the artifact of an old run could not be removed");
            }
        }
        Ok(())
    }

    fn select_artifacts(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Artifact>, StoreError> {
        self.read("reading artifacts", |db| {
            let mut statement = db.prepare_cached(sql)?;
            let rows = statement.query_map(values, |row| {
                let (bytes, inode): (i64, i64) = (row.get(1)?, row.get(2)?);
                Ok(Artifact { path: row.get(0)?, bytes: bytes.cast_unsigned(), version: (inode.cast_unsigned(), row.get(3)?) })
            })?;
            rows.collect()
        })
    }
}
