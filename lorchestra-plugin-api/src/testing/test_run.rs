//! [`TestRun`], the result of a job under test. Failed assertions print what the job did.

use super::dir::TempDir;
use super::or_panic;
use super::recorder::{Recorded, types};
use crate::invoke::JobReturn;
use crate::secret::Secret;
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// An event that was emitted.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Emitted {
    /// Event type, such as `words.counted`.
    pub event_type: String,
    /// Payload, a JSON object.
    pub payload: Value,
    /// Reference to the payload's schema.
    pub schema_ref: Option<String>,
    /// Correlation id. `None` means the run's id.
    pub correlation_id: Option<String>,
    /// Id of the person the event is about.
    pub subject_id: Option<String>,
}

/// A job that has ended, with everything it did.
#[derive(Debug)]
#[must_use = "check the result, for example with assert_ok()"]
pub struct TestRun {
    pub(super) job: &'static str,
    pub(super) end: JobReturn,
    pub(super) recorded: Recorded,
    pub(super) secrets: Vec<(&'static str, Secret)>,
    pub(super) data: TempDir,
    pub(super) package: String,
}

impl TestRun {
    /// Returns whether the job returned `Ok`.
    pub fn is_ok(&self) -> bool {
        self.end == JobReturn::Ok
    }

    /// Returns how the job ended.
    pub fn end(&self) -> &JobReturn {
        &self.end
    }

    /// Returns the message of the error or panic, with all causes, or `None` if the job returned `Ok`.
    pub fn error(&self) -> Option<String> {
        match &self.end {
            JobReturn::Ok => None,
            JobReturn::Error { messages, .. } => Some(messages.join(": ")),
            JobReturn::Panic { message, .. } | JobReturn::Refused { message } => Some(message.clone()),
        }
    }

    /// Asserts that the job returned `Ok`.
    ///
    /// # Panics
    /// Panics if it did not.
    #[track_caller]
    pub fn assert_ok(&self) -> &Self {
        assert!(self.is_ok(), "{} should have returned Ok{}", self.job, self.actual());
        self
    }

    /// Asserts that the job returned a retryable error with `text` in its message.
    ///
    /// # Panics
    /// Panics if it did not.
    #[track_caller]
    pub fn assert_retryable(&self, text: &str) -> &Self {
        self.assert_error(false, text)
    }

    /// Asserts that the job returned a permanent error with `text` in its message.
    ///
    /// # Panics
    /// Panics if it did not.
    #[track_caller]
    pub fn assert_permanent(&self, text: &str) -> &Self {
        self.assert_error(true, text)
    }

    #[track_caller]
    fn assert_error(&self, wanted: bool, text: &str) -> &Self {
        let found = matches!(&self.end, JobReturn::Error { permanent, .. } if *permanent == wanted);
        let kind = if wanted { "a permanent" } else { "a retryable" };
        assert!(
            found && self.error().is_some_and(|error| error.contains(text)),
            "{} should have returned {kind} error with {text:?} in its message{}",
            self.job,
            self.actual()
        );
        self
    }

    /// Asserts that the job panicked with `text` in its message.
    ///
    /// # Panics
    /// Panics if it did not.
    #[track_caller]
    pub fn assert_panicked(&self, text: &str) -> &Self {
        let found = matches!(&self.end, JobReturn::Panic { message, .. } if message.contains(text));
        assert!(found, "{} should have panicked with {text:?}{}", self.job, self.actual());
        self
    }

    /// Returns all events in order.
    pub fn events(&self) -> &[Emitted] {
        &self.recorded.events
    }

    /// Returns the events of one type in order.
    pub fn events_of(&self, event_type: &str) -> Vec<&Emitted> {
        self.recorded.events.iter().filter(|event| event.event_type == event_type).collect()
    }

    /// Returns the only event of this type.
    ///
    /// # Panics
    /// Panics if there is no such event, or more than one.
    #[track_caller]
    pub fn event(&self, event_type: &str) -> &Emitted {
        match self.events_of(event_type).as_slice() {
            [event] => event,
            events => panic!("{} emitted {} events `{event_type}`, expected 1{}", self.job, events.len(), self.actual()),
        }
    }

    /// Asserts that exactly these event types were emitted, in this order.
    ///
    /// # Panics
    /// Panics if they were not.
    #[track_caller]
    pub fn assert_types(&self, wanted: &[&str]) -> &Self {
        let found: Vec<&str> = self.recorded.events.iter().map(|event| event.event_type.as_str()).collect();
        if found != wanted {
            let at = found.iter().zip(wanted).take_while(|(a, b)| a == b).count();
            let word = |types: &[&str]| types.get(at).map_or("the end".to_owned(), |event_type| format!("`{event_type}`"));
            panic!(
                "{} should have emitted {wanted:?}; event {} is {}, expected {}{}",
                self.job,
                at + 1,
                word(&found),
                word(wanted),
                self.actual()
            );
        }
        self
    }

