//! Bookmarks: only success moves them, even success that no one observed; each account has its own. `lorchestra-core/src/store/bookmark.rs`
//! tests the rule itself, `plan/tests.rs` the notation.

use lorchestra_tests::{Event, Fixture, Running, Sandbox, eventually, processes};
use rustix::process::Signal;
use serde_json::{Value, json};

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

/// `run-job misbehave windowed` with these flags, including those of run-job.
fn windowed<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    [&["run-job", "misbehave", "windowed"], flags].concat()
}

/// A run of everything before `until`.
#[track_caller]
fn succeed(sandbox: &Sandbox, flags: &[&str]) {
    sandbox.lorchestra(&windowed(flags)).exits(0);
}

#[track_caller]
fn bookmarks(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.lorchestra(&["bookmarks", "show", "--json"]).exits(0).json_lines("lorchestra.bookmark/1")
}

/// The bookmarks of `windowed`, by account.
#[track_caller]
fn marks(sandbox: &Sandbox) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    bookmarks(sandbox).iter().map(|mark| (text(&mark["account"]), text(&mark["at"]))).collect()
}

/// The only bookmark.
#[track_caller]
fn mark(sandbox: &Sandbox) -> String {
    let mut all = marks(sandbox);
    assert_eq!(all.len(), 1, "one bookmark: {all:?}");
    all.remove(0).1
}

/// A midnight of January 2024, in the format of bookmarks.
fn january(day: u32) -> String {
    format!("2024-01-{day:02}T00:00:00.000000Z")
}

/// The parameters that the job of the newest run received.
#[track_caller]
fn window(sandbox: &Sandbox) -> Value {
    let events = sandbox.events_of(sandbox.runs()[0].id());
    let seen: Vec<&Event> = events.iter().filter(|event| event.event_type() == "window.seen").collect();
    seen.first().expect("the job started").payload().clone()
}

/// The lines of `runs show` about the newest run's bookmark.
#[track_caller]
fn shown(sandbox: &Sandbox) -> String {
    let shown = sandbox.lorchestra(&["runs", "show", sandbox.runs()[0].id()]).exits(0);
    let lines: Vec<&str> = shown.out().lines().filter(|line| line.starts_with("bookmark ")).collect();
    lines.join("\n")
}

/// A run that has reached its marker, and waits for the file `go`.
fn waiting(sandbox: &Sandbox, name: &str, flags: &[&str]) -> Running {
    let (marker, go) = (sandbox.arg(&format!("{name}.marker")), sandbox.arg(&format!("{name}.go")));
    let running = sandbox.start(&windowed(&[&["--marker", &marker, "--go", &go], flags].concat()));
    eventually("the job has started", || sandbox.read(&format!("{name}.marker")).ends_with('\n'));
    running
}

fn go(sandbox: &Sandbox, name: &str) {
    std::fs::write(sandbox.path(&format!("{name}.go")), "").unwrap();
}

