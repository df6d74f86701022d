//! `backfill`: the windows of a range as a group: each effective once, whatever is killed; cancelled in order; resumed.

use lorchestra_tests::history::short_id;
use lorchestra_tests::{Ended, Fixture, Running, Sandbox, eventually, processes};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

const JOB: [&str; 3] = ["backfill", "misbehave", "windowed"];
const DAYS: [&str; 6] = ["--from", "2024-02-26", "--to", "2024-03-02", "--every", "1d"];

fn backfill(sandbox: &Sandbox, args: &[&str]) -> Ended {
    sandbox.lorchestra(&[&JOB[..], &DAYS, args].concat())
}

fn group(sandbox: &Sandbox) -> Value {
    sandbox.lorchestra(&["backfill", "show", "last", "--json"]).exits(0).json("lorchestra.group-show/1")
}

/// Number of completed runs by window and account. Checks that each run is whole.
#[track_caller]
fn completed(sandbox: &Sandbox) -> BTreeMap<(String, String), usize> {
    let mut windows = BTreeMap::new();
    for run in sandbox.runs() {
        let events = sandbox.whole_events_of(&run);
        if run.state() == "completed" {
            assert_eq!(events.iter().filter(|event| event.event_type() == "window.seen").count(), 1);
            let text = |key: &str| run.0[key].as_str().unwrap_or_default().to_owned();
            *windows.entry((text("since"), text("account"))).or_insert(0) += 1;
        }
    }
    windows
}

/// Every window was completed by one run, and no process is left.
#[track_caller]
fn is_effective_once(sandbox: &Sandbox, windows: usize) {
    let done = completed(sandbox);
    assert_eq!(done.len(), windows, "{done:?}");
    assert!(done.values().all(|runs| *runs == 1), "{done:?}");
    let group = group(sandbox);
    assert_eq!((&group["state"], &group["completed"], &group["running"]), (&json!("completed"), &json!(windows), &json!(0)));
    for window in group["windows"].as_array().unwrap() {
        let run = sandbox.lorchestra(&["runs", "show", window["run_id"].as_str().unwrap(), "--json"]).exits(0);
        assert_eq!(run.json("lorchestra.runs-show/1")["state"], "completed");
    }
    eventually("no process is left", || sandbox.processes().is_empty());
}

#[test]
fn every_window_and_account_is_run_once() {
    let sandbox = sandbox();
    let accounts = ["--account", "anna", "--account", "bert", "--matrix", "reached=2024-01-01,2024-01-02", "-j", "3"];
    let planned = backfill(&sandbox, &[&accounts[..], &["--dry-run", "--json"]].concat()).exits(0);
    let planned = planned.json_lines("lorchestra.backfill-window/1");
    assert_eq!(planned.len(), 5 * 2 * 2);
    assert!(!sandbox.state().join("lorchestra.db").exists(), "a dry run stores nothing");
    for pair in planned.windows(5) {
        let window = |at: usize| &pair[at]["spec"]["window"];
        // Four combinations for each window.
        assert!(window(0)["until"] == window(4)["since"], "{pair:?}");
    }
    let ended = backfill(&sandbox, &[&accounts[..], &["--json"]].concat()).exits(0).json("lorchestra.group/1");
    assert_eq!((&ended["members"], &ended["completed"], &ended["failed"]), (&json!(20), &json!(20), &json!(0)));
    let group_id = ended["group_id"].as_str().unwrap();
    let windows: BTreeMap<_, _> = completed(&sandbox);
    assert_eq!(windows.len(), 10);
    assert!(windows.values().all(|runs| *runs == 2), "{windows:?}");
    assert!(windows.contains_key(&("2024-02-29T00:00:00.000000Z".into(), "anna".into())), "the leap day");
    let listed =
        sandbox.lorchestra(&["runs", "list", "--group", group_id, "--account", "bert", "--limit", "100", "--json"]).exits(0);
    assert_eq!(listed.json_lines("lorchestra.run/1").len(), 10);
    sandbox.lorchestra(&["backfill", "list"]).exits(0);
    let again = sandbox.lorchestra(&["backfill", "resume", "last"]).exits(0);
    assert!(again.out().contains("20 windows completed"), "{}", again.shown());
    assert_eq!(sandbox.runs().len(), 20, "nothing was run again");
    let locks = std::fs::read_dir(sandbox.state().join("locks")).unwrap().count();
    assert!(locks <= 2, "a lock file for each window: {locks}");
}

