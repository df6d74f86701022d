//! Tests of [`resolve`] with requests like those of the command line. [`super::properties`] has the properties of all requests.
//!
//! - `good_values_*`: the values that the job receives.
//! - `names_*`, `missing_*`, `repeated_*`, `defaults_*`: the faults that do not concern a value.
//! - `bad_values`, `kinds`, `last`, `window`: separate modules.

mod bad_values;
mod kinds;
mod last;
mod window;

use super::*;
use crate::outcome::Cause;
use crate::text::quote;
use lorchestra_plugin_api::manifest::JobOutline;
use serde_json::json;
use std::time::Duration;

/// The last Saturday of February in a leap year, with nanoseconds.
pub(super) fn now() -> DateTime<Utc> {
    "2024-03-30T12:34:56.789012345Z".parse().unwrap()
}

pub(super) fn param(name: &str, kind: &str, optional: bool, default: Value, docs: &str) -> Value {
    json!({"name": name, "rust_type": kind, "kind": kind, "optional": optional, "default": default, "docs": docs})
}

pub(super) fn job(params: Vec<Value>) -> JobManifest {
    let outline: JobOutline = serde_json::from_value(json!({"name": "extract", "params": &params})).unwrap();
    let mut job = JobManifest { docs: "Extract.".into(), ..outline.into() };
    for (param, json) in job.params.iter_mut().zip(&params) {
        param.docs = json["docs"].as_str().unwrap_or_default().into();
        param.rust_type = json["rust_type"].as_str().unwrap_or_default().into();
    }
    job
}

/// One optional parameter of each kind, named like its kind.
fn all_kinds() -> JobManifest {
    let kinds =
        ["string", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f64", "bool", "datetime", "date", "path"].map(|kind| {
            let default = if kind == "bool" { json!(false) } else { Value::Null };
            param(kind, kind, kind != "bool", default, "")
        });
    job(kinds.to_vec())
}

/// Optional `since` and `until`.
fn window_job() -> JobManifest {
    job(vec![param("since", "datetime", true, Value::Null, ""), param("until", "datetime", true, Value::Null, "")])
}

/// `("since", "-7d")` is `--since -7d`; a name with a leading `=` is `--param name=value`.
pub(super) fn request<'a>(job: &'a JobManifest, values: &[(&str, &str)]) -> PlanRequest<'a> {
    let given = |(name, text): &(&str, &str)| match name.strip_prefix('=') {
        Some(name) => {
            ParamArg { name: name.into(), text: (*text).into(), typed_as: format!("--param {name}"), is_configured: false }
        }
        None => ParamArg {
            name: (*name).into(),
            text: (*text).into(),
            typed_as: format!("--{}", name.replace('_', "-")),
            is_configured: false,
        },
    };
    PlanRequest {
        package: "ingester",
        version: "1.2.3",
        job,
        values: values.iter().map(given).collect(),
        now: now(),
        bookmark: None,
        limits: RunPolicy::default().limits(),
        context: Context::default(),
    }
}

fn plan(job: &JobManifest, values: &[(&str, &str)]) -> RunSpec {
    resolve(request(job, values)).unwrap_or_else(|e| panic!("{values:?}: {e}"))
}

/// Returns the lines of the error.
fn faults(job: &JobManifest, values: &[(&str, &str)]) -> Vec<String> {
    let error = resolve(request(job, values)).expect_err(&format!("{values:?} was taken"));
    let lines: Vec<String> = error.faults.iter().map(ToString::to_string).collect();
    assert_eq!(error.to_string(), lines.join("\n"));
    assert!(lines.iter().all(|line| !line.contains(char::is_control)), "{lines:?}");
    lines
}

fn fault(job: &JobManifest, values: &[(&str, &str)]) -> String {
    let lines = faults(job, values);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.into_iter().next().unwrap()
}

