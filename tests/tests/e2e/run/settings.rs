//! Precedence of settings: flag, environment, configuration, default; and which settings are refused, with which exit code.

use lorchestra_tests::sandbox::NOBODY;
use lorchestra_tests::{Ended, Fixture, Running, Sandbox, processes};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// The directories that an empty listing reports as searched.
fn looked_in(ended: &Ended, sandbox: &Sandbox) -> Vec<String> {
    let root = format!("{}/", sandbox.root().display());
    let lines = ended.err().lines().filter_map(|line| line.trim().strip_prefix("looked in "));
    lines.filter_map(|line| line.rsplit_once(": ")).map(|(dir, _)| dir.replace(&root, "")).collect()
}

#[test]
fn plugin_directories_flag_before_environment_before_configuration_before_default() {
    let sandbox = Sandbox::with(&[]);
    let list = ["jobs", "list"];
    let default = "home/.local/share/lorchestra/plugins (the plugin directory)".to_owned();
    assert_eq!(looked_in(&sandbox.lorchestra(&list), &sandbox), std::slice::from_ref(&default));

    sandbox.configure(&format!("plugin_dirs = [{:?}]", sandbox.arg("configured")));
    let configured = "configured (plugin_dirs in home/.config/lorchestra/config.toml)".to_owned();
    assert_eq!(looked_in(&sandbox.lorchestra(&list), &sandbox), [default.clone(), configured.clone()]);

    let path = format!("{}::{}", sandbox.arg("one"), sandbox.arg("two"));
    let environment = [("LORCHESTRA_PLUGIN_PATH", &*path)];
    let named = |dir: &str| format!("{dir} (LORCHESTRA_PLUGIN_PATH)");
    let all = [default, named("one"), named("two"), configured];
    assert_eq!(looked_in(&sandbox.lorchestra_with(&environment, &list), &sandbox), all);

    let flag = ["--plugin-dir", &sandbox.arg("flag"), "jobs", "list"];
    assert_eq!(looked_in(&sandbox.lorchestra_with(&environment, &flag), &sandbox), ["flag (--plugin-dir)"]);
}

#[test]
fn xdg_variables_move_their_directories() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let (data, state, config) = (sandbox.arg("data"), sandbox.arg("state"), sandbox.arg("config"));
    let environment = [("XDG_DATA_HOME", &*data), ("XDG_STATE_HOME", &*state), ("XDG_CONFIG_HOME", &*config)];
    let default_plugins = sandbox.plugins().display().to_string();
    let args = ["--plugin-dir", &default_plugins, "run-job", "misbehave", "typed"];
    sandbox.lorchestra_with(&environment, &args).exits(0);
    assert!(sandbox.path("state/lorchestra/lorchestra.db").is_file());
    assert!(sandbox.path("data/lorchestra/data/misbehave").is_dir());
    assert!(!sandbox.state().exists());
    let listed = sandbox.lorchestra_with(&environment, &["jobs", "list"]).exits(0);
    assert_eq!(looked_in(&listed, &sandbox), ["data/lorchestra/plugins (the plugin directory)"]);
    fs::create_dir_all(sandbox.path("config/lorchestra")).unwrap();
    fs::write(sandbox.path("config/lorchestra/config.toml"), "nothing = 1").unwrap();
    sandbox.lorchestra_with(&environment, &["jobs", "list"]).exits(78);
}

#[test]
fn the_configuration_moves_state_and_data() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.configure(&format!("state_dir = {:?}\ndata_dir = {:?}", sandbox.arg("s"), sandbox.arg("d")));
    sandbox.lorchestra(&["run-job", "misbehave", "typed"]).exits(0);
    let events = sandbox.whole_events_of(&sandbox.run());
    assert_eq!(events[1].payload()["data_dir"], sandbox.arg("d/misbehave"));
    assert!(sandbox.path("s/lorchestra.db").is_file() && !sandbox.state().exists());
}