#[test]
fn success_moves_the_bookmark_and_the_next_run_starts_there() {
    let sandbox = sandbox();
    succeed(&sandbox, &["--since", "2024-01-01", "--until", "2024-01-10"]);
    let run = sandbox.runs().remove(0);
    assert_eq!(shown(&sandbox), "bookmark   none → 2024-01-10T00:00:00Z");
    let all = bookmarks(&sandbox);
    let expected = json!({
        "schema": "lorchestra.bookmark/1", "package": "misbehave", "job": "windowed", "account": null, "at": january(10),
        "moved_at": run.0["ended_at"], "moved_by": "run", "run_id": run.id(), "group_id": null,
    });
    assert_eq!(all, [expected]);

    succeed(&sandbox, &["--since", "last", "--until", "2024-01-20"]);
    assert_eq!(window(&sandbox)["since"], "2024-01-10T00:00:00Z");
    let run = sandbox.runs().remove(0);
    let started = sandbox.whole_events_of(&run).remove(0);
    assert_eq!(started.payload()["parameters"]["since"], "2024-01-10T00:00:00Z");
    assert_eq!(started.payload()["since"], "2024-01-10T00:00:00Z");
    assert_eq!(shown(&sandbox), "bookmark   2024-01-10T00:00:00Z → 2024-01-20T00:00:00Z");
    let json = sandbox.lorchestra(&["runs", "show", run.id(), "--json"]).exits(0).json("lorchestra.runs-show/1");
    assert_eq!(json["bookmark"], json!({"before": january(10), "after": january(20)}));

    // Without an until: up to the start of the run.
    succeed(&sandbox, &["--since", "last:-1d"]);
    let run = sandbox.runs().remove(0);
    assert_eq!(
        (window(&sandbox)["since"].as_str(), run.0["until"].as_str()),
        (Some("2024-01-20T00:00:00Z"), Some(&*mark(&sandbox)))
    );
    // The dry run shows where the next one starts.
    let dry = sandbox.lorchestra(&["run-job", "--dry-run", "--json", "misbehave", "windowed", "--since", "last"]).exits(0);
    assert_eq!(dry.json("lorchestra.run-spec/1")["window"]["since"], window(&sandbox)["until"]);
}

#[test]
fn without_a_bookmark_last_is_refused_and_nothing_is_created() {
    let sandbox = sandbox();
    for flags in [&["--since", "last"][..], &["--dry-run", "--since", "last"]] {
        let ended = sandbox.lorchestra(&windowed(flags)).exits(2);
        assert_eq!(
            ended.err().lines().next(),
            Some(
                "error: --since \"last\": misbehave/windowed has no bookmark yet; use --since last:-30d to start there, \
                 or set one: lorchestra bookmarks set misbehave windowed TIME"
            )
        );
        assert!(!sandbox.state().exists(), "{}", ended.shown());
    }
    let ended = sandbox.lorchestra(&windowed(&["--since", "last", "--param", "account=anna"])).exits(2);
    assert!(
        ended.err().contains("misbehave/windowed for account anna has no bookmark yet")
            && ended.err().contains("--account anna TIME")
    );
    // Other faults are reported too, and the part after the colon is checked.
    let ended = sandbox.lorchestra(&windowed(&["--since", "last:30d", "--until", "last"])).exits(2);
    assert!(ended.err().contains("after last: a time in the past begins with a minus; write -30d"), "{}", ended.shown());
    assert!(ended.err().contains("--until \"last\": means the job's bookmark, and only its `since` accepts it"));
    for elsewhere in [&["events", "list", "--since", "last"][..], &["run-job", "misbehave", "typed", "--horizon", "last"]] {
        let ended = sandbox.lorchestra(elsewhere).exits(2);
        assert!(ended.err().contains("means the job's bookmark"), "{}", ended.shown());
    }
    succeed(&sandbox, &["--since", "last:2024-01-05", "--until", "2024-01-10"]);
    assert_eq!((window(&sandbox)["since"].as_str(), mark(&sandbox)), (Some("2024-01-05T00:00:00Z"), january(10)));
}

#[test]
fn a_default_may_be_the_bookmark() {
    let sandbox = sandbox();
    let shown = sandbox.lorchestra(&["run-job", "misbehave", "from_bookmark", "--help"]).exits(0);
    assert!(shown.out().contains("[default: last:-30d]"), "{}", shown.shown());
    sandbox.lorchestra(&["run-job", "misbehave", "from_bookmark"]).exits(0);
    let first = sandbox.runs().remove(0);
    sandbox.lorchestra(&["run-job", "misbehave", "from_bookmark"]).exits(0);
    let second = sandbox.runs().remove(0);
    assert_eq!(second.0["since"], first.0["until"], "the second began where the first ended");
    assert_eq!(mark(&sandbox), second.0["until"]);
}

