//! `schedule print --k8s`, `--cloud-run` and `export`: a container has no config.toml, so what the file says about a job is in the printed
//! arguments and variables, or is named as missing.

use lorchestra_tests::{Ended, Fixture, Sandbox};
use std::fs;

const IMAGE: [&str; 2] = ["--image", "lorchestra:1"];
const BIGQUERY: &str = "[destinations.bigquery]\nproject = \"p1\"\ndataset = \"lorchestra\"\ntable = \"events\"\n";

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Kit, Fixture::Misbehave])
}

fn print(sandbox: &Sandbox, args: &[&str]) -> Ended {
    sandbox.lorchestra(&[&["schedule", "print"], args].concat())
}

/// The arguments of the container.
fn args(printed: &Ended) -> Vec<String> {
    let line = printed.out().lines().find_map(|line| line.trim().strip_prefix("args: "));
    serde_json::from_str(line.unwrap_or_else(|| panic!("no arguments: {}", printed.shown()))).unwrap()
}

/// The lines of a variable that is set to a text.
fn variable(name: &str, value: &str) -> String {
    format!("- name: {name}\n                  value: \"{value}\"\n")
}

/// The job in the container is the one of this machine: its dry run without the file has the same parameters and policies.
#[test]
fn the_settings_of_a_job_become_flags() {
    let sandbox = sandbox();
    let config = "[job.\"kit/kinds\"]\ntimeout = \"1h\"\ngrace = \"30s\"\noverlap = \"wait=10m\"\nretries = 3\nmemory_max = \"2G\"\n\
                  [job.\"kit/kinds\".params]\nevery = 90\nformats = [\"json\", \"nd-json\"]\nnames = [\"a,b\", \"-c\"]\n\
                  [delivery]\ntimeout = \"25s\"\n";
    sandbox.configure(config);
    let spec = |args: &[&str]| {
        let mut spec = sandbox.lorchestra(&[args, &["--dry-run", "--json"]].concat()).exits(0).json("lorchestra.run-spec/1");
        for key in ["resolved_at", "requested_by"] {
            spec.as_object_mut().unwrap().remove(key);
        }
        spec
    };
    let here = spec(&["run-job", "kit", "kinds"]);
    let printed = print(&sandbox, &[&["kit/kinds", "--k8s"][..], &IMAGE].concat()).exits(0);
    assert!(printed.out().contains("terminationGracePeriodSeconds: 75\n"), "{}", printed.shown());
    let there = args(&printed);
    assert!(there.join(" ").contains("--delivery-timeout 25s kit kinds"), "{there:?}");
    sandbox.configure("");
    assert_eq!(spec(&there.iter().map(String::as_str).collect::<Vec<_>>()), here, "{there:?}");
    // A flag on the command line wins.
    sandbox.configure(config);
    let printed = print(&sandbox, &[&["kit/kinds", "--k8s"][..], &IMAGE, &["--", "--timeout", "5m", "--every", "7s"]].concat());
    let there = args(&printed.exits(0));
    assert_eq!(there.iter().filter(|word| *word == "--timeout" || *word == "--every").count(), 2, "{there:?}");
}

/// The file is also the one of `--config`.
#[test]
fn the_source_of_a_secret_is_carried_over() {
    let sandbox = sandbox();
    fs::write(sandbox.path("other.toml"), "[job.\"kit/optional_secret\".secrets]\napi_token = \"env:SLACK_TOKEN\"\n").unwrap();
    let config = sandbox.arg("other.toml");
    for (target, reference) in [
        ("--k8s", "secretKeyRef: {name: lorchestra-kit-optional-secret, key: SLACK_TOKEN}"),
        ("--cloud-run", "secretKeyRef: {name: SLACK_TOKEN, key: latest}"),
    ] {
        let environment = [("BQ_EVENTS_DATASET", "lorchestra"), ("BQ_EVENTS_TABLE", "events")];
        let words = [&["--config", &config, "schedule", "print", "kit/optional_secret", target][..], &IMAGE].concat();
        let printed = sandbox.lorchestra_with(&environment, &words).exits(0);
        let there = args(&printed);
        assert!(there.ends_with(&["--api-token".to_owned(), "env:SLACK_TOKEN".to_owned()]), "{there:?}");
        assert!(printed.out().contains(reference), "{}", printed.shown());
        assert!(printed.err().contains("SLACK_TOKEN"), "{}", printed.shown());
    }
    // A file of this machine is not in the container: there the secret is in the variable of its name.
    sandbox.configure("[job.\"kit/optional_secret\".secrets]\napi_token = \"file:/etc/token\"\n");
    let printed = print(&sandbox, &[&["kit/optional_secret", "--k8s"][..], &IMAGE].concat()).exits(0);
    assert_eq!(args(&printed).last().unwrap(), "optional_secret");
    assert!(printed.out().contains("key: LORCHESTRA_SECRET_KIT_API_TOKEN}"), "{}", printed.shown());
    let note = "The container has no file:/etc/token: it reads the secret --api-token from LORCHESTRA_SECRET_KIT_API_TOKEN.";
    assert!(printed.err().contains(note), "{}", printed.shown());
}

