//! What happens to a run while another one of the same job and account is running.

use lorchestra_tests::bigquery::site::{Site, Write};
use lorchestra_tests::history::short_id;
use lorchestra_tests::{Fixture, Running, Sandbox, eventually, processes};
use rustix::process::Signal;
use std::time::Duration;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

/// Starts a run of `wait`, which continues until it is stopped; returns its id.
fn holder(sandbox: &Sandbox, flags: &[&str]) -> (Running, String) {
    let before = sandbox.runs().len();
    let running = sandbox.start(&[&["run-job", "misbehave", "wait", "--grace", "1h"], flags].concat());
    eventually("the holder is recorded", || sandbox.runs().len() == before + 1);
    let id = sandbox.runs()[0].id().to_owned();
    (running, id)
}

fn states(sandbox: &Sandbox) -> Vec<String> {
    sandbox.runs().iter().map(|run| run.state().to_owned()).collect()
}

#[test]
fn fail_names_the_run_and_records_a_refusal() {
    let sandbox = sandbox();
    let (running, id) = holder(&sandbox, &[]);
    for flags in [&[][..], &["--on-overlap", "fail"]] {
        let ended = sandbox.lorchestra(&[&["run-job", "misbehave", "wait"], flags].concat()).exits(75);
        assert!(ended.err().contains(&format!("run lorchestra runs stop {} to stop it", short_id(&id))), "{}", ended.shown());
    }
    assert_eq!(states(&sandbox), ["running"]);
    let refused = &sandbox.all_runs()[0];
    assert_eq!((refused.cause(), refused.message()), ("overlap", "misbehave/wait is already running"));
    running.signal(Signal::TERM);
    running.wait().exits(143);
}

/// A run with policy `allow` waits for no other run, unless something holds the shared lock exclusively, which no run does for long.
#[test]
fn a_run_with_allow_does_not_wait_forever() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop", "--on-overlap", "allow"]).exits(0);
    let beside = std::fs::File::open(sandbox.state().join("locks/shared+misbehave.noop.-")).unwrap();
    rustix::fs::flock(&beside, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let running = sandbox.start(&["run-job", "misbehave", "noop", "--on-overlap", "allow"]);
    eventually("it handles signals", || !processes::ignores_or_dies_of(running.pid(), Signal::TERM));
    running.signal(Signal::TERM);
    running.wait().exits(143);
    sandbox.lorchestra(&["run-job", "misbehave", "noop", "--on-overlap", "allow"]).exits(75);
    drop(beside);
    sandbox.lorchestra(&["run-job", "misbehave", "noop", "--on-overlap", "allow"]).exits(0);
    assert_eq!(states(&sandbox), ["completed", "completed"]);
}

#[test]
fn skip_records_a_run_that_was_skipped() {
    let sandbox = sandbox();
    let (running, id) = holder(&sandbox, &[]);
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "wait", "--on-overlap", "skip", "--seconds", "7"]).exits(0);
    let skipped = sandbox.runs()[0].short().to_owned();
    let expected = format!("- misbehave/wait skipped: already running as run {} (run {skipped})\n", short_id(&id));
    assert_eq!(ended.out(), expected);
    assert_eq!(ended.err(), "");
    let quiet = sandbox.lorchestra(&["run-job", "-q", "misbehave", "wait", "--on-overlap", "skip"]).exits(0);
    assert_eq!((quiet.out(), quiet.err()), ("", ""));
    let json = sandbox.lorchestra(&["run-job", "--json", "misbehave", "wait", "--on-overlap", "skip"]).exits(0);
    let json = json.json("lorchestra.run-job/1");
    assert_eq!((json["state"].as_str(), json["held_by"].as_str()), (Some("skipped"), Some(&*id)));
    assert_eq!(states(&sandbox), ["skipped", "skipped", "skipped", "running"]);
    let first = &sandbox.runs()[2];
    let events = sandbox.whole_events_of(first);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event_type(), "job.skipped");
    assert_eq!(
        (events[0].payload()["held_by"].as_str(), events[0].payload()["parameters"]["seconds"].as_u64()),
        (Some(&*id), Some(7))
    );
    let shown = sandbox.lorchestra(&["runs", "show", first.id()]).exits(0);
    assert!(shown.out().contains("state      skipped") && shown.out().contains("attempts   0"), "{}", shown.shown());
    assert!(shown.out().contains(&format!("\nheld by    run {}\n", short_id(&id))), "{}", shown.shown());
    let show = |id: &str| sandbox.lorchestra(&["runs", "show", id, "--json"]).exits(0).json("lorchestra.runs-show/1");
    assert_eq!((show(first.id())["held_by"].as_str(), &show(&id)["held_by"]), (Some(&*id), &serde_json::Value::Null));
    for trace in [&[][..], &["--trace"]] {
        let logs = sandbox.lorchestra(&[&["runs", "logs", first.id()], trace].concat()).exits(0);
        assert!(logs.err().contains("it was skipped"), "{}", logs.shown());
    }
    let stop = sandbox.lorchestra(&["runs", "stop", first.id()]).exits(1);
    let expected = format!("has already ended: skipped; run {} of misbehave/wait is running", short_id(&id));
    assert!(stop.err().contains(&expected), "{}", stop.shown());
    running.signal(Signal::TERM);
    running.wait().exits(143);
    let stop = sandbox.lorchestra(&["runs", "stop", first.id()]).exits(0);
    assert!(stop.out().contains("has already ended: skipped"), "{}", stop.shown());
    // No process holds it any more.
    sandbox.lorchestra(&["run-job", "misbehave", "wait", "--on-overlap", "skip", "--seconds", "0"]).exits(1);
}

