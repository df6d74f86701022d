//! Features of the plugin API: kinds of parameters, policies in the source, deprecation, progress.

use lorchestra_tests::eventually;
use lorchestra_tests::terminal::Terminal;
use lorchestra_tests::{Fixture, Sandbox};
use serde_json::{Value, json};

fn kit() -> Sandbox {
    Sandbox::with(&[Fixture::Kit])
}

/// The parameters that `kit/kinds` received.
#[track_caller]
fn given(sandbox: &Sandbox, flags: &[&str]) -> Value {
    let args: Vec<&str> = ["run-job", "kit", "kinds"].iter().chain(flags).copied().collect();
    sandbox.lorchestra(&args).exits(0);
    let events = sandbox.whole_events_of(&sandbox.runs()[0]);
    events.iter().find(|event| event.event_type() == "given").expect("the event given").payload().clone()
}

#[test]
fn values_of_all_kinds_reach_the_job() {
    let sandbox = kit();
    let defaults =
        json!({"every": 5400, "format": "Json", "formats": "[]", "names": [], "days": [], "wait": null, "nickname": null});
    assert_eq!(given(&sandbox, &[]), defaults);
    let flags = [
        "--every",
        "2d",
        "--format",
        "nd-json",
        "--formats",
        "json",
        "--formats",
        "nd-json",
        "--names",
        "b",
        "--param",
        "names=a",
        "--days",
        "2024-01-31",
        "--wait",
        "0s",
        "--nickname",
        "n",
    ];
    let all = json!({
        "every": 172_800, "format": "NdJson", "formats": "[Json, NdJson]", "names": ["b", "a"], "days": ["2024-01-31"], "wait": 0,
        "nickname": "n",
    });
    assert_eq!(given(&sandbox, &flags), all);
}

#[test]
fn lists_are_separated_by_commas_and_durations_have_milliseconds() {
    let sandbox = kit();
    let flags = [
        "--names",
        "b,a",
        "--names",
        "Berg\\, Anna",
        "--formats",
        "json,nd-json",
        "--days",
        "2024-01-31,2024-02-01",
        "--wait=1.5s",
    ];
    let seen = given(&sandbox, &flags);
    assert_eq!((&seen["names"], &seen["formats"]), (&json!(["b", "a", "Berg, Anna"]), &json!("[Json, NdJson]")));
    assert_eq!((&seen["days"], &seen["wait"]), (&json!(["2024-01-31", "2024-02-01"]), &json!(1500)));
    // What is shown can be typed again, and a spec with it can be run.
    let spec = sandbox.lorchestra(&["runs", "show", "last", "--spec"]).exits(0);
    assert!(spec.out().contains("\"wait\":1.5"), "{}", spec.shown());
    std::fs::write(sandbox.path("spec.json"), spec.out()).unwrap();
    sandbox.lorchestra(&["run-job", "--spec", &sandbox.arg("spec.json")]).exits(0);
    assert_eq!(given(&sandbox, &["--wait", "1.5"])["wait"], 1500);
    assert_eq!(given(&sandbox, &["--wait", "250ms"])["wait"], 250);
    let ended = sandbox.lorchestra(&["run-job", "kit", "kinds", "--names", "a,,b"]).exits(2);
    assert!(ended.err().contains("--names \"a,,b\": has an empty value between commas"), "{}", ended.shown());
    // A list in the file has separators of its own.
    sandbox.configure("[job.\"kit/kinds\".params]\nnames = [\"a,b\", \"c\"]\nwait = \"500ms\"\n");
    let seen = given(&sandbox, &[]);
    assert_eq!((&seen["names"], &seen["wait"]), (&json!(["a,b", "c"]), &json!(500)));
}

