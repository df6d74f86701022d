//! Arguments of a job that has a parameter of each kind: from argv to the plan. Each line of the input is one argument.
#![no_main]
#![expect(clippy::expect_used, reason = "a panic is a finding")]

use chrono::DateTime;
use libfuzzer_sys::fuzz_target;
use lorchestra_core::plan::{self, Context, PlanRequest, RunPolicy, RunSpec};
use lorchestra_plugin_api::manifest::{JobManifest, JobOutline};
use serde_json::{Value, json};
use std::sync::LazyLock;

const KINDS: [(&str, &str); 19] = [
    ("text", "string"),
    ("since", "datetime"),
    ("until", "datetime"),
    ("day", "date"),
    ("path", "path"),
    ("ratio", "f64"),
    ("dry", "bool"),
    ("account", "string"),
    ("a", "i8"),
    ("b", "i16"),
    ("c", "i32"),
    ("d", "i64"),
    ("e", "u8"),
    ("f_f", "u16"),
    ("g", "u32"),
    ("h", "u64"),
    ("every", "duration"),
    ("format", "enum"),
    ("token", "secret"),
];

/// Parameters that take any number of values.
const LISTS: [(&str, &str); 2] = [("names", "string"), ("numbers", "u8")];

static JOB: LazyLock<JobManifest> = LazyLock::new(|| {
    let params: Vec<Value> = KINDS
        .iter()
        .map(|(name, kind)| {
            let values =
                if *kind == "enum" { json!([{"name": "json", "docs": ""}, {"name": "nd-json", "docs": ""}]) } else { json!([]) };
            json!({"name": name, "kind": kind, "optional": true, "values": values})
        })
        .chain(LISTS.iter().map(|(name, kind)| json!({"name": name, "kind": kind, "repeated": true})))
        .collect();
    let outline: JobOutline = serde_json::from_value(json!({"name": "extract", "params": params})).expect("a job");
    outline.into()
});

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let args: Vec<&str> = text.split('\n').collect();
    let Some(given) = lorchestra_cli::fuzzing::job_flags("pkg", &JOB, &args) else { return };
    let names: Vec<String> = given.iter().map(|given| given.name.clone()).collect();
    let request = PlanRequest {
        package: "pkg",
        version: "1.0.0",
        job: &JOB,
        values: given,
        now: DateTime::from_timestamp(1_767_225_600, 0).expect("a time"),
        bookmark: DateTime::from_timestamp(1_735_689_600, 0),
        limits: RunPolicy::default().limits(),
        context: Context::default(),
    };
    match plan::resolve(request) {
        Ok(plan) => {
            // A printed plan can be run: the spec survives its JSON, and matches its job.
            let read = RunSpec::from_json(plan.to_json().as_bytes()).expect("a spec");
            assert_eq!(read, plan);
            read.check(&JOB).expect("a spec that fits its job");
            for name in &names {
                let kind =
                    |known: &[(&'static str, &'static str)]| known.iter().find(|(known, _)| known == name).map(|(_, kind)| *kind);
                match (kind(&KINDS), kind(&LISTS)) {
                    (Some("secret"), _) => assert!(plan.secrets.contains_key(name) && !plan.params.contains_key(name)),
                    (Some(kind), _) => assert!(fits(kind, &plan.params[name]), "{name} = {}", plan.params[name]),
                    (_, Some(kind)) => {
                        let list = plan.params[name].as_array().expect("a list");
                        assert!(!list.is_empty() && list.iter().all(|value| fits(kind, value)), "{name} = {list:?}");
                    }
                    _ => panic!("the job has no parameter {name}"),
                }
            }
            let window = plan.window.expect("the job has one");
            assert!(window.since.is_none_or(|since| since < window.until));
        }
        Err(error) => {
            assert!(!error.faults.is_empty() && !error.is_of_plugin());
            for fault in &error.faults {
                let line = fault.to_string();
                assert!(!line.is_empty() && !line.contains(char::is_control) && line.chars().count() < 500, "{line:?}");
            }
        }
    }
});

/// Whether a job accepts the value as this kind.
fn fits(kind: &str, value: &Value) -> bool {
    let within = |min: i128, max: i128| {
        value.as_i64().map(i128::from).or(value.as_u64().map(i128::from)).is_some_and(|n| (min..=max).contains(&n))
    };
    match kind {
        "string" | "path" => value.as_str().is_some_and(|text| !text.contains('\0')),
        "datetime" => value.as_str().is_some_and(|text| DateTime::parse_from_rfc3339(text).is_ok()),
        "date" => value.as_str().is_some_and(|text| text.parse::<chrono::NaiveDate>().is_ok()),
        "f64" => value.as_f64().is_some_and(f64::is_finite),
        // In seconds.
        "duration" => value.as_f64().is_some_and(|seconds| seconds.is_finite() && seconds >= 0.0),
        "bool" => value.is_boolean(),
        "i8" => within(i8::MIN.into(), i8::MAX.into()),
        "i16" => within(i16::MIN.into(), i16::MAX.into()),
        "i32" => within(i32::MIN.into(), i32::MAX.into()),
        "i64" => within(i64::MIN.into(), i64::MAX.into()),
        "u8" => within(0, u8::MAX.into()),
        "u16" => within(0, u16::MAX.into()),
        "u32" => within(0, u32::MAX.into()),
        "u64" => within(0, u64::MAX.into()),
        "enum" => value == "json" || value == "nd-json",
        other => panic!("a kind without a rule: {other}"),
    }
}
