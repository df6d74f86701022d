//! Every page of docs/guides/runbooks is a script: its `console` blocks are executed on a machine with the fault, and print what the page
//! shows. Ids, times, durations, sizes and addresses may differ.
//!
//! `LORCHESTRA_TEST_UPDATE_PAGES=1` writes the output into the pages instead.

use lorchestra_tests::bigquery::site::{Site, Write};
use lorchestra_tests::pages::{ConsoleStep, console_steps};
use lorchestra_tests::sandbox::copy_all;
use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::{Fixture, Sandbox, corrupt, eventually, processes};
use regex_lite::Regex;
use rustix::process::Signal;
use std::any::Any;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// A machine on which a page is executed.
struct Machine {
    sandbox: Sandbox,
    /// What must exist until the end: servers, running commands.
    _kept: Box<dyn Any>,
    disks: Option<SmallDisks>,
}

impl Machine {
    fn new(fixtures: &[Fixture]) -> Self {
        Self::with(Sandbox::with(fixtures), Box::new(()))
    }

    fn with(sandbox: Sandbox, kept: Box<dyn Any>) -> Self {
        fs::set_permissions(sandbox.home(), fs::Permissions::from_mode(0o755)).unwrap();
        // The directories of the pages.
        for dir in ["srv", "backup", "bin"] {
            fs::create_dir_all(sandbox.path(dir)).unwrap();
        }
        std::os::unix::fs::symlink(lorchestra_tests::built::lorchestra(), sandbox.path("bin/lorchestra")).unwrap();
        Self { sandbox, _kept: kept, disks: None }
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.sandbox.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn run(&self, args: &[&str], code: i32) {
        self.sandbox.lorchestra(args).exits(code);
    }

    /// The directories of the pages, and those of this machine.
    fn places(&self) -> [(String, String); 5] {
        let place = |page: &str, here: &str| (page.to_owned(), self.sandbox.arg(here));
        [
            place("/home/new", "new"),
            place("/home/anna", "home"),
            place("/srv/", "srv/"),
            place("/backup/", "backup/"),
            ("/usr/local/bin/lorchestra".to_owned(), lorchestra_tests::built::lorchestra().display().to_string()),
        ]
    }

    /// Executes a command of a page. Returns everything that it prints, as it would look on the page's machine.
    fn execute(&self, command: &str) -> String {
        let mut command = format!("exec 2>&1\n{command}");
        for (page, here) in self.places() {
            command = command.replace(&page, &here);
        }
        let plain = self.sandbox.command(&[]);
        let mut shell = Command::new("sh");
        if let Some(disks) = &self.disks {
            let inside = disks.command(&self.sandbox, &[]);
            let args: Vec<_> = inside.get_args().collect();
            shell = Command::new(inside.get_program());
            shell.args(&args[..args.len() - 1]).arg("sh");
        }
        shell.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.args(["-c", &command]).current_dir(self.sandbox.home());
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.sandbox.arg("bin"));
        let output = shell.env("PATH", path).env("NEW_TOKEN", "a-new-token").output().unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        for (page, here) in self.places() {
            text = text.replace(&here, &page);
        }
        text
    }
}

/// A page in pieces: text between `console` blocks, and the steps of each block.
fn parse(page: &str) -> Vec<(String, Vec<ConsoleStep>)> {
    let mut pieces = Vec::new();
    let mut rest = page;
    while let Some((text, after)) = rest.split_once("```console\n") {
        let (block, after) = after.split_once("```\n").expect("a block that ends");
        pieces.push((text.to_owned(), console_steps(&block.lines().collect::<Vec<_>>())));
        rest = after;
    }
    pieces.push((rest.to_owned(), Vec::new()));
    pieces
}

