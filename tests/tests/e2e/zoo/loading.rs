//! Libraries that attack the process that loads them: `tests/plugins/constructor` with a `CONSTRUCTOR_FAULT`.

use super::{Book, COMPLETED, another_works, ended_as, fired};
use lorchestra_tests::{Fixture, Sandbox};

/// The fault; flags of run-job; the exit code; the end; the number of processes the constructor ran in.
type Specimen = (&'static str, &'static [&'static str], i32, &'static str, usize);

const AT_ONCE: &[&str] = &["--timeout", "2s", "--grace", "0s"];

#[rustfmt::skip]
const SPECIMENS: &[Specimen] = &[
    ("abort",    &[],     126, "load",    1),
    ("null",     &[],     126, "load",    1),
    ("panic",    &[],     126, "load",    1),
    ("overflow", &[],     126, "load",    1),
    // exit(0), _exit(0), execve("/bin/true")
    ("exit",     &[],     126, "load",    1),
    ("leave",    &[],     126, "load",    1),
    ("exec",     &[],     126, "load",    1),
    // Sleeps forever; ignores the signals that would end it, and sleeps forever.
    ("sleep",    AT_ONCE, 124, "timeout", 1),
    ("deaf",     AT_ONCE, 124, "timeout", 1),
    // Forks: the copy keeps what it inherited and sleeps, or continues as a second worker.
    ("fork",     &[],     0, COMPLETED,   2),
    ("double",   &[],     0, COMPLETED,   2),
    // The copy continues in place of the worker, which sleeps.
    ("instead",  AT_ONCE, 124, "timeout", 2),
    // The same by a system call, of which the C library knows nothing.
    ("clone",    AT_ONCE, 124, "timeout", 2),
    // The copy leaves the process group, holds stdout, and sleeps.
    ("daemon",   &[],     0, COMPLETED,   2),
    // Closes every descriptor, including the spool's.
    ("close",    &[],     1, "spool",     1),
    // Sixteen megabytes on stdout; a thread that never ends.
    ("flood",    &[],     0, COMPLETED,   1),
    ("thread",   &[],     0, COMPLETED,   1),
];

#[test]
fn a_constructor_harms_only_its_own_run() {
    let mut book = Book::default();
    for (fault, flags, code, end, processes) in SPECIMENS {
        let sandbox = Sandbox::with(&[Fixture::Constructor, Fixture::Misbehave]);
        let environment = [("CONSTRUCTOR_MARKER", &*sandbox.arg("marker")), ("CONSTRUCTOR_FAULT", *fault)];
        let ended = sandbox.lorchestra_with(&environment, &[&["run-job"], *flags, &["constructor", "loaded"]].concat());
        fired(&sandbox, fault, *processes);
        let run = ended_as(&sandbox, fault, &ended, *code, end);
        if *end == COMPLETED {
            let events = sandbox.whole_events_of(run.as_ref().expect("a run"));
            assert_eq!(events.len(), 3, "{fault}: the job ran once: {events:?}");
        }
        book.page(fault, &sandbox, &ended, run.as_ref());
        another_works(&sandbox, fault, "misbehave", "noop");
    }
    insta::assert_snapshot!("loading", book.text());
}

/// The fault; the exit code of `plugins check`, with unlimited time or two seconds.
const CHECKED: &[(&str, i32)] = &[
    ("abort", 126),
    ("null", 126),
    ("panic", 126),
    ("overflow", 126),
    ("exit", 126),
    ("leave", 126),
    ("exec", 126),
    ("sleep", 126),
    ("deaf", 126),
    ("fork", 0),
    ("double", 0),
    ("instead", 126),
    ("clone", 126),
    ("daemon", 0),
    // It cannot answer any more.
    ("close", 126),
    ("flood", 0),
    ("thread", 0),
];

/// The same libraries, checked before they are deployed: the check reports what would happen, and nothing is left of it.
#[test]
fn a_check_reports_what_a_constructor_does() {
    let mut book = Book::default();
    assert_eq!(CHECKED.len(), SPECIMENS.len());
    for ((fault, code), (specimen, .., processes)) in CHECKED.iter().zip(SPECIMENS) {
        assert_eq!(fault, specimen);
        let sandbox = Sandbox::with(&[Fixture::Constructor, Fixture::Misbehave]);
        let file = sandbox.plugins().join("libconstructor.so").display().to_string();
        let environment = [("CONSTRUCTOR_MARKER", &*sandbox.arg("marker")), ("CONSTRUCTOR_FAULT", *fault)];
        let late: &[&str] = if matches!(*fault, "sleep" | "deaf" | "instead" | "clone") { &["--timeout", "2s"] } else { &[] };
        let checked = sandbox.lorchestra_with(&environment, &[&["plugins", "check"], late, &[&*file]].concat());
        fired(&sandbox, fault, *processes);
        assert_eq!(checked.code(), Some(*code), "{fault}: {}", checked.shown());
        assert!(sandbox.processes().is_empty(), "{fault}: something is left");
        assert!(sandbox.runs().is_empty(), "{fault}: it is not recorded as a run");
        let loads = checked.out().lines().find(|line| line.trim_start().starts_with("loads:")).expect("a line about loading");
        let page = format!("== {fault}\nexit: {code}\n{}\n--- stderr\n{}\n", loads.trim(), checked.err());
        book.0.push_str(&lorchestra_tests::ended::redacted(&page, &sandbox));
        another_works(&sandbox, fault, "misbehave", "noop");
    }
    let took = regex_lite::Regex::new(r"in \d+\.\d ms").expect("a pattern of ours");
    insta::assert_snapshot!("check", took.replace_all(&book.text(), "in [N] ms"));
}
