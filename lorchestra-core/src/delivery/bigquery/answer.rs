//! Classifies answers: maps every error of the client and every gRPC status to a [`DeliveryError`]. Pure functions only. Guarantees that no
//! error is called definite if rows may have been written, and that no message contains row contents (callers pass messages through
//! [`super::redact`] first) or a token.
//!
//! gcp-bigquery-client parses the body of an error as Google's JSON and drops status and headers. A response of another form (a proxy's
//! HTML 502, an empty 429) becomes a decode error without a status, and so does an unreadable 200; both map to [`DeliveryError::Later`].
//! Rows are therefore sent without the client (see [`super::rest`]), so that a 413 is recognized and a Retry-After is kept, as is gRPC's
//! RetryInfo.

use super::redact::one_line;
use crate::delivery::{DeliveryError, Landed, RefusedRow};
use gcp_bigquery_client::error::{BQError, NestedResponseError};
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::StorageError;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::storage_error::StorageErrorCode;
use gcp_bigquery_client::google::rpc;
use gcp_bigquery_client::model::table_data_insert_all_response_insert_errors::TableDataInsertAllResponseInsertErrors as InsertError;
use prost::Message;
use std::error::Error;
use std::time::Duration;
use tonic::Code;

/// A retryable error that says nothing about the request's size.
pub(super) fn later(reason: String) -> DeliveryError {
    DeliveryError::Later { reason, after: None, perhaps_request: false }
}

/// A timeout.
pub(super) fn too_late(about: &str, limit: Duration) -> DeliveryError {
    later(format!("{about}: no answer within {} s", limit.as_secs_f32()))
}

/// A timeout of a request with rows: on a slow line, fewer of them may get through.
pub(super) fn rows_too_late(about: &str, limit: Duration) -> DeliveryError {
    let reason = format!("{about}: no answer within {} s", limit.as_secs_f32());
    DeliveryError::Later { reason, after: None, perhaps_request: true }
}

/// Returns the innermost cause, which is the helpful one ("connection refused", "invalid peer certificate: UnknownIssuer").
pub(super) fn cause(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    one_line(&deepest.to_string())
}

/// Classifies an error of a REST call. `about` is the table, or another subject.
pub(super) fn rest(about: &str, error: &BQError) -> DeliveryError {
    match error {
        BQError::ResponseError { error } => {
            let NestedResponseError { code, errors, message, status } = &error.error;
            let reasons: Vec<&str> = errors.iter().filter_map(|error| error.get("reason")).map(String::as_str).collect();
            let reasons = if reasons.is_empty() && !status.is_empty() { vec![status.as_str()] } else { reasons };
            http(about, *code, &reasons, message, None)
        }
        BQError::RequestError(error) => request(about, error),
        // Tokens are fetched before each call, so none of these is expected.
        other => DeliveryError::Denied(format!("{about}: {}", one_line(&other.to_string()))),
    }
}

/// Classifies a failure below the API: no response, or one that is not from the API.
pub(super) fn request(about: &str, error: &reqwest::Error) -> DeliveryError {
    if error.is_builder() {
        return DeliveryError::Denied(format!("{about}: {}", cause(error)));
    }
    if error.is_decode() {
        return later(format!("{about}: the response is not from BigQuery (a proxy?)"));
    }
    later(format!("{about}: {}", unanswered(error)))
}

/// Describes a failed request, with the host but without the rest of the address.
pub(super) fn unanswered(error: &reqwest::Error) -> String {
    let how = if error.is_connect() {
        "no connection to"
    } else if error.is_timeout() {
        "no response in time from"
    } else {
        "the connection was lost:"
    };
    let authority = error.url().map(|url| url.authority().to_owned()).unwrap_or_default();
    format!("{how} {authority}: {}", cause(error))
}