#[test]
fn a_jobs_timeout_flag_before_configuration() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.configure("[job.\"misbehave/noop\"]\ntimeout = \"7m\"\ngrace = \"3s\"\n");
    let plan = |args: &[&str]| {
        let args = [&["run-job", "--dry-run", "--json"], args].concat();
        let plan = sandbox.lorchestra(&args).exits(0).json("lorchestra.run-spec/1");
        (plan["timeout"].as_u64(), plan["grace"].as_u64())
    };
    assert_eq!(plan(&["misbehave", "noop"]), (Some(420), Some(3)));
    assert_eq!(plan(&["misbehave", "noop", "--timeout", "5s"]), (Some(5), Some(3)));
    assert_eq!(plan(&["--grace", "1m", "misbehave", "noop"]), (Some(420), Some(60)));
    assert_eq!(plan(&["misbehave", "fail"]), (None, Some(10)), "another job");
}

#[test]
fn an_unreadable_configuration_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let cases = [
        ("plugin_dir = [\"/x\"]", "line 1: unknown key `plugin_dir`", "did you mean `plugin_dirs`?"),
        ("\n[retention]\nlog = \"1d\"", "line 3: unknown key `log`", "did you mean `logs`?"),
        (
            "[retention]\nruns = \"0s\"",
            "line 2: runs: a retention of 0 would remove every run as it ends",
            "lorchestra config keys",
        ),
        ("[retention]\nstate_dirs = \"/x\"", "line 2: unknown key `state_dirs`", "lorchestra config keys"),
        ("[job.\"misbehave/Noop\"]\ntimeout = \"1s\"", "does not name a job", "write [job.\"package/job\"]"),
        ("state_dir = \"state\"", "is not absolute", "use an absolute path"),
        ("on_failure = 7", "line 1: ", "lorchestra config keys"),
        ("on_failure = \"", "line 1: ", "lorchestra config keys"),
        ("[job.\"misbehave/noop\"]\ntimeout = \"soon\"", "line 2: ", "lorchestra config keys"),
        ("[job.\"misbehave/noop\"]\ntimeout = \"0s\"", "line 2: ", "lorchestra config keys"),
        ("[job.noop]\ntimeout = \"1s\"", "does not name a job", "write [job.\"package/job\"]"),
    ];
    for (text, what, hint) in cases {
        sandbox.configure(text);
        let marker = sandbox.arg("marker");
        let ended = sandbox.lorchestra(&["run-job", "misbehave", "typed", "--marker", &marker]).exits(78);
        let lines: Vec<&str> = ended.err().lines().collect();
        assert!(lines[0].contains("config.toml: ") && lines[0].contains(what), "{}", ended.shown());
        assert!(lines[1].contains(hint), "{}", ended.shown());
        assert_eq!(sandbox.read("marker"), "");
    }
}

/// Opening a FIFO would block forever.
#[test]
fn a_configuration_that_is_not_a_file_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.configure("");
    let config = sandbox.home().join(".config/lorchestra/config.toml");
    fs::remove_file(&config).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &config, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(78);
    assert!(ended.err().contains("config.toml: it is not a regular file"), "{}", ended.shown());
}

