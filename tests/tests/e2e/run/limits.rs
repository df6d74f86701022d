//! `--memory-max`: the job cannot use more, and its end reports that.

use lorchestra_tests::{Fixture, Sandbox};

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

#[test]
fn a_job_that_allocates_without_end_is_ended_by_its_limit() {
    let sandbox = sandbox();
    let ended = sandbox
        .lorchestra(&["run-job", "--memory-max", "96M", "misbehave", "allocate", "--marker", &sandbox.arg("marker")])
        .exits(1);
    let had: u64 = sandbox.read("marker").parse().expect("it began to allocate");
    assert!((32..96).contains(&had), "{had} MiB: {}", ended.shown());
    insta::assert_snapshot!(ended.snapshot(&sandbox));
    let run = sandbox.run();
    assert_eq!((run.cause(), run.message().contains("it exceeded its memory limit of 96M (--memory-max)")), ("signal", true));
    let logs = sandbox.lorchestra(&["runs", "logs", run.id()]).exits(0);
    assert!(String::from_utf8_lossy(&logs.stdout).contains("memory allocation of"), "{}", logs.shown());
    assert_eq!(sandbox.whole_events_of(&run)[0].payload()["memory_max"], 96 << 20);
    sandbox.install(Fixture::Constructor, "libconstructor.so");
    sandbox.lorchestra(&["run-job", "constructor", "loaded"]).exits(0);
}

/// If a job aborts for a reason of its own, the message does not claim that it ran out of memory.
#[test]
fn an_abort_under_a_limit_is_not_blamed_on_it() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "--memory-max", "1G", "misbehave", "abort"]).exits(1);
    let message = sandbox.run().message().to_owned();
    assert!(message.contains("its memory limit is 1G") && !message.contains("it exceeded its memory limit of"), "{message}");
}

#[test]
fn a_job_below_its_limit_is_not_affected() {
    let sandbox = sandbox();
    sandbox.configure("[job.\"misbehave/burst\"]\nmemory_max = \"96M\"\n");
    sandbox.lorchestra(&["run-job", "misbehave", "burst", "--count", "2000"]).exits(0);
    assert_eq!(sandbox.whole_events_of(&sandbox.run())[0].payload()["memory_max"], 96 << 20);
}

/// The minimum value is enough to load a library and to call a job.
#[test]
fn with_the_least_memory_a_plugin_can_be_loaded() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "--memory-max", "16M", "misbehave", "numbered", "--count", "100"]).exits(0);
    let run = sandbox.run();
    assert_eq!(sandbox.numbers_of(&run).len(), 100);
    for (bad, what) in [("15M", "use 16M or more"), ("512", "unit is missing"), ("lots", "is not a size")] {
        let ended = sandbox.lorchestra(&["run-job", "--memory-max", bad, "misbehave", "noop"]).exits(2);
        assert!(ended.err().contains(what), "{}", ended.shown());
    }
}
