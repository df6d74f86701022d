//! The bodies, and what each status means.

use super::*;
use serde_json::{Value, json};

fn row(event_type: &str, payload: &Value) -> Row {
    Row {
        event_id: "00000000-0000-7000-8000-000000000001".into(),
        event_type: event_type.into(),
        source: "p/j".into(),
        schema_ref: None,
        created_at: 5,
        correlation_id: None,
        subject_id: None,
        payload: Some(payload.to_string()),
        run_id: Some("01a22706-a31b-74c2-bfd6-aa30d8da6609".into()),
        attempt: Some(1),
        package: Some("p".into()),
        job: Some("j".into()),
    }
}

fn body(event_type: &str, payload: &Value) -> Value {
    serde_json::from_str(&event::of(&row(event_type, payload), "here").unwrap()).unwrap()
}

#[test]
fn ends_of_runs_are_complete_fail_or_abort() {
    let end = |cause: Option<&str>| {
        let mut end = json!({"attempt": 1, "duration_ms": 1, "user_ms": 0, "system_ms": 0, "max_rss_kib": null,
            "inputs": [{"namespace": "bigquery", "name": "a.b.c"}]});
        if let Some(cause) = cause {
            let failure = json!({"cause": cause, "message": "no", "permanent": false, "job_result": null, "signal": null, "exit_code": null});
            end.as_object_mut().unwrap().extend(failure.as_object().unwrap().clone());
        }
        end
    };
    let completed = body("job.completed", &end(None));
    assert_eq!(
        (&completed["eventType"], &completed["inputs"][0]["name"], &completed["outputs"]),
        (&json!("COMPLETE"), &json!("a.b.c"), &json!([]))
    );
    assert_eq!(completed["job"]["name"], "p/j");
    assert_eq!(completed["run"]["facets"].get("errorMessage"), None);
    let failed = body("job.failed", &end(Some("timeout")));
    assert_eq!(
        (&failed["eventType"], &failed["run"]["facets"]["errorMessage"]["message"]),
        (&json!("FAIL"), &json!("timeout: no"))
    );
    assert_eq!(body("job.failed", &end(Some("cancelled")))["eventType"], "ABORT");
    assert_eq!(body("job.superseded", &end(Some("superseded")))["eventType"], "ABORT");
    // A payload that retention has removed.
    assert_eq!(body("job.failed", &json!({}))["eventType"], "FAIL");
    for other in ["t", "job.skipped", "job.refused", "job.claimed"] {
        assert_eq!(event::of(&row(other, &json!({})), "here"), None, "{other}");
    }
}

#[test]
fn each_status_has_its_class() {
    let to = OpenLineage::new(OpenLineageConfig { url: "http://x/api/v1/lineage".into(), namespace: "n".into(), api_key: None });
    let class = |status: u16| match to.classify(StatusCode::from_u16(status).unwrap(), "r".into(), None) {
        Unaccepted::Refused(_) => "row",
        Unaccepted::Failed(DeliveryError::Later { .. }) => "later",
        Unaccepted::Failed(DeliveryError::Unauthenticated(_)) => "key",
        Unaccepted::Failed(DeliveryError::TargetMissing(_)) => "url",
        Unaccepted::Failed(_) => "denied",
    };
    for (statuses, expected) in [
        (&[400, 422, 413][..], "row"),
        (&[408, 429, 500, 502, 503, 504], "later"),
        (&[401], "key"),
        (&[404, 405], "url"),
        (&[301, 403, 410], "denied"),
    ] {
        for status in statuses {
            assert_eq!(class(*status), expected, "{status}");
        }
    }
    let with_key = OpenLineageConfig { api_key: Some(Zeroizing::new("hunter2".to_owned())), ..to.config };
    assert!(!format!("{with_key:?}").contains("hunter2"));
}
