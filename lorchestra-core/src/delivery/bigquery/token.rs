//! Bearer tokens: fetched when needed, and kept until a minute before they expire. Talks to the token endpoint named in the credentials, or
//! to the metadata server. Guarantees that no token, key or assertion is in an error or a Debug output.
//!
//! yup-oauth2 signs and exchanges a service account's assertion, over our connector. The other two kinds need one request each, which this
//! module makes itself, because their addresses are hard-coded in yup-oauth2. `federated` handles federation and impersonation.

mod federated;

use super::answer::{cause, later, unanswered};
use super::connect::{ConnectSettings, Connector};
use super::credentials::{Credentials, ResolvedCredentials, User};
use super::redact::one_line;
use crate::delivery::DeliveryError;
use gcp_bigquery_client::yup_oauth2::authenticator::Authenticator;
use gcp_bigquery_client::yup_oauth2::error::{AuthError, AuthErrorCode};
use gcp_bigquery_client::yup_oauth2::hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use gcp_bigquery_client::yup_oauth2::{CustomHyperClientBuilder, Error, ServiceAccountAuthenticator, ServiceAccountKey};
use google_cloud_auth::credentials::AccessTokenCredentials;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};
use tonic::codegen::http::HeaderMap;

const SCOPE: &str = "https://www.googleapis.com/auth/bigquery";
/// Google's own endpoint; a file may name another one.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
/// A token is replaced this long before it expires.
const MARGIN: Duration = Duration::from_secs(60);

type Signed = Authenticator<HttpsConnector<Connector>>;

/// The source of bearer tokens for one set of credentials.
pub(super) struct Tokens {
    credentials: Credentials,
    quota_project: Option<String>,
    federated: Option<AccessTokenCredentials>,
    settings: ConnectSettings,
    signed: Option<Signed>,
    http: Option<reqwest::Client>,
    kept: Option<Kept>,
    /// The last token returned, and whether it had been returned before.
    last: Option<String>,
    was_kept: bool,
    /// The last token was refused: fetch a new one.
    stale: bool,
}

struct Kept {
    token: String,
    until: Instant,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("credentials", &self.credentials)
            .field("kept", &self.kept.is_some())
            .finish_non_exhaustive()
    }
}

/// The answer of a token endpoint.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

impl Tokens {
    pub(super) fn new(found: ResolvedCredentials, settings: ConnectSettings) -> Self {
        let ResolvedCredentials { credentials, quota_project, .. } = found;
        let (federated, signed, http, kept, last) = (None, None, None, None, None);
        Self { credentials, quota_project, federated, settings, signed, http, kept, last, was_kept: false, stale: false }
    }

    /// The project to bill for requests, if one is named.
    pub(super) fn quota_project(&self) -> Option<&str> {
        self.quota_project.as_deref()
    }

    /// Marks the last token as refused.
    pub(super) fn forget(&mut self) {
        self.kept = None;
        self.stale = true;
    }

    /// Whether the last call returned a token that an earlier call had already returned, so that it may have expired since. False after a
    /// failed call.
    pub(super) fn was_kept(&self) -> bool {
        self.was_kept
    }

    /// Returns a token that is valid for at least a minute; `None` for an emulator.
    ///
    /// # Errors
    /// [`DeliveryError::Unauthenticated`], or [`DeliveryError::Later`] if the token server did not respond.
    pub(super) async fn bearer(&mut self) -> Result<Option<String>, DeliveryError> {
        self.was_kept = false;
        if matches!(self.credentials, Credentials::None) {
            return Ok(None);
        }
        let kept = self.kept.as_ref().filter(|kept| kept.until > Instant::now()).map(|kept| kept.token.clone());
        let token = match kept {
            Some(token) => token,
            None => {
                let limit = self.settings.timeout();
                let fetched = tokio::time::timeout(limit, self.fetch()).await;
                fetched.map_err(|_| super::answer::too_late("token request", limit))??
            }
        };
        self.stale = false;
        self.was_kept = self.last.as_ref() == Some(&token);
        self.last = Some(token.clone());
        Ok(Some(token))
    }