#[test]
fn the_bookmark_of_an_account_moves_only_if_asked_for_and_only_when_its_windows_are_complete() {
    let sandbox = sandbox();
    let bookmarks = || sandbox.lorchestra(&["bookmarks", "show", "--json"]).exits(0).json_lines("lorchestra.bookmark/1");
    backfill(&sandbox, &["--account", "anna"]).exits(0);
    assert!(bookmarks().is_empty(), "{:?}", bookmarks());
    // Windows that complete in any order, and one that fails at first.
    let marker = sandbox.arg("go");
    let flags = ["--account", "bert", "--move-bookmark", "--order", "newest", "-j", "2", "--then", "fail_at_first"];
    backfill(&sandbox, &[&flags[..], &["--marker", &marker]].concat()).exits(1);
    assert!(bookmarks().is_empty(), "{:?}", bookmarks());
    let retried = ["--account", "bert", "--move-bookmark", "--order", "newest", "--then", "fail_at_first", "--retries", "1"];
    backfill(&sandbox, &retried).exits(0);
    let moved = bookmarks();
    assert_eq!(moved.len(), 1, "{moved:?}");
    assert_eq!((&moved[0]["account"], &moved[0]["at"]), (&json!("bert"), &json!("2024-03-02T00:00:00.000000Z")));
    let id = group(&sandbox)["group_id"].clone();
    assert_eq!([&moved[0]["moved_by"], &moved[0]["group_id"], &moved[0]["run_id"]], [&json!("backfill"), &id, &Value::Null]);
    let shown = sandbox.lorchestra(&["bookmarks", "show"]).exits(0);
    let by = format!(" by backfill {}\n", short_id(id.as_str().unwrap()));
    assert!(shown.out().ends_with(&by), "{by}: {}", shown.shown());
}

#[test]
fn what_failed_or_is_missing_is_resumed() {
    let sandbox = sandbox();
    let first = backfill(&sandbox, &["--then", "fail", "--max-failures", "2", "-j", "1"]).exits(1);
    assert!(first.err().contains("2 failed, 3 not run"), "{}", first.shown());
    let shown = sandbox.lorchestra(&["backfill", "show", "last"]).exits(0);
    assert!(shown.out().contains("error: not this window"), "{}", shown.shown());
    // --max-failures counts in each command.
    sandbox.lorchestra(&["backfill", "resume", "last", "--only", "missing"]).exits(1);
    assert_eq!(sandbox.runs().len(), 4);
    sandbox.lorchestra(&["backfill", "resume", "last", "--only", "failed", "--max-failures", "100"]).exits(1);
    assert_eq!(sandbox.runs().len(), 8, "the four that had failed, and not the one that has not run");
    let group = group(&sandbox);
    assert_eq!((&group["failed"], &group["pending"], &group["state"]), (&json!(4), &json!(1), &json!("failed")));
    let attempts: Vec<u64> = group["windows"].as_array().unwrap().iter().map(|w| w["attempt"].as_u64().unwrap()).collect();
    assert_eq!(attempts, [2, 2, 2, 2, 1]);
}

