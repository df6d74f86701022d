//! Many commands at once, on one store.

use lorchestra_tests::{Fixture, Running, Sandbox, eventually};
use std::collections::HashSet;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

#[test]
fn thirty_two_runs_at_once_end_right_with_all_their_events() {
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
fn of_one_account_one_runs_and_the_others_are_refused() {
    let sandbox = sandbox();
    let mut running: Vec<Running> = (0..6).map(|_| sandbox.start(&["run-job", "misbehave", "wait", "--grace", "1h"])).collect();
    let mut refused = Vec::new();
    // The winner goes on until it is told to end: all others are losers.
    eventually("all but one have ended", || {
        let ended = running.iter_mut().position(Running::has_ended);
        refused.extend(ended.map(|i| running.swap_remove(i)));
        running.len() == 1
    });
    for loser in refused {
        let ended = loser.wait().exits(75);
        assert!(ended.err().contains("misbehave/wait is running already; no run was recorded"), "{}", ended.shown());
    }
    eventually("the winner is recorded", || sandbox.runs().len() == 1);
    let winner = running.remove(0);
    let stop = sandbox.lorchestra(&["runs", "stop", sandbox.run().id()]).exits(0);
    assert!(stop.out().contains("has ended"), "{}", stop.shown());
    winner.wait().exits(143);
    assert_eq!(sandbox.run().cause(), "cancelled");
    // Now it is free.
    sandbox.lorchestra(&["run-job", "misbehave", "wait", "--seconds", "0"]).exits(1);
}

#[test]
fn accounts_exclude_each_other_by_their_own_name_only() {
    let sandbox = sandbox();
    let held = sandbox.path("held");
    rustix::fs::mkfifoat(rustix::fs::CWD, &held, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    // Opening a FIFO for writing waits for a reader: the job of account `a` stays in its beginning.
    let running =
        sandbox.start(&["run-job", "misbehave", "numbered", "--account", "a", "--acknowledged", &held.display().to_string()]);
    eventually("it runs", || !running.children().is_empty());
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--account", "a"]).exits(75);
    assert!(ended.err().contains("for account a;") && ended.err().contains("lorchestra runs stop"), "{}", ended.shown());
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--account", "b"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "numbered"]).exits(0);
    // With a reader, the job goes on.
    let acknowledged = std::fs::read_to_string(&held).unwrap();
    assert_eq!(acknowledged.lines().count(), 100);
    running.wait().exits(0);
    assert_eq!(sandbox.runs().len(), 3);
}

/// First use: the store is made by one of them, and the others find it.
#[test]
fn looking_while_others_write_is_never_in_the_way() {
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
