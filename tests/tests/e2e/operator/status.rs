//! `status` shows which jobs are failing or stale, and exits with 1 if there is one.

use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::{Ended, Fixture, Running, Sandbox, eventually};
use rustix::process::Signal;
use serde_json::Value;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

fn status(sandbox: &Sandbox, args: &[&str], code: i32) -> Value {
    sandbox.lorchestra(&[&["status", "--json"], args].concat()).exits(code).json("lorchestra.status/1")
}

/// Returns the status words of all jobs, with their accounts.
fn words(status: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let jobs = status["jobs"].as_array().unwrap().iter();
    jobs.map(|job| format!("{} {} {}", text(&job["job"]), text(&job["account"]), text(&job["status"]))).collect()
}

#[test]
fn a_failure_after_the_last_success_is_failing_until_the_next() {
    let sandbox = sandbox();
    let empty = sandbox.lorchestra(&["status"]).exits(0);
    assert!(empty.err().contains("No job has run yet (state directory "), "{}", empty.shown());
    for account in ["anna", "bert"] {
        sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--account", account]).exits(0);
    }
    assert_eq!(words(&status(&sandbox, &[], 0)), ["numbered anna ok", "numbered bert ok"]);
    for _ in 0..3 {
        sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--account", "anna", "--then", "fail"]).exits(1);
    }
    let failing = status(&sandbox, &[], 1);
    assert_eq!(words(&failing), ["numbered anna failing", "numbered bert ok"]);
    let anna = &failing["jobs"][0];
    assert_eq!((&anna["failures_in_row"], &anna["failure"]["cause"]), (&3.into(), &"error".into()));
    assert_eq!(anna["last_success"]["state"], "completed");
    assert!(anna["usual_ms"].as_u64().is_some() && anna["last_success_age_s"].as_u64().is_some(), "{anna}");
    let shown = sandbox.lorchestra(&["status"]).exits(1);
    let run = &sandbox.runs()[0];
    let reason = format!("(run {}): error: failed after the last number", run.short());
    assert!(shown.out().contains("failed 3 times, last ") && shown.out().contains(&reason), "{}", shown.shown());
    assert_eq!(shown.err(), "1 of 2 jobs need attention: misbehave/numbered (anna).\n", "{}", shown.shown());
    // A part of them.
    status(&sandbox, &["misbehave/numbered"], 1);
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--account", "anna"]).exits(0);
    assert_eq!(words(&status(&sandbox, &[], 0)), ["numbered anna ok", "numbered bert ok"]);
}

#[test]
fn an_expected_run_that_does_not_come_is_stale() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox.configure("[job.\"misbehave/noop\"]\nexpect_every = \"1d\"\n[job.\"misbehave/traced\"]\nexpect_every = \"1h\"\n");
    // One has just completed; the other has never run.
    assert_eq!(words(&status(&sandbox, &[], 1)), ["noop - ok", "traced - stale"]);
    let shown = sandbox.lorchestra(&["status"]).exits(1);
    assert!(shown.out().contains("never") && shown.out().contains("expected every 1h"), "{}", shown.shown());
    sandbox.configure("[job.\"misbehave/noop\"]\nexpect_every = \"1s\"\n");
    eventually("it is stale", || sandbox.lorchestra(&["status"]).code() == Some(1));
    sandbox.configure("");
    assert_eq!(words(&status(&sandbox, &["--stale", "1h"], 0)), ["noop - ok"]);
    assert_eq!(words(&status(&sandbox, &["--stale", "1s"], 1)), ["noop - stale"]);
    sandbox.configure("[job.\"misbehave/noop\"]\nexpect_every = \"0s\"\n");
    sandbox.lorchestra(&["status"]).exits(78);
}

#[test]
fn refused_runs_count_unless_another_run_was_active() {
    let sandbox = sandbox();
    let running = sandbox.start(&["run-job", "misbehave", "wait"]);
    eventually("it is recorded", || sandbox.runs().len() == 1);
    sandbox.lorchestra(&["run-job", "misbehave", "wait"]).exits(75);
    assert_eq!(words(&status(&sandbox, &[], 0)), ["wait - running"]);
    running.signal(Signal::TERM);
    running.wait().exits(143);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    std::fs::remove_file(sandbox.plugins().join("libmisbehave.so")).unwrap();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(1);
    let dead = status(&sandbox, &[], 1);
    assert_eq!(words(&dead), ["noop - failing", "wait - failing"]);
    assert_eq!(dead["jobs"][0]["failure"]["state"], "refused");
}

