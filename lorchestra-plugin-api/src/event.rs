//! An event as an author makes it. Crosses the boundary as a [`RawEvent`].

use crate::abi::RawEvent;
use crate::error::EmitError;
use serde::Serialize;

/// An event with its optional fields; [`JobContext::emit`](crate::JobContext::emit) is the short way without them.
#[derive(Debug, Clone)]
pub struct Event {
    event_type: String,
    payload: String,
    schema_ref: String,
    correlation_id: String,
    subject_id: String,
}

impl Event {
    /// An event of a type with a payload, which must serialise to a JSON object.
    ///
    /// # Errors
    /// The payload cannot be serialised (a map whose keys are not text, an error of its own `Serialize`).
    pub fn new(event_type: impl Into<String>, payload: impl Serialize) -> Result<Self, EmitError> {
        let event_type = event_type.into();
        let payload = to_json(&event_type, &payload)?;
        Ok(Self { event_type, payload, schema_ref: String::new(), correlation_id: String::new(), subject_id: String::new() })
    }

    /// Where the payload's schema is found.
    #[must_use]
    pub fn schema_ref(mut self, schema_ref: impl Into<String>) -> Self {
        self.schema_ref = schema_ref.into();
        self
    }

    /// What the event belongs to; without it, the run's id.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = id.into();
        self
    }

    /// The person the event is about. Personal: never shown unless asked for.
    #[must_use]
    pub fn subject_id(mut self, id: impl Into<String>) -> Self {
        self.subject_id = id.into();
        self
    }

    pub(crate) fn raw(&self) -> RawEvent<'_> {
        RawEvent {
            event_type: self.event_type.as_str().into(),
            payload: self.payload.as_bytes().into(),
            schema_ref: self.schema_ref.as_str().into(),
            correlation_id: self.correlation_id.as_str().into(),
            subject_id: self.subject_id.as_str().into(),
        }
    }

    /// Bytes of text in it.
    pub(crate) fn size(&self) -> usize {
        self.payload.len() + self.event_type.len() + self.schema_ref.len() + self.correlation_id.len() + self.subject_id.len()
    }
}

pub(crate) fn to_json(event_type: &str, payload: &impl Serialize) -> Result<String, EmitError> {
    serde_json::to_string(payload)
        .map_err(|e| EmitError::invalid(format!("the payload of `{event_type}` cannot be written as JSON: {e}")))
}