#[test]
fn a_configured_job_that_does_not_exist_causes_a_warning() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.configure("[job.\"misbehave/nop\"]\ngrace = \"1s\"\n[job.\"elsewhere/nop\"]\ngrace = \"1s\"\n[job.\"misbehave/wait\"]\ngrace = \"1s\"");
    for args in [&["jobs", "list"][..], &["jobs", "list", "--json"], &["jobs", "show", "misbehave", "noop"]] {
        let ended = sandbox.lorchestra(args).exits(0);
        let elsewhere = "warning: config.toml: [job.\"elsewhere/nop\"]: there is no package elsewhere\n";
        let expected = "warning: config.toml: [job.\"misbehave/nop\"]: misbehave has no job nop; did you mean misbehave/noop?\n";
        assert_eq!(ended.err(), format!("{elsewhere}{expected}"));
    }
    // A job that only other hosts have must not add a line to each mail from cron, nor to runs with other plugin directories.
    sandbox.configure("[job.\"elsewhere/nop\"]\ngrace = \"1s\"");
    assert_eq!(sandbox.lorchestra(&["run-job", "-q", "misbehave", "noop"]).exits(0).err(), "");
    let plugins = sandbox.plugins().display().to_string();
    assert_eq!(sandbox.lorchestra(&["--plugin-dir", &plugins, "jobs", "list"]).exits(0).err(), "");
    // A misspelled package: the intended timeout would never apply.
    sandbox.configure("[job.\"misbehav/noop\"]\ntimeout = \"1h\"");
    for args in [&["jobs", "list"][..], &["run-job", "-q", "misbehave", "noop"], &["run-job", "--dry-run", "misbehave", "noop"]] {
        let ended = sandbox.lorchestra(args).exits(0);
        let expected =
            "warning: config.toml: [job.\"misbehav/noop\"]: there is no package misbehav; did you mean misbehave/noop?\n";
        assert_eq!(ended.err(), expected);
    }
}

#[test]
fn a_dangling_configuration_link_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.configure("");
    let config = sandbox.home().join(".config/lorchestra/config.toml");
    fs::remove_file(&config).unwrap();
    std::os::unix::fs::symlink("/no/such/config.toml", &config).unwrap();
    let ended = sandbox.lorchestra(&["jobs", "list"]).exits(78);
    assert!(
        ended.err().contains("config.toml is a symbolic link to /no/such/config.toml, which does not exist\n"),
        "{}",
        ended.shown()
    );
}

/// The history is read from another directory.
#[test]
fn the_path_of_a_library_is_recorded_as_absolute() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    fs::create_dir(sandbox.path("bin")).unwrap();
    fs::rename(sandbox.plugins().join("libmisbehave.so"), sandbox.path("bin/x.so")).unwrap();
    sandbox.lorchestra(&["--plugin-dir", "bin", "run-job", "misbehave", "noop"]).exits(0);
    sandbox.lorchestra_with(&[("LORCHESTRA_PLUGIN_PATH", "bin")], &["run-job", "misbehave", "noop"]).exits(0);
    for run in sandbox.runs() {
        let shown = sandbox.lorchestra(&["runs", "show", run.id(), "--json"]).exits(0).json("lorchestra.runs-show/1");
        assert_eq!(shown["plugin_path"], sandbox.arg("bin/x.so"));
    }
    let shown = sandbox.lorchestra(&["--plugin-dir", "./bin", "jobs", "show", "misbehave", "noop"]).exits(0);
    assert!(shown.out().contains(&format!("Location: {} (", sandbox.arg("bin/x.so"))), "{}", shown.shown());
}

#[test]
fn a_state_directory_of_another_user_is_refused() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    // Root can create one; other users find root's.
    let dir = if processes::is_root() {
        fs::create_dir(sandbox.path("theirs")).unwrap();
        std::os::unix::fs::chown(sandbox.path("theirs"), Some(NOBODY), None).unwrap();
        sandbox.path("theirs")
    } else {
        "/usr".into()
    };
    sandbox.configure(&format!("state_dir = {dir:?}"));
    let marker = sandbox.arg("marker");
    for args in [&["run-job", "misbehave", "typed", "--marker", &marker][..], &["runs", "list"], &["events", "list"]] {
        let ended = sandbox.lorchestra(args).exits(78);
        assert!(ended.err().contains("belongs to user"), "{}", ended.shown());
    }
    assert_eq!(sandbox.read("marker"), "");
}

/// Someone started lorchestra with sudo before the user did.
#[test]
fn a_home_in_which_root_created_the_state_is_given_back() {
    if !processes::is_root() {
        eprintln!("NOT SHOWN: only root can become another user");
        return;
    }
    let sandbox = Sandbox::unprivileged(&[Fixture::Misbehave]);
    let (above, state) = (sandbox.home().join(".local/state"), sandbox.state());
    fs::create_dir_all(&state).unwrap();
    set_mode(&above, 0o700);
    let back = format!("as root: chown -R {NOBODY} {} && chown {NOBODY} {}\n", state.display(), above.display());
    for args in [&["run-job", "misbehave", "noop"][..], &["runs", "list"]] {
        let refused = sandbox.lorchestra(args).exits(74);
        assert!(refused.err().contains(&back), "{}", refused.shown());
    }
    set_mode(&above, 0o755);
    let refused = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(78);
    assert!(refused.err().contains(&format!("as root: chown -R {NOBODY} {}\n", state.display())), "{}", refused.shown());
}

