//! Traces and metrics by OTLP, as an observer of runs: one span for each run with a child for each attempt, and counts and durations of
//! runs. On if one of OpenTelemetry's variables names an endpoint.
//!
//! Nothing is sent while a run is active. After the outcome has been printed, everything is sent once, within [`LIMIT`]; an error is a
//! warning. No parameter, account, message or payload is part of it, because these may be personal data.

#[cfg(feature = "otel")]
mod export;
#[cfg(feature = "otel")]
mod recorder;

#[cfg(feature = "otel")]
pub(crate) use recorder::Recorder;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Maximum time for sending, for traces and metrics together.
const LIMIT: Duration = Duration::from_secs(5);
/// Variables that name an endpoint: for both, for traces, for metrics.
pub(crate) const ENDPOINTS: [&str; 3] =
    ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"];
/// Variables that name the protocol.
const PROTOCOLS: [&str; 3] =
    ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"];

/// Whether this binary can send telemetry.
pub(crate) const IS_BUILT: bool = cfg!(feature = "otel");

/// What to send. The exporter itself reads endpoints, headers and other variables of its specification.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "without the feature there is never one"))]
pub(crate) struct Telemetry {
    pub(crate) traces: bool,
    pub(crate) metrics: bool,
    /// Whether a variable names the service; otherwise it is `lorchestra`.
    has_service_name: bool,
    limit: Duration,
    /// Why nothing can be sent: a protocol that is not supported.
    unsupported: Option<String>,
    /// Whether sending has failed: a process that supervises many runs does not wait again after each of them.
    has_failed: Arc<AtomicBool>,
}

impl Telemetry {
    /// Reads OpenTelemetry's variables. Returns `None` if they ask for nothing, or this binary cannot send it.
    pub(crate) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let is = |name: &str, value: &str| variable(name).is_some_and(|text| text.eq_ignore_ascii_case(value));
        let [both, traces, metrics] = ENDPOINTS.map(|name| variable(name).is_some());
        let wanted = Self {
            traces: (both || traces) && !is("OTEL_TRACES_EXPORTER", "none"),
            metrics: (both || metrics) && !is("OTEL_METRICS_EXPORTER", "none"),
            has_service_name: variable("OTEL_SERVICE_NAME").is_some()
                || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|text| text.contains("service.name=")),
            limit: variable("OTEL_EXPORTER_OTLP_TIMEOUT")
                .and_then(|text| text.parse().ok())
                .map_or(LIMIT, |millis| LIMIT.min(Duration::from_millis(millis))),
            unsupported: PROTOCOLS.iter().find_map(|name| {
                let protocol = variable(name).filter(|protocol| protocol != "http/protobuf")?;
                let protocol = lorchestra_core::text::one_line(&protocol);
                Some(format!(
                    "{name}={protocol} is not supported; set it to http/protobuf, and the endpoint to the collector's HTTP port"
                ))
            }),
            has_failed: Arc::default(),
        };
        (IS_BUILT && (wanted.traces || wanted.metrics) && !is("OTEL_SDK_DISABLED", "true")).then_some(wanted)
    }
}

#[cfg(all(test, feature = "otel"))]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Option<Telemetry> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Telemetry::read(&find)
    }

    #[test]
    fn an_endpoint_turns_it_on_and_the_specifications_switches_off() {
        let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
        let both = |variables: &[(&str, &str)]| read(variables).map(|what| (what.traces, what.metrics));
        assert_eq!(both(&[]), None);
        assert_eq!(both(&[at]), Some((true, true)));
        assert_eq!(both(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost:4318/v1/traces")]), Some((true, false)));
        assert_eq!(both(&[at, ("OTEL_TRACES_EXPORTER", "none")]), Some((false, true)));
        assert_eq!(both(&[at, ("OTEL_SDK_DISABLED", "TRUE")]), None);
        assert_eq!(read(&[at, ("OTEL_EXPORTER_OTLP_TIMEOUT", "200")]).unwrap().limit, Duration::from_millis(200));
        assert_eq!(read(&[at, ("OTEL_EXPORTER_OTLP_TIMEOUT", "90000")]).unwrap().limit, LIMIT);
    }
}
