//! `jobs list` and `jobs show`, compared literally; messages for unknown packages and jobs; JSON of every command.

use insta::assert_snapshot;
use lorchestra_tests::{Fixture, Sandbox, built};
use std::path::Path;

const SAMPLE: [Fixture; 2] = [Fixture::Ingester, Fixture::Canonizer];

#[test]
fn all_packages_are_listed_sorted() {
    let sandbox = Sandbox::with(&SAMPLE);
    let ended = sandbox.lorchestra(&["jobs", "list"]).exits(0);
    assert_eq!(
        ended.out(),
        "canonizer:\n  canonicalize_email\n  canonicalize_message\ningester:\n  extract_gmail\n  extract_slack\n"
    );
    assert_eq!(ended.err(), "");
}

#[test]
fn the_jobs_of_one_package_are_listed_sorted() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Ingester]);
    let ended = sandbox.lorchestra(&["jobs", "list", "ingester"]).exits(0);
    assert_eq!(ended.out(), "Jobs in ingester:\n  extract_gmail\n  extract_slack\n");
    let ended = sandbox.lorchestra(&["jobs", "list", "misbehave"]).exits(0);
    let mut lines: Vec<&str> = ended.out().lines().collect();
    assert_eq!(lines.remove(0), "Jobs in misbehave:");
    assert!(lines.len() > 20 && lines.is_sorted(), "{}", ended.shown());
}

#[test]
fn a_job_is_shown_with_its_parameters_and_description() {
    let sandbox = Sandbox::with(&SAMPLE);
    let ended = sandbox.lorchestra(&["jobs", "show", "ingester", "extract_gmail"]).exits(0);
    assert_snapshot!(ended.snapshot(&sandbox));
}

/// Two libraries in one directory: a host that remembers the first one per type would answer for both with the first.
#[test]
fn two_packages_in_one_directory_each_show_their_own() {
    let sandbox = Sandbox::with(&SAMPLE);
    let cases = [
        (
            "ingester",
            "extract_gmail",
            "example-plugins/ingester",
            "src/gmail.rs",
            "Extract mail from Gmail",
            "source: Option<PathBuf>",
        ),
        (
            "canonizer",
            "canonicalize_email",
            "example-plugins/canonizer",
            "src/email_job.rs",
            "Convert the mail",
            "input: Option<PathBuf>",
        ),
    ];
    for (package, job, root, file, docs, param) in cases {
        let ended = sandbox.lorchestra(&["jobs", "show", package, job]).exits(0);
        let line = line_of(&built::workspace().join(root).join(file), &format!("fn {job}("));
        let library = sandbox.plugins().join(format!("lib{package}.so"));
        let lines: Vec<&str> = ended.out().lines().collect();
        assert_eq!(lines[0], format!("{package}/{job}"));
        assert_eq!(lines[1], format!("Location: {} ({file}:{line})", library.display()));
        assert!(lines[2].starts_with("Signature: (cx, ") && lines[2].contains(param), "{}", ended.shown());
        assert_eq!(lines[3], "");
        assert!(lines[4].starts_with(docs), "{}", ended.shown());
    }
}

/// The number of the line with `text`, from 1.
fn line_of(file: &Path, text: &str) -> usize {
    let source = std::fs::read_to_string(file).unwrap();
    1 + source.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text} in {}", file.display()))
}

#[test]
fn an_unknown_package_is_reported_with_the_nearest_names_and_searched_directories() {
    let sandbox = Sandbox::with(&SAMPLE);
    for args in [&["jobs", "list", "ingestor"][..], &["jobs", "show", "ingestor", "x"], &["run-job", "ingestor", "x"]] {
        let ended = sandbox.lorchestra(args).exits(1);
        let lines: Vec<&str> = ended.err().lines().collect();
        assert_eq!(lines[0], "Unknown package: ingestor");
        assert_eq!(lines[1], "  did you mean ingester?");
        let looked = format!("  looked in {} (the plugin directory): 2 plugin files", sandbox.plugins().display());
        assert_eq!(lines[2], looked);
        assert_eq!(ended.out(), "");
    }
}