/// The lock is held, but it is unknown by which run: after a while the error says exactly that.
#[test]
fn the_holder_of_the_lock_may_be_unknown() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let locks = sandbox.state().join("locks");
    let name = std::fs::read_dir(&locks).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let [name] = &name.filter(|name| name.starts_with("misbehave.noop.")).collect::<Vec<_>>()[..] else { panic!("one lock") };
    let lock = std::fs::File::open(locks.join(name)).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop", "--on-overlap", "skip"]).exits(0);
    assert_eq!(ended.plain_out(), "- misbehave/noop skipped: already running (run [SHORT])\n");
    let shown = sandbox.lorchestra(&["runs", "show", sandbox.runs()[0].id()]).exits(0);
    assert!(shown.out().contains("\nheld by    an unknown run\n"), "{}", shown.shown());
}

/// Its only event is delivered like all events.
#[test]
fn the_event_of_a_skipped_run_is_delivered() {
    let site = Site::new(Write::Storage);
    let (running, id) = holder(&site.sandbox, &[]);
    site.sandbox.lorchestra(&["run-job", "misbehave", "wait", "--on-overlap", "skip"]).exits(0);
    running.signal(Signal::TERM);
    running.wait().exits(143);
    site.sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]).exits(0);
    site.all_is_delivered(Write::Storage, "skipped");
    let rows = site.fake.rows(&site.table);
    let skipped = rows.iter().find(|row| row.values["event_type"] == "job.skipped").expect("a row");
    assert_eq!(
        (&skipped.values["attempt"], &skipped.values["source"]),
        (&serde_json::json!(0), &serde_json::json!("misbehave/wait"))
    );
    assert!(skipped.values["payload"].as_str().unwrap().contains(&id));
}

#[test]
fn wait_waits_until_the_other_has_ended() {
    let sandbox = sandbox();
    let (running, id) = holder(&sandbox, &[]);
    let waiting = sandbox.start(&["run-job", "misbehave", "wait", "--on-overlap", "wait", "--return-ok", "--seconds", "0"]);
    let bounded = sandbox.lorchestra(&["run-job", "misbehave", "wait", "--on-overlap", "wait=1s"]).exits(75);
    assert!(
        bounded.err().contains(&format!("is already running: waiting for run {} to end", short_id(&id))),
        "{}",
        bounded.shown()
    );
    assert!(bounded.err().contains("is still running after waiting 1.0"), "{}", bounded.shown());
    assert_eq!(states(&sandbox), ["running"]);
    running.signal(Signal::TERM);
    running.wait().exits(143);
    // It has run, and ended as it always does after 0 s.
    waiting.wait().exits(1);
    assert_eq!(states(&sandbox), ["failed", "failed"]);
    assert_eq!(sandbox.runs()[0].message(), "it was not cancelled");
}