/// Windows that fail, and then have been completed by other runs: `runs rerun --failed`, and a run over a longer time.
#[test]
fn what_a_later_run_has_completed_is_not_run_again() {
    let sandbox = sandbox();
    let go = sandbox.arg("go");
    backfill(&sandbox, &["--go", &go, "--then", "fail_without_go", "-j", "5", "--account", "anna"]).exits(1);
    assert_eq!(group(&sandbox)["failed"], 5);
    std::fs::write(&go, "").unwrap();
    let wide = ["--account", "anna", "--since", "2024-02-25", "--until", "2024-02-28", "--go", &go, "--then", "fail_without_go"];
    sandbox.lorchestra(&[&["run-job", "misbehave", "windowed"][..], &wide].concat()).exits(0);
    let wide = sandbox.runs()[0].0["run_id"].as_str().unwrap().to_owned();
    let partly = group(&sandbox);
    assert_eq!((&partly["failed"], &partly["completed"], &partly["state"]), (&json!(3), &json!(2), &json!("failed")));
    let by: Vec<&Value> = partly["windows"].as_array().unwrap().iter().map(|window| &window["completed_by"]).collect();
    assert_eq!(by, [&json!(wide), &json!(wide), &Value::Null, &Value::Null, &Value::Null]);
    let shown = sandbox.lorchestra(&["backfill", "show", "last"]).exits(0);
    let line = format!("completed  2024-02-26..2024-02-27 anna  by run {}", &wide[28..]);
    assert!(shown.out().contains(&line), "{line}: {}", shown.shown());
    sandbox.lorchestra(&["runs", "rerun", "--failed"]).exits(0);
    assert_eq!(sandbox.runs().len(), 5 + 1 + 3);
    let listed = sandbox.lorchestra(&["backfill", "list", "--json"]).exits(0).json("lorchestra.group/1");
    assert_eq!((&listed["state"], &listed["completed"], &listed["failed"]), (&json!("completed"), &json!(5), &json!(0)));
    for flags in [&[][..], &["--only", "failed"], &["--only", "missing"]] {
        let resumed = sandbox.lorchestra(&[&["backfill", "resume", "last"], flags].concat()).exits(0);
        assert!(resumed.out().contains("5 windows completed"), "{}", resumed.shown());
    }
    assert_eq!(sandbox.runs().len(), 5 + 1 + 3, "nothing was run again");
}

/// Resumes a group, whose windows wait for a free lane while `runs rerun` completes one of them.
#[test]
fn a_window_that_is_completed_while_it_waits_for_its_turn_is_not_run() {
    let sandbox = sandbox();
    let go = sandbox.arg("go");
    let first = sandbox.start(&[&JOB[..], &DAYS, &["--go", &go, "--grace", "100ms", "-j", "5"]].concat());
    eventually("all five run", || sandbox.runs().iter().filter(|run| run.state() == "running").count() == 5);
    sandbox.lorchestra(&["backfill", "cancel", "last"]).exits(0);
    first.wait().exits(1);
    let failed = sandbox.runs();
    let last = failed.iter().find(|run| run.0["since"].as_str().unwrap().starts_with("2024-03-01")).unwrap();
    let last = sandbox.lorchestra(&["runs", "show", last.0["run_id"].as_str().unwrap(), "--json"]).exits(0);
    let file = sandbox.path("spec.json");
    std::fs::write(&file, last.json("lorchestra.runs-show/1")["spec"].to_string()).unwrap();
    let running = sandbox.start(&["backfill", "resume", "last", "-j", "1"]);
    eventually("the first window runs again", || sandbox.runs().iter().any(|run| run.state() == "running"));
    let other = sandbox.start(&["run-job", "--spec", file.to_str().unwrap()]);
    eventually("both run", || sandbox.runs().iter().filter(|run| run.state() == "running").count() == 2);
    std::fs::write(&go, "").unwrap();
    other.wait().exits(0);
    running.wait().exits(0);
    let done = completed(&sandbox);
    assert_eq!(done.len(), 5, "{done:?}");
    assert!(done.values().all(|runs| *runs == 1), "{done:?}");
}

/// The failures after the third are counted; a member whose run could not start has its reason.
#[test]
fn failures_are_counted_and_refusals_explained() {
    let sandbox = sandbox();
    let away = sandbox.path("away");
    std::fs::create_dir(&away).unwrap();
    let mut command = sandbox.command(&[&JOB[..], &DAYS, &["--then", "fail"]].concat());
    command.current_dir(&away);
    let first = Running::start(command).wait().exits(1);
    assert_eq!(first.err().matches("error: not this window").count(), 3, "{}", first.shown());
    assert!(first.err().contains("\n  and 2 more failures: lorchestra backfill show "), "{}", first.shown());
    std::fs::remove_dir(&away).unwrap();
    sandbox.lorchestra(&["backfill", "resume", "last"]).exits(1);
    let shown = sandbox.lorchestra(&["backfill", "show", "last"]).exits(0);
    let reasons: Vec<&str> = shown.out().lines().filter(|line| line.trim_start().starts_with("refused ")).collect();
    assert_eq!(reasons.len(), 5, "{}", shown.shown());
    assert!(reasons.iter().all(|line| line.contains("away") && line.contains("  run ")), "{}", shown.shown());
    for window in group(&sandbox)["windows"].as_array().unwrap() {
        assert!(window["message"].as_str().unwrap().contains("away"), "{window}");
        let run = sandbox.lorchestra(&["runs", "show", window["run_id"].as_str().unwrap(), "--json"]).exits(0);
        assert_eq!(
            run.json("lorchestra.runs-show/1")["spec"]["window"]["since"].as_str().map(|at| &at[..10]),
            window["label"].as_str().map(|at| &at[..10])
        );
    }
}