#[test]
fn the_searched_directories_are_listed_with_their_origins() {
    let sandbox = Sandbox::with(&[]);
    std::fs::write(sandbox.path("file"), "").unwrap();
    let path = format!("{}:{}", sandbox.arg("missing"), sandbox.arg("file"));
    let ended = sandbox.lorchestra_with(&[("LORCHESTRA_PLUGIN_PATH", &path)], &["jobs", "list", "nothing"]).exits(1);
    assert_snapshot!(ended.snapshot(&sandbox));
    let ended =
        sandbox.lorchestra(&["--plugin-dir", &sandbox.arg("a"), "--plugin-dir", &sandbox.arg("b"), "jobs", "list", "x"]).exits(1);
    assert!(ended.err().contains("/a (--plugin-dir): does not exist"), "{}", ended.shown());
    assert!(ended.err().contains("/b (--plugin-dir): does not exist"), "{}", ended.shown());
    assert!(!ended.err().contains("the plugin directory"), "--plugin-dir replaces all: {}", ended.shown());
}

#[test]
fn an_unknown_job_is_reported_with_the_nearest_names() {
    let sandbox = Sandbox::with(&SAMPLE);
    for args in [&["jobs", "show", "ingester", "extract_gmial"][..], &["run-job", "ingester", "extract_gmial"]] {
        let ended = sandbox.lorchestra(args).exits(1);
        let expected = format!(
            "Unknown job: ingester/extract_gmial\n  did you mean extract_gmail, extract_slack?\n  looked in {}\n  lorchestra jobs list ingester\n",
            sandbox.plugins().join("libingester.so").display()
        );
        assert_eq!(ended.err(), expected);
    }
}

#[test]
fn an_empty_plugin_directory_is_reported() {
    let sandbox = Sandbox::with(&[]);
    let ended = sandbox.lorchestra(&["jobs", "list"]).exits(0);
    assert_snapshot!(ended.snapshot(&sandbox));
}

#[test]
fn help_begins_with_examples() {
    let sandbox = Sandbox::with(&SAMPLE);
    for args in [&["--help"][..], &["run-job", "--help"], &["jobs", "list", "--help"], &["runs", "list", "--help"]] {
        let ended = sandbox.lorchestra(args).exits(0);
        assert!(ended.out().starts_with("Example"), "{}", ended.shown());
    }
    let ended = sandbox.lorchestra(&["run-job", "ingester", "extract_gmail", "--help"]).exits(0);
    assert!(ended.out().contains("--source <PATH>") && ended.out().contains("Account name"), "{}", ended.shown());
    let begin = "Examples:\n  lorchestra run-job ingester extract_gmail --since -7d\n";
    assert!(ended.out().starts_with(begin), "{}", ended.shown());
    assert!(ended.out().contains("\nUsage: lorchestra run-job ingester extract_gmail [OPTIONS]\n"), "{}", ended.shown());
    // Required parameters are in both.
    let required = Sandbox::with(&[Fixture::Kit]).lorchestra(&["run-job", "kit", "advance", "--help"]).exits(0);
    assert!(required.out().starts_with("Examples:\n  lorchestra run-job kit advance --marker PATH\n"), "{}", required.shown());
    assert!(
        required.out().contains("\nUsage: lorchestra run-job kit advance --marker <PATH> [OPTIONS]\n"),
        "{}",
        required.shown()
    );
    // The help does not keep the line breaks of a docstring: a line is short only if the next word does not fit.
    let lines: Vec<&str> = ended.out().lines().skip_while(|line| !line.starts_with("Writes one JSON line")).collect();
    for pair in lines.windows(2).take_while(|pair| !pair[1].is_empty()) {
        let word = pair[1].split(' ').next().unwrap_or_default();
        assert!(pair[0].len() + 1 + word.len() > 100, "{pair:?}");
    }
}

#[test]
fn help_is_a_command_too() {
    let sandbox = Sandbox::with(&[]);
    for (command, flag) in [
        (&["help"][..], &["--help"][..]),
        (&["help", "jobs", "list"], &["jobs", "list", "--help"]),
        (&["help", "run-job"], &["run-job", "--help"]),
    ] {
        let (command, flag) = (sandbox.lorchestra(command).exits(0), sandbox.lorchestra(flag).exits(0));
        assert!(command.out().starts_with("Example"), "{}", command.shown());
        let first =
            |text: &str| text.lines().take_while(|line| !line.starts_with("Options")).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(first(command.out()), first(flag.out()));
    }
    let ended = sandbox.lorchestra(&["help", "nothing"]).exits(2);
    assert!(ended.err().contains("nothing"), "{}", ended.shown());
}

