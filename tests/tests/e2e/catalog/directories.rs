//! Which directories are searched for libraries, and which libraries are used. `zoo/files.rs` covers files that are not libraries.

use lorchestra_tests::corrupt::{self, manifest};
use lorchestra_tests::sandbox::NOBODY;
use lorchestra_tests::{Fixture, Sandbox, processes};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

#[test]
fn an_unreadable_file_is_reported() {
    let sandbox = Sandbox::unprivileged(&[Fixture::Ingester]);
    let path = sandbox.install(Fixture::Misbehave, "theirs.so");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let ended = sandbox.lorchestra(&["jobs", "list"]).exits(0);
    assert_eq!(ended.out(), "ingester:\n  extract_gmail\n  extract_slack\n");
    assert!(ended.err().contains("(unreadable)"), "{}", ended.shown());
    let fix = if processes::is_root() {
        format!("fix: ask user 0 to let user {NOBODY} read {}\n", path.display())
    } else {
        format!("fix: chmod u+r {}\n", path.display())
    };
    assert!(ended.err().contains(&fix), "{}", ended.shown());
}

#[test]
fn an_unreadable_directory_is_reported() {
    let sandbox = Sandbox::unprivileged(&[]);
    let theirs = sandbox.path("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o000)).unwrap();
    let ended = sandbox.lorchestra(&["--plugin-dir", &theirs.display().to_string(), "jobs", "list", "x"]).exits(1);
    assert!(ended.err().contains("(--plugin-dir): cannot be read: Permission denied"), "{}", ended.shown());
    // Next to other directories, and without missing any package.
    let good = sandbox.path("good");
    fs::create_dir(&good).unwrap();
    fs::copy(Fixture::Ingester.built(), good.join("x.so")).unwrap();
    let path = format!("{}:{}", theirs.display(), good.display());
    let list = sandbox.lorchestra_with(&[("LORCHESTRA_PLUGIN_PATH", &path)], &["jobs", "list"]).exits(0);
    assert_eq!(list.out(), "ingester:\n  extract_gmail\n  extract_slack\n");
    let warning = format!(
        "warning: {dir}: the directory cannot be read: Permission denied (os error 13) (LORCHESTRA_PLUGIN_PATH) (unreadable)\n  \
         fix: {fix}, or name another directory in LORCHESTRA_PLUGIN_PATH\n",
        dir = theirs.display(),
        // Only this user can change it, but it is not lorchestra's alone: no hint changes it.
        fix = if processes::is_root() {
            format!("ask user 0 to let user {NOBODY} read {}", theirs.display())
        } else {
            format!("ls -ld {} shows who may read it", theirs.display())
        },
    );
    assert_eq!(list.err(), warning);
    let json = sandbox.lorchestra_with(&[("LORCHESTRA_PLUGIN_PATH", &path)], &["jobs", "list", "--json"]).exits(0);
    let problems = json.json("lorchestra.jobs-list/1")["problems"].clone();
    assert_eq!(
        (problems[0]["path"].as_str(), problems[0]["reason"].as_str()),
        (theirs.to_str(), Some("unreadable")),
        "{problems}"
    );
    // So that it can be removed.
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_missing_directory_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Ingester]);
    let plugins = sandbox.plugins().display().to_string();
    let (file, missing) = (sandbox.arg("file\nname"), sandbox.arg("missing"));
    fs::write(&file, "").unwrap();
    let dirs = ["--plugin-dir", &plugins, "--plugin-dir", &file, "--plugin-dir", &missing, "jobs", "list"];
    let ended = sandbox.lorchestra(&dirs).exits(0);
    assert_eq!(ended.out(), "ingester:\n  extract_gmail\n  extract_slack\n");
    let warned: Vec<&str> = ended.err().lines().filter(|line| line.starts_with("warning: ")).collect();
    let expected = [
        format!("warning: {}: it is not a directory (--plugin-dir) (not-a-directory)", file.replace('\n', "\\n")),
        format!("warning: {missing}: the directory is not there (--plugin-dir) (missing)"),
    ];
    assert_eq!(warned, expected, "{}", ended.shown());
    // No results: the message says why, with the searched directories.
    let ended = sandbox.lorchestra(&["--plugin-dir", &file, "--plugin-dir", &missing, "jobs", "list"]).exits(0);
    let looked = format!(
        "No packages found.\n  looked in {} (--plugin-dir): is not a directory\n  looked in {missing} (--plugin-dir): does not exist\n  run lorchestra plugins install FILE to install one\n",
        file.replace('\n', "\\n")
    );
    assert_eq!(ended.err(), looked);
    let args: Vec<String> = (0..20).flat_map(|n| ["--plugin-dir".into(), sandbox.arg(&format!("missing-{n}"))]).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["jobs", "list"]).collect();
    let ended = sandbox.lorchestra(&args).exits(0);
    let lines: Vec<&str> = ended.err().lines().collect();
    assert_eq!((lines.len(), lines[6]), (8, "  and 15 more"), "{}", ended.shown());
    // The default directory need not exist.
    fs::remove_dir_all(sandbox.plugins()).unwrap();
    let list = sandbox.lorchestra(&["jobs", "list", "--json"]).exits(0).json("lorchestra.jobs-list/1");
    assert_eq!(list["problems"], serde_json::json!([]));
}