/// `runs list` takes every name of a group that other commands take and print.
#[test]
fn the_runs_of_a_group_are_found_by_each_of_its_names() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["runs", "list", "--group", "last"]).exits(1);
    sandbox.lorchestra(&[&JOB[..], &DAYS].concat()).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "noop", "--group", "nightly"]).exits(0);
    let id = group(&sandbox)["group_id"].as_str().unwrap().to_owned();
    let list = |group: &str| sandbox.lorchestra(&["runs", "list", "--json", "--group", group]);
    for (name, runs) in [(&*id, 5), ("last", 5), (short_id(&id), 5), (&id[..13], 5), ("nightly", 1)] {
        assert_eq!(list(name).exits(0).json_lines("lorchestra.run/1").len(), runs, "{name}");
    }
    for name in ["night", "0000-unknown"] {
        let unknown = list(name).exits(1);
        assert!(unknown.err().contains(&format!("Unknown group: {name}")), "{}", unknown.shown());
    }
}

/// Runs of other windows of the same job and account run at the same time, and two runs of one window never do.
#[test]
fn windows_run_side_by_side_and_none_twice_at_once() {
    let sandbox = sandbox();
    let (go, marker) = (sandbox.arg("go"), sandbox.arg("seen"));
    let wait = ["--go", &go, "--marker", &marker, "-j", "5", "--account", "anna"];
    let running = sandbox.start(&[&JOB[..], &DAYS, &wait].concat());
    eventually("all five run", || sandbox.runs().iter().filter(|run| run.state() == "running").count() == 5);
    let busy = sandbox.lorchestra(&["backfill", "resume", "last"]).exits(75);
    assert!(busy.err().contains("is already being run"), "{}", busy.shown());
    // The same windows with the same parameters, as another group: it waits for those that run.
    let mut second = sandbox.start(&[&JOB[..], &DAYS, &wait].concat());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(sandbox.runs().len(), 5, "none is run twice at once");
    assert!(!second.has_ended());
    std::fs::write(&go, "").unwrap();
    running.wait().exits(0);
    second.wait().exits(0);
    assert!(completed(&sandbox).values().all(|runs| *runs == 2), "once for each group");
}

#[test]
fn an_interrupt_stops_all_windows_in_order() {
    for signal in [Signal::INT, Signal::TERM] {
        let sandbox = sandbox();
        let running = sandbox.start(&[&JOB[..], &DAYS, &["-j", "2", "--then", "wait"]].concat());
        eventually("two run", || sandbox.runs().iter().filter(|run| run.state() == "running").count() == 2);
        running.signal(signal);
        let ended = running.wait();
        assert_eq!(ended.code(), Some(128 + signal.as_raw()), "{}", ended.shown());
        let runs = sandbox.runs();
        assert_eq!(runs.len(), 2);
        assert!(runs.iter().all(|run| run.cause() == "cancelled"), "{runs:?}");
        assert!(sandbox.processes().is_empty(), "no process is left");
        let group = group(&sandbox);
        assert_eq!((&group["pending"], &group["failed"]), (&json!(3), &json!(2)));
    }
}

#[test]
fn a_group_is_cancelled_by_another_command() {
    for kill_parent in [false, true] {
        let sandbox = sandbox();
        let running = sandbox.start(&[&JOB[..], &DAYS, &["-j", "2", "--then", "wait"]].concat());
        eventually("two run", || sandbox.runs().iter().filter(|run| run.state() == "running").count() == 2);
        if kill_parent {
            running.signal(Signal::KILL);
        }
        let cancelled = sandbox.lorchestra(&["backfill", "cancel", "last"]).exits(0);
        assert!(cancelled.out().contains("0 of 5 windows have completed"), "{}", cancelled.shown());
        assert_eq!(running.wait().code(), if kill_parent { None } else { Some(1) });
        eventually("no process is left", || sandbox.processes().is_empty());
        assert!(sandbox.runs().iter().all(|run| run.cause() == "cancelled"));
        assert_eq!(group(&sandbox)["state"], "cancelled");
        sandbox.lorchestra(&["backfill", "cancel", "last"]).exits(0);
    }
}