#[test]
fn only_success_moves_the_bookmark() {
    let sandbox = sandbox();
    succeed(&sandbox, &["--until", "2024-01-10"]);
    let before = bookmarks(&sandbox);
    let since_last = |flags: &[&'static str]| windowed(&[&["--since", "last", "--reached", "2024-01-30"], flags].concat());
    for (flags, code) in [
        (&["--then", "fail"][..], 1),
        (&["--then", "panic"], 1),
        (&["--then", "abort"], 1),
        (&["--then", "fail", "--retries", "1"], 1),
        // When stopped, it returns Ok: the cause is still the timeout.
        (&["--then", "wait", "--timeout", "1s"], 124),
        (&["--dry-run"], 0),
        (&["--until", "yesteday"], 2),
    ] {
        sandbox.lorchestra(&since_last(flags)).exits(code);
        assert_eq!(bookmarks(&sandbox), before, "{flags:?}");
        assert_eq!(shown(&sandbox), "", "{flags:?}: the last recorded run failed, and left the bookmark");
    }
    let running = waiting(&sandbox, "holder", &["--since", "last", "--until", "2024-01-20", "--then", "wait"]);
    sandbox.lorchestra(&since_last(&["--on-overlap", "skip"])).exits(0);
    sandbox.lorchestra(&since_last(&["--on-overlap", "fail"])).exits(75);
    assert_eq!(bookmarks(&sandbox), before, "skipped");
    go(&sandbox, "holder");
    running.signal(Signal::TERM);
    running.wait().exits(143);
    assert_eq!(bookmarks(&sandbox), before, "cancelled");
    succeed(&sandbox, &["--since", "last", "--until", "2024-01-20"]);
    assert_eq!(mark(&sandbox), january(20));
}

#[test]
fn a_job_without_since_has_no_bookmark() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "bookmark_nothing", "--until", "2024-01-10"]).exits(0);
    assert_eq!(bookmarks(&sandbox), Vec::<Value>::new());
    assert_eq!(shown(&sandbox), "");
    let events = sandbox.events_of(sandbox.run().id());
    let answer = events.iter().find(|event| event.event_type() == "answered").unwrap().payload()["answer"].clone();
    assert!(answer.as_str().is_some_and(|answer| answer.contains("no parameter `since")), "{answer}");
}

#[test]
fn concurrent_accounts_do_not_affect_each_other() {
    let sandbox = sandbox();
    let (a, b) = (["--account", "a", "--until", "2024-01-10"], ["--account", "b", "--until", "2024-01-20"]);
    let running = [waiting(&sandbox, "a", &a), waiting(&sandbox, "b", &b)];
    assert_eq!(marks(&sandbox), []);
    // The one that started first ends last.
    let [first, second] = running;
    go(&sandbox, "b");
    second.wait().exits(0);
    assert_eq!(marks(&sandbox), [("b".to_owned(), january(20))]);
    go(&sandbox, "a");
    first.wait().exits(0);
    let both = [("a".to_owned(), january(10)), ("b".to_owned(), january(20))];
    assert_eq!(marks(&sandbox), both);
    sandbox.lorchestra(&windowed(&["--since", "last", "--then", "fail", "--account", "b"])).exits(1);
    succeed(&sandbox, &["--since", "last", "--account", "a", "--until", "2024-01-15"]);
    assert_eq!(window(&sandbox)["since"], "2024-01-10T00:00:00Z");
    assert_eq!(marks(&sandbox), [("a".to_owned(), january(15)), ("b".to_owned(), january(20))]);
    // Nor does a run without an account.
    sandbox.lorchestra(&windowed(&["--since", "last"])).exits(2);
    // Many at once, each from its own bookmark.
    let many: Vec<Running> = (0..8)
        .map(|n| sandbox.start(&windowed(&["--account", &format!("n{n}"), "--until", &format!("2024-01-{:02}", n + 1)])))
        .collect();
    many.into_iter().for_each(|running| drop(running.wait().exits(0)));
    let all = marks(&sandbox);
    for n in 0..8 {
        assert!(all.contains(&(format!("n{n}"), january(n + 1))), "{all:?}");
    }
}

