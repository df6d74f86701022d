//! `run-window` and claims: the windows of a plan file on several nodes, each effective once; `run-group`.

use lorchestra_tests::{Fixture, Running, Sandbox, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A node: a sandbox of its own, as another machine would be.
fn node() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

fn plan(node: &Sandbox, shared: &Path, days: u32, flags: &[&str]) -> String {
    let file = shared.join("plan.jsonl").display().to_string();
    let to = format!("2024-01-{:02}", days + 1);
    let args = ["backfill", "misbehave", "windowed", "--from", "2024-01-01", "--to", &to, "--every", "1d", "--plan", &file];
    node.lorchestra(&[&args[..], flags].concat()).exits(0);
    file
}

/// A directory for claims.
fn claims_in(shared: &Path) -> String {
    let claims = shared.join("claims");
    std::fs::create_dir(&claims).unwrap();
    claims.display().to_string()
}

fn window<'a>(file: &'a str, index: &'a str, attempt: &'a str, claims: &'a str) -> Vec<&'a str> {
    let claims = ["--claims", claims, "--no-require-delivery"];
    [&["run-window", "--plan", file, "--index", index, "--attempt", attempt][..], &claims].concat()
}

fn states(nodes: &[Sandbox]) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for run in nodes.iter().flat_map(|node| node.runs().into_iter().map(move |run| (node, run))) {
        let events = run.0.whole_events_of(&run.1);
        assert!(events.len() >= 2);
        *states.entry(run.1.state().to_owned()).or_insert(0) += 1;
    }
    states
}

#[test]
fn of_two_copies_of_a_window_one_counts() {
    let shared = tempfile::tempdir().unwrap();
    let claims = claims_in(shared.path());
    let nodes = [node(), node()];
    let go = shared.path().join("go").display().to_string();
    let file = plan(&nodes[0], shared.path(), 1, &["--go", &go]);
    let running: Vec<Running> =
        [(&nodes[0], "1"), (&nodes[1], "2")].map(|(node, attempt)| node.start(&window(&file, "0", attempt, &claims))).into();
    eventually("both run", || nodes.iter().all(|node| node.runs().iter().any(|run| run.state() == "running")));
    std::fs::write(&go, "").unwrap();
    let outputs: Vec<String> = running.into_iter().map(|running| running.wait().exits(0).out().to_owned()).collect();
    assert_eq!(outputs.iter().filter(|out| out.contains("superseded: run ")).count(), 1, "{outputs:?}");
    assert_eq!(states(&nodes), BTreeMap::from([("completed".into(), 1), ("superseded".into(), 1)]));
    let [winner, loser] = if nodes[0].run().state() == "completed" { [0, 1] } else { [1, 0] };
    // The same attempt on the same node finds its run, and reports what it reported.
    for (node, state) in [(winner, "completed"), (loser, "superseded")] {
        let attempt = (node + 1).to_string();
        let again = nodes[node].lorchestra(&[&window(&file, "0", &attempt, &claims)[..], &["--json"]].concat()).exits(0);
        assert_eq!(again.json("lorchestra.run-job/1")["state"], state);
    }
    // Another attempt does not run a window that is complete.
    for node in &nodes {
        let third = node.lorchestra(&window(&file, "0", "3", &claims)).exits(0);
        assert!(third.out().contains("has completed this window; nothing was started"), "{}", third.shown());
        let third = node.lorchestra(&[&window(&file, "0", "3", &claims)[..], &["--json"]].concat()).exits(0);
        assert_eq!(third.json("lorchestra.run-job/1")["run_id"], nodes[winner].run().id());
        assert_eq!(node.runs().len(), 1);
    }
    // The loser and an attempt on a third node record the winner, once each; its own node does not.
    let third = node();
    for _ in 0..2 {
        third.lorchestra(&window(&file, "0", "4", &claims)).exits(0);
    }
    let claimed = |node: &Sandbox| -> Vec<String> {
        node.all_runs().iter().filter(|run| run.state() == "claimed").map(|run| run.id().to_owned()).collect()
    };
    assert_eq!([claimed(&nodes[loser]), claimed(&third)], [[nodes[winner].run().id()]; 2]);
    assert!(claimed(&nodes[winner]).is_empty());
    let logs = third.lorchestra(&["runs", "logs", "last"]).exits(0);
    assert!(logs.err().contains("it ran on"), "{}", logs.shown());
    let events = nodes[loser].events_of(nodes[loser].run().id());
    assert_eq!(events.last().unwrap().event_type(), "job.superseded");
    assert_eq!(events[0].payload()["requested_by"], "engine:plan");
    nodes[loser].lorchestra(&["status"]).exits(0);
}

