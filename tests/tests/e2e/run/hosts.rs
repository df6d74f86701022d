//! Hosts as set up by containers, chroots and service managers: limits, refused system calls, other namespaces and users. Each run
//! completes, or one message says what the host lacks; none hangs, panics, or is recorded with a false cause.

use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::{Ended, Fixture, Running, Sandbox, eventually, processes};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

const RUN: [&str; 3] = ["run-job", "misbehave", "noop"];

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

/// A sandbox with the rights to restrict its host, as an administrator of its own namespaces.
fn with_rights() -> Option<(Sandbox, SmallDisks)> {
    let sandbox = Sandbox::with_binary(&[Fixture::Misbehave]);
    let disks = SmallDisks::mount(&sandbox, &[(sandbox.path("disk"), 64)])?;
    Some((sandbox, disks))
}

/// No run is recorded with an invented cause.
#[track_caller]
fn nothing_is_made_up(sandbox: &Sandbox) {
    for run in sandbox.runs() {
        for wrong in ["ran out of memory", "supervisor and its worker died", "is dead"] {
            assert!(!run.message().contains(wrong), "{}", run.message());
        }
    }
}

/// The command as this user among processes that have a limit.
fn limited(sandbox: &Sandbox, limit: &str, args: &[&str]) -> Ended {
    Running::start(sandbox.command_by(limit, args)).wait()
}

#[test]
fn too_few_descriptors_are_reported_before_anything_starts() {
    let sandbox = sandbox();
    for most in 3..=20 {
        let ended = limited(&sandbox, &format!("ulimit -n {most}"), &RUN);
        if ended.code() == Some(127) {
            // The dynamic loader could not open the C library.
            assert!(most == 3 && ended.err().contains("shared object"), "{}", ended.shown());
            continue;
        }
        let ended = ended.exits(78);
        let expected = format!(
            "error: this process may have {most} files open at a time, and a run needs 64\n  raise the limit: ulimit -n 1024, or \
             LimitNOFILE=1024 in a systemd unit\n"
        );
        assert!(ended.err().starts_with(&expected), "{}", ended.shown());
    }
    assert!(sandbox.runs().is_empty(), "no run was begun");
    sandbox.lorchestra(&RUN).exits(0);
    // Commands that need fewer descriptors either work with fewer, or name the limit.
    for most in 4..=20 {
        for args in [&["runs", "list"][..], &["events", "list"], &["jobs", "list"], &["bookmarks", "show"]] {
            let ended = limited(&sandbox, &format!("ulimit -n {most}"), args);
            let named = ended.err().contains(&format!("this process may have {most} files open"));
            assert!(named || ended.code() == Some(0), "{most}: {}", ended.shown());
        }
    }
}

#[test]
fn too_few_processes_are_reported_and_no_run_is_abandoned() {
    // A separate uid, because the limit counts all processes of a user.
    let user = 300_000 + std::process::id() % 100_000;
    let sandbox = Sandbox::of_user(&[Fixture::Misbehave], user);
    let (mut completed, mut named) = (0, 0);
    for most in 0..=9 {
        let mut command = sandbox.command_by(&format!("exec prlimit --nproc={most} \"$0\" \"$@\""), &RUN);
        if !processes::is_root() {
            // A new user namespace starts counting at zero.
            let plain = command;
            command = Command::new("unshare");
            command.args(["--user", "--map-current-user"]).arg(plain.get_program()).args(plain.get_args());
            command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
            if !Command::new("unshare")
                .args(["--user", "--map-current-user", "true"])
                .status()
                .is_ok_and(|status| status.success())
            {
                eprintln!("NOT SHOWN: this user may make no user namespace, so no limit of processes of its own");
                return;
            }
        }
        let ended = Running::start(command).wait();
        match ended.code() {
            Some(0) => completed += 1,
            _ if ended.err().contains("limit of processes and threads") => named += 1,
            // If root maps no users there.
            _ if !processes::is_root() && ended.err().contains("does not map") => return,
            _ => panic!("{most}: {}", ended.shown()),
        }
    }
    assert!(completed > 0 && named > 2, "{completed} completed, {named} named the limit");
    sandbox.lorchestra(&RUN).exits(0);
    nothing_is_made_up(&sandbox);
}

