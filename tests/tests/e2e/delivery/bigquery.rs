//! The same deliveries against a real emulator: setup, both write methods, and the queries of docs/guides/sql.

use lorchestra_tests::bigquery::emulator::{self, Emulator, Turn};
use lorchestra_tests::{Fixture, Running, Sandbox, built, processes};
use rustix::process::Signal;
use serde_json::{Value, json};

const WRITES: [&str; 2] = ["storage-write", "insert-all"];

fn sandbox(emulator: &Emulator, dataset: &str, write: &str) -> Sandbox {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Ingester]);
    sandbox.configure(&format!(
        "[destinations.bigquery]\nproject = \"{}\"\ndataset = \"{dataset}\"\ntable = \"events\"\nwrite = \"{write}\"\nendpoint = \"{}\"\n\
         storage_endpoint = \"{}\"\n[delivery]\ntimeout = \"50s\"\n",
        emulator.project(),
        emulator.rest_endpoint(),
        emulator.grpc_endpoint(),
    ));
    sandbox
}

/// A dataset in which `events setup` has created a table.
#[track_caller]
fn set_up(write: &str) -> (Turn, String, Sandbox) {
    let emulator = emulator::shared();
    let dataset = emulator.own_dataset();
    let sandbox = sandbox(&emulator, &dataset, write);
    let ended = sandbox.lorchestra(&["events", "setup"]).exits(0);
    assert!(ended.out().contains("and read it back"), "{}", ended.shown());
    (emulator, dataset, sandbox)
}

/// Rows, distinct rows, and events in the store, without setup's probe.
fn counts(emulator: &Emulator, dataset: &str, sandbox: &Sandbox) -> (u64, u64, u64) {
    let sql = format!(
        "SELECT COUNT(*) AS n, COUNT(DISTINCT event_id) AS d FROM `{dataset}.events` WHERE event_type <> 'lorchestra.probe'"
    );
    let row = &emulator.rows(&sql)[0];
    let stored = sandbox.lorchestra(&["events", "list", "--json"]).exits(0).json_lines("lorchestra.event/1").len();
    (row["n"].as_u64().unwrap(), row["d"].as_u64().unwrap(), stored as u64)
}

#[test]
fn events_arrive_with_the_right_types_and_their_payload_can_be_queried() {
    for write in WRITES {
        let (emulator, dataset, sandbox) = set_up(write);
        let ended = sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "200", "--account", "me"]).exits(0);
        assert_eq!(ended.err(), "", "{write}");
        assert_eq!(counts(&emulator, &dataset, &sandbox), (202, 202, 202), "{write}");
        // Time functions accept created_at, JSON functions the payload, arithmetic the attempt.
        let sql = format!(
            "SELECT COUNT(*) AS n, SUM(CAST(JSON_VALUE(payload, '$.n') AS INT64)) AS total, MAX(attempt + 1) AS next,
                MIN(source) AS source, COUNT(DISTINCT run_id) AS runs
             FROM `{dataset}.events` WHERE event_type = 'number'
                AND created_at BETWEEN TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 1 HOUR) AND TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 1 MINUTE)"
        );
        let expected = json!({"n": 200, "total": 199 * 200 / 2, "next": 2, "source": "misbehave/numbered", "runs": 1});
        assert_eq!(emulator.rows(&sql), [expected], "{write}");
        let times = format!(
            "SELECT FORMAT_TIMESTAMP('%Y-%m-%dT%H:%M:%E6SZ', created_at) AS at FROM `{dataset}.events` WHERE event_type = 'job.completed'"
        );
        let events = sandbox.events_of(sandbox.run().id());
        assert_eq!(emulator.rows(&times)[0]["at"], events.last().unwrap().0["created_at"], "{write}: to the microsecond");
    }
}