#[test]
fn a_job_that_hangs_in_its_first_run_becomes_stale() {
    let sandbox = sandbox();
    sandbox.configure("[job.\"misbehave/wait\"]\nexpect_every = \"1s\"\n");
    let running = sandbox.start(&["run-job", "misbehave", "wait"]);
    eventually("it is recorded", || sandbox.runs().len() == 1);
    eventually("it is stale", || sandbox.lorchestra(&["status"]).code() == Some(1));
    assert_eq!(words(&status(&sandbox, &[], 1)), ["wait - stale"]);
    let shown = sandbox.lorchestra(&["status"]).exits(1);
    let run = sandbox.runs().remove(0);
    let running_for = format!("s (run {})\n", run.short());
    assert!(shown.out().contains("running for ") && shown.out().contains(&running_for), "{}", shown.shown());
    assert!(shown.out().contains("expected every 1s"), "{}", shown.shown());
    sandbox.configure("");
    assert_eq!(words(&status(&sandbox, &["--stale", "1h"], 0)), ["wait - running"]);
    assert_eq!(words(&status(&sandbox, &["--stale", "1s"], 1)), ["wait - stale"]);
    let shown = sandbox.lorchestra(&["status", "--stale", "1s"]).exits(1);
    assert!(shown.out().contains("no success within 1s"), "{}", shown.shown());
    running.signal(Signal::TERM);
    running.wait().exits(143);
}

#[test]
fn a_misspelt_name_is_refused_with_the_nearest_names() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let refused = |name: &str, message: &str, nearest: &str| {
        for args in [&["status", name][..], &["status", name, "--json"]] {
            let refused = sandbox.lorchestra(args).exits(1);
            assert_eq!(refused.out(), "", "{}", refused.shown());
            let lines: Vec<&str> = refused.err().lines().collect();
            assert_eq!(lines[..2], [message, &format!("  did you mean {nearest}?")], "{}", refused.shown());
        }
    };
    refused("misbehave/nop", "Unknown job: misbehave/nop", "noop");
    refused("misbehav", "Unknown package: misbehav", "misbehave");
    refused("misbehav/noop", "Unknown package: misbehav", "misbehave");
    sandbox.lorchestra(&["status", "misbehave/"]).exits(1);
    // A job of the library that has not run is no mistake.
    let never = sandbox.lorchestra(&["status", "misbehave/print"]).exits(0);
    assert!(never.err().contains("misbehave/print has not run yet (state directory "), "{}", never.shown());
    // With a limit, its success is overdue.
    assert_eq!(words(&status(&sandbox, &["misbehave/print", "--stale", "1d"], 1)), ["print - stale"]);
    // Nor is one that only the history or config.toml knows.
    std::fs::remove_file(sandbox.plugins().join("libmisbehave.so")).unwrap();
    assert_eq!(words(&status(&sandbox, &["misbehave/noop"], 0)), ["noop - ok"]);
    assert_eq!(words(&status(&sandbox, &["misbehave"], 0)), ["noop - ok"]);
    sandbox.configure("[job.\"elsewhere/one\"]\ntimeout = \"1h\"\n");
    let configured = sandbox.lorchestra(&["status", "elsewhere/one"]).exits(0);
    assert!(configured.err().contains("elsewhere/one has not run yet"), "{}", configured.shown());
    // They are suggested too.
    refused("misbehave/nop", "Unknown job: misbehave/nop", "noop");
    refused("elsewher", "Unknown package: elsewher", "elsewhere");
    refused("elsewhere/once", "Unknown job: elsewhere/once", "one");
}

#[test]
fn each_job_has_its_pending_events_and_its_next_window() {
    let sandbox = sandbox();
    sandbox.configure("[destinations.bigquery]\nproject = \"p1\"\ndataset = \"lorchestra\"\ntable = \"events\"\n");
    let run = |args: &[&str]| {
        sandbox.lorchestra(&[&["run-job", "-q", "--delivery-timeout", "0s", "misbehave"], args].concat()).exits(0)
    };
    run(&["print", "--lines", "1"]);
    run(&["numbered", "--account", "anna"]);
    run(&["numbered", "--account", "anna"]);
    run(&["windowed", "--until", "2024-02-01"]);
    let all = status(&sandbox, &[], 0);
    let pending = |at: usize| all["jobs"][at]["pending"].clone();
    let events = sandbox.lorchestra(&["events", "list", "--json"]).exits(0).json_lines("lorchestra.event/1");
    let events = |of: &str| {
        let of = events.iter().filter(|event| event["source"] == of).count();
        serde_json::json!([{"destination": "bigquery", "pending": of, "is_minimum": false}])
    };
    assert_eq!(words(&all), ["numbered anna ok", "print - ok", "windowed - ok"]);
    for (at, job) in ["misbehave/numbered", "misbehave/print", "misbehave/windowed"].into_iter().enumerate() {
        assert_eq!(pending(at), events(job), "{job}");
    }
    assert!(pending(0)[0]["pending"].as_u64() > pending(1)[0]["pending"].as_u64(), "{all}");
    assert_eq!(all["jobs"][2]["next_since"], "2024-02-01T00:00:00.000000Z");
    let shown = sandbox.lorchestra(&["status"]).exits(0);
    let lines: Vec<Vec<&str>> = shown.out().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["STATUS", "JOB", "ACCOUNT", "SUCCESS", "TOOK", "USUAL", "PENDING", "NEXT", "FROM"]);
    let numbered = pending(0)[0]["pending"].to_string();
    assert_eq!((lines[1][6], lines[1].len()), (&*numbered, 7), "{}", shown.shown());
    assert_eq!(lines[3].last(), Some(&"2024-02-01"), "{}", shown.shown());
}

