//! How a person names a run: `last`, `PACKAGE/JOB`, the short id that commands print, an id or a part of one.

use lorchestra_tests::{Fixture, Sandbox};

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave])
}

/// Every message about a run's outcome contains a name that finds the run again.
#[test]
fn the_id_that_a_run_prints_names_it() {
    let sandbox = sandbox();
    let completed = sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let failed = sandbox.lorchestra(&["run-job", "misbehave", "fail"]).exits(1);
    let runs = sandbox.runs();
    let (failure, success) = (&runs[0], &runs[1]);
    assert_eq!(completed.out(), format!("✓ misbehave/noop completed (run {})\n", success.short()));
    assert!(failed.err().contains(&format!("lorchestra runs show {}\n", failure.short())), "{}", failed.shown());
    for run in [failure, success] {
        assert!(run.id().ends_with(run.short()) && run.short().len() == 8, "{run:?}");
        let shown = sandbox.lorchestra(&["runs", "show", run.short(), "--json"]).exits(0);
        assert_eq!(shown.json("lorchestra.runs-show/1")["run_id"], run.id());
        let listed = sandbox.lorchestra(&["runs", "list"]).exits(0);
        assert!(listed.out().contains(run.short()) && !listed.out().contains(run.id()), "{}", listed.shown());
    }
}

#[test]
fn last_and_a_job_name_the_newest_run() {
    let sandbox = sandbox();
    for job in ["noop", "fail", "noop"] {
        sandbox.lorchestra(&["run-job", "misbehave", job]);
    }
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "1"]).exits(0);
    let runs = sandbox.runs();
    let shown = |name: &str| {
        let shown = sandbox.lorchestra(&["runs", "show", name, "--json"]).exits(0);
        shown.json("lorchestra.runs-show/1")["run_id"].clone()
    };
    assert_eq!(shown("last"), runs[0].id());
    assert_eq!(shown("misbehave/noop"), runs[1].id(), "the newer of the two");
    assert_eq!(shown("misbehave/fail"), runs[2].id());
    sandbox.lorchestra(&["runs", "logs", "misbehave/fail"]).exits(0);
    let stopped = sandbox.lorchestra(&["runs", "stop", "last"]).exits(0);
    assert_eq!(stopped.out(), format!("Run {} has already ended: completed\n", runs[0].short()));
    let events = sandbox.lorchestra(&["events", "list", "--run", "last", "--json"]).exits(0);
    assert!(events.out().lines().all(|line| line.contains(runs[0].id())), "{}", events.shown());
}

/// A misspelt name must not look like a job without failures.
#[test]
fn a_misspelt_job_is_not_one_without_failed_runs() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "fail"]).exits(1);
    let rerun = |job: &str| sandbox.lorchestra(&["runs", "rerun", "--failed", "--dry-run", "--job", job]);
    let refused = rerun("misbehave/fial").exits(1);
    assert!(refused.err().starts_with("Unknown job: misbehave/fial\n  did you mean fail"), "{}", refused.shown());
    assert!(rerun("misbehave/fail").exits(0).out().contains("misbehave/fail"));
    assert!(rerun("misbehave/noop").exits(0).err().contains("No failed run"));
}

#[test]
fn an_unknown_name_is_reported_with_candidates() {
    let sandbox = sandbox();
    let empty = sandbox.lorchestra(&["runs", "show", "last"]).exits(1);
    assert!(empty.err().contains(&format!("looked in {}", sandbox.state().display())), "{}", empty.shown());
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    for unknown in ["misbehave/fail", "nobody/noop", "ffffffff", "misbehave/"] {
        let failed = sandbox.lorchestra(&["runs", "show", unknown]).exits(1);
        assert!(failed.err().starts_with(&format!("Unknown run: {unknown}\n")), "{}", failed.shown());
    }
    // Both started in the same minute, and an id starts with the time.
    let several = sandbox.lorchestra(&["runs", "show", &sandbox.runs()[0].id()[..6]]).exits(1);
    for run in sandbox.runs() {
        assert!(several.err().contains(run.short()), "{}", several.shown());
    }
    let few = sandbox.lorchestra(&["runs", "show", "a1"]).exits(1);
    assert!(few.err().contains("last") && few.err().contains("PACKAGE/JOB"), "{}", few.shown());
}

/// The form in which lorchestra prints a job is accepted wherever PACKAGE and JOB are.
#[test]
fn package_and_job_may_be_one_word() {
    let sandbox = sandbox();
    let both = |one: &[&str], two: &[&str]| {
        let (one, two) = (sandbox.lorchestra(one), sandbox.lorchestra(two));
        assert_eq!((one.code(), one.out(), one.err()), (two.code(), two.out(), two.err()), "{}", one.shown());
        assert_eq!(one.code(), Some(0), "{}", one.shown());
    };
    both(&["jobs", "show", "misbehave/typed"], &["jobs", "show", "misbehave", "typed"]);
    both(&["run-job", "misbehave/typed", "--help"], &["run-job", "misbehave", "typed", "--help"]);
    let backfill = ["--from", "2024-01-01", "--to", "2024-01-03", "--every", "1d", "--dry-run"];
    both(
        &[&["backfill", "misbehave/windowed"], &backfill[..]].concat(),
        &[&["backfill", "misbehave", "windowed"], &backfill[..]].concat(),
    );
    sandbox.lorchestra(&["run-job", "-q", "misbehave/print", "--lines", "2"]).exits(0);
    sandbox.lorchestra(&["bookmarks", "set", "misbehave/windowed", "2024-01-31"]).exits(0);
    both(&["bookmarks", "show", "misbehave/windowed"], &["bookmarks", "show", "misbehave", "windowed"]);
    sandbox.lorchestra(&["bookmarks", "reset", "misbehave/windowed"]).exits(0);
    let unknown = sandbox.lorchestra(&["run-job", "misbehave/nop"]).exits(1);
    assert!(unknown.err().starts_with("Unknown job: misbehave/nop\n  did you mean noop?"), "{}", unknown.shown());
    let listed = sandbox.lorchestra(&["jobs", "list", "misbehave/noop"]).exits(1);
    assert!(listed.err().contains("lorchestra jobs show misbehave/noop"), "{}", listed.shown());
}
