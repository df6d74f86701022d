//! Federation and impersonation, against our own token servers: an STS, IAM, an identity provider, a metadata server of AWS.

use super::super::tests::{TokenServer, run, tokens};
use super::*;
use serde_json::json;
use std::path::PathBuf;
use tempfile::TempDir;

const STS: (u16, &str) = (
    200,
    r#"{"access_token":"hunter2-sts","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3600}"#,
);
const IAM: (u16, &str) = (200, r#"{"accessToken":"hunter2-iam","expireTime":"2126-01-01T00:00:00Z"}"#);

fn put(dir: &TempDir, json: &Value) -> PathBuf {
    let path = dir.path().join("credentials.json");
    std::fs::write(&path, json.to_string()).unwrap();
    path
}

/// An `external_account`, as written by `gcloud iam workload-identity-pools create-cred-config`.
fn external(server: &TokenServer, source: &Value) -> Value {
    json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("http://{}/sts", server.address),
        "credential_source": source,
    })
}

fn impersonating(server: &TokenServer, mut json: Value) -> Value {
    json["service_account_impersonation_url"] =
        format!("http://{}/v1/projects/-/serviceAccounts/sa@p.iam.gserviceaccount.com:generateAccessToken", server.address)
            .into();
    json
}

/// Returns the token and the requests that the servers received.
fn fetched(server: &TokenServer, json: &Value, requests: usize) -> (String, Vec<String>) {
    let dir = TempDir::new().unwrap();
    let mut tokens = tokens(put(&dir, json));
    let token = run(async {
        let first = tokens.bearer().await.unwrap().unwrap();
        assert_eq!(tokens.bearer().await.unwrap().as_ref(), Some(&first));
        assert!(tokens.was_kept(), "it is kept");
        first
    });
    assert!(!format!("{tokens:?}").contains("hunter2"));
    (token, (0..requests).map(|_| server.asked.recv().unwrap()).collect())
}

#[test]
fn a_token_in_a_file_is_exchanged() {
    let dir = TempDir::new().unwrap();
    let subject = dir.path().join("oidc");
    std::fs::write(&subject, "hunter2-oidc").unwrap();
    let server = TokenServer::start(&[STS]);
    let (token, asked) = fetched(&server, &external(&server, &json!({"file": subject})), 1);
    assert_eq!(token, "hunter2-sts");
    assert!(asked[0].starts_with("POST /sts "), "{}", asked[0]);
    assert!(asked[0].contains("subject_token=hunter2-oidc") && asked[0].contains("auth%2Fbigquery"), "{}", asked[0]);
}

