//! The standard streams of `run-job` in the states in which hosts may leave them: closed, on a full disk, a pipe without another end, a
//! pipe that is never read. None of them affects a run.

use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::{DEADLINE, Fixture, Sandbox, eventually};
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The state of a standard descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Closed,
    /// `/dev/full`: every write fails. As an input, endless zeros.
    Full,
    /// A pipe whose other end is closed.
    Dead,
    /// A full pipe that is never read. As an input, one that is never written to.
    Blocked,
}

const KINDS: [Kind; 4] = [Kind::Closed, Kind::Full, Kind::Dead, Kind::Blocked];

/// The descriptor for a child, and the other end, which must be kept open.
fn end(kind: Kind, input: bool) -> (Option<File>, Option<File>) {
    match kind {
        Kind::Closed => (None, None),
        Kind::Full => (Some(File::options().read(true).write(true).open("/dev/full").unwrap()), None),
        Kind::Dead | Kind::Blocked => {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
            let (read, mut write) = (File::from(read), File::from(write));
            if kind == Kind::Blocked && !input {
                rustix::io::ioctl_fionbio(&write, true).unwrap();
                while write.write(&[b'.'; 4096]).is_ok() {}
                while write.write(b".").is_ok() {}
                rustix::io::ioctl_fionbio(&write, false).unwrap();
            }
            let (own, other) = if input { (read, write) } else { (write, read) };
            (Some(own), (kind == Kind::Blocked).then_some(other))
        }
    }
}

/// Waits for the end of a command whose output is not collected.
fn exit_code(child: &mut Child, what: &str) -> Option<i32> {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{what}: it did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One run with these three descriptors; returns its exit code.
fn run(sandbox: &Sandbox, kinds: [Kind; 3], args: &[&str]) -> Option<i32> {
    let mut closed = String::new();
    let mut others = Vec::new();
    let mut stdio = Vec::new();
    for (number, kind) in kinds.into_iter().enumerate() {
        let (own, other) = end(kind, number == 0);
        if own.is_none() {
            closed.push_str(&format!("exec {number}>&-\n"));
        }
        stdio.push(own.map_or_else(Stdio::null, Stdio::from));
        others.extend(other);
    }
    let mut command: Command = sandbox.command_by(&closed, args);
    let mut stdio = stdio.into_iter();
    let mut next = || stdio.next().unwrap();
    command.stdin(next()).stdout(next()).stderr(next());
    let mut child = command.spawn().unwrap();
    drop(command);
    exit_code(&mut child, &format!("{kinds:?} {args:?}"))
}

#[test]
fn a_run_ends_as_its_job_did_with_any_standard_descriptors() {
    let trace = ["run-job", "-v", "misbehave", "trace_much", "--count", "300"];
    let mut cases: Vec<([Kind; 3], &[&str])> = Vec::new();
    for stdin in KINDS {
        for stdout in KINDS {
            for stderr in KINDS {
                cases.push(([stdin, stdout, stderr], &["run-job", "misbehave", "noop"]));
                cases.push(([stdin, stdout, stderr], &trace));
                if stdin == stdout {
                    cases.push(([stdin, stdout, stderr], &["run-job", "-v", "misbehave", "fail"]));
                    cases.push(([stdin, stdout, stderr], &["run-job", "misbehave", "fail"]));
                }
            }
        }
    }
    let all = cases.len();
    let cases = Mutex::new(cases);
    let next = || cases.lock().unwrap().pop();
    let work = || {
        while let Some((kinds, args)) = next() {
            let sandbox = Sandbox::with(&[Fixture::Misbehave]);
            let code = run(&sandbox, kinds, args);
            let what = format!("{kinds:?} {args:?} ended with {code:?}");
            let fails = args.contains(&"fail");
            let only = sandbox.run();
            if fails {
                assert_eq!((only.state(), only.cause(), code), ("failed", "error", Some(1)), "{what}");
            } else {
                // Failing to print the outcome is not the run's failure, but is not hidden either.
                let unprinted = matches!(kinds[1], Kind::Full | Kind::Blocked);
                assert_eq!((only.state(), code), ("completed", Some(if unprinted { 74 } else { 0 })), "{what}");
            }
            sandbox.whole_events_of(&only);
        }
    };
    // Most of them wait for a reader, not for a processor.
    std::thread::scope(|scope| {
        (0..24).map(|_| scope.spawn(work)).collect::<Vec<_>>().into_iter().for_each(|t| t.join().unwrap())
    });
    assert_eq!((all, cases.into_inner().unwrap().len()), (160, 0));
}

/// Output that a temporarily slow reader did not read at once is complete afterwards.
#[test]
fn a_late_reader_gets_the_complete_trace() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let (own, other) = end(Kind::Blocked, false);
    let mut command = sandbox.command(&["run-job", "-v", "misbehave", "numbered", "--begin", &sandbox.arg("begin")]);
    command.stdout(Stdio::null()).stderr(own.unwrap());
    let mut child = command.spawn().unwrap();
    drop(command);
    eventually("the job has started", || sandbox.path("begin.wanted").exists());
    std::thread::sleep(Duration::from_millis(700));
    let mut other = other.unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut other, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    });
    fs::write(sandbox.path("begin"), "").unwrap();
    assert_eq!(exit_code(&mut child, "a late reader"), Some(0));
    let text = reader.join().unwrap();
    let text = text.trim_start_matches('.');
    assert!(text.contains("run started") && text.contains("run ended"), "{text}");
}

