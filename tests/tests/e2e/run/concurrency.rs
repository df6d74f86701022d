//! Many concurrent commands on one store.

use lorchestra_tests::bigquery::site::{Site, Write};
use lorchestra_tests::{DEADLINE, Fixture, Running, Sandbox, eventually};
use std::collections::HashSet;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

#[test]
fn thirty_two_concurrent_runs_end_correctly_with_all_events() {
    const ENDS: [(&str, i32, &str); 4] = [("return", 0, ""), ("fail", 1, "error"), ("panic", 1, "panic"), ("abort", 1, "signal")];
    let sandbox = sandbox();
    let running: Vec<Running> = (0..32)
        .map(|i| {
            let account = format!("account{i}");
            sandbox.start(&["run-job", "misbehave", "numbered", "--count", "300", "--account", &account, "--then", ENDS[i % 4].0])
        })
        .collect();
    for (i, running) in running.into_iter().enumerate() {
        running.wait().exits(ENDS[i % 4].1);
    }
    let runs = sandbox.runs();
    assert_eq!(runs.len(), 32);
    let mut ids = HashSet::new();
    for run in &runs {
        let i: usize = run.0["account"].as_str().unwrap().strip_prefix("account").unwrap().parse().unwrap();
        assert_eq!(run.cause(), ENDS[i % 4].2, "{run:?}");
        assert_eq!(sandbox.numbers_of(run), (0..300).collect::<Vec<_>>());
        ids.extend(sandbox.events_of(run.id()).iter().map(|event| event.0["event_id"].as_str().unwrap().to_owned()));
    }
    assert_eq!(ids.len(), 32 * 302, "no event is in two runs");
}

#[test]
fn one_run_per_account_runs_and_the_others_are_refused() {
    let sandbox = sandbox();
    let mut running: Vec<Running> = (0..6).map(|_| sandbox.start(&["run-job", "misbehave", "wait", "--grace", "1h"])).collect();
    let mut refused = Vec::new();
    // The winner continues until it is stopped: all others lose.
    eventually("all but one have ended", || {
        let ended = running.iter_mut().position(Running::has_ended);
        refused.extend(ended.map(|i| running.swap_remove(i)));
        running.len() == 1
    });
    for loser in refused {
        let ended = loser.wait().exits(75);
        assert!(ended.err().contains("misbehave/wait is already running\n"), "{}", ended.shown());
    }
    eventually("the winner is recorded", || sandbox.runs().len() == 1);
    let winner = running.remove(0);
    let stop = sandbox.lorchestra(&["runs", "stop", sandbox.run().id()]).exits(0);
    assert!(stop.out().contains("has ended"), "{}", stop.shown());
    winner.wait().exits(143);
    assert_eq!(sandbox.run().cause(), "cancelled");
    // Now the lock is free.
    sandbox.lorchestra(&["run-job", "misbehave", "wait", "--seconds", "0"]).exits(1);
}

