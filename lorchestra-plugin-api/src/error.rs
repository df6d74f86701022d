//! How a job fails. Talks to nobody; the host sees what [`crate::invoke`] makes of it.

use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fmt;

/// Causes of an error that are looked at, at most.
const CAUSES: usize = 16;

/// What a job returns.
pub type JobResult = Result<(), JobError>;

/// A job's failure. `?` makes one of any error, of `String` and of `&str`.
///
/// Retryable unless marked [`permanent`](JobError::permanent): most failures of jobs are the network's.
///
/// Like anyhow's, this type does not implement [`Error`] itself; that is what lets `?` take every error.
pub struct JobError {
    error: Box<dyn Error + Send + Sync>,
    permanent: bool,
}

impl JobError {
    /// Trying again would not help: wrong input, missing permission, a bug.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.permanent = true;
        self
    }

    /// Whether trying again would not help.
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// What went wrong, and each cause below it, outermost first; of an endless chain of causes the first [`CAUSES`] are looked at.
    /// None begins or ends with empty lines: whoever shows only the first line shows the reason.
    pub(crate) fn messages(&self) -> Vec<String> {
        let text = |error: &dyn Error| error.to_string().trim().to_owned();
        let mut messages = vec![text(&*self.error)];
        let causes = std::iter::successors(self.error.source(), |&cause| cause.source());
        for message in causes.take(CAUSES).map(text) {
            // Many errors repeat their cause in their own text.
            if !messages.last().is_some_and(|last| last.ends_with(&message)) {
                messages.push(message);
            }
        }
        // One that says nothing itself leaves the word to its causes.
        if messages.len() > 1 && messages[0].is_empty() {
            messages.remove(0);
        }
        messages
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for JobError {
    /// Permanent where the error is, or is caused by, an [`EmitError`] of an event that is none: the next attempt would emit it again.
    fn from(error: E) -> Self {
        let error = error.into();
        let first: &(dyn Error + 'static) = &*error;
        let mut chain = std::iter::successors(Some(first), |&error| error.source()).take(CAUSES);
        let invalid = |error: &EmitError| error.kind == EmitErrorKind::Invalid;
        let permanent = chain.any(|error| error.downcast_ref().is_some_and(invalid));
        Self { error, permanent }
    }
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.messages().join(": "))
    }
}

/// `.permanent()?` on a result.
pub trait Permanent<T> {
    /// Turns the error into a [`JobError`] that is not worth a retry.
    fn permanent(self) -> Result<T, JobError>;
}

impl<T, E: Into<JobError>> Permanent<T> for Result<T, E> {
    fn permanent(self) -> Result<T, JobError> {
        self.map_err(|e| e.into().permanent())
    }
}

/// What a function marked with `#[job]` may return.
#[diagnostic::on_unimplemented(
    message = "a job returns a result, not `{Self}`",
    label = "should be `JobResult`",
    note = "write `-> JobResult` and end the job with `Ok(())`; what it found out goes into events"
)]
pub trait IntoJobResult {
    /// As a [`JobResult`].
    fn into_job_result(self) -> JobResult;
}

impl<E: Into<JobError>> IntoJobResult for Result<(), E> {
    fn into_job_result(self) -> JobResult {
        self.map_err(Into::into)
    }
}

/// Why an event was not taken. It is not in the spool, and will not be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmitError {
    kind: EmitErrorKind,
    message: String,
}

/// What kind of reason an [`EmitError`] has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EmitErrorKind {
    /// The event, or bookmark, is none that lorchestra takes: too large, no JSON object, a number beyond 64 bits. It never will be: `?`
    /// makes a [permanent](JobError::permanent) error of it.
    Invalid,
    /// The disk did not take it, or the spool is damaged. Another attempt may have more luck.
    Spool,
    /// The job has ended or is being ended; or this process is not the worker, but a copy that was forked from it.
    Ended,
    /// Something else, also one that this version of the API does not know.
    #[serde(other)]
    Other,
}