/// As in GitHub Actions, followed by impersonation of a service account.
#[test]
fn a_token_at_an_address_is_exchanged_and_a_service_account_impersonated() {
    let server = TokenServer::start(&[(200, r#"{"value":"hunter2-oidc"}"#), STS, IAM]);
    let source = json!({
        "url": format!("http://{}/idtoken?audience=x", server.address),
        "headers": {"Authorization": "Bearer hunter2-github"},
        "format": {"type": "json", "subject_token_field_name": "value"},
    });
    let (token, asked) = fetched(&server, &impersonating(&server, external(&server, &source)), 3);
    assert_eq!(token, "hunter2-iam");
    assert!(asked[0].starts_with("GET /idtoken?audience=x ") && asked[0].contains("Bearer hunter2-github"), "{}", asked[0]);
    assert!(asked[1].contains("subject_token=hunter2-oidc"), "{}", asked[1]);
    assert!(asked[2].contains("sa@p.iam.gserviceaccount.com:generateAccessToken") && asked[2].contains("Bearer hunter2-sts"));
    assert!(asked[2].contains("https://www.googleapis.com/auth/bigquery"), "{}", asked[2]);
}

/// A program is started only if the environment permits it.
#[test]
fn a_program_is_not_started_unless_that_is_allowed() {
    let dir = TempDir::new().unwrap();
    let marker = dir.path().join("marker");
    let server = TokenServer::start(&[]);
    let source = json!({"executable": {"command": format!("/usr/bin/touch {}", marker.display()), "timeout_millis": 5000}});
    let Err(DeliveryError::Unauthenticated(text)) = run(tokens(put(&dir, &external(&server, &source))).bearer()) else {
        panic!()
    };
    assert!(text.contains("external_account") && text.contains("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES"), "{text}");
    assert!(!marker.exists());
}

/// In a process of its own, because only the environment of the process permits it.
#[test]
#[expect(clippy::disallowed_methods, reason = "the environment is what the test is about")]
fn a_program_that_is_allowed_returns_a_token_that_is_exchanged() {
    const ALLOWED: &str = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES";
    if std::env::var(ALLOWED).is_err() {
        let this = std::thread::current().name().unwrap().to_owned();
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let output = again.args(["--exact", &this]).env(ALLOWED, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let dir = TempDir::new().unwrap();
    let subject = dir.path().join("subject.json");
    let answer = json!({
        "version": 1, "success": true, "token_type": "urn:ietf:params:oauth:token-type:jwt", "id_token": "hunter2-oidc",
        "expiration_time": 4_102_444_800_u64,
    });
    std::fs::write(&subject, answer.to_string()).unwrap();
    let server = TokenServer::start(&[STS]);
    let source = json!({"executable": {"command": format!("/bin/cat {}", subject.display()), "timeout_millis": 5000}});
    let (token, asked) = fetched(&server, &external(&server, &source), 1);
    assert_eq!(token, "hunter2-sts");
    assert!(asked[0].contains("subject_token=hunter2-oidc"), "{}", asked[0]);
}

/// On AWS: role and keys from the instance's metadata server, signed and exchanged.
#[test]
fn a_role_of_aws_is_exchanged() {
    const KEYS: &str = r#"{"AccessKeyId":"AKIAEXAMPLE","SecretAccessKey":"hunter2-secret","Token":"hunter2-session"}"#;
    let server = TokenServer::start(&[(200, "session"), (200, "eu-west-1b"), (200, "role"), (200, KEYS), STS]);
    let at = |path: &str| format!("http://{}/{path}", server.address);
    let source = json!({
        "environment_id": "aws1",
        "region_url": at("region"),
        "url": at("keys"),
        "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
        "imdsv2_session_token_url": at("session"),
    });
    let mut json = external(&server, &source);
    json["subject_token_type"] = "urn:ietf:params:aws:token-type:aws4_request".into();
    let (token, asked) = fetched(&server, &json, 5);
    assert_eq!(token, "hunter2-sts");
    assert!(asked[4].contains("eu-west-1") && !asked[4].contains("hunter2-secret"), "signed, not sent: {}", asked[4]);
}

/// As with Azure's instance metadata service: JSON from an address, with a header.
#[test]
fn a_token_of_azure_is_exchanged() {
    let server = TokenServer::start(&[(200, r#"{"access_token":"hunter2-azure"}"#), STS]);
    let source = json!({
        "url": format!("http://{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=api", server.address),
        "headers": {"Metadata": "True"},
        "format": {"type": "json", "subject_token_field_name": "access_token"},
    });
    let (token, asked) = fetched(&server, &external(&server, &source), 2);
    assert_eq!(token, "hunter2-sts");
    assert!(asked[0].to_ascii_lowercase().contains("metadata: true"), "{}", asked[0]);
    assert!(asked[1].contains("hunter2-azure"));
}

/// The file written by `gcloud auth application-default login --impersonate-service-account`.
#[test]
fn a_user_impersonates_a_service_account() {
    let server = TokenServer::start(&[(200, r#"{"access_token":"hunter2-user","expires_in":3600,"token_type":"Bearer"}"#), IAM]);
    let json = impersonating(
        &server,
        json!({
            "type": "impersonated_service_account",
            "delegates": [],
            "source_credentials": {
                "type": "authorized_user", "client_id": "who", "client_secret": "hunter2-secret", "refresh_token": "hunter2-refresh",
                "token_uri": format!("http://{}/token", server.address),
            },
        }),
    );
    let (token, asked) = fetched(&server, &json, 2);
    assert_eq!(token, "hunter2-iam");
    assert!(asked[1].contains("Bearer hunter2-user"), "{}", asked[1]);
}

#[test]
fn a_user_of_a_workforce_pool_is_refreshed() {
    let server = TokenServer::start(&[(200, STS.1)]);
    let json = json!({
        "type": "external_account_authorized_user",
        "audience": "//iam.googleapis.com/locations/global/workforcePools/p/providers/q",
        "client_id": "who", "client_secret": "hunter2-secret", "refresh_token": "hunter2-refresh",
        "token_url": format!("http://{}/oauthtoken", server.address),
    });
    let (token, asked) = fetched(&server, &json, 1);
    assert_eq!(token, "hunter2-sts");
    assert!(asked[0].starts_with("POST /oauthtoken ") && asked[0].contains("hunter2-refresh"), "{}", asked[0]);
}

/// A refused token is not returned again.
#[test]
fn a_refused_token_is_fetched_again() {
    let dir = TempDir::new().unwrap();
    let subject = dir.path().join("oidc");
    std::fs::write(&subject, "one").unwrap();
    let server = TokenServer::start(&[
        STS,
        (200, r#"{"access_token":"second","issued_token_type":"t","token_type":"Bearer","expires_in":3600}"#),
    ]);
    let mut tokens = tokens(put(&dir, &external(&server, &json!({"file": subject}))));
    run(async {
        assert_eq!(tokens.bearer().await.unwrap().as_deref(), Some("hunter2-sts"));
        tokens.forget();
        assert_eq!(tokens.bearer().await.unwrap().as_deref(), Some("second"));
    });
}

/// Refusals are reported with the server's reason, in one line, without a secret.
#[test]
fn refusals_are_explained_without_secrets() {
    let dir = TempDir::new().unwrap();
    let subject = dir.path().join("oidc");
    std::fs::write(&subject, "hunter2-oidc").unwrap();
    let file = json!({"file": subject});
    let reported = |server: &TokenServer, json: &Value| {
        let refusal = run(tokens(put(&dir, json)).bearer()).unwrap_err();
        let _ = server;
        let text = refusal.to_string();
        assert!(!text.contains("hunter2") && !text.contains('\n') && text.contains("credentials.json"), "{text}");
        (matches!(refusal, DeliveryError::Unauthenticated(_)), text)
    };
    let server = TokenServer::start(&[(400, r#"{"error":"invalid_grant","error_description":"The audience is wrong"}"#)]);
    let (definite, text) = reported(&server, &external(&server, &file));
    assert!(definite && text.contains("invalid_grant (The audience is wrong)"), "{text}");

    const DENIED: &str = r#"{"error":{"code":403,"message":"Permission 'iam.serviceAccounts.getAccessToken' denied","status":"PERMISSION_DENIED"}}"#;
    let server = TokenServer::start(&[STS, (403, DENIED)]);
    let (definite, text) = reported(&server, &impersonating(&server, external(&server, &file)));
    assert!(definite && text.contains("PERMISSION_DENIED (Permission 'iam.serviceAccounts.getAccessToken' denied)"), "{text}");

    let server = TokenServer::start(&[(200, r#"{"other":"hunter2-oidc"}"#)]);
    let source = json!({
        "url": format!("http://{}/", server.address), "format": {"type": "json", "subject_token_field_name": "value"},
    });
    let (definite, text) = reported(&server, &external(&server, &source));
    assert!(definite && text.contains("`value`"), "{text}");

    let server = TokenServer::start(&[]);
    let (definite, text) = reported(&server, &external(&server, &json!({"file": dir.path().join("gone")})));
    assert!(definite && text.contains("No such file"), "{text}");

    let (definite, text) = reported(&server, &external(&server, &json!({"certificate": {}})));
    assert!(definite && text.contains("client certificate, which is not supported"), "{text}");

    let (definite, text) = reported(&server, &external(&server, &json!({"another": {}})));
    assert!(definite && text.contains("not complete"), "{text}");
}
