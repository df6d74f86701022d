//! Every stage of a run × which process is killed × by which signal × whether BigQuery responds: one correct end, every acknowledged event
//! once in the table and in the files of a second destination, all locks free, no process left.
//!
//! Stages are detected by visible effects, not by time: a lock that the test holds, a marker of the job `staged`, requests that the fake
//! has received.

use lorchestra_tests::bigquery::fake::{Fault, Method};
use lorchestra_tests::bigquery::site::{Site, Write};
use lorchestra_tests::{Fixture, Run, Running, eventually, jsonl, processes};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The worker exists, the run is recorded, and no plugin is loaded.
    BeforeLoad,
    /// A constructor of the library runs.
    Loading,
    Emitting,
    Flushing,
    /// The job has returned, or is about to: the kill comes before, during or after writing the final record.
    Final,
    /// The final record is written, and the process is still running.
    After,
    /// The end is recorded and reported; the last events are being delivered.
    Draining,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Worker,
    Supervisor,
    Both,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    stage: Stage,
    victim: Victim,
    signal: Signal,
    up: bool,
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    let stages =
        [Stage::BeforeLoad, Stage::Loading, Stage::Emitting, Stage::Flushing, Stage::Final, Stage::After, Stage::Draining];
    for stage in stages {
        for victim in [Victim::Worker, Victim::Supervisor, Victim::Both] {
            for signal in [Signal::KILL, Signal::TERM, Signal::SEGV] {
                for up in [true, false] {
                    cells.push(Cell { stage, victim, signal, up });
                }
            }
        }
    }
    cells
}

#[test]
fn a_kill_at_any_stage_leaves_one_correct_outcome_and_nothing_else() {
    let cells = cells();
    assert_eq!(cells.len(), 126);
    // Cells mostly wait, so run several at once.
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    Case::begin(*cell).finish();
                }
            });
        }
    });
}

/// A run that is killed at one stage.
struct Case {
    cell: Cell,
    site: Site,
    label: String,
}

impl Case {
    fn begin(cell: Cell) -> Self {
        let site = Site::new(Write::Storage);
        site.sandbox.install(Fixture::Stages, "libstages.so");
        // A second destination, which is up in every cell.
        site.configure(Write::Storage, &jsonl::table(&site.sandbox, ""));
        std::fs::create_dir(site.sandbox.path(jsonl::EVENTS)).unwrap();
        Self { cell, site, label: format!("{cell:?}") }
    }