#[test]
fn a_file_in_place_of_the_state_directory_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    fs::write(sandbox.path("file"), "").unwrap();
    sandbox.configure(&format!("state_dir = {:?}", sandbox.arg("file")));
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(78);
    assert!(ended.err().contains("is not a directory"), "{}", ended.shown());
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_unwritable_state_directory_is_reported() {
    let sandbox = Sandbox::unprivileged(&[Fixture::Misbehave]);
    // The marker's directory is writable: only the state directory is not.
    let marker = sandbox.arg("marker");
    let run = ["run-job", "misbehave", "typed", "--marker", &*marker];
    let local = sandbox.home().join(".local");
    set_mode(&local, 0o500);
    let ended = sandbox.lorchestra(&run).exits(74);
    assert!(ended.err().contains("the state directory") && ended.err().contains("ermission denied"), "{}", ended.shown());
    // The directory that causes it, and the hint.
    assert!(ended.err().contains(&format!("this user may not write to {} (", local.display())), "{}", ended.shown());
    // `.local` does not belong to lorchestra; the directory to be created in it does.
    let user = fs::metadata(&local).unwrap().uid();
    let make = format!("\n  as root: install -d -m 700 -o {user} {}\n", sandbox.state().display());
    assert!(ended.err().contains(&make) && ended.err().contains("or set state_dir"), "{}", ended.shown());
    assert_eq!(sandbox.read("marker"), "", "the job did not start");
    set_mode(&local, 0o700);
    sandbox.lorchestra(&run).exits(0);
    assert_ne!(sandbox.read("marker"), "");

    // It was writable once, and no longer is.
    fs::remove_file(sandbox.path("marker")).unwrap();
    for directory in ["spool", "logs"] {
        let directory = sandbox.state().join(directory);
        set_mode(&directory, 0o500);
        let ended = sandbox.lorchestra(&run).exits(74);
        assert!(ended.err().contains(&format!("\n  chmod u+rwx {}\n", directory.display())), "{}", ended.shown());
        assert_eq!(sandbox.read("marker"), "", "the job did not start");
        set_mode(&directory, 0o700);
    }
    sandbox.lorchestra(&run).exits(0);

    // The database itself.
    let store = sandbox.state().join("lorchestra.db");
    set_mode(&store, 0o400);
    let ended = sandbox.lorchestra(&run).exits(74);
    assert!(ended.err().contains(&format!("\n  chmod u+rw {}\n", store.display())), "{}", ended.shown());
}

/// A file instead of a directory, two levels above the state directory.
#[test]
fn an_obstacle_to_the_state_directory_is_named() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    fs::write(sandbox.path("file"), "").unwrap();
    sandbox.configure(&format!("state_dir = {:?}", sandbox.arg("file/a/b")));
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(78);
    let file = sandbox.arg("file");
    assert!(ended.err().contains(&format!("{file} is not a directory (")), "{}", ended.shown());
    assert!(ended.err().contains(&format!("\n  choose a path other than {file}\n")), "{}", ended.shown());
}

