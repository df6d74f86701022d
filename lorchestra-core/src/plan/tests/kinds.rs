//! Parameters of kinds other than text, number and time: durations, enums, lists, secrets.

use super::*;

fn formats() -> Value {
    json!([{"name": "json", "docs": "One object."}, {"name": "nd-json", "docs": ""}])
}

/// Adds fields to a parameter.
fn with(mut param: Value, more: Value) -> Value {
    param.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    param
}

fn kinds_job() -> JobManifest {
    job(vec![
        param("every", "duration", false, json!("1h30m"), ""),
        with(param("format", "enum", false, json!("json"), ""), json!({"values": formats()})),
        with(param("formats", "enum", false, Value::Null, ""), json!({"values": formats(), "repeated": true})),
        with(param("days", "date", false, Value::Null, ""), json!({"repeated": true})),
        param("api_token", "secret", true, Value::Null, ""),
    ])
}

fn refusal(values: &[(&str, &str)]) -> String {
    resolve(request(&kinds_job(), values)).unwrap_err().to_string()
}

#[test]
fn defaults_and_empty_lists() {
    let plan = resolve(request(&kinds_job(), &[])).unwrap();
    let params = json!({"every": 5400, "format": "json", "formats": [], "days": []});
    assert_eq!(Value::Object(plan.params), params);
    assert_eq!(
        plan.secrets["api_token"],
        Source::Usual {
            credential: "ingester.api_token".into(),
            variable: "LORCHESTRA_SECRET_INGESTER_API_TOKEN".into(),
            optional: true
        }
    );
}

#[test]
fn values_and_their_order() {
    let values = [
        // As `runs show` prints two weeks.
        ("every", "1209600"),
        ("format", "nd-json"),
        ("formats", "nd-json"),
        ("formats", "json"),
        ("=days", "today"),
        ("days", "-1d"),
    ];
    let plan = resolve(request(&kinds_job(), &values)).unwrap();
    let params =
        json!({"every": 1_209_600, "format": "nd-json", "formats": ["nd-json", "json"], "days": ["2024-03-30", "2024-03-29"]});
    assert_eq!(Value::Object(plan.params), params);
}

#[test]
fn refused_values() {
    for (values, says) in [
        (vec![("every", "90 m")], "--every \"90 m\": "),
        (vec![("format", "JSON")], "--format \"JSON\": the value is spelled differently; write json"),
        (vec![("format", "nd_json")], "write nd-json"),
        (vec![("format", "xml")], "is not one of its values; write json or nd-json"),
        (vec![("format", "json"), ("format", "json")], "--format is given 2 times"),
        (vec![("formats", "json"), ("formats", "xml")], "--formats \"xml\": is not one of its values"),
        (vec![("days", "2024-02-30")], "the month has no day"),
    ] {
        let text = refusal(&values);
        assert!(text.contains(says) && text.lines().count() == 1, "{values:?}: {text}");
    }
}

/// A text typed in place of a source may be the secret itself.
#[test]
fn a_typed_secret_is_not_repeated() {
    for name in ["api_token", "=api_token"] {
        let text = refusal(&[(name, "xoxb-123456")]);
        assert!(text.contains("write env:NAME, file:PATH or credential:NAME") && !text.contains("xoxb"), "{text}");
        let text = refusal(&[(name, "env:A"), (name, "env:B")]);
        assert!(text.contains("is given 2 times") && !text.contains("env:A"), "{text}");
    }
    let plan = resolve(request(&kinds_job(), &[("api_token", "file:/run/token")])).unwrap();
    assert_eq!(plan.secrets["api_token"], Source::File("/run/token".into()));
    assert!(!plan.params.contains_key("api_token"));
    assert_eq!(serde_json::to_value(&plan).unwrap()["secrets"], json!({"api_token": "file:/run/token"}));
}

#[test]
fn invalid_defaults() {
    for (bad, says) in [
        (param("a", "duration", false, json!(90), ""), "is not a duration"),
        (param("a", "secret", false, json!("hunter22"), ""), "is not the source of a secret"),
        (with(param("a", "enum", false, json!("xml"), ""), json!({"values": formats()})), "is not one of its values"),
        (with(param("a", "u8", false, json!(1), ""), json!({"repeated": true})), "a list cannot have one"),
    ] {
        let job = job(vec![bad]);
        let why = value::check_default((&job.params[0]).into(), &job.params[0].default).unwrap_err();
        assert!(why.contains(says), "{why}");
    }
}

#[test]
fn an_account_may_be_one_of_a_set() {
    let account = with(param("account", "enum", true, Value::Null, ""), json!({"values": formats()}));
    let plan = resolve(request(&job(vec![account]), &[("account", "json")])).unwrap();
    assert_eq!(plan.account.as_deref(), Some("json"));
}
