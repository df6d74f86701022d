//! The package `meltano-ingest` end to end: a real tap from PyPI, and small ones that fail in every way.

mod parquet_files;

use lorchestra_test_setup::venv;
use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::{Event, Fixture, Running, Sandbox, built, eventually, processes};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// A tap that counts: records 1, 2, … up to `upto`, starting at its state, with a state after every `every`. Its config selects faults.
const COUNTER: &str = r#"
import argparse, json, os, signal, sys, time
parser = argparse.ArgumentParser()
for flag in ["--config", "--state", "--catalog"]:
    parser.add_argument(flag)
args = parser.parse_args()
config = json.load(open(args.config))
start = json.load(open(args.state))["n"] if args.state else 0
print("counter: starts at", start, file=sys.stderr, flush=True)
def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
say(type="SCHEMA", stream="numbers", schema={"properties": {"n": {"type": "integer"}}}, key_properties=["n"])
for n in range(start + 1, config["upto"] + 1):
    say(type="RECORD", stream="numbers", record={"n": n, "pad": "x" * config.get("pad", 0)})
    if n % config.get("every", 10) == 0:
        say(type="STATE", value={"n": n})
    if n == config.get("at"):
        sys.stdout.flush()
        if config["then"] == "die":
            print("counter: no luck", file=sys.stderr)
            sys.exit(3)
        if config["then"] == "garbage":
            print("Segmentation fault, they said")
        if config["then"] == "half":
            sys.stdout.write('{"type": "RECORD", "stre')
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        if config["then"] == "batch":
            say(type="BATCH", stream="numbers", encoding={"format": "parquet"}, manifest=["file:///nowhere"])
            sys.stdout.flush()
        if config["then"] in ("hang", "deaf"):
            if config["then"] == "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open(config["marker"], "w").write(str(os.getpid()))
            time.sleep(1000)
"#;

struct Taps {
    sandbox: Sandbox,
    python: String,
}

impl Taps {
    fn new() -> Self {
        let venv = venv::ensure_tap(&built::target()).unwrap_or_else(|error| panic!("{error}"));
        let sandbox = Sandbox::with(&[Fixture::MeltanoIngest]);
        fs::write(sandbox.path("counter.py"), COUNTER).unwrap();
        Self { sandbox, python: venv.join("bin/python").display().to_string() }
    }

    fn configure(&self, config: &Value) {
        fs::write(self.sandbox.path("config.json"), config.to_string()).unwrap();
    }

    /// The arguments for running the counter with this config.
    fn count(&self, own: &[&str], flags: &[&str], config: &Value) -> Vec<String> {
        self.count_as("counter", own, flags, config)
    }

    /// The same for a tap with this name.
    fn count_as(&self, name: &str, own: &[&str], flags: &[&str], config: &Value) -> Vec<String> {
        self.configure(config);
        let mut args = vec!["run-job".to_owned()];
        args.extend(own.iter().map(ToString::to_string));
        for arg in ["meltano-ingest", "run_tap", "--tap", &self.python, "--arg", &self.sandbox.arg("counter.py"), "--name", name]
        {
            args.push(arg.to_owned());
        }
        args.extend(["--config".to_owned(), self.sandbox.arg("config.json")]);
        args.extend(flags.iter().map(ToString::to_string));
        args
    }

    fn data(&self, file: &str) -> PathBuf {
        self.sandbox.data().join("meltano-ingest").join(file)
    }

    /// The numbers that were stored, in order.
    fn numbers(&self) -> Vec<u64> {
        lines(&self.data("counter/default/numbers.jsonl")).iter().map(|line| line["n"].as_u64().unwrap()).collect()
    }