/// Classifies a response by HTTP code and Google's reasons.
pub(super) fn http(about: &str, code: i64, reasons: &[&str], message: &str, after: Option<Duration>) -> DeliveryError {
    let has = |known: &[&str]| reasons.iter().any(|reason| known.contains(reason));
    let named = reasons.first().map(|reason| format!(" {reason}")).unwrap_or_default();
    let text = format!("{about}: {code}{named}: {}", one_line(message));
    let retry = DeliveryError::Later { reason: text.clone(), after, perhaps_request: false };
    match code {
        401 => DeliveryError::Unauthenticated(format!("{text}: credentials not accepted")),
        403 if has(&RETRYABLE) => retry,
        403 => DeliveryError::Forbidden(text),
        404 => DeliveryError::TargetMissing(text),
        413 => DeliveryError::TooLarge(text),
        408 | 409 | 429 => retry,
        500 => DeliveryError::Later { reason: text, after, perhaps_request: true },
        501.. => retry,
        400 if too_large(message) => DeliveryError::TooLarge(text),
        400 if has(&RETRYABLE) => retry,
        _ => DeliveryError::Denied(text),
    }
}

/// Reasons that are temporary, whatever code they come with.
const RETRYABLE: [&str; 10] = [
    "rateLimitExceeded",
    "userRateLimitExceeded",
    "jobRateLimitExceeded",
    "quotaExceeded",
    "backendError",
    "jobBackendError",
    "internalError",
    "jobInternalError",
    "tableUnavailable",
    "timeout",
];

/// Whether BigQuery's message means that the request exceeds a size limit. Excludes quotas, whose messages are similar.
fn too_large(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    if ["quota", "throughput", "rate limit", "per second", "per minute"].iter().any(|word| message.contains(word)) {
        return false;
    }
    let size = ["size", "length", "payload", "bytes", "request is", "rows present", "larger than max"];
    let over = ["too large", "exceed", "too many rows", "larger than max"];
    size.iter().any(|word| message.contains(word)) && over.iter().any(|word| message.contains(word))
}

/// Whether a message of a gRPC library means that a message exceeds its size limit. The code is the same as for quotas.
fn message_too_large(lower: &str) -> bool {
    ["larger than max", "message length too large", "exceeds maximum size"].iter().any(|words| lower.contains(words))
}

/// Classifies insertAll's row errors. Nothing of the request was written, because invalid rows are not skipped.
///
/// `rows` were sent; rows with the reason `stopped` are not the cause. A row with only a temporary fault is not refused. Returns `None` if
/// there is no error.
pub(super) fn inserted(
    about: &str,
    rows: usize,
    errors: &[InsertError],
    hide: impl Fn(usize, &str) -> String,
) -> Option<DeliveryError> {
    let mut refused: Vec<RefusedRow> = Vec::new();
    let mut stopped = false;
    let mut passing = None;
    for entry in errors {
        let index = entry.index.and_then(|index| usize::try_from(index).ok()).filter(|index| *index < rows);
        let reasons = entry.errors.as_deref().unwrap_or_default();
        let reason_of = |at: usize| reasons[at].reason.as_deref().unwrap_or("");
        let Some(at) = (0..reasons.len()).find(|&at| reason_of(at) != "stopped") else {
            stopped = true;
            continue;
        };
        let error = &reasons[at];
        let location = error.location.as_deref().filter(|location| !location.is_empty());
        let location = location.map(|location| format!(" at {}", one_line(location))).unwrap_or_default();
        let message = error.message.as_deref().unwrap_or_default();
        let message = index.map_or_else(String::new, |index| hide(index, message));
        let text = format!("{}{location}: {message}", reason_of(at));
        // The column does not exist (any more): a property of the table, not of the row.
        if error.message.as_deref().is_some_and(|message| message.to_ascii_lowercase().starts_with("no such field")) {
            return Some(DeliveryError::LayoutChanged(format!("{about}: {text}")));
        }
        match index {
            Some(_) if RETRYABLE.contains(&reason_of(at)) => passing = Some(text),
            Some(index) => refused.push(RefusedRow { index, reason: text }),
            None => {
                return Some(DeliveryError::Malformed(format!(
                    "{about}: a row was refused, and the response does not identify it: {text}"
                )));
            }
        }
    }
    if !refused.is_empty() {
        refused.sort_by_key(|row| row.index);
        refused.dedup_by_key(|row| row.index);
        return Some(DeliveryError::Rows(refused));
    }
    match passing {
        Some(text) => Some(later(format!("{about}: {text}"))),
        None => stopped.then(|| later(format!("{about}: all rows were rejected, and the response names no cause"))),
    }
}