/// Replaces what differs between machines and days.
fn normalized(text: &str) -> String {
    const RULES: [(&str, &str); 12] = [
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID"),
        (r"\b[0-9a-f]{64}\b", "SHA256"),
        (r"\b[0-9a-f]{8}\b", "ID"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"\b\d\d-\d\d \d\d:\d\d\b", "TIME"),
        (r"\b(\d+m)?\d+(\.\d+)?[smhd]\b", "DURATION"),
        (r"\b\d+(\.\d+)? (B|[KMGT]iB|bytes)\b", "SIZE"),
        (r"\b\d+ jobs\b", "N jobs"),
        (r"\b\d{5,}\b", "N"),
        (r"\bpid \d+", "pid PID"),
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        (r" +", " "),
    ];
    let mut text = text.to_owned();
    for (pattern, by) in RULES {
        text = Regex::new(pattern).unwrap().replace_all(&text, by).into_owned();
    }
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Executes a page and compares it with its own outputs.
#[expect(clippy::disallowed_methods, reason = "a variable of the tests, not of lorchestra")]
fn follow(name: &str, machine: &Machine) {
    let path = lorchestra_tests::built::workspace().join(format!("docs/guides/runbooks/{name}.md"));
    let page = fs::read_to_string(&path).unwrap();
    let record = std::env::var_os("LORCHESTRA_TEST_UPDATE_PAGES").is_some();
    let (mut new, mut differences) = (String::new(), Vec::new());
    for (text, steps) in parse(&page) {
        new.push_str(&text);
        if steps.is_empty() {
            continue;
        }
        new.push_str("```console\n");
        for ConsoleStep { command, output, .. } in steps {
            let printed = machine.execute(&command);
            new.push_str(&format!("$ {command}\n{printed}"));
            if normalized(&printed) != normalized(&output) {
                differences.push(format!("$ {command}\n--- on the page\n{output}--- now\n{printed}"));
            }
        }
        new.push_str("```\n");
    }
    if record {
        fs::write(&path, new).unwrap();
        return;
    }
    assert!(differences.is_empty(), "{}:\n{}", path.display(), differences.join("\n"));
}

/// The jobs that `status` reports as failing or stale.
fn needing_attention(machine: &Machine) -> Vec<String> {
    let args = ["status", "--json"];
    let command = machine.disks.as_ref().map_or_else(|| machine.sandbox.command(&args), |d| d.command(&machine.sandbox, &args));
    let ended = lorchestra_tests::Running::start(command).wait();
    let value = ended.json("lorchestra.status/1");
    let bad = value["jobs"].as_array().unwrap().iter().filter(|job| job["status"] == "failing" || job["status"] == "stale");
    bad.map(|job| job["job"].as_str().unwrap().to_owned()).collect()
}

fn mailbox(machine: &Machine) -> PathBuf {
    let sample = lorchestra_tests::built::workspace().join("example-plugins/ingester/sample/takeout.mbox");
    machine.file("backup/takeout.mbox", fs::read(sample).unwrap())
}

#[test]
fn every_page_has_a_test() {
    let dir = lorchestra_tests::built::workspace().join("docs/guides/runbooks");
    let source = include_str!("runbooks.rs");
    let mut pages = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        assert!(source.contains(&format!("follow(\"{name}\"")), "{name} is not executed");
        pages += 1;
    }
    assert!(pages >= 10, "{pages} pages");
}

#[test]
fn every_morning() {
    let machine = Machine::new(&[Fixture::Ingester, Fixture::Misbehave]);
    machine.sandbox.configure("[job.\"canonizer/canonicalize_email\"]\nexpect_every = \"1d\"\n");
    let source = mailbox(&machine).display().to_string();
    machine.run(&["run-job", "ingester", "extract_gmail", "--source", &source], 0);
    machine.run(&["run-job", "misbehave", "fail"], 1);
    follow("every-morning", &machine);
}

#[test]
fn plugin_does_not_load() {
    let machine = Machine::new(&[Fixture::Kit, Fixture::Misbehave]);
    fs::set_permissions(machine.sandbox.plugins().join("libkit.so"), fs::Permissions::from_mode(0o666)).unwrap();
    let library = machine.sandbox.plugins().join("libmisbehave.so");
    let good = fs::read(&library).unwrap();
    machine.file("srv/release/libmisbehave.so", &good);
    fs::write(&library, &good[..good.len() / 2]).unwrap();
    follow("plugin-does-not-load", &machine);
    machine.run(&["run-job", "misbehave", "noop"], 0);
    machine.run(&["run-job", "kit", "kinds"], 0);
}

