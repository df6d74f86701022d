//! The ids of a run's spans, in the sense of W3C trace context and OpenTelemetry. Knows nothing about how spans are exported.
//!
//! Ids follow from the run's id, so nothing has to be stored or passed on: the supervisor gives a job the span of its attempt when the
//! worker starts, and an observer exports the same span when the attempt has ended, possibly in another process after a crash.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The trace of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunTrace {
    run_id: String,
    /// The trace: that of the caller, or a new one.
    pub trace_id: u128,
    /// The caller's span.
    pub parent: Option<u64>,
    /// Whether the caller, if any, records its spans.
    pub is_sampled: bool,
}

impl RunTrace {
    /// Returns the trace of a run, which continues that of the caller. `parent` is a W3C `traceparent`, which [`RunSpec`] has checked.
    ///
    /// [`RunSpec`]: crate::plan::RunSpec
    pub fn of(run_id: &str, parent: Option<&str>) -> Self {
        let run_id = run_id.to_owned();
        let parts = parent.map(|text| text.split('-').collect::<Vec<_>>());
        if let Some([_, trace_id, span, flags, ..]) = parts.as_deref()
            && let (Ok(trace_id), Ok(span), Ok(flags)) =
                (u128::from_str_radix(trace_id, 16), u64::from_str_radix(span, 16), u8::from_str_radix(flags, 16))
        {
            return Self { run_id, trace_id, parent: Some(span), is_sampled: flags & 1 == 1 };
        }
        // The id is a UUID, except in a store that another program has changed.
        let trace_id = Uuid::parse_str(&run_id).map_or_else(|_| u128::from(span(&run_id, 0)), |uuid| uuid.as_u128());
        Self { run_id, trace_id, parent: None, is_sampled: true }
    }

    /// The span of the whole run.
    pub fn run_span(&self) -> u64 {
        span(&self.run_id, 0)
    }

    /// The span of an attempt, counted from 1.
    pub fn attempt_span(&self, attempt: u32) -> u64 {
        span(&self.run_id, attempt)
    }

    /// The `traceparent` for the job of an attempt.
    pub fn for_job(&self, attempt: u32) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.attempt_span(attempt), u8::from(self.is_sampled))
    }
}

fn span(run_id: &str, number: u32) -> u64 {
    let hash = Sha256::new().chain_update(run_id).chain_update(number.to_be_bytes()).finalize();
    let first: [u8; 8] = std::array::from_fn(|n| hash[n]);
    // Zero means no span.
    u64::from_be_bytes(first).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01a22706-a31b-74c2-bfd6-aa30d8da6609";

    #[test]
    fn a_run_continues_its_callers_trace_or_begins_one() {
        let own = RunTrace::of(ID, None);
        assert_eq!((format!("{:032x}", own.trace_id), own.parent, own.is_sampled), (ID.replace('-', ""), None, true));
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let child = RunTrace::of(ID, Some(parent));
        assert_eq!((child.parent, child.is_sampled), (Some(0x00f0_67aa_0ba9_02b7), false));
        assert!(child.for_job(1).starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && child.for_job(1).ends_with("-00"));
        crate::plan::spec::trace_parent(&child.for_job(2)).unwrap();
    }

    #[test]
    fn spans_differ_by_run_and_attempt_and_stay_the_same() {
        let (run, other) = (RunTrace::of(ID, None), RunTrace::of("01a22706-a31b-74c2-bfd6-aa30d8da6600", None));
        let mut spans = vec![run.run_span(), run.attempt_span(1), run.attempt_span(2), other.run_span(), other.attempt_span(1)];
        assert_eq!(spans, [run.run_span(), run.attempt_span(1), run.attempt_span(2), other.run_span(), other.attempt_span(1)]);
        spans.sort_unstable();
        spans.dedup();
        assert_eq!(spans.len(), 5);
    }
}
