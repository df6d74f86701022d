//! `metrics`, read by Prometheus' own client for Python.

use lorchestra_tests::{Fixture, Sandbox};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Parses a file, and prints every sample as `[name, labels, value]`.
const PARSE: &str = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families
text = open(sys.argv[1]).read()
families = list(text_string_to_metric_families(text))
assert all(f.type == 'gauge' and f.documentation for f in families), families
assert len({f.name for f in families}) == len(families), 'a family is in two pieces'
print(json.dumps([[s.name, s.labels, s.value] for f in families for s in f.samples]))
";

fn parse(file: &Path) -> Vec<Value> {
    let venv = lorchestra_test_setup::venv::ensure_formats(&lorchestra_tests::built::target()).unwrap();
    let output = Command::new(venv.join("bin/python")).args(["-c", PARSE]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn prometheus_reads_the_metrics() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.configure(&format!(
        "[destinations.jsonl]\ndir = \"{}\"\n[job.\"misbehave/print\"]\nexpect_every = \"1d\"\n[job.\"misbehave/noop\"]\nexpect_every = \"1d\"",
        sandbox.arg("events")
    ));
    sandbox.lorchestra(&["events", "setup"]).exits(0);
    let file = sandbox.path("lorchestra.prom");
    let write = || sandbox.lorchestra(&["metrics", "-o", file.to_str().unwrap()]).exits(0);
    write();
    let before = parse(&file);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let account = "a \"quoted\" \\ account";
    for _ in 0..2 {
        sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--then", "fail", "--account", account]).exits(1);
    }
    write();
    let samples = parse(&file);
    assert!(samples.len() > before.len());
    let value = |name: &str, job: &str| {
        let mut found = samples.iter().filter(|sample| sample[0] == format!("lorchestra_job_{name}") && sample[1]["job"] == job);
        found.next().map(|sample| sample[2].as_f64().unwrap())
    };
    assert_eq!(
        [value("healthy", "noop"), value("healthy", "print"), value("healthy", "numbered")],
        [Some(1.0), Some(0.0), Some(0.0)]
    );
    assert_eq!((value("failures", "numbered"), value("failures", "noop")), (Some(2.0), Some(0.0)));
    assert_eq!(
        (value("expected_interval_seconds", "noop"), value("last_success_timestamp_seconds", "numbered")),
        (Some(86400.0), None)
    );
    let ended = sandbox.lorchestra(&["runs", "list", "--job", "misbehave/noop", "--json"]).exits(0);
    let ended = ended.json("lorchestra.run/1")["ended_at"].as_str().unwrap().to_owned();
    let ended = chrono::DateTime::parse_from_rfc3339(&ended).unwrap().timestamp_millis();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit")]
    let seconds = ended as f64 / 1000.0;
    assert_eq!(value("last_success_timestamp_seconds", "noop"), Some(seconds));
    assert!(samples.iter().any(|sample| sample[1]["account"] == account), "labels are escaped");
    assert!(
        samples
            .iter()
            .any(|sample| sample[0] == "lorchestra_events_pending" && sample[1]["destination"] == "jsonl" && sample[2] == 0.0)
    );
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644, "the collector is another user");
    assert_eq!(
        fs::read_dir(sandbox.root())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".lorch"))
            .count(),
        0
    );
    let printed = sandbox.lorchestra(&["metrics"]).exits(0);
    assert_eq!(printed.out().lines().count(), fs::read_to_string(&file).unwrap().lines().count());
    sandbox.lorchestra(&["metrics", "-o", "/proc/lorchestra.prom"]).exits(74);
}
