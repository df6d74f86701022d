//! Specs that were written, changed or obtained elsewhere: which ones are read, and how others are refused.

use super::super::tests::{job, param, request};
use super::super::{resolve, tests::now};
use super::*;
use serde_json::json;

/// A job with a window, an account, a number, a list and a secret.
fn a_job() -> JobManifest {
    let mut labels = param("labels", "string", false, Value::Null, "");
    labels["repeated"] = true.into();
    job(vec![
        param("since", "datetime", true, Value::Null, ""),
        param("until", "datetime", true, Value::Null, ""),
        param("account", "string", true, Value::Null, ""),
        param("n", "u8", false, Value::Null, ""),
        param("day", "date", true, Value::Null, ""),
        param("pause", "duration", true, Value::Null, ""),
        labels,
        param("token", "secret", false, Value::Null, ""),
    ])
}

fn a_spec() -> Value {
    let values = [("since", "-7d"), ("account", "anna"), ("n", "3"), ("labels", "a"), ("labels", "b"), ("token", "env:TOKEN")];
    let spec = resolve(request(&a_job(), &[&values[..], &[("day", "2024-02-29"), ("pause", "90s")]].concat())).unwrap();
    assert_eq!(spec.resolved_at, time::to_micros(now()));
    serde_json::to_value(&spec).unwrap()
}

fn read(json: &Value) -> Result<RunSpec, SpecError> {
    RunSpec::from_json(json.to_string().as_bytes())
}

#[test]
fn a_printed_spec_is_read_and_passes_the_check() {
    let json = a_spec();
    let spec = read(&json).unwrap();
    spec.check(&a_job()).unwrap();
    assert_eq!(serde_json::to_value(&spec).unwrap(), json);
    assert_eq!(
        (spec.account.as_deref(), &spec.params["pause"], &spec.params["labels"]),
        (Some("anna"), &json!(90), &json!(["a", "b"]))
    );
}

#[test]
fn newer_specs_and_other_json_are_refused_in_one_sentence() {
    let mut newer = a_spec();
    newer["schema"] = "lorchestra.run-spec/2".into();
    newer["something_new"] = 1.into();
    assert_eq!(read(&newer), Err(SpecError::Newer("2".into())));
    assert_eq!(read(&newer).unwrap_err().to_string(), "written by a newer lorchestra (run spec version 2; this one reads 1)");
    for other in [
        json!({}),
        json!([]),
        json!(null),
        json!({"schema": "lorchestra.run-spec/0"}),
        json!({"schema": "lorchestra.run-spec/01"}),
        json!({"schema": "lorchestra.run/1"}),
    ] {
        assert_eq!(read(&other), Err(SpecError::OtherSchema), "{other}");
    }
    newer["schema"] = "lorchestra.run-spec/99999999999999999999".into();
    assert_eq!(read(&newer), Err(SpecError::Newer("99999999999999999999".into())));
    assert!(matches!(RunSpec::from_json(b"{\"schema\": "), Err(SpecError::Json(_))));
    assert!(matches!(RunSpec::from_json(b"\xff\xfe"), Err(SpecError::Json(_))));
}

#[test]
fn a_key_that_is_missing_unknown_or_of_the_wrong_type_is_named() {
    let keys: Vec<String> = a_spec().as_object().unwrap().keys().filter(|key| *key != "schema").cloned().collect();
    for key in keys {
        let mut wrong = a_spec();
        wrong[&key] = json!({"no": ["such"]});
        if key == "params" {
            continue;
        }
        assert!(matches!(read(&wrong), Err(SpecError::Invalid(_))), "{key}");
    }
    let mut unknown = a_spec();
    unknown["retrys"] = 3.into();
    let error = read(&unknown).unwrap_err().to_string();
    assert!(error.contains("retrys"), "{error}");
    // The text in place of a source may be the secret.
    let mut typed = a_spec();
    typed["secrets"]["token"] = "hunter22".into();
    let error = read(&typed).unwrap_err().to_string();
    assert!(error.contains("env:NAME") && !error.contains("hunter22"), "{error}");
}