#[test]
fn valid_values_of_every_kind() {
    let job = all_kinds();
    for (name, text, value) in [
        ("string", "", json!("")),
        ("string", " ü\n\u{202e}", json!(" ü\n\u{202e}")),
        ("string", "-7d", json!("-7d")),
        ("i8", "-128", json!(-128)),
        ("i8", "+127", json!(127)),
        ("i16", "-32768", json!(-32768)),
        ("i32", "2147483647", json!(2_147_483_647)),
        ("i64", "-9223372036854775808", json!(i64::MIN)),
        ("i64", "007", json!(7)),
        ("u8", "255", json!(255)),
        ("u8", "-0", json!(0)),
        ("u16", "65535", json!(65535)),
        ("u32", "4294967295", json!(4_294_967_295_u32)),
        ("u64", "18446744073709551615", json!(u64::MAX)),
        ("f64", "1.5", json!(1.5)),
        ("f64", "-2", json!(-2.0)),
        ("f64", "1e-400", json!(0.0)),
        ("f64", ".5", json!(0.5)),
        ("bool", "true", json!(true)),
        ("bool", "false", json!(false)),
        ("path", "a b/ü", json!("a b/ü")),
        ("path", " ", json!(" ")),
        ("date", "2024-02-29", json!("2024-02-29")),
        ("date", "0001-01-01", json!("0001-01-01")),
        ("date", "today", json!("2024-03-30")),
        ("date", "yesterday", json!("2024-03-29")),
        ("date", "-1w", json!("2024-03-23")),
        ("date", "-1mo", json!("2024-02-29")),
        ("datetime", "2024-01-31", json!("2024-01-31T00:00:00Z")),
        ("datetime", "2024-01-31T10:00:00Z", json!("2024-01-31T10:00:00Z")),
        ("datetime", "2024-01-31t10:00:00z", json!("2024-01-31T10:00:00Z")),
        ("datetime", "2024-01-31 10:00:00+01:00", json!("2024-01-31T09:00:00Z")),
        ("datetime", "2024-01-31T00:30:00+05:45", json!("2024-01-30T18:45:00Z")),
        ("datetime", "2024-01-31T10:00:00-00:00", json!("2024-01-31T10:00:00Z")),
        ("datetime", "2024-01-31T10:00:00.5Z", json!("2024-01-31T10:00:00.500Z")),
        ("datetime", "2024-01-31T10:00:00.123456789Z", json!("2024-01-31T10:00:00.123456Z")),
        ("datetime", "2024-01-31T10:00:00.1234567890123Z", json!("2024-01-31T10:00:00.123456Z")),
        ("datetime", "1969-12-31T23:59:59.9999999Z", json!("1969-12-31T23:59:59.999999Z")),
        ("datetime", "2016-12-31T23:59:60Z", json!("2017-01-01T00:00:00Z")),
        ("datetime", "2017-01-01T00:59:60+01:00", json!("2017-01-01T00:00:00Z")),
        ("datetime", "0001-01-01T00:00:00Z", json!("0001-01-01T00:00:00Z")),
        ("datetime", "9999-12-31T23:59:59.999999Z", json!("9999-12-31T23:59:59.999999Z")),
        ("datetime", "now", json!("2024-03-30T12:34:56.789012Z")),
        ("datetime", "today", json!("2024-03-30T00:00:00Z")),
        ("datetime", "yesterday", json!("2024-03-29T00:00:00Z")),
        ("datetime", "-90s", json!("2024-03-30T12:33:26.789012Z")),
        ("datetime", "-30min", json!("2024-03-30T12:04:56.789012Z")),
        ("datetime", "-12h", json!("2024-03-30T00:34:56.789012Z")),
        ("datetime", "-7d", json!("2024-03-23T12:34:56.789012Z")),
        ("datetime", "-2w", json!("2024-03-16T12:34:56.789012Z")),
        ("datetime", "-1mo", json!("2024-02-29T12:34:56.789012Z")),
        ("datetime", "-13mo", json!("2023-02-28T12:34:56.789012Z")),
        ("datetime", "-1y", json!("2023-03-30T12:34:56.789012Z")),
        ("datetime", "-0d", json!("2024-03-30T12:34:56.789012Z")),
        ("datetime", "-007d", json!("2024-03-23T12:34:56.789012Z")),
    ] {
        let typed = plan(&job, &[(name, text)]);
        assert_eq!(typed.params[name], value, "{name} {text:?}");
        let by_param = plan(&job, &[(&format!("={name}"), text)]);
        assert_eq!(typed, by_param);
        // Only the given value, and the switch that has a default.
        assert_eq!(typed.params.len(), if name == "bool" { 1 } else { 2 });
    }
}