    fn finish(self) {
        let Self { cell, site, label } = &self;
        if !cell.up {
            site.fake.go_down();
        } else if cell.stage == Stage::Draining {
            // The rows land without an answer: they must not be there twice in the end.
            site.fake.faults().forever(Method::AppendRows, Fault::CommitThenSilent);
        }
        let (running, worker) = self.reach();
        self.strike(running, worker);

        // The next command closes open runs.
        let run = site.sandbox.run();
        self.is_true(&run);
        assert!(site.sandbox.processes().is_empty(), "{label}: {:?}", site.sandbox.processes());
        self.locks_are_free();
        assert_eq!(std::fs::read_dir(site.sandbox.state().join("spool")).unwrap().count(), 0, "{label}: a spool is left");
        let _ = std::fs::remove_file(site.sandbox.path("loading"));
        self.start("none", &[]).wait().exits(0);
        assert!(site.sandbox.runs()[1].0 == run.0, "{label}: it stays closed");

        site.fake.faults().clear(Method::AppendRows);
        site.fake.faults().release();
        if !cell.up {
            site.fake.come_up();
        }
        site.sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]).exits(0);
        site.all_is_delivered(Write::Storage, label);
        jsonl::all_is_there(&site.sandbox, &jsonl::files(&site.sandbox.path(jsonl::EVENTS)), label);
    }

    fn start(&self, stage: &str, flags: &[&str]) -> Running {
        let sandbox = &self.site.sandbox;
        let (marker, acknowledged) = (sandbox.arg("marker"), sandbox.arg("acknowledged"));
        let job = ["run-job", "stages", "staged", "--stage", stage, "--marker", &marker, "--acknowledged", &acknowledged];
        // Undelivered events are left for the flush at the end.
        let delivery: &[&str] = if self.cell.stage == Stage::Draining && stage == "draining" {
            &["--require-delivery", "--delivery-timeout", "50s"]
        } else {
            &["--delivery-timeout", "1s"]
        };
        let mut command = sandbox.command(&[&job, delivery, flags].concat());
        command.env("STAGES_LOADING", sandbox.path("loading"));
        Running::start(command)
    }

    fn marked(&self, stage: &str) {
        eventually(&format!("{}: {stage}", self.label), || self.site.sandbox.read("marker").contains(&format!("{stage}\n")));
    }

    /// Brings a run to the stage; returns its worker, if it has one.
    fn reach(&self) -> (Running, Option<u32>) {
        let Self { site, label, cell } = self;
        let sandbox = &site.sandbox;
        let worker_of = |running: &Running| {
            // Before exec, its parent waits for it: it must not be stopped then.
            let workers = || running.children().into_iter().find(|pid| processes::is_named(*pid, "lorchestra-worker"));
            eventually(&format!("{label}: there is a worker"), || workers().is_some());
            workers().expect("a worker lives")
        };
        let by_marker = |stage: &str| {
            let running = self.start(stage, &["--grace", "2s"]);
            let worker = worker_of(&running);
            self.marked(stage);
            (running, Some(worker))
        };
        match cell.stage {
            Stage::BeforeLoad => {
                // The process that creates the store waits for this lock, with a worker that waits for its order.
                let locks = sandbox.state().join("locks");
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&locks).unwrap();
                // It stops at the constructor.
                std::fs::write(sandbox.path("loading"), "").unwrap();
                let held = File::create(locks.join("store")).unwrap();
                flock(&held, FlockOperation::LockExclusive).unwrap();
                let running = self.start("none", &["--grace", "2s"]);
                let worker = worker_of(&running);
                processes::signal(worker, Signal::STOP);
                eventually(&format!("{label}: the worker is stopped"), || processes::is_stopped(worker));
                drop(held);
                eventually(&format!("{label}: the run is recorded"), || !sandbox.runs().is_empty());
                (running, Some(worker))
            }
            Stage::Loading => {
                std::fs::write(sandbox.path("loading"), "").unwrap();
                let running = self.start("none", &["--grace", "2s"]);
                let worker = worker_of(&running);
                eventually(&format!("{label}: the constructor runs"), || sandbox.read("loading.reached") == "loading\n");
                (running, Some(worker))
            }
            Stage::Emitting => by_marker("emitting"),
            Stage::Flushing => by_marker("flushing"),
            Stage::Final => by_marker("final"),
            Stage::After => by_marker("after"),
            Stage::Draining => {
                let running = self.start("draining", &[]);
                eventually(&format!("{label}: the end is recorded"), || {
                    sandbox.runs().first().is_some_and(|run| run.state() == "completed")
                });
                if cell.up {
                    eventually(&format!("{label}: rows are sent"), || site.fake.requests(Method::AppendRows) > 0);
                }
                assert!(running.children().is_empty(), "{label}: no worker any more");
                (running, None)
            }
        }
    }

    /// Kills, and waits for the supervisor if it survives.
    fn strike(&self, mut running: Running, worker: Option<u32>) {
        let Self { site, label, cell: Cell { stage, victim, signal, .. } } = self;
        let by_term = *signal == Signal::TERM;
        let go_on = || {
            if let Some(worker) = worker
                && *stage == Stage::BeforeLoad
            {
                processes::signal(worker, Signal::CONT);
            }
        };
        let gone = || worker.is_none_or(|pid| !processes::is_alive(pid));
        if *victim != Victim::Worker {
            self.send(running.pid());
            if !by_term {
                eventually(&format!("{label}: the supervisor is gone"), || {
                    self.send(running.pid());
                    running.has_ended()
                });
            }
        }
        if *victim != Victim::Worker
            && by_term
            && matches!(stage, Stage::BeforeLoad | Stage::Loading | Stage::Emitting | Stage::Flushing)
        {
            // Which of the two processes reacts first would be arbitrary, and a worker that continues may finish before its supervisor
            // handles the signal. A job that ends at once removes the note too, perhaps between two checks.
            eventually(&format!("{label}: it is noted"), || self.note().contains("cancelled") || gone());
        }
        if *victim != Victim::Supervisor
            && let Some(worker) = worker
        {
            self.send(worker);
            go_on();
            if !by_term {
                eventually(&format!("{label}: the worker has died"), || {
                    self.send(worker);
                    gone()
                });
            }
        }
        go_on();
        if *victim != Victim::Worker && !by_term {
            // Its watchdog kills it, even in a constructor; and before the held stage continues, because a job with few events ends soon.
            eventually(&format!("{label}: the worker is gone"), gone);
            // Killed: its output is not checked.
            return drop(running);
        }
        let _ = std::fs::remove_file(site.sandbox.path("loading"));
        if *stage == Stage::Draining && *victim == Victim::Worker {
            // There was no process to kill. A supervisor that continues blocks nothing, and ends when it is answered.
            site.fake.faults().clear(Method::AppendRows);
            site.fake.faults().release();
            if !self.cell.up {
                running.signal(Signal::TERM);
            }
        }
        running.wait();
        eventually(&format!("{label}: the worker is gone"), gone);
    }

    /// Once; but Rust's runtime lets a process survive the first SIGSEGV that it did not cause itself.
    fn send(&self, pid: u32) {
        processes::signal(pid, self.cell.signal);
    }

    /// The supervisor's note on the only attempt.
    fn note(&self) -> String {
        let spool = self.site.sandbox.state().join("spool");
        let runs = std::fs::read_dir(spool).into_iter().flatten();
        runs.filter_map(|run| std::fs::read_to_string(run.ok()?.path().join("1.end")).ok()).collect()
    }

    /// Checks that the run's end is one of the possible ones, and matches the evidence.
    fn is_true(&self, run: &Run) {
        let Self { site, label, cell: Cell { stage, victim, signal, .. } } = self;
        let by_term = *signal == Signal::TERM;
        let causes: &[&str] = match (stage, victim, by_term) {
            // After the final record was ingested, or once the end is recorded, nothing changes it.
            (Stage::Draining, ..) | (Stage::After, Victim::Worker, _) => &[""],
            (Stage::After, _, false) => &[""],
            (Stage::After, _, true) => &["", "cancelled"],
            (Stage::Final, Victim::Worker, true) => &[""],
            (Stage::Final, Victim::Worker, false) => &["", "signal"],
            (Stage::Final, _, false) => &["", "abandoned"],
            (Stage::Final, _, true) => &["", "cancelled"],
            (_, Victim::Supervisor | Victim::Both, true) => &["cancelled"],
            (_, Victim::Supervisor | Victim::Both, false) => &["abandoned"],
            // From its order on a worker handles SIGTERM: then the job ends in its own way.
            (Stage::BeforeLoad, Victim::Worker, _) => &["load"],
            (Stage::Loading, Victim::Worker, true) => &["error"],
            (Stage::Loading, Victim::Worker, false) => &["load"],
            (_, Victim::Worker, true) => &["error"],
            (_, Victim::Worker, false) => &["signal"],
        };
        assert!(causes.contains(&run.cause()), "{label}: {run:?}");
        assert_eq!(run.state(), if run.cause().is_empty() { "completed" } else { "failed" }, "{label}");
        let name = if *signal == Signal::KILL { "SIGKILL" } else { "SIGSEGV" };
        assert!(run.cause() != "signal" || run.message().contains(name), "{label}: {run:?}");
        // One terminal event, the last; numbers without gaps or duplicates, including all acknowledged ones.
        let numbers = site.sandbox.numbers_of(run);
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "{label}");
        let acknowledged = site.sandbox.read("acknowledged").matches('\n').count();
        assert!(numbers.len() >= acknowledged, "{label}: {} stored, {acknowledged} acknowledged", numbers.len());
        match stage {
            // Stopped by its supervisor, it may have reached its job before it handled the signal.
            Stage::BeforeLoad | Stage::Loading => assert!(numbers.is_empty() || by_term, "{label}: {}", numbers.len()),
            Stage::Emitting | Stage::Flushing => assert!(numbers.len() >= 50, "{label}: {}", numbers.len()),
            Stage::Final | Stage::After | Stage::Draining => assert_eq!(numbers.len(), 50, "{label}"),
        }
    }

    fn locks_are_free(&self) {
        for entry in std::fs::read_dir(self.site.sandbox.state().join("locks")).unwrap() {
            let path = entry.unwrap().path();
            let free = flock(File::open(&path).unwrap(), FlockOperation::NonBlockingLockExclusive).is_ok();
            assert!(free, "{}: {} is held", self.label, path.display());
        }
    }
}