#[test]
fn with_little_address_space_a_run_completes_or_reports_why() {
    let sandbox = sandbox();
    let mut codes = Vec::new();
    for mib in [12, 16, 20, 24, 26, 28, 30, 32, 34, 36, 40, 48, 64, 128, 512] {
        let mut child = sandbox.command_by(&format!("ulimit -v {}", mib << 10), &RUN);
        let output = child.output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code();
        codes.push((mib, code, output.status));
        assert!(!err.contains("panicked") && !err.contains("lorchestra itself failed"), "{mib} MiB: {err}");
        // If the kernel or the loader cannot even map the program, it has not started.
        let began = code.is_some_and(|code| code != 127);
        assert!(!began || code == Some(0) || !err.trim().is_empty(), "{mib} MiB: {}: without a message", output.status);
    }
    assert_eq!(codes.last().unwrap().1, Some(0), "{codes:?}");
    sandbox.lorchestra(&RUN).exits(0);
    nothing_is_made_up(&sandbox);
}

/// As container runtimes and `SystemCallFilter=` do.
#[test]
fn a_refused_system_call_is_worked_around_or_reported() {
    let memory = "this host refuses memory files; the likely cause is a seccomp filter";
    let start = "this host refuses to start a process; the likely cause is a seccomp filter";
    for (errno, call, named) in [
        ("38", "memfd_create", Some((126, memory, "allow memfd_create"))),
        ("1", "memfd_create", Some((126, memory, "allow memfd_create"))),
        ("1", "clone3", Some((78, start, "must return ENOSYS"))),
        ("38", "clone3", None),
        ("38", "pidfd_open,pidfd_send_signal", None),
        ("1", "pidfd_open,pidfd_send_signal", None),
        ("38", "pidfd_open,clone3,close_range,statx", None),
    ] {
        let sandbox = sandbox();
        for (job, code, cause) in [("noop", 0, ""), ("fail", 1, "error")] {
            let plain = sandbox.command(&["run-job", "misbehave", job]);
            let mut command = Command::new(env!("CARGO_BIN_EXE_refusing"));
            command.args([errno, call]).arg(plain.get_program()).args(plain.get_args()).current_dir(sandbox.root());
            command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let ended = Running::start(command).wait();
            match named {
                Some((code, what, hint)) => {
                    let ended = ended.exits(code);
                    assert!(ended.err().contains(what) && ended.err().contains(hint), "{call}: {}", ended.shown());
                }
                None => {
                    ended.exits(code);
                    assert_eq!(sandbox.runs()[0].cause(), cause, "{call}");
                }
            }
        }
        if named.is_some() {
            assert!(sandbox.runs().is_empty(), "{call}: no run was begun");
        }
    }
}

#[test]
fn runs_end_as_usual_if_lorchestra_is_pid_1() {
    let Some((sandbox, disks)) = with_rights() else { return };
    for proc in ["--mount-proc", ""] {
        let first = format!("exec unshare --pid --fork --kill-child {proc} -- \"$0\" \"$@\"");
        let run = |args: &[&str]| Running::start(disks.command_by(&sandbox, &first, args)).wait();
        run(&RUN).exits(0);
        run(&["run-job", "misbehave", "fail"]).exits(1);
        let timeout =
            run(&["run-job", "--timeout", "1s", "--grace", "1s", "misbehave", "wait", "--marker", &sandbox.arg("marker")]);
        timeout.exits(124);
        // Processes that left its group became children of the first process, as without lorchestra.
        run(&["run-job", "misbehave", "shell", "--command", "setsid sleep 300 & echo $! > daemon"]).exits(0);
        run(&["runs", "list"]).exits(0);
    }
    let runs = sandbox.runs();
    let causes: Vec<&str> = runs.iter().map(|run| run.cause()).collect();
    assert_eq!(causes, ["", "timeout", "error", "", "", "timeout", "error", ""]);
    nothing_is_made_up(&sandbox);
}

