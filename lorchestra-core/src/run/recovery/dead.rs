//! How a dead run ended: by its spool, its supervisor's note and, if its spec has one, the claim of its window. When it ended: at the last
//! change of one of these files or of its output, not when a later command finds it.

use super::RecoveryError;
use crate::host::state::StateDir;
use crate::outcome::Outcome;
use crate::run::claim;
use crate::run::decision::Death;
use crate::run::ending::{DeadRun, earlier, reconstruct_end};
use crate::run::intake::Ingest;
use crate::run::note;
use crate::run::traces::{has_content, remove_temp};
use crate::spool::reader::Writing;
use crate::spool::writer::segment_path;
use crate::store::{Run, RunEnd, Store};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// How much older than the clock the time of a change may be: the kernel takes it from the last tick.
const TICK: Duration = Duration::from_millis(10);

/// Determines how a dead run ended.
pub(super) fn end_of(state: &StateDir, store: &mut Store, run: &Run) -> Result<(Outcome, RunEnd), RecoveryError> {
    let (run_id, attempt) = (run.run_id.as_str(), run.attempts);
    // Checked before its events are ingested. The lock rules out that the run is just removing its own spool.
    let lost = !state.run_spool(run_id).is_dir();
    remove_temp(&state.attempt_temp(run_id, attempt));
    let ingested = store.ingested(run_id, attempt)?;
    let spool = state.attempt_spool(run_id, attempt);
    let first = ingested.cursor.segment;
    let mut ingest = Ingest::new(run_id, attempt, &spool, ingested);
    let mut all = |store: &mut Store| ingest.all(store, Writing::Dead);
    // A segment with a successor is removed after it was ingested, and from then on the store must not lose its events. The last segment
    // stays until the ends are committed, which makes everything before it durable too.
    if segment_path(&spool, first + 1).exists() {
        all(store)?;
    } else {
        store.deferred(all)??;
    }
    let last = store.attempts(run_id)?.pop();
    let over = last.as_ref().is_some_and(|attempt| attempt.ended_at.is_some());
    let note = state.attempt_note(run_id, attempt);
    let known = last.map_or(run.started_at, |attempt| attempt.ended_at.unwrap_or(attempt.started_at));
    let ended_at = last_change(&spool, &[note, state.output(run_id, attempt)])
        .map_or(known, |at| at.max(known))
        .min(crate::host::clock::now_micros())
        .max(run.started_at);
    let mut seen = note::read(&state.attempt_note(run_id, attempt));
    if lost {
        seen.death = Some(Death::SpoolMissing);
    }
    let dead = DeadRun {
        attempt,
        over,
        ingested: ingest.ingested,
        seen,
        printed: has_content(&state.output(run_id, attempt)),
        earlier: earlier(store, run_id, attempt)?,
        started_at: run.started_at,
        ended_at,
    };
    let (outcome, mut end) = reconstruct_end(dead);
    let outcome = claimed(state, store, run, outcome, lost)?;
    end.terminal.failure = match &outcome {
        Outcome::Completed => None,
        Outcome::Failed(failure) => Some(failure.clone()),
    };
    Ok((outcome, end))
}

/// Returns the time of the last change of the files in a directory, and of other files, in microseconds since 1970.
fn last_change(spool: &Path, others: &[PathBuf]) -> Option<i64> {
    let inside = std::fs::read_dir(spool).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let changed = |path: PathBuf| std::fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok();
    let last = inside.chain(others.iter().cloned()).filter_map(changed).max()?;
    i64::try_from((last + TICK).duration_since(UNIX_EPOCH).ok()?.as_micros()).ok()
}

