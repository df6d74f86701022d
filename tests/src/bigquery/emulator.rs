//! A real BigQuery emulator as a child process with its own ports: `bqemulator`, or `local-bigquery`, which needs Python 3.13. They serve
//! REST, the Storage Write API and SQL to any client; they are lenient where the [fake](super::fake) is strict.
//!
//! It ends with this process, however that ends: its stdin is a pipe of ours, and it exits when the pipe closes. So all tests of a binary
//! can share one emulator ([`shared`]), each with its own dataset.

use lorchestra_test_setup::venv;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use tempfile::TempDir;

/// The project of its tables.
const PROJECT: &str = "p1";

/// Starts the emulator as its own command does, with a thread that watches stdin. The system chooses the ports, which are printed in the
/// log. Avro is disabled, because it is not needed and would be downloaded at each start.
const MAIN: &str = "
import os, sys, threading
def watch():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=watch, daemon=True).start()
from bqemulator.storage.engine import DuckDBEngine
DuckDBEngine._load_format_extensions = lambda self: None
from bqemulator.cli import main
sys.argv = ['bqemulator', *sys.argv[1:]]
main()
";

/// The same for the second emulator. It has no lock around the check of an offset and the insertion of the rows, so that an append that is
/// sent again while the first one is in progress would be executed twice, which BigQuery never does: here it has one.
const SECOND_MAIN: &str = "
import argparse, json, os, pathlib, socket, sys, threading
def watch():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=watch, daemon=True).start()
options = argparse.ArgumentParser()
options.add_argument('--rest-port', type=int)
options.add_argument('--grpc-port', type=int)
options.add_argument('--project')
options.add_argument('--data-dir', type=pathlib.Path)
options = options.parse_args()
from local_bigquery.settings import settings
settings.default_project_id, settings.data_dir = options.project, options.data_dir
from local_bigquery.grpc import server, write
one, append = threading.Lock(), write._append
def locked(*args):
    with one:
        return append(*args)
write._append = locked
import uvicorn
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('127.0.0.1', options.rest_port))
_, port = server.start('127.0.0.1', options.grpc_port)
print(json.dumps({'event': 'rest.listen', 'port': listener.getsockname()[1]}), flush=True)
print(json.dumps({'event': 'grpc.listen', 'port': port}), flush=True)
uvicorn.Server(uvicorn.Config('local_bigquery:app', log_level='warning')).run(sockets=[listener])
";

/// Which emulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bqemulator,
    LocalBigquery,
}

/// A running emulator: killed, with its process group, when dropped.
#[derive(Debug)]
pub struct Emulator {
    kind: Kind,
    child: Child,
    rest: u16,
    grpc: u16,
    /// Its log, and other files it writes.
    place: TempDir,
    datasets: AtomicU32,
}

/// Creates the venv if it is missing; see [`venv::ensure`].
///
/// # Panics
/// If it cannot be created.
pub fn ensure_venv() -> PathBuf {
    venv::ensure(&crate::built::target()).unwrap_or_else(|error| panic!("{error}"))
}

/// The emulator of this test binary, for one test at a time, started on first use: 3 to 5 seconds.
///
/// One at a time, because this version stops responding permanently when queries meet the writes of another client (observed in two of
/// three runs of four concurrent tests on an otherwise idle machine).
///
/// # Panics
/// If it cannot be started.
pub fn shared() -> Turn {
    static SHARED: OnceLock<Emulator> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed while it held the lock has not harmed the others.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Turn { emulator: SHARED.get_or_init(|| Emulator::start(&ensure_venv())), _turn: turn }
}

/// The right to use the emulator, until dropped.
#[derive(Debug)]
pub struct Turn {
    emulator: &'static Emulator,
    _turn: MutexGuard<'static, ()>,
}

impl std::ops::Deref for Turn {
    type Target = Emulator;

    fn deref(&self) -> &Emulator {
        self.emulator
    }
}

impl Emulator {
    /// Starts one, and returns when it responds.
    ///
    /// # Panics
    /// If it does not start; the message includes its log.
    pub fn start(venv: &Path) -> Self {
        let place = tempfile::tempdir().expect("a directory for the emulator");
        let (child, rest, grpc) = launch(Kind::Bqemulator, venv, place.path(), [0, 0], &[]);
        let emulator = Self { kind: Kind::Bqemulator, child, rest, grpc, place, datasets: AtomicU32::new(0) };
        emulator.wait_for_answer();
        emulator
    }