/// Kills the command, its supervisors and their workers, at random moments, and resumes until all is done.
#[test]
fn every_window_is_effective_once_whatever_is_killed() {
    let sandbox = sandbox();
    let mut random = fastrand::Rng::with_seed(16);
    let args = ["--from", "2024-01-01", "--to", "2024-01-31", "--every", "1d", "-j", "3", "--account", "anna"];
    let mut running = sandbox.start(&[&JOB[..], &args].concat());
    let (mut killed, mut turn) = ([0; 3], 0);
    let until = Instant::now() + Duration::from_secs(40);
    loop {
        std::thread::sleep(Duration::from_millis(random.u64(5..60)));
        if running.has_ended() {
            let ended = running.wait();
            if ended.code() == Some(0) || Instant::now() > until {
                break;
            }
            running = sandbox.start(&["backfill", "resume", "last"]);
            continue;
        }
        let lanes = running.children();
        if lanes.is_empty() {
            continue;
        }
        turn += 1;
        match turn % 6 {
            5 => {
                running.signal(Signal::KILL);
                killed[0] += 1;
            }
            2 | 4 => {
                if let Some(lane) = lanes.first() {
                    processes::signal(*lane, Signal::KILL);
                    killed[1] += 1;
                }
            }
            _ => {
                if let Some(worker) = lanes.iter().flat_map(|lane| processes::children(*lane)).next() {
                    processes::signal(worker, Signal::KILL);
                    killed[2] += 1;
                }
            }
        }
    }
    assert!(killed.iter().all(|kills| *kills > 0), "each kind was killed: {killed:?}");
    let last = sandbox.lorchestra(&["backfill", "resume", "last"]);
    last.exits(0);
    is_effective_once(&sandbox, 30);
    assert!(sandbox.runs().len() > 30, "some were killed: {killed:?}");
}

#[test]
fn what_completed_runs_cover_is_left_out_and_the_rest_is_joined() {
    let sandbox = sandbox();
    let run = |since: &str, until: &str| {
        let args = ["run-job", "misbehave", "windowed", "--account", "anna", "--since", since, "--until", until];
        sandbox.lorchestra(&args).exits(0);
    };
    run("2024-02-27", "2024-02-28");
    run("2024-03-01", "2024-03-05");
    let merge = ["--merge", "--account", "anna", "--account", "bert"];
    let planned = backfill(&sandbox, &[&merge[..], &["--dry-run"]].concat()).exits(0);
    let mut lines: Vec<&str> = planned.out().lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["2024-02-26..2024-02-27 anna", "2024-02-26..2024-03-02 bert", "2024-02-28..2024-03-01 anna"]);
    backfill(&sandbox, &merge).exits(0);
    let nothing = backfill(&sandbox, &merge).exits(0);
    assert!(nothing.err().contains("Nothing to do"), "{}", nothing.shown());
    let nothing = backfill(&sandbox, &[&merge[..], &["--plan", &sandbox.arg("plan")]].concat()).exits(0);
    assert!(nothing.err().contains("no plan was written"), "{}", nothing.shown());
}

/// The bookmark of an account that has nothing left to run moves too, by the rule for one run over the range.
#[test]
fn merge_moves_the_bookmarks_of_accounts_that_are_covered() {
    let sandbox = sandbox();
    let at = |account: &str| {
        let shown = sandbox.lorchestra(&["bookmarks", "show", "--json"]).exits(0).json_lines("lorchestra.bookmark/1");
        shown
            .iter()
            .find(|bookmark| bookmark["account"] == account)
            .map(|bookmark| bookmark["at"].as_str().unwrap()[..10].to_owned())
    };
    let (end, accounts) = (Some("2024-03-02".to_owned()), ["--account", "anna", "--account", "bert"]);
    backfill(&sandbox, &accounts).exits(0);
    let merge = |more: &[&str]| backfill(&sandbox, &[&["--merge"], more].concat()).exits(0);
    merge(&[&accounts[..], &["--move-bookmark", "--dry-run"]].concat());
    merge(&accounts);
    assert_eq!((at("anna"), at("bert")), (None, None));
    let moved = merge(&["--account", "anna", "--move-bookmark"]);
    assert_eq!((at("anna"), at("bert")), (end.clone(), None));
    assert!(moved.err().contains("bookmark of anna moved to 2024-03-02"), "{}", moved.shown());
    // Next to an account that has windows to run.
    let moved = merge(&[&accounts[..], &["--account", "carl", "--move-bookmark"]].concat());
    assert_eq!((at("bert"), at("carl")), (end.clone(), end.clone()));
    for line in ["bookmark of anna stays at 2024-03-02", "bookmark of bert moved to", "bookmark of carl moved to"] {
        assert!(moved.err().contains(line), "{line}: {}", moved.shown());
    }
    assert_eq!(sandbox.runs().len(), 10 + 1);
    // A gap between the bookmark and the range.
    sandbox.lorchestra(&["bookmarks", "set", "misbehave/windowed", "2024-01-01", "--account", "anna"]).exits(0);
    let stays = merge(&["--account", "anna", "--move-bookmark"]);
    assert_eq!(at("anna").as_deref(), Some("2024-01-01"));
    assert!(stays.err().contains("is not covered"), "{}", stays.shown());
}

