//! `backfill --engine slurm` on a real cluster of three nodes, each with its own store: every window effective once, whatever is killed, frozen
//! or cut off. `LORCHESTRA_TEST_WINDOWS=18250` for a soak.

use lorchestra_tests::bigquery::emulator;
use lorchestra_tests::bigquery::fake::{Fake, TableName};
use lorchestra_tests::slurm::NODES;
use lorchestra_tests::slurm::site::Site;
use lorchestra_tests::{Sandbox, eventually, processes};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What the stores of the nodes say.
trait Nodes {
    /// The runs of a node, oldest first.
    fn runs(&self, node: usize) -> Vec<Value>;
    fn running(&self, node: usize) -> Vec<Value>;
    fn group(&self) -> Value;
    /// Signals the supervisors of a node's runs.
    fn signal(&self, runs: &[Value], signal: Signal);
    /// The number of runs by state, and of completed runs by window.
    fn summary(&self) -> (BTreeMap<String, usize>, BTreeMap<String, usize>);
}

impl Nodes for Site {
    fn runs(&self, node: usize) -> Vec<Value> {
        let state = self.sandbox.arg(&format!("nodes/n{node}"));
        let args = ["runs", "list", "--json", "--limit", "1000000"];
        self.sandbox.lorchestra_with(&[("XDG_STATE_HOME", &state)], &args).exits(0).json_lines("lorchestra.run/1")
    }

    fn running(&self, node: usize) -> Vec<Value> {
        self.runs(node).into_iter().filter(|run| run["state"] == "running").collect()
    }

    fn group(&self) -> Value {
        let shown = self.start(&["backfill", "show", "last", "--json"]).wait().exits(0);
        shown.json("lorchestra.group-show/1")
    }

    fn signal(&self, runs: &[Value], signal: Signal) {
        for run in runs {
            processes::signal(u32::try_from(run["supervisor_pid"].as_u64().unwrap()).unwrap(), signal);
        }
    }

    fn summary(&self) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
        let (mut states, mut completed) = (BTreeMap::new(), BTreeMap::new());
        for run in (0..NODES).flat_map(|node| self.runs(node)) {
            let text = |key: &str| run[key].as_str().unwrap().to_owned();
            *states.entry(text("state")).or_insert(0) += 1;
            if run["state"] == "completed" {
                *completed.entry(text("since")).or_insert(0) += 1;
            }
        }
        (states, completed)
    }
}

/// The table to which all nodes deliver.
struct Warehouse {
    fake: Fake,
    table: TableName,
}

impl Warehouse {
    /// Starts it, and configures it for all nodes.
    fn of(site: &Site) -> Self {
        let (fake, table) = (Fake::start(), TableName::parse("p1.lorchestra.events"));
        fake.create_event_table(&table);
        site.sandbox.configure(&configuration("lorchestra", &fake.rest_endpoint(), &fake.grpc_endpoint()));
        Self { fake, table }
    }

    /// Cuts all connections for some seconds. Nothing is claimed in the meantime: no window can be delivered.
    fn cut(&self, site: &Site) {
        self.fake.go_down();
        std::thread::sleep(Duration::from_secs(5));
        let claims = claims(site);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(self::claims(site), claims, "windows were claimed without delivery");
        self.fake.come_up();
    }

    /// Number of events that count for each window, out of the view that `events setup` creates, over the rows that were delivered.
    fn effective(&self) -> BTreeMap<String, u64> {
        let emulator = emulator::shared();
        let dataset = emulator.own_dataset();
        let sandbox = Sandbox::with(&[]);
        sandbox.configure(&configuration(&dataset, &emulator.rest_endpoint(), &emulator.grpc_endpoint()));
        sandbox.lorchestra(&["events", "setup"]).exits(0);
        let rows: Vec<_> = self.fake.rows(&self.table).into_iter().map(|row| row.values).collect();
        emulator.insert(&dataset, "events", &rows);
        let sql = format!(
            "SELECT JSON_VALUE(payload, '$.since') AS since, COUNT(*) AS n FROM `{dataset}.events_effective`
             WHERE event_type = 'window.seen' GROUP BY since"
        );
        let counts = emulator.rows(&sql);
        counts.iter().map(|row| (row["since"].as_str().unwrap().to_owned(), row["n"].as_u64().unwrap())).collect()
    }
}

fn configuration(dataset: &str, rest: &str, grpc: &str) -> String {
    format!(
        "[destinations.bigquery]\nproject = \"p1\"\ndataset = \"{dataset}\"\ntable = \"events\"\n\
         endpoint = \"{rest}\"\nstorage_endpoint = \"{grpc}\"\n"
    )
}