#[test]
fn what_the_container_lacks_is_named() {
    let sandbox = sandbox();
    let files = sandbox.arg("events");
    sandbox.configure(&format!(
        "on_failure = \"true\"\nlocked = false\n[retention]\nlogs = \"7d\"\n{BIGQUERY}write = \"insert-all\"\n\
         [destinations.jsonl]\ndir = {files:?}\n\
         [job.\"misbehave/noop\"]\nretries = 2\nretry_wait = \"30s\"\nping = \"https://hc-ping.com/3fe6\"\n\
         [job.\"kit/kinds\"]\nping = \"https://hc-ping.com/other\"\n"
    ));
    let printed = print(&sandbox, &[&["misbehave/noop", "--k8s"][..], &IMAGE].concat()).exits(0);
    let note = printed.err().lines().find(|line| line.starts_with("Not in the container, unless it has ")).unwrap().to_owned();
    let (place, keys) = note.split_once(": ").unwrap();
    assert!(place.ends_with("/var/lib/lorchestra/.config/lorchestra/config.toml"), "{note}");
    let mut keys: Vec<&str> = keys.split(", ").collect();
    keys.sort_unstable();
    let expected = [
        "destinations.bigquery.write",
        "destinations.jsonl.dir",
        "job.\"misbehave/noop\".ping",
        "job.\"misbehave/noop\".retry_wait",
        "locked",
        "on_failure",
        "retention.logs",
    ];
    assert_eq!(keys, expected, "{}", printed.shown());
    // A path of the file is in the arguments, and must be in the container.
    sandbox.configure("[job.\"kit/paths\".params]\none = \"/srv/mail\"\n");
    let printed = print(&sandbox, &[&["kit/paths", "--k8s"][..], &IMAGE].concat()).exits(0);
    assert!(printed.err().contains("The container needs this path: --one /srv/mail"), "{}", printed.shown());
    sandbox.configure("[job.\"kit/paths\".params]\none = \"mail\"\n");
    let refused = print(&sandbox, &["kit/paths", "--cron"]).exits(78);
    assert!(refused.err().contains("config.toml: params.one = mail is a relative path"), "{}", refused.shown());
    // Without a file there is nothing to name.
    sandbox.configure("");
    let printed = print(&sandbox, &[&["misbehave/noop", "--k8s"][..], &IMAGE].concat()).exits(0);
    assert!(!printed.err().contains("Not in the container"), "{}", printed.shown());
}

fn plan(sandbox: &Sandbox) -> String {
    let plan = sandbox.arg("plan.jsonl");
    let args = ["--from", "2024-01-01", "--to", "2024-01-03", "--every", "1d", "--plan", &plan];
    sandbox.lorchestra(&[&["backfill", "misbehave", "windowed"], &args[..]].concat()).exits(0);
    plan
}

/// Events of a container must be delivered: to the table that the file or the environment names.
#[test]
fn a_container_has_the_table_of_the_file() {
    let sandbox = sandbox();
    sandbox.configure(BIGQUERY);
    let plan = plan(&sandbox);
    let required = ["--", "--require-delivery"];
    let k8s: &[&str] = &[&["schedule", "print", "misbehave/noop", "--k8s"][..], &IMAGE, &required].concat();
    let cloud_run: &[&str] = &[&["schedule", "print", "misbehave/noop", "--cloud-run"][..], &IMAGE].concat();
    let job: &[&str] = &[&["export", &plan, "--k8s"][..], &IMAGE].concat();
    let tasks: &[&str] = &[&["export", &plan, "--cloud-run", "--nfs", "10.0.0.2:/x"][..], &IMAGE].concat();
    let commands = [k8s, cloud_run, job, tasks];
    for words in commands {
        let printed = sandbox.lorchestra_with(&[("BQ_EVENTS_TABLE", "other")], words).exits(0);
        let out = printed.out().replace("\n              value", "\n                  value");
        for (name, value) in [("PROJECT", "p1"), ("DATASET", "lorchestra"), ("TABLE", "other")] {
            assert!(out.contains(&variable(&format!("BQ_EVENTS_{name}"), value)), "{name}: {}", printed.shown());
        }
        assert_eq!(out.matches("BQ_EVENTS_TABLE").count(), 1, "{out}");
    }
    let files = sandbox.arg("events");
    for config in ["", &format!("[destinations.jsonl]\ndir = {files:?}\n")] {
        sandbox.configure(config);
        for words in commands {
            let refused = sandbox.lorchestra(words).exits(78);
            assert!(refused.err().contains("set BQ_EVENTS_DATASET and BQ_EVENTS_TABLE"), "{}", refused.shown());
            assert_eq!(refused.err().contains("jsonl needs a config.toml"), !config.is_empty(), "{}", refused.shown());
            assert!(refused.out().is_empty(), "{}", refused.shown());
        }
    }
    // Without the flag, events wait in the store of the volume.
    print(&sandbox, &[&["misbehave/noop", "--k8s"][..], &IMAGE].concat()).exits(0);
}

/// A plan has the policies, parameters and sources of secrets; what else the file says is carried over or named.
#[test]
fn the_windows_of_a_plan_have_what_the_file_says() {
    let sandbox = sandbox();
    sandbox.configure(&format!(
        "{BIGQUERY}[delivery]\ntimeout = \"25s\"\n[logs]\nmax = \"1M\"\n\
         [job.\"misbehave/windowed\"]\nretries = 2\nretry_wait = \"30s\"\nping = \"https://hc-ping.com/3fe6\"\n"
    ));
    let plan = plan(&sandbox);
    let printed = sandbox.lorchestra(&[&["export", &plan, "--k8s"][..], &IMAGE].concat()).exits(0);
    assert!(args(&printed).join(" ").ends_with("--delivery-timeout 25s"), "{}", printed.shown());
    let note = "config.toml: job.\"misbehave/windowed\".ping, logs.max\n";
    assert!(printed.err().contains(note), "{}", printed.shown());
}