/// Adding a duration to a time must not overflow.
#[test]
fn durations_have_the_same_limit_as_in_flags() {
    for (place, key) in [("", "timeout"), ("", "grace"), ("retries", "wait")] {
        for bad in [json!(1.8e19), json!(1e300), json!(36_501 * 24 * 60 * 60_u64), json!(-1)] {
            let mut json = a_spec();
            match place {
                "" => json[key] = bad.clone(),
                place => json[place][key] = bad.clone(),
            }
            let error = read(&json).expect_err(key).to_string();
            assert!(error.contains("is not a duration in seconds"), "{key} = {bad}: {error}");
        }
    }
}

#[test]
fn mismatches_with_the_job_are_named() {
    let cases: [(&str, &str, Value, &str); 22] = [
        ("params", "n", json!(256), "params.n is not a whole number from 0 to 255"),
        ("params", "n", json!("3"), "params.n is not a whole number"),
        ("params", "n", json!(3.0), "params.n is not"),
        ("params", "n", Value::Null, "params.n is not"),
        ("params", "nn", json!(1), "params.\"nn\" is not a parameter of extract; did you mean n?"),
        ("params", "token", json!("hunter22"), "params.\"token\" is not a parameter"),
        ("params", "since", json!("-7d"), "params.since is not a time in UTC"),
        ("params", "since", json!("2024-03-01"), "params.since is not a time in UTC"),
        ("params", "day", json!("today"), "params.day is not a day"),
        ("params", "pause", json!("90s"), "params.pause is not a number of seconds"),
        ("params", "pause", json!(1.0005), "params.pause is not a number of seconds with at most three decimals"),
        ("params", "pause", json!(-1), "params.pause is not"),
        ("params", "labels", json!("a"), "params.labels is not a list"),
        ("params", "labels", json!(["a", 1]), "params.labels is not text"),
        ("params", "account", json!("ben"), "account differs from params.account"),
        ("secrets", "tokem", json!("env:A"), "secrets.\"tokem\" is not a secret of extract"),
        ("window", "since", json!("2024-01-01T00:00:00Z"), "window differs from params"),
        ("retries", "limit", json!(1001), "retries.limit is 1001"),
        ("retries", "on", json!(["cancelled"]), "retries.on has cancelled, which is never retried"),
        ("", "timeout", json!(0), "timeout is 0"),
        ("", "memory_max", json!(1), "memory_max is 1; a worker needs at least"),
        ("", "directory", json!("here"), "directory is not an absolute path"),
    ];
    for (place, key, value, expected) in cases {
        let mut json = a_spec();
        match place {
            "" => json[key] = value.clone(),
            place => json[place][key] = value.clone(),
        }
        let error = read(&json).unwrap().check(&a_job()).expect_err(expected).to_string();
        assert!(error.contains(expected), "{place}.{key} = {value}: {error}");
        assert!(!error.contains("hunter22"), "{error}");
    }
    for missing in ["n", "labels"] {
        let mut json = a_spec();
        json["params"].as_object_mut().unwrap().remove(missing);
        let error = read(&json).unwrap().check(&a_job()).unwrap_err().to_string();
        assert!(error.contains(&format!("params.{missing} is missing")), "{error}");
    }
    let mut json = a_spec();
    json["secrets"] = json!({});
    let error = read(&json).unwrap().check(&a_job()).unwrap_err().to_string();
    assert!(error.contains("secrets.token is missing"), "{error}");
}

#[test]
fn requested_by_survives_its_json() {
    for text in ["command-line", "schedule", "rerun:01a209f1-4ec2-74a8-8179-1e31fb833599", "engine:temporal"] {
        assert_eq!(text.parse::<RequestedBy>().unwrap().to_string(), text);
    }
    for bad in ["", "cron", "rerun:", "engine:a b", "engine", "schedule:x"] {
        bad.parse::<RequestedBy>().unwrap_err();
    }
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(trace_parent(parent).as_deref(), Ok(parent));
    for bad in [
        "",
        "00",
        &parent.to_uppercase(),
        &parent.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
        &format!("{parent}-x"),
    ] {
        trace_parent(bad).unwrap_err();
    }
    assert!(group("nightly-2024").is_ok() && group("").is_err() && group("a b").is_err() && group(&"x".repeat(129)).is_err());
}