#[test]
fn files_are_created_for_their_owner_only() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.lorchestra(&["run-job", "misbehave", "typed"]).exits(0);
    let mut seen = 0;
    let mut look = vec![sandbox.state(), sandbox.data()];
    while let Some(path) = look.pop() {
        let meta = fs::metadata(&path).unwrap();
        let mode = meta.permissions().mode() & 0o777;
        assert_eq!(mode, if meta.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        seen += 1;
        if meta.is_dir() {
            look.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert!(seen > 8, "{seen} files and directories");
}

/// As under cron. Runs only commands that read, because this home directory is not the sandbox's.
#[test]
fn without_home_the_passwd_file_is_used() {
    let sandbox = Sandbox::with(&[]);
    let user = rustix::process::geteuid().as_raw().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.get(2) == Some(&&*user));
    let Some(home) = entry.map(|fields| fields[5].to_owned()) else { return };
    for value in [None, Some("")] {
        let mut command = sandbox.command(&["jobs", "list", "no-such-package"]);
        command.env_remove("HOME").env("XDG_CONFIG_HOME", sandbox.path("config"));
        command.envs(value.map(|home| ("HOME", home)));
        let ended = lorchestra_tests::Running::start(command).wait().exits(1);
        let looked = format!("looked in {home}/.local/share/lorchestra/plugins (the plugin directory)");
        assert!(ended.err().contains(&looked), "{}", ended.shown());
    }
}

#[test]
fn a_relative_home_is_refused_and_relative_xdg_variables_count_as_not_set() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let ended = sandbox.lorchestra_with(&[("HOME", "home")], &["jobs", "list"]).exits(78);
    assert!(ended.err().contains("HOME is \"home\", which is not an absolute path"), "{}", ended.shown());
    assert!(ended.err().contains("set HOME to"), "{}", ended.shown());
    let environment = [("XDG_DATA_HOME", "data"), ("XDG_STATE_HOME", "./state"), ("XDG_CONFIG_HOME", "config")];
    fs::create_dir_all(sandbox.path("config/lorchestra")).unwrap();
    fs::write(sandbox.path("config/lorchestra/config.toml"), "nothing = 1").unwrap();
    sandbox.lorchestra_with(&environment, &["run-job", "misbehave", "noop"]).exits(0);
    assert!(sandbox.state().join("lorchestra.db").is_file() && !sandbox.path("state").exists() && !sandbox.path("data").exists());
}

#[test]
fn the_same_history_by_another_name_is_not_a_second_one() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    std::os::unix::fs::symlink(sandbox.state().parent().unwrap(), sandbox.path("linked")).unwrap();
    let ended = sandbox.lorchestra_with(&[("XDG_STATE_HOME", &*sandbox.arg("linked"))], &["runs", "list"]).exits(0);
    assert_eq!((ended.out().lines().count(), ended.err()), (2, ""), "{}", ended.shown());
}

#[test]
fn a_second_history_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let elsewhere = sandbox.arg("elsewhere");
    let environment = [("XDG_STATE_HOME", &*elsewhere)];
    for args in [&["run-job", "misbehave", "noop"][..], &["runs", "list"], &["events", "list"]] {
        let ended = sandbox.lorchestra_with(&environment, args).exits(0);
        let expected = format!(
            "warning: {} also contains a run history; this command uses {elsewhere}/lorchestra\n",
            sandbox.state().display()
        );
        assert_eq!(ended.err(), expected);
    }
    // No warning if only one exists.
    assert_eq!(sandbox.lorchestra(&["runs", "list"]).exits(0).err(), "");
}

#[test]
fn retention_removes_old_logs_and_old_runs() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.lorchestra(&["run-job", "misbehave", "print"]).exits(0);
    let first = sandbox.run();
    let logs = sandbox.state().join("logs");
    assert!(logs.join(first.id()).is_dir());

    sandbox.configure("[retention]\nlogs = \"0s\"");
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert!(!logs.join(first.id()).exists(), "the logs are gone");
    let ended = sandbox.lorchestra(&["runs", "logs", first.id()]).exits(0);
    assert!(ended.err().contains("removed by retention"), "{}", ended.shown());
    assert_eq!(sandbox.runs().len(), 2, "the runs are kept");

    // The shortest possible. A run that ended longer ago is removed at the end of a later one, unless it is the last of its job.
    sandbox.configure("[retention]\nruns = \"1s\"");
    lorchestra_tests::eventually("the first run is removed", || {
        sandbox.lorchestra(&["run-job", "misbehave", "print"]).exits(0);
        let runs = sandbox.runs();
        let is_kept = |job: &str| runs.iter().any(|run| run.0["job"] == job);
        assert!(is_kept("print") && is_kept("noop"), "the run itself, and the last one of the other job");
        runs.iter().all(|run| run.id() != first.id())
    });
    sandbox.lorchestra(&["events", "list", "--run", first.id()]).exits(1);
    assert!(!sandbox.lorchestra(&["events", "list"]).exits(0).out().contains(first.short()));
}

