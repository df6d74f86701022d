//! Runs one attempt: prepares its files, runs its worker while ingesting its spool, and collects the evidence at the end.
//!
//! Called by the run ([`super`]) for each attempt. Starts the worker ([`super::child`]), lets [`super::dispatch`] watch it and
//! [`super::intake`] ingest its spool.

use super::RunEnv;
use super::child::{Start, Worker};
use super::dispatch::{Watched, dispatch};
use super::stop_state::AttemptLimits;
use crate::host::process;
use crate::host::signals::Signals;
use crate::host::state::{StateError, make_dir};
use crate::outcome::Outcome;
use crate::packages::library::Library;
use crate::plan::RunSpec;
use crate::run::decision::{Death, Evidence, Memory, WorkerFault, decide};
use crate::run::ending::Facts;
use crate::run::error::RunError;
use crate::run::intake::{Idle, IntakeError, Work};
use crate::run::log::{self, Log};
use crate::run::note::Note;
use crate::run::trace_context::RunTrace;
use crate::run::traces::{has_content, remove_temp};
use crate::run::worker::order::WorkerInput;
use crate::spool::record::Final;
use crate::store::Store;
use lorchestra_plugin_api::invoke::Call;
use lorchestra_plugin_api::manifest::JobManifest;
use lorchestra_plugin_api::results::Results;
use rustix::pipe::PipeFlags;
use rustix::process::{Resource, getrlimit};
use std::io;
use std::path::{Path, PathBuf};

/// What all attempts of a run share.
pub(super) struct AttemptRunner<'a> {
    pub(super) env: &'a RunEnv<'a>,
    pub(super) spec: &'a RunSpec,
    pub(super) library: &'a Library,
    pub(super) run_id: &'a str,
}

/// The files of one attempt, created before it is recorded.
pub(super) struct Files {
    pub(super) output: PathBuf,
    spool: PathBuf,
    log: Log,
    note: Note,
    intake: Idle,
}

/// A worker that waits for its order, and the files of its attempt.
pub(super) struct Prepared {
    pub(super) worker: Worker,
    pub(super) files: Files,
}

/// A finished attempt.
pub(super) struct AttemptResult {
    /// Its outcome; or why its spool could not be ingested, in which case the next command closes the run.
    pub(super) result: Result<Outcome, IntakeError>,
    pub(super) facts: Facts,
    /// The bookmark that its job set, in microseconds since 1970.
    pub(super) bookmark: Option<i64>,
    /// What its job reported.
    pub(super) results: Results,
    /// The first signal that asked to stop.
    pub(super) stop_signal: Option<i32>,
    pub(super) note: Note,
    pub(super) store: Store,
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Process { doing, source }
}

