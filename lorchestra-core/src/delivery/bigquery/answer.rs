//! What an answer means: every error of the client and every gRPC status as a [`DeliveryError`]. Talks to nobody; promises that nothing
//! is called definite that may have been written, and that no text holds row contents (the callers pass the rows of a batch
//! through [`super::redact`] first) or a token.
//!
//! gcp-bigquery-client reads the body of a failure as Google's JSON and drops status and headers. An answer of another shape (a
//! proxy's HTML 502, an empty 429) is a decode error without its status; so is a 200 that cannot be read. That is [`DeliveryError::Later`].
//! Rows are therefore sent past it (see [`super::rest`]), where a 413 is seen as one and a Retry-After is kept, as gRPC's RetryInfo is.

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

/// Worth another try, nothing known of its size.
pub(super) fn later(reason: String) -> DeliveryError {
    DeliveryError::Later { reason, after: None, perhaps_request: false }
}

/// No answer in time.
pub(super) fn too_late(about: &str, limit: Duration) -> DeliveryError {
    later(format!("{about}: no answer within {} s", limit.as_secs_f32()))
}

/// The cause below all others: the one that helps ("connection refused", "invalid peer certificate: UnknownIssuer").
pub(super) fn cause(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    one_line(&deepest.to_string())
}

/// An error of a REST call. `about` is the table, or what else was asked for.
pub(super) fn rest(about: &str, error: &BQError) -> DeliveryError {
    match error {
        BQError::ResponseError { error } => {
            let NestedResponseError { code, errors, message, status } = &error.error;
            let reasons: Vec<&str> = errors.iter().filter_map(|error| error.get("reason")).map(String::as_str).collect();
            let reasons = if reasons.is_empty() && !status.is_empty() { vec![status.as_str()] } else { reasons };
            http(about, *code, &reasons, message, None)
        }
        BQError::RequestError(error) => request(about, error),
        // The token is asked for before each call: of these none is expected.
        other => DeliveryError::Denied(format!("{about}: {}", one_line(&other.to_string()))),
    }
}

/// A failure below the API: no answer, or one that is none of the API's.
pub(super) fn request(about: &str, error: &reqwest::Error) -> DeliveryError {
    if error.is_builder() {
        return DeliveryError::Denied(format!("{about}: {}", cause(error)));
    }
    if error.is_decode() {
        return later(format!("{about}: the response is not from BigQuery (a proxy?)"));
    }
    later(format!("{about}: {}", unanswered(error)))
}

/// What became of a request without an answer, with the host but without the rest of the address.
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