#[test]
fn a_run_of_another_container_is_not_considered_dead() {
    let Some((sandbox, disks)) = with_rights() else { return };
    let running = disks.start(&sandbox, &["run-job", "misbehave", "wait", "--marker", &sandbox.arg("marker")]);
    eventually("the job has started", || !sandbox.read("marker").is_empty());
    let id = sandbox.run().id().to_owned();
    let other = "exec unshare --pid --fork --kill-child --mount-proc -- \"$0\" \"$@\"";
    let elsewhere = |args: &[&str]| Running::start(disks.command_by(&sandbox, other, args)).wait();
    let ended = elsewhere(&["runs", "stop", &id]).exits(1);
    assert!(ended.err().contains("its supervisor runs in another PID namespace (a container)"), "{}", ended.shown());
    assert!(ended.err().contains("its lock is held") && !ended.err().contains("dead"), "{}", ended.shown());
    // Listing does not close it, and it is not run a second time.
    let listed = elsewhere(&["runs", "list"]).exits(0);
    assert!(listed.out().contains("running") && listed.err().is_empty(), "{}", listed.shown());
    let again = elsewhere(&["run-job", "misbehave", "wait", "--marker", &sandbox.arg("second")]).exits(75);
    assert!(!again.err().contains("dead"), "{}", again.shown());
    disks.start(&sandbox, &["runs", "stop", &id]).wait().exits(0);
    running.wait().exits(128 + 15);
    assert_eq!(sandbox.run().cause(), "cancelled");
}

#[test]
fn without_proc_a_run_fails_clearly_and_listings_work() {
    let Some((sandbox, disks)) = with_rights() else { return };
    disks.start(&sandbox, &RUN).wait().exits(0);
    let without = "mount -t tmpfs tmpfs /proc";
    let run = |args: &[&str]| {
        let inner = format!("exec unshare -m sh -c '{without} && exec \"$0\" \"$@\"' \"$0\" \"$@\"");
        Running::start(disks.command_by(&sandbox, &inner, args)).wait()
    };
    let library = sandbox.plugins().join("libmisbehave.so").display().to_string();
    for (args, code) in [(&RUN[..], 78), (&["plugins", "check", &library], 78)] {
        let ended = run(args).exits(code);
        assert!(ended.err().contains("/proc is not mounted"), "{}", ended.shown());
        assert!(ended.err().contains("\n  mount it: mount -t proc proc /proc"), "{}", ended.shown());
    }
    for args in [&["jobs", "list"][..], &["runs", "list"], &["events", "list"]] {
        run(args).exits(0);
    }
    assert_eq!(sandbox.runs().len(), 1);
}

#[test]
fn without_devices_a_run_completes() {
    let Some((sandbox, disks)) = with_rights() else { return };
    let inner = "exec unshare -m sh -c 'mount -t tmpfs tmpfs /dev && exec \"$0\" \"$@\"' \"$0\" \"$@\"";
    let library = sandbox.plugins().join("libmisbehave.so").display().to_string();
    for args in [&RUN[..], &["plugins", "check", &library]] {
        Running::start(disks.command_by(&sandbox, inner, args)).wait().exits(0);
    }
    assert_eq!(sandbox.run().state(), "completed");
}