#[test]
fn bad_requests_store_nothing() {
    let sandbox = sandbox();
    let base = [&JOB[..], &DAYS].concat();
    for (args, message) in [
        (&["backfill", "misbehave", "windowed", "--to", "today", "--every", "1d"][..], "--from is missing"),
        (&["backfill", "misbehave", "windowed", "--from", "today", "--to", "-2d", "--every", "1d"], "the range is empty"),
        (&["backfill", "misbehave", "windowed", "--from", "2024", "--to", "today", "--every", "1d"], "--from \"2024\""),
        (&["backfill", "misbehave", "windowed", "--from", "-1d", "--to", "today", "--every", "1m"], "1min or 1mo"),
        (&["backfill", "misbehave", "noop", "--from", "-1d", "--to", "now", "--every", "1h"], "no parameter since"),
        (&[&base[..], &["--since", "-1d"]].concat(), "--since contradicts"),
        (&[&base[..], &["--matrix", "nothing=1"]].concat(), "has no parameter nothing"),
        (&[&base[..], &["--matrix", "then"]].concat(), "write --matrix name=a,b,c"),
        (&[&base[..], &["--matrix", "then=return,return"]].concat(), "given twice"),
        (&[&base[..], &["--matrix", "reached=nonsense"]].concat(), "nonsense"),
        (&[&base[..], &["--matrix", "reached=2024-01-05,2024-01-05T00:00:00Z"]].concat(), "are the same run"),
        (&[&base[..], &["--matrix", "then=return,,fail"]].concat(), "a value is empty"),
        (&[&base[..], &["--plan", "p", "-j", "2"]].concat(), "cannot be used with"),
        (&[&base[..], &["--plan", "p", "--engine", "slurm"]].concat(), "cannot be used with"),
        (&[&base[..], &["--plan", "p", "--require-delivery"]].concat(), "cannot be used with"),
        (&[&base[..], &["--plan", "p", "--move-bookmark"]].concat(), "cannot be used with"),
        (&[&base[..], &["-j", "0"]].concat(), "0"),
        (&["backfill", "resume"], "GROUP"),
    ] {
        let ended = sandbox.lorchestra(args).exits(2);
        assert!(ended.err().contains(message), "{message}: {}", ended.shown());
    }
    sandbox.lorchestra(&["backfill", "show", "last"]).exits(1);
    assert!(!Path::new(&sandbox.state().join("lorchestra.db")).exists());
}

/// A misspelt configuration must not look like delivered events.
/// Ends that depend on the time of the call give other windows each time.
#[test]
fn windows_that_never_repeat_are_warned_about() {
    let sandbox = sandbox();
    let planned = |from: &str, every: &str| {
        let args = [&JOB[..], &["--from", from, "--to", "today", "--every", every, "--dry-run"]].concat();
        sandbox.lorchestra(&args).exits(0).err().to_owned()
    };
    assert!(planned("-3d", "1d").contains("warning: --from -3d is "), "{}", planned("-3d", "1d"));
    assert!(planned("-3d", "1d").contains("not the beginning of a day"));
    assert!(planned("yesterday", "1d").lines().all(|line| !line.contains("warning")));
    assert!(planned("-3d", "6h").contains("not the beginning of an hour"));
    assert!(planned("yesterday", "1d").contains("1 run (dry run: nothing was started)"));
}

