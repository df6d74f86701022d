//! `lorchestra backfill --engine temporal`, as people use it.

use crate::harness::{Node, Running, Server, effective, eventually};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// A host with a backfill.
struct Site {
    server: Server,
    node: Node,
}

impl Site {
    fn new() -> Self {
        Self { server: Server::start(), node: Node::new() }
    }

    /// Starts a backfill of three days, whose windows wait for the file `go`.
    fn backfill(&self, flags: &[&str], program: Option<PathBuf>) -> Running {
        let (shared, go) = (self.node.path("shared").display().to_string(), self.node.path("go").display().to_string());
        let what = ["backfill", "misbehave", "windowed", "--from", "2024-01-01", "--to", "2024-01-04", "--every", "1d"];
        let engine = ["--engine", "temporal", "--shared", &shared, "--engine-flag=--heartbeat-timeout=6s", "--grace", "2s"];
        let mut command = self.node.command(&self.server, &[&what[..], &engine, &["--go", &go], flags].concat());
        if let Some(program) = program {
            command.env("LORCHESTRA_TEMPORAL", program);
        }
        self.node.start(&mut command, "backfill.log")
    }

    fn start(&self, args: &[&str]) -> Running {
        self.node.start(&mut self.node.command(&self.server, &[&["backfill"], args].concat()), "backfill.log")
    }

    /// The numbers of completed, failed and pending windows, and of runs.
    fn counts(&self) -> [u64; 4] {
        let group = self.node.group(&self.server);
        let count = |key: &str| group[key].as_u64().unwrap_or_default();
        [count("completed"), count("failed"), count("pending"), self.node.runs().len() as u64]
    }

    fn log(&self) -> String {
        fs::read_to_string(self.node.path("backfill.log")).unwrap_or_default()
    }
}

#[test]
fn resume_runs_only_what_was_asked_for() {
    let site = Site::new();
    let worker = site.node.worker(&site.server, "lorchestra", 1);
    // One after the other, in the order of the plan.
    let mut first = site.backfill(&["--matrix", "then=fail,return", "-j", "1"], None);
    eventually("a window runs", || site.node.runs().len() == 1);
    assert_eq!(site.start(&["cancel", "last"]).wait(), Some(0), "{}", site.log());
    assert_eq!(first.wait(), Some(1), "{}", site.log());
    assert_eq!(site.counts(), [0, 1, 5, 1], "{}", site.log());
    fs::write(site.node.path("go"), "").unwrap();
    assert_eq!(site.start(&["resume", "last", "--only", "failed"]).wait(), Some(1), "{}", site.log());
    assert_eq!(site.counts(), [0, 1, 5, 2], "{}", site.log());
    assert_eq!(site.start(&["resume", "last", "--only", "missing"]).wait(), Some(1), "{}", site.log());
    // Two more have failed, and the first one was not run again.
    assert_eq!(site.counts(), [3, 3, 0, 7], "{}", site.log());
    assert_eq!(site.start(&["resume", "last"]).wait(), Some(1), "{}", site.log());
    assert_eq!(site.counts(), [3, 3, 0, 10], "{}", site.log());
    assert_eq!(site.node.processes(), [worker.id()]);
}

#[test]
fn a_group_that_the_server_has_lost_is_reported_and_can_be_resumed() {
    let mut site = Site::new();
    let _worker = site.node.worker(&site.server, "lorchestra", 2);
    let mut watching = site.backfill(&[], None);
    eventually("windows run", || site.node.runs().len() == 2);
    site.server.lose_database();
    assert_eq!(watching.wait(), Some(1), "{}", site.log());
    let log = site.log();
    assert!(log.contains("error: Temporal does not know group") && log.contains("3 windows without a claim"), "{log}");
    assert!(log.contains("lorchestra backfill resume"), "{log}");
    fs::write(site.node.path("go"), "").unwrap();
    assert_eq!(site.start(&["resume", "last"]).wait(), Some(0), "{}", site.log());
    let view = effective(std::slice::from_ref(&site.node));
    assert!(view.len() == 3 && view.values().all(|runs| *runs == 1), "{view:?}");
    assert_eq!(site.counts()[..3], [3, 0, 0]);
}

/// A `lorchestra-temporal` whose `submit` creates the file `submitting` and then waits for the file `gate`.
fn slow(site: &Site) -> PathBuf {
    let (program, submitting, gate) = (site.node.path("slow"), site.node.path("submitting"), site.node.path("gate"));
    let real = env!("CARGO_BIN_EXE_lorchestra-temporal");
    let wait = format!(": > {}; while [ ! -e {} ]; do /bin/sleep 0.05; done", submitting.display(), gate.display());
    fs::write(&program, format!("#!/bin/sh\nif [ \"$1\" = submit ]; then {wait}; fi\nexec {real} \"$@\"\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn nothing_starts_after_a_cancellation_that_came_while_windows_were_submitted() {
    let site = Site::new();
    let worker = site.node.worker(&site.server, "lorchestra", 2);
    for is_killed in [false, true] {
        let before = site.node.runs().len();
        let mut submitting = site.backfill(&["--then", "wait"], Some(slow(&site)));
        eventually("it submits", || site.node.path("submitting").exists());
        let mut cancelling = site.start(&["cancel", "last"]);
        eventually("it is marked", || !site.node.group(&site.server)["cancelled_at"].is_null());
        if is_killed {
            submitting.signal("KILL");
        }
        fs::write(site.node.path("gate"), "").unwrap();
        assert_eq!(submitting.wait(), if is_killed { None } else { Some(1) }, "{}", site.log());
        assert_eq!(cancelling.wait(), Some(0), "{}", site.log());
        let ended = site.node.runs();
        assert!(ended.iter().all(|run| run["state"] != "running"), "{ended:?}");
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(site.node.runs().len(), ended.len(), "{}", site.log());
        assert_eq!(site.node.processes(), [worker.id()], "{}", site.log());
        if is_killed {
            assert_eq!(ended.len(), before, "a killed command has submitted windows: {}", site.log());
        }
        fs::remove_file(site.node.path("gate")).unwrap();
        fs::remove_file(site.node.path("submitting")).unwrap();
    }
}