#[test]
fn a_waiting_run_can_be_interrupted() {
    let sandbox = sandbox();
    let (running, _) = holder(&sandbox, &[]);
    let mut waiting = Vec::new();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let command = sandbox.start(&["run-job", "-v", "misbehave", "wait", "--on-overlap", "wait"]);
        // It has reached the lock when it has the store open.
        eventually("it waits", || has_open(command.pid(), "lorchestra.db"));
        command.signal(signal);
        waiting.push((command, code));
    }
    for (command, code) in waiting {
        let ended = command.wait().exits(code);
        assert!(ended.err().contains("before the run started"), "{}", ended.shown());
    }
    assert_eq!(states(&sandbox), ["running"]);
    running.signal(Signal::TERM);
    running.wait().exits(143);
}

fn has_open(pid: u32, name: &str) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).any(|path| path.ends_with(name))
}

/// Each run has its own lock: none is considered dead because another one is, or because the job's lock is free.
#[test]
fn allow_runs_concurrently_and_no_run_is_considered_dead() {
    let sandbox = sandbox();
    let (exclusive, exclusive_id) = holder(&sandbox, &[]);
    let (one, one_id) = holder(&sandbox, &["--on-overlap", "allow"]);
    let (two, two_id) = holder(&sandbox, &["--on-overlap", "allow"]);
    assert_eq!(states(&sandbox), ["running"; 3]);
    exclusive.signal(Signal::TERM);
    exclusive.wait().exits(143);
    // The exclusive run is gone: those with policy `allow` are alive and still keep others out.
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "wait"]).exits(75);
    assert!(ended.err().contains(short_id(&one_id)) || ended.err().contains(short_id(&two_id)), "{}", ended.shown());
    // One of them dies without an end: only that one is closed.
    let workers = one.children();
    one.signal(Signal::KILL);
    drop(one);
    let listed = sandbox.lorchestra(&["runs", "list"]).exits(0);
    assert!(listed.err().contains(short_id(&one_id)) && !listed.err().contains(short_id(&two_id)), "{}", listed.shown());
    assert!(workers.iter().all(|pid| !processes::is_alive(*pid)));
    assert_eq!(states(&sandbox), ["running", "failed", "failed"]);
    two.signal(Signal::TERM);
    two.wait().exits(143);
    let mut causes: Vec<(String, String)> =
        sandbox.runs().iter().map(|run| (run.id().to_owned(), run.cause().to_owned())).collect();
    causes.sort();
    let expected = [(&exclusive_id, "cancelled"), (&one_id, "abandoned"), (&two_id, "cancelled")];
    assert!(causes.iter().map(|(id, cause)| (id, cause.as_str())).eq(expected), "{causes:?}");
    sandbox.runs().iter().for_each(|run| drop(sandbox.whole_events_of(run)));
    sandbox.lorchestra(&["run-job", "misbehave", "wait", "--seconds", "0"]).exits(1);
}

/// A dead run with policy `allow` is closed by the next run of its job, with any policy.
#[test]
fn the_next_run_closes_a_dead_run_with_allow() {
    for flags in [&[][..], &["--on-overlap", "allow"]] {
        let sandbox = sandbox();
        let (running, id) = holder(&sandbox, &["--on-overlap", "allow"]);
        running.signal(Signal::KILL);
        drop(running);
        let next = sandbox.lorchestra(&[&["run-job", "misbehave", "wait", "--seconds", "0"], flags].concat()).exits(1);
        assert!(
            next.err().contains(&format!("run {} of misbehave/wait was closed as abandoned", short_id(&id))),
            "{}",
            next.shown()
        );
    }
}

#[test]
fn a_flag_overrides_the_configured_policy() {
    let sandbox = sandbox();
    sandbox.configure("[job.\"misbehave/wait\"]\noverlap = \"skip\"\n");
    let (running, _) = holder(&sandbox, &[]);
    sandbox.lorchestra(&["run-job", "misbehave", "wait"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "wait", "--on-overlap", "fail"]).exits(75);
    assert_eq!(states(&sandbox), ["skipped", "running"]);
    let plan =
        sandbox.lorchestra(&["run-job", "misbehave", "wait", "--dry-run", "--json"]).exits(0).json("lorchestra.run-spec/1");
    assert_eq!(plan["on_overlap"], "skip");
    running.signal(Signal::TERM);
    running.wait().exits(143);
}