#[test]
fn job_hangs() {
    let machine = Machine::new(&[Fixture::Misbehave]);
    let command = "echo connecting to mail.example.org; exec sleep 600";
    let running = machine.sandbox.start(&["run-job", "misbehave", "shell", "--command", command]);
    eventually("output", || machine.sandbox.lorchestra(&["runs", "logs", "last"]).out().contains("connecting"));
    follow("job-hangs", &machine);
    running.wait().exits(143);
    assert_eq!(machine.sandbox.run().cause(), "cancelled");
}

#[test]
fn job_fails_every_night() {
    let machine = Machine::new(&[Fixture::Ingester]);
    let source = mailbox(&machine);
    let usual = machine.file("srv/mail/takeout.mbox", fs::read(source).unwrap());
    let args = ["run-job", "-q", "ingester", "extract_gmail", "--source", usual.to_str().unwrap(), "--since", "last:-2d"];
    machine.run(&args, 0);
    fs::remove_file(&usual).unwrap();
    machine.run(&args, 1);
    machine.run(&args, 1);
    follow("job-fails-every-night", &machine);
    assert!(needing_attention(&machine).is_empty());
}

#[test]
fn host_died() {
    let machine = Machine::new(&[Fixture::Misbehave]);
    let file = machine.sandbox.arg("srv/ready");
    let marker = machine.sandbox.arg("marker");
    let args = ["run-job", "misbehave", "wait_for_file", "--marker", &marker, "--file", &file];
    let running = machine.sandbox.start(&args);
    eventually("the job is entered", || machine.sandbox.read("marker").ends_with('\n'));
    // Both at once, as when the power fails.
    let workers = running.children();
    running.signal(Signal::KILL);
    workers.into_iter().for_each(|worker| processes::signal(worker, Signal::KILL));
    drop(running);
    follow("host-died", &machine);
    assert!(needing_attention(&machine).is_empty());
}

#[test]
fn nothing_arrives_in_bigquery() {
    let Site { sandbox, fake, table } = Site::without_table(Write::Storage);
    let machine = Machine::with(sandbox, Box::new(()));
    let run = machine.sandbox.lorchestra(&["run-job", "-q", "--delivery-timeout", "0s", "misbehave", "numbered", "--count", "3"]);
    run.exits(0);
    follow("nothing-arrives-in-bigquery", &machine);
    assert_eq!(fake.row_count(&table), 6, "three events of the job, its start and its end, and that of events setup");
}

/// A million with `LORCHESTRA_TEST_BACKLOG=1000000`, as on the page.
#[test]
#[expect(clippy::disallowed_methods, reason = "a variable of the tests, not of lorchestra")]
fn backlog_of_a_million_events() {
    let count = std::env::var("LORCHESTRA_TEST_BACKLOG").unwrap_or_else(|_| "20000".to_owned());
    let Site { sandbox, fake, table } = Site::new(Write::Storage);
    let machine = Machine::with(sandbox, Box::new(()));
    machine.run(&["events", "setup"], 0);
    fake.go_down();
    machine.run(&["run-job", "-q", "--delivery-timeout", "0s", "misbehave", "numbered", "--count", &count], 0);
    fake.come_up();
    follow("backlog-of-a-million-events", &machine);
    assert_eq!(
        fake.row_count(&table),
        count.parse::<u64>().unwrap() + 5,
        "also the starts and ends of two runs, and the event of events setup"
    );
}

#[test]
fn roll_back_a_plugin() {
    let machine = Machine::new(&[Fixture::Misbehave]);
    let library = machine.sandbox.plugins().join("libmisbehave.so");
    machine.run(&["run-job", "-q", "misbehave", "noop"], 0);
    machine.file("srv/releases/1/libmisbehave.so", fs::read(&library).unwrap());
    // A new release that was built wrongly.
    fs::write(&library, corrupt::manifest("\"version\":\"0.3.0\"", "\"version\":\"0.4.0\"")).unwrap();
    machine.run(&["run-job", "-q", "misbehave", "noop"], 126);
    follow("roll-back-a-plugin", &machine);
    assert!(needing_attention(&machine).is_empty());
}