    /// Starts the second emulator, whose tables survive [`Emulator::restart`]. Its venv is that of [`venv::second_emulator`].
    ///
    /// # Panics
    /// If it does not start; the message includes its log.
    pub fn start_second(venv: &Path) -> Self {
        let place = tempfile::tempdir().expect("a directory for the emulator");
        let (child, rest, grpc) = launch(Kind::LocalBigquery, venv, place.path(), [0, 0], &[]);
        let emulator = Self { kind: Kind::LocalBigquery, child, rest, grpc, place, datasets: AtomicU32::new(0) };
        emulator.wait_for_answer();
        emulator
    }

    /// Starts one with tables in files, so that they survive [`Emulator::restart`].
    ///
    /// # Panics
    /// If it does not start; the message includes its log.
    pub fn start_persistent(venv: &Path) -> Self {
        let mut emulator = Self::start(venv);
        emulator.restart(venv);
        emulator
    }

    /// Kills it, as a crash of the machine would, and restarts it on the same ports. Tables survive if it was started with files; streams
    /// are gone.
    ///
    /// # Panics
    /// If it does not start; the message includes its log.
    pub fn restart(&mut self, venv: &Path) {
        self.kill();
        let data = self.place.path().join("data").display().to_string();
        let persistent = ["--persistent", "--data-dir", &data];
        let more: &[&str] = if self.kind == Kind::Bqemulator { &persistent } else { &[] };
        (self.child, self.rest, self.grpc) = launch(self.kind, venv, self.place.path(), [self.rest, self.grpc], more);
        self.wait_for_answer();
    }

    fn wait_for_answer(&self) {
        crate::eventually("the emulator responds", || self.ask("GET", "/bigquery/v2/projects/p1/datasets", None).is_ok());
    }