#[test]
fn help_without_a_job_names_the_jobs() {
    let sandbox = Sandbox::with(&SAMPLE);
    let run_job = sandbox.lorchestra(&["run-job", "--help"]).exits(0);
    assert!(run_job.out().contains("Usage: lorchestra run-job") && !run_job.out().contains("Jobs in"), "{}", run_job.shown());
    for args in [["run-job", "ingester", "--help"], ["run-job", "-h", "ingester"]] {
        let ended = sandbox.lorchestra(&args).exits(0);
        let jobs =
            "\n\nJobs in ingester:\n  extract_gmail\n  extract_slack\n\nFlags of a job: lorchestra run-job ingester JOB --help\n";
        assert_eq!(ended.out(), format!("{}{jobs}", run_job.out().trim_end()));
    }
    for args in [["run-job", "nope", "--help"], ["run-job", "--help", "nope"]] {
        let ended = sandbox.lorchestra(&args).exits(1);
        assert!(ended.out().is_empty() && ended.err().starts_with("Unknown package: nope\n"), "{}", ended.shown());
    }
    // Without --help, the missing job is an error.
    let ended = sandbox.lorchestra(&["run-job", "ingester"]).exits(2);
    assert!(ended.err().contains("<JOB>"), "{}", ended.shown());
    // Help works with an invalid configuration.
    sandbox.configure("nothing = 1");
    sandbox.lorchestra(&["run-job", "--help"]).exits(0);
    sandbox.lorchestra(&["--help"]).exits(0);
}

#[test]
fn help_has_no_trailing_blanks() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    for args in [
        &["run-job", "misbehave", "typed", "--help"][..],
        &["run-job", "misbehave", "wait", "-h"],
        &["jobs", "show", "misbehave", "wait"],
    ] {
        let ended = sandbox.lorchestra(args).exits(0);
        assert!(ended.out().lines().all(|line| line.trim_end() == line), "{}", ended.shown());
    }
}

#[test]
fn json_of_the_catalog() {
    let sandbox = Sandbox::with(&SAMPLE);
    let list = sandbox.lorchestra(&["jobs", "list", "--json"]).exits(0).json("lorchestra.jobs-list/1");
    let names: Vec<&str> = list["packages"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(names, ["canonizer", "ingester"]);
    assert_eq!(list["packages"][1]["jobs"][0]["name"], "extract_gmail");
    assert!(list["packages"][1]["bytes"].as_u64() > Some(100_000));
    assert_eq!(list["problems"], serde_json::json!([]));
    let one = sandbox.lorchestra(&["jobs", "list", "ingester", "--json"]).exits(0).json("lorchestra.jobs-list/1");
    assert_eq!(one["packages"].as_array().map(Vec::len), Some(1));
    let show =
        sandbox.lorchestra(&["jobs", "show", "ingester", "extract_gmail", "--json"]).exits(0).json("lorchestra.jobs-show/1");
    assert_eq!(show["params"][0]["flag"], "--source");
    assert_eq!(show["params"][0]["required"], false);
}

#[test]
fn json_of_runs() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let plan =
        sandbox.lorchestra(&["run-job", "misbehave", "typed", "--dry-run", "--json"]).exits(0).json("lorchestra.run-spec/1");
    assert_eq!(plan["params"]["page_size"], 500);
    let run = sandbox.lorchestra(&["run-job", "--json", "misbehave", "typed"]).exits(0).json("lorchestra.run-job/1");
    assert_eq!((run["state"].as_str(), run["cause"].as_str()), (Some("completed"), None));
    let failed = sandbox.lorchestra(&["run-job", "--json", "misbehave", "fail"]).exits(1).json("lorchestra.run-job/1");
    assert_eq!((failed["state"].as_str(), failed["cause"].as_str()), (Some("failed"), Some("error")));
    let id = run["run_id"].as_str().unwrap();
    let shown = sandbox.lorchestra(&["runs", "show", id, "--json"]).exits(0).json("lorchestra.runs-show/1");
    assert_eq!(shown["events"]["typed"], 1);
    assert_eq!(shown["spec"]["params"]["page_size"], 500);
    assert_eq!(sandbox.runs().len(), 2);
    let events = sandbox.events_of(id);
    let types: Vec<&str> = events.iter().map(|event| event.event_type()).collect();
    assert_eq!(types, ["job.started", "typed", "job.completed"]);
    assert_eq!(sandbox.lorchestra(&["runs", "list", "--running", "--json"]).exits(0).out(), "");
    assert_eq!(sandbox.lorchestra(&["runs", "list", "--limit", "1", "--json"]).exits(0).json("lorchestra.run/1")["job"], "fail");
}
