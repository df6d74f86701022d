//! OpenLineage: each start and end of a run arrives, equal to what OpenLineage's own client for Python writes for the same values; each
//! answer of a backend has its effect; a backend that is down delays no other destination.

use lorchestra_tests::receiver::Receiver;
use lorchestra_tests::{Fixture, Sandbox};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

/// Builds each event again with the classes of OpenLineage's client, which check their values, and compares.
const CHECK: &str = "
import json, sys
from openlineage.client import event_v2 as ol
from openlineage.client.facet_v2 import error_message_run, job_type_job, nominal_time_run, processing_engine_run
from openlineage.client.serde import Serde
CLASSES = {
    'nominalTime': nominal_time_run.NominalTimeRunFacet,
    'errorMessage': error_message_run.ErrorMessageRunFacet,
    'processing_engine': processing_engine_run.ProcessingEngineRunFacet,
    'jobType': job_type_job.JobTypeJobFacet,
}
def facets(given):
    def build(name, value):
        return CLASSES[name](producer=value['_producer'], **{k: v for k, v in value.items() if k[0] != '_'})
    return {name: build(name, value) for name, value in given.items()}
def stripped(value):
    if isinstance(value, dict):
        return {k: stripped(v) for k, v in value.items() if v != {}}
    return [stripped(v) for v in value] if isinstance(value, list) else value
for line in sys.stdin:
    sent = json.loads(line)
    run, job = sent['run'], sent['job']
    event = ol.RunEvent(
        eventType=ol.RunState(sent['eventType']), eventTime=sent['eventTime'], producer=sent['producer'],
        run=ol.Run(runId=run['runId'], facets=facets(run['facets'])),
        job=ol.Job(namespace=job['namespace'], name=job['name'], facets=facets(job['facets'])),
        inputs=[ol.InputDataset(**one) for one in sent['inputs']],
        outputs=[ol.OutputDataset(**one) for one in sent['outputs']])
    assert stripped(json.loads(Serde.to_json(event))) == sent, (json.loads(Serde.to_json(event)), sent)
";