    /// The stored state.
    fn state(&self) -> Value {
        let text = fs::read(self.data("counter/default/state.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["state"].clone()
    }

    /// The payloads of this type in the newest run, after checking its end.
    fn payloads(&self, event_type: &str) -> Vec<Value> {
        let events = self.sandbox.whole_events_of(&self.sandbox.runs()[0]);
        events.iter().filter(|event| event.event_type() == event_type).map(Event::payload).cloned().collect()
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "whole lines: {}", path.display());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn a_real_tap_continues_where_it_stopped() {
    let taps = Taps::new();
    let sandbox = &taps.sandbox;
    let tap = Path::new(&taps.python).with_file_name("tap-jsonfile").display().to_string();
    fs::create_dir(sandbox.path("orders")).unwrap();
    fs::write(sandbox.path("orders/one.json"), r#"[{"id": 1, "price": 1.10}, {"id": 2, "price": 2.20}]"#).unwrap();
    taps.configure(&json!({"paths": [sandbox.path("orders/*.json")], "stream_name": "orders"}));

    let discover = ["run-job", "meltano-ingest", "discover", "--tap", &tap, "--config", "config.json"];
    sandbox.lorchestra(&discover).exits(0);
    let discovered = &taps.payloads("catalog.discovered")[0];
    assert_eq!((&discovered["streams"], &discovered["selected"], &discovered["properties"]), (&json!(1), &json!(1), &json!(3)));
    let log = sandbox.lorchestra(&["runs", "logs", sandbox.runs()[0].id()]).exits(0);
    assert!(
        log.out().contains("\norders\n") && log.out().contains("| tap-jsonfile "),
        "names, and the tap's message: {}",
        log.shown()
    );
    let catalog = taps.data("tap-jsonfile/catalog.json").display().to_string();

    let run = ["run-job", "meltano-ingest", "run_tap", "--tap", &tap, "--config", "config.json", "--catalog", &catalog];
    let run = [&run[..], &["--account", "anna"]].concat();
    let orders = taps.data("tap-jsonfile/anna/orders.jsonl");
    sandbox.lorchestra(&run).exits(0);
    let stream = &taps.payloads("tap.stream.completed")[0];
    assert_eq!((&stream["records"], &stream["stream"]), (&json!(2), &json!("orders")));
    assert_eq!(stream["bytes"], fs::metadata(&orders).unwrap().len());
    assert!(stream["first_extracted"].as_str() <= stream["last_extracted"].as_str(), "{stream}");
    assert_eq!(taps.payloads("tap.schema.changed")[0]["first"], true);
    assert!(fs::read_to_string(taps.data("tap-jsonfile/anna/orders.schema.json")).unwrap().contains("\"price\""));

    sandbox.lorchestra(&run).exits(0);
    assert_eq!(taps.payloads("tap.completed")[0]["records"], 0, "nothing is new");
    assert!(taps.payloads("tap.schema.changed").is_empty());

    fs::write(sandbox.path("orders/two.json"), r#"[{"id": 3, "price": 3.30}]"#).unwrap();
    sandbox.lorchestra(&run).exits(0);
    assert_eq!(taps.payloads("tap.completed")[0]["records"], 1);
    let ids: Vec<Value> = lines(&orders).iter().map(|line| line["id"].clone()).collect();
    assert_eq!(ids, [1, 2, 3]);
    let log = sandbox.lorchestra(&["runs", "logs", sandbox.runs()[0].id()]).exits(0);
    assert!(log.out().contains("Skipped 1 unchanged files"), "its state was passed to it: {}", log.shown());
}

#[test]
fn each_failure_is_reported_with_its_cause_and_nothing_is_half_stored() {
    let taps = Taps::new();
    let sandbox = &taps.sandbox;
    let mut pages = String::new();
    let mut page = |title: &str, args: &[&str]| {
        let ended = sandbox.lorchestra(args).exits(1);
        pages.push_str(&format!("== {title}\n{}\n", ended.snapshot(sandbox).replace(&taps.python, "[PYTHON]")));
    };
    for (n, then) in ["die", "garbage", "half", "batch"].into_iter().enumerate() {
        let config = json!({"upto": 100, "at": 10 * n + 15, "then": then});
        page(then, &strs(&taps.count(&[], &[], &config)));
        let kept = 10 * (n as u64 + 1);
        assert_eq!(taps.numbers(), (1..=kept).collect::<Vec<_>>(), "{then}");
        assert_eq!(taps.state(), json!({"n": kept}), "{then}");
        let interrupted = taps.payloads("tap.interrupted");
        assert_eq!((interrupted.len(), &interrupted[0]["kept_records"]), (1, &json!(10)), "{then}: {interrupted:?}");
    }
    let log = sandbox.lorchestra(&["runs", "logs", sandbox.runs()[2].id()]).exits(0);
    assert!(log.out().contains("counter: starts at 10\n"), "{}", log.shown());
    assert!(log.out().contains("line 18 of counter's output: Segmentation fault, they said\n"), "{}", log.shown());

    let marker = sandbox.path("hangs");
    let hangs = json!({"upto": 100, "at": 45, "then": "hang", "marker": marker});
    page("silent", &strs(&taps.count(&[], &["--idle", "1s"], &hangs)));
    let pid: u32 = fs::read_to_string(&marker).unwrap().parse().unwrap();
    assert!(!processes::is_alive(pid));
    assert_eq!(taps.state(), json!({"n": 40}));

    // A retry would not help, so there is none.
    let run = ["run-job", "--retries", "2", "meltano-ingest", "run_tap", "--tap"];
    page("not on PATH", &[&run[..], &["tap-of-nobody"]].concat());
    page("no such program", &[&run[..], &["./tap-of-nobody"]].concat());
    page("no program", &[&run[..], &["./counter.py"]].concat());
    page("no config", &[&run[..], &[&taps.python, "--config", "nowhere.json"]].concat());
    fs::write(sandbox.path("config.json"), "[]").unwrap();
    page("a config that is none", &[&run[..], &[&taps.python, "--config", "config.json"]].concat());
    assert!(sandbox.runs().iter().all(|run| run.0["attempts"] == 1));
    page("no catalog", &["run-job", "meltano-ingest", "discover", "--tap", "echo"]);
    insta::assert_snapshot!(pages);

    sandbox.lorchestra(&strs(&taps.count(&[], &[], &json!({"upto": 100})))).exits(0);
    assert_eq!(taps.numbers(), (1..=100).collect::<Vec<_>>(), "complete, without duplicates");
    assert_eq!(sandbox.processes(), [0u32; 0]);
}

/// Two files as written by taps of Meltano's SDK, an unselected stream, and much output on stderr before a failure, with the SDK's own
/// batch encoder.
#[test]
fn a_tap_of_the_sdk_sends_batches_and_obeys_its_catalog() {
    let taps = Taps::new();
    let sandbox = &taps.sandbox;
    let tap = Path::new(&taps.python).with_file_name("tap-jsonfile").display().to_string();
    fs::create_dir(sandbox.path("orders")).unwrap();
    let orders: Vec<Value> = (0..250).map(|n| json!({"id": n, "price": 1.5})).collect();
    fs::write(sandbox.path("orders/one.json"), json!(orders).to_string()).unwrap();
    let batches = json!({"encoding": {"format": "jsonl", "compression": "gzip"}, "batch_size": 100,
        "storage": {"root": format!("file://{}", sandbox.path("batches").display())}});
    fs::create_dir(sandbox.path("batches")).unwrap();
    taps.configure(&json!({"paths": [sandbox.path("orders/*.json")], "stream_name": "orders", "batch_config": batches}));
    let run = ["run-job", "meltano-ingest", "run_tap", "--tap", &tap, "--config", "config.json"];
    sandbox.lorchestra(&run).exits(0);
    let completed = &taps.payloads("tap.completed")[0];
    assert_eq!((&completed["records"], &completed["batch_files"]), (&json!(250), &json!(3)), "{completed}");
    let kept = lines(&taps.data("tap-jsonfile/default/orders.jsonl"));
    assert_eq!(kept.iter().map(|order| order["id"].as_u64().unwrap()).collect::<Vec<_>>(), (0..250).collect::<Vec<_>>());

    sandbox.lorchestra(&["run-job", "meltano-ingest", "discover", "--tap", &tap, "--config", "config.json"]).exits(0);
    let catalog = taps.data("tap-jsonfile/catalog.json");
    let mut selection: Value = serde_json::from_slice(&fs::read(&catalog).unwrap()).unwrap();
    for entry in selection["streams"][0]["metadata"].as_array_mut().unwrap() {
        if entry["breadcrumb"] == json!([]) {
            entry["metadata"]["selected"] = json!(false);
        }
    }
    fs::write(sandbox.path("selection.json"), selection.to_string()).unwrap();
    sandbox.lorchestra(&[&run[..], &["--account", "none", "--catalog", "selection.json"]].concat()).exits(0);
    assert_eq!(taps.payloads("tap.completed")[0]["records"], 0, "nothing is selected");
}

/// Of three versions of the SDK, and one that is not built on it: each sends two records, and is handed its state the second time.
#[test]
fn four_more_taps_from_pypi_are_run() {
    let venvs = venv::ensure_more_taps(&built::target()).unwrap_or_else(|error| panic!("{error}"));
    let sandbox = Sandbox::with(&[Fixture::MeltanoIngest]);
    fs::write(sandbox.path("rows.jsonl"), "{\"id\":1,\"n\":\"x\"}\n{\"id\":2,\"n\":\"y\"}\n").unwrap();
    fs::write(sandbox.path("people.csv"), "id,name\n1,Anna\n2,Ben\n").unwrap();
    // A header of a table with two numbers of four digits and one field for them, as dBase III writes it.
    let mut table = vec![3, 124, 1, 1, 2, 0, 0, 0, 65, 0, 5, 0];
    table.resize(32, 0);
    table.extend(b"ID\0\0\0\0\0\0\0\0\0N\0\0\0\0\x04\0");
    table.resize(64, 0);
    table.extend(b"\r    1    2\x1a");
    fs::write(sandbox.path("stock.dbf"), table).unwrap();
    fs::create_dir(sandbox.path("singer")).unwrap();
    let messages = [
        json!({"type": "SCHEMA", "stream": "old", "schema": {"properties": {"id": {"type": "integer"}}}, "key_properties": ["id"]}),
        json!({"type": "RECORD", "stream": "old", "record": {"id": 1}}),
        json!({"type": "RECORD", "stream": "old", "record": {"id": 2}}),
        json!({"type": "STATE", "value": {"at": 2}}),
    ];
    fs::write(sandbox.path("singer/one.singer.jsonl"), messages.map(|message| format!("{message}\n")).concat()).unwrap();
    let path = |name: &str| sandbox.arg(name);
    let folder = json!({"folders": [path("singer")]});
    let configs = [
        ("tap-jsonl", "rows", json!({"path": path("rows.jsonl"), "stream_name": "rows", "primary_keys": ["id"]})),
        ("tap-dbf", "stock", json!({"path": path("stock.dbf")})),
        (
            "tap-spreadsheets",
            "people",
            json!({"files": [{"path": path("people.csv"), "format": "csv", "table_name": "people", "primary_keys": ["id"]}]}),
        ),
        ("tap-singer-jsonl", "old", json!({"source": "local", "local": folder, "add_record_metadata": false})),
    ];
    for ((name, stream, config), venv) in configs.into_iter().zip(venvs) {
        fs::write(sandbox.path("config.json"), config.to_string()).unwrap();
        let tap = venv.join("bin").join(name).display().to_string();
        for run in 1..=2 {
            let args = ["run-job", "meltano-ingest", "run_tap", "--tap", &tap, "--config", "config.json"];
            let ended = sandbox.lorchestra(&args).exits(0);
            let events = sandbox.whole_events_of(&sandbox.runs()[0]);
            let of = |kind: &str| events.iter().find(|event| event.event_type() == kind).unwrap().payload().clone();
            assert_eq!(of("tap.started")["resumes"], json!(run == 2), "{name}: {}", ended.shown());
            let completed = of("tap.completed");
            assert_eq!(completed["set_aside"], json!({}), "{name}: {completed}");
            if run == 1 {
                assert_eq!(completed["records"], 2, "{name}: {completed}");
            }
        }
        let kept = lines(&sandbox.data().join(format!("meltano-ingest/{name}/default/{stream}.jsonl")));
        assert!(kept.len() >= 2, "{name}: {kept:?}");
        assert!(kept[0].as_object().unwrap().keys().any(|key| key.eq_ignore_ascii_case("id")), "{name}: {kept:?}");
    }
}

#[test]
fn the_log_contains_a_taps_stderr_exit_code_and_progress_by_stream() {
    let taps = Taps::new();
    let script = "import json, sys, time\ndef say(**message): print(json.dumps(message), flush=True)\n\
                  for name in ['orders', 'customers']:\n    say(type='SCHEMA', stream=name, schema={}, key_properties=[])\n\
                  for n in range(30): say(type='RECORD', stream='customers' if n % 3 else 'orders', record={})\n\
                  time.sleep(1.5)\n\
                  for n in range(20000): print('line', n, 'of many', file=sys.stderr)\n\
                  sys.stderr.write('the end without a line break')\nsys.stderr.flush()\nsys.exit(7)\n";
    fs::write(taps.sandbox.path("talks.py"), script).unwrap();
    let args = ["run-job", "meltano-ingest", "run_tap", "--tap", &taps.python, "--arg", "talks.py", "--name", "talks"];
    let ended = taps.sandbox.lorchestra(&[&args[..], &["--progress", "1s"]].concat()).exits(1);
    assert!(ended.err().contains("talks failed (exit status: 7) after 32 messages"), "{}", ended.shown());
    let log = taps.sandbox.lorchestra(&["runs", "logs", taps.sandbox.runs()[0].id()]).exits(0);
    assert!(log.out().starts_with("meltano-ingest: 30 records so far: customers 20, orders 10\n"), "{}", &log.out()[..200]);
    assert_eq!(log.out().lines().filter(|line| line.starts_with("line ")).count(), 20_000);
    let end =
        "\nline 19999 of many\nthe end without a line break\nmeltano-ingest: talks ended (exit status: 7) after 32 messages\n";
    assert!(log.out().ends_with(end), "{}", &log.out()[log.out().len() - 300..]);
}

#[test]
fn a_config_with_secrets_that_others_can_read_causes_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let taps = Taps::new();
    for (mode, key, is_warned) in
        [(0o644, "token", true), (0o640, "token", true), (0o600, "token", false), (0o644, "label", false)]
    {
        let args = taps.count(&[], &[], &json!({"upto": 1, key: "hunter2hunter2"}));
        fs::set_permissions(taps.sandbox.path("config.json"), fs::Permissions::from_mode(mode)).unwrap();
        taps.sandbox.lorchestra(&strs(&args)).exits(0);
        let log = taps.sandbox.lorchestra(&["runs", "logs", taps.sandbox.runs()[0].id()]).exits(0);
        let warning = format!("other users can read it (mode {mode:04o}); let only its owner read it");
        assert_eq!(log.out().contains(&warning), is_warned, "{mode:o} {key}: {}", log.shown());
        assert!(!log.out().contains("hunter2"), "{}", log.shown());
    }
}

/// A wrong token, a host that is down, one that does not speak TLS: the tap reports it last, and the error names its kind, for `discover`
/// too. The tap's own message is in the log, without the token in any form.
#[test]
fn the_error_has_the_kind_of_a_taps_failure_and_the_log_its_message() {
    let taps = Taps::new();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            // A request, or a TLS ClientHello, which is not an HTTP request.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let script = "import json, sys, urllib.request\nconfig = json.load(open(sys.argv[sys.argv.index('--config') + 1]))\n\
                  try:\n    urllib.request.urlopen(config['url'])\n\
                  except Exception as e:\n    sys.exit(f\"{e}, with {config['token']}\")\n";
    fs::write(taps.sandbox.path("web.py"), script).unwrap();
    for (url, says) in [
        (format!("http://127.0.0.1:{port}/"), "the last line of its output contains HTTP 401; see the log"),
        (format!("http://127.0.0.1:{down}/"), "contains Connection refused (os error 111); see"),
        (format!("https://127.0.0.1:{port}/"), "the last line of its output contains TLS "),
    ] {
        taps.configure(&json!({"url": url, "token": "hunter2hunter2"}));
        for job in ["run_tap", "discover"] {
            let args = ["run-job", "meltano-ingest", job, "--tap", &taps.python, "--arg", "web.py", "--name", "web"];
            let ended = taps.sandbox.lorchestra(&[&args[..], &["--config", "config.json"]].concat()).exits(1);
            assert!(ended.err().contains(says) && !ended.err().contains("hunter2"), "{job}: {}", ended.shown());
            let log = taps.sandbox.lorchestra(&["runs", "logs", taps.sandbox.runs()[0].id()]).exits(0);
            assert!(log.out().contains(", with ***") && !log.out().contains("hunter2"), "{}", log.shown());
        }
    }
}

/// A record that the tap cannot convert, and a key of its config in its traceback: neither is in the event, and the key is not in the log
/// either.
#[test]
fn the_event_of_a_crashed_tap_contains_no_record_and_no_key() {
    let taps = Taps::new();
    let script = "import json, sys, urllib.parse\nconfig = json.load(open(sys.argv[sys.argv.index('--config') + 1]))\n\
                  print(repr(config), json.dumps(config), urllib.parse.quote(config['key']), file=sys.stderr)\n\
                  print(*config['key'].splitlines(), sep='\\n', file=sys.stderr)\nint('anna@example.com')\n";
    fs::write(taps.sandbox.path("dies.py"), script).unwrap();
    let key = "-----BEGIN KEY-----\nMIIabc/def+ghi=\nMIIxyz'\"uvw==\n-----END KEY-----\n";
    taps.configure(&json!({"key": key, "pin": 12345678, "secret": {"number": 987654321}}));
    let args = [
        "run-job",
        "meltano-ingest",
        "run_tap",
        "--tap",
        &taps.python,
        "--arg",
        "dies.py",
        "--name",
        "dies",
        "--config",
        "config.json",
    ];
    let ended = taps.sandbox.lorchestra(&args).exits(1);
    let events = taps.sandbox.lorchestra(&["events", "list", "--json", "--payload"]).exits(0);
    assert!(events.out().contains("contains ValueError"), "{}", events.shown());
    let log = taps.sandbox.lorchestra(&["runs", "logs", taps.sandbox.runs()[0].id()]).exits(0);
    for secret in ["MIIabc", "uvw", "987654321"] {
        for shown in [ended.err(), events.out(), log.out()] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
    }
    for shown in [ended.err(), events.out()] {
        assert!(!shown.contains("anna"), "{shown}");
    }
    assert!(log.out().contains("anna@example.com"), "the log has it: {}", log.shown());
}

/// More streams than a process may have open files.
#[test]
fn a_tap_may_have_more_streams_than_open_files() {
    let taps = Taps::new();
    let script = "import json\ndef say(**message): print(json.dumps(message))\n\
                  for n in range(400):\n    say(type='SCHEMA', stream=f's{n}', schema={}, key_properties=[])\n\
                  for n in range(800):\n    say(type='RECORD', stream=f's{n % 400}', record={'n': n})\n\
                  \x20   if n % 400 == 399: say(type='STATE', value={'n': n})\n";
    fs::write(taps.sandbox.path("many.py"), script).unwrap();
    let args = ["run-job", "meltano-ingest", "run_tap", "--tap", &taps.python, "--arg", "many.py", "--name", "many"];
    for run in 1..=2 {
        let ended = Running::start(taps.sandbox.command_by("ulimit -n 256", &args)).wait().exits(0);
        for stream in [0, 399] {
            let kept = lines(&taps.data(&format!("many/default/s{stream}.jsonl")));
            assert_eq!(kept.len(), 2 * run, "{}", ended.shown());
        }
    }
}

#[test]
fn a_run_killed_halfway_is_completed_by_the_next_without_duplicates() {
    let taps = Taps::new();
    for at in [7, 1015, 250_000] {
        let marker = taps.sandbox.path(&format!("at-{at}"));
        let config = json!({"upto": 300_000, "at": at, "then": "hang", "marker": marker});
        let mut running = taps.sandbox.start(&strs(&taps.count(&[], &[], &config)));
        let written = || fs::read_to_string(&marker).ok()?.parse::<u32>().ok();
        eventually("the tap has written and waits", || written().is_some());
        let pid = written().unwrap();
        let worker = running.children();
        running.signal(Signal::KILL);
        eventually("all processes have ended", || {
            running.has_ended() && !processes::is_alive(pid) && !worker.iter().any(|&w| processes::is_alive(w))
        });
    }
    taps.sandbox.lorchestra(&strs(&taps.count(&[], &[], &json!({"upto": 300_000})))).exits(0);
    assert_eq!(taps.numbers(), (1..=300_000).collect::<Vec<_>>());
    assert_eq!(taps.state(), json!({"n": 300_000}));
}

#[test]
fn a_file_removed_by_a_reader_starts_over_even_if_the_tap_fails() {
    let taps = Taps::new();
    taps.sandbox.lorchestra(&strs(&taps.count(&[], &[], &json!({"upto": 20})))).exits(0);
    fs::remove_file(taps.data("counter/default/numbers.jsonl")).unwrap();
    taps.sandbox.lorchestra(&strs(&taps.count(&[], &[], &json!({"upto": 40, "at": 25, "then": "die"})))).exits(1);
    assert_eq!((taps.numbers(), taps.state()), (Vec::new(), json!({"n": 20})));
    taps.sandbox.lorchestra(&strs(&taps.count(&[], &[], &json!({"upto": 40})))).exits(0);
    assert_eq!((taps.numbers(), taps.state()), ((21..=40).collect(), json!({"n": 40})));
}

#[test]
fn different_taps_run_at_once_and_the_same_tap_does_not() {
    let taps = Taps::new();
    let marker = taps.sandbox.path("at-work");
    let config = json!({"upto": 100, "at": 15, "then": "hang", "marker": marker});
    let first = taps.sandbox.start(&strs(&taps.count(&[], &[], &config)));
    eventually("the first run has started", || fs::read_to_string(&marker).is_ok_and(|pid| !pid.is_empty()));

    let config = json!({"upto": 30});
    taps.sandbox.lorchestra(&strs(&taps.count_as("other", &[], &[], &config))).exits(0);
    taps.sandbox.lorchestra(&strs(&taps.count(&[], &["--account", "anna"], &config))).exits(0);
    for name in ["other/default", "counter/anna"] {
        assert_eq!(lines(&taps.data(name).join("numbers.jsonl")).len(), 30, "{name}");
    }
    let same = taps.sandbox.lorchestra(&strs(&taps.count(&[], &[], &config))).exits(1);
    let says = "counter/default: another run is writing to this directory; wait for it to end, then run the job again\n";
    assert!(same.err().contains(says), "{}", same.shown());
    // The first one was not disturbed.
    first.signal(Signal::TERM);
    first.wait().exits(143);
    assert_eq!((taps.numbers(), taps.state()), ((1..=10).collect(), json!({"n": 10})));
}

#[test]
fn a_deadline_kills_a_tap_that_ignores_signals() {
    let taps = Taps::new();
    let marker = taps.sandbox.path("deaf");
    let config = json!({"upto": 100, "at": 15, "then": "deaf", "marker": marker});
    let ended = taps.sandbox.lorchestra(&strs(&taps.count(&["--timeout", "3s", "--grace", "8s"], &[], &config))).exits(124);
    assert_eq!(taps.sandbox.run().cause(), "timeout", "{}", ended.shown());
    let pid: u32 = fs::read_to_string(&marker).unwrap().parse().unwrap();
    assert!(!processes::is_alive(pid));
    assert_eq!((taps.numbers(), taps.state()), ((1..=10).collect(), json!({"n": 10})));
}

#[test]
fn a_full_disk_keeps_records_up_to_the_last_state() {
    let taps = Taps::new();
    let data = taps.sandbox.data();
    let Some(disks) = SmallDisks::mount(&taps.sandbox, &[(data.clone(), 400)]) else { return };
    let config = json!({"upto": 1000, "pad": 1000});
    let ended = disks.start(&taps.sandbox, &strs(&taps.count(&[], &[], &config))).wait().exits(1);
    assert!(ended.err().contains("No space left on device"), "{}", ended.shown());
    let on_disk = disks.path(&taps.data("counter/default"));
    let state: Value = serde_json::from_slice(&fs::read(on_disk.join("state.json")).unwrap()).unwrap();
    let kept = lines(&on_disk.join("numbers.jsonl")).len() as u64;
    assert_eq!(kept, state["state"]["n"].as_u64().unwrap_or(0), "{state}");
    assert!(kept < 1000 && kept.is_multiple_of(10), "{kept}");

    disks.remount(&data, "size=4m");
    disks.start(&taps.sandbox, &strs(&taps.count(&[], &[], &config))).wait().exits(0);
    let numbers: Vec<u64> = lines(&on_disk.join("numbers.jsonl")).iter().map(|line| line["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
}

/// The system's "not found" errors, and the real contents of an answer. Each error that mentions the log has a message there.
#[test]
fn errors_of_a_tap_are_diagnosed_from_its_output() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::with(&[Fixture::MeltanoIngest]);
    let deep = format!("{}1{}", r#"{"properties":{"a":"#.repeat(70), "}}".repeat(70));
    let schema = format!(r#"{{"type":"SCHEMA","stream":"deep","schema":{deep},"key_properties":[]}}"#);
    let loud = "#!/bin/sh\necho 'INFO starting'\necho '{\"streams\":[]}'\n";
    for (name, job, text, expected, logged) in [
        (
            "gone",
            "run_tap",
            "#!/opt/no/such/python -u\n",
            "the interpreter in its first line does not exist: /opt/no/such/python;",
            "",
        ),
        ("windows", "run_tap", "#!/bin/sh\r\necho\r\n", "its first line ends with a carriage return", ""),
        ("silent", "run_tap", "#!/bin/sh\necho >&2\nexit 3\n", "it wrote nothing to standard error", ""),
        ("deep", "run_tap", &format!("#!/bin/sh\necho '{schema}'\n"), "is nested deeper than 127 levels", "properties"),
        ("loud", "discover", loud, "a line before the catalog that is not JSON (see the log of this run)", "INFO starting"),
        ("mute", "discover", "#!/bin/sh\n", "it printed nothing for --discover; it wrote nothing to standard error", ""),
    ] {
        let path = sandbox.path(name);
        // Created by another process: forks in other tests could inherit the open file, which then could not be executed.
        let made = std::process::Command::new("sh").args(["-c", "printf %s \"$1\" > \"$0\""]).arg(&path).arg(text).status();
        assert!(made.unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let tap = path.display().to_string();
        let ended = sandbox.lorchestra(&["run-job", "meltano-ingest", job, "--tap", &tap]).exits(1);
        assert!(ended.err().contains(expected) && !ended.err().contains("no such program"), "{name}: {}", ended.shown());
        let run = sandbox.runs().remove(0);
        let log = sandbox.lorchestra(&["runs", "logs", run.id()]).exits(0);
        assert!(log.out().contains(logged) && (logged.is_empty() || !log.out().is_empty()), "{name}: {}", log.shown());
        assert_eq!(ended.err().contains("log of this run"), !logged.is_empty(), "{name}: {}", ended.shown());
    }
}
