//! `doctor` finds each seeded fault, with a cause and a fix, and finds nothing on a healthy machine.

use lorchestra_tests::{Ended, Fixture, Running, Sandbox, eventually};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Kit]);
    fs::set_permissions(sandbox.home(), fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn config(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.home().join(".config/lorchestra/config.toml")
}

fn library(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.plugins().join("libmisbehave.so")
}

fn sql(sandbox: &Sandbox, statement: &str) {
    let db = rusqlite::Connection::open(sandbox.state().join("lorchestra.db")).unwrap();
    db.execute_batch(statement).unwrap();
}

/// Findings that are errors or warnings, as `level check: cause` and the fix.
fn findings(ended: &Ended) -> Vec<(String, String)> {
    let value = ended.json("lorchestra.doctor/1");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = value["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] != "ok");
    all.map(|f| (format!("{} {}: {}", text(&f["level"]), text(&f["check"]), text(&f["cause"])), text(&f["fix"]))).collect()
}

/// The finding of every sandbox: cron does not find its binary.
const EVERYWHERE: &str = "warning host: cron and systemd do not search";

/// Only what needs no decision: nothing is removed or overwritten, and a library that others could change stays refused.
#[test]
fn what_needs_no_decision_is_fixed() {
    let sandbox = sandbox();
    let token = sandbox.path("token");
    fs::write(&token, "secret").unwrap();
    let more = sandbox.path("more");
    sandbox.configure(&format!(
        "plugin_dirs = [\"{}\"]\n[destinations.jsonl]\ndir = \"{}\"\n[job.\"kit/advance\".secrets]\ntoken = \"file:{}\"\n",
        more.display(),
        sandbox.arg("events"),
        token.display()
    ));
    for path in [&config(&sandbox), &token, &library(&sandbox)] {
        mode(path, 0o666);
    }
    let before = findings(&sandbox.lorchestra(&["doctor", "--json"]).exits(1));
    assert!(!more.exists() && before.iter().all(|(finding, _)| !finding.starts_with("fixed")), "{before:?}");
    let fixed = sandbox.lorchestra(&["doctor", "--fix", "--json"]).exits(1);
    let found = findings(&fixed);
    assert_eq!(found.iter().filter(|(finding, _)| finding.starts_with("fixed ")).count(), 4, "{found:?}");
    let errors: Vec<_> = found.iter().filter(|(finding, _)| finding.starts_with("error ")).collect();
    assert!(errors.len() == 1 && errors[0].0.contains("not-trusted"), "{errors:?}");
    assert!(more.is_dir() && sandbox.path("events").is_dir());
    let modes = [&config(&sandbox), &token].map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777);
    assert_eq!(modes, [0o644, 0o600]);
    mode(&library(&sandbox), 0o644);
    sandbox.lorchestra(&["doctor", "--fix"]).exits(0);
}

struct Fault {
    name: &'static str,
    seed: fn(&Sandbox),
    /// Text that the cause must contain.
    finds: &'static str,
    /// Text that the fix must contain.
    fix: &'static str,
}

const FAULTS: &[Fault] = &[
    Fault { name: "no TOML", seed: |s| s.configure("a = = b"), finds: "error configuration: ", fix: "config keys" },
    Fault {
        name: "unknown key",
        seed: |s| s.configure("lokced = true"),
        finds: "unknown key `lokced`",
        fix: "did you mean `locked`?",
    },
    Fault {
        name: "configuration that others may change",
        seed: |s| {
            s.configure("");
            mode(&config(s), 0o666);
        },
        finds: "error configuration: other users may change",
        fix: "chmod go-w",
    },
    Fault {
        name: "a hook that is not a command",
        seed: |s| s.configure("on_failure = \"if then\""),
        finds: "error configuration: on_failure is not a shell command",
        fix: "fix on_failure",
    },
    Fault {
        name: "a truncated library",
        seed: |s| {
            let bytes = fs::read(library(s)).unwrap();
            fs::write(library(s), &bytes[..bytes.len() / 2]).unwrap();
        },
        finds: "error plugins: ",
        fix: "",
    },
    Fault { name: "a library that others may change", seed: |s| mode(&library(s), 0o666), finds: "not-trusted", fix: "chmod" },
    Fault { name: "a package twice", seed: |s| drop(s.install(Fixture::Misbehave, "libcopy.so")), finds: "duplicate", fix: "" },
    Fault {
        name: "a directory that is not there",
        seed: |s| s.configure("plugin_dirs = [\"/nowhere\"]"),
        finds: "error plugins: /nowhere",
        fix: "",
    },
    Fault {
        name: "no package",
        seed: |s| {
            fs::remove_dir_all(s.plugins()).unwrap();
            fs::create_dir(s.plugins()).unwrap();
        },
        finds: "error plugins: no usable package in",
        fix: "plugins install",
    },
    Fault {
        name: "locked without a lock file",
        seed: |s| s.configure("locked = true"),
        finds: "only locked plugins may run",
        fix: "plugins lock",
    },
    Fault {
        name: "a lock file that is none",
        seed: |s| {
            s.configure("locked = true");
            fs::write(config(s).with_file_name("plugins.lock"), "what").unwrap();
        },
        finds: "error plugins: ",
        fix: "plugins lock",
    },
    Fault {
        name: "a job that is not there",
        seed: |s| s.configure("[job.\"misbehave/nop\"]\ntimeout = \"1h\""),
        finds: "warning jobs: [job.\"misbehave/nop\"] in config.toml: misbehave has no job nop",
        fix: "did you mean noop?",
    },
    Fault {
        name: "a package that is not there",
        seed: |s| s.configure("[job.\"other/noop\"]\ntimeout = \"1h\""),
        finds: "there is no package other",
        fix: "install the package",
    },
    Fault {
        name: "a variable that is not set",
        seed: |s| s.configure("[job.\"kit/leak\".secrets]\ntoken = \"env:NOWHERE\""),
        finds: "warning secrets: [job.\"kit/leak\".secrets] token: NOWHERE is not set here",
        fix: "file:PATH",
    },
    Fault {
        name: "a secret file that is not there",
        seed: |s| s.configure("[job.\"kit/leak\".secrets]\ntoken = \"file:/nowhere\""),
        finds: "error secrets: ",
        fix: "create /nowhere",
    },
    Fault {
        name: "a secret that others may read",
        seed: |s| {
            s.configure("[job.\"kit/leak\".secrets]\ntoken = \"file:token\"");
            let token = config(s).with_file_name("token");
            fs::write(&token, "x").unwrap();
            mode(&token, 0o644);
        },
        finds: "other users may read",
        fix: "chmod 600",
    },
    Fault {
        name: "a file in the place of the state directory",
        seed: |s| {
            fs::remove_dir_all(s.state()).unwrap();
            fs::write(s.state(), "").unwrap();
        },
        finds: "error state: ",
        fix: "move",
    },
    Fault {
        name: "a store that is none",
        seed: |s| {
            for file in ["lorchestra.db-wal", "lorchestra.db-shm"] {
                let _ = fs::remove_file(s.state().join(file));
            }
            fs::write(s.state().join("lorchestra.db"), "no database, but text of some length").unwrap();
        },
        finds: "error state: ",
        fix: "",
    },
    Fault {
        name: "a newer store",
        seed: |s| sql(s, "PRAGMA user_version = 99"),
        finds: "error state: ",
        fix: "upgrade lorchestra",
    },
    Fault {
        name: "a damaged index",
        seed: |s| {
            sql(s, "PRAGMA wal_checkpoint(TRUNCATE)");
            let db = rusqlite::Connection::open(s.state().join("lorchestra.db")).unwrap();
            let page: i64 =
                db.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'runs_by_key'", [], |row| row.get(0)).unwrap();
            let size: i64 = db.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap();
            drop(db);
            let path = s.state().join("lorchestra.db");
            let mut bytes = fs::read(&path).unwrap();
            let from = usize::try_from((page - 1) * size).unwrap();
            bytes[from + 8..from + 64].fill(0xff);
            fs::write(&path, bytes).unwrap();
        },
        finds: "damaged",
        fix: ".recover",
    },
    Fault {
        name: "a run of tomorrow",
        seed: |s| sql(s, "UPDATE runs SET started_at = started_at + 86400000000, ended_at = ended_at + 86400000000"),
        finds: "warning clock: run ",
        fix: "timedatectl",
    },
    Fault {
        name: "a job that fails",
        seed: |s| drop(s.lorchestra(&["run-job", "misbehave", "fail"]).exits(1)),
        finds: "warning jobs: 1 job failed or was refused",
        fix: "lorchestra status",
    },
    Fault {
        name: "a run without a supervisor",
        seed: |s| {
            let running: Running = s.start(&["run-job", "misbehave", "wait"]);
            eventually("it is recorded", || s.runs().len() == 2);
            running.signal(Signal::KILL);
            drop(running);
        },
        finds: "warning state: 1 run no longer had a supervisor and was closed now",
        fix: "--cause abandoned",
    },
    Fault {
        name: "a destination without its directory",
        seed: |s| s.configure(&format!("[destinations.jsonl]\ndir = \"{}\"", s.arg("nowhere"))),
        finds: "error delivery: the directory ",
        fix: "events setup",
    },
    Fault {
        name: "events that are not delivered",
        seed: |s| {
            s.configure(&format!("[destinations.jsonl]\ndir = \"{}\"", s.arg("nowhere")));
            s.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
        },
        finds: "events are not in",
        fix: "events flush",
    },
    Fault {
        name: "a second history",
        seed: |s| s.configure(&format!("state_dir = \"{}\"", s.arg("elsewhere"))),
        finds: "also has a run history",
        fix: "state_dir",
    },
];

#[test]
fn a_healthy_machine_has_no_findings() {
    let sandbox = sandbox();
    let ended = sandbox.lorchestra(&["doctor", "--json"]).exits(0);
    let found = findings(&ended);
    assert!(found.iter().all(|(finding, _)| finding.starts_with(EVERYWHERE)), "{found:?}");
    let shown = sandbox.lorchestra(&["doctor"]).exits(0);
    assert!(shown.out().contains("✓ plugins: kit, misbehave") && shown.out().contains("✓ store: "), "{}", shown.shown());
}

#[test]
fn each_seeded_fault_is_found_with_its_fix() {
    let mut missed = Vec::new();
    for Fault { name, seed, finds, fix } in FAULTS {
        let sandbox = sandbox();
        seed(&sandbox);
        let mut ended = sandbox.lorchestra(&["doctor", "--json"]);
        let found = findings(&ended);
        let is_it =
            |(finding, its_fix): &(String, String)| finding.contains(finds) && its_fix.contains(fix) && !its_fix.is_empty();
        if !found.iter().any(is_it) {
            missed.push(format!("{name}: {found:#?}"));
        }
        let has_error = found.iter().any(|(finding, _)| finding.starts_with("error"));
        assert_eq!(ended.code(), Some(i32::from(has_error)), "{name}: {}", ended.shown());
        ended = sandbox.lorchestra(&["doctor"]);
        assert!(ended.out().lines().count() <= 24, "{name} fits a screen: {}", ended.shown());
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert!(FAULTS.len() >= 25);
}

#[test]
fn a_low_file_limit_and_an_invalid_home_are_found() {
    let sandbox = sandbox();
    let few = Running::start(sandbox.command_by("ulimit -n 40", &["doctor", "--json"])).wait();
    assert!(
        findings(&few).iter().any(|(finding, _)| finding.starts_with("error host: this process may have 40 files")),
        "{}",
        few.shown()
    );
    let relative = sandbox.lorchestra_with(&[("HOME", "here")], &["doctor", "--json"]).exits(1);
    assert!(findings(&relative)[0].0.contains("not an absolute path"), "{}", relative.shown());
}