/// Decides whether a run counts whose job has succeeded, if its spec has a claim: what the supervisor would have done ([`claim`]). `lost`:
/// the spool, which may have shown that, is missing.
fn claimed(state: &StateDir, store: &mut Store, run: &Run, outcome: Outcome, lost: bool) -> Result<Outcome, RecoveryError> {
    let run_id = run.run_id.as_str();
    let spec = run.spec();
    // A run without a claim has nothing to decide, whatever its job has left in the place of its spool.
    if spec.as_ref().is_ok_and(|spec| spec.claim.is_none()) {
        return Ok(outcome);
    }
    let path = state.run_spool(run_id);
    // Made only after the job had succeeded: a power loss may have taken the final record.
    let is_marked = claim::is_marked(state, run_id).map_err(|source| RecoveryError::Io { path, source })?;
    if outcome != Outcome::Completed && !is_marked && !lost {
        return Ok(outcome);
    }
    let undecided = |reason: String| RecoveryError::Undecided { run_id: run_id.to_owned(), reason };
    let spec = spec.map_err(|error| undecided(format!("its spec cannot be read: {error}")))?;
    let Some(path) = spec.claim.as_ref().map(PathBuf::from) else { return Ok(outcome) };
    let token = store.first_event(run_id)?.ok_or_else(|| undecided("its first event is missing".into()))?;
    let claimant = claim::Claimant { run_id, token: &token, host: &run.host };
    let verdict = if is_marked { claim::commit(&path, claimant).map(Some) } else { claim::read(&path, claimant) };
    match verdict.map_err(|source| RecoveryError::Io { path, source })? {
        Some(verdict) if outcome == Outcome::Completed || is_marked => {
            if let claim::ClaimVerdict::Lost(holder) = &verdict {
                store.record_claimed(holder, &spec)?;
            }
            Ok(verdict.outcome())
        }
        // The spool is missing, but the claim shows that the job has succeeded.
        Some(claim::ClaimVerdict::Won) => Ok(Outcome::Completed),
        None if outcome == Outcome::Completed => Ok(claim::not_asked("its supervisor died before that")),
        _ => Ok(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::locks::FileLock;
    use crate::plan::RunSpec;
    use crate::run::recovery::close_all_abandoned;
    use crate::store::tests::{new_run, started};
    use crate::store::{NewRun, RunState};
    use std::fs;
    use std::path::Path;

    const RUN: &str = "0193a000-0000-7000-8000-000000000001";

    /// A run with a claim whose supervisor and worker are dead, and whose spool is empty.
    fn dead_claimant(dir: &Path) -> (StateDir, Store, PathBuf) {
        let state = StateDir::open(&dir.join("state")).unwrap();
        let mut store = Store::open(&state).unwrap();
        let claim = dir.join("claims/0");
        let run = new_run(RUN);
        let spec = RunSpec { claim: Some(claim.display().to_string()), ..run.spec.clone() };
        store.begin_run(&NewRun { spec, ..run }, &started()).unwrap();
        fs::create_dir_all(state.attempt_spool(RUN, 1)).unwrap();
        drop(FileLock::take(&state.run_lock(RUN)).unwrap());
        (state, store, claim)
    }

    fn commit(store: &Store, claim: &Path) {
        let token = store.first_event(RUN).unwrap().unwrap();
        claim::commit(claim, claim::Claimant { run_id: RUN, token: &token, host: "host" }).unwrap();
    }

    /// A power loss takes the final record of a run, but not its mark and its claim.
    #[test]
    fn a_run_with_a_mark_has_succeeded_even_if_its_final_record_is_gone() {
        for before in ["nobody", "this run", "another run"] {
            let dir = tempfile::tempdir().unwrap();
            let (state, mut store, claim) = dead_claimant(dir.path());
            claim::mark(&state, RUN, 1).unwrap();
            match before {
                "this run" => commit(&store, &claim),
                "another run" => {
                    claim::commit(&claim, claim::Claimant { run_id: "other", token: "t", host: "h" }).unwrap();
                }
                _ => {}
            }
            let closed = close_all_abandoned(&state, &mut store).unwrap();
            assert!(closed.stuck.is_empty(), "{closed:?}");
            let run = store.run(RUN).unwrap().unwrap();
            let expected = if before == "another run" { RunState::Superseded } else { RunState::Completed };
            assert_eq!(run.state, expected, "{before}");
            let other = store.run("other").unwrap().map(|run| (run.state, run.host));
            assert_eq!(other, (before == "another run").then(|| (RunState::Claimed, "h".to_owned())), "{before}");
        }
    }

    #[test]
    fn without_a_mark_a_run_is_closed_by_its_spool() {
        let dir = tempfile::tempdir().unwrap();
        let (state, mut store, claim) = dead_claimant(dir.path());
        close_all_abandoned(&state, &mut store).unwrap();
        assert_eq!(store.run(RUN).unwrap().unwrap().state, RunState::Failed);
        assert!(!claim.exists());
        // With the spool gone, the claim decides.
        let dir = tempfile::tempdir().unwrap();
        let (state, mut store, claim) = dead_claimant(dir.path());
        commit(&store, &claim);
        fs::remove_dir_all(state.run_spool(RUN)).unwrap();
        close_all_abandoned(&state, &mut store).unwrap();
        assert_eq!(store.run(RUN).unwrap().unwrap().state, RunState::Completed);
    }

    #[test]
    fn a_run_stays_open_if_its_spec_its_token_or_its_mark_cannot_be_read() {
        for (sql, message) in [
            ("UPDATE runs SET spec = '{}'", "its spec cannot be read"),
            ("DELETE FROM events", "its first event is missing"),
            ("", "it is a loop"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (state, mut store, claim) = dead_claimant(dir.path());
            claim::mark(&state, RUN, 1).unwrap();
            if sql.is_empty() {
                let marker = state.run_spool(RUN).join("claiming");
                fs::remove_file(&marker).unwrap();
                std::os::unix::fs::symlink("claiming", &marker).unwrap();
            }
            rusqlite::Connection::open(state.store()).unwrap().execute_batch(sql).unwrap();
            let closed = close_all_abandoned(&state, &mut store).unwrap();
            assert_eq!((closed.recovered.len(), closed.stuck.len()), (0, 1), "{message}: {closed:?}");
            assert!(sql.is_empty() || closed.stuck[0].1.to_string().contains(message), "{closed:?}");
            assert_eq!(store.run(RUN).unwrap().unwrap().state, RunState::Running, "{message}");
            assert!(!claim.exists(), "{message}");
        }
    }
}
