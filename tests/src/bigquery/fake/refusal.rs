//! Errors of the API as values: HTTP status, Google's reason, the message. [`super::rest`] sends them as JSON, [`super::grpc`] as statuses.

use serde_json::{Value, json};

/// Why the fake refuses a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) http: u16,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(http: u16, reason: &str, message: impl Into<String>) -> Self {
        Self { http, reason: reason.to_owned(), message: message.into() }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "notFound", message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid", message)
    }

    pub(super) fn duplicate(message: impl Into<String>) -> Self {
        Self::new(409, "duplicate", message)
    }

    pub(super) fn unauthenticated() -> Self {
        let message = "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid \
                       authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.";
        Self::new(401, "required", message)
    }

    /// In the JSON form of Google's REST APIs.
    pub(super) fn json(&self) -> Value {
        let status = match self.http {
            400 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            409 => "ALREADY_EXISTS",
            429 => "RESOURCE_EXHAUSTED",
            500 => "INTERNAL",
            503 => "UNAVAILABLE",
            504 => "DEADLINE_EXCEEDED",
            _ => "UNKNOWN",
        };
        json!({"error": {
            "code": self.http,
            "message": self.message,
            "errors": [{"message": self.message, "domain": "global", "reason": self.reason}],
            "status": status,
        }})
    }
}