/// The winner is killed after it took the claim and before its end was recorded: the next attempt on that node records and delivers it.
#[test]
fn a_winner_that_was_killed_is_closed_by_the_next_attempt_on_its_node() {
    let shared = tempfile::tempdir().unwrap();
    let node = node();
    let claims = claims_in(shared.path());
    let file = plan(&node, shared.path(), 1, &["--then", "wait"]);
    let running = node.start(&window(&file, "0", "1", &claims));
    eventually("it runs", || node.runs().iter().any(|run| run.state() == "running"));
    let run = node.runs().remove(0);
    running.signal(Signal::KILL);
    running.wait();
    // As its supervisor would have done after the job has succeeded.
    let group = std::fs::read_to_string(&file).unwrap();
    let group = serde_json::from_str::<Value>(group.lines().next().unwrap()).unwrap()["group"].as_str().unwrap().to_owned();
    let token = node.events_of(run.id())[0].0["event_id"].as_str().unwrap().to_owned();
    let dir = Path::new(&claims).join(group);
    std::fs::create_dir_all(&dir).unwrap();
    let record = json!({ "schema": "lorchestra.claim/1", "run_id": run.id(), "token": token, "host": "h" });
    std::fs::write(dir.join("0"), record.to_string()).unwrap();
    node.lorchestra(&window(&file, "0", "2", &claims)).exits(0);
    assert_eq!(node.runs().len(), 1, "nothing was run again");
}

