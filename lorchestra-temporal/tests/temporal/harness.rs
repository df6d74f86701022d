//! A server, nodes with a worker each, and a directory that they share.
//!
//! Everything that is started is killed when its value is dropped. Waiting fails after a minute.

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// The target directory of the main workspace.
fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target")
}

/// A program or library of the main workspace, of the dev build or the one in LORCHESTRA_TEST_PROFILE (`release`).
pub(crate) fn built(name: &str) -> PathBuf {
    let profile = std::env::var("LORCHESTRA_TEST_PROFILE").unwrap_or_else(|_| "debug".to_owned());
    let file = target().join(profile).join(name);
    assert!(file.is_file(), "{} is missing: run cargo xtask test temporal", file.display());
    file
}

pub(crate) fn lorchestra() -> PathBuf {
    built("lorchestra")
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(PATIENCE, what, holds);
}

/// Waits for longer.
#[track_caller]
pub(crate) fn within(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < until, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process that does not outlive the test.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        Self(command.spawn().unwrap())
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("a process ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A stopped process is killed too.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
    assert!(status.is_ok());
}

/// A process and what it has started, by /proc.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let parents: Vec<(u32, u32)> = pids().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut at = 0;
    while at < found.len() {
        let this = found[at];
        found.extend(parents.iter().filter(|(_, parent)| *parent == this).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

fn pids() -> Vec<u32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A Temporal server with its database.
#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    dir: TempDir,
    running: Option<Running>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { port, dir: tempfile::tempdir().unwrap(), running: None };
        server.restart();
        server
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.running.take().unwrap().kill();
    }

    /// Starts it again with an empty database, on the same port.
    pub(crate) fn lose_database(&mut self) {
        self.kill();
        for entry in fs::read_dir(self.dir.path()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("database") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        self.restart();
    }

    /// Starts it again with its database.
    pub(crate) fn restart(&mut self) {
        let mut command = Self::cli();
        let port = self.port.to_string();
        let database = self.dir.path().join("database");
        command.args(["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "error", "--port", &port]);
        command.arg("--db-filename").arg(database).env("HOME", self.dir.path());
        self.running = Some(Running::start(&mut command, &self.dir.path().join("log")));
        eventually("the server listens", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        let nobody = ["watch", "--once", "--group", "none", "--address", &self.address()].map(str::to_owned);
        eventually("the server answers", || temporal(&nobody).status.code() == Some(66));
    }

    fn cli() -> Command {
        Command::new(lorchestra_test_setup::venv::ensure_temporal(&target()).unwrap().join("bin/temporal"))
    }

    /// Runs Temporal's own command line.
    #[track_caller]
    pub(crate) fn ask(&self, args: &[&str]) -> String {
        let output = Self::cli().args(args).args(["--address", &self.address()]).env("HOME", self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Runs `lorchestra-temporal`.
pub(crate) fn temporal(args: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lorchestra-temporal")).args(args).env_clear().output().unwrap()
}

/// A host: a home directory with plugins, configuration, state and events.
#[derive(Debug)]
pub(crate) struct Node {
    home: TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        let node = Self { home: tempfile::tempdir().unwrap() };
        let plugins = node.path(".local/share/lorchestra/plugins");
        fs::create_dir_all(&plugins).unwrap();
        fs::copy(built("libmisbehave.so"), plugins.join("libmisbehave.so")).unwrap();
        fs::create_dir_all(node.path(".config/lorchestra")).unwrap();
        fs::create_dir_all(node.path("events")).unwrap();
        let config = format!("[destinations.jsonl]\ndir = {:?}\n", node.path("events"));
        fs::write(node.path(".config/lorchestra/config.toml"), config).unwrap();
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Also delivers events to BigQuery.
    pub(crate) fn deliver_to(&self, warehouse: &Warehouse) {
        let file = self.path(".config/lorchestra/config.toml");
        let config = fs::read_to_string(&file).unwrap();
        fs::write(file, format!("{config}{}", warehouse.config)).unwrap();
    }

    /// A command of lorchestra that finds `lorchestra-temporal` and a server.
    pub(crate) fn command(&self, server: &Server, args: &[&str]) -> Command {
        let mut command = Command::new(lorchestra());
        command.args(args).env_clear().env("HOME", self.home.path()).env("TEMPORAL_ADDRESS", server.address());
        command.env("LORCHESTRA_TEMPORAL", env!("CARGO_BIN_EXE_lorchestra-temporal")).stdin(Stdio::null());
        command
    }

    /// Starts such a command, with its output in a file.
    pub(crate) fn start(&self, command: &mut Command, log: &str) -> Running {
        Running::start(command, &self.path(log))
    }

    /// A group, as `backfill show` prints it.
    #[track_caller]
    pub(crate) fn group(&self, server: &Server) -> Value {
        let output = self.command(server, &["backfill", "show", "last", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    #[track_caller]
    pub(crate) fn lorchestra(&self, args: &[&str]) -> String {
        let output = Command::new(lorchestra()).args(args).env_clear().env("HOME", self.home.path()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a worker; waits until it polls.
    pub(crate) fn worker(&self, server: &Server, queue: &str, jobs: u32) -> Running {
        let before = self.log().matches("of task queue").count();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorchestra-temporal"));
        command.args(["worker", "--task-queue", queue, "--jobs", &jobs.to_string(), "--address", &server.address()]);
        command.arg("--lorchestra").arg(lorchestra()).env_clear().env("HOME", self.home.path());
        let worker = Running::start(&mut command, &self.path("worker.log"));
        eventually("the worker polls", || self.log().matches("of task queue").count() > before);
        worker
    }

    /// What its workers have printed.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("worker.log")).unwrap_or_default()
    }

    /// Processes of this host, of workers or jobs: those with its home directory.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let wanted = format!("HOME={}", self.home.path().display());
        let has_home = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
        };
        pids().into_iter().filter(has_home).collect()
    }

    pub(crate) fn runs(&self) -> Vec<Value> {
        let listed = self.lorchestra(&["runs", "list", "--json", "--limit", "100000"]);
        let runs = listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        runs.filter(|run| run["state"] != "claimed").collect()
    }

    /// Everything that was delivered from here.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut events = Vec::new();
        for entry in fs::read_dir(self.path("events")).unwrap().flatten().filter(|entry| entry.path().extension().is_some()) {
            let text = fs::read_to_string(entry.path()).unwrap();
            events.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        }
        events
    }
}

/// The effective view over several hosts: how many completed runs each window has, by start and account.
pub(crate) fn effective(nodes: &[Node]) -> BTreeMap<String, usize> {
    let events: Vec<Value> = nodes.iter().flat_map(Node::events).collect();
    effective_of(&events)
}

fn effective_of(events: &[Value]) -> BTreeMap<String, usize> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let ended = |event: &Value| event["event_type"] == "job.completed" || event["event_type"] == "job.claimed";
    let completed: BTreeSet<String> = events.iter().filter(|event| ended(event)).map(|event| text(event, "run_id")).collect();
    let mut windows = BTreeMap::new();
    for event in events.iter().filter(|event| event["event_type"] == "window.seen") {
        if completed.contains(&text(event, "run_id")) {
            // BigQuery returns the payload as text.
            let payload = match &event["payload"] {
                Value::String(text) => serde_json::from_str(text).unwrap(),
                payload => payload.clone(),
            };
            *windows.entry(format!("{} {}", payload["since"], payload["account"])).or_insert(0) += 1;
        }
    }
    windows
}

/// The fake BigQuery of the main workspace, as a process. The network to it can be cut.
#[derive(Debug)]
pub(crate) struct Warehouse {
    running: Running,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    config: String,
    dir: TempDir,
}

impl Warehouse {
    pub(crate) fn start() -> Self {
        let mut command = Command::new(built("fake-bigquery"));
        command.args(["--table", "p1.lorchestra.events"]).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let (commands, mut answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let at = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap().to_owned();
        let config = format!(
            "[destinations.bigquery]\nproject = \"p1\"\ndataset = \"lorchestra\"\ntable = \"events\"\n\
             endpoint = \"{}\"\nstorage_endpoint = \"{}\"\n",
            at("REST="),
            at("GRPC="),
        );
        Self { running: Running(child), commands, answers, config, dir: tempfile::tempdir().unwrap() }
    }

    /// Connections are refused, until `is_up`.
    pub(crate) fn network(&mut self, is_up: bool) {
        self.ask(if is_up { "up" } else { "down" });
    }

    /// The effective view of its table.
    pub(crate) fn effective(&mut self) -> BTreeMap<String, usize> {
        let file = self.dir.path().join("rows");
        self.ask(&format!("rows {}", file.display()));
        let text = fs::read_to_string(file).unwrap();
        effective_of(&text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>())
    }

    fn ask(&mut self, what: &str) {
        assert!(self.running.0.try_wait().unwrap().is_none(), "it has ended");
        writeln!(self.commands, "{what}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), "done", "{what}");
    }
}

/// A group, with its plan and the directory of its claims.
#[derive(Debug)]
pub(crate) struct Group {
    shared: TempDir,
    pub(crate) id: String,
    address: String,
}

impl Group {
    /// Plans `misbehave/windowed` for a number of days, with flags.
    pub(crate) fn plan(server: &Server, node: &Node, days: u32, flags: &[&str]) -> Self {
        let shared = tempfile::tempdir().unwrap();
        fs::create_dir(shared.path().join("claims")).unwrap();
        let plan = shared.path().join("plan.jsonl").display().to_string();
        let first: u32 = 10_957;
        let days = ["date", "-u", "-d"].map(str::to_owned).into_iter().chain([format!("@{}", (first + days) * 86_400)]);
        let days: Vec<String> = days.chain(["+%Y-%m-%d".to_owned()]).collect();
        let to = String::from_utf8(Command::new(&days[0]).args(&days[1..]).output().unwrap().stdout).unwrap();
        let range = ["--from", "2000-01-01", "--to", to.trim(), "--every", "1d", "--plan", &plan, "--grace", "2s"];
        node.lorchestra(&[&["backfill", "misbehave", "windowed"][..], &range, flags].concat());
        let header: Value = serde_json::from_str(fs::read_to_string(&plan).unwrap().lines().next().unwrap()).unwrap();
        Self { id: header["group"].as_str().unwrap().into(), address: server.address(), shared }
    }

    /// Changes the windows of a plan, and its checksum.
    pub(crate) fn change(&self, change: impl Fn(&mut Value)) {
        let text = fs::read_to_string(self.path("plan.jsonl")).unwrap();
        let (header, lines) = text.split_once('\n').unwrap();
        let mut header: Value = serde_json::from_str(header).unwrap();
        let sum = |text: &str| Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut changed = String::new();
        for (index, line) in lines.lines().enumerate() {
            let mut member: Value = serde_json::from_str(line).unwrap();
            change(&mut member["spec"]);
            let label = member["label"].as_str().unwrap();
            member["check"] = sum(&format!("{} {index} {label}\n{}", self.id, member["spec"])).into();
            changed.push_str(&format!("{member}\n"));
        }
        header["sha256"] = sum(&changed).into();
        fs::write(self.path("plan.jsonl"), format!("{header}\n{changed}")).unwrap();
    }

    /// Uses another server from now on.
    pub(crate) fn move_to(&mut self, server: &Server) {
        self.address = server.address();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.shared.path().join(name)
    }

    /// Runs a command of `lorchestra-temporal` for this group.
    pub(crate) fn temporal(&self, args: &[&str]) -> Output {
        let own = ["--group", &self.id, "--address", &self.address];
        temporal(&args.iter().chain(&own).map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    /// Submits it, with a heartbeat timeout of 6 s.
    #[track_caller]
    pub(crate) fn submit(&self, queue: &str, flags: &[&str]) -> Value {
        let (plan, claims) = (self.path("plan.jsonl"), self.path("claims"));
        let paths = ["--plan", plan.to_str().unwrap(), "--claims", claims.to_str().unwrap(), "--task-queue", queue, "--json"];
        let limits = ["--heartbeat-timeout", "6s", "--max-backoff", "1s"];
        let output = self.temporal(&[&["submit"][..], &paths, &limits, flags].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits for its end; returns the result.
    #[track_caller]
    pub(crate) fn result(&self, patience: Duration) -> Value {
        let mut output = None;
        within(patience, "the group ends", || {
            let collected = self.temporal(&["collect", "--json"]);
            let has_ended = matches!(collected.status.code(), Some(0 | 1)) && !collected.stdout.is_empty();
            output = Some(collected);
            has_ended
        });
        serde_json::from_slice(&output.unwrap().stdout).unwrap()
    }

    /// The state of each window, as `watch` prints it.
    #[track_caller]
    pub(crate) fn windows(&self) -> Vec<Value> {
        let output = self.temporal(&["watch", "--json", "--once"]);
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn claims(&self) -> usize {
        fs::read_dir(self.path("claims").join(&self.id)).map_or(0, Iterator::count)
    }
}