#[test]
fn rotate_credentials() {
    let machine = Machine::new(&[Fixture::Kit]);
    machine
        .sandbox
        .configure(&format!("[job.\"kit/advance\".secrets]\ntoken = \"file:{}\"\n", machine.sandbox.arg("srv/secrets/token")));
    let token = machine.file("srv/secrets/token", "an-old-token\n");
    fs::set_permissions(token, fs::Permissions::from_mode(0o600)).unwrap();
    machine.file("srv/done", "");
    follow("rotate-credentials", &machine);
    assert_eq!(machine.sandbox.read("srv/secrets/token"), "a-new-token\n");
    assert_eq!(machine.sandbox.all_runs().iter().map(|run| run.state().to_owned()).collect::<Vec<_>>(), ["completed", "refused"]);
}

#[test]
fn move_to_a_new_machine() {
    let machine = Machine::new(&[Fixture::Misbehave]);
    machine.sandbox.configure("");
    machine.run(&["run-job", "-q", "misbehave", "windowed", "--until", "2024-03-01"], 0);
    follow("move-to-a-new-machine", &machine);
    let environment = [("HOME", machine.sandbox.arg("new"))];
    let runs =
        machine.sandbox.lorchestra_with(&environment.each_ref().map(|(n, v)| (*n, v.as_str())), &["runs", "list", "--json"]);
    assert_eq!(runs.exits(0).json_lines("lorchestra.run/1").len(), 2, "the old run and the new one");
}

#[test]
fn restore_a_backup() {
    let machine = Machine::new(&[Fixture::Misbehave]);
    machine.run(&["run-job", "-q", "misbehave", "windowed", "--until", "2024-02-01"], 0);
    copy_all(&machine.sandbox.state(), &machine.sandbox.path("backup/lorchestra"));
    for name in ["lorchestra.db", "lorchestra.db-wal"] {
        let path = machine.sandbox.state().join(name);
        if path.exists() {
            let size = fs::metadata(&path).unwrap().len();
            fs::write(&path, vec![0x5a; usize::try_from(size).unwrap().max(4096)]).unwrap();
        }
    }
    follow("restore-a-backup", &machine);
    assert!(needing_attention(&machine).is_empty());
}

#[test]
fn table_deleted() {
    let Site { sandbox, fake, table } = Site::new(Write::Storage);
    let machine = Machine::with(sandbox, Box::new(()));
    machine.run(&["run-job", "-q", "misbehave", "numbered", "--count", "3"], 0);
    fake.drop_table(&table);
    machine.run(&["run-job", "-q", "--delivery-timeout", "0s", "misbehave", "noop"], 0);
    follow("table-deleted", &machine);
    assert_eq!(fake.row_count(&table), 3, "the events that waited, and that of events setup");
}

#[test]
fn upgrade() {
    let machine = Machine::new(&[Fixture::Misbehave]);
    machine.run(&["run-job", "-q", "misbehave", "noop"], 0);
    follow("upgrade", &machine);
    assert!(machine.sandbox.path("backup/lorchestra/lorchestra.db").exists());
}

#[test]
fn disk_full() {
    let mut machine = Machine::new(&[Fixture::Misbehave]);
    let state = machine.sandbox.state();
    let Some(disks) = SmallDisks::mount(&machine.sandbox, &[(state.clone(), 8000)]) else { return };
    for _ in 0..3 {
        disks.start(&machine.sandbox, &["run-job", "-q", "misbehave", "print", "--lines", "1000"]).wait().exits(0);
    }
    let full = disks.fill(&state);
    fs::rename(&full, full.with_file_name("core.1234")).unwrap();
    machine.disks = Some(disks);
    follow("disk-full", &machine);
    assert!(needing_attention(&machine).is_empty());
}