    fn kill(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // An error means that it has ended.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// `http://127.0.0.1:PORT`: the value for `BIGQUERY_EMULATOR_HOST`; the API is under `/bigquery/v2`.
    pub fn rest_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.rest)
    }

    /// `http://127.0.0.1:PORT` of the Storage Write API.
    pub fn grpc_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// The project of a request that names none.
    pub fn project(&self) -> &'static str {
        PROJECT
    }

    /// Its output so far.
    pub fn log(&self) -> String {
        fs::read(self.place.path().join("log")).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// Creates a dataset that no other test uses, and returns its id.
    ///
    /// # Panics
    /// If the emulator refuses.
    pub fn own_dataset(&self) -> String {
        let dataset = format!("d{}", self.datasets.fetch_add(1, Ordering::Relaxed));
        self.create_dataset(&dataset);
        dataset
    }

    /// Creates a dataset with this id.
    ///
    /// # Panics
    /// If the emulator refuses, for example because it exists.
    pub fn create_dataset(&self, dataset: &str) {
        self.must("POST", "/datasets", Some(&json!({"datasetReference": {"projectId": PROJECT, "datasetId": dataset}})));
    }

    /// Creates a table; `resource` is the body of tables.insert, without its reference.
    ///
    /// # Panics
    /// If the emulator refuses.
    pub fn create_table(&self, dataset: &str, table: &str, resource: &Value) {
        let mut resource = resource.clone();
        resource["tableReference"] = json!({"projectId": PROJECT, "datasetId": dataset, "tableId": table});
        self.must("POST", &format!("/datasets/{dataset}/tables"), Some(&resource));
    }

    /// Creates a table with the columns of an event.
    ///
    /// # Panics
    /// If the emulator refuses.
    pub fn create_event_table(&self, dataset: &str, table: &str) {
        self.create_table(dataset, table, &json!({"schema": {"fields": super::fake::event_columns()}}));
    }

    /// Inserts rows, as tabledata.insertAll takes them.
    ///
    /// # Panics
    /// If the emulator refuses any.
    pub fn insert(&self, dataset: &str, table: &str, rows: &[Map<String, Value>]) {
        for some in rows.chunks(500) {
            let rows: Vec<Value> = some.iter().map(|row| json!({ "json": row })).collect();
            let path = format!("/datasets/{dataset}/tables/{table}/insertAll");
            let answer = self.must("POST", &path, Some(&json!({ "rows": rows })));
            assert!(answer["insertErrors"].as_array().is_none_or(Vec::is_empty), "{answer}");
        }
    }

    /// Returns the rows of a query, by column: numbers and booleans as such, everything else as text, null as null.
    ///
    /// # Panics
    /// If the emulator refuses, or does not respond within ten seconds.
    pub fn rows(&self, sql: &str) -> Vec<Value> {
        let mut page = self.must("POST", "/queries", Some(&json!({"query": sql, "useLegacySql": false, "timeoutMs": 10_000})));
        let job = page["jobReference"]["jobId"].as_str().unwrap_or_default().to_owned();
        let mut rows = Vec::new();
        loop {
            assert_eq!(page["jobComplete"], true, "{sql}: not done: {page}");
            let fields: Vec<&Value> = page["schema"]["fields"].as_array().into_iter().flatten().collect();
            for row in page["rows"].as_array().into_iter().flatten() {
                let cells = fields.iter().zip(row["f"].as_array().into_iter().flatten());
                let named =
                    cells.map(|(field, cell)| (field["name"].as_str().unwrap_or_default().to_owned(), typed(field, &cell["v"])));
                rows.push(named.collect::<Map<_, _>>().into());
            }
            let Some(next) = page["pageToken"].as_str() else { return rows };
            page = self.must("GET", &format!("/queries/{job}?pageToken={next}"), None);
        }
    }

    /// Sends a request for something below the project.
    fn must(&self, verb: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.ask(verb, &format!("/bigquery/v2/projects/{PROJECT}{path}"), body);
        answer.unwrap_or_else(|error| panic!("{verb} {path}: {error}\nThe emulator's log ends with:\n{}", self.end_of_log()))
    }

    fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// In a separate thread, because the caller may be inside a runtime, where blocking on another one is not possible.
    fn ask(&self, verb: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let url = format!("{}{path}", self.rest_endpoint());
        let asking = async {
            let http = reqwest::Client::builder().no_proxy().timeout(crate::DEADLINE).build()?;
            let verb = reqwest::Method::from_bytes(verb.as_bytes()).unwrap_or_default();
            let mut request = http.request(verb, url);
            if let Some(body) = body {
                request = request.json(body);
            }
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
        };
        let on_its_own = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
            runtime.block_on(asking).map_err(|error| error.to_string())
        };
        let answer = std::thread::scope(|scope| scope.spawn(on_its_own).join());
        let (status, text) = answer.map_err(|_| "the request panicked".to_owned())??;
        if !status.is_success() {
            return Err(format!("{status}: {text}"));
        }
        serde_json::from_str(&text).map_err(|error| format!("{status}, {error}: {text}"))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the process on these ports (0: any free one), and waits until it listens. Returns the ports of REST and of gRPC.
fn launch(kind: Kind, venv: &Path, place: &Path, ports: [u16; 2], more: &[&str]) -> (Child, u16, u16) {
    let path = place.join("log");
    let log = File::create(&path).expect("the emulator's log");
    let errors = log.try_clone().expect("the log twice");
    let mut command = Command::new(venv.join("bin/python"));
    match kind {
        Kind::Bqemulator => command
            .args(["-c", MAIN, "start", "--rest-host", "127.0.0.1", "--grpc-host", "127.0.0.1"])
            .args(["--log-format", "json"]),
        Kind::LocalBigquery => command.args(["-c", SECOND_MAIN, "--data-dir"]).arg(place.join("data")),
    };
    let [rest, grpc] = ports.map(|port| port.to_string());
    let mut child = command
        .args(["--project", PROJECT, "--rest-port", &rest, "--grpc-port", &grpc])
        .args(more)
        .current_dir(place)
        .env("HOME", venv.join("home"))
        .env("PYTHONNOUSERSITE", "1")
        .env_remove("PYTHONPATH")
        .env_remove("PYTHONHOME")
        .env_remove("BIGQUERY_EMULATOR_HOST")
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .expect("the emulator's python starts");
    let (mut ended, mut rest, mut grpc) = (None, None, None);
    let log = || fs::read(&path).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default();
    crate::eventually("the emulator listens, or ends", || {
        ended = child.try_wait().expect("the emulator is our child");
        let log = log();
        (rest, grpc) = (port(&log, "rest.listen"), port(&log, "grpc.listen"));
        ended.is_some() || (rest.is_some() && grpc.is_some())
    });
    assert!(ended.is_none(), "the emulator ended with {}:\n{}", ended.unwrap_or_default(), log());
    (child, rest.unwrap_or_default(), grpc.unwrap_or_default())
}

/// Returns the port that the log reports with this event.
fn port(log: &str, event: &str) -> Option<u16> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut events = lines.filter(|line| line["event"] == event);
    events.find_map(|line| line["port"].as_u64()).and_then(|port| u16::try_from(port).ok())
}

/// REST returns everything as text.
fn typed(field: &Value, value: &Value) -> Value {
    let Some(text) = value.as_str() else { return value.clone() };
    let parsed = match field["type"].as_str().unwrap_or_default() {
        "INTEGER" | "INT64" => text.parse::<i64>().ok().map(Value::from),
        "FLOAT" | "FLOAT64" => text.parse::<f64>().ok().map(Value::from),
        "BOOLEAN" | "BOOL" => text.parse::<bool>().ok().map(Value::from),
        _ => None,
    };
    parsed.unwrap_or_else(|| value.clone())
}