/// As an engine starts short windows.
#[test]
fn one_process_runs_several_windows_each_with_its_own_end() {
    let shared = tempfile::tempdir().unwrap();
    let node = node();
    let claims = claims_in(shared.path());
    let file = plan(&node, shared.path(), 2, &["--matrix", "then=return,fail,wait"]);
    let args = |indexes: &'static str, attempt: &'static str| {
        let own = ["run-window", "--plan", &file, "--indexes", indexes, "--attempt", attempt, "--claims", &claims];
        [&own[..], &["--no-require-delivery"]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let lines = |args: &[String], code: i32| -> Vec<Value> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let of = |line: Value| json!([line["index"], line["exit_code"], line["state"]]);
        node.lorchestra(&args).exits(code).json_lines("lorchestra.window-report/1").into_iter().map(of).collect()
    };
    let expected = [json!([0, 0, "completed"]), json!([1, 1, "failed"]), json!([3, 0, "completed"]), json!([4, 1, "failed"])];
    assert_eq!(lines(&args("4,0,1,3", "1"), 0), expected);
    // It leaves the rest to another process, and does not run what is complete.
    let soon = [&args("0,4", "2")[..], &["--stop-after".into(), "0s".into()]].concat();
    assert_eq!(lines(&soon, 0), [json!([0, 0, null])]);
    assert_eq!(node.runs().len(), 4);
    assert_eq!(lines(&args("0,9", "3"), 2), [] as [Value; 0], "there is no window 9");
    // SIGTERM cancels the run, and nothing more starts.
    let waiting = args("2,3,4", "4");
    let running = node.start(&waiting.iter().map(String::as_str).collect::<Vec<_>>());
    eventually("it runs", || node.runs().iter().any(|run| run.state() == "running"));
    running.signal(Signal::TERM);
    let ended = running.wait().exits(143);
    assert_eq!(ended.json_lines("lorchestra.window-report/1").len(), 1, "{}", ended.shown());
    assert_eq!(node.runs().len(), 5);
}

/// Each is refused, recorded and reported as one alone would be.
#[test]
fn a_process_that_can_start_none_of_its_windows_reports_each() {
    let shared = tempfile::tempdir().unwrap();
    let (node, claims) = (node(), claims_in(shared.path()));
    let file = plan(&node, shared.path(), 2, &[]);
    let window = ["run-window", "--plan", &file, "--indexes", "0,1", "--claims", &claims, "--no-require-delivery"];
    let ended = node.lorchestra(&[&window[..], &["--attempt", "1", "--locked"]].concat()).exits(0);
    let reports = ended.json_lines("lorchestra.window-report/1");
    let codes: Vec<Value> = reports.iter().map(|report| json!([report["index"], report["exit_code"]])).collect();
    assert_eq!(codes, [json!([0, 78]), json!([1, 78])]);
    assert_eq!(node.all_runs().iter().filter(|run| run.state() == "refused").count(), 2);
    let ended = node.lorchestra(&[&window[..], &["--attempt", ""]].concat()).exits(2);
    assert!(ended.err().contains("--claims needs --attempt"), "{}", ended.shown());
}

/// Two nodes run every window at once, and are killed again and again, as are their workers; each starts again with another attempt.
#[test]
fn each_window_is_effective_once_on_two_nodes_that_are_killed() {
    const DAYS: u32 = 6;
    let shared = tempfile::tempdir().unwrap();
    let claims = claims_in(shared.path());
    let nodes = [node(), node()];
    let file = plan(&nodes[0], shared.path(), DAYS, &[]);
    let mut random = fastrand::Rng::with_seed(6);
    let mut killed = 0;
    for index in 0..DAYS {
        let index = index.to_string();
        for attempt in 1..20 {
            let attempts = [format!("a{attempt}"), format!("b{attempt}")];
            let running: Vec<Running> =
                nodes.iter().zip(&attempts).map(|(node, attempt)| node.start(&window(&file, &index, attempt, &claims))).collect();
            std::thread::sleep(Duration::from_millis(random.u64(20..160)));
            // Both, one, or none.
            let mut all = true;
            for one in running {
                if random.bool() {
                    one.signal(Signal::KILL);
                    killed += 1;
                }
                all &= one.wait().code() == Some(0);
            }
            if all && attempt > 1 {
                break;
            }
        }
    }
    assert!(killed > 3, "{killed}");
    // Until the window is complete, an engine starts it again.
    for index in 0..DAYS {
        nodes[0].lorchestra(&window(&file, &index.to_string(), "last", &claims)).exits(0);
    }
    let mut done: BTreeMap<String, usize> = BTreeMap::new();
    for node in &nodes {
        for run in node.runs().iter().filter(|run| run.state() == "completed") {
            *done.entry(run.0["since"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(done.len(), DAYS as usize, "{done:?}");
    assert!(done.values().all(|runs| *runs == 1), "{done:?}");
    states(&nodes);
    // Each claim names the run that is completed.
    let group = std::fs::read_dir(&claims).unwrap().next().unwrap().unwrap().path();
    let completed: Vec<String> =
        nodes.iter().flat_map(Sandbox::runs).filter(|run| run.state() == "completed").map(|run| run.id().to_owned()).collect();
    for index in 0..DAYS {
        let claim: Value = serde_json::from_slice(&std::fs::read(group.join(index.to_string())).unwrap()).unwrap();
        assert!(completed.contains(&claim["run_id"].as_str().unwrap().to_owned()), "{claim}");
    }
}

/// The claim cannot be reached: nothing is guessed, and the next command decides.
#[test]
fn a_run_stays_open_until_its_claim_can_be_read() {
    let shared = tempfile::tempdir().unwrap();
    let claims_arg = claims_in(shared.path());
    let claims = Path::new(&claims_arg);
    let node = node();
    let go = shared.path().join("go");
    let file = plan(&node, shared.path(), 1, &["--go", &go.display().to_string()]);
    let running = node.start(&window(&file, "0", "1", &claims_arg));
    eventually("it runs", || node.runs().len() == 1);
    std::fs::remove_dir(claims).unwrap();
    std::fs::write(claims, "not a directory").unwrap();
    std::fs::write(&go, "").unwrap();
    let ended = running.wait();
    assert!(matches!(ended.code(), Some(70 | 74)), "{}", ended.shown());
    assert!(ended.err().contains("claim"), "{}", ended.shown());
    std::fs::remove_file(claims).unwrap();
    // The shared file system is not mounted: a new directory would be the claim of this node alone.
    assert_eq!(node.runs()[0].state(), "running");
    let refused = node.lorchestra(&window(&file, "0", "2", &claims_arg)).exits(78);
    assert!(refused.err().contains("mount the shared file system on this node"), "{}", refused.shown());
    assert!(!claims.exists());
    std::fs::create_dir(claims).unwrap();
    let runs = node.runs();
    assert_eq!((runs.len(), runs[0].state()), (1, "completed"), "{runs:?}");
    node.whole_events_of(&runs[0]);
    assert!(claims.is_dir());
    // No other run starts while the claim cannot be read, or is damaged.
    let claim = std::fs::read_dir(claims).unwrap().next().unwrap().unwrap().path().join("0");
    for content in ["", "{}", "{\"schema\":\"lorchestra.claim/9\"}"] {
        std::fs::write(&claim, content).unwrap();
        let refused = node.lorchestra(&window(&file, "0", "2", &claims_arg)).exits(78);
        let message = "the claim of the window cannot be read";
        assert!(refused.err().contains(message) && refused.err().contains("remove it"), "{content}: {}", refused.shown());
    }
    std::fs::remove_file(&claim).unwrap();
    assert_eq!(node.runs().len(), 1);
}

/// Something else has the name of the claim: the job must not run in full before that is found, and nothing may wait for a FIFO.
#[test]
fn no_run_starts_if_its_claim_is_not_a_file() {
    let shared = tempfile::tempdir().unwrap();
    let (node, claims) = (node(), claims_in(shared.path()));
    let file = plan(&node, shared.path(), 1, &[]);
    let text = std::fs::read_to_string(&file).unwrap();
    let group = serde_json::from_str::<Value>(text.lines().next().unwrap()).unwrap()["group"].as_str().unwrap().to_owned();
    let dir = Path::new(&claims).join(group);
    std::fs::create_dir(&dir).unwrap();
    let claim = dir.join("0");
    for (command, args) in [("mkdir", &[][..]), ("mkfifo", &[]), ("ln", &["-s", "nothing"]), ("ln", &["-s", "0"])] {
        let made = Command::new(command).args(args).arg(&claim).status().unwrap();
        assert!(made.success());
        let refused = node.start(&window(&file, "0", "1", &claims)).wait_within(Duration::from_secs(20)).exits(78);
        for expected in ["the claim of the window cannot be read", "it is not a regular file", "remove it"] {
            assert!(refused.err().contains(expected), "{command} {args:?}: {expected}: {}", refused.shown());
        }
        assert!(Command::new("rm").arg("-rf").arg(&claim).status().unwrap().success());
    }
    assert!(node.runs().is_empty(), "{:?}", node.runs());
    node.lorchestra(&window(&file, "0", "1", &claims)).exits(0);
}

#[test]
fn a_plan_that_was_changed_is_refused() {
    let shared = tempfile::tempdir().unwrap();
    let node = node();
    let file = plan(&node, shared.path(), 3, &["--then", "fail"]);
    let text = std::fs::read_to_string(&file).unwrap();
    let run = |code: i32, index: &str, message: &str| {
        let ended = node.lorchestra(&["run-window", "--plan", &file, "--index", index, "--no-require-delivery"]).exits(code);
        assert!(ended.err().contains(message), "{message}: {}", ended.shown());
    };
    run(1, "0", "not this window");
    run(2, "3", "has 3 members, so there is no index 3");
    // Two nodes would run the window under one id.
    let elsewhere = Sandbox::with(&[Fixture::Constructor]);
    let ended = elsewhere.lorchestra(&["run-window", "--plan", &file, "--index", "0", "--no-require-delivery"]).exits(126);
    assert!(ended.err().contains("Unknown package: misbehave"), "{}", ended.shown());
    let without_attempt = ["run-window", "--plan", &file, "--index", "0", "--claims", "claims", "--no-require-delivery"];
    let ended = node.lorchestra(&without_attempt).exits(2);
    assert!(ended.err().contains("--claims needs --attempt"), "{}", ended.shown());
    for (changed, message) in [
        (text.replace("2024-01-02", "2024-01-05"), "was changed, or the file is incomplete"),
        (text[..200].to_owned(), "not a plan file"),
        (text.replace("lorchestra.plan/1", "lorchestra.plan/9"), "lorchestra.plan/9"),
        (String::new(), "not a plan file"),
    ] {
        std::fs::write(&file, changed).unwrap();
        run(2, "0", message);
    }
    std::fs::write(&file, &text[..text.len() - 10]).unwrap();
    run(2, "2", "was changed, or the file is incomplete");
    std::fs::remove_file(&file).unwrap();
    run(2, "0", "plan.jsonl");
    // Without a destination, the events would stay on this node.
    let file = plan(&node, shared.path(), 1, &[]);
    node.lorchestra(&["run-window", "--plan", &file, "--index", "0"]).exits(78);
}

#[test]
fn sigterm_cancels_a_window() {
    let shared = tempfile::tempdir().unwrap();
    let node = node();
    let claims = claims_in(shared.path());
    let file = plan(&node, shared.path(), 1, &["--then", "wait"]);
    let running = node.start(&window(&file, "0", "1", &claims));
    eventually("it runs", || node.runs().len() == 1);
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code(), Some(143));
    assert_eq!(node.run().cause(), "cancelled");
    assert!(std::fs::read_dir(&claims).unwrap().next().is_none(), "nothing was claimed");
}

fn group_file(node: &Sandbox, text: &str) -> String {
    std::fs::write(node.path("nightly.toml"), text).unwrap();
    node.arg("nightly.toml")
}

#[test]
fn a_group_runs_its_stages_in_order_and_names_what_failed() {
    let node = node();
    let go = node.arg("go");
    let file = group_file(
        &node,
        &format!(
            "[[stage]]\n[[stage.jobs]]\njob = \"misbehave/noop\"\n[[stage.jobs]]\njob = \"misbehave/wait_for_file\"\nname = \"waits\"\n\
             params = {{ file = {go:?} }}\ntimeout = \"1s\"\n[[stage]]\n[[stage.jobs]]\njob = \"misbehave/numbered\"\nparams = {{ count = 2 }}\n"
        ),
    );
    let planned = node.lorchestra(&["run-group", &file, "--dry-run"]).exits(0);
    assert_eq!(planned.out(), "stage 1  misbehave/noop\nstage 1  waits\nstage 2  misbehave/numbered\n");
    let first = node.lorchestra(&["run-group", &file]).exits(1);
    assert!(first.err().contains("failed: waits") && first.err().contains("1 of 3 jobs completed"), "{}", first.shown());
    assert_eq!(node.runs().len(), 2, "the second stage did not start");
    std::fs::write(&go, "").unwrap();
    let again = node.lorchestra(&["run-group", &file, "--rerun-failed"]).exits(0);
    assert!(again.out().contains("3 jobs completed"), "{}", again.shown());
    let runs = node.runs();
    assert_eq!(runs.len(), 4);
    assert_eq!(runs[0].0["job"], json!("numbered"), "the last stage came last");
    std::fs::remove_file(&go).unwrap();
    node.lorchestra(&["run-group", &file, "--keep-going"]).exits(1);
    assert_eq!(node.runs().len(), 7);
    let both = node.lorchestra(&["run-group", &file, "--rerun-failed", "--dry-run"]).exits(2);
    assert!(both.err().contains("cannot be used with"), "{}", both.shown());
    // The last backfill: there is none.
    node.lorchestra(&["backfill", "cancel", "last"]).exits(1);
}

/// `--rerun-failed` runs the jobs of the store, so it refuses a file that has other jobs now, or another file of the same name.
#[test]
fn a_changed_file_does_not_rerun_the_jobs_that_it_had() {
    let node = node();
    let job = |job: &str, more: &str| format!("[[stage.jobs]]\njob = \"misbehave/{job}\"\n{more}\n");
    let fails = job("windowed", "params = { since = \"-1d\", then = \"fail\" }");
    let base = format!("[[stage]]\n{fails}{}", job("noop", ""));
    let file = group_file(&node, &base);
    let first = node.lorchestra(&["run-group", &file, "--json"]).exits(1).json("lorchestra.group/1");
    let (id, short) = (first["group_id"].as_str().unwrap(), first["short_id"].as_str().unwrap());
    let of_first = || node.lorchestra(&["runs", "list", "--group", id, "--json"]).exits(0).json_lines("lorchestra.run/1").len();
    let changed = [
        (base.replace("-1d", "-2d"), "misbehave/windowed has another params.since"),
        (
            base.replace("[[stage.jobs]]\njob = \"misbehave/noop", "[[stage]]\n[[stage.jobs]]\njob = \"misbehave/noop"),
            "was in stage 1 and is in stage 2",
        ),
        (format!("{base}{}", job("numbered", "params = { count = 1 }")), "misbehave/numbered is new"),
        (format!("[[stage]]\n{fails}"), "misbehave/noop is missing"),
        (base.replace("params", "retries = 1\nparams"), "misbehave/windowed has another retries"),
    ];
    for (text, message) in &changed {
        group_file(&node, text);
        let refused = node.lorchestra(&["run-group", &file, "--rerun-failed"]).exits(2);
        let resume = format!("lorchestra backfill resume {short}");
        for expected in [*message, "omit --rerun-failed", &resume] {
            assert!(refused.err().contains(expected), "{expected}: {}", refused.shown());
        }
    }
    // Another file of this name, which has not run.
    std::fs::create_dir(node.path("other")).unwrap();
    let other = node.path("other").join("nightly.toml");
    std::fs::write(&other, &changed[0].0).unwrap();
    let refused = node.lorchestra(&["run-group", other.to_str().unwrap(), "--rerun-failed"]).exits(2);
    assert!(refused.err().contains("that of another file") && refused.err().contains(&file), "{}", refused.shown());
    assert_eq!(node.runs().len(), 2, "nothing was run again");
    // It runs; the first file still finds its own group, although a relative time means something else now.
    node.lorchestra(&["run-group", other.to_str().unwrap()]).exits(1);
    group_file(&node, &format!("# Only layout has changed.\n{base}"));
    node.lorchestra(&["run-group", &file, "--rerun-failed"]).exits(1);
    assert_eq!((node.runs().len(), of_first()), (5, 3));
    // As the hint says.
    group_file(&node, &changed[0].0);
    node.lorchestra(&["backfill", "resume", short]).exits(1);
    assert_eq!((node.runs().len(), of_first()), (6, 4));
}

#[test]
fn a_group_file_is_checked_before_anything_runs() {
    let node = node();
    for (text, message) in [
        ("", "has no jobs"),
        ("[[stage]]\n[[stage.jobs]]\njob = \"misbehave/noop\"\nwhen = 1\n", "line 4"),
        ("[[stage]]\n[[stage.jobs]]\njob = \"noop\"\n", "write PACKAGE/JOB"),
        ("[[stage]]\n[[stage.jobs]]\njob = \"misbehave/noop\"\nparams = { x = 1 }\n", "misbehave/noop"),
        ("[[stage]]\n[[stage.jobs]]\njob = \"misbehave/noop\"\n[[stage.jobs]]\njob = \"misbehave/noop\"\n", "two jobs"),
    ] {
        let file = group_file(&node, text);
        let ended = node.lorchestra(&["run-group", &file]).exits(2);
        assert!(ended.err().contains(message), "{message}: {}", ended.shown());
    }
    assert!(node.all_runs().is_empty());
}

/// A setting that is wrong stays wrong: engines must not start the window again elsewhere.
#[test]
fn an_invalid_destination_is_refused_as_configuration() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let plan = sandbox.arg("plan.jsonl");
    let days = ["--from", "2024-01-01", "--to", "2024-01-02", "--every", "1d", "--plan", &plan];
    let written = sandbox.lorchestra(&[&["backfill", "misbehave", "windowed"][..], &days].concat()).exits(0);
    assert!(written.err().contains("plan.jsonl: 1 window (group "), "{}", written.shown());
    sandbox.configure(
        "[destinations.bigquery]\nproject = \"p\"\ndataset = \"d\"\ntable = \"t\"\nendpoint = \"http://127.0.0.1:1\"\n",
    );
    for args in [&["run-window", "--plan", &plan, "--index", "0"][..], &["status", "--from", "bigquery"]] {
        let ended = sandbox.lorchestra(args).exits(78);
        assert!(ended.err().contains("destinations.bigquery.storage_endpoint: "), "{}", ended.shown());
    }
    assert!(sandbox.runs().is_empty());
}