/// A group file with jobs that wait for a file, each with these lines, in one stage, and another job in a second one.
fn group_file(sandbox: &Sandbox, jobs: &[&str]) -> String {
    let go = sandbox.arg("go");
    let jobs: String = jobs
        .iter()
        .map(|more| format!("[[stage.jobs]]\njob = \"misbehave/wait_for_file\"\nparams = {{ file = {go:?} }}\n{more}\n"))
        .collect();
    let last = "[[stage]]\n[[stage.jobs]]\njob = \"misbehave/noop\"\n";
    std::fs::write(sandbox.path("nightly.toml"), format!("[[stage]]\n{jobs}{last}")).unwrap();
    sandbox.arg("nightly.toml")
}

/// Starts `run-group`, and returns it with the text that it has printed to stderr up to the line that contains this.
fn group_that_prints(sandbox: &Sandbox, args: &[&str], line: &str) -> (Running, String) {
    let (err, pipe) = (sandbox.arg("err"), sandbox.arg("pipe"));
    let _ = std::fs::remove_file(&err);
    let script = format!("rm -f {pipe}; mkfifo {pipe}; tee {err} <{pipe} >&2 & exec 2>{pipe}");
    let running = Running::start(sandbox.command_by(&script, &[&["run-group"], args].concat()));
    eventually(line, || sandbox.read("err").contains(line));
    (running, sandbox.read("err"))
}

/// Another run excludes a job of a group: it does what its policy says, as `run-job` does, and says so.
#[test]
fn a_job_of_a_group_follows_its_policy() {
    let sandbox = sandbox();
    let running = sandbox.start(&["run-job", "misbehave", "wait_for_file", "--file", &sandbox.arg("go")]);
    eventually("the holder is recorded", || sandbox.runs().len() == 1);
    let id = sandbox.runs()[0].id().to_owned();
    let short = short_id(&id);
    let waits = format!("misbehave/wait_for_file: waiting for run {short} to end\n");
    for (policy, message) in [
        (
            "",
            format!(
                "✗ misbehave/wait_for_file: overlap: misbehave/wait_for_file is already running; run lorchestra runs stop {short}"
            ),
        ),
        ("on_overlap = \"wait=1s\"", "misbehave/wait_for_file is still running after waiting 1.".to_owned()),
    ] {
        let before = sandbox.all_runs().len();
        let ended = sandbox.lorchestra(&["run-group", &group_file(&sandbox, &[policy])]).exits(1);
        assert!(
            ended.err().contains(&message) && ended.err().contains("0 of 2 jobs completed, 1 failed, 1 not run"),
            "{}",
            ended.shown()
        );
        assert_eq!(ended.err().matches(&waits).count(), usize::from(!policy.is_empty()), "{}", ended.shown());
        let refused = &sandbox.all_runs()[0];
        assert_eq!((sandbox.all_runs().len(), refused.state(), refused.cause()), (before + 1, "refused", "overlap"));
        // The run that is named is that of the refusal.
        assert!(ended.err().contains(&format!(" (run {})\n", refused.short())), "{}", ended.shown());
    }
    // It is no failure: the next stage starts.
    let skipping = group_file(&sandbox, &["on_overlap = \"skip\""]);
    let ended = sandbox.lorchestra(&["run-group", &skipping]).exits(0);
    let skipped = sandbox.runs()[1].short().to_owned();
    let line = format!("- misbehave/wait_for_file skipped: already running as run {short} (run {skipped})\n");
    assert!(ended.err().contains(&line), "{}", ended.shown());
    assert!(ended.out().contains("nightly: 1 job completed, 1 skipped in "), "{}", ended.shown());
    assert_eq!(states(&sandbox), ["completed", "skipped", "running"]);
    let json = sandbox.lorchestra(&["run-group", "-q", "--json", &skipping]).exits(0);
    let group = json.json("lorchestra.group/1");
    assert_eq!(
        (group["state"].as_str(), group["failed"].as_u64(), group["skipped"].as_u64()),
        (Some("completed"), Some(0), Some(1))
    );
    assert_eq!(json.err(), "");

    // A group that is cancelled while its job waits starts nothing; by Ctrl-C too.
    let waiting = group_file(&sandbox, &["on_overlap = \"wait\""]);
    for is_signal in [true, false] {
        let before = sandbox.all_runs().len();
        let (group, err) = group_that_prints(&sandbox, &[&waiting], &waits);
        if is_signal {
            group.signal(Signal::INT);
            group.wait().exits(130);
        } else {
            sandbox.lorchestra(&["backfill", "cancel", group_in(&err)]).exits(0);
            group.wait().exits(1);
        }
        assert_eq!(sandbox.all_runs().len(), before);
    }
    let (group, _) = group_that_prints(&sandbox, &[&waiting], &waits);
    std::fs::write(sandbox.path("go"), "").unwrap();
    running.wait().exits(0);
    assert!(group.wait().exits(0).out().contains("2 jobs completed"));
    assert_eq!(sandbox.read("err").matches("waiting for run").count(), 1);
}

