//! Claims: of several runs of one window, exactly one counts.
//!
//! Engines start a window at least once: a node that is frozen or cut off, and its replacement, run side by side. So a spec of an engine has
//! a *claim*, a file in a directory that all nodes share. Owns the protocol by which a run takes it, for the supervisor and for recovery.
//!
//! A run whose job has succeeded, in this order, each step complete before the next:
//!
//! 1. It waits until every destination has all of its events (if the command requires delivery).
//! 2. It syncs the spool of its last attempt, which has the final record. Then it creates the file `claiming` in its own spool directory, and
//!    syncs it: from now on the claim may be taken, and the file proves that the job has succeeded.
//! 3. It writes its *token* into a file of its own next to the claim, syncs it, and links it to the claim's name (link(2), which fails if
//!    the name exists). Whatever the answer, it reads the claim: the run whose token is there has won. The token is the id of the run's
//!    `job.started`, so it is random, exists once, and is known to recovery.
//! 4. It records `job.completed` if it has won. Otherwise it records the winner as *claimed* ([`crate::store::claimed`]), and then
//!    `job.superseded`.
//! 5. The host that watches the group, and a later attempt that finds the claim of another run, record the winner as claimed too, each in
//!    its own store, unless that store has the run itself.
//!
//! A run counts if it has a `job.completed` or a `job.claimed`: the view `<table>_effective` shows the events of these runs. Steps 4 and 5
//! are for a winner whose host never delivers its `job.completed`.
//!
//! Recovery: with `claiming`, whatever else is left of the run, it does step 3 and 4 (again), with the same result as if the supervisor had
//! done it; without, the claim was never asked for, and the run does not end as completed. If the claim, the file `claiming`, the spec or
//! the token cannot be read, the run stays open: nothing is guessed.
//!
//! What holds, for any number of runs, crashes, power failures, frozen processes, duplicates of a request and requests that arrive after their sender has
//! died (`model` checks all of them): at most one run of a window is recorded as completed or claimed, the one that has the claim; that run
//! is recorded as completed, or will be when its node is back; no run is recorded as superseded before another one has won.
//!
//! Limits:
//!
//! - All nodes must use one file system on which link(2) is atomic (NFSv3 and v4, Lustre, local disks; not an object store that imitates
//!   files).
//! - Caches of NFS. A client may believe for up to `acdirmax` (60 s) that a name does not exist. It cannot win by that: link(2) is decided
//!   by the server, whose refusal makes the client forget what it believed, and step 3 reads the claim after it. What an old answer can
//!   cause is only work for nothing: a window that has a claim is run again, and its run is superseded; the watching host submits a window
//!   again whose claim it does not see yet. A file that is read has never changed since it got its name, so no old content can be read. A
//!   soft mount may report an error for a link that the server makes later: the run stays open, and recovery reads the claim.
//! - If the node of the winner is lost together with its disk after step 3, its `job.completed` with result and measurements is lost. All
//!   its other events are delivered (step 1), and count (steps 4 and 5).
//! - A claim must not be removed after someone has recorded its holder: another run could then win too, and both would count.
//! - A claim that cannot be parsed decides nothing: no run of the window starts, and the watching host reports the file.
//! - Runs of one window must have different ids, or the destination cannot distinguish their events: engines pass their attempt.

use crate::host::files::{private_file, regular_file};
use crate::host::signals::signal_name;
use crate::host::state::StateDir;
use crate::outcome::{Cause, Failure, Outcome};
use crate::store::ClaimHolder;
use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, ScopedJoinHandle};

#[cfg(test)]
mod model;

/// The value of `schema`.
const SCHEMA: &str = "lorchestra.claim/1";

/// The claim of a window: the contents of a file in the directory of `run-window --claims`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
struct ClaimRecord {
    #[schemars(extend("const" = "lorchestra.claim/1"))]
    schema: String,
    /// The run that counts.
    run_id: String,
    /// The id of that run's `job.started` event.
    token: String,
    /// Where it runs, for people.
    host: String,
}

impl ClaimRecord {
    fn holder(self) -> ClaimHolder {
        ClaimHolder { run_id: self.run_id, host: self.host }
    }
}

/// Returns the JSON Schema of a claim.
pub fn schema() -> Schema {
    schema_for!(ClaimRecord)
}

/// A run that asks for a claim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claimant<'a> {
    /// Its id.
    pub(crate) run_id: &'a str,
    /// The id of its `job.started`.
    pub(crate) token: &'a str,
    /// The host, for people.
    pub(crate) host: &'a str,
}

/// Whose claim it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClaimVerdict {
    /// The run that asked.
    Won,
    /// Another run.
    Lost(ClaimHolder),
}

impl ClaimVerdict {
    /// Returns the outcome of a run whose job has succeeded.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Won => Outcome::Completed,
            Self::Lost(to) => failed(Cause::Superseded, format!("run {} has completed this window", to.run_id)),
        }
    }
}