#[test]
fn the_job_receives_values_of_the_authors_types() {
    use lorchestra_plugin_api::__private::Param;
    let job = all_kinds();
    let values =
        [("i8", "-5"), ("u64", "18446744073709551615"), ("f64", "3"), ("date", "today"), ("datetime", "-1mo"), ("path", "x")];
    let mut params = plan(&job, &values).params;
    assert_eq!(i8::from_value(params.remove("i8")).unwrap(), -5);
    assert_eq!(u64::from_value(params.remove("u64")).unwrap(), u64::MAX);
    assert_eq!(f64::from_value(params.remove("f64")).unwrap(), 3.0);
    assert_eq!(chrono::NaiveDate::from_value(params.remove("date")).unwrap().to_string(), "2024-03-30");
    assert_eq!(DateTime::<Utc>::from_value(params.remove("datetime")).unwrap().to_string(), "2024-02-29 12:34:56.789012 UTC");
    assert_eq!(std::path::PathBuf::from_value(params.remove("path")).unwrap(), std::path::Path::new("x"));
    assert!(!bool::from_value(params.remove("bool")).unwrap());
}

#[test]
fn unknown_parameter_names_are_refused() {
    let job = job(vec![param("account", "string", true, Value::Null, ""), param("page_size", "u32", false, json!(500), "")]);
    assert_eq!(
        fault(&job, &[("accuont", "me")]),
        r#"--accuont "me": ingester/extract has no parameter "accuont"; did you mean --account?"#
    );
    assert_eq!(
        fault(&job, &[("=pagesize", "5")]),
        r#"--param pagesize="5": ingester/extract has no parameter "pagesize"; did you mean --page-size?"#
    );
    assert_eq!(
        fault(&job, &[("=\u{1b}[31m", "5")]),
        r#""--param \u{1b}[31m"="5": ingester/extract has no parameter "\u{1b}[31m"; its parameters are --account, --page-size"#
    );
    assert!(fault(&super::tests::job(vec![]), &[("since", "-7d")]).ends_with("the job has no parameters: omit it"));
    let many: Vec<Value> = (0..30).map(|i| param(&format!("q{i}"), "string", true, Value::Null, "")).collect();
    assert!(fault(&super::tests::job(many), &[("=x", "1")]).ends_with("--q8, --q9, …"));
}

/// Names of every length, with an invisible character at the beginning, in the middle and at the end.
#[test]
fn typed_names_are_escaped_in_messages() {
    let job = all_kinds();
    for bad in ['\0', '\u{1b}', '\u{202e}', '"', '\\'] {
        for (before, after) in (0..70).flat_map(|n| [(n, 0), (n, n), (0, n)]) {
            let name = format!("{}{bad}{}", "a".repeat(before), "b".repeat(after));
            let line = fault(&job, &[(&format!("={name}"), "1")]);
            let harmless = bad == '"' || bad == '\\';
            assert!(harmless || !line.contains(bad), "{line:?}");
            assert!(line.chars().count() < 400, "{line}");
        }
    }
}

#[test]
fn names_may_be_written_as_their_flag() {
    let dashed = job(vec![param("page_size", "u32", false, json!(500), "")]);
    assert_eq!(plan(&dashed, &[("=page-size", "5")]).params["page_size"], 5);
    let with_dash = job(vec![param("page-size", "u32", false, json!(500), "")]);
    assert_eq!(plan(&with_dash, &[("=page_size", "5")]).params["page-size"], 5);
    let both = job(vec![param("a-b", "u8", true, Value::Null, ""), param("a_b", "u8", true, Value::Null, "")]);
    let params = plan(&both, &[("=a-b", "1"), ("=a_b", "2")]).params;
    assert_eq!((&params["a-b"], &params["a_b"]), (&json!(1), &json!(2)));
}