/// Number of claimed windows of the only group.
fn claims(site: &Site) -> usize {
    let groups = std::fs::read_dir(site.sandbox.path("shared/claims")).into_iter().flatten().flatten();
    groups.map(|group| std::fs::read_dir(group.path()).unwrap().count()).sum()
}

#[expect(clippy::disallowed_methods, reason = "a soak sets the number of windows")]
fn windows() -> u32 {
    std::env::var("LORCHESTRA_TEST_WINDOWS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// One node is frozen with its windows, one is killed with its windows, the controller is stopped and started, the watching command is killed,
/// and BigQuery cannot be reached for a while.
#[test]
fn every_window_is_effective_once_whatever_is_killed_or_frozen() {
    let windows = windows();
    // Several arrays.
    let mut site = Site::new(windows / 2 - 5);
    let warehouse = Warehouse::of(&site);
    let go = site.sandbox.arg("go");
    let first = site.backfill(windows, &["--go", &go]);
    eventually("every node runs windows", || (0..NODES).all(|node| site.running(node).len() == 4));
    let (frozen, killed) = (site.running(0), site.running(1));
    site.cluster.freeze_node(0, true);
    site.signal(&frozen, Signal::STOP);
    site.cluster.kill_node(1);
    site.signal(&killed, Signal::KILL);
    first.signal(Signal::KILL);
    first.wait();
    site.cluster.restart_controller();
    std::fs::write(&go, "").unwrap();
    let resumed = site.start(&["backfill", "resume", "last"]);
    eventually("some windows are claimed", || claims(&site) >= 2);
    warehouse.cut(&site);
    let before = claims(&site);
    assert!(before < windows as usize, "all windows are claimed before the network was cut");
    eventually("both nodes are down", || {
        site.cluster.node_states().iter().filter(|state| state.starts_with("down")).count() == 2
    });
    site.cluster.start_node(1);
    let limit = Duration::from_secs(120 + u64::from(windows));
    let ended = resumed.wait_within(limit).exits(0);
    assert!(ended.out().contains(&format!("{windows} windows completed")), "{}{}", ended.shown(), site.cluster.log());
    // Both copies of the frozen windows are alive now.
    site.signal(&frozen, Signal::CONT);
    let until = Instant::now() + Duration::from_secs(60);
    while !site.running(0).is_empty() {
        assert!(Instant::now() < until, "{:?}", site.running(0));
        std::thread::sleep(Duration::from_millis(100));
    }
    // Not before: its daemon kills what runs elsewhere now, which ends as cancelled or as superseded, whichever is first.
    site.cluster.freeze_node(0, false);
    let (states, completed) = site.summary();
    assert_eq!(completed.len(), windows as usize, "{states:?}");
    assert!(completed.values().all(|runs| *runs == 1), "{completed:?}");
    assert_eq!(states["superseded"], frozen.len(), "{states:?}");
    let failed: Vec<Value> = (0..NODES).flat_map(|node| site.runs(node)).filter(|run| run["state"] == "failed").collect();
    assert_eq!(failed.iter().filter(|run| run["cause"] == "abandoned").count(), killed.len(), "{failed:?}");
    assert!(failed.iter().all(|run| run["cause"] == "abandoned" || run["cause"] == "claim"), "{failed:?}");
    let group = site.group();
    assert_eq!((&group["state"], &group["completed"]), (&json!("completed"), &json!(windows)));
    assert_eq!(group["engine"], "slurm");
    // The watching host has recorded which runs count, whether or not their nodes have delivered their ends.
    let listed = site.start(&["runs", "list", "--json", "--limit", "1000000"]).wait().exits(0);
    let ids = |runs: Vec<Value>, state: &str| -> BTreeSet<String> {
        let of = runs.into_iter().filter(|run| run["state"] == state);
        of.map(|run| run["run_id"].as_str().unwrap().to_owned()).collect()
    };
    let completed = (0..NODES).flat_map(|node| site.runs(node)).collect();
    assert_eq!(ids(listed.json_lines("lorchestra.run/1"), "claimed"), ids(completed, "completed"));
    // What was frozen or killed is delivered by the next command on its node, and does not count.
    for node in 0..NODES {
        let state = site.sandbox.arg(&format!("nodes/n{node}"));
        let flush = ["events", "flush", "--timeout", "50s"];
        site.sandbox.lorchestra_with(&[("XDG_STATE_HOME", &state)], &flush).exits(0);
    }
    let effective = warehouse.effective();
    assert_eq!(effective.len(), windows as usize, "{effective:?}");
    assert!(effective.values().all(|events| *events == 1), "{effective:?}");
    eventually("no process is left", || site.sandbox.processes().is_empty());
}

#[test]
fn failures_stop_no_other_windows_and_a_cancelled_group_ends() {
    let site = Site::new(8);
    // A node that can run nothing does not fail the windows that it gets.
    std::fs::create_dir(site.sandbox.path("nodes")).unwrap();
    std::fs::write(site.sandbox.path("nodes/n0"), "not a directory").unwrap();
    let ended = site.backfill(6, &[]).wait().exits(0);
    assert!(ended.out().contains("6 windows completed"), "{}", ended.shown());
    std::fs::remove_file(site.sandbox.path("nodes/n0")).unwrap();
    let ended = site.backfill(4, &["--matrix", "then=return,fail"]).wait().exits(1);
    assert!(ended.err().contains("4 of 8 windows completed, 4 failed"), "{}", ended.shown());
    let shown = site.start(&["backfill", "show", "last"]).wait().exits(0);
    assert_eq!(shown.out().matches("error: not this window").count(), 4, "{}", shown.shown());
    let windows = site.group()["windows"].as_array().unwrap().clone();
    let failed = windows.iter().filter(|window| window["state"] == "failed");
    assert!(failed.clone().count() == 4 && failed.clone().all(|window| window["cause"] == "error"), "{windows:?}");
    // Several arrays keep the limit together.
    let go = site.sandbox.arg("go");
    site.backfill(24, &["--go", &go, "-j", "2", "--detach"]).wait().exits(0);
    let nodes = || (0..NODES).map(|node| site.running(node).len()).sum::<usize>();
    eventually("two windows run", || nodes() >= 2);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(nodes(), 2);
    site.start(&["backfill", "cancel", "last"]).wait().exits(0);
    // Windows that Slurm holds.
    let held = site.backfill(3, &["--engine-flag=--hold"]);
    let why = "JobHeldUser: Slurm holds it; run scontrol release";
    eventually("the group says why", || {
        site.group()["windows"]
            .as_array()
            .unwrap()
            .iter()
            .all(|window| window["message"].as_str().is_some_and(|text| text.contains(why)))
    });
    site.start(&["backfill", "cancel", "last"]).wait().exits(0);
    let held = held.wait().exits(1);
    assert!(held.err().contains(&format!("3 windows cannot start: {why}")), "{}", held.shown());
    // Submitted only, and cancelled while some run and some wait.
    let detached = site.backfill(20, &["--then", "wait", "--detach"]).wait().exits(0);
    assert!(detached.err().contains("20 windows on Slurm"), "{}", detached.shown());
    eventually("all processors are busy", || nodes() == 4 * NODES);
    assert_eq!(site.group()["state"], "running");
    let cancelled = site.start(&["backfill", "cancel", "last"]).wait().exits(0);
    assert!(cancelled.out().contains("0 of 20 windows have completed"), "{}", cancelled.shown());
    assert_eq!(nodes(), 0);
    let group = site.group();
    assert_eq!((&group["state"], &group["failed"], &group["pending"]), (&json!("cancelled"), &json!(12), &json!(8)));
    let causes = (0..NODES).flat_map(|node| site.runs(node)).filter(|run| run["cause"] == "cancelled").count();
    assert_eq!(causes, 2 + 12);
    is_cancelled_while_it_is_submitted(&site);
    eventually("no process is left", || site.sandbox.processes().is_empty());
}

/// The group is cancelled while `sbatch` runs: nothing stays, and nothing more is submitted.
fn is_cancelled_while_it_is_submitted(site: &Site) {
    let slow = site.slow_sbatch();
    let started = site.backfill_with(&slow.environment, 16, &["--then", "wait"]);
    eventually("sbatch runs", || slow.started.exists());
    let cancel = site.start(&["backfill", "cancel", "last"]);
    eventually("the group is cancelled", || !site.group()["cancelled_at"].is_null());
    std::fs::write(&slow.go, "").unwrap();
    cancel.wait().exits(0);
    let ended = started.wait().exits(1);
    assert!(ended.err().contains("0 of 16 windows completed, 0 failed, 16 not run"), "{}", ended.shown());
    let queue = site.cluster.command("squeue", &["--noheader", "--states=PENDING,RUNNING"]);
    assert_eq!(String::from_utf8_lossy(&queue.stdout), "");
}