/// A file instead of a run's log directory: cleaning up fails, which does not affect the run, and is reported with the system's reason.
#[test]
fn a_failed_removal_by_retention_is_reported_with_the_reason() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.lorchestra(&["run-job", "misbehave", "print"]).exits(0);
    let logs = sandbox.state().join("logs").join(sandbox.run().id());
    fs::remove_dir_all(&logs).unwrap();
    fs::write(&logs, "").unwrap();
    sandbox.configure("[retention]\nlogs = \"0s\"");
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let expected = format!("warning: cannot remove old runs: {}: Not a directory", logs.display());
    assert!(ended.err().starts_with(&expected), "{}", ended.shown());
}

/// Another program's database is not written to.
#[test]
fn an_invalid_store_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    fs::create_dir_all(sandbox.state()).unwrap();
    let store = sandbox.state().join("lorchestra.db");
    fs::write(&store, "dear diary, ".repeat(1000)).unwrap();
    let before = fs::read(&store).unwrap();
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(78);
    assert!(ended.err().contains("is not a lorchestra store"), "{}", ended.shown());
    assert_eq!(fs::read(&store).unwrap(), before);
}

/// A damaged store of lorchestra's own: the hints explain how to recover the history, not only how to start a new one.
#[test]
fn a_damaged_store_is_reported_with_recovery_steps() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    // Enough for a checkpoint of the WAL into the database, so that damaging the database matters.
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "5000"]).exits(0);
    let store = sandbox.state().join("lorchestra.db");
    for beside in ["lorchestra.db-wal", "lorchestra.db-shm"] {
        fs::remove_file(sandbox.state().join(beside)).unwrap();
    }
    let half = fs::metadata(&store).unwrap().len() / 2;
    fs::OpenOptions::new().write(true).open(&store).unwrap().set_len(half).unwrap();
    for args in [&["run-job", "misbehave", "noop"][..], &["runs", "list"]] {
        let ended = sandbox.lorchestra(args).exits(78);
        assert!(ended.err().contains("lorchestra.db is damaged: "), "{}", ended.shown());
        assert!(
            ended.err().contains("lorchestra.db-wal") && ended.err().contains("lorchestra.db .recover to salvage"),
            "{}",
            ended.shown()
        );
    }
    assert_eq!(fs::metadata(&store).unwrap().len(), half);
}

#[test]
fn a_directory_in_place_of_the_store_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    fs::create_dir_all(sandbox.state().join("lorchestra.db")).unwrap();
    let ended = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(78);
    assert!(ended.err().contains("is not a lorchestra store: it is not a regular file"), "{}", ended.shown());
    assert!(!ended.err().contains("free space"), "{}", ended.shown());
}

/// Names are bytes: lorchestra's own paths may contain any. Only the job's data directory is passed as JSON.
#[test]
fn only_the_data_directory_must_be_utf8() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let odd = sandbox.root().join(OsStr::from_bytes(b"odd\xff"));
    let run = |variable: &str| {
        let mut command =
            sandbox.command(&["run-job", "--plugin-dir", &sandbox.plugins().display().to_string(), "misbehave", "noop"]);
        command.env(variable, &odd);
        Running::start(command).wait()
    };
    run("XDG_STATE_HOME").exits(0);
    assert!(odd.join("lorchestra/lorchestra.db").is_file(), "the state is there");
    let refused = run("XDG_DATA_HOME").exits(78);
    assert!(refused.err().contains("the data directory") && refused.err().contains("set data_dir"), "{}", refused.shown());
}