#[test]
fn missing_values_are_described_by_type_and_docs() {
    let docs = "Which mailbox to read.\nTakeout or \u{1b}[31mMaildir.";
    let job = job(vec![
        param("source", "path", false, Value::Null, docs),
        param("page_size", "u8", false, Value::Null, ""),
        param("deep", "bool", false, Value::Null, ""),
        param("account", "string", true, Value::Null, ""),
    ]);
    assert_eq!(
        faults(&job, &[]),
        [
            "--source is missing; add --source PATH: a path. Which mailbox to read.",
            "--page-size is missing; add --page-size N: a whole number from 0 to 255",
            "--deep is missing; add --deep or --no-deep: true or false",
        ]
    );
}

#[test]
fn repeated_parameters_name_each_occurrence() {
    let job = all_kinds();
    assert_eq!(
        fault(&job, &[("u8", "1"), ("=u8", "1"), ("u8", "2")]),
        r#"--u8 is given 3 times, as --u8 "1" and --param u8="1" and --u8 "2", but ingester/extract accepts it once; keep one"#
    );
    // Not only the typed text but also the message must be short.
    let odd = "\u{1e}".repeat(100);
    let line = faults(&job, &[("u8", &odd), ("u8", &odd), ("u8", &odd), ("u8", &odd)]).remove(0);
    assert!(line.len() < 400 && line.matches(r"\u{1e}").count() == 30 && line.contains(" and …, but ingester"), "{line}");
    let mut switches = request(&job, &[("bool", "true"), ("bool", "false")]);
    switches.values[1].typed_as = "--no-bool".into();
    assert_eq!(
        resolve(switches).unwrap_err().to_string(),
        "--bool is given 2 times, as --bool and --no-bool, but ingester/extract accepts it once; keep one"
    );
    let both = faults(&job, &[("u8", "1"), ("u8", "x")]);
    assert!(both.len() == 2 && both[0].contains("2 times") && both[1].contains("is not a whole number"), "{both:?}");
}

#[test]
fn all_faults_are_reported_at_once_in_a_fixed_order() {
    let job = job(vec![
        param("source", "path", false, Value::Null, ""),
        param("since", "datetime", true, Value::Null, ""),
        param("size", "u8", false, json!(1), ""),
    ]);
    let lines = faults(&job, &[("size", "256"), ("since", "7d"), ("foo", "1")]);
    let begins = ["--foo \"1\"", "--source is missing", "--since \"7d\"", "--size \"256\""];
    assert_eq!(lines.len(), begins.len(), "{lines:?}");
    for (line, begin) in lines.iter().zip(begins) {
        assert!(line.starts_with(begin), "{line}");
    }
}

#[test]
fn defaults_are_resolved_like_typed_values() {
    let job = job(vec![
        param("since", "datetime", false, json!("-7d"), ""),
        param("day", "date", false, json!("2024-01-31"), ""),
        param("size", "u32", false, json!(500), ""),
        param("rate", "f64", false, json!(2), ""),
        param("deep", "bool", false, json!(true), ""),
        param("name", "string", false, json!(""), ""),
    ]);
    let plan = plan(&job, &[]);
    assert_eq!(
        Value::Object(plan.params),
        json!({"since": "2024-03-23T12:34:56.789012Z", "day": "2024-01-31", "size": 500, "rate": 2.0, "deep": true, "name": ""})
    );
    assert_eq!(plan.window.unwrap().since.map(time::show).as_deref(), Some("2024-03-23T12:34:56.789012Z"));
    assert!(job.params.iter().all(|param| value::check_default(param.into(), &param.default).is_ok()));
}

