//! Compatibility promises (docs/explanation/compatibility.md): plugins built with other profiles run, and JSON keeps its keys.
//! `lorchestra-plugin-api/tests/next_revision.rs` tests that a host of the next ABI revision runs plugins of this one; `zoo/files.rs` has
//! plugins of newer, older and diverged revisions.

use lorchestra_tests::{Fixture, Sandbox, corrupt, eventually};
use rustix::process::Signal;

/// Optimized, linked as one unit, stripped: the manifest is the same, and panics are still caught.
#[test]
fn a_library_linked_as_one_unit_works() {
    let sandboxes = [Fixture::Misbehave, Fixture::ShippedMisbehave].map(|fixture| Sandbox::with(&[fixture]));
    let shown = sandboxes
        .each_ref()
        .map(|sandbox| sandbox.lorchestra(&["jobs", "show", "misbehave", "typed"]).exits(0).snapshot(sandbox));
    assert_eq!(shown[0], shown[1]);
    let size = |fixture: Fixture| std::fs::metadata(fixture.built()).unwrap().len();
    assert!(size(Fixture::ShippedMisbehave) < size(Fixture::Misbehave), "it is another build");

    let sandbox = &sandboxes[1];
    for (args, code, cause, words) in [
        (&["fail"][..], 1, "error", "No such file or directory"),
        (&["panic_now"], 1, "panic", "lib.rs:"),
        (&["panic_with_a_number"], 1, "panic", "panicked at "),
        (&["panic_in_drop"], 1, "panic", "dropped"),
        (&["abort"], 1, "signal", "SIGABRT"),
        (&["null"], 1, "signal", "SIGSEGV"),
        (&["overflow"], 1, "signal", "stack overflow"),
        (&["hijack", "--other", &sandbox.arg("other")], 1, "spool", "descriptor"),
    ] {
        let ended = sandbox.lorchestra(&[&["run-job", "misbehave"], args].concat()).exits(code);
        let run = sandbox.runs().remove(0);
        assert_eq!(run.cause(), cause, "{}", ended.shown());
        assert!(run.message().contains(words), "{}", run.message());
        sandbox.whole_events_of(&run);
    }
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "1000"]).exits(0);
    assert_eq!(sandbox.numbers_of(&sandbox.runs()[0]), (0..1000).collect::<Vec<_>>());
}

#[test]
fn a_library_optimized_for_size_works() {
    let sandbox = Sandbox::with(&[Fixture::ShippedConstructor]);
    let marker = sandbox.arg("marker");
    let environment = [("CONSTRUCTOR_MARKER", &*marker)];
    sandbox.lorchestra_with(&environment, &["run-job", "constructor", "loaded"]).exits(0);
    assert_eq!(sandbox.read("marker").lines().count(), 1, "its constructor ran once");
    assert_eq!(sandbox.whole_events_of(&sandbox.run()).len(), 3);
    for fault in ["abort", "panic"] {
        let environment = [("CONSTRUCTOR_MARKER", &*marker), ("CONSTRUCTOR_FAULT", fault)];
        sandbox.lorchestra_with(&environment, &["run-job", "constructor", "loaded"]).exits(126);
    }
}