/// Two concurrent runs for one account: whichever ends last, the bookmark is at the later position.
#[test]
fn overlapping_runs_leave_the_bookmark_at_the_later_end() {
    for order in [["near", "far"], ["far", "near"]] {
        let sandbox = sandbox();
        let near = waiting(&sandbox, "near", &["--until", "2024-01-10"]);
        let far = waiting(&sandbox, "far", &["--on-overlap", "allow", "--until", "2024-01-20"]);
        let mut running = [("near", Some(near)), ("far", Some(far))];
        for name in order {
            go(&sandbox, name);
            let ended = running.iter_mut().find(|(other, _)| *other == name).and_then(|(_, running)| running.take()).unwrap();
            ended.wait().exits(0);
        }
        assert_eq!(mark(&sandbox), january(20), "{order:?}");
    }
}

/// Whether a command has made its plan: it handles signals from then on.
fn has_planned(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << 14) != 0)
}

/// A run that waits for another one starts where that one stopped, not at the bookmark as of the beginning of the wait.
#[test]
fn a_run_that_waited_starts_where_the_other_stopped() {
    for (until, code) in [("2024-01-20", 0), ("2024-01-15", 75)] {
        let sandbox = sandbox();
        succeed(&sandbox, &["--until", "2024-01-05"]);
        let running = waiting(&sandbox, "first", &["--since", "last", "--until", "2024-01-15"]);
        let next = sandbox.start(&windowed(&["--since", "last", "--until", until, "--on-overlap", "wait"]));
        eventually("it has read the bookmark", || has_planned(next.pid()));
        go(&sandbox, "first");
        running.wait().exits(0);
        let ended = next.wait().exits(code);
        if code == 0 {
            assert_eq!(window(&sandbox)["since"], "2024-01-15T00:00:00Z");
            let run = sandbox.runs().remove(0);
            assert_eq!(run.0["since"], january(15));
            assert_eq!(sandbox.whole_events_of(&run)[0].payload()["parameters"]["since"], "2024-01-15T00:00:00Z");
            assert_eq!(mark(&sandbox), january(20));
        } else {
            assert!(ended.err().contains("there is nothing left to do, and no run was recorded"), "{}", ended.shown());
            assert_eq!(sandbox.runs().len(), 2);
        }
    }
}

/// A run that succeeds unobserved: its supervisor is stopped, so that it cannot see the final record, and killed once the worker has ended.
#[track_caller]
fn succeed_unseen(sandbox: &Sandbox, flags: &[&str]) {
    let running = waiting(sandbox, "run", flags);
    running.signal(Signal::STOP);
    eventually("the supervisor is stopped", || processes::is_stopped(running.pid()));
    let workers = running.children();
    go(sandbox, "run");
    eventually("the worker has ended on its own", || workers.iter().all(|pid| !processes::is_alive(*pid)));
    running.signal(Signal::KILL);
}

/// The next command that reads the bookmark closes that run first, and finds the bookmark moved.
#[test]
fn an_unobserved_success_moves_the_bookmark() {
    for next in ["runs", "bookmarks", "run-job"] {
        let sandbox = sandbox();
        succeed(&sandbox, &["--until", "2024-01-10"]);
        succeed_unseen(&sandbox, &["--since", "last", "--until", "2024-01-20", "--reached", "2024-01-19"]);
        // A dry run changes nothing, so it does not know yet.
        let dry = sandbox.lorchestra(&["run-job", "--dry-run", "--json", "misbehave", "windowed", "--since", "last"]).exits(0);
        assert_eq!((dry.err(), &dry.json("lorchestra.run-spec/1")["window"]["since"]), ("", &json!("2024-01-10T00:00:00Z")));
        let ended = match next {
            "runs" => sandbox.lorchestra(&["runs", "list"]).exits(0),
            "bookmarks" => sandbox.lorchestra(&["bookmarks", "show"]).exits(0),
            _ => sandbox.lorchestra(&windowed(&["--since", "last", "--until", "2024-01-25"])).exits(0),
        };
        assert!(ended.err().contains("completed before its supervisor died"), "{next}: {}", ended.shown());
        if next == "run-job" {
            assert_eq!(window(&sandbox)["since"], "2024-01-19T00:00:00Z");
            assert_eq!(mark(&sandbox), january(25));
        } else {
            assert_eq!(mark(&sandbox), january(19), "{next}");
        }
    }
}