/// The operation of the Storage Write API that was answered: NOT_FOUND has a different meaning for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Append,
    Finalize,
}

/// A gRPC error, from the call's status or from inside an answer.
#[derive(Debug)]
pub(super) struct ServerError {
    code: Code,
    message: String,
    storage: Vec<StorageErrorCode>,
    after: Option<Duration>,
    /// Without details it may come from a proxy.
    bare: bool,
}

/// google.rpc.RetryInfo, which the client does not generate.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

impl From<rpc::Status> for ServerError {
    fn from(status: rpc::Status) -> Self {
        let mut fault = Self {
            code: Code::from_i32(status.code),
            message: status.message,
            storage: Vec::new(),
            after: None,
            bare: status.details.is_empty(),
        };
        for detail in &status.details {
            if detail.type_url.ends_with("google.cloud.bigquery.storage.v1.StorageError") {
                fault.storage.extend(StorageError::decode(&detail.value[..]).map(|error| error.code()));
            } else if detail.type_url.ends_with("google.rpc.RetryInfo") {
                let delay = RetryInfo::decode(&detail.value[..]).ok().and_then(|info| info.retry_delay);
                fault.after = delay.and_then(|delay| Duration::try_from(delay).ok());
            }
        }
        fault
    }
}

impl From<&tonic::Status> for ServerError {
    fn from(status: &tonic::Status) -> Self {
        let inner = rpc::Status::decode(status.details()).unwrap_or_default();
        // A failure to connect is described only by its cause.
        let message = status.source().map_or_else(|| status.message().to_owned(), cause);
        let mut fault = Self::from(rpc::Status { code: status.code() as i32, message, details: inner.details });
        // A broken connection says nothing about size.
        fault.bare &= status.source().is_none();
        fault
    }
}

/// The prefix of the error of the client's generated code when the channel is dead.
const NOT_READY: &str = "service was not ready";

/// Whether the channel itself has ended, so that no call over it can succeed.
pub(super) fn channel_is_dead(status: &tonic::Status) -> bool {
    status.message().to_ascii_lowercase().starts_with(NOT_READY)
}

impl ServerError {
    /// Redacts the message with `hide`.
    pub(super) fn hide(mut self, hide: impl Fn(&str) -> String) -> Self {
        self.message = hide(&self.message);
        self
    }