/// Eight processes, some of which are killed, then two flushes; in a soak, again and again.
#[test]
fn kills_among_concurrent_processes_lose_and_duplicate_nothing() {
    let (emulator, dataset, sandbox) = set_up("storage-write");
    for round in 0..u64::from(lorchestra_tests::rounds(20).div_ceil(20)) {
        let mut running: Vec<Running> = (0..8)
            .map(|i| {
                let account = format!("a{i}");
                sandbox.start(&["run-job", "misbehave", "numbered", "--count", "1500", "--account", &account])
            })
            .collect();
        for (i, victim) in running.drain(..4).enumerate() {
            std::thread::sleep(std::time::Duration::from_millis(120 * i as u64 + round * 37 % 200));
            let workers = victim.children();
            victim.signal(Signal::KILL);
            drop(victim);
            lorchestra_tests::eventually("its worker is gone", || workers.iter().all(|pid| !processes::is_alive(*pid)));
        }
        for running in running {
            running.wait().exits(0);
        }
        sandbox.lorchestra(&["runs", "list"]).exits(0);
        sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]).exits(0);
        assert_eq!(sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]).exits(0).out(), "Delivered 0 events.\n");
        let (rows, distinct, stored) = counts(&emulator, &dataset, &sandbox);
        assert!(stored > (round + 1) * 4 * 1502, "{stored}");
        assert_eq!((rows, distinct), (stored, stored), "round {round}");
    }
}

/// The server is killed while rows are in flight, and restarted without its streams, repeatedly; and a deliverer is killed.
#[test]
fn a_server_restarted_during_delivery_has_each_event_once() {
    let venv = emulator::ensure_venv();
    let mut emulator = Emulator::start_persistent(&venv);
    let dataset = emulator.own_dataset();
    let sandbox = sandbox(&emulator, &dataset, "storage-write");
    sandbox.lorchestra(&["events", "setup"]).exits(0);
    for round in 0..u64::from(lorchestra_tests::rounds(20).div_ceil(10)) {
        // Of one that is killed, so many that it is still delivering at that moment.
        let count = if round % 2 == 1 { "40000" } else { "12000" };
        let running = sandbox.start(&["run-job", "--delivery-timeout", "20s", "misbehave", "numbered", "--count", count]);
        std::thread::sleep(std::time::Duration::from_millis(600 + 900 * round % 1900));
        if round % 2 == 1 {
            let workers = running.children();
            running.signal(Signal::KILL);
            lorchestra_tests::eventually("its worker is gone", || workers.iter().all(|pid| !processes::is_alive(*pid)));
        }
        emulator.restart(&venv);
        let ended = running.wait();
        assert_eq!(ended.code() == Some(0), round % 2 == 0, "{}", ended.shown());
        sandbox.lorchestra(&["runs", "list"]).exits(0);
        sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]).exits(0);
        let failed = sandbox.lorchestra(&["events", "list", "--failed"]).exits(0);
        assert_eq!(failed.out(), "", "no row is set aside");
        let (rows, distinct, stored) = counts(&emulator, &dataset, &sandbox);
        assert_eq!((rows, distinct), (stored, stored), "round {round}");
    }
}

/// Twelve processes with three stores deliver to one table.
#[test]
fn three_stores_write_into_one_table() {
    let (emulator, dataset, first) = set_up("storage-write");
    let sandboxes = [first, sandbox(&emulator, &dataset, "storage-write"), sandbox(&emulator, &dataset, "storage-write")];
    let running: Vec<Running> = (0..12)
        .map(|i| {
            let account = format!("a{i}");
            sandboxes[i % 3].start(&["run-job", "misbehave", "numbered", "--count", "300", "--account", &account])
        })
        .collect();
    for running in running {
        running.wait().exits(0);
    }
    for sandbox in &sandboxes {
        sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]).exits(0);
    }
    let (rows, distinct, _) = counts(&emulator, &dataset, &sandboxes[0]);
    assert_eq!((rows, distinct), (12 * 302, 12 * 302));
}