/// There was no bookmark before: a run that starts at the bookmark is not refused.
#[test]
fn an_unobserved_first_success_sets_the_bookmark() {
    let sandbox = sandbox();
    succeed_unseen(&sandbox, &["--until", "2024-01-10"]);
    succeed(&sandbox, &["--since", "last", "--until", "2024-01-20"]);
    assert_eq!((window(&sandbox)["since"].as_str(), mark(&sandbox)), (Some("2024-01-10T00:00:00Z"), january(20)));
}

/// Killed while it was running: the next run starts where that one did.
#[test]
fn a_killed_run_leaves_the_bookmark() {
    let sandbox = sandbox();
    succeed(&sandbox, &["--until", "2024-01-10"]);
    let running = waiting(&sandbox, "run", &["--since", "last", "--until", "2024-01-20", "--reached", "2024-01-19"]);
    running.signal(Signal::KILL);
    drop(running);
    let ended = sandbox.lorchestra(&windowed(&["--since", "last", "--until", "2024-01-20"])).exits(0);
    assert!(ended.err().contains("abandoned"), "{}", ended.shown());
    assert_eq!((window(&sandbox)["since"].as_str(), mark(&sandbox)), (Some("2024-01-10T00:00:00Z"), january(20)));
}

#[test]
fn a_backfill_and_a_gap_leave_the_bookmark_and_report_it() {
    let sandbox = sandbox();
    succeed(&sandbox, &["--until", "2024-01-10"]);
    let before = bookmarks(&sandbox);
    succeed(&sandbox, &["--since", "2024-01-01", "--until", "2024-01-05"]);
    assert_eq!(shown(&sandbox), "bookmark   stays at 2024-01-10T00:00:00Z: this run did not get past it");
    succeed(&sandbox, &["--since", "2024-01-15", "--until", "2024-01-20"]);
    assert_eq!(
        shown(&sandbox),
        "bookmark   stays at 2024-01-10T00:00:00Z: the time from there to the start of this run's window (2024-01-15T00:00:00Z) is not covered"
    );
    assert_eq!(bookmarks(&sandbox), before);
    // A window that contains the bookmark.
    succeed(&sandbox, &["--since", "2024-01-09", "--until", "2024-01-20"]);
    assert_eq!(mark(&sandbox), january(20));
    // Everything up to a time before it.
    succeed(&sandbox, &["--until", "2024-01-12"]);
    assert_eq!(mark(&sandbox), january(20));
    let ended = sandbox.lorchestra(&windowed(&["--since", "last", "--until", "2024-01-20"])).exits(2);
    assert!(ended.err().contains("the bookmark of misbehave/windowed is at 2024-01-20T00:00:00Z, which is not before until"));
    assert!(ended.err().contains("the whole window is done"), "{}", ended.shown());
}

#[test]
fn a_bookmark_set_by_the_job_overrides_its_window() {
    let sandbox = sandbox();
    succeed(&sandbox, &["--until", "2024-01-10", "--reached", "2024-01-08"]);
    assert_eq!(mark(&sandbox), january(8));
    // There was nothing new: the bookmark stays.
    succeed(&sandbox, &["--since", "last", "--until", "2024-01-10", "--reached", "2024-01-08"]);
    assert_eq!(mark(&sandbox), january(8));
    assert!(shown(&sandbox).contains("stays at 2024-01-08T00:00:00Z"));
    // A bookmark set in a failed attempt does not count for the run.
    sandbox.configure("[job.\"misbehave/windowed\"]\nretry_wait = \"1s\"\n");
    succeed(
        &sandbox,
        &["--since", "last", "--until", "2024-01-20", "--reached", "2024-01-15", "--then", "fail_at_first", "--retries", "1"],
    );
    assert_eq!(mark(&sandbox), january(20));
}

