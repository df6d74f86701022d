//! `doctor` finds each seeded fault, with a cause and a fix, and finds nothing on a healthy machine.

use lorchestra_tests::processes::{self, state_id};
use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::{Ended, Fixture, Running, Sandbox, eventually};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

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
    let dir = config(&sandbox).parent().unwrap().to_owned();
    mode(&dir, 0o777);
    let before = findings(&sandbox.lorchestra(&["doctor", "--json"]).exits(1));
    assert!(!more.exists() && before.iter().all(|(finding, _)| !finding.starts_with("fixed")), "{before:?}");
    let fixed = sandbox.lorchestra(&["doctor", "--fix", "--json"]).exits(1);
    let found = findings(&fixed);
    assert_eq!(found.iter().filter(|(finding, _)| finding.starts_with("fixed ")).count(), 5, "{found:?}");
    let errors: Vec<_> = found.iter().filter(|(finding, _)| finding.starts_with("error ")).collect();
    assert!(errors.len() == 1 && errors[0].0.contains("not-trusted"), "{errors:?}");
    assert!(more.is_dir() && sandbox.path("events").is_dir());
    let modes = [&config(&sandbox), &token, &dir].map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777);
    assert_eq!(modes, [0o644, 0o600, 0o755]);
    mode(&library(&sandbox), 0o644);
    sandbox.lorchestra(&["doctor", "--fix"]).exits(0);
}