/// Insert-all occasionally writes an event twice; the view that setup creates shows it once.
#[test]
fn the_view_shows_each_event_once() {
    let (emulator, dataset, sandbox) = set_up("insert-all");
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "20"]).exits(0);
    emulator.rows(&format!("INSERT INTO `{dataset}.events` SELECT * FROM `{dataset}.events` WHERE event_type = 'number'"));
    let count = |table: &str| {
        let sql =
            format!("SELECT COUNT(*) AS n, COUNT(DISTINCT event_id) AS d FROM `{dataset}.{table}` WHERE event_type = 'number'");
        emulator.rows(&sql)[0].clone()
    };
    assert_eq!(count("events"), json!({"n": 40, "d": 20}));
    assert_eq!(count("events_once"), json!({"n": 20, "d": 20}));
    assert_eq!(count("events_effective"), json!({"n": 20, "d": 20}));
}

/// Of two copies of a window, the events of the one that lost its claim are not in the effective view; nor are those of a failed run.
#[test]
fn the_effective_view_leaves_out_what_does_not_count() {
    for write in WRITES {
        let (emulator, dataset, first) = set_up(write);
        let nodes = [first, sandbox(&emulator, &dataset, write)];
        let shared = tempfile::tempdir().unwrap();
        let at = |name: &str| shared.path().join(name).display().to_string();
        let (plan, claims, go) = (at("plan"), at("claims"), at("go"));
        std::fs::create_dir(&claims).unwrap();
        let args = ["backfill", "misbehave", "windowed", "--from", "2024-01-01", "--to", "2024-01-03", "--every", "1d"];
        nodes[0].lorchestra(&[&args[..], &["--go", &go, "--plan", &plan]].concat()).exits(0);
        let window = |index: &'static str, attempt: &'static str| {
            ["run-window", "--plan", &plan, "--index", index, "--claims", &claims, "--attempt", attempt].map(str::to_owned)
        };
        let start = |node: &Sandbox, args: [String; 9]| node.start(&args.each_ref().map(String::as_str));
        let running = [start(&nodes[0], window("0", "1")), start(&nodes[1], window("0", "2"))];
        lorchestra_tests::eventually("both copies run", || {
            nodes.iter().all(|node| node.runs().iter().any(|run| run.state() == "running"))
        });
        std::fs::write(&go, "").unwrap();
        running.into_iter().for_each(|running| drop(running.wait().exits(0)));
        start(&nodes[1], window("1", "1")).wait().exits(0);
        nodes[0].lorchestra(&["run-job", "misbehave", "windowed", "--then", "fail", "--require-delivery"]).exits(1);
        let count = |table: &str| {
            let sql = format!(
                "SELECT COUNT(*) AS n, COUNT(DISTINCT JSON_VALUE(payload, '$.since')) AS d FROM `{dataset}.{table}`
                 WHERE event_type = 'window.seen' AND JSON_VALUE(payload, '$.since') IS NOT NULL"
            );
            emulator.rows(&sql)[0].clone()
        };
        assert_eq!(count("events"), json!({"n": 3, "d": 2}), "{write}");
        assert_eq!(count("events_effective"), json!({"n": 2, "d": 2}), "{write}");
        // The winner's host is lost before it has delivered the end of its run: the loser has recorded that the run counts.
        emulator.rows(&format!(
            "DELETE FROM `{dataset}.events` WHERE event_type = 'job.completed' AND run_id IN
             (SELECT run_id FROM `{dataset}.events` WHERE event_type = 'job.claimed')"
        ));
        assert_eq!(count("events_effective"), json!({"n": 2, "d": 2}), "{write}: without job.completed");
    }
}