#[test]
fn by_hand() {
    let sandbox = sandbox();
    let show = |args: &[&str]| sandbox.lorchestra(&[&["bookmarks", "show"], args].concat()).exits(0);
    assert_eq!(show(&[]).err(), "No bookmarks.\n");
    let none = sandbox.lorchestra(&["bookmarks", "reset", "misbehave", "windowed"]).exits(1);
    assert!(none.err().starts_with("error: misbehave/windowed has no bookmark\n"), "{}", none.shown());
    assert!(!sandbox.state().exists(), "reading creates nothing");

    let set = |args: &[&str]| sandbox.lorchestra(&[&["bookmarks", "set", "misbehave"], args].concat());
    assert_eq!(set(&["windowed", "2024-01-10"]).exits(0).out(), "bookmark of misbehave/windowed: none → 2024-01-10T00:00:00Z\n");
    assert_eq!(
        set(&["windowed", "2024-01-05"]).exits(0).out(),
        "bookmark of misbehave/windowed: 2024-01-10T00:00:00Z → 2024-01-05T00:00:00Z\n",
    );
    set(&["windowed", "--account", "anna", "-7d"]).exits(0);
    succeed(&sandbox, &["--since", "last", "--until", "2024-01-10"]);
    assert_eq!(window(&sandbox)["since"], "2024-01-05T00:00:00Z");
    insta::assert_snapshot!(show(&[]).snapshot(&sandbox));
    assert_eq!(show(&["misbehave", "from_bookmark"]).err(), "No bookmarks of misbehave/from_bookmark.\n");
    assert_eq!(show(&["misbehave", "windowed"]).out(), show(&["misbehave"]).out());
    let ahead = set(&["from_bookmark", "2999-01-01"]).exits(0);
    assert!(ahead.err().contains("that is in the future"), "{}", ahead.shown());
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "from_bookmark"]).exits(2);
    assert!(ended.err().contains("there is nothing new, or the clock went back"), "{}", ended.shown());

    // Bookmarks that no run would use.
    for (args, code, says) in [
        (&["windowd", "2024-01-10"][..], 1, "did you mean windowed?"),
        (&["bookmark_nothing", "2024-01-10"], 2, "the job has no datetime parameter `since`"),
        (&["from_bookmark", "2024-01-10", "--account", "anna"], 2, "the job has no parameter `account`"),
        (&["windowed", "last"], 2, "means the job's bookmark"),
        (&["windowed", "7d"], 2, "write -7d"),
    ] {
        let ended = set(args).exits(code);
        assert!(ended.err().contains(says), "{}", ended.shown());
    }

    // A bookmark outlives its package, and can be removed then.
    std::fs::remove_file(sandbox.plugins().join("libmisbehave.so")).unwrap();
    let other = sandbox.lorchestra(&["bookmarks", "reset", "misbehave", "windowed", "--account", "ann"]).exits(1);
    assert!(other.err().contains("found one of misbehave/windowed for account anna"), "{}", other.shown());
    let reset = sandbox.lorchestra(&["bookmarks", "reset", "misbehave", "windowed"]).exits(0);
    assert_eq!(reset.out(), "bookmark of misbehave/windowed removed: it was 2024-01-10T00:00:00Z\n");
    sandbox.lorchestra(&["bookmarks", "reset", "misbehave", "windowed", "--account", "anna"]).exits(0);
    assert_eq!(bookmarks(&sandbox).len(), 1);
}