#[test]
fn accounts_exclude_each_other_by_their_own_name_only() {
    let sandbox = sandbox();
    let held = sandbox.path("held");
    rustix::fs::mkfifoat(rustix::fs::CWD, &held, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    // Opening a FIFO for writing waits for a reader: the job of account `a` is stuck at its beginning.
    let running =
        sandbox.start(&["run-job", "misbehave", "numbered", "--account", "a", "--acknowledged", &held.display().to_string()]);
    eventually("it runs", || !running.children().is_empty());
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--account", "a"]).exits(75);
    assert!(ended.err().contains("for account a\n") && ended.err().contains("lorchestra runs stop"), "{}", ended.shown());
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--account", "b"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "numbered"]).exits(0);
    // With a reader, the job continues.
    let acknowledged = std::fs::read_to_string(&held).unwrap();
    assert_eq!(acknowledged.lines().count(), 100);
    running.wait().exits(0);
    assert_eq!(sandbox.runs().len(), 3);
}

/// First use: one of them creates the store, and the others find it.
#[test]
fn reading_while_others_write_never_blocks() {
    let sandbox = sandbox();
    let writing: Vec<Running> = (0..4)
        .map(|i| {
            let account = i.to_string();
            sandbox.start(&["run-job", "misbehave", "numbered", "--count", "3000", "--account", &account])
        })
        .collect();
    let looking: Vec<Running> = (0..8).map(|_| sandbox.start(&["runs", "list", "--json"])).collect();
    for command in looking.into_iter().chain(writing) {
        command.wait().exits(0);
    }
    assert_eq!(sandbox.runs().len(), 4);
}

/// A job with its flags, and its expected end: exit code, cause, its own events.
type Job = (&'static [&'static str], i32, &'static str, usize);

/// Twenty jobs that end in different ways.
const JOBS: [Job; 20] = [
    (&["noop"], 0, "", 0),
    (&["fail"], 1, "error", 0),
    (&["fail_permanently"], 1, "error", 0),
    (&["fail_with", "--message", "no"], 1, "error", 0),
    (&["panic_now"], 1, "panic", 0),
    (&["panic_with_a_number"], 1, "panic", 0),
    (&["panic_in_drop"], 1, "panic", 0),
    (&["abort"], 1, "signal", 0),
    (&["null"], 1, "signal", 0),
    (&["exit", "--code", "0"], 1, "exit", 0),
    (&["kill_self"], 1, "signal", 0),
    (&["numbered", "--count", "100"], 0, "", 100),
    (&["burst", "--count", "200"], 0, "", 200),
    (&["print", "--lines", "50"], 0, "", 0),
    (&["emit_bad"], 0, "", 1),
    (&["typed"], 0, "", 1),
    (&["traced"], 0, "", 0),
    (&["ignore_term", "--seconds", "0"], 0, "", 0),
    (&["wait", "--seconds", "0"], 1, "error", 0),
    (&["fail_at_first", "--times", "0"], 0, "", 1),
];

/// Ten runs of each of twenty jobs at once, concurrently or one after the other, with one store and one table.
#[test]
fn two_hundred_concurrent_runs_of_twenty_jobs() {
    const EACH: usize = 10;
    let site = Site::new(Write::Storage);
    let sandbox = &site.sandbox;
    let start = |i: usize| {
        let (job, ..) = JOBS[i % JOBS.len()];
        let overlap = if i.is_multiple_of(2) { "allow" } else { "wait" };
        let own = ["run-job", "--on-overlap", overlap, "--delivery-timeout", "1s", "misbehave"];
        sandbox.start(&[&own, job].concat())
    };
    let running: Vec<Running> = (0..JOBS.len() * EACH).map(start).collect();
    let ended: Vec<_> = std::thread::scope(|scope| {
        let waiting: Vec<_> = running.into_iter().map(|running| scope.spawn(|| running.wait_within(DEADLINE * 4))).collect();
        waiting.into_iter().map(|thread| thread.join().expect("it ends within its deadline")).collect()
    });
    for (i, ended) in ended.into_iter().enumerate() {
        assert!(!ended.err().contains("locked") && !ended.err().contains("another process"), "{}", ended.shown());
        ended.exits(JOBS[i % JOBS.len()].1);
    }
    let runs = sandbox.runs();
    assert_eq!(runs.len(), JOBS.len() * EACH);
    for (job, _, cause, own) in JOBS {
        let of_job: Vec<_> = runs.iter().filter(|run| run.0["job"] == job[0]).collect();
        assert_eq!(of_job.len(), EACH, "{job:?}");
        for run in of_job {
            assert_eq!(run.cause(), cause, "{run:?}");
            assert_eq!(sandbox.whole_events_of(run).len(), 2 + own, "{run:?}");
        }
    }
    assert!(sandbox.processes().is_empty());
    sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]).exits(0);
    site.all_is_delivered(Write::Storage, "after all");
}