    /// Classifies the error. Returns `Ok` only for an append whose rows are already at their offset.
    pub(super) fn meaning(self, about: &str, call: Operation) -> Result<Landed, DeliveryError> {
        use StorageErrorCode as S;
        let text = format!("{about}: {:?}: {}", self.code, one_line(&self.message));
        let lower = self.message.to_ascii_lowercase();
        let after = self.after;
        let retry = |text, perhaps_request| DeliveryError::Later { reason: text, after, perhaps_request };
        for storage in self.storage {
            return Err(match storage {
                S::OffsetAlreadyExists if call == Operation::Append => return Ok(Landed::Before),
                S::OffsetOutOfRange => DeliveryError::StreamDamaged(text),
                S::StreamFinalized | S::StreamAlreadyCommitted | S::InvalidStreamState if call == Operation::Finalize => {
                    DeliveryError::StreamGone(text)
                }
                S::StreamFinalized | S::StreamAlreadyCommitted | S::InvalidStreamState => DeliveryError::StreamFinalized(text),
                S::StreamNotFound => DeliveryError::StreamGone(text),
                S::TableNotFound => DeliveryError::TargetMissing(text),
                S::SchemaMismatchExtraFields => DeliveryError::LayoutChanged(text),
                S::KmsServiceError => retry(text, false),
                S::Unspecified | S::OffsetAlreadyExists => continue,
                S::KmsPermissionDenied => DeliveryError::Forbidden(text),
                S::InvalidStreamType | S::CmekNotProvided | S::InvalidCmekProvided | S::CmekEncryptionError => {
                    DeliveryError::Denied(text)
                }
            });
        }
        Err(match self.code {
            Code::AlreadyExists if call == Operation::Append => return Ok(Landed::Before),
            Code::InvalidArgument if too_large(&lower) => DeliveryError::TooLarge(text),
            // gRPC libraries return this for a message over their own limit.
            Code::OutOfRange | Code::ResourceExhausted if message_too_large(&lower) => DeliveryError::TooLarge(text),
            Code::OutOfRange => DeliveryError::StreamDamaged(text),
            // gRPC has no code for a proxy's 413.
            Code::Unknown | Code::Internal if self.bare && lower.ends_with("http status code 413") => {
                DeliveryError::TooLarge(text)
            }
            // A row may be what makes the server fail.
            Code::Internal if call == Operation::Append => retry(text, true),
            Code::Unknown if lower.starts_with(NOT_READY) => retry(text, false),
            Code::Unknown => retry(text, self.bare),
            Code::InvalidArgument | Code::FailedPrecondition if call == Operation::Finalize && is_finalized(&lower) => {
                DeliveryError::StreamGone(text)
            }
            // What follows closes the stream, so a misunderstood message costs no more than a stream.
            Code::InvalidArgument | Code::FailedPrecondition if call == Operation::Append && lower.contains("finalized") => {
                DeliveryError::StreamFinalized(text)
            }
            Code::InvalidArgument | Code::FailedPrecondition if schema_mismatch(&lower) => DeliveryError::LayoutChanged(text),
            // A restarted server, or one that never had the stream.
            Code::InvalidArgument | Code::FailedPrecondition if call != Operation::Create && unknown_stream(&lower) => {
                DeliveryError::StreamGone(text)
            }
            // Neither says that the stream is gone, so a slow request may still land in it.
            Code::InvalidArgument if call == Operation::Finalize => DeliveryError::Precondition(text),
            // Google's client for Go retries it, "per guidance from backend team".
            Code::FailedPrecondition if call != Operation::Create => DeliveryError::Precondition(text),
            Code::NotFound if call == Operation::Create => DeliveryError::TargetMissing(text),
            Code::NotFound if lower.contains("table not found") || lower.contains("not found: table") => {
                DeliveryError::TargetMissing(text)
            }
            Code::NotFound => DeliveryError::StreamGone(text),
            Code::Unauthenticated => DeliveryError::Unauthenticated(format!("{text}: credentials not accepted")),
            Code::Unimplemented => {
                DeliveryError::Denied(format!("{text}: no Storage Write API there: try `write = \"insert-all\"`"))
            }
            Code::InvalidArgument if call == Operation::Append => DeliveryError::Malformed(text),
            Code::PermissionDenied | Code::FailedPrecondition => DeliveryError::Forbidden(text),
            Code::InvalidArgument => DeliveryError::Denied(text),
            _ => retry(text, false),
        })
    }
}

/// Whether a server says that a stream has been finalized before. "cannot be finalized" is the opposite.
fn is_finalized(lower: &str) -> bool {
    ["is finalized", "already finalized", "been finalized", "was finalized"].iter().any(|words| lower.contains(words))
}

/// How servers describe an unknown stream, other than by NOT_FOUND.
fn unknown_stream(lower: &str) -> bool {
    ["invalid stream name", "entity not found", "entity was not found", "stream not found"]
        .iter()
        .any(|words| lower.contains(words))
}

fn schema_mismatch(lower: &str) -> bool {
    ["schema mismatch", "extra field", "mismatched with bigquery", "schema has changed", "not found in table schema"]
        .iter()
        .any(|words| lower.contains(words))
}

#[cfg(test)]
mod tests;