/// What the commands of each host show, the same commands show for all hosts out of the events table.
#[test]
fn status_and_history_of_all_hosts_come_from_the_table() {
    let (emulator, dataset, first) = set_up("storage-write");
    let hosts = [first, sandbox(&emulator, &dataset, "storage-write")];
    hosts[0].lorchestra(&["run-job", "misbehave", "numbered", "--count", "3", "--account", "anna"]).exits(0);
    hosts[0].lorchestra(&["run-job", "misbehave", "fail", "--retries", "1"]).exits(1);
    hosts[1]
        .lorchestra(&["run-job", "misbehave", "windowed", "--since", "2024-01-01", "--until", "2024-01-02", "--group", "g"])
        .exits(0);
    let list = |host: &Sandbox, flags: &[&str]| {
        let args = [&["runs", "list", "--json"][..], flags].concat();
        host.lorchestra(&args).exits(0).json_lines("lorchestra.run/1")
    };
    let fleet = list(&hosts[1], &["--from", "bigquery"]);
    assert_eq!(fleet.len(), 3);
    let mut own: Vec<Value> = hosts.iter().flat_map(|host| list(host, &[])).collect();
    assert_eq!(own.len(), 3);
    own.sort_by_key(|run| std::cmp::Reverse(run["started_at"].as_str().unwrap().to_owned()));
    for (of_fleet, of_host) in fleet.iter().zip(&own) {
        for key in [
            "run_id",
            "package",
            "job",
            "account",
            "state",
            "cause",
            "message",
            "since",
            "until",
            "host",
            "plugin_version",
            "started_at",
            "ended_at",
        ] {
            assert_eq!(of_fleet[key], of_host[key], "{key}: {of_fleet} {of_host}");
        }
        assert_eq!(of_fleet["attempts"], of_host["attempts"]);
    }
    assert_eq!(list(&hosts[0], &["--from", "bigquery", "--group", "g"]).len(), 1);
    assert_eq!(list(&hosts[0], &["--from", "bigquery", "--job", "misbehave/fail", "--state", "failed"]).len(), 1);
    let status = hosts[1].lorchestra(&["status", "--from", "bigquery", "--json"]).exits(1).json("lorchestra.status/1");
    let words: Vec<(&str, &str)> = status["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| (job["job"].as_str().unwrap(), job["status"].as_str().unwrap()))
        .collect();
    assert_eq!(words, [("fail", "failing"), ("numbered", "ok"), ("windowed", "ok")]);
    // What another host alone has run is known here; a misspelt name is not.
    let of_other = hosts[1].lorchestra(&["status", "--from", "bigquery", "--json", "misbehave/numbered"]).exits(0);
    assert_eq!(of_other.json("lorchestra.status/1")["jobs"][0]["pending"], serde_json::json!([]));
    let misspelt = hosts[1].lorchestra(&["status", "--from", "bigquery", "misbehave/numbred"]).exits(1);
    assert!(misspelt.err().starts_with("Unknown job: misbehave/numbred\n  did you mean numbered"), "{}", misspelt.shown());
    assert!(misspelt.err().contains("--from bigquery reads the runs of the last 30 days"), "{}", misspelt.shown());
    let never = hosts[1].lorchestra(&["status", "--from", "bigquery", "misbehave/print"]).exits(0);
    assert!(never.err().contains("misbehave/print has not run in the last 30 days"), "{}", never.shown());
    let page = hosts[1].lorchestra(&["report", "--from", "bigquery"]).exits(0);
    assert!(page.out().contains("misbehave/numbered") && page.out().contains("misbehave/windowed"), "{}", page.shown());
    let without = Sandbox::with(&[]).lorchestra(&["status", "--from", "bigquery"]).exits(78);
    assert!(without.err().contains("no BigQuery table is configured"), "{}", without.shown());
}

#[test]
fn an_emulator_without_a_storage_endpoint_receives_insert_all() {
    let emulator = emulator::shared();
    let dataset = emulator.own_dataset();
    emulator.create_event_table(&dataset, "events");
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let host = emulator.rest_endpoint();
    for host in [host.as_str(), host.strip_prefix("http://").unwrap()] {
        let environment = [
            ("BIGQUERY_EMULATOR_HOST", host),
            ("BQ_EVENTS_DATASET", dataset.as_str()),
            ("BQ_EVENTS_TABLE", "events"),
            ("GOOGLE_CLOUD_PROJECT", emulator.project()),
        ];
        let ended = sandbox.lorchestra_with(&environment, &["run-job", "misbehave", "noop"]).exits(0);
        assert_eq!(ended.err(), "", "{}", ended.shown());
    }
    assert_eq!(counts(&emulator, &dataset, &sandbox), (4, 4, 4));
}

/// Each file of docs/guides/sql runs unchanged, except for the table's name, and finds what it is meant to find.
#[test]
fn the_documented_queries_answer() {
    let (emulator, dataset, sandbox) = set_up("storage-write");
    let sample = built::workspace().join("example-plugins/ingester/sample/takeout.mbox").display().to_string();
    sandbox.lorchestra(&["run-job", "ingester", "extract_gmail", "--source", &sample, "--account", "demo"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "fail"]).exits(1);
    let run = sandbox.runs()[0].id().to_owned();
    // Only time could produce these: a daily job that last ended two days ago, and a run without an end since yesterday.
    for (id, kind, job, run, hours) in [
        ("o1", "job.started", "daily", "r-old", 49),
        ("o2", "job.completed", "daily", "r-old", 48),
        ("o3", "job.started", "long", "r-open", 24),
    ] {
        emulator.rows(&format!(
            "INSERT INTO `{dataset}.events` (event_id, event_type, source, created_at, run_id, payload) VALUES ('{id}', '{kind}', 'misbehave/{job}',
             TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL {hours} HOUR), '{run}', JSON '{{\"host\": \"h1\", \"duration_ms\": 5000}}')"
        ));
    }
    let query = |name: &str| -> Vec<Value> {
        let path = built::workspace().join("docs/guides/sql").join(name);
        let sql = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        emulator.rows(&sql.replace("lorchestra.events", &format!("{dataset}.events")).replace("@run_id", &format!("'{run}'")))
    };
    let files = std::fs::read_dir(built::workspace().join("docs/guides/sql")).unwrap().count();
    assert_eq!(files, 8, "a query without a test");
    let effective = query("effective.sql");
    let counted = |run: &str| effective.iter().filter(|row| row["run_id"] == run).count();
    assert_eq!((counted("r-old"), counted("r-open"), counted(&run)), (2, 0, 0), "{effective:?}");
    assert!(effective.iter().any(|row| row["event_type"] == "extraction.completed"), "{effective:?}");

    let failed = query("failed_last_night.sql");
    assert_eq!(failed.len(), 1);
    assert_eq!((&failed[0]["cause"], &failed[0]["run_id"]), (&json!("error"), &json!(run)));
    assert!(failed[0]["message"].as_str().is_some_and(|text| !text.is_empty()));
    let dead = query("dead_jobs.sql");
    assert_eq!(dead.iter().map(|row| row["source"].as_str().unwrap()).collect::<Vec<_>>(), ["misbehave/daily"]);
    let open = query("still_open.sql");
    assert_eq!(open.iter().map(|row| row["run_id"].as_str().unwrap()).collect::<Vec<_>>(), ["r-open"]);
    let durations = query("durations.sql");
    let daily = durations.iter().find(|row| row["source"] == "misbehave/daily").unwrap();
    assert_eq!((daily["longest_seconds"].as_f64(), &daily["failed"]), (Some(5.0), &json!(0)));
    let causes = query("causes_by_week.sql");
    assert_eq!((&causes[0]["cause"], &causes[0]["runs"]), (&json!("error"), &json!(1)));
    let types: Vec<String> = query("one_run.sql").iter().map(|row| row["event_type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(types, ["job.started", "job.failed"]);
    let extracted = query("extracted_by_day.sql");
    assert!(extracted[0]["messages_written"].as_u64().is_some_and(|n| n >= 25), "{extracted:?}");
}