#[test]
fn invalid_defaults_are_bugs_of_the_plugin() {
    for (kind, default, says) in [
        ("u8", json!(256), "the default 256 is outside the range of u8"),
        ("u8", json!(-1), "the default -1 is outside the range of u8"),
        ("u8", json!(1.5), "the default 1.5 is not a whole number from 0 to 255"),
        ("u8", json!("5"), "the default \"5\" is not a whole number from 0 to 255"),
        ("string", json!(5), "the default 5 is not text"),
        ("string", json!("a\u{0}"), "the default \"a\\0\" contains a NUL"),
        ("bool", json!("true"), "the default \"true\" is not true or false"),
        ("bool", json!(1), "the default 1 is not true or false"),
        ("f64", json!("1.5"), "is not a number"),
        ("date", json!("2024-02-30"), "the month has no day"),
        ("datetime", json!("2024-02-30"), "the month has no day"),
        ("datetime", json!("-7m"), "m may be minutes or months"),
        ("datetime", json!("-999999y"), "outside the years 0001 to 9999"),
        ("datetime", json!("last:-30d"), "means the job's bookmark, and only its `since` accepts it"),
        ("datetime", json!(1_706_659_200), "the default 1706659200 is not a time"),
        ("path", json!(""), "the default \"\" is empty"),
        ("path", json!({"a": [1]}), "the default {\"a\":[1]} is not a path"),
    ] {
        let job = job(vec![param("a_b", kind, false, default, "")]);
        let why = value::check_default((&job.params[0]).into(), &job.params[0].default).unwrap_err();
        assert!(why.contains(says), "{kind}: {why}");
        let error = resolve(request(&job, &[])).unwrap_err();
        assert!(error.is_of_plugin());
        let line = error.to_string();
        assert!(line.starts_with("--a-b: the default ") && line.contains(says) && line.contains("a bug in the plugin"), "{line}");
    }
    // An explicit value makes the default irrelevant; if the user makes a mistake too, both are reported.
    let job = job(vec![param("n", "u8", false, json!(256), ""), param("m", "u8", true, Value::Null, "")]);
    assert_eq!(plan(&job, &[("n", "1")]).params["n"], 1);
    let error = resolve(request(&job, &[("m", "x")])).unwrap_err();
    assert!(error.faults.len() == 2 && !error.is_of_plugin(), "{error}");
}

#[test]
fn the_account_is_a_text_with_a_value() {
    let account = |kind: &str, default: Value| job(vec![param("account", kind, default.is_null(), default, "")]);
    assert_eq!(plan(&account("string", Value::Null), &[("account", "me")]).account.as_deref(), Some("me"));
    assert_eq!(plan(&account("string", Value::Null), &[]).account, None);
    assert_eq!(plan(&account("string", json!("main")), &[]).account.as_deref(), Some("main"));
    for (kind, value) in [("u32", "5"), ("path", "me"), ("date", "2024-01-31")] {
        assert_eq!(plan(&account(kind, Value::Null), &[("account", value)]).account, None, "{kind}");
    }
}

#[test]
fn a_spec_as_json() {
    let job = window_job();
    let mut request = request(&job, &[("since", "2024-01-31")]);
    request.limits.timeout = Some(Duration::from_secs(5400));
    request.limits.grace = Duration::from_millis(1500);
    request.limits.on_overlap = OnOverlap::Wait(Some(Duration::from_secs(300)));
    request.limits.retries = Retries { limit: 2, on: vec![Cause::Timeout], ..Retries::default() };
    request.limits.memory_max = Some(512 << 20);
    let plan = resolve(request).unwrap();
    assert_eq!(
        serde_json::to_value(&plan).unwrap(),
        json!({
            "schema": "lorchestra.run-spec/1",
            "package": "ingester", "version": "1.2.3", "sha256": null, "job": "extract", "account": null,
            "directory": null, "claim": null, "group": null, "trace_parent": null, "requested_by": "command-line",
            "params": {"since": "2024-01-31T00:00:00Z", "until": "2024-03-30T12:34:56.789012Z"},
            "window": {"since": "2024-01-31T00:00:00Z", "until": "2024-03-30T12:34:56.789012Z"},
            "since_last": false, "timeout": 5400, "grace": 1.5, "on_overlap": "wait=5m", "overlap_key": "account", "moves_bookmark": true,
            "retries": {"limit": 2, "on": ["timeout"], "wait": 1}, "secrets": {},
            "memory_max": 536_870_912, "resolved_at": "2024-03-30T12:34:56.789012Z",
        })
    );
    assert_eq!(RunSpec::from_json(plan.to_json().as_bytes()).unwrap(), plan);
    plan.check(&job).unwrap();
}