impl EmitError {
    /// What kind of reason it is.
    pub fn kind(&self) -> EmitErrorKind {
        self.kind
    }

    /// Made by the host, and by [`testing`](crate::testing).
    #[doc(hidden)]
    pub fn new(kind: EmitErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(EmitErrorKind::Invalid, message)
    }

    /// The same with something before its message.
    pub(crate) fn after(self, before: &str) -> Self {
        Self { message: format!("{before}: {}", self.message), ..self }
    }

    /// As it crosses the boundary: JSON, which may grow.
    #[doc(hidden)]
    pub fn to_json(&self) -> String {
        // Texts cannot fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(crate) fn from_json(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_else(|_| Self::new(EmitErrorKind::Other, json))
    }
}

impl fmt::Display for EmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for EmitError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_passes_through_the_question_mark() {
        fn io() -> JobResult {
            std::fs::read("/definitely/not/here")?;
            Ok(())
        }
        fn text() -> JobResult {
            Err("no such mailbox")?
        }
        fn marked() -> JobResult {
            "x".parse::<u8>().permanent()?;
            Ok(())
        }
        assert!(io().unwrap_err().to_string().contains("No such file"));
        assert!(!text().unwrap_err().is_permanent());
        assert!(marked().unwrap_err().is_permanent());
    }

    #[test]
    fn an_invalid_event_is_not_worth_another_attempt() {
        #[derive(Debug)]
        struct Page(EmitError);
        impl fmt::Display for Page {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("page 7")
            }
        }
        impl Error for Page {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        for kind in [EmitErrorKind::Invalid, EmitErrorKind::Spool, EmitErrorKind::Ended, EmitErrorKind::Other] {
            let error = EmitError::from_json(&EmitError::new(kind, "no").to_json());
            assert_eq!((error.kind(), error.to_string()), (kind, "no".to_owned()));
            let permanent = kind == EmitErrorKind::Invalid;
            assert_eq!(JobError::from(error.clone()).is_permanent(), permanent);
            assert_eq!(JobError::from(Page(error.after("after 3"))).is_permanent(), permanent);
        }
    }

    /// Of a host that knows more, or less.
    #[test]
    fn an_answer_of_another_version_is_an_error_all_the_same() {
        let newer = EmitError::from_json(r#"{"kind":"quota","message":"no","until":5}"#);
        assert_eq!((newer.kind(), newer.to_string()), (EmitErrorKind::Other, "no".to_owned()));
        let older = EmitError::from_json("the job has ended");
        assert_eq!((older.kind(), older.to_string()), (EmitErrorKind::Other, "the job has ended".to_owned()));
    }

    #[test]
    fn causes_are_listed_once() {
        #[derive(Debug)]
        struct Outer(std::io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("cannot read the mailbox")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = JobError::from(Outer(std::io::Error::other("disk on fire")));
        assert_eq!(error.messages(), ["cannot read the mailbox", "disk on fire"]);
    }

    #[derive(Debug)]
    struct Chained(&'static str, Option<Box<Chained>>);

    impl fmt::Display for Chained {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Chained {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            match &self.1 {
                Some(cause) => Some(&**cause),
                None => Some(self),
            }
        }
    }

    #[test]
    fn causes_that_go_round_in_a_circle_have_an_end() {
        assert_eq!(JobError::from(Chained("again", None)).messages(), ["again"]);
        let two = Chained("one", Some(Box::new(Chained("two", None))));
        assert_eq!(JobError::from(two).messages(), ["one", "two"]);
    }

    #[test]
    fn the_first_line_is_the_reason() {
        assert_eq!(JobError::from("\n\n  no such mailbox\nlook again\n").messages(), ["no such mailbox\nlook again"]);
        let silent = Chained("\n", Some(Box::new(Chained("\ndisk on fire", None))));
        assert_eq!(JobError::from(silent).messages(), ["disk on fire"]);
        assert_eq!(JobError::from("").messages(), [""]);
    }
}