#[test]
fn the_bookmarks_of_one_account_are_shown() {
    let sandbox = sandbox();
    for account in ["anna", " anna ", "-"] {
        let set = format!("--account={account}");
        sandbox.lorchestra(&["bookmarks", "set", "misbehave", "windowed", &set, "2024-01-10"]).exits(0);
    }
    sandbox.lorchestra(&["bookmarks", "set", "misbehave", "windowed", "2024-01-10"]).exits(0);
    let show = |args: &[&str]| sandbox.lorchestra(&[&["bookmarks", "show"], args].concat()).exits(0);
    let accounts = |args: &[&str]| -> Vec<String> {
        let shown = show(args);
        let lines = shown.out().lines().map(|line| line.strip_prefix("misbehave/windowed  ").unwrap());
        lines.map(|line| line.split_once("2024-01-10T").unwrap().0.trim_end().to_owned()).collect()
    };
    // An account with invisible characters, and one that looks like an empty one.
    assert_eq!(accounts(&[]), ["-", "\" anna \"", "\"-\"", "anna"]);
    assert_eq!(accounts(&["--account", "anna"]), ["anna"]);
    assert_eq!(accounts(&["misbehave", "windowed", "--account", " anna "]), ["\" anna \""]);
    assert_eq!(accounts(&["--account="]), ["-"]);
    let json = show(&["--json", "--account", "anna"]).json_lines("lorchestra.bookmark/1");
    assert_eq!(json.iter().map(|mark| mark["account"].clone()).collect::<Vec<_>>(), ["anna"]);
    assert_eq!(show(&["--account", "ann "]).err(), "No bookmarks for account \"ann \".\n");
    assert_eq!(
        show(&["misbehave", "windowed", "--account", "ann"]).err(),
        "No bookmarks of misbehave/windowed for account ann.\n"
    );
}

/// An unknown name is an error, not a job without a bookmark.
#[test]
fn a_misspelled_name_is_reported_as_in_other_commands() {
    let sandbox = sandbox();
    let show = |args: &[&str]| sandbox.lorchestra(&[&["bookmarks", "show"], args].concat());
    for args in [&["misbehav"][..], &["misbehav", "--json"], &["misbehav", "windowed"]] {
        let ended = show(args).exits(1);
        let elsewhere = sandbox.lorchestra(&["jobs", "list", "misbehav"]).exits(1);
        assert_eq!((ended.out(), ended.err()), ("", elsewhere.err()));
        assert!(ended.err().starts_with("Unknown package: misbehav\n  did you mean misbehave?\n"), "{}", ended.shown());
    }
    let ended = show(&["misbehave", "windowd"]).exits(1);
    assert!(ended.err().starts_with("Unknown job: misbehave/windowd\n  did you mean windowed?\n"), "{}", ended.shown());
    assert!(!sandbox.state().exists(), "reading creates nothing");
    // A removed package is known from its runs or its other bookmarks.
    sandbox.lorchestra(&["run-job", "misbehave", "bookmark_nothing"]).exits(0);
    std::fs::remove_file(sandbox.plugins().join("libmisbehave.so")).unwrap();
    assert_eq!(show(&["misbehave"]).exits(0).err(), "No bookmarks of misbehave.\n");
    assert!(show(&["misbehav"]).exits(1).err().starts_with("Unknown package: misbehav\n"));
}

/// During a run, a user may change its bookmark: the run's end applies the rule to the current value.
#[test]
fn a_manual_change_during_a_run_is_respected() {
    for (by_hand, then) in [
        // Moved back: now there is a gap up to the beginning of the run.
        (&["set", "misbehave", "windowed", "2024-01-05"][..], january(5)),
        // Ahead of the run's end.
        (&["set", "misbehave", "windowed", "2024-01-25"], january(25)),
        // Ahead, to a point that the run has not reached yet.
        (&["set", "misbehave", "windowed", "2024-01-15"], january(20)),
        (&["reset", "misbehave", "windowed"], january(20)),
    ] {
        let sandbox = sandbox();
        succeed(&sandbox, &["--until", "2024-01-10"]);
        let running = waiting(&sandbox, "run", &["--since", "last", "--until", "2024-01-20"]);
        sandbox.lorchestra(&[&["bookmarks"], by_hand].concat()).exits(0);
        go(&sandbox, "run");
        running.wait().exits(0);
        assert_eq!(mark(&sandbox), then, "{by_hand:?}");
    }
}
