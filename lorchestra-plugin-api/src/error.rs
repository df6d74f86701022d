//! Errors of jobs ([`JobError`]) and of emitting ([`EmitError`]). The host receives them as text and a `permanent` flag.

use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fmt;

/// Maximum number of causes read from an error's `source()` chain, which may be endless.
const MAX_CAUSES: usize = 16;

/// The return type of a job.
///
/// A job may also return `Result<(), E>` with any error that converts to [`JobError`].
pub type JobResult = Result<(), JobError>;

/// The error of a failed job. `?` converts any error, `String` or `&str` into one.
///
/// An error is retryable unless it is marked [`permanent`](JobError::permanent): most jobs fail because of the network. lorchestra
/// retries only retryable errors, up to the run's `--retries`.
///
/// ```
/// use lorchestra_plugin_api::prelude::*;
///
/// /// Count the lines of a file.
/// #[job]
/// fn count_lines(cx: &JobContext, input: PathBuf) -> JobResult {
///     // A missing file is still missing on the next attempt.
///     let text = std::fs::read_to_string(&input).map_err(|e| format!("{}: {e}", input.display())).permanent()?;
///     if text.is_empty() {
///         // Retryable: the file may be filled later.
///         return Err(format!("{} is empty", input.display()).into());
///     }
///     cx.emit("lines.counted", json!({ "lines": text.lines().count() }))?;
///     Ok(())
/// }
/// # use lorchestra_plugin_api::testing;
/// # fn main() {
/// let dir = testing::TempDir::new();
/// let empty = dir.write("empty.txt", "");
/// testing::job::<count_lines>().param("input", empty).run().assert_retryable("is empty");
/// testing::job::<count_lines>().param("input", "/no/such/file").run().assert_permanent("No such file");
/// # }
/// ```
///
/// Like `anyhow::Error`, this type does not implement [`Error`] itself, because then `?` could not convert every error.
pub struct JobError {
    error: Box<dyn Error + Send + Sync>,
    permanent: bool,
}