    async fn fetch(&mut self) -> Result<String, DeliveryError> {
        let Self { credentials, settings, signed, http, federated, .. } = self;
        let granted = match credentials {
            Credentials::None => return Err(DeliveryError::Unauthenticated("no credentials".to_owned())),
            Credentials::ServiceAccount { file, key } => {
                let signed = match signed {
                    Some(signed) => signed,
                    None => signed.insert(signer(file, key, settings).await?),
                };
                // The authenticator caches its token itself.
                let scopes = [SCOPE];
                let fetched = if self.stale { signed.force_refreshed_token(&scopes).await } else { signed.token(&scopes).await };
                let token = fetched.map_err(|error| refused_by_yup(file, &error))?;
                return token.token().map(str::to_owned).ok_or_else(|| no_token(&shown(file)));
            }
            Credentials::Federated { file, form, json } => {
                // The crate caches its token itself, and can fetch a new one early only if it is created again.
                if self.stale {
                    *federated = None;
                }
                let source = match federated {
                    Some(source) => source,
                    None => federated.insert(federated::source(file, *form, json)?),
                };
                let token = federated::token(file, *form, source).await;
                if token.is_err() {
                    // The crate keeps an error for ten seconds, longer than all our retries take.
                    *federated = None;
                }
                return token;
            }
            Credentials::User { file, user } => {
                let http = client(http, settings, false)?;
                refresh(http, file, user).await?
            }
            Credentials::Metadata { host } => {
                let http = client(http, settings, true)?;
                let path = format!("instance/service-accounts/default/token?scopes={SCOPE}");
                let body = metadata(http, host, &path).await.map_err(|refusal| match refusal {
                    // It has answered before, so this is one of Google's machines.
                    DeliveryError::Unauthenticated(_) if self.last.is_some() => {
                        later(format!("no answer from the metadata server {host}"))
                    }
                    refusal => refusal,
                })?;
                from_json(host, &body)?
            }
        };
        let lasts = Duration::from_secs(granted.expires_in).saturating_sub(MARGIN);
        self.kept = Some(Kept { token: granted.access_token.clone(), until: Instant::now() + lasts });
        Ok(granted.access_token)
    }

    /// Returns the machine's project from the metadata server; `None` for other credentials.
    pub(super) async fn machine_project(&mut self) -> Result<Option<String>, DeliveryError> {
        let Credentials::Metadata { host } = &self.credentials else { return Ok(None) };
        let http = client(&mut self.http, &self.settings, true)?;
        let project = metadata(http, host, "project/project-id").await?;
        Ok(Some(project.trim().to_owned()).filter(|project| !project.is_empty()))
    }
}

fn shown(file: &Path) -> String {
    format!("credentials of {}", file.display())
}

fn no_token(whose: &str) -> DeliveryError {
    later(format!("{whose}: the response of the token endpoint contains no token"))
}

fn client<'a>(
    kept: &'a mut Option<reqwest::Client>,
    settings: &ConnectSettings,
    plain: bool,
) -> Result<&'a reqwest::Client, DeliveryError> {
    match kept {
        Some(client) => Ok(client),
        None => Ok(kept.insert(settings.http(HeaderMap::new(), plain)?)),
    }
}

async fn signer(file: &Path, key: &ServiceAccountKey, settings: &ConnectSettings) -> Result<Signed, DeliveryError> {
    let roots = HttpsConnectorBuilder::new().with_native_roots().map_err(|error| {
        DeliveryError::Unauthenticated(format!(
            "no root certificates on this machine ({error}): install the package ca-certificates"
        ))
    })?;
    let https = roots.https_or_http().enable_http1().wrap_connector(settings.connector());
    let hyper: HyperClient<_, String> = HyperClient::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(https);
    let built = ServiceAccountAuthenticator::with_client(key.clone(), CustomHyperClientBuilder::from(hyper)).build().await;
    built.map_err(|_| {
        DeliveryError::Unauthenticated(format!("{}: its private_key is not an RSA key: create a new key", shown(file)))
    })
}

