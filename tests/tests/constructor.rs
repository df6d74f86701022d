//! No plugin code runs in the process that a person started, and none at all for looking: shown by a library whose constructor
//! writes its process's pid into a file. What a constructor can do to the process that loads it: `zoo/loading.rs`.

use lorchestra_tests::{Fixture, Sandbox};

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Constructor, Fixture::Misbehave])
}

#[test]
fn looking_runs_no_plugin_code() {
    let sandbox = sandbox();
    let built = Fixture::Constructor.built().display().to_string();
    let looks: [&[&str]; 17] = [
        &["jobs", "list"],
        &["jobs", "list", "--json"],
        &["jobs", "list", "constructor"],
        &["jobs", "show", "constructor", "loaded"],
        &["jobs", "show", "constructor", "loaded", "--json"],
        &["run-job", "--dry-run", "constructor", "loaded"],
        &["run-job", "--dry-run", "--json", "constructor", "loaded"],
        &["run-job", "constructor", "loaded", "--help"],
        &["run-job", "misbehave", "noop"],
        &["plugins", "list"],
        &["plugins", "list", "--json"],
        &["plugins", "lock"],
        &["plugins", "lock", "--json", "constructor"],
        &["run-job", "--dry-run", "--locked", "constructor", "loaded"],
        &["plugins", "install", &built],
        &["plugins", "remove", "constructor"],
        &["plugins", "install", "--json", &built],
    ];
    for args in looks {
        let ended = sandbox.lorchestra_with(&[("CONSTRUCTOR_MARKER", &sandbox.arg("marker"))], args).exits(0);
        assert_eq!(sandbox.read("marker"), "", "{}", ended.shown());
    }
}

/// The same, as the kernel sees it: nothing of a library, or of a copy, is mapped. Where strace is there and may look.
#[test]
fn looking_maps_no_plugin() {
    let sandbox = sandbox();
    let trace = |args: &[&str]| -> Option<Vec<String>> {
        let lorchestra = sandbox.command(args);
        let mut strace = std::process::Command::new("strace");
        strace.env_clear().envs(lorchestra.get_envs().filter_map(|(name, value)| Some((name, value?))));
        strace.args(["-f", "-y", "-e", "trace=mmap", "-o"]).arg(sandbox.path("trace")).arg(lorchestra.get_program()).args(args);
        let output = strace.output().ok()?;
        let trace = sandbox.read("trace");
        // It maps its own libraries: a trace without any is none.
        let works = output.status.success() && trace.contains("libc.so.6");
        let of_plugin = |line: &&str| line.contains("libconstructor.so") || line.contains("memfd:lorchestra-plugin");
        works.then(|| trace.lines().filter(of_plugin).map(str::to_owned).collect())
    };
    let Some(of_a_run) = trace(&["run-job", "constructor", "loaded"]) else { return };
    assert!(!of_a_run.is_empty(), "a run maps it");
    let built = Fixture::Constructor.built().display().to_string();
    for args in [
        &["jobs", "list"][..],
        &["jobs", "list", "--json"],
        &["jobs", "show", "constructor", "loaded"],
        &["run-job", "--dry-run", "constructor", "loaded"],
        &["run-job", "constructor", "loaded", "--help"],
        &["plugins", "list"],
        &["plugins", "lock"],
        &["run-job", "--dry-run", "--locked", "constructor", "loaded"],
        &["plugins", "install", &built],
        &["plugins", "remove", "constructor"],
        &["plugins", "install", &built],
    ] {
        assert_eq!(trace(args), Some(Vec::new()), "{args:?}");
    }
}

#[test]
fn bad_parameters_run_no_plugin_code() {
    let sandbox = sandbox();
    let args = ["run-job", "constructor", "loaded", "--nothing", "1"];
    sandbox.lorchestra_with(&[("CONSTRUCTOR_MARKER", &sandbox.arg("marker"))], &args).exits(2);
    assert_eq!(sandbox.read("marker"), "");
}

#[test]
fn a_run_loads_the_library_once_in_another_process() {
    let sandbox = sandbox();
    let mut command = sandbox.command(&["run-job", "constructor", "loaded"]);
    command.env("CONSTRUCTOR_MARKER", sandbox.path("marker"));
    let running = lorchestra_tests::Running::start(command);
    let started = running.pid();
    running.wait().exits(0);
    let marker = sandbox.read("marker");
    let pids: Vec<u32> = marker.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 1, "loaded once: {pids:?}");
    assert_ne!(pids[0], started, "not in the process that was started");
    assert_ne!(pids[0], std::process::id());
    // It is the process in which the job ran, too.
    let events = sandbox.whole_events_of(&sandbox.run());
    assert_eq!(events[1].payload()["pid"], pids[0]);
}

#[test]
fn a_check_loads_the_library_once_in_another_process() {
    let sandbox = sandbox();
    let library = sandbox.plugins().join("libconstructor.so").display().to_string();
    let mut command = sandbox.command(&["plugins", "check", &library]);
    command.env("CONSTRUCTOR_MARKER", sandbox.path("marker"));
    let running = lorchestra_tests::Running::start(command);
    let started = running.pid();
    running.wait().exits(0);
    let pids: Vec<u32> = sandbox.read("marker").lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 1, "loaded once: {pids:?}");
    assert_ne!(pids[0], started, "not in the process that was started");
    assert!(!lorchestra_tests::processes::is_alive(pids[0]), "its process is thrown away");
    assert!(sandbox.runs().is_empty(), "it was no run");
}