/// Nothing can be recorded, so the run is not closed, but it is not running either.
#[test]
fn an_abandoned_run_is_failing_also_if_it_cannot_be_closed() {
    let sandbox = Sandbox::with_binary(&[Fixture::Misbehave]);
    let Some(disks) = SmallDisks::mount(&sandbox, &[(sandbox.state(), 8000)]) else { return };
    let run = |args: &[&str]| disks.start(&sandbox, args).wait();
    // In a mount namespace of its own, in which the state directory is read-only.
    let state = sandbox.state().display().to_string();
    let script = format!(
        "exec unshare -m sh -c 'mount --bind {state} {state} && mount -o remount,bind,ro {state} && exec \"$0\" \"$@\"' \"$0\" \"$@\""
    );
    let reading = |args: &[&str]| -> Ended { Running::start(disks.command_by(&sandbox, &script, args)).wait() };
    let words_read = |code: i32| words(&reading(&["status", "--json"]).exits(code).json("lorchestra.status/1"));
    run(&["run-job", "-q", "misbehave", "shell", "--command", "true"]).exits(0);
    assert_eq!(words_read(0), ["shell - ok"]);
    let command = format!("touch {}; sleep 300", sandbox.arg("started"));
    let running = disks.start(&sandbox, &["run-job", "misbehave", "shell", "--command", &command]);
    eventually("the job runs", || sandbox.path("started").exists());
    assert_eq!(words_read(0), ["shell - running"]);
    let listed = reading(&["runs", "list", "--running", "--json"]).exits(0);
    assert_eq!(listed.json_lines("lorchestra.run/1")[0].get("unclosed"), None, "it is alive: {}", listed.shown());
    running.signal(Signal::KILL);
    drop(running);
    let status = reading(&["status", "--json"]).exits(1).json("lorchestra.status/1");
    let job = &status["jobs"][0];
    assert_eq!((&job["running"], &job["status"]), (&Value::Null, &"failing".into()), "{job}");
    assert!(job["abandoned"]["message"].as_str().unwrap().contains("Read-only file system"), "{job}");
    let shown = reading(&["status", "misbehave/shell"]).exits(1);
    assert!(shown.out().contains("abandoned ") && shown.out().contains("cannot be closed yet"), "{}", shown.shown());
    assert!(!shown.out().contains("running for"), "{}", shown.shown());
    let listed = reading(&["runs", "list"]).exits(0);
    assert!(listed.out().contains("  abandoned "), "{}", listed.shown());
    let listed = reading(&["runs", "list", "--json", "--limit", "1"]).exits(0);
    assert!(listed.json_lines("lorchestra.run/1")[0]["unclosed"].is_string(), "{}", listed.shown());
    let shown = reading(&["runs", "show", "last"]).exits(0);
    let expected = "state      abandoned\nunclosed   its supervisor died, and the run cannot be closed yet: ";
    assert!(shown.out().contains(expected) && !shown.out().contains("running"), "{}", shown.shown());
    let shown = reading(&["runs", "show", "last", "--json"]).exits(0).json("lorchestra.runs-show/1");
    assert!(shown["unclosed"].as_str().unwrap().contains("Read-only file system"), "{shown}");
    let metrics = reading(&["metrics"]).exits(0);
    assert!(
        metrics.out().contains("lorchestra_job_healthy{package=\"misbehave\",job=\"shell\",account=\"\"} 0"),
        "{}",
        metrics.shown()
    );
    assert!(metrics.out().contains("lorchestra_job_failures{package=\"misbehave\",job=\"shell\",account=\"\"} 1"));
    // The filters, the report and doctor agree. Following ends, and reports once.
    for (filter, n) in [
        (&["--running"][..], 0),
        (&["--state", "running"], 0),
        (&["--state", "failed"], 1),
        (&["--cause", "abandoned"], 1),
        (&["--state", "failed", "--cause", "error"], 0),
        (&["--job", "misbehave/shell"], 2),
    ] {
        let listed = reading(&[&["runs", "list", "--json"], filter].concat()).exits(0);
        assert_eq!(listed.out().lines().count(), n, "{filter:?}: {}", listed.shown());
    }
    let report = reading(&["report"]).exits(0);
    assert!(report.out().contains("abandoned") && report.out().contains("<b>0</b>running"), "{}", report.shown());
    let doctor = reading(&["doctor"]);
    assert!(doctor.out().contains("1 job failed or was refused after the last success"), "{}", doctor.shown());
    let followed = reading(&["runs", "logs", "-f", "last"]).exits(0);
    assert!(followed.err().contains("has ended: its supervisor died, and the run cannot be closed yet"), "{}", followed.shown());
    assert!(followed.err().lines().count() < 8, "{}", followed.shown());
    let refused = reading(&["bookmarks", "set", "misbehave", "windowed", "2024-01-01"]).exits(74);
    assert!(refused.err().contains("findmnt -T") && !refused.err().contains("chmod"), "{}", refused.shown());
    // Where it can be written, it is closed.
    let closed = run(&["status", "--json"]).exits(1).json("lorchestra.status/1");
    let job = &closed["jobs"][0];
    assert_eq!((&job["abandoned"], &job["failure"]["cause"]), (&Value::Null, &"abandoned".into()));
}

