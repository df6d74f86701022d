//! No plugin code runs in the process that the user started, and none at all for listing or inspecting: shown by a library whose
//! constructor writes its process's pid to a file. `zoo/loading.rs` covers what a constructor can do to the process that loads it.

use lorchestra_tests::{Fixture, Sandbox};

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Constructor, Fixture::Misbehave])
}

/// Commands that only inspect; `built` is the path of the built library.
fn looks(built: &str) -> [Vec<&str>; 16] {
    [
        vec!["jobs", "list"],
        vec!["jobs", "list", "--json"],
        vec!["jobs", "list", "constructor"],
        vec!["jobs", "show", "constructor", "loaded"],
        vec!["jobs", "show", "constructor", "loaded", "--json"],
        vec!["run-job", "--dry-run", "constructor", "loaded"],
        vec!["run-job", "--dry-run", "--json", "constructor", "loaded"],
        vec!["run-job", "constructor", "loaded", "--help"],
        vec!["plugins", "list"],
        vec!["plugins", "list", "--json"],
        vec!["plugins", "lock"],
        vec!["plugins", "lock", "--json", "constructor"],
        vec!["run-job", "--dry-run", "--locked", "constructor", "loaded"],
        vec!["plugins", "install", built],
        vec!["plugins", "remove", "constructor"],
        vec!["plugins", "install", "--json", built],
    ]
}

#[test]
fn inspecting_runs_no_plugin_code() {
    let sandbox = sandbox();
    let built = Fixture::Constructor.built().display().to_string();
    // A run of another package does not load it either.
    for args in looks(&built).into_iter().chain([vec!["run-job", "misbehave", "noop"]]) {
        let ended = sandbox.lorchestra_with(&[("CONSTRUCTOR_MARKER", &sandbox.arg("marker"))], &args).exits(0);
        assert_eq!(sandbox.read("marker"), "", "{}", ended.shown());
    }
}

/// Whether a line names the library, or a copy of it.
fn names_plugin(line: &str) -> bool {
    line.contains("libconstructor.so") || line.contains("memfd:lorchestra-plugin")
}

/// The same as seen by the kernel: neither the library nor a copy is mapped. `None` if strace is missing or not permitted.
fn mapped(sandbox: &Sandbox, args: &[&str]) -> Option<Vec<String>> {
    let lorchestra = sandbox.command(args);
    let mut strace = std::process::Command::new("strace");
    strace.env_clear().envs(lorchestra.get_envs().filter_map(|(name, value)| Some((name, value?))));
    strace.args(["-f", "-y", "-e", "trace=mmap", "-o"]).arg(sandbox.path("trace")).arg(lorchestra.get_program()).args(args);
    let output = strace.output().ok()?;
    let trace = sandbox.read("trace");
    // The command maps its own libraries: a trace without any is invalid.
    let works = output.status.success() && trace.contains("libc.so.6");
    works.then(|| trace.lines().filter(|line| names_plugin(line)).map(str::to_owned).collect())
}

/// The same as seen by the dynamic loader: which files any process of the command asked it to load.
fn loaded(sandbox: &Sandbox, args: &[&str]) -> Vec<String> {
    let dir = sandbox.path("loader");
    std::fs::create_dir_all(&dir).expect("a directory");
    let debug = [("LD_DEBUG", "files"), ("LD_DEBUG_OUTPUT", &*dir.join("of").display().to_string())];
    sandbox.lorchestra_with(&debug, args).exits(0);
    let files = std::fs::read_dir(&dir).expect("a directory");
    let text: String = files.map(|file| std::fs::read_to_string(file.expect("an entry").path()).expect("text")).collect();
    assert!(text.contains("libc.so.6"), "it reports every library: {text}");
    std::fs::remove_dir_all(&dir).expect("a directory of ours");
    // The worker loads its copy by the number of a descriptor.
    let of_plugin = |line: &&str| line.contains("dynamically loaded") && (names_plugin(line) || line.contains("/proc/self/fd/"));
    text.lines().filter(of_plugin).map(str::to_owned).collect()
}

#[test]
fn inspecting_maps_no_plugin() {
    let sandbox = sandbox();
    let run = ["run-job", "constructor", "loaded"];
    let built = Fixture::Constructor.built().display().to_string();
    assert!(!loaded(&sandbox, &run).is_empty(), "a run loads it");
    for args in looks(&built) {
        assert_eq!(loaded(&sandbox, &args), Vec::<String>::new(), "{args:?}");
    }
    // A library can be mapped without the loader, so the kernel's answer counts if it is available.
    let Some(of_a_run) = mapped(&sandbox, &run) else { return };
    assert!(!of_a_run.is_empty(), "a run maps it");
    for args in looks(&built) {
        assert_eq!(mapped(&sandbox, &args), Some(Vec::new()), "{args:?}");
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
    // It is also the process in which the job ran.
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
    assert!(!lorchestra_tests::processes::is_alive(pids[0]), "its process has ended");
    assert!(sandbox.runs().is_empty(), "it is not recorded as a run");
}
