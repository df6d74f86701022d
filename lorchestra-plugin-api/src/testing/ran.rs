//! What a job did under test, and assertions about it whose messages say what it did instead. Made by [`Test`](super::Test).

use super::dir::TempDir;
use super::or_panic;
use super::recorder::{Kept, types};
use crate::invoke::JobReturn;
use crate::secret::Secret;
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// An event that was emitted.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Emitted {
    /// Its type.
    pub event_type: String,
    /// Its payload, an object.
    pub payload: Value,
    /// Where the payload's schema is found.
    pub schema_ref: Option<String>,
    /// What it belongs to; `None`: the run.
    pub correlation_id: Option<String>,
    /// The person it is about.
    pub subject_id: Option<String>,
}

/// A job that was run to its end.
#[derive(Debug)]
#[must_use = "a job that failed is only noticed by looking: assert_ok()"]
pub struct Ran {
    pub(super) job: &'static str,
    pub(super) end: JobReturn,
    pub(super) kept: Kept,
    pub(super) secrets: Vec<(&'static str, Secret)>,
    pub(super) data: TempDir,
    pub(super) package: String,
}

impl Ran {
    /// Whether the job returned `Ok`.
    pub fn is_ok(&self) -> bool {
        self.end == JobReturn::Ok
    }

    /// How it ended.
    pub fn end(&self) -> &JobReturn {
        &self.end
    }

    /// The message of its error or panic, with all its causes; `None` where it returned `Ok`.
    pub fn error(&self) -> Option<String> {
        match &self.end {
            JobReturn::Ok => None,
            JobReturn::Error { messages, .. } => Some(messages.join(": ")),
            JobReturn::Panic { message, .. } | JobReturn::Refused { message } => Some(message.clone()),
        }
    }

    /// The job returned `Ok`.
    ///
    /// # Panics
    /// It did not.
    #[track_caller]
    pub fn assert_ok(&self) -> &Self {
        assert!(self.is_ok(), "{} should have ended well{}", self.job, self.instead());
        self
    }

    /// The job returned an error that is worth a retry, with `text` in its message.
    ///
    /// # Panics
    /// It did not.
    #[track_caller]
    pub fn assert_retryable(&self, text: &str) -> &Self {
        self.assert_error(false, text)
    }

    /// The job returned an error that is not worth a retry, with `text` in its message.
    ///
    /// # Panics
    /// It did not.
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
            "{} should have ended with {kind} error that says {text:?}{}",
            self.job,
            self.instead()
        );
        self
    }

    /// The job panicked with `text` in its message.
    ///
    /// # Panics
    /// It did not.
    #[track_caller]
    pub fn assert_panicked(&self, text: &str) -> &Self {
        let found = matches!(&self.end, JobReturn::Panic { message, .. } if message.contains(text));
        assert!(found, "{} should have panicked with {text:?}{}", self.job, self.instead());
        self
    }

    /// The events, in order.
    pub fn events(&self) -> &[Emitted] {
        &self.kept.events
    }

    /// Those of one type, in order.
    pub fn events_of(&self, event_type: &str) -> Vec<&Emitted> {
        self.kept.events.iter().filter(|event| event.event_type == event_type).collect()
    }

    /// The one event of that type.
    ///
    /// # Panics
    /// There is none, or more than one.
    #[track_caller]
    pub fn event(&self, event_type: &str) -> &Emitted {
        match self.events_of(event_type).as_slice() {
            [event] => event,
            events => panic!("{} emitted {} events `{event_type}`, not one{}", self.job, events.len(), self.instead()),
        }
    }

    /// The types of all events, in order.
    ///
    /// # Panics
    /// They are others.
    #[track_caller]
    pub fn assert_types(&self, wanted: &[&str]) -> &Self {
        let found: Vec<&str> = self.kept.events.iter().map(|event| event.event_type.as_str()).collect();
        if found != wanted {
            let at = found.iter().zip(wanted).take_while(|(a, b)| a == b).count();
            let word = |types: &[&str]| types.get(at).map_or("the end".to_owned(), |event_type| format!("`{event_type}`"));
            panic!(
                "{} should have emitted {wanted:?}; event {} is {}, not {}{}",
                self.job,
                at + 1,
                word(&found),
                word(wanted),
                self.instead()
            );
        }
        self
    }

    /// How many events were emitted before the last [`flush`](crate::JobContext::flush): those survive power loss.
    pub fn flushed(&self) -> usize {
        self.kept.flushed
    }

    /// What [`progress`](crate::JobContext::progress) was told, in order: done and total.
    pub fn progress(&self) -> &[(u64, u64)] {
        &self.kept.progress
    }

    /// What [`set_bookmark`](crate::JobContext::set_bookmark) was told last. A run keeps it only if it succeeds.
    pub fn bookmark(&self) -> Option<DateTime<Utc>> {
        self.kept.bookmark
    }

    /// What the job traced, as `trace.jsonl` has it: objects with `level`, `target`, `message`, `fields`, `spans`.
    pub fn traces(&self) -> &[Value] {
        &self.kept.traces
    }

    /// The text of each secret that the test gave is in no event, no trace and no error. lorchestra masks what it captures; what it does not
    /// capture (a file, a request) it cannot.
    ///
    /// # Panics
    /// It is, and where.
    #[track_caller]
    pub fn assert_keeps_secrets(&self) -> &Self {
        for (name, secret) in &self.secrets {
            let within = |value: &Value| holds(value, secret.expose());
            let text = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains(secret.expose()));
            let job = self.job;
            for Emitted { event_type, payload, schema_ref, correlation_id, subject_id } in &self.kept.events {
                let out = within(payload)
                    || event_type.contains(secret.expose())
                    || [schema_ref, correlation_id, subject_id].into_iter().any(text);
                // Not which event, where its type is the secret.
                assert!(!out, "{job} emitted the secret `{name}` in an event");
            }
            assert!(!self.kept.traces.iter().any(within), "{job} traced the secret `{name}`");
            assert!(!text(&self.error()), "{job} has the secret `{name}` in its error");
        }
        self
    }

    /// The package's own data directory. It is there if the job asked for it, or the test wrote to it.
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join(&self.package)
    }

    /// The text of a file in the package's own data directory.
    ///
    /// # Panics
    /// It cannot be read.
    #[track_caller]
    pub fn read(&self, name: impl AsRef<Path>) -> String {
        let path = self.data_dir().join(name);
        or_panic(std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}{}", path.display(), self.instead())))
    }

    /// What the job did, for the end of a message.
    fn instead(&self) -> String {
        let end = match &self.end {
            JobReturn::Ok => "it ended well".to_owned(),
            JobReturn::Error { permanent, .. } => {
                let kind = if *permanent { "a permanent" } else { "a retryable" };
                format!("it ended with {kind} error: {}", self.error().unwrap_or_default())
            }
            JobReturn::Panic { message, location } => format!("it panicked at {location}: {message}"),
            JobReturn::Refused { message } => format!("it was not entered: {message}"),
        };
        format!("\n  {end}\n  events: {}", types(&self.kept.events))
    }
}

/// Whether a text is somewhere in a value, in keys as well.
fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found.contains(text),
        Value::Array(values) => values.iter().any(|value| holds(value, text)),
        Value::Object(fields) => fields.iter().any(|(key, value)| key.contains(text) || holds(value, text)),
        other => other.to_string().contains(text),
    }
}