#[test]
fn what_status_shows_is_not_pruned_and_can_be_forgotten() {
    let sandbox = sandbox();
    let numbered = |account: &str, then: &[&str], code: i32| {
        sandbox.lorchestra(&[&["run-job", "-q", "misbehave", "numbered", "--account", account], then].concat()).exits(code);
    };
    numbered("bert", &[], 0);
    numbered("bert", &["--then", "fail"], 1);
    numbered("anna", &[], 0);
    numbered("anna", &[], 0);
    sandbox.lorchestra(&["run-job", "-q", "misbehave", "noop"]).exits(0);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let before = status(&sandbox, &[], 1);
    assert_eq!(words(&before), ["noop - ok", "numbered anna ok", "numbered bert failing"]);
    let pruned = sandbox.lorchestra(&["runs", "prune", "--older-than", "1s"]).exits(0);
    assert!(pruned.out().starts_with("✓ removed 1 run and the logs of 5"), "{}", pruned.shown());
    let after = status(&sandbox, &[], 1);
    for at in 0..3 {
        for key in ["status", "last_success", "last", "failure"] {
            assert_eq!(after["jobs"][at][key], before["jobs"][at][key], "{key}");
        }
    }
    let forget = |args: &[&str], code: i32| sandbox.lorchestra(&[&["runs", "prune", "--job"], args].concat()).exits(code);
    assert_eq!(
        forget(&["misbehave/numbered", "--account", "bert", "--dry-run"], 0).out(),
        "would remove 2 runs and the logs of 0\n"
    );
    let unknown = forget(&["misbehave/numbered", "--account", "nobody"], 1);
    assert!(unknown.err().contains("accounts: \"anna\", \"bert\""), "{}", unknown.shown());
    assert!(forget(&["misbehave/nothing"], 1).err().starts_with("error: misbehave/nothing has no run\n"));
    forget(&["misbehave"], 2);
    sandbox.lorchestra(&["runs", "prune", "--account", "bert"]).exits(2);
    assert_eq!(words(&status(&sandbox, &[], 1)).len(), 3, "nothing was removed");
    let json = forget(&["misbehave/numbered", "--account", "bert", "--json"], 0).json("lorchestra.runs-prune/1");
    assert_eq!((&json["runs"], &json["running"]), (&2.into(), &0.into()));
    assert_eq!(words(&status(&sandbox, &[], 0)), ["noop - ok", "numbered anna ok"]);
    // This one has the newest event of all.
    let last = forget(&["misbehave/noop"], 0);
    assert!(last.out().starts_with("✓ removed 1 run ") && last.err().contains("newest event"), "{}", last.shown());
    assert_eq!(words(&status(&sandbox, &[], 0)), ["numbered anna ok"]);
    numbered("anna", &[], 0);
    assert!(sandbox.runs().iter().all(|run| run.0["job"] == "numbered"), "the end of the next run has removed it");
    sandbox.lorchestra(&["run-job", "-q", "misbehave", "noop"]).exits(0);
    assert_eq!(words(&status(&sandbox, &[], 0)), ["noop - ok", "numbered anna ok"]);
}