/// Returns the outcome of a run that did not ask for its claim, and may be run again.
pub(crate) fn not_asked(why: &str) -> Outcome {
    failed(Cause::Claim, format!("its window was not claimed: {why}"))
}

/// Returns the outcome of a run that a signal stopped before it asked for its claim.
pub(crate) fn cancelled(signal: i32) -> Outcome {
    let message = format!("cancelled by {} before its events were delivered and its window claimed", signal_name(signal));
    let job_result = Some("ok".to_owned());
    Outcome::Failed(Failure {
        cause: Cause::Cancelled,
        message,
        permanent: false,
        job_result,
        signal: Some(signal),
        exit_code: None,
    })
}

fn failed(cause: Cause, message: String) -> Outcome {
    let job_result = Some("ok".to_owned());
    Outcome::Failed(Failure { cause, message, permanent: cause == Cause::Superseded, job_result, signal: None, exit_code: None })
}

/// Step 2: records that the job has succeeded, and that the claim may be taken from now on.
pub(crate) fn mark(state: &StateDir, run_id: &str, attempt: u32) -> io::Result<()> {
    // The worker does not sync its final record.
    let spool = state.attempt_spool(run_id, attempt);
    for segment in fs::read_dir(&spool)? {
        match regular_file(&segment?.path()) {
            Ok(segment) => segment.sync_all()?,
            // Not a segment: the job has created it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut files = vec![private_file(&marker(state, run_id))?];
    for dir in [spool, state.run_spool(run_id), state.spools()] {
        files.push(File::open(dir)?);
    }
    sync_together(&files)
}

/// Syncs files at the same time: a file system with a journal then writes it once, and not once for each.
fn sync_together(files: &[File]) -> io::Result<()> {
    thread::scope(|scope| {
        let start = |file| (file, thread::Builder::new().spawn_scoped(scope, move || File::sync_all(file)));
        let threads: Vec<_> = files.iter().map(start).collect();
        threads.into_iter().try_for_each(|(file, thread)| match thread.map(ScopedJoinHandle::join) {
            Ok(Ok(synced)) => synced,
            // A limit on the number of threads.
            _ => file.sync_all(),
        })
    })
}

/// Whether step 2 was done.
///
/// # Errors
/// If that cannot be found out.
pub(crate) fn is_marked(state: &StateDir, run_id: &str) -> io::Result<bool> {
    marker(state, run_id).try_exists()
}

fn marker(state: &StateDir, run_id: &str) -> PathBuf {
    state.run_spool(run_id).join("claiming")
}

/// Step 3: asks for the claim. Asking again has the same result.
///
/// # Errors
/// If the claim cannot be read or written. It may have been taken nevertheless.
pub(crate) fn commit(claim: &Path, run: Claimant<'_>) -> io::Result<ClaimVerdict> {
    if let Some(verdict) = read(claim, run)? {
        return Ok(verdict);
    }
    let Claimant { run_id, token, host } = run;
    if token.is_empty() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the run has no token"));
    }
    let dir = claim.parent().ok_or_else(|| io::Error::from(ErrorKind::NotADirectory))?;
    // Not the directory of all claims: if it is missing, the shared file system is not mounted here, and a claim would mean nothing.
    if let Err(error) = fs::create_dir(dir)
        && error.kind() != ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    let name = claim.file_name().ok_or_else(|| io::Error::from(ErrorKind::InvalidFilename))?.to_string_lossy();
    // Only this run writes it: recovery waits until the supervisor is dead.
    let own = dir.join(format!(".{name}.{token}"));
    let record = ClaimRecord { schema: SCHEMA.into(), run_id: run_id.into(), token: token.into(), host: host.into() };
    // A file that is already there may be the claim itself, if a request to link it was delayed: it must not be written to.
    match fs::remove_file(&own) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(&own)?;
    file.write_all(&serde_json::to_vec(&record)?)?;
    file.sync_all()?;
    // NFS would only rename a file that is open.
    drop(file);
    let linked = fs::hard_link(&own, claim);
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    // The answer of link(2) may be that to a repeated request: only the claim itself counts.
    let verdict = read(claim, run)?;
    let _ = fs::remove_file(&own);
    match verdict {
        Some(verdict) => synced.map(|()| verdict),
        None => Err(linked.err().unwrap_or_else(|| ErrorKind::NotFound.into())),
    }
}

/// Returns the run that has a claim; `None` if no one has it.
///
/// # Errors
/// If the claim cannot be read.
pub fn holder(claim: &Path) -> io::Result<Option<ClaimHolder>> {
    Ok(record(claim)?.map(ClaimRecord::holder))
}

/// Reads a claim; `None` if no one has it.
pub(crate) fn read(claim: &Path, run: Claimant<'_>) -> io::Result<Option<ClaimVerdict>> {
    let Some(record) = record(claim)? else { return Ok(None) };
    Ok(Some(if record.token == run.token { ClaimVerdict::Won } else { ClaimVerdict::Lost(record.holder()) }))
}

fn record(claim: &Path) -> io::Result<Option<ClaimRecord>> {
    let mut text = Vec::new();
    match regular_file(claim).and_then(|mut file| file.read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) => return if is_something_else(claim)? { Err(not_a_claim()) } else { absent(error) },
    }
    let record: ClaimRecord = serde_json::from_slice(&text)?;
    if record.schema != SCHEMA {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("it is not a {SCHEMA}")));
    }
    Ok(Some(record))
}