#[test]
fn two_files_of_one_package_are_both_unusable_and_both_named() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Ingester]);
    let one = sandbox.plugins().join("libmisbehave.so");
    let elsewhere = sandbox.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let other = elsewhere.join("another-name.so");
    fs::copy(&one, &other).unwrap();
    let environment = [("LORCHESTRA_PLUGIN_PATH", elsewhere.to_str().unwrap())];
    let list = sandbox.lorchestra_with(&environment, &["jobs", "list"]).exits(0);
    assert_eq!(list.out(), "ingester:\n  extract_gmail\n  extract_slack\n", "the rest works");
    assert_eq!(list.err().matches("(duplicate)").count(), 2, "{}", list.shown());
    for args in [
        &["run-job", "misbehave", "noop"][..],
        &["run-job", "--dry-run", "misbehave", "noop"],
        &["jobs", "show", "misbehave", "noop"],
        &["jobs", "list", "misbehave"],
    ] {
        let ended = sandbox.lorchestra_with(&environment, args).exits(126);
        for path in [&one, &other] {
            assert!(ended.err().contains(&path.display().to_string()), "{}", ended.shown());
        }
    }
    assert!(sandbox.runs().is_empty());
    // Without the other directory there is only one.
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
}

#[test]
fn a_file_with_several_names_is_one_library() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let path = sandbox.plugins().join("libmisbehave.so");
    fs::hard_link(&path, sandbox.plugins().join("hard.so")).unwrap();
    symlink(&path, sandbox.plugins().join("soft.so")).unwrap();
    let twice = sandbox.plugins().display().to_string();
    let ended = sandbox.lorchestra(&["--plugin-dir", &twice, "--plugin-dir", &twice, "jobs", "list"]).exits(0);
    assert_eq!(ended.out().matches("misbehave:").count(), 1, "{}", ended.shown());
    assert_eq!(ended.err(), "");
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
}

#[test]
fn only_names_of_libraries_are_considered() {
    let sandbox = Sandbox::with(&[Fixture::Ingester]);
    for name in [".hidden.so", "backup.so.bak", "libx.so.1", "README", "so"] {
        fs::write(sandbox.plugins().join(name), "text").unwrap();
    }
    assert_eq!(sandbox.lorchestra(&["jobs", "list"]).exits(0).err(), "");
    // The file name has no meaning.
    fs::rename(sandbox.plugins().join("libingester.so"), sandbox.plugins().join("whatever it is.so")).unwrap();
    assert_eq!(sandbox.lorchestra(&["jobs", "list"]).exits(0).out(), "ingester:\n  extract_gmail\n  extract_slack\n");
}