/// Needs root, to give files away.
#[test]
fn a_configuration_of_another_user_is_found() {
    let sandbox = sandbox();
    sandbox.configure("");
    let (file, dir) = (config(&sandbox), config(&sandbox).parent().unwrap().to_owned());
    for at in [&file, &dir] {
        if !processes::is_root() {
            return;
        }
        std::os::unix::fs::chown(at, Some(1), None).unwrap();
        let found = findings(&sandbox.lorchestra(&["doctor", "--json"]).exits(1));
        let is_it = |(cause, fix): &(String, String)| cause.contains("belongs to user 1") && !fix.is_empty();
        assert!(found.iter().any(is_it), "{found:#?}");
        std::os::unix::fs::chown(at, Some(0), None).unwrap();
    }
    sandbox.lorchestra(&["doctor"]).exits(0);
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
        name: "a directory of the configuration that others may change",
        seed: |s| {
            s.configure("");
            mode(config(s).parent().unwrap(), 0o777);
        },
        finds: "error configuration: other users may change",
        fix: "chmod go-w",
    },
    Fault {
        name: "a plugins.lock that others may change",
        seed: |s| {
            s.configure("");
            fs::write(config(s).with_file_name("plugins.lock"), "").unwrap();
            mode(&config(s).with_file_name("plugins.lock"), 0o666);
        },
        finds: "plugins.lock, which pins libraries: any user may write to it",
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
        name: "an older copy of the store",
        seed: |s| {
            let [store, copy] = ["lorchestra.db", "copy.db"].map(|name| s.state().join(name));
            sql(s, "PRAGMA wal_checkpoint(TRUNCATE)");
            fs::copy(&store, &copy).unwrap();
            s.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
            ["db-wal", "db-shm"].iter().for_each(|end| fs::remove_file(store.with_extension(end)).unwrap());
            fs::rename(&copy, &store).unwrap();
        },
        finds: "error store: about 2 of the newest events are missing",
        fix: "repeat the runs",
    },
    Fault {
        name: "a spool of a run that has ended",
        seed: |s| fs::create_dir_all(s.state().join("spool").join(s.runs()[0].id()).join("1")).unwrap(),
        finds: "warning leftovers: left by runs that are over: 1 spool was removed",
        fix: "what kills lorchestra",
    },
    Fault {
        name: "more spools of runs that were never recorded than one command removes",
        seed: |s| {
            for n in 0..203 {
                let spool = s.state().join(format!("spool/0193a000-0000-7000-8000-{n:012}"));
                fs::create_dir_all(spool.join("1")).unwrap();
                fs::write(spool.join("lock"), "").unwrap();
            }
        },
        finds: "warning leftovers: 3 spools of runs that were never recorded in ",
        fix: "doctor --fix, which removes them",
    },
    Fault {
        name: "a destination without its directory",
        seed: |s| s.configure(&format!("[destinations.jsonl]\ndir = \"{}\"", s.arg("nowhere"))),
        finds: "error delivery: the directory ",
        fix: "events setup",
    },
    Fault {
        name: "a destination whose directory is a file",
        seed: |s| {
            fs::write(s.path("nowhere"), "").unwrap();
            s.configure(&format!("[destinations.jsonl]\ndir = \"{}\"", s.arg("nowhere")));
        },
        finds: "/nowhere is not a directory",
        fix: "choose a path other than",
    },
    Fault {
        name: "a secret that the job does not have",
        seed: |s| s.configure("[job.\"kit/advance\".secrets]\nnope = \"env:NOPE_X\"\n"),
        finds: "error secrets: ",
        fix: "its secrets are token",
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

/// Finds this with its fix, and `run-job` ends with 74 for the same reason.
#[track_caller]
fn cannot_record(doctor: &Ended, run_job: Ended, finds: &str, fix: &str) {
    let found = findings(doctor);
    let is_it = |(finding, its_fix): &(String, String)| {
        finding.starts_with("error state: the state directory ") && finding.contains(finds) && its_fix.contains(fix)
    };
    assert!(found.iter().any(is_it), "{finds}: {found:#?}");
    assert_eq!(doctor.code(), Some(1), "{}", doctor.shown());
    run_job.exits(74);
}

#[test]
fn a_state_directory_that_this_user_may_not_write_to_is_found() {
    let sandbox = Sandbox::unprivileged(&[Fixture::Misbehave]);
    let run_job = || sandbox.lorchestra(&["run-job", "misbehave", "noop"]);
    run_job().exits(0);
    assert!(findings(&sandbox.lorchestra(&["doctor", "--json"]).exits(0)).iter().all(|(found, _)| found.starts_with(EVERYWHERE)));
    for (name, closed, open) in [("spool", 0o500, 0o700), ("logs", 0o500, 0o700), ("lorchestra.db", 0o400, 0o600)] {
        let path = sandbox.state().join(name);
        mode(&path, closed);
        let doctor = sandbox.lorchestra(&["doctor", "--json"]);
        let shown = path.display().to_string();
        let right = if closed == 0o500 { "rwx" } else { "rw" };
        cannot_record(&doctor, run_job(), &format!("this user may not write to {shown}"), &format!("chmod u+{right} {shown}"));
        mode(&path, open);
    }
    // It does not exist, and cannot be created.
    let closed = sandbox.path("closed");
    fs::create_dir(&closed).unwrap();
    mode(&closed, 0o555);
    sandbox.configure(&format!("state_dir = \"{}/state\"", closed.display()));
    let doctor = sandbox.lorchestra(&["doctor", "--json"]);
    let found = findings(&doctor);
    let is_it = |(finding, _): &(String, String)| finding.starts_with("error state: ") && finding.contains("cannot be written");
    assert!(found.iter().any(is_it) && doctor.code() == Some(1), "{found:#?}");
    // Nor is there a place for the data of packages.
    sandbox.configure(&format!("data_dir = \"{}/data\"", closed.display()));
    let found = findings(&sandbox.lorchestra(&["doctor", "--json"]).exits(0));
    assert!(found.iter().any(|(finding, _)| finding.starts_with("warning host: jobs cannot keep data in ")), "{found:#?}");
    mode(&closed, 0o755);
}

/// Needs root, to take files away from the user.
#[test]
fn files_of_root_are_reported_once_with_a_hint_that_gives_away_no_plugin() {
    if !processes::is_root() {
        return;
    }
    let sandbox = Sandbox::unprivileged(&[Fixture::Misbehave]);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    // As sudo lorchestra plugins install leaves it.
    let share = sandbox.plugins().parent().unwrap().to_owned();
    let _ = fs::remove_dir_all(sandbox.data());
    std::os::unix::fs::chown(&share, Some(0), Some(0)).unwrap();
    mode(&share, 0o755);
    let found = findings(&sandbox.lorchestra(&["doctor", "--json"]));
    let data = found.iter().find(|(finding, _)| finding.contains("jobs cannot keep data in ")).expect("a finding");
    assert!(data.1.starts_with("as root: install -d ") && data.1.ends_with("lorchestra/data"), "{data:?}");
    // A directory for events that this user may not write to.
    let events = sandbox.path("events");
    fs::create_dir(&events).unwrap();
    mode(&events, 0o755);
    sandbox.configure(&format!("[destinations.jsonl]\ndir = \"{}\"", events.display()));
    let setup = sandbox.lorchestra(&["events", "setup"]).exits(69);
    let what = format!("error: cannot write to {0}: this user may not write to {0}", events.display());
    assert!(setup.err().starts_with(&what) && setup.err().contains("or set dir in [destinations.jsonl]"), "{}", setup.shown());
    let network = sandbox.lorchestra(&["doctor", "--network"]).exits(1);
    assert!(network.out().contains("✗ delivery: cannot write to "), "{}", network.shown());
    assert!(!network.out().contains("accepts events"), "{}", network.shown());
    // A configuration that this user may not read.
    mode(&config(&sandbox), 0o600);
    let listed = sandbox.lorchestra(&["runs", "list"]).exits(0);
    assert!(listed.out().contains("misbehave/noop") && listed.err().contains("Permission denied"), "{}", listed.shown());
}

#[test]
fn a_read_only_state_directory_is_found() {
    let sandbox = Sandbox::with_binary(&[Fixture::Misbehave]);
    // Not so small that doctor warns of it.
    let Some(disks) = SmallDisks::mount(&sandbox, &[(sandbox.state(), 400_000)]) else { return };
    let run = |args: &[&str]| disks.start(&sandbox, args).wait();
    run(&["run-job", "misbehave", "noop"]).exits(0);
    run(&["doctor"]).exits(0);
    disks.remount(&sandbox.state(), "ro");
    cannot_record(&run(&["doctor", "--json"]), run(&["run-job", "misbehave", "noop"]), "is mounted read-only", "findmnt -T");
    // The history is readable, and is examined.
    assert!(run(&["doctor"]).out().contains("✓ store: "));
    // One that does not exist there yet.
    sandbox.configure(&format!("state_dir = \"{}/new\"", sandbox.state().display()));
    cannot_record(&run(&["doctor", "--json"]), run(&["run-job", "misbehave", "noop"]), "is mounted read-only", "findmnt -T");
}

/// As after a run that was closed in a container, where its processes on the host could not be seen.
#[test]
fn processes_of_ended_runs_are_found_and_killed_only_with_fix() {
    let sandbox = sandbox();
    let run = sandbox.runs().remove(0);
    let alive = sandbox.start(&["run-job", "misbehave", "leave_daemon", "--stay", "--marker", &sandbox.arg("alive")]);
    eventually("the process is started", || sandbox.read("alive").ends_with('\n'));
    let of_alive: u32 = sandbox.read("alive").trim().parse().unwrap();
    let mut left = Command::new("sleep")
        .arg("300")
        .env("LORCHESTRA_RUN_ID", run.id())
        .env("LORCHESTRA_STATE_ID", state_id(&sandbox.state()))
        .spawn()
        .unwrap();
    let named = format!("{} (sleep) of run {}", left.id(), run.short());
    for _ in 0..2 {
        let found = findings(&sandbox.lorchestra(&["doctor", "--json"]).exits(0));
        let expected = format!("warning leftovers: 1 process of runs that are over still runs: {named}");
        assert!(found.contains(&(expected, "run lorchestra doctor --fix, which kills them".into())), "{found:#?}");
        assert!(processes::is_alive(left.id()));
    }
    let fixed = findings(&sandbox.lorchestra(&["doctor", "--fix", "--json"]).exits(0));
    assert!(fixed.contains(&(format!("fixed leftovers: killed 1 process: {named}"), String::new())), "{fixed:#?}");
    assert!(!processes::is_alive(left.id()) && processes::is_alive(of_alive), "only that of the run that has ended");
    left.wait().unwrap();
    // A run whose supervisor is killed: recovery kills what is left of it, which is reported.
    alive.signal(Signal::KILL);
    drop(alive);
    let found = findings(&sandbox.lorchestra(&["doctor", "--json"]).exits(0));
    let was_killed = |(finding, _): &(String, String)| finding.starts_with("warning leftovers: left by runs that are over: ");
    assert!(found.iter().any(was_killed) && !processes::is_alive(of_alive), "{found:#?}");
    let found = findings(&sandbox.lorchestra(&["doctor", "--json"]).exits(0));
    assert!(!found.iter().any(|(finding, _)| finding.contains("leftovers")), "{found:#?}");
}

#[test]
fn spools_that_recovery_leaves_are_removed_with_fix() {
    let sandbox = sandbox();
    let many = FAULTS.iter().find(|fault| fault.name.starts_with("more spools")).unwrap();
    (many.seed)(&sandbox);
    let fixed = findings(&sandbox.lorchestra(&["doctor", "--fix", "--json"]).exits(0));
    assert!(fixed.contains(&("fixed leftovers: removed 3 spools of runs that are over".into(), String::new())), "{fixed:#?}");
    assert_eq!(fs::read_dir(sandbox.state().join("spool")).unwrap().count(), 0);
    // One that cannot be removed: its disk is read-only.
    let sandbox = Sandbox::with_binary(&[Fixture::Misbehave]);
    let Some(disks) = SmallDisks::mount(&sandbox, &[(sandbox.state(), 4000)]) else { return };
    let run = |args: &[&str]| disks.start(&sandbox, args).wait();
    run(&["run-job", "misbehave", "noop"]).exits(0);
    let listed = run(&["runs", "list", "--json"]).exits(0).json_lines("lorchestra.run/1");
    fs::create_dir_all(disks.path(&sandbox.state()).join("spool").join(listed[0]["run_id"].as_str().unwrap()).join("1")).unwrap();
    disks.remount(&sandbox.state(), "ro");
    let found = findings(&run(&["doctor", "--fix", "--json"]));
    let is_it = |(finding, fix): &(String, String)| {
        finding.starts_with("warning leftovers: cannot remove the spool of run ") && fix.contains("findmnt -T")
    };
    assert!(found.iter().any(is_it), "{found:#?}");
}