fn check(events: &[Value]) {
    let venv = lorchestra_test_setup::venv::ensure_formats(&lorchestra_tests::built::target()).unwrap();
    let mut python = Command::new(venv.join("bin/python"));
    let mut python = python.args(["-c", CHECK]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = python.stdin.take().unwrap();
    events.iter().for_each(|event| writeln!(stdin, "{event}").unwrap());
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn sandbox(backend: &Receiver) -> Sandbox {
    let sandbox = Sandbox::with(&[Fixture::Misbehave, Fixture::Kit]);
    sandbox.configure(&format!(
        "[destinations.jsonl]\ndir = \"{}\"\n[destinations.openlineage]\nurl = \"{}\"\nnamespace = \"nightly\"\n",
        sandbox.arg("events"),
        backend.url
    ));
    std::fs::create_dir(sandbox.path("events")).unwrap();
    sandbox
}

/// The events that arrived since the last call.
fn arrived(backend: &Receiver) -> Vec<Value> {
    let events = backend.requests().into_iter().filter(|request| !request.body.is_empty()).map(|request| {
        assert_eq!(request.path, "/api/v1/lineage");
        serde_json::from_slice(&request.body).unwrap()
    });
    events.collect()
}

/// The kinds of the events that were accepted since the last call. A batch of which a part is refused is sent again, the same bytes.
fn accepted(backend: &Receiver) -> BTreeSet<String> {
    let accepted = backend.requests().into_iter().filter(|request| !request.body.is_empty() && request.status == 201);
    let bodies: BTreeSet<_> = accepted.map(|request| request.body).collect();
    let events: Vec<Value> = bodies.iter().map(|body| serde_json::from_slice(body).unwrap()).collect();
    assert_eq!(events.len(), kinds(&events).into_iter().collect::<BTreeSet<_>>().len(), "an event was sent in two forms");
    kinds(&events).into_iter().collect()
}

fn kinds(events: &[Value]) -> Vec<String> {
    events
        .iter()
        .map(|event| format!("{} {}", event["eventType"].as_str().unwrap(), event["job"]["name"].as_str().unwrap()))
        .collect()
}

#[test]
fn each_start_and_end_arrives_as_openlineages_client_writes_it() {
    let backend = Receiver::start(201);
    let sandbox = sandbox(&backend);
    sandbox.lorchestra(&["events", "setup"]).exits(0);
    let environment = [("OPENLINEAGE_API_KEY", "a-key")];
    let (marker, artifact) = (sandbox.arg("marker"), sandbox.arg("artifact.txt"));
    backend.requests();
    sandbox
        .lorchestra_with(&environment, &["run-job", "-q", "kit", "produce", "--marker", &marker, "--artifact", &artifact])
        .exits(0);
    let requests = backend.requests();
    assert!(requests.iter().all(|one| one.headers.contains(&("authorization".into(), "Bearer a-key".into()))), "{requests:?}");
    let mut events: Vec<Value> =
        requests.iter().filter(|one| !one.body.is_empty()).map(|one| serde_json::from_slice(&one.body).unwrap()).collect();
    assert_eq!(kinds(&events), ["START kit/produce", "COMPLETE kit/produce"]);
    assert_eq!(events[1]["inputs"], json!([{"namespace": "file", "name": "/srv/orders.csv"}]));
    assert_eq!(events[1]["outputs"], json!([{"namespace": "bigquery", "name": "shop.raw.orders"}]));
    assert_eq!((&events[0]["run"]["runId"], &events[0]["job"]["namespace"]), (&json!(sandbox.run().id()), &json!("nightly")));

    sandbox.lorchestra(&["run-job", "-q", "misbehave", "fail"]).exits(1);
    sandbox.lorchestra(&["run-job", "-q", "misbehave", "windowed", "--since", "2024-01-01", "--until", "2024-02-01"]).exits(0);
    events.extend(arrived(&backend));
    assert_eq!(
        kinds(&events)[2..],
        ["START misbehave/fail", "FAIL misbehave/fail", "START misbehave/windowed", "COMPLETE misbehave/windowed"]
    );
    assert_eq!(events[4]["run"]["facets"]["nominalTime"]["nominalEndTime"], "2024-02-01T00:00:00Z");
    assert!(events[3]["run"]["facets"]["errorMessage"]["message"].as_str().unwrap().starts_with("error: "));
    check(&events);
}

#[test]
fn a_backend_that_is_down_delays_nothing_and_gets_everything_later() {
    let backend = Receiver::start(503);
    let sandbox = sandbox(&backend);
    let ended = sandbox.lorchestra(&["run-job", "--delivery-timeout", "1s", "misbehave", "noop"]).exits(0);
    assert!(ended.err().contains("2 events are not in OpenLineage yet") && ended.err().contains("503"), "{}", ended.shown());
    let lines: usize = std::fs::read_dir(sandbox.path("events"))
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap().lines().count())
        .sum();
    assert_eq!(lines, 2, "the other destination has them");
    backend.requests();
    backend.answer(201);
    sandbox.lorchestra(&["events", "flush"]).exits(0);
    assert_eq!(kinds(&arrived(&backend)), ["START misbehave/noop", "COMPLETE misbehave/noop"]);
    // Again: nothing is left.
    sandbox.lorchestra(&["events", "flush"]).exits(0);
    assert!(arrived(&backend).is_empty());
}

#[test]
fn each_refusal_names_what_to_do() {
    for (status, named) in [(401, "OPENLINEAGE_API_KEY"), (404, "destinations.openlineage.url"), (403, "403 Forbidden")] {
        let backend = Receiver::start(status);
        let sandbox = sandbox(&backend);
        sandbox.lorchestra(&["run-job", "-q", "--delivery-timeout", "0s", "misbehave", "noop"]).exits(0);
        let ended = sandbox.lorchestra(&["events", "flush", "--destination", "openlineage", "--timeout", "5s"]).exits(69);
        assert!(ended.err().contains(named), "{status}: {}", ended.shown());
    }
    // An event that the backend will never accept is set aside, and the others continue.
    let backend = Receiver::start(201);
    backend.refuse("START");
    let sandbox = sandbox(&backend);
    sandbox.lorchestra(&["run-job", "-q", "--delivery-timeout", "0s", "misbehave", "noop"]).exits(0);
    sandbox.lorchestra(&["events", "flush", "--destination", "openlineage", "--timeout", "5s"]).exits(0);
    let failed = sandbox.lorchestra(&["events", "list", "--failed", "--json"]).exits(0);
    assert!(failed.out().contains("422") && failed.out().contains("job.started"), "{}", failed.shown());
    assert_eq!(accepted(&backend), BTreeSet::from(["COMPLETE misbehave/noop".to_owned()]));
    let pending = sandbox.lorchestra(&["events", "list", "--pending"]).exits(0);
    assert!(pending.out().contains("(jsonl)") && !pending.out().contains("(openlineage)"), "{}", pending.shown());
}

/// All events of a batch are refused for the same reason: perhaps the backend is at fault. They block no other run, and are set aside once
/// one was accepted.
#[test]
fn a_run_that_is_refused_as_a_whole_blocks_no_other() {
    let backend = Receiver::start(201);
    backend.refuse("misbehave/numbered");
    let sandbox = sandbox(&backend);
    let flush = || sandbox.lorchestra(&["events", "flush", "--destination", "openlineage", "--timeout", "5s"]);
    sandbox.lorchestra(&["run-job", "-q", "--delivery-timeout", "0s", "misbehave", "numbered", "--count", "3"]).exits(0);
    let ended = flush().exits(69);
    assert!(ended.err().contains("422"), "{}", ended.shown());
    assert_eq!(sandbox.lorchestra(&["events", "list", "--failed"]).exits(0).out(), "");
    sandbox.lorchestra(&["run-job", "-q", "--delivery-timeout", "0s", "misbehave", "noop"]).exits(0);
    flush().exits(0);
    assert_eq!(accepted(&backend), ["START misbehave/noop", "COMPLETE misbehave/noop"].map(str::to_owned).into());
    assert_eq!(sandbox.lorchestra(&["events", "list", "--failed"]).exits(0).out().lines().count(), 2);
}

#[test]
fn a_backend_that_is_down_is_named_with_what_to_check() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    // Of a service that nobody offers.
    let port = 1;
    sandbox.configure(&format!("[destinations.openlineage]\nurl = \"http://127.0.0.1:{port}\"\n"));
    let refused = sandbox.lorchestra(&["events", "setup"]).exits(69);
    let expected = format!(
        "error: cannot reach the OpenLineage backend at http://127.0.0.1:{port}/api/v1/lineage: Connection refused\n  \
         check destinations.openlineage.url\n"
    );
    assert_eq!(refused.err(), expected);
}