impl JobError {
    /// Marks the error as permanent, so that lorchestra does not retry the job: wrong input, missing permission, a bug.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.permanent = true;
        self
    }

    /// Converts an error that implements [`Classify`]: for `.map_err(JobError::classify)?`.
    pub fn classify<E: Classify + Into<Self>>(error: E) -> Self {
        let permanent = error.is_permanent();
        let mut error = error.into();
        error.permanent |= permanent;
        error
    }

    /// Returns whether the error is marked as permanent.
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// The messages of the error and its causes (up to [`MAX_CAUSES`]), outermost first. They are trimmed, so that the first line is never
    /// empty when only the first line is shown.
    pub(crate) fn messages(&self) -> Vec<String> {
        let text = |error: &dyn Error| error.to_string().trim().to_owned();
        let mut messages = vec![text(&*self.error)];
        let causes = std::iter::successors(self.error.source(), |&cause| cause.source());
        for message in causes.take(MAX_CAUSES).map(text) {
            // Many errors repeat their cause in their own text.
            if !messages.last().is_some_and(|last| last.ends_with(&message)) {
                messages.push(message);
            }
        }
        // An error with an empty message is represented by its causes.
        if messages.len() > 1 && messages[0].is_empty() {
            messages.remove(0);
        }
        messages
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for JobError {
    /// Converts any error. The result is permanent if the error is, or is caused by, an [`EmitError`] for an invalid event: the next
    /// attempt would emit the same event.
    fn from(error: E) -> Self {
        let error = error.into();
        let first: &(dyn Error + 'static) = &*error;
        let mut chain = std::iter::successors(Some(first), |&error| error.source()).take(MAX_CAUSES);
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

/// Adds `.permanent()?` to every `Result`.
///
/// ```
/// # use lorchestra_plugin_api::prelude::*;
/// fn port(text: &str) -> Result<u16, JobError> {
///     text.parse::<u16>().permanent()
/// }
/// assert!(port("http").is_err_and(|error| error.is_permanent()));
/// ```
pub trait Permanent<T> {
    /// Converts the error into a permanent [`JobError`], which lorchestra does not retry.
    fn permanent(self) -> Result<T, JobError>;
}

impl<T, E: Into<JobError>> Permanent<T> for Result<T, E> {
    fn permanent(self) -> Result<T, JobError> {
        self.map_err(|e| e.into().permanent())
    }
}

/// An error type that knows which of its errors are permanent: lorchestra does not retry the job after those.
///
/// Derive it, and return the type from the job. In a function that returns [`JobResult`], convert with
/// [`JobError::classify`].
///
/// ```
/// use lorchestra_plugin_api::prelude::*;
/// use std::fmt;
///
/// #[derive(Debug, Classify)]
/// enum FetchError {
///     /// The next attempt may succeed.
///     Network(String),
///     #[permanent]
///     NoSuchMailbox { name: String },
/// }
///
/// impl fmt::Display for FetchError {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         match self {
///             Self::Network(error) => write!(f, "network: {error}"),
///             Self::NoSuchMailbox { name } => write!(f, "no mailbox {name}"),
///         }
///     }
/// }
///
/// impl std::error::Error for FetchError {}
///
/// /// Fetch a mailbox.
/// #[job]
/// fn fetch(cx: &JobContext, name: String) -> Result<(), FetchError> {
///     if name == "inbox" { Err(FetchError::Network("timed out".into())) } else { Err(FetchError::NoSuchMailbox { name }) }
/// }
///
/// /// Fetch a mailbox, and then more.
/// #[job]
/// fn fetch_more(cx: &JobContext) -> JobResult {
///     Err(FetchError::NoSuchMailbox { name: "more".into() }).map_err(JobError::classify)
/// }
/// # use lorchestra_plugin_api::testing;
/// # fn main() {
/// testing::job::<fetch>().param("name", "inbox").run().assert_retryable("timed out");
/// testing::job::<fetch>().param("name", "sent").run().assert_permanent("no mailbox sent");
/// testing::job::<fetch_more>().run().assert_permanent("no mailbox more");
/// # }
/// ```
pub trait Classify {
    /// Returns whether another attempt would fail in the same way.
    fn is_permanent(&self) -> bool;
}

/// Chooses the conversion of a job's result. The expansion of `#[job]` calls `conversion()` on a reference: for an error that implements
/// [`Classify`] the method of [`ClassifiedResult`] is found first, for any other that of [`AnyResult`], which takes one reference more.
#[doc(hidden)]
pub trait ClassifiedResult {
    fn conversion(&self) -> Classified {
        Classified
    }
}

impl<E: Classify> ClassifiedResult for Result<(), E> {}

#[doc(hidden)]
pub trait AnyResult {
    fn conversion(&self) -> Unclassified {
        Unclassified
    }
}

impl<T> AnyResult for &T {}

#[doc(hidden)]
#[derive(Debug)]
pub struct Classified;

impl Classified {
    pub fn apply<E: Classify + Into<JobError>>(self, result: Result<(), E>) -> JobResult {
        result.map_err(JobError::classify)
    }
}

#[doc(hidden)]
#[derive(Debug)]
pub struct Unclassified;

impl Unclassified {
    pub fn apply<T: IntoJobResult>(self, result: T) -> JobResult {
        result.into_job_result()
    }
}

/// The types that a function marked with `#[job]` may return: `Result<(), E>` where `E` converts to [`JobError`].
#[diagnostic::on_unimplemented(
    message = "a job returns a `Result`, not `{Self}`",
    label = "expected `JobResult`",
    note = "write `-> JobResult` and end the job with `Ok(())`; emit results as events"
)]
pub trait IntoJobResult {
    /// Converts the value into a [`JobResult`].
    fn into_job_result(self) -> JobResult;
}

impl<E: Into<JobError>> IntoJobResult for Result<(), E> {
    fn into_job_result(self) -> JobResult {
        self.map_err(Into::into)
    }
}

/// An event, bookmark or flush that failed. A failed event is not recorded and will not be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmitError {
    kind: EmitErrorKind,
    message: String,
}

/// The kind of an [`EmitError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EmitErrorKind {
    /// The event or bookmark breaks a rule: too large, not a JSON object, a number beyond 64 bits. Retrying cannot help, so `?` converts it
    /// into a [permanent](JobError::permanent) error.
    Invalid,
    /// The spool file could not be written: the disk is full, or the file is damaged. Another attempt may succeed.
    Spool,
    /// The job has ended or is being stopped, or this process is a fork of the worker.
    Ended,
    /// Any other kind, including kinds added after this version of the API.
    #[serde(other)]
    Other,
}

impl EmitError {
    /// Returns the kind of error.
    pub fn kind(&self) -> EmitErrorKind {
        self.kind
    }

    /// Creates an error. Used by the host and by [`testing`](crate::testing).
    #[doc(hidden)]
    pub fn new(kind: EmitErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(EmitErrorKind::Invalid, message)
    }

    /// Puts a text and a colon before the message.
    pub(crate) fn with_context(self, before: &str) -> Self {
        Self { message: format!("{before}: {}", self.message), ..self }
    }

    /// Serializes the error for the plugin boundary. JSON, because fields may be added later.
    #[doc(hidden)]
    pub fn to_json(&self) -> String {
        // Serializing strings cannot fail.
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
    fn the_question_mark_converts_any_error() {
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
    fn an_invalid_event_is_a_permanent_error() {
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
            assert_eq!(JobError::from(Page(error.with_context("after 3"))).is_permanent(), permanent);
        }
    }

    /// Of a host that knows more, or less.
    #[test]
    fn an_error_from_another_host_version_is_still_an_error() {
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
    fn a_cycle_of_causes_terminates() {
        assert_eq!(JobError::from(Chained("again", None)).messages(), ["again"]);
        let two = Chained("one", Some(Box::new(Chained("two", None))));
        assert_eq!(JobError::from(two).messages(), ["one", "two"]);
    }

    #[test]
    fn the_first_line_of_a_message_is_never_empty() {
        assert_eq!(JobError::from("\n\n  no such mailbox\nlook again\n").messages(), ["no such mailbox\nlook again"]);
        let silent = Chained("\n", Some(Box::new(Chained("\ndisk on fire", None))));
        assert_eq!(JobError::from(silent).messages(), ["disk on fire"]);
        assert_eq!(JobError::from("").messages(), [""]);
    }
}
