//! OpenLineage as a [`Destination`]: the starts and ends of runs, with the data that they read and write, as run events for a lineage
//! backend (Marquez, DataHub, Dataplex).
//!
//! Of the rows it gets, only lorchestra's own events become requests; the others are passed over. One request is sent for each event, in
//! order, and a batch whose result is unknown is resent: backends identify an event by run and type, so it counts once. Talks only to
//! the backend's HTTP endpoint. What the server refuses for its content is set aside, as rows of a table are.

mod event;
#[cfg(test)]
mod tests;

use super::{BatchTarget, DeliveryError, DeliveryPolicy, Destination, Landed, RefusedRow, Row, Slot};
use crate::text;
use reqwest::StatusCode;
use std::collections::HashSet;
use std::time::Duration;
use zeroize::Zeroizing;

/// Maximum number of rows in a batch. Each may be a request, and the batch counts only when all have been answered: a slow backend must
/// answer that many within the time that a run has for delivery.
const ROWS: usize = 25;
/// The name of the destination's target. Not the address: when it changes, what was sent to the old one is sent to the new one.
const NAME: &str = "the lineage backend";
/// Approximate maximum size of a batch in bytes.
const BYTES: usize = 1 << 20;
/// Time limit of a request, and of connecting.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// Maximum length of a server's answer in a message, in characters.
const ANSWER: usize = 200;
/// The endpoint below the URL, unless configured otherwise.
pub const ENDPOINT: &str = "api/v1/lineage";

/// The user's configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenLineageConfig {
    /// The address of the endpoint, such as `http://marquez:5000/api/v1/lineage`.
    pub url: String,
    /// The namespace of the jobs.
    pub namespace: String,
    /// A bearer token.
    pub api_key: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for OpenLineageConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { url, namespace, api_key } = self;
        let key = api_key.as_ref().map(|_| "…");
        f.debug_struct("OpenLineageConfig").field("url", url).field("namespace", namespace).field("api_key", &key).finish()
    }
}

/// A lineage backend.
#[derive(Debug)]
pub struct OpenLineage {
    config: OpenLineageConfig,
    client: Option<reqwest::Client>,
}

impl OpenLineage {
    /// Creates the destination without a connection.
    pub fn new(config: OpenLineageConfig) -> Self {
        Self { config, client: None }
    }

    async fn post(&self, client: &reqwest::Client, body: String) -> Result<(), Unaccepted> {
        let mut request = client.post(&self.config.url).header("content-type", "application/json").body(body);
        if let Some(key) = &self.config.api_key {
            request = request.bearer_auth(key.as_str());
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(Unaccepted::Failed(self.later(text::chain(&error.without_url()), None))),
        };
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        let body = answer.text().await.unwrap_or_default();
        let reason = text::shortened(&text::first_line(&format!("{status}: {}", body.trim())), ANSWER);
        Err(self.classify(status, reason, after.map(Duration::from_secs)))
    }

    fn classify(&self, status: StatusCode, reason: String, after: Option<Duration>) -> Unaccepted {
        let about = format!("{}: {reason}", self.config.url);
        Unaccepted::Failed(match status {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE => {
                return Unaccepted::Refused(reason);
            }
            StatusCode::UNAUTHORIZED => DeliveryError::Unauthenticated(format!("{about}; check OPENLINEAGE_API_KEY")),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                DeliveryError::TargetMissing(format!("{about}; check destinations.openlineage.url"))
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => self.later(reason, after),
            // Perhaps because of this event: some backends answer so for a name that is too long.
            StatusCode::INTERNAL_SERVER_ERROR => DeliveryError::Later { reason: about, after, perhaps_request: true },
            status if status.is_server_error() => self.later(reason, after),
            _ => DeliveryError::Denied(about),
        })
    }

    fn later(&self, reason: String, after: Option<Duration>) -> DeliveryError {
        DeliveryError::Later { reason: format!("{}: {reason}", self.config.url), after, perhaps_request: false }
    }
}

/// Why an event was not accepted.
enum Unaccepted {
    /// Because of its content.
    Refused(String),
    Failed(DeliveryError),
}

/// Returns the last cause of a failed request, without the number of the system's error: "Connection refused".
fn root_cause(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |cause| cause.source());
    let text = causes.last().map(ToString::to_string).unwrap_or_default();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

impl Destination for OpenLineage {
    fn name(&self) -> &str {
        NAME
    }

    fn server(&self) -> &str {
        &self.config.url
    }

    fn route(&self) -> String {
        self.config.url.clone()
    }

    fn advice(&self) -> &'static str {
        "check the backend's log"
    }

    fn uses_streams(&self) -> bool {
        false
    }

    fn policy(&self) -> DeliveryPolicy {
        DeliveryPolicy::new(ROWS, BYTES)
    }

    fn is_sent(&self, row: &Row) -> bool {
        event::kind(row).is_some()
    }

    async fn connect(&mut self) -> Result<(), DeliveryError> {
        if self.client.is_none() {
            // No redirect: requests carry a secret.
            let builder = reqwest::Client::builder().timeout(TIMEOUT).connect_timeout(CONNECT);
            let client = builder.redirect(reqwest::redirect::Policy::none()).build();
            self.client = Some(client.map_err(|e| DeliveryError::Denied(format!("no HTTP client: {}", e.without_url())))?);
        }
        let Some(client) = &self.client else { return Ok(()) };
        let mut request = client.head(&self.config.url);
        if let Some(key) = &self.config.api_key {
            request = request.bearer_auth(key.as_str());
        }
        // Any answer shows a server. Few of them support this method here, so other statuses mean nothing.
        match request.send().await {
            Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => Err(DeliveryError::Unauthenticated(format!(
                "{}: {}; check OPENLINEAGE_API_KEY",
                self.config.url,
                answer.status()
            ))),
            Ok(_) => Ok(()),
            Err(error) => Err(DeliveryError::Later {
                reason: format!("cannot reach the OpenLineage backend at {}: {}", self.config.url, root_cause(&error)),
                after: None,
                perhaps_request: false,
            }),
        }
    }

    async fn create_stream(&mut self) -> Result<String, DeliveryError> {
        Err(DeliveryError::Denied("OpenLineage has no streams".into()))
    }

    async fn append(&mut self, _: BatchTarget<'_>, rows: &[Row]) -> Result<Landed, DeliveryError> {
        let client = self.client.as_ref().ok_or_else(|| DeliveryError::Denied("not connected".into()))?;
        let mut refused: Vec<RefusedRow> = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let Some(event) = event::of(row, &self.config.namespace) else { continue };
            match self.post(client, event).await {
                Ok(()) => {}
                Err(Unaccepted::Refused(reason)) => refused.push(RefusedRow { index, reason }),
                Err(Unaccepted::Failed(error)) if refused.is_empty() => return Err(error),
                // What is refused is known; the others are sent again.
                Err(Unaccepted::Failed(_)) => break,
            }
        }
        // The others of the batch are sent again without these.
        if refused.is_empty() { Ok(Landed::Now) } else { Err(DeliveryError::Rows(refused)) }
    }

    async fn finalize(&mut self, _: Slot<'_>, _: &[Row]) -> Result<i64, DeliveryError> {
        Err(DeliveryError::StreamGone("OpenLineage has no streams".into()))
    }

    /// Backends have no common way to ask for an event, and it does no harm to send one again.
    async fn present(&mut self, _: &[Row]) -> Result<HashSet<String>, DeliveryError> {
        Ok(HashSet::new())
    }
}