/// Whether a claim that cannot be read is not missing, but another kind of file: a directory, a FIFO, a link that leads to nothing.
fn is_something_else(claim: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(claim) {
        // A file may have got its name just now.
        Ok(found) => Ok(!found.is_file()),
        Err(error) => absent(error).map(|_| false),
    }
}

fn not_a_claim() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "it is not a regular file")
}

/// Returns `None` for a claim that no one has.
fn absent(error: io::Error) -> io::Result<Option<ClaimRecord>> {
    if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode};

    #[test]
    fn one_of_many_wins_and_stays_the_winner() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let claim = dir.path().join(format!("group/{round}"));
            let names: Vec<String> = (0..8).map(|n| format!("{round}-{n}")).collect();
            let ask = |name: &str| commit(&claim, Claimant { run_id: name, token: name, host: "host" }).unwrap();
            let verdicts: Vec<ClaimVerdict> = std::thread::scope(|scope| {
                let asked: Vec<_> = names.iter().map(|name| scope.spawn(|| ask(name))).collect();
                asked.into_iter().map(|asked| asked.join().unwrap()).collect()
            });
            let winners: Vec<&String> =
                names.iter().zip(&verdicts).filter(|(_, v)| **v == ClaimVerdict::Won).map(|(n, _)| n).collect();
            assert_eq!(winners.len(), 1, "{verdicts:?}");
            for (name, verdict) in names.iter().zip(&verdicts) {
                assert_eq!(ask(name), *verdict, "asked again");
                let lost = ClaimVerdict::Lost(ClaimHolder { run_id: winners[0].clone(), host: "host".into() });
                assert!(*verdict == ClaimVerdict::Won || *verdict == lost);
            }
        }
        let left = fs::read_dir(dir.path().join("group")).unwrap().count();
        assert_eq!(left, 50, "no other file stays");
    }

    /// One id on two hosts: an engine that does not pass its attempt.
    #[test]
    fn two_runs_with_one_id_are_distinguished() {
        let dir = tempfile::tempdir().unwrap();
        let claim = dir.path().join("0");
        let ask = |token: &str| commit(&claim, Claimant { run_id: "same", token, host: "host" }).unwrap();
        assert_eq!(ask("a"), ClaimVerdict::Won);
        assert_eq!(ask("b"), ClaimVerdict::Lost(ClaimHolder { run_id: "same".into(), host: "host".into() }));
    }

    /// The process that asked before has died, and its request to link arrives between the two steps of the next one.
    #[test]
    fn asking_again_does_not_change_the_inode_that_a_late_link_may_have_as_the_claim() {
        let dir = tempfile::tempdir().unwrap();
        let (claim, own, late) = (dir.path().join("0"), dir.path().join(".0.t"), dir.path().join("late"));
        fs::write(&own, "of the process before").unwrap();
        fs::hard_link(&own, &late).unwrap();
        assert_eq!(commit(&claim, Claimant { run_id: "r", token: "t", host: "h" }).unwrap(), ClaimVerdict::Won);
        assert_eq!(fs::read_to_string(&late).unwrap(), "of the process before");
        assert!(!own.exists());
    }

    #[test]
    fn a_claim_that_cannot_be_read_decides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for content in ["", "{}", "{\"schema\":\"other/1\",\"run_id\":\"r\",\"token\":\"t\",\"host\":\"h\"}"] {
            let claim = dir.path().join("0");
            fs::write(&claim, content).unwrap();
            commit(&claim, Claimant { run_id: "r", token: "t", host: "h" }).unwrap_err();
        }
        let claim = dir.path().join("other");
        for make in [
            &(|| fs::create_dir(&claim)) as &dyn Fn() -> io::Result<()>,
            // Not even opened for the other end.
            &|| Ok(rustix::fs::mknodat(CWD, &claim, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?),
            &|| std::os::unix::net::UnixListener::bind(&claim).map(drop),
            &|| std::os::unix::fs::symlink("nothing", &claim),
            &|| std::os::unix::fs::symlink("other", &claim),
        ] {
            make().unwrap();
            assert_eq!(holder(&claim).unwrap_err().kind(), ErrorKind::InvalidData);
            let asked = commit(&claim, Claimant { run_id: "r", token: "t", host: "h" });
            assert_eq!(asked.unwrap_err().kind(), ErrorKind::InvalidData);
            crate::host::files::remove_any(&claim).unwrap();
        }
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        commit(&file.join("below"), Claimant { run_id: "r", token: "t", host: "h" }).unwrap_err();
        commit(&dir.path().join("1"), Claimant { run_id: "r", token: "", host: "h" }).unwrap_err();
    }
}
