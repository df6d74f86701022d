//! Completions of the installed packages and jobs, man pages, and the version as JSON.

use lorchestra_tests::{Fixture, Running, Sandbox};
use std::path::Path;
use std::process::Command;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave, Fixture::Kit])
}

/// Returns the candidates that bash gets for the last of these words.
fn offered(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    let args = [&["--", "lorchestra"], words].concat();
    let mut command = sandbox.command(&args);
    command.env("COMPLETE", "bash").env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    let ended = Running::start(command).wait().exits(0);
    ended.out().lines().map(str::to_owned).collect()
}

#[test]
fn packages_jobs_flags_and_runs_of_this_machine_are_completed() {
    let sandbox = sandbox();
    assert!(offered(&sandbox, &["run"]).contains(&"run-job".to_owned()));
    assert_eq!(offered(&sandbox, &["run-job", "mis"]), ["misbehave"]);
    assert_eq!(offered(&sandbox, &["run-job", "kit", "ki"]), ["kinds"]);
    assert_eq!(offered(&sandbox, &["jobs", "show", "kit", "ki"]), ["kinds"]);
    assert_eq!(offered(&sandbox, &["run-job", "kit/ki"]), ["kit/kinds"]);
    assert_eq!(offered(&sandbox, &["bookmarks", "set", "misb"]), ["misbehave"]);
    let flags = offered(&sandbox, &["run-job", "kit", "kinds", "--ever"]);
    assert_eq!(flags, ["--every"], "a flag of the job");
    assert_eq!(offered(&sandbox, &["run-job", "kit/kinds", "--ever"]), ["--every"]);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let runs = offered(&sandbox, &["runs", "show", ""]);
    assert!(runs.contains(&"last".to_owned()) && runs.contains(&sandbox.runs()[0].short().to_owned()), "{runs:?}");
    for (words, expected) in [
        (&["status", "mis"][..], "misbehave"),
        (&["status", "kit/ki"], "kit/kinds"),
        (&["runs", "list", "--package", "mis"], "misbehave"),
        (&["runs", "list", "--job", "kit/ki"], "kit/kinds"),
        (&["schedule", "print", "kit/ki"], "kit/kinds"),
        (&["plugins", "remove", "mis"], "misbehave"),
        (&["schemas", "statu"], "status"),
        (&["runs", "logs", "-f", "las"], "last"),
    ] {
        assert!(offered(&sandbox, words).contains(&expected.to_owned()), "{words:?}: {:?}", offered(&sandbox, words));
    }
    sandbox.lorchestra(&["run-job", "-q", "misbehave", "numbered", "--account", "anna"]).exits(0);
    assert_eq!(offered(&sandbox, &["runs", "list", "--account", "an"]), ["anna"]);
    // Only jobs that have run can be forgotten or run again.
    for command in [&["runs", "prune", "--job", "mis"][..], &["runs", "rerun", "--failed", "--job", "mis"]] {
        assert_eq!(offered(&sandbox, command), ["misbehave/noop", "misbehave/numbered"], "{command:?}");
    }
    for command in [["events", "list", "--run", ""], ["events", "export", "--run", ""]] {
        assert!(offered(&sandbox, &command).contains(&"last".to_owned()), "{command:?}");
    }
    assert_eq!(offered(&sandbox, &["runs", "prune", "--job", "misbehave/numbered", "--account", ""])[0], "anna");
    let days = ["--from", "2024-01-01", "--to", "2024-01-02", "--every", "1d"];
    sandbox.lorchestra(&[&["backfill", "misbehave", "windowed"], &days[..]].concat()).exits(0);
    let is_id = |word: &String| word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert_eq!(offered(&sandbox, &["backfill", "show", ""]).iter().filter(|word| is_id(word)).count(), 1);
    // If nothing can be read, there are no candidates and no messages.
    sandbox.configure("= =");
    assert!(offered(&sandbox, &["run-job", "mis"]).is_empty());
}

#[test]
fn scripts_man_pages_and_the_version_are_printed() {
    let sandbox = sandbox();
    for shell in ["bash", "zsh", "fish"] {
        let script = sandbox.lorchestra(&["completions", shell]).exits(0);
        assert!(script.out().contains("COMPLETE") && script.out().contains("lorchestra"), "{}", script.shown());
    }
    sandbox.lorchestra(&["completions", "tcsh"]).exits(2);
    let page = sandbox.lorchestra(&["man"]).exits(0);
    assert!(page.out().contains(".TH lorchestra 1") && page.out().contains("run\\-job"), "{}", page.shown());
    sandbox.lorchestra(&["man", "--dir", &sandbox.arg("man1")]).exits(0);
    assert!(sandbox.read("man1/lorchestra-runs-list.1").contains("\\-\\-state"));
    let version = sandbox.lorchestra(&["--version", "--json"]).exits(0).json("lorchestra.version/1");
    assert_eq!((&version["version"], &version["abi_revision"]), (&"0.1.0".into(), &1.into()));
    // The commit of the sources, or none if they are not in a repository. It may have advanced since the build.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    match version["revision"].as_str() {
        None => assert!(!root.join(".git").exists() && version["revision"].is_null(), "{version}"),
        Some(revision) => {
            let known =
                Command::new("git").arg("-C").arg(root).args(["cat-file", "-e", &format!("{revision}^{{commit}}")]).status();
            assert!(revision.len() >= 40 && known.is_ok_and(|known| known.success()), "{version}");
        }
    }
    assert_eq!(sandbox.lorchestra(&["--version"]).exits(0).out(), "lorchestra 0.1.0\n");
}
