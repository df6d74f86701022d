//! An event of a run as OpenLineage's run event (specification 2-0-2). Always the same bytes for the same row.

use crate::outcome::Cause;
use crate::store::{OwnType, Row, Started, Terminal};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

const PRODUCER: &str = concat!("urn:lorchestra:", env!("CARGO_PKG_VERSION"));
const SPEC: &str = "https://openlineage.io/spec";

/// The type of an event that is sent: the start or end of a run.
pub(super) fn kind(row: &Row) -> Option<OwnType> {
    let kind =
        OwnType::parse(&row.event_type).filter(|kind| !matches!(kind, OwnType::Skipped | OwnType::Refused | OwnType::Claimed))?;
    (row.run_id.is_some() && DateTime::from_timestamp_micros(row.created_at).is_some()).then_some(kind)
}

/// Returns the body for an event, or `None` if it is not the start or end of a run.
pub(super) fn of(row: &Row, namespace: &str) -> Option<String> {
    let kind = kind(row)?;
    let payload = row.payload.as_deref().unwrap_or("{}");
    let mut facets = json!({
        "processing_engine": facet("1-1-1/ProcessingEngineRunFacet", json!({"name": "lorchestra", "version": env!("CARGO_PKG_VERSION")})),
    });
    let (mut inputs, mut outputs) = (Value::Array(Vec::new()), Value::Array(Vec::new()));
    let event_type = match kind {
        OwnType::Started => {
            // If retention has removed the payload, the rest is still true.
            let started = serde_json::from_str::<Started>(payload).ok();
            if let Some(Started { since: Some(since), until: Some(until), .. }) = started {
                let window = json!({"nominalStartTime": since, "nominalEndTime": until});
                facets["nominalTime"] = facet("1-0-1/NominalTimeRunFacet", window);
            }
            "START"
        }
        _ => {
            let terminal = serde_json::from_str::<Terminal>(payload).ok();
            let failure = terminal.as_ref().and_then(|terminal| terminal.failure.as_ref());
            if let Some(failure) = failure {
                let message = format!("{}: {}", failure.cause.as_str(), failure.message);
                let error = json!({"message": message, "programmingLanguage": "rust"});
                facets["errorMessage"] = facet("1-0-1/ErrorMessageRunFacet", error);
            }
            if let Some(terminal) = &terminal {
                inputs = serde_json::to_value(&terminal.inputs).unwrap_or_default();
                outputs = serde_json::to_value(&terminal.outputs).unwrap_or_default();
            }
            match (kind, failure.map(|failure| failure.cause)) {
                (OwnType::Completed, _) => "COMPLETE",
                (OwnType::Superseded, _) | (_, Some(Cause::Cancelled)) => "ABORT",
                _ => "FAIL",
            }
        }
    };
    let time = DateTime::from_timestamp_micros(row.created_at)?.to_rfc3339_opts(SecondsFormat::Micros, true);
    let job_type = json!({"processingType": "BATCH", "integration": "LORCHESTRA", "jobType": "JOB"});
    let event = json!({
        "eventType": event_type,
        "eventTime": time,
        "producer": PRODUCER,
        "schemaURL": format!("{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"),
        "run": {"runId": row.run_id.as_deref()?, "facets": facets},
        "job": {
            "namespace": namespace,
            "name": row.source,
            "facets": {"jobType": facet("2-0-4/JobTypeJobFacet", job_type)},
        },
        "inputs": inputs,
        "outputs": outputs,
    });
    Some(event.to_string())
}

/// A facet of this schema: version and name.
fn facet(schema: &str, mut value: Value) -> Value {
    let name = schema.rsplit('/').next().unwrap_or_default();
    value["_producer"] = PRODUCER.into();
    value["_schemaURL"] = format!("{SPEC}/facets/{schema}.json#/$defs/{name}").into();
    value
}