/// Jobs of one stage that exclude each other run one after the other, also if that takes longer than they are to wait for other runs.
#[test]
fn jobs_of_one_group_do_not_fail_because_of_each_other() {
    for policy in ["", "on_overlap = \"wait=1s\""] {
        let sandbox = sandbox();
        let jobs = [format!("name = \"one\"\n{policy}"), format!("name = \"two\"\n{policy}")];
        let file = group_file(&sandbox, &jobs.each_ref().map(String::as_str));
        let (group, _) = group_that_prints(&sandbox, &["-j", "2", &file], ": waiting for run ");
        if !policy.is_empty() {
            std::thread::sleep(Duration::from_secs(2));
        }
        std::fs::write(sandbox.path("go"), "").unwrap();
        assert!(group.wait().exits(0).out().contains("3 jobs completed"));
        assert_eq!(sandbox.read("err").matches("waiting for run").count(), 1);
        assert_eq!(sandbox.all_runs().len(), 3, "nothing was refused");
    }
}

/// Returns the id of the group in the output of `run-group`.
fn group_in(err: &str) -> &str {
    err.split("(group ").nth(1).and_then(|rest| rest.split(')').next()).unwrap()
}

/// A job that waits for another one of its group does not start when that is cancelled.
#[test]
fn a_cancelled_group_starts_no_job_that_waits() {
    for _ in 0..3 {
        let sandbox = sandbox();
        let jobs = ["one", "two"].map(|name| format!("name = \"{name}\"\non_overlap = \"wait\""));
        let file = group_file(&sandbox, &jobs.each_ref().map(String::as_str));
        let (group, err) = group_that_prints(&sandbox, &["-j", "2", &file], ": waiting for run ");
        let cancelled = sandbox.lorchestra(&["backfill", "cancel", group_in(&err)]).exits(0);
        assert!(cancelled.out().contains("0 of 3 jobs have completed"), "{}", cancelled.shown());
        group.wait().exits(1);
        let runs = sandbox.all_runs();
        assert_eq!((runs.len(), runs[0].cause()), (1, "cancelled"), "{runs:?}");
        eventually("no process is left", || sandbox.processes().is_empty());
    }
}

/// Nor does one whose driving process was killed, so that nobody could interrupt it. Once the group is resumed, it runs.
#[test]
fn a_lane_of_a_killed_process_starts_no_job_of_a_cancelled_group() {
    let sandbox = sandbox();
    let running = sandbox.start(&["run-job", "misbehave", "wait_for_file", "--file", &sandbox.arg("go")]);
    eventually("the holder is recorded", || sandbox.runs().len() == 1);
    let file = group_file(&sandbox, &["on_overlap = \"wait\""]);
    let (group, err) = group_that_prints(&sandbox, &[&file], ": waiting for run ");
    let id = group_in(&err);
    group.signal(Signal::KILL);
    sandbox.lorchestra(&["backfill", "cancel", id]).exits(0);
    std::fs::write(sandbox.path("go"), "").unwrap();
    running.wait().exits(0);
    assert_eq!(group.wait().code(), None, "it was killed; its lane has ended too, which had its stderr");
    eventually("no process is left", || sandbox.processes().is_empty());
    assert_eq!(states(&sandbox), ["completed"], "only the holder has run");
    let show = |state: &str| {
        let shown = sandbox.lorchestra(&["backfill", "show", id, "--json"]).exits(0).json("lorchestra.group-show/1");
        assert_eq!(shown["state"], state);
    };
    show("cancelled");
    sandbox.lorchestra(&["backfill", "resume", id]).exits(0);
    show("completed");
}

#[test]
fn an_invalid_policy_is_a_usage_error() {
    let sandbox = sandbox();
    for (value, what) in [("queue", "write fail, skip, wait"), ("wait=soon", "not a duration"), ("wait=5", "unit is missing")] {
        let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop", "--on-overlap", value]).exits(2);
        assert!(ended.err().contains(what), "{}", ended.shown());
    }
    assert!(sandbox.runs().is_empty());
}