/// Keys of each schema as first published: more may be added, none may be removed. A key of an object in a list or object is written
/// `outer.inner`.
#[rustfmt::skip]
const KEYS: &[(&str, &[&str])] = &[
    ("lorchestra.jobs-list/1", &[
        "packages.name", "packages.version", "packages.path", "packages.bytes", "packages.jobs.name", "packages.jobs.summary",
        "packages.jobs.deprecated", "problems.path", "problems.reason", "problems.detail", "problems.fix",
    ]),
    ("lorchestra.jobs-show/1", &[
        "package", "version", "job", "path", "file", "line", "signature", "docs", "params.name", "params.flag", "params.kind", "params.type",
        "params.required", "params.default", "params.docs",
    ]),
    ("lorchestra.run-spec/1", &[
        "package", "version", "sha256", "job", "account", "params", "secrets", "window", "since_last", "resolved_at", "timeout", "grace",
        "on_overlap", "overlap_key", "moves_bookmark", "retries.limit", "retries.on", "retries.wait", "memory_max", "directory", "claim", "group", "trace_parent",
        "requested_by",
    ]),
    ("lorchestra.run-job/1", &["run_id", "package", "job", "state", "cause", "message", "duration_ms"]),
    ("lorchestra.run/1", &[
        "run_id", "package", "job", "account", "state", "cause", "message", "job_result", "started_at", "ended_at", "since", "until",
        "attempts", "host", "location", "plugin_path", "plugin_sha256", "plugin_version", "supervisor_pid",
    ]),
    ("lorchestra.runs-show/1", &[
        "run_id", "package", "job", "account", "state", "cause", "message", "job_result", "started_at", "ended_at", "since", "until",
        "spec", "spec.params", "bookmark", "attempts.attempt", "attempts.started_at", "attempts.ended_at", "attempts.worker_pid", "events", "logs", "delivery",
        "host", "location", "plugin_path", "plugin_sha256", "plugin_version", "supervisor_pid",
    ]),
    ("lorchestra.bookmark/1", &["package", "job", "account", "at", "moved_at", "run_id"]),
    ("lorchestra.bookmark-change/1", &["package", "job", "account", "before", "at"]),
    ("lorchestra.runs-prune/1", &["dry_run", "runs", "logs", "payloads", "undelivered", "running", "used_bytes"]),
    ("lorchestra.runs-stop/1", &["run_id", "short_id", "state", "cause", "had_ended"]),
    ("lorchestra.events-flush/1", &[
        "destination",
        "delivered",
        "refused",
        "uncertain",
        "all_refused",
        "all_uncertain",
        "pending",
        "stopped",
    ]),
    ("lorchestra.events-setup/1", &["destination", "target", "dry_run", "steps", "event_id"]),
    ("lorchestra.config-keys/1", &["keys.key", "keys.default", "keys.meaning"]),
    ("lorchestra.event/1", &[
        "event_id", "event_type", "source", "schema_ref", "created_at", "correlation_id", "subject_id", "payload", "run_id", "attempt",
        "package", "job",
    ]),
    ("lorchestra.hook/1", &["event", "run_id", "package", "job", "account", "host", "cause", "message", "logs"]),
    ("lorchestra.plugins-list/1", &["directories.path", "directories.origin", "directories.state", "directories.detail", "files.path", "files.state"]),
    ("lorchestra.plugins-check/1", &[
        "ok", "path", "package", "version", "sha256", "bytes", "rustc", "target", "abi", "glibc.needed", "glibc.host", "jobs.name",
        "jobs.signature", "jobs.summary", "load.state", "installed", "locked", "problem",
    ]),
    ("lorchestra.plugins-install/1", &[
        "installed.package", "installed.version", "installed.path", "installed.sha256", "installed.unchanged", "installed.replaces",
        "installed.removes", "installed.added.name", "installed.added.signature", "installed.removed.name",
        "installed.removed.signature", "installed.changed.name", "installed.changed.before", "installed.changed.after",
        "installed.locked",
    ]),
    ("lorchestra.plugins-remove/1", &["package", "removed"]),
    ("lorchestra.plugins-lock/1", &[
        "path", "packages.name", "packages.version", "packages.sha256", "added", "changed", "removed", "problems.path",
        "problems.reason", "problems.detail", "problems.fix",
    ]),
    // Additional keys of objects that differ within a schema.
    ("a run-job/1 that was skipped", &["run_id", "package", "job", "state", "cause", "message", "duration_ms", "held_by"]),
    ("a runs-show/1 that was skipped", &["state", "held_by"]),
    ("a usable file of plugins-list/1", &["path", "state", "package", "version", "jobs", "bytes", "locked"]),
    ("an unusable file of plugins-list/1", &["path", "state", "reason", "detail", "fix", "package"]),
    ("an alias of plugins-list/1", &["path", "state", "of"]),
    ("a plugins-check/1 of a file that cannot be used", &["ok", "problem.path", "problem.reason", "problem.detail", "problem.fix"]),
    // Payloads of lorchestra's own events.
    ("job.started", &[
        "parameters", "since", "until", "host", "lorchestra_version", "plugin_path", "plugin_version", "plugin_sha256", "requested_by",
        "group", "trace_parent",
    ]),
    ("job.skipped", &[
        "parameters", "since", "until", "host", "lorchestra_version", "plugin_path", "plugin_version", "plugin_sha256", "held_by",
    ]),
    ("job.completed", &["attempt", "duration_ms", "user_ms", "system_ms", "max_rss_kib"]),
    ("job.failed", &[
        "attempt", "duration_ms", "user_ms", "system_ms", "max_rss_kib", "cause", "message", "permanent", "signal", "exit_code",
        "job_result",
    ]),
];

#[track_caller]
fn has_keys(schema: &str, value: &serde_json::Value) {
    let keys = KEYS.iter().find(|(name, _)| *name == schema).unwrap_or_else(|| panic!("{schema} is published")).1;
    for key in keys {
        let mut at = value;
        for part in key.split('.') {
            at = if at.is_array() { &at[0] } else { at };
            at = at.get(part).unwrap_or_else(|| panic!("{schema} has lost {key}: {value}"));
        }
    }
}