/// No shell expands `~` in a file, in a default, or after `=`.
#[test]
fn a_tilde_is_the_home_directory_in_every_path() {
    let sandbox = kit();
    let paths = |flags: &[&str]| {
        sandbox.lorchestra(&[&["run-job", "kit", "paths"], flags].concat()).exits(0);
        let events = sandbox.whole_events_of(&sandbox.runs()[0]);
        let seen = events.iter().find(|event| event.event_type() == "given").expect("it said so").payload().clone();
        seen.to_string().replace(&sandbox.home().display().to_string(), "HOME")
    };
    assert_eq!(paths(&[]), r#"{"many":[],"one":null,"standard":"HOME/mail"}"#);
    let typed = paths(&["--one=~/a", "--standard", "./~", "--many=~/b,~/c", "--param", "many=x~/y"]);
    assert_eq!(typed, r#"{"many":["HOME/b","HOME/c","x~/y"],"one":"HOME/a","standard":"./~"}"#);
    sandbox.configure("state_dir = \"~/elsewhere\"\n[job.\"kit/paths\".params]\none = \"~/a\"\nmany = [\"~/b\", \"~\"]\n");
    let moved = sandbox.lorchestra(&["run-job", "kit", "paths"]).exits(0);
    assert!(sandbox.home().join("elsewhere/lorchestra.db").exists(), "{}", moved.shown());
    let shown = sandbox.lorchestra(&["runs", "show", "last"]).exits(0);
    let shown = shown.out().replace(&sandbox.home().display().to_string(), "HOME");
    assert!(shown.contains("parameter  one = \"HOME/a\"\n") && shown.contains("many = [\"HOME/b\",\"HOME\"]\n"), "{shown}");
}

#[test]
fn the_values_of_a_parameter_are_shown() {
    let sandbox = kit();
    let show = sandbox.lorchestra(&["jobs", "show", "kit", "kinds"]).exits(0);
    let help = sandbox.lorchestra(&["run-job", "kit", "kinds", "--help"]).exits(0);
    insta::assert_snapshot!("kinds", format!("{}\n== --help\n{}", show.snapshot(&sandbox), help.out()));
    let show = sandbox.lorchestra(&["jobs", "show", "kit", "leak"]).exits(0);
    insta::assert_snapshot!("leak", show.snapshot(&sandbox));
    let shown = sandbox.lorchestra(&["jobs", "show", "kit", "kinds", "--json"]).exits(0).json("lorchestra.jobs-show/1");
    let format = shown["params"].as_array().unwrap().iter().find(|param| param["name"] == "formats").unwrap().clone();
    assert_eq!((&format["kind"], &format["repeated"], &format["required"]), (&json!("enum"), &json!(true), &json!(false)));
    assert_eq!(format["values"][1], json!({"name": "nd-json", "docs": "One object per line"}));
}

#[test]
fn invalid_values_are_refused_before_the_job() {
    let sandbox = kit();
    for (flags, says) in [
        (["--format", "xml"], "is not one of its values; write json or nd-json"),
        (["--format", "NDJSON"], "is not one of its values"),
        (["--format", "Json"], "write json"),
        (["--every", "90x"], "is not a duration"),
        (["--days", "yesteday"], "--days"),
    ] {
        let args: Vec<&str> = ["run-job", "kit", "kinds"].iter().chain(&flags).copied().collect();
        let ended = sandbox.lorchestra(&args).exits(2);
        assert!(ended.err().contains(says) && ended.err().lines().count() <= 8, "{}", ended.shown());
    }
    assert!(sandbox.runs().is_empty());
}

#[test]
fn a_policy_in_the_source_is_the_default() {
    let sandbox = kit();
    let plan = |sandbox: &Sandbox, flags: &[&str]| {
        let args: Vec<&str> = ["run-job", "--dry-run", "--json", "kit", "policies"].iter().chain(flags).copied().collect();
        let plan = sandbox.lorchestra(&args).exits(0).json("lorchestra.run-spec/1");
        json!([plan["timeout"], plan["retries"]["limit"], plan["on_overlap"]])
    };
    assert_eq!(plan(&sandbox, &[]), json!([1800, 2, "skip"]));
    assert_eq!(plan(&sandbox, &["--timeout", "1h", "--retries", "0", "--on-overlap", "fail"]), json!([3600, 0, "fail"]));
    let show = sandbox.lorchestra(&["jobs", "show", "kit", "policies"]).exits(0);
    assert!(show.out().contains("\nDefaults: timeout 30m, retries 2, on overlap skip\n"), "{}", show.shown());
    for help in ["--help", "-h"] {
        let help = sandbox.lorchestra(&["run-job", "kit", "policies", help]).exits(0);
        assert!(help.out().contains("\nDefaults: timeout 30m, retries 2, on overlap skip\n"), "{}", help.shown());
    }
    sandbox.configure("[job.\"kit/policies\"]\nretries = 5\noverlap = \"allow\"\nretry_wait = \"1s\"\n");
    assert_eq!(plan(&sandbox, &[]), json!([1800, 5, "allow"]));
    sandbox.lorchestra(&["run-job", "kit", "policies"]).exits(0);
    assert_eq!(sandbox.run().0["attempts"], 3);
}

#[test]
fn deprecation_is_shown_in_listings_and_on_use() {
    let sandbox = kit();
    let list = sandbox.lorchestra(&["jobs", "list", "kit"]).exits(0);
    assert!(list.out().contains("  old (deprecated)\n") && list.out().contains("  kinds\n"), "{}", list.shown());
    let json = sandbox.lorchestra(&["jobs", "list", "--json"]).exits(0).json("lorchestra.jobs-list/1");
    let jobs = json["packages"][0]["jobs"].as_array().unwrap();
    let deprecated: Vec<_> = jobs.iter().filter(|job| !job["deprecated"].is_null()).collect();
    assert!(deprecated.len() == 1 && deprecated[0]["deprecated"] == "use kinds", "{json}");
    assert!(sandbox.lorchestra(&["jobs", "show", "kit", "old"]).exits(0).out().contains("Deprecated: use kinds\n"));
    let help = sandbox.lorchestra(&["run-job", "kit", "old", "-h"]).exits(0);
    assert!(help.out().contains("\nDeprecated: use kinds\n"), "{}", help.shown());
    let warning = "warning: kit/old is deprecated: use kinds\n";
    assert_eq!(sandbox.lorchestra(&["run-job", "kit", "old"]).exits(0).err(), warning);
    assert_eq!(sandbox.lorchestra(&["run-job", "--dry-run", "kit", "old"]).exits(0).err(), warning);
    assert_eq!(sandbox.lorchestra(&["run-job", "-q", "kit", "old"]).exits(0).err(), "", "cron mails what is printed");
    let ended = sandbox.lorchestra(&["run-job", "kit", "kinds", "--nickname", "x"]).exits(0);
    assert_eq!(ended.err(), "warning: --nickname is deprecated: use --names\n");
    assert_eq!(sandbox.lorchestra(&["run-job", "kit", "kinds"]).exits(0).err(), "");
}

#[test]
fn progress_is_a_bar_on_a_terminal_and_nothing_elsewhere() {
    let sandbox = kit();
    for total in ["10", "0"] {
        let marker = sandbox.path(&format!("go-{total}"));
        let terminal = Terminal::open();
        let mut command =
            sandbox.command(&["run-job", "kit", "advance", "--marker", &marker.display().to_string(), "--total", total]);
        let mut child =
            command.env("TERM", "xterm").stderr(terminal.stdio()).stdout(std::process::Stdio::null()).spawn().unwrap();
        let seen = if total == "10" { "3/10" } else { " 3 " };
        eventually("a bar", || terminal.shown().contains(seen) && terminal.shown().contains("kit/advance"));
        // Progress made before the first update must not count as instantaneous.
        let bar = terminal.shown();
        assert!(
            bar.contains(" 0/s") && !bar.contains("left") && bar.matches("/s").count() == bar.matches(" 0/s").count(),
            "{bar:?}"
        );
        std::fs::write(&marker, "").unwrap();
        assert!(child.wait().unwrap().success());
        eventually("no bar is left", || terminal.shown().ends_with("\u{1b}[2K") || terminal.shown().ends_with('\r'));
    }
    let marker = sandbox.arg("go-10");
    let ended = sandbox.lorchestra(&["run-job", "kit", "advance", "--marker", &marker]).exits(0);
    assert_eq!((&*ended.plain_out(), ended.err()), ("✓ kit/advance completed (run [SHORT])\n", ""));
}