impl AttemptRunner<'_> {
    /// Starts a worker, which waits for its order.
    pub(super) fn start_worker(&self, attempt: u32) -> Result<Worker, RunError> {
        let mut environment = vec![
            (process::RUN, self.run_id.to_owned()),
            (process::STATE, self.env.state.id().to_owned()),
            ("LORCHESTRA_ATTEMPT", attempt.to_string()),
        ];
        // Processes that the job starts, and libraries that support OpenTelemetry, continue the trace.
        let caller = self.spec.trace_parent.as_deref();
        let parent = match self.env.worker.exports_spans {
            true => Some(RunTrace::of(self.run_id, caller).for_job(attempt)),
            false => caller.map(str::to_owned),
        };
        environment.extend(parent.map(|parent| ("TRACEPARENT", parent)));
        let title = format!("{}/{}", self.spec.package, self.spec.job);
        // Only if it is another directory: entering the current one again may not even be permitted.
        let elsewhere = |directory: &&Path| std::env::current_dir().ok().as_deref() != Some(*directory);
        let start = Start {
            exe: self.env.worker.executable,
            title: &title,
            environment: &environment,
            directory: self.spec.directory.as_deref().map(Path::new).filter(elsewhere),
        };
        Worker::start(self.library, &start).map_err(failed("starting the worker"))
    }

    /// Creates the attempt's files, replacing anything that an earlier attempt may have left in their place.
    pub(super) fn make_files(&self, attempt: u32) -> Result<Files, RunError> {
        let state = self.env.state;
        let spool = state.attempt_spool(self.run_id, attempt);
        let output = state.output(self.run_id, attempt);
        if attempt > 1 {
            make_dir(&state.run_logs(self.run_id))?;
            for path in [&spool, &state.attempt_lock(self.run_id, attempt), &state.attempt_note(self.run_id, attempt), &output] {
                crate::host::files::remove_any(path).map_err(|source| StateError::Io { path: path.clone(), source })?;
            }
            log::remove_pieces(&output).map_err(|source| StateError::Io { path: output.clone(), source })?;
        }
        make_dir(&spool)?;
        let mut log =
            Log::open(&output, self.env.worker.log_max).map_err(|source| StateError::Io { path: output.clone(), source })?;
        log.mask(self.env.secrets.mask());
        let path = state.attempt_note(self.run_id, attempt);
        let note = Note::create(&path).map_err(|source| StateError::Io { path, source })?;
        let intake = Idle::new().map_err(failed("starting the intake thread"))?;
        Ok(Files { output, spool, log, note, intake })
    }

    /// Sends the worker its order and waits for its end.
    pub(super) fn run(
        &self,
        attempt: u32,
        prepared: Prepared,
        store: Store,
        signals: &mut Signals,
    ) -> Result<AttemptResult, RunError> {
        let Self { env, spec, library, run_id } = self;
        let Prepared { mut worker, files } = prepared;
        let Files { output, spool, mut log, note, intake } = files;
        let mut params = spec.params.clone();
        env.secrets.add_to(&mut params);
        worker.order(&WorkerInput {
            library_fd: worker.library_fd(),
            library_path: library.path().to_owned(),
            spool: spool.clone(),
            lock: env.state.attempt_lock(run_id, attempt),
            trace: env.state.trace(run_id),
            spec: (*spec).clone(),
            log_max: env.worker.log_max,
            progress: env.state.progress(run_id),
            bookmarks: library.manifest().job(&spec.job).is_some_and(JobManifest::has_since),
            secrets: env.secrets.names(),
            strict_numbers: env.worker.strict_numbers,
            call: Call {
                run_id: (*run_id).to_owned(),
                attempt,
                package: spec.package.clone(),
                data_root: env.worker.data_root.to_owned(),
                temp_dir: env.state.attempt_temp(run_id, attempt),
                trace_level: env.worker.trace_level.to_owned(),
                params,
            },
        });
        let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
        let (seen_read, seen_write) = pipe.map_err(io::Error::from).map_err(failed("making a pipe"))?;
        let intake =
            intake.start(Work { store, run_id: (*run_id).to_owned(), attempt, spool: spool.clone(), final_seen: seen_write });
        let watched = Watched { worker: &mut worker, final_seen: &seen_read, note: &note, log: &mut log };
        let limits = AttemptLimits { timeout: spec.timeout, grace: spec.grace };
        let seen = dispatch(watched, limits, signals).map_err(failed("waiting for the worker"))?;
        log.finish();
        // Before the rest of the spool is ingested: these files may be what has filled the disk.
        remove_temp(&env.state.attempt_temp(run_id, attempt));
        let (store, ingested) = intake.finish().map_err(failed("ending the intake thread"))?;
        let mut facts = Facts { time: Some(seen.time), output_lost: log.lost(), processes_left: seen.left, ..Facts::default() };
        let (mut bookmark, mut results) = (None, Results::default());
        let result = ingested.map(|ingested| {
            results = ingested.results;
            bookmark = ingested.end.as_ref().and_then(Final::bookmark);
            facts.damaged = ingested.damaged;
            if let Some(Final::Returned { max_rss_kib, .. }) = &ingested.end {
                facts.max_rss_kib = *max_rss_kib;
            }
            decide(&Evidence {
                ending: seen.ending,
                end: ingested.end,
                entered: ingested.entered,
                death: seen.death,
                damaged: ingested.damaged,
                fault: seen.fault.or_else(|| removed(&spool)),
                printed: has_content(&output),
                processor_limit: processor_limit(seen.time, seen.death),
                memory: spec.memory_max.map(|max| Memory { max, refused: allocation_failed(&output) }),
            })
        });
        Ok(AttemptResult { result, facts, bookmark, results, stop_signal: seen.stop_signal, note, store })
    }

    /// Removes an attempt's files from the spool once the next attempt is recorded: recovery looks only at the last one.
    pub(super) fn remove_spool(&self, attempt: u32) {
        let (state, run) = (self.env.state, self.run_id);
        for path in [state.attempt_spool(run, attempt), state.attempt_lock(run, attempt), state.attempt_note(run, attempt)] {
            let _ = crate::host::files::remove_any(&path);
        }
    }
}

/// Returns the worker's processor time limit in seconds if the worker used it up. The worker inherits the limit from this process.
fn processor_limit(used: process::ProcessorTime, death: Death) -> Option<u64> {
    const SIGXCPU: i32 = 24;
    let seconds = getrlimit(Resource::Cpu).current?;
    let is_named = matches!(death, Death::Killed { signal: SIGXCPU, .. });
    // For the limit the kernel counts timer ticks, but it reports precise times: on a busy virtual machine they differ by up to a quarter.
    let is_used_up = (used.user_ms + used.system_ms).saturating_mul(4) >= seconds.saturating_mul(3000);
    (is_named || is_used_up).then_some(seconds)
}

/// The fault that the worker could not report: without a spool its progress is unknown, and events in it are lost.
fn removed(spool: &Path) -> Option<WorkerFault> {
    let message = "another program removed the spool while the job ran; events not yet in the store are lost";
    (!spool.exists()).then(|| WorkerFault { spool: true, message: message.into() })
}

/// Whether the output ends with the message of Rust's or C++'s runtime about a failed allocation. The process reports it nowhere else.
fn allocation_failed(output: &Path) -> bool {
    let last = log::tail(output, 4096).unwrap_or_default();
    let text = String::from_utf8_lossy(&last);
    (text.contains("memory allocation of ") && text.contains(" bytes failed")) || text.contains("std::bad_alloc")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message may be split across two pieces of the log.
    #[test]
    fn a_message_is_found_across_pieces_of_a_log() {
        let message = b"memory allocation of 4194304 bytes failed\n";
        for before in (0..6000).step_by(7) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("1.out");
            let mut log = Log::open(&path, log::MIN_MAX).unwrap();
            log.write(&vec![b'.'; before]);
            assert!(!allocation_failed(&path), "no message, but {before} other bytes");
            log.write(message);
            assert!(allocation_failed(&path), "after {before} bytes");
        }
    }
}
