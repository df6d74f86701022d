//! Tokens of workload identity federation and of impersonation, fetched by Google's own crate.
//!
//! Talks to the services named in the credentials file: a token server (STS), IAM, an identity provider's file, address or program, AWS.
//! The crate makes these connections itself. It is configured with values; from the environment it reads only the variables of AWS's own
//! tools (`AWS_*`), the proxy, and `GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES`, without which it starts no program. Guarantees that neither
//! a token nor anything in the file appears in an error.

use super::{SCOPE, later, shown};
use crate::delivery::DeliveryError;
use crate::delivery::bigquery::answer::cause;
use crate::delivery::bigquery::credentials::Form;
use crate::delivery::bigquery::redact::one_line;
use google_cloud_auth::credentials::service_account::AccessSpecifier;
use google_cloud_auth::credentials::{
    AccessTokenCredentials, external_account, external_account_authorized_user, impersonated, service_account,
};
use google_cloud_auth::errors::CredentialsError;
use serde_json::Value;
use std::error::Error;
use std::path::Path;

/// Creates the source without making a connection.
pub(super) fn source(file: &Path, form: Form, json: &Value) -> Result<AccessTokenCredentials, DeliveryError> {
    // Fails if a provider is already installed, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if json.pointer("/credential_source/certificate").is_some() {
        return Err(DeliveryError::Unauthenticated(format!(
            "{}: its source is a client certificate, which is not supported: use a file, a URL, a program, AWS or Azure",
            shown(file)
        )));
    }
    let json = json.clone();
    let built = match form {
        Form::ExternalAccount => external_account::Builder::new(json).with_scopes([SCOPE]).build_access_token_credentials(),
        Form::ExternalAccountAuthorizedUser => {
            external_account_authorized_user::Builder::new(json).build_access_token_credentials()
        }
        Form::ImpersonatedServiceAccount => {
            impersonated::Builder::new(json).with_scopes([SCOPE]).build_access_token_credentials()
        }
        Form::ServiceAccount => service_account::Builder::new(json)
            .with_access_specifier(AccessSpecifier::from_scopes([SCOPE]))
            .build_access_token_credentials(),
    };
    // The error may quote the file.
    built.map_err(|_| {
        let (whose, name) = (shown(file), form.name());
        DeliveryError::Unauthenticated(format!(
            "{whose}: its form is {name}, but it is not complete: create it again with gcloud"
        ))
    })
}

pub(super) async fn token(file: &Path, form: Form, source: &AccessTokenCredentials) -> Result<String, DeliveryError> {
    match source.access_token().await {
        Ok(token) => Ok(token.token),
        Err(error) => {
            let text = format!("{} ({}): {}", shown(file), form.name(), described(&error));
            Err(if error.is_transient() { later(text) } else { DeliveryError::Unauthenticated(text) })
        }
    }
}

/// Describes an error without the response: of a body, only the error of OAuth or of Google's APIs.
fn described(error: &CredentialsError) -> String {
    // The innermost error has the response; the outer ones only add that there are no headers.
    let mut inner = error;
    let mut next = error.source();
    while let Some(source) = next {
        // serde quotes text that it could not parse, which may be a token.
        if source.is::<serde_json::Error>() {
            return "the answer is not the JSON object that was expected".to_owned();
        }
        if let Some(found) = source.downcast_ref::<CredentialsError>() {
            inner = found;
        }
        next = source.source();
    }
    let mut text = plain(&inner.to_string());
    if let Some(source) = inner.source() {
        text = format!("{text}: {}", cause(source));
    }
    // The rest is the response, which may contain anything.
    let Some(at) = text.find(['{', '<']) else { return text };
    let body = full_body(inner);
    let refused = body.as_ref().and_then(|body| oauth(body).or_else(|| google(body)));
    let what = text[..at].trim_end_matches(" body=").trim_end_matches([',', ':', ' ']);
    one_line(&refused.map_or_else(|| what.to_owned(), |refused| format!("{what}: {refused}")))
}

/// Returns the response if it is JSON.
fn full_body(error: &CredentialsError) -> Option<Value> {
    let mut deepest: &dyn Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    [error.to_string(), deepest.to_string()].iter().find_map(|text| {
        let (start, end) = (text.find('{')?, text.rfind('}')?);
        serde_json::from_str(text.get(start..=end)?).ok()
    })
}

/// Removes the crate's prediction about further attempts.
fn plain(text: &str) -> String {
    let text = text.split(" but future attempts").next().unwrap_or(text);
    one_line(text.split(" and future attempts").next().unwrap_or(text))
}

fn oauth(body: &Value) -> Option<String> {
    let code = body.get("error")?.as_str()?;
    let description = body.get("error_description").and_then(Value::as_str);
    Some(description.map_or_else(|| code.to_owned(), |description| format!("{code} ({description})")))
}

fn google(body: &Value) -> Option<String> {
    let error = body.get("error")?;
    let (status, message) = (error.get("status")?.as_str()?, error.get("message")?.as_str()?);
    Some(format!("{status} ({message})"))
}

#[cfg(test)]
mod tests;
