//! Tokens: the OAuth endpoint `/token` and the metadata server, both on the REST interface. Issues `fake-token-N`, which requests need if
//! [`super::Fake::require_auth`] is on. Verifies the claims of assertions, but not their signatures.

use super::faults::Method;
use super::rest::Answer;
use super::state::{Shared, State};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::http::request::Parts;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Created for these tests. Only the fake accepts its signatures.
const PRIVATE_KEY: &str = include_str!("test-key.pem");
/// Email address of the service account whose key tests may use.
const CLIENT_EMAIL: &str = "tester@fake-project.iam.gserviceaccount.com";
/// The valid refresh token.
const REFRESH_TOKEN: &str = "fake-refresh-token";
/// The valid token of the identity provider.
const SUBJECT_TOKEN: &str = "fake-subject-token";
/// The metadata server's project.
const PROJECT: &str = "fake-project";

/// A service account's key file, in the form of Google's console, whose tokens come from this endpoint.
pub(super) fn service_account_key(endpoint: &str) -> Value {
    json!({
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "fake-key-1",
        "private_key": PRIVATE_KEY,
        "client_email": CLIENT_EMAIL,
        "client_id": "100000000000000000001",
        "auth_uri": format!("{endpoint}/auth"),
        "token_uri": format!("{endpoint}/token"),
        "auth_provider_x509_cert_url": format!("{endpoint}/certs"),
        "client_x509_cert_url": format!("{endpoint}/x509"),
        "universe_domain": "googleapis.com",
    })
}

/// A user's credentials, in gcloud's form. Some clients have Google's token endpoint built in; others read `token_uri`.
pub(super) fn authorized_user(endpoint: &str) -> Value {
    json!({
        "type": "authorized_user",
        "client_id": "fake-client.apps.googleusercontent.com",
        "client_secret": "fake-client-secret",
        "refresh_token": REFRESH_TOKEN,
        "quota_project_id": PROJECT,
        "token_uri": format!("{endpoint}/token"),
    })
}

/// Workload identity federation: a token in a file, exchanged at this endpoint.
pub(super) fn external_account(endpoint: &str, subject: &str) -> Value {
    json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/tests/providers/fake",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{endpoint}/token"),
        "credential_source": {"file": subject},
    })
}

pub(super) fn answer(shared: &Shared, parts: &Parts, method: Method, body: &[u8]) -> Answer {
    let mut state = shared.state();
    match method {
        Method::Token => token(&mut state, body),
        _ => metadata(&mut state, parts),
    }
}

fn issue(state: &mut State, grant: String) -> Answer {
    state.tokens_issued += 1;
    let token = format!("fake-token-{}", state.tokens_issued);
    state.tokens.insert(token.clone());
    state.grants.push(grant);
    let kind = "urn:ietf:params:oauth:token-type:access_token";
    Answer::Json(200, json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer", "issued_token_type": kind}))
}

fn token(state: &mut State, body: &[u8]) -> Answer {
    let refuse = |error: &str, description: &str| Answer::Json(400, json!({"error": error, "error_description": description}));
    let form = form_of(body);
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    match field("grant_type") {
        "urn:ietf:params:oauth:grant-type:jwt-bearer" => match claims_of(field("assertion")) {
            None => refuse("invalid_grant", "Invalid JWT: it must be three parts of base64"),
            Some(claims) => {
                let text = |name: &str| claims[name].as_str().unwrap_or_default().to_owned();
                if text("iss") != CLIENT_EMAIL {
                    return refuse("invalid_grant", "Invalid grant: account not found");
                }
                let (issued, ends) = (claims["iat"].as_i64().unwrap_or_default(), claims["exp"].as_i64().unwrap_or_default());
                let now = chrono::Utc::now().timestamp();
                if !text("aud").ends_with("/token") || ends <= now || issued > now + 60 || ends - issued > 3600 {
                    return refuse("invalid_grant", "Invalid JWT: its audience or its times are wrong");
                }
                if text("scope").is_empty() {
                    return refuse("invalid_scope", "Empty or missing scope not allowed.");
                }
                issue(state, format!("service_account {}", text("scope")))
            }
        },
        "refresh_token" if field("refresh_token") != REFRESH_TOKEN => {
            refuse("invalid_grant", "Token has been expired or revoked.")
        }
        "refresh_token" if field("client_id").is_empty() => {
            refuse("invalid_request", "Could not determine client ID from request.")
        }
        "refresh_token" => issue(state, "authorized_user".to_owned()),
        "urn:ietf:params:oauth:grant-type:token-exchange" if field("subject_token") != SUBJECT_TOKEN => {
            refuse("invalid_grant", "The subject token is not the identity provider's.")
        }
        "urn:ietf:params:oauth:grant-type:token-exchange" => issue(state, format!("external_account {}", field("scope"))),
        other => refuse("unsupported_grant_type", &format!("Invalid grant_type: {other}")),
    }
}

fn metadata(state: &mut State, parts: &Parts) -> Answer {
    if parts.headers.get("metadata-flavor").is_none_or(|value| value != "Google") {
        return Answer::Html(403);
    }
    match parts.uri.path().trim_end_matches('/') {
        "/computeMetadata/v1/instance/service-accounts/default/token" => issue(state, "metadata".to_owned()),
        "/computeMetadata/v1/instance/service-accounts/default" => {
            let scopes = ["https://www.googleapis.com/auth/cloud-platform"];
            Answer::Json(200, json!({"aliases": ["default"], "email": CLIENT_EMAIL, "scopes": scopes}))
        }
        "/computeMetadata/v1/instance/service-accounts/default/email" => Answer::Text(200, CLIENT_EMAIL.to_owned()),
        "/computeMetadata/v1/project/project-id" => Answer::Text(200, PROJECT.to_owned()),
        "/computeMetadata/v1" | "/computeMetadata" => Answer::Text(200, "instance/\nproject/\n".to_owned()),
        _ => Answer::Html(404),
    }
}

/// The claims of a JWT.
fn claims_of(assertion: &str) -> Option<Value> {
    let parts: Vec<Vec<u8>> =
        assertion.split('.').map(|part| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()).collect::<Option<_>>()?;
    let [header, claims, signature] = &parts[..] else { return None };
    let header: Value = serde_json::from_slice(header).ok()?;
    if header["alg"] != "RS256" || signature.is_empty() {
        return None;
    }
    serde_json::from_slice(claims).ok()
}

/// `application/x-www-form-urlencoded`.
fn form_of(body: &[u8]) -> HashMap<String, String> {
    let body = String::from_utf8_lossy(body);
    let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.and_then(|digit| char::from(digit).to_digit(16)));
                let value = digits[0].zip(digits[1]).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                bytes.push(value.unwrap_or(b'?'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