fn refused_by_yup(file: &Path, error: &Error) -> DeliveryError {
    match error {
        Error::AuthError(AuthError { error, error_description, .. }) => {
            let passing = matches!(error, AuthErrorCode::Other(_));
            refused(
                &shown(file),
                error.as_str(),
                error_description.as_deref(),
                passing,
                "create a new key, or correct the clock of this host",
            )
        }
        Error::HttpError(_) | Error::HttpClientError(_) | Error::LowLevelError(_) => {
            later(format!("{}: token request: {}", shown(file), cause(error)))
        }
        // Their messages may quote the response, including a token.
        _ => no_token(&shown(file)),
    }
}

/// Classifies an OAuth error. An unknown one (`passing`) counts as definite unless its code says that it is temporary.
fn refused(whose: &str, code: &str, description: Option<&str>, passing: bool, hint: &str) -> DeliveryError {
    let details = description.map(|text| format!(" ({})", one_line(text))).unwrap_or_default();
    let text = format!("{whose}: the token endpoint answered {}{details}", one_line(code));
    let passes = ["internal_failure", "server_error", "temporarily_unavailable", "rate_limit_exceeded", "backendError"];
    if passing && passes.contains(&code) { later(text) } else { DeliveryError::Unauthenticated(format!("{text}: {hint}")) }
}

#[derive(Deserialize)]
struct Denied {
    error: String,
    #[serde(default)]
    error_description: Option<String>,
}

async fn refresh(http: &reqwest::Client, file: &Path, user: &User) -> Result<Granted, DeliveryError> {
    let whose = shown(file);
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", &user.client_id),
        ("client_secret", &user.client_secret),
        ("refresh_token", &user.refresh_token),
    ];
    let unanswered = |error: reqwest::Error| later(format!("{whose}: token request: {}", unanswered(&error)));
    let sent = http.post(user.token_uri.as_deref().unwrap_or(TOKEN_URI)).form(&form).send().await;
    let response = sent.map_err(unanswered)?;
    let status = response.status();
    let body = response.text().await.map_err(unanswered)?;
    if status.is_success() {
        return from_json(&whose, &body);
    }
    match serde_json::from_str::<Denied>(&body) {
        Ok(Denied { error, error_description }) => {
            let hint = "run `gcloud auth application-default login` again";
            Err(refused(&whose, &error, error_description.as_deref(), true, hint))
        }
        Err(_) => Err(later(format!("{whose}: token request: HTTP {}", status.as_u16()))),
    }
}

/// Drops serde's errors, which may quote a token.
fn from_json<T: DeserializeOwned>(whose: &str, body: &str) -> Result<T, DeliveryError> {
    serde_json::from_str(body).map_err(|_| no_token(whose))
}

/// Reads a value from the metadata server, which is either local or missing: a failure to connect means that this is not one of Google's
/// machines.
async fn metadata(http: &reqwest::Client, host: &str, path: &str) -> Result<String, DeliveryError> {
    let url = format!("http://{host}/computeMetadata/v1/{path}");
    let sent = http.get(url).header("Metadata-Flavor", "Google").send().await;
    let response = match sent {
        Ok(response) => response,
        Err(error) if error.is_connect() => {
            return Err(DeliveryError::Unauthenticated(format!(
                "no credentials: GOOGLE_APPLICATION_CREDENTIALS is not set, gcloud has stored none, and no metadata server \
                 answers at {host}: run `gcloud auth application-default login`"
            )));
        }
        Err(error) => return Err(later(format!("metadata server: {}", unanswered(&error)))),
    };
    let status = response.status();
    if status.is_success() {
        return response.text().await.map_err(|error| later(format!("metadata server: {}", unanswered(&error))));
    }
    let text = format!("metadata server {host}: HTTP {}", status.as_u16());
    if status.as_u16() == 404 {
        return Err(DeliveryError::Unauthenticated(format!("{text}: this machine has no service account: give it one")));
    }
    Err(later(text))
}

#[cfg(test)]
mod tests;
