//! [`Event`], the author's form of an event. At the plugin boundary it becomes a `RawEvent`.

use crate::abi::RawEvent;
use crate::error::EmitError;
use serde::Serialize;

/// An event with optional envelope fields: a schema reference, a correlation id, a subject id.
///
/// For an event with only a type and a payload, [`JobContext::emit`](crate::JobContext::emit) is shorter. Pass an `Event` to
/// [`emit_with`](crate::JobContext::emit_with), or many to [`emit_all`](crate::JobContext::emit_all).
///
/// ```
/// use lorchestra_plugin_api::prelude::*;
///
/// /// Read one page of messages.
/// #[job]
/// fn read_page(cx: &JobContext) -> JobResult {
///     let event = Event::new("message.received", json!({ "bytes": 512 }))?
///         .schema_ref("https://example.com/schemas/message/1")
///         .correlation_id("thread-17")
///         .subject_id("anna@example.com");
///     cx.emit_with(event)?;
///     Ok(())
/// }
/// # use lorchestra_plugin_api::testing;
/// # fn main() {
/// # let run = testing::job::<read_page>().run();
/// # assert_eq!(run.event("message.received").correlation_id.as_deref(), Some("thread-17"));
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Event {
    event_type: String,
    payload: String,
    schema_ref: String,
    correlation_id: String,
    subject_id: String,
}

impl Event {
    /// Creates an event from a type, such as `message.received`, and a payload that serializes to a JSON object.
    ///
    /// # Errors
    /// Fails if the payload cannot be serialized to JSON, for example a map whose keys are not strings. Limits (size, nesting,
    /// numbers) are checked when the event is emitted.
    pub fn new(event_type: impl Into<String>, payload: impl Serialize) -> Result<Self, EmitError> {
        let event_type = event_type.into();
        let payload = to_json(&event_type, &payload)?;
        Ok(Self { event_type, payload, schema_ref: String::new(), correlation_id: String::new(), subject_id: String::new() })
    }

    /// Sets a reference to the payload's schema, usually a URL.
    #[must_use]
    pub fn schema_ref(mut self, schema_ref: impl Into<String>) -> Self {
        self.schema_ref = schema_ref.into();
        self
    }

    /// Sets the id that groups related events, also across runs. The default is the run's id.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = id.into();
        self
    }

    /// Sets the id of the person the event is about. This is personal data: lorchestra shows it only on request.
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

    /// Total size of all fields in bytes.
    pub(crate) fn size(&self) -> usize {
        self.payload.len() + self.event_type.len() + self.schema_ref.len() + self.correlation_id.len() + self.subject_id.len()
    }
}

/// A struct that is the payload of one type of event. Derive it with [`Event`](derive@crate::Event) next to `Serialize`.
///
/// ```
/// use lorchestra_plugin_api::prelude::*;
/// use lorchestra_plugin_api::serde::Serialize;
///
/// #[derive(Serialize, Event)]
/// #[serde(crate = "lorchestra_plugin_api::serde")]
/// #[event("message.received", schema = "https://example.com/schemas/message/1")]
/// struct MessageReceived {
///     bytes: u64,
///     /// Set as the event's subject, and left out of the payload.
///     #[serde(skip)]
///     #[event(subject_id)]
///     from: String,
///     #[event(correlation_id)]
///     thread: u32,
/// }
///
/// /// Read one message.
/// #[job]
/// fn read_message(cx: &JobContext) -> JobResult {
///     cx.emit_typed(&MessageReceived { bytes: 512, from: "anna@example.com".into(), thread: 17 })?;
///     Ok(())
/// }
/// # use lorchestra_plugin_api::testing;
/// # fn main() {
/// # let run = testing::job::<read_message>().run();
/// # let event = run.event("message.received");
/// # assert_eq!(event.payload, json!({ "bytes": 512, "thread": 17 }));
/// # assert_eq!((event.subject_id.as_deref(), event.correlation_id.as_deref()), (Some("anna@example.com"), Some("17")));
/// # assert_eq!(event.schema_ref.as_deref(), Some("https://example.com/schemas/message/1"));
/// # }
/// ```
pub trait TypedEvent {
    /// The event's type.
    const TYPE: &'static str;

    /// Creates the event.
    ///
    /// # Errors
    /// Same as [`Event::new`].
    fn to_event(&self) -> Result<Event, EmitError>;
}

pub(crate) fn to_json(event_type: &str, payload: &impl Serialize) -> Result<String, EmitError> {
    serde_json::to_string(payload)
        .map_err(|e| EmitError::invalid(format!("cannot serialize the payload of `{event_type}` to JSON: {e}")))
}