#[test]
fn an_unusable_package_is_not_reported_as_unknown() {
    for (bytes, reason) in [
        (corrupt::abi(|_| 9), "abi-too-new"),
        (corrupt::for_newer_glibc(), "needs-newer-glibc"),
        (manifest("\"default\":500", "\"default\":-50"), "bad-manifest"),
        (manifest("\"name\":\"stay\"", "\"name\":\"help\""), "bad-manifest"),
    ] {
        let sandbox = Sandbox::with(&[]);
        fs::write(sandbox.plugins().join("libmisbehave.so"), bytes).unwrap();
        // Another job of the package than the broken one.
        for args in
            [&["run-job", "misbehave", "noop"][..], &["jobs", "list", "misbehave"], &["jobs", "list", "misbehave", "--json"]]
        {
            let ended = sandbox.lorchestra(args).exits(126);
            assert!(ended.err().contains(reason) && ended.err().contains("fix: "), "{}", ended.shown());
        }
        assert!(sandbox.runs().is_empty());
    }
}

/// A plugin older than a flag of run-job: its manifest has a parameter `timeout`. The run is only planned, because the library has no such
/// parameter.
#[test]
fn a_parameter_of_an_older_job_keeps_its_flag_at_any_position() {
    let sandbox = Sandbox::with(&[]);
    fs::write(sandbox.plugins().join("older.so"), manifest("\"name\":\"seconds\"", "\"name\":\"timeout\"")).unwrap();
    let plan = |args: &[&str]| {
        let ended = sandbox.lorchestra(&[&["run-job", "--dry-run"], args].concat()).exits(0);
        let plan = ended.json("lorchestra.run-spec/1");
        (plan["timeout"].as_u64(), plan["params"]["timeout"].as_u64(), plan["params"]["return_ok"].as_bool())
    };
    for behind in [
        &["--timeout", "7", "--return-ok", "--json"][..],
        &["--return-ok", "--json", "--timeout=7"],
        &["--json", "--param", "timeout=7", "--return-ok"],
    ] {
        assert_eq!(plan(&[&["misbehave", "wait"], behind].concat()), (None, Some(7), Some(true)), "{behind:?}");
        // Before PACKAGE there are only run-job's flags.
        let both = [&["--timeout", "5s", "misbehave", "wait"], behind].concat();
        assert_eq!(plan(&both), (Some(5), Some(7), Some(true)), "{behind:?}");
    }
    let help = sandbox.lorchestra(&["run-job", "misbehave", "wait", "--help"]).exits(0);
    assert!(help.out().contains("--timeout <N>") && help.out().contains("--run-job:timeout <DURATION>"), "{}", help.shown());
}

/// The manifest is valid and the library loads, but the two differ: only the worker can detect that.
#[test]
fn a_wrong_manifest_is_a_failure_to_load() {
    let sandbox = Sandbox::with(&[]);
    let marker = sandbox.arg("marker");
    let lies = [
        // The name of the root module's symbol includes the package's name.
        ("\"misbehave\"", "\"misbehavf\"", "misbehavf", "it has a manifest but no root module"),
        ("\"version\":\"0.3.0\"", "\"version\":\"0.4.0\"", "misbehave", "its manifest and its root module differ"),
    ];
    for (from, to, package, what) in lies {
        fs::write(sandbox.plugins().join("liar.so"), manifest(from, to)).unwrap();
        let ended = sandbox.lorchestra(&["run-job", package, "typed", "--marker", &marker]).exits(126);
        assert!(ended.err().contains(what), "{}", ended.shown());
        let run = sandbox.runs().remove(0);
        assert_eq!(run.cause(), "load");
        sandbox.whole_events_of(&run);
        assert_eq!(sandbox.read("marker"), "", "the job did not start");
    }
}

/// The contents of the file at the start of the run are what runs, whatever happens to the file afterwards.
#[test]
fn a_library_that_is_overwritten_while_it_runs_harms_nothing() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let marker = sandbox.arg("marker");
    let running = sandbox.start(&["run-job", "misbehave", "wait", "--marker", &marker]);
    lorchestra_tests::eventually("the job has started", || sandbox.read("marker").ends_with('\n'));
    // In place, as `cp` does: truncated and overwritten.
    fs::write(sandbox.plugins().join("libmisbehave.so"), vec![0xcc; 8 << 20]).unwrap();
    running.signal(rustix::process::Signal::TERM);
    running.wait().exits(143);
    let run = sandbox.run();
    assert_eq!((run.cause(), run.0["job_result"].as_str()), ("cancelled", Some("error: cancelled")));
}