/// An answer by HTTP code and Google's reasons.
pub(super) fn http(about: &str, code: i64, reasons: &[&str], message: &str, after: Option<Duration>) -> DeliveryError {
    let has = |known: &[&str]| reasons.iter().any(|reason| known.contains(reason));
    let named = reasons.first().map(|reason| format!(" {reason}")).unwrap_or_default();
    let text = format!("{about}: {code}{named}: {}", one_line(message));
    let retry = DeliveryError::Later { reason: text.clone(), after, perhaps_request: false };
    match code {
        401 => DeliveryError::Unauthenticated(format!("{text}: credentials not accepted")),
        403 if has(&RETRYABLE) => retry,
        403 => DeliveryError::Denied(text),
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

/// Reasons that pass by themselves, whatever code they come with.
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

/// What BigQuery says of a request over its limit. Not of a quota, whose words are much the same.
fn too_large(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    if ["quota", "throughput", "rate limit", "per second", "per minute"].iter().any(|word| message.contains(word)) {
        return false;
    }
    let size = ["size", "length", "payload", "bytes", "request is", "rows present", "larger than max"];
    let over = ["too large", "exceed", "too many rows", "larger than max"];
    size.iter().any(|word| message.contains(word)) && over.iter().any(|word| message.contains(word))
}

/// What gRPC libraries say of a message over their limit. Their code for it is the one of quotas.
fn message_too_large(lower: &str) -> bool {
    ["larger than max", "message length too large", "exceeds maximum size"].iter().any(|words| lower.contains(words))
}

/// insertAll's row errors: nothing of the request was written, for invalid rows are not skipped.
///
/// `rows` were sent; `stopped` ones are bystanders. A row that only a passing fault hit is not refused. None: there is no error among them.
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
        // The column is not there (any more): a fact of the table, not of the row.
        if error.message.as_deref().is_some_and(|message| message.to_ascii_lowercase().starts_with("no such field")) {
            return Some(DeliveryError::LayoutChanged(format!("{about}: {text}")));
        }
        match index {
            Some(_) if RETRYABLE.contains(&reason_of(at)) => passing = Some(text),
            Some(index) => refused.push(RefusedRow { index, reason: text }),
            None => {
                return Some(DeliveryError::Malformed(format!(
                    "{about}: a row was refused, and the response does not say which one: {text}"
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

/// Which call of the Storage Write API was answered: NOT_FOUND means another thing to each.
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
    /// Without details it may be a proxy's answer.
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
        // A failure to connect is reported by its cause only.
        let message = status.source().map_or_else(|| status.message().to_owned(), cause);
        let mut fault = Self::from(rpc::Status { code: status.code() as i32, message, details: inner.details });
        // A connection that broke says nothing of a size.
        fault.bare &= status.source().is_none();
        fault
    }
}

/// How the client's generated code begins, when the channel is dead.
const NOT_READY: &str = "service was not ready";

/// The channel itself has ended: no call over it will ever go out.
pub(super) fn channel_is_dead(status: &tonic::Status) -> bool {
    status.message().to_ascii_lowercase().starts_with(NOT_READY)
}

impl ServerError {
    /// The message, with what `hide` takes out of it.
    pub(super) fn hide(mut self, hide: impl Fn(&str) -> String) -> Self {
        self.message = hide(&self.message);
        self
    }

    /// What it means. Ok only for an append whose rows are at their offset already.
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
                S::InvalidStreamType
                | S::CmekNotProvided
                | S::InvalidCmekProvided
                | S::CmekEncryptionError
                | S::KmsPermissionDenied => DeliveryError::Denied(text),
            });
        }
        Err(match self.code {
            Code::AlreadyExists if call == Operation::Append => return Ok(Landed::Before),
            Code::InvalidArgument if too_large(&lower) => DeliveryError::TooLarge(text),
            // gRPC libraries answer so to a message over their own limit.
            Code::OutOfRange | Code::ResourceExhausted if message_too_large(&lower) => DeliveryError::TooLarge(text),
            Code::OutOfRange => DeliveryError::StreamDamaged(text),
            // A proxy's 413 has no code of its own in gRPC.
            Code::Unknown | Code::Internal if self.bare && lower.ends_with("http status code 413") => {
                DeliveryError::TooLarge(text)
            }
            // It may be a row on which the server stumbles.
            Code::Internal if call == Operation::Append => retry(text, true),
            Code::Unknown if lower.starts_with(NOT_READY) => retry(text, false),
            Code::Unknown => retry(text, self.bare),
            Code::InvalidArgument | Code::FailedPrecondition if lower.contains("finalized") => {
                if call == Operation::Finalize {
                    DeliveryError::StreamGone(text)
                } else {
                    DeliveryError::StreamFinalized(text)
                }
            }
            Code::InvalidArgument | Code::FailedPrecondition if schema_mismatch(&lower) => DeliveryError::LayoutChanged(text),
            // A server that was started again, or that never had it. Of finalize's request nothing but the name can be wrong.
            Code::InvalidArgument | Code::FailedPrecondition if call != Operation::Create && unknown_stream(&lower) => {
                DeliveryError::StreamGone(text)
            }
            Code::InvalidArgument if call == Operation::Finalize => DeliveryError::StreamGone(text),
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
            Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition => DeliveryError::Denied(text),
            _ => retry(text, false),
        })
    }
}

/// How servers name a stream that they do not have, next to NOT_FOUND.
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