    /// Returns the number of events before the last [`flush`](crate::JobContext::flush). In a run, those survive power loss.
    pub fn flushed(&self) -> usize {
        self.recorded.flushed
    }

    /// What [`progress`](crate::JobContext::progress) was expected, in order: done and total.
    pub fn progress(&self) -> &[(u64, u64)] {
        &self.recorded.progress
    }

    /// Returns the last [`set_bookmark`](crate::JobContext::set_bookmark). lorchestra stores it only if the run succeeds.
    pub fn bookmark(&self) -> Option<DateTime<Utc>> {
        self.recorded.bookmark
    }

    /// Returns the trace, as in `trace.jsonl`: objects with `level`, `target`, `message`, `fields`, `spans`.
    pub fn traces(&self) -> &[Value] {
        &self.recorded.traces
    }

    /// Asserts that no event, trace or error contains a secret that the test set. lorchestra masks secrets there, but it cannot mask them in
    /// files or requests, which are not checked here either.
    ///
    /// # Panics
    /// Panics with the place in which a secret was found.
    #[track_caller]
    pub fn assert_keeps_secrets(&self) -> &Self {
        for (name, secret) in &self.secrets {
            let within = |value: &Value| holds(value, secret.expose());
            let text = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains(secret.expose()));
            let job = self.job;
            for Emitted { event_type, payload, schema_ref, correlation_id, subject_id } in &self.recorded.events {
                let out = within(payload)
                    || event_type.contains(secret.expose())
                    || [schema_ref, correlation_id, subject_id].into_iter().any(text);
                // Do not print the event type: it may be the secret.
                assert!(!out, "{job} emitted the secret `{name}` in an event");
            }
            assert!(!self.recorded.traces.iter().any(within), "{job} traced the secret `{name}`");
            assert!(!text(&self.error()), "{job} has the secret `{name}` in its error");
        }
        self
    }

    /// Returns the result that the job set last ([`JobContext::result`](crate::JobContext::result)).
    pub fn result(&self) -> Option<&Value> {
        self.recorded.results.result.as_ref()
    }

    /// Returns the paths of the artifacts ([`JobContext::artifact`](crate::JobContext::artifact)), in order.
    pub fn artifacts(&self) -> Vec<&Path> {
        self.recorded.results.artifacts.iter().map(|artifact| Path::new(&artifact.path)).collect()
    }

    /// Returns a counter ([`JobContext::count`](crate::JobContext::count)); 0 if the job did not use it.
    pub fn counter(&self, name: &str) -> u64 {
        self.recorded.results.counters.get(name).copied().unwrap_or_default()
    }

    /// Returns namespace and name of the data that it has read ([`JobContext::input`](crate::JobContext::input)), in order.
    pub fn inputs(&self) -> Vec<(&str, &str)> {
        self.recorded.results.inputs.iter().map(|data| (data.namespace.as_str(), data.name.as_str())).collect()
    }

    /// Returns namespace and name of the data that it has written ([`JobContext::output`](crate::JobContext::output)), in order.
    pub fn outputs(&self) -> Vec<(&str, &str)> {
        self.recorded.results.outputs.iter().map(|data| (data.namespace.as_str(), data.name.as_str())).collect()
    }

    /// Returns the package's data directory. It exists if the job called `data_dir` or the test wrote to it.
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join(&self.package)
    }

    /// Reads a file in the package's data directory as text.
    ///
    /// # Panics
    /// Panics if the file cannot be read.
    #[track_caller]
    pub fn read(&self, name: impl AsRef<Path>) -> String {
        let path = self.data_dir().join(name);
        or_panic(std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}{}", path.display(), self.actual())))
    }

    /// Describes what the job did, for the end of a message.
    fn actual(&self) -> String {
        let end = match &self.end {
            JobReturn::Ok => "it returned Ok".to_owned(),
            JobReturn::Error { permanent, .. } => {
                let kind = if *permanent { "a permanent" } else { "a retryable" };
                format!("it returned {kind} error: {}", self.error().unwrap_or_default())
            }
            JobReturn::Panic { message, location } => format!("it panicked at {location}: {message}"),
            JobReturn::Refused { message } => format!("it was not called: {message}"),
        };
        format!("\n  {end}\n  events: {}", types(&self.recorded.events))
    }
}

/// Returns whether a text occurs anywhere in a value, including keys.
fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found.contains(text),
        Value::Array(values) => values.iter().any(|value| holds(value, text)),
        Value::Object(fields) => fields.iter().any(|(key, value)| key.contains(text) || holds(value, text)),
        other => other.to_string().contains(text),
    }
}