/// The program, its C library, one plugin, a home: no shell, no /tmp, no /etc.
#[test]
fn in_an_empty_root_a_run_needs_nothing_but_proc() {
    let Some((sandbox, disks)) = with_rights() else { return };
    let root = sandbox.path("empty");
    let copy = |from: &std::path::Path, to: &str| {
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        assert!(Command::new("cp").arg("-L").arg(from).arg(&to).status().unwrap().success());
    };
    copy(&sandbox.path("lorchestra"), "/lorchestra");
    copy(&sandbox.plugins().join("libmisbehave.so"), "/home/.local/share/lorchestra/plugins/libmisbehave.so");
    let libraries = Command::new("ldd").arg(root.join("lorchestra")).output().unwrap();
    for path in String::from_utf8(libraries.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        copy(std::path::Path::new(path), path);
    }
    fs::create_dir(root.join("proc")).unwrap();
    let at = root.display();
    let run = |with: &str, args: &[&str]| {
        let inner = format!(
            "export HOME=/home PATH=\"$PATH:/usr/sbin:/sbin\"; exec unshare -m sh -c '{with} shift; exec chroot {at} /lorchestra \"$@\"' - \"$0\" \"$@\""
        );
        Running::start(disks.command_by(&sandbox, &inner, args)).wait()
    };
    let proc = format!("mount --rbind /proc {at}/proc;");
    let ended = run("", &RUN).exits(78);
    assert!(ended.err().contains("/proc is not mounted"), "{}", ended.shown());
    run(&proc, &RUN).exits(0);
    run(&proc, &["run-job", "misbehave", "fail"]).exits(1);
    let listed = run("", &["runs", "list", "--json"]).exits(0).json_lines("lorchestra.run/1");
    let causes: Vec<_> = listed.iter().map(|run| run["cause"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(causes, ["error", ""]);
}

/// The kernel sends SIGKILL at the hard limit: the cause is the limit, not memory.
#[test]
fn a_used_up_cpu_limit_is_reported() {
    let sandbox = Sandbox::with(&[Fixture::Hostile]);
    let marker = sandbox.arg("marker");
    for (limit, signal) in [("ulimit -t 1", "SIGKILL"), ("ulimit -S -t 1", "SIGXCPU")] {
        let ended = limited(&sandbox, limit, &["run-job", "hostile", "spin", "--marker", &marker]).exits(1);
        let expected = format!("was killed by {signal}");
        assert!(ended.err().contains(&expected), "{}", ended.shown());
        assert!(ended.err().contains(": it used up its processor time limit of 1 s (ulimit -t"), "{}", ended.shown());
    }
    nothing_is_made_up(&sandbox);
}

/// lorchestra makes a directory private only if nothing else uses it, so it must know every file of a state directory.
#[test]
fn a_state_directory_of_any_name_is_known_by_its_files() {
    let sandbox = sandbox();
    let state = sandbox.path("of-another-name");
    let mut command = sandbox.command(&RUN);
    command.env("XDG_STATE_HOME", &state);
    Running::start(command).wait().exits(0);
    let state = state.join("lorchestra");
    let moved = sandbox.path("history");
    fs::rename(&state, &moved).unwrap();
    assert!(lorchestra_core::host::rights::is_ours(&moved), "{:?}", fs::read_dir(&moved).unwrap().collect::<Vec<_>>());
}

/// If another user's file is where a directory is needed, no hint suggests moving the file.
#[test]
fn no_hint_suggests_moving_another_users_file() {
    let sandbox = sandbox();
    for at in ["/etc/passwd", "/dev/null"] {
        let mut command = sandbox.command(&["runs", "list"]);
        command.env("XDG_STATE_HOME", at);
        let ended = Running::start(command).wait().exits(78);
        assert!(!ended.err().contains("move "), "{}", ended.shown());
        assert!(ended.err().contains(&format!("choose a path other than {at}")), "{}", ended.shown());
    }
}

/// As in OpenShift: a uid without a name, and `/` as its home.
#[test]
fn no_hint_gives_the_root_directory_to_a_user_without_a_home() {
    if !processes::is_root() {
        eprintln!("NOT SHOWN: only root can become another user");
        return;
    }
    let sandbox = Sandbox::of_user(&[Fixture::Misbehave], 123_456);
    for home in ["/", "/usr", "/nowhere/deep"] {
        let mut command =
            sandbox.command(&["--plugin-dir", &sandbox.plugins().display().to_string(), "run-job", "misbehave", "noop"]);
        command.env("HOME", home).uid(123_456).gid(0);
        let ended = Running::start(command).wait().exits(74);
        assert!(!ended.err().contains("chown") && !ended.err().contains("chmod"), "{}", ended.shown());
        assert!(ended.err().contains("this user may not write to /"), "{}", ended.shown());
        assert!(ended.err().contains("or set state_dir in config.toml, or XDG_STATE_HOME"), "{}", ended.shown());
    }
}

/// If the user namespace does not map root, `/` belongs to 65534, as do all files of other users: no command could change that.
#[test]
fn if_root_is_not_mapped_the_namespace_is_named() {
    let sandbox = Sandbox::with_binary(&[Fixture::Misbehave]);
    let mut probe = Command::new("unshare");
    if !probe.args(["--user", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("NOT SHOWN: no user namespace can be made here");
        return;
    }
    let plain = sandbox.command(&["jobs", "list"]);
    let mut command = Command::new("unshare");
    command.args(["--user"]).arg(plain.get_program()).args(plain.get_args()).current_dir("/");
    command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ended = Running::start(command).wait();
    assert!(ended.err().contains("a user whom this user namespace does not map (it shows as 65534)"), "{}", ended.shown());
    assert!(ended.err().contains("fix: run it in a user namespace that maps that user"), "{}", ended.shown());
    assert!(!ended.err().contains("chown") && ended.out().is_empty(), "{}", ended.shown());
}
