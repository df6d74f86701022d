//! Slack's Web API: one call at a time, with rate limits and errors.
//!
//! A cancelled run does not wait for a call: the call continues on its own thread, and its result is ignored.

use crate::roots;
use lorchestra_plugin_api::serde_json::{self, Value};
use lorchestra_plugin_api::{JobContext, Secret, tracing};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use ureq::Agent;
use ureq::http::header;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

mod error;

pub(crate) use error::ApiError;

/// Interval between two checks for cancellation.
const LOOK: Duration = Duration::from_millis(50);
/// Maximum size of a response in bytes. A page of a thousand messages has a few megabytes.
const MAX_ANSWER: u64 = 64 << 20;
/// Wait if Slack does not say how long.
const USUAL_WAIT: Duration = Duration::from_secs(30);
/// Maximum wait that Slack may request. Longer ones are left to another attempt of the run.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);
/// Maximum number of consecutive waits for one call.
const WAITS: u32 = 20;

/// The client.
pub(crate) struct Api<'a> {
    agent: Agent,
    base: String,
    token: Secret,
    idle_timeout: Duration,
    cx: &'a JobContext,
}

enum Answer {
    Value(Value),
    Wait(Duration),
}

impl<'a> Api<'a> {
    /// Creates the client. Makes no call yet.
    pub(crate) fn new(
        base: &str,
        token: Secret,
        ca_file: Option<&Path>,
        idle_timeout: Duration,
        cx: &'a JobContext,
    ) -> Result<Self, ApiError> {
        let base = base.trim_end_matches('/').to_owned();
        let uri: ureq::http::Uri = base.parse().map_err(|_| ApiError::BadBase { base: base.clone() })?;
        let host = uri.host().unwrap_or_default();
        let is_here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let tls = match uri.scheme_str() {
            Some("http") if is_here => TlsConfig::builder(),
            Some("http") => return Err(ApiError::PlainElsewhere { base }),
            Some("https") => {
                let (_, certificates) = roots::load(ca_file)?;
                let certificates: Vec<_> = certificates.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
                TlsConfig::builder()
                    .root_certs(RootCerts::Specific(Arc::new(certificates)))
                    .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            }
            _ => return Err(ApiError::BadBase { base }),
        };
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .timeout_global(Some(idle_timeout))
            .http_status_as_error(false)
            // Never send the token to another host.
            .max_redirects(0)
            .build();
        Ok(Self { agent: config.into(), base, token, idle_timeout, cx })
    }

    /// Calls a method, and waits as often as Slack requests it.
    pub(crate) fn call(&self, method: &'static str, params: &[(&str, &str)]) -> Result<Value, ApiError> {
        for _ in 0..WAITS {
            match self.once(method, params)? {
                Answer::Value(value) if value["ok"] == true => return Ok(value),
                Answer::Value(value) => match value["error"].as_str() {
                    None => return Err(ApiError::Garbled { base: self.base.clone(), method }),
                    Some("ratelimited" | "rate_limited") => self.wait(method, USUAL_WAIT)?,
                    Some(_) => return Err(ApiError::of_slack(&self.base, method, &value)),
                },
                Answer::Wait(wait) => self.wait(method, wait)?,
            }
        }
        Err(ApiError::Limited { base: self.base.clone(), method })
    }

    /// Returns all pages of a list.
    pub(crate) fn all(&self, method: &'static str, params: &[(&str, &str)], list: &str) -> Result<Vec<Value>, ApiError> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        let mut seen = HashSet::new();
        loop {
            let mut page = self.call(method, &[params, &[("limit", "200"), ("cursor", &cursor)]].concat())?;
            match page[list].take() {
                Value::Array(items) => all.extend(items),
                _ => return Err(ApiError::Garbled { base: self.base.clone(), method }),
            }
            cursor = next_cursor(&page);
            if cursor.is_empty() {
                return Ok(all);
            }
            if !seen.insert(cursor.clone()) {
                return Err(self.circles(method));
            }
        }
    }

    /// The error for a list without an end.
    pub(crate) fn circles(&self, method: &'static str) -> ApiError {
        ApiError::Circles { base: self.base.clone(), method }
    }

    /// The error for an invalid response.
    pub(crate) fn garbled(&self, method: &'static str) -> ApiError {
        ApiError::Garbled { base: self.base.clone(), method }
    }

    fn wait(&self, method: &'static str, wait: Duration) -> Result<(), ApiError> {
        if wait > LONGEST_WAIT {
            return Err(ApiError::Limited { base: self.base.clone(), method });
        }
        tracing::info!(method, seconds = wait.as_secs(), "rate limited by Slack, waiting");
        let until = Instant::now() + wait;
        while Instant::now() < until {
            if self.cx.is_cancelled() {
                return Err(ApiError::Cancelled);
            }
            std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    fn once(&self, method: &'static str, params: &[(&str, &str)]) -> Result<Answer, ApiError> {
        let given = params.iter().filter(|(_, value)| !value.is_empty());
        let request = self
            .agent
            .get(format!("{}/{method}", self.base))
            .query_pairs(given.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token.expose()));
        let (sender, answered) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            // The receiver may be gone.
            let _ = sender.send(request.call().and_then(|mut response| {
                let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
                let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec()?;
                Ok((response.status().as_u16(), wait, body))
            }));
        });
        // Slightly more than the client's own timeout, in case that fails.
        let until = Instant::now() + self.idle_timeout + Duration::from_secs(5);
        let (status, wait, body) = loop {
            match answered.recv_timeout(LOOK) {
                Ok(Ok(answer)) => break answer,
                Ok(Err(error)) => return Err(ApiError::of_client(&self.base, method, self.idle_timeout, error)),
                Err(_) if self.cx.is_cancelled() => return Err(ApiError::Cancelled),
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(_) => return Err(ApiError::Silent { base: self.base.clone(), idle_timeout: self.idle_timeout }),
            }
        };
        match status {
            429 => Ok(Answer::Wait(wait.map_or(USUAL_WAIT, Duration::from_secs))),
            200 => serde_json::from_slice(&body).map(Answer::Value).map_err(|_| self.garbled(method)),
            _ => Err(ApiError::Status { base: self.base.clone(), method, status }),
        }
    }
}

/// Returns the cursor of the next page; empty if there is none.
pub(crate) fn next_cursor(page: &Value) -> String {
    page["response_metadata"]["next_cursor"].as_str().unwrap_or_default().to_owned()
}