/// A group that its failures have stopped has failed; one that a person has stopped is interrupted.
#[test]
fn a_group_that_failures_have_stopped_has_failed() {
    let sandbox = sandbox();
    let fail = ["-j", "1", "--then", "fail", "--max-failures", "2", "--json"];
    let ended = sandbox.lorchestra(&[&JOB[..], &DAYS, &fail].concat()).exits(1);
    assert_eq!(ended.json("lorchestra.group/1")["state"], "failed");
    assert_eq!((&group(&sandbox)["state"], &group(&sandbox)["pending"]), (&json!("failed"), &json!(3)));
    let running = sandbox.start(&[&JOB[..], &DAYS, &["-j", "1", "--then", "wait", "--max-failures", "1"]].concat());
    eventually("one runs", || sandbox.runs().iter().any(|run| run.state() == "running"));
    running.signal(Signal::INT);
    running.wait().exits(130);
    assert_eq!(group(&sandbox)["state"], "interrupted");
    // A stage that failed stops the later ones.
    let stage = |job: &str| format!("[[stage]]\n[[stage.jobs]]\njob = \"misbehave/{job}\"\n");
    std::fs::write(sandbox.path("nightly.toml"), stage("fail") + &stage("noop")).unwrap();
    let ended = sandbox.lorchestra(&["run-group", "--json", &sandbox.arg("nightly.toml")]).exits(1);
    assert_eq!(ended.json("lorchestra.group/1")["state"], "failed");
    let id = ended.json("lorchestra.group/1")["group_id"].as_str().unwrap().to_owned();
    let shown = sandbox.lorchestra(&["backfill", "show", &id]).exits(0);
    assert!(shown.out().contains("(failed)\n") && shown.out().contains("\n  jobs: 2 ("), "{}", shown.shown());
}

/// Flags that a real run refuses are refused by a dry run, and by commands that would ignore them.
#[test]
fn dry_runs_refuse_flags_that_have_no_effect() {
    let sandbox = sandbox();
    for flags in [&["--shared", "/x"][..], &["--engine-flag=-x"], &["--node-state", "/x"], &["--engine", "slurm"]] {
        sandbox.lorchestra(&[&JOB[..], &DAYS, &["--dry-run"], flags].concat()).exits(2);
    }
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox.lorchestra(&["runs", "rerun", "last", "--dry-run", "--json"]).exits(2);
}

#[test]
fn required_delivery_needs_a_destination() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&[&JOB[..], &DAYS, &["--require-delivery"]].concat()).exits(78);
    assert!(ended.err().contains("no destination is configured"), "{}", ended.shown());
    assert_eq!(sandbox.runs().len(), 0);
}

/// Flags of backfill count before PACKAGE and after JOB.
#[test]
fn flags_are_accepted_on_both_sides_of_the_job() {
    let sandbox = sandbox();
    let args = ["backfill", "-j", "2", "--from", "2024-01-01", "misbehave", "windowed", "--to", "2024-01-03", "--every", "1d"];
    let planned = sandbox.lorchestra(&[&args[..], &["--dry-run"]].concat()).exits(0);
    assert_eq!(planned.out().lines().count(), 2, "{}", planned.shown());
    let help = sandbox.lorchestra(&["backfill", "misbehave", "windowed", "--help"]).exits(0);
    assert!(help.out().contains("--from <TIME>") && help.out().contains("--reached <TIME>"), "{}", help.shown());
    sandbox.lorchestra(&["backfill", "--help"]).exits(0);
}

/// One sentence, and nothing is stored.
#[test]
fn without_an_engine_it_says_what_to_install() {
    let sandbox = sandbox();
    let shared = sandbox.arg("shared");
    for (engine, what) in [("slurm", "slurm-client"), ("temporal", "cargo install --path lorchestra-temporal")] {
        let refused = backfill(&sandbox, &["--engine", engine, "--shared", &shared]).exits(78);
        assert!(refused.err().contains(what) && refused.err().lines().count() == 1, "{}", refused.shown());
        let refused = backfill(&sandbox, &["--engine", engine]).exits(2);
        assert!(refused.err().contains("needs --shared DIR"), "{}", refused.shown());
    }
    backfill(&sandbox, &["--detach"]).exits(2);
    assert!(!sandbox.state().join("lorchestra.db").exists());
}