/// As under cron: stderr is a file on a disk that is full for a while, and the store is on the same disk.
#[test]
fn a_temporarily_full_disk_under_store_and_stderr_does_not_affect_a_run() {
    let sandbox = Sandbox::with_binary(&[Fixture::Misbehave]);
    let disk = |name: &str| (sandbox.state().join(name), 1024);
    let Some(disks) = SmallDisks::mount(&sandbox, &[disk(""), disk("spool"), disk("logs")]) else { return };
    for verbose in [&[][..], &["-vv"]] {
        for name in ["begin", "begin.wanted", "end", "acknowledged"] {
            let _ = fs::remove_file(sandbox.path(name));
        }
        let [begin, end, acknowledged] = ["begin", "end", "acknowledged"].map(|name| sandbox.arg(name));
        let job = ["misbehave", "numbered", "--begin", &begin, "--end", &end, "--acknowledged", &acknowledged];
        let args = [&["run-job"][..], verbose, &job].concat();
        let mut command = disks.command(&sandbox, &args);
        let err = disks.path(&sandbox.state().join("cron.err"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&err).unwrap());
        let mut child = command.spawn().unwrap();
        eventually("the job has started", || sandbox.path("begin.wanted").exists());
        let ballast = disks.fill(&sandbox.state());
        fs::write(sandbox.path("begin"), "").unwrap();
        eventually("all is emitted", || sandbox.read("acknowledged").lines().count() == 100);
        // Several attempts to write the store, each with a message.
        std::thread::sleep(Duration::from_millis(2500));
        fs::remove_file(ballast).unwrap();
        fs::write(sandbox.path("end"), "").unwrap();
        assert_eq!(exit_code(&mut child, "a full disk"), Some(0), "{}", fs::read_to_string(&err).unwrap());
        let events = disks.start(&sandbox, &["events", "list", "--json"]).wait().exits(0);
        let of = |kind: &str| events.json_lines("lorchestra.event/1").iter().filter(|e| e["event_type"] == kind).count();
        let runs = if verbose.is_empty() { 1 } else { 2 };
        assert_eq!((of("number"), of("job.completed")), (100 * runs, runs), "{}", events.shown());
    }
}

/// A user has stopped the terminal (Ctrl-S) and wants the run to end: it does, although its progress and trace cannot be shown.
#[test]
fn a_blocked_standard_error_does_not_keep_a_signal_from_ending_the_run() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let (own, _other) = end(Kind::Blocked, false);
    let mut command = sandbox.command(&["run-job", "-v", "misbehave", "wait", "--marker", &sandbox.arg("marker")]);
    command.stdout(Stdio::null()).stderr(own.unwrap());
    let mut child = command.spawn().unwrap();
    eventually("the job has started", || !sandbox.read("marker").is_empty());
    lorchestra_tests::processes::signal(child.id(), Signal::TERM);
    assert_eq!(exit_code(&mut child, "a signal"), Some(128 + 15));
    assert_eq!(sandbox.run().cause(), "cancelled");
}