#[test]
fn json_keeps_its_keys() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let (failure, dir) = (sandbox.arg("failure"), sandbox.arg("lines"));
    sandbox.configure(&format!("on_failure = 'cat > {failure}'\n[destinations.jsonl]\ndir = {dir:?}\n"));
    std::fs::write(sandbox.plugins().join("text.so"), "text").unwrap();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "fail"]).exits(1);
    let run = sandbox.runs()[0].clone();
    for (args, code, schema) in [
        (&["jobs", "list", "--json"][..], 0, "lorchestra.jobs-list/1"),
        (&["jobs", "show", "misbehave", "typed", "--json"], 0, "lorchestra.jobs-show/1"),
        (&["run-job", "--dry-run", "--json", "misbehave", "typed"], 0, "lorchestra.run-spec/1"),
        (&["run-job", "--json", "misbehave", "noop"], 0, "lorchestra.run-job/1"),
        (&["run-job", "--json", "misbehave", "fail"], 1, "lorchestra.run-job/1"),
        (&["runs", "show", run.id(), "--json"], 0, "lorchestra.runs-show/1"),
        (&["bookmarks", "set", "misbehave/windowed", "2024-01-30", "--json"], 0, "lorchestra.bookmark-change/1"),
        (&["runs", "prune", "--older-than", "1d", "--dry-run", "--json"], 0, "lorchestra.runs-prune/1"),
        (&["runs", "stop", run.id(), "--json"], 0, "lorchestra.runs-stop/1"),
        (&["events", "setup", "--json"], 0, "lorchestra.events-setup/1"),
        (&["events", "flush", "--json"], 0, "lorchestra.events-flush/1"),
        (&["config", "keys", "--json"], 0, "lorchestra.config-keys/1"),
    ] {
        has_keys(schema, &sandbox.lorchestra(args).exits(code).json(schema));
    }
    sandbox.lorchestra(&["bookmarks", "set", "misbehave", "windowed", "2024-01-31"]).exits(0);
    has_keys(
        "lorchestra.bookmark/1",
        &sandbox.lorchestra(&["bookmarks", "show", "--json"]).exits(0).json("lorchestra.bookmark/1"),
    );
    has_keys("lorchestra.run/1", &run.0);
    let failure = serde_json::from_str(&sandbox.read("failure")).expect("what on_failure got");
    has_keys("lorchestra.hook/1", &failure);
    for run in sandbox.runs() {
        for event in sandbox.whole_events_of(&run) {
            has_keys("lorchestra.event/1", &event.0);
            has_keys(event.event_type(), event.payload());
        }
    }
}

#[test]
fn json_of_library_files_keeps_its_keys() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let plugins = sandbox.plugins();
    let write = |name: &str, bytes: Vec<u8>| {
        let path = sandbox.path(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let text = write("text.so", b"text".to_vec());
    std::fs::copy(&text, plugins.join("text.so")).unwrap();
    std::fs::hard_link(plugins.join("libmisbehave.so"), plugins.join("name.so")).unwrap();
    let listed = sandbox.lorchestra(&["plugins", "list", "--json"]).exits(0).json("lorchestra.plugins-list/1");
    has_keys("lorchestra.plugins-list/1", &listed);
    for (file, what) in [(0, "a usable file"), (1, "an alias"), (2, "an unusable file")] {
        has_keys(&format!("{what} of plugins-list/1"), &listed["files"][file]);
    }
    let built = Fixture::Misbehave.built().display().to_string();
    let checked = sandbox.lorchestra(&["plugins", "check", "--json", &built]).exits(0);
    has_keys("lorchestra.plugins-check/1", &checked.json("lorchestra.plugins-check/1"));
    let checked = sandbox.lorchestra(&["plugins", "check", "--json", &text]).exits(126);
    has_keys("a plugins-check/1 of a file that cannot be used", &checked.json("lorchestra.plugins-check/1"));

    // One job is added, one removed, one has another signature.
    let noop = "\"name\":\"noop\"";
    let other = write("other.so", corrupt::manifest(noop, &noop.replace("noop", "noap")));
    sandbox.lorchestra(&["plugins", "install", "--json", &other]).exits(0);
    let next = write("next.so", corrupt::manifest("page_size: u32 = 500", "page_size: u64 = 500"));
    let installed = sandbox.lorchestra(&["plugins", "install", "--json", &next]).exits(0);
    has_keys("lorchestra.plugins-install/1", &installed.json("lorchestra.plugins-install/1"));
    let locked = sandbox.lorchestra(&["plugins", "lock", "--json"]).exits(0);
    has_keys("lorchestra.plugins-lock/1", &locked.json("lorchestra.plugins-lock/1"));
    let removed = sandbox.lorchestra(&["plugins", "remove", "--json", "misbehave"]).exits(0);
    has_keys("lorchestra.plugins-remove/1", &removed.json("lorchestra.plugins-remove/1"));
}

#[test]
fn json_of_a_skipped_run_keeps_its_keys() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let running = sandbox.start(&["run-job", "misbehave", "wait", "--marker", &sandbox.arg("marker")]);
    eventually("the job has started", || !sandbox.read("marker").is_empty());
    let skipped = sandbox.lorchestra(&["run-job", "--json", "--on-overlap", "skip", "misbehave", "wait"]).exits(0);
    has_keys("a run-job/1 that was skipped", &skipped.json("lorchestra.run-job/1"));
    let run = sandbox.runs()[0].clone();
    let shown = sandbox.lorchestra(&["runs", "show", "--json", run.id()]).exits(0).json("lorchestra.runs-show/1");
    has_keys("a runs-show/1 that was skipped", &shown);
    let events = sandbox.whole_events_of(&run);
    assert_eq!(events[0].event_type(), "job.skipped");
    has_keys("job.skipped", events[0].payload());
    running.signal(Signal::TERM);
    running.wait().exits(143);
}
