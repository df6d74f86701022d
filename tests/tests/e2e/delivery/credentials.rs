//! Who lorchestra is to BigQuery: missing, replaced and federated credentials, and that nothing secret is printed.

use lorchestra_tests::bigquery::fake::{Fault, Method};
use lorchestra_tests::bigquery::site::{BOTH, Site, Write, carrier};
use serde_json::json;
use std::time::Duration;

#[test]
fn required_delivery_without_credentials_starts_no_job() {
    let site = Site::new(Write::Storage);
    let marker = site.sandbox.arg("marker");
    let key = site.sandbox.arg("key.json");
    let args = ["run-job", "--require-delivery", "misbehave", "wait", "--seconds", "0", "--marker", &marker];
    let refused = |label: &str, words: &[&str]| {
        let ended = site.sandbox.lorchestra_with(&[("GOOGLE_APPLICATION_CREDENTIALS", &key)], &args).exits(69);
        assert!(words.iter().all(|word| ended.err().contains(word)), "{label}: {}", ended.shown());
        assert!(!site.sandbox.path("marker").exists() && site.sandbox.runs().is_empty(), "{label}: it was not started");
    };
    refused("no file", &["key.json", "GOOGLE_APPLICATION_CREDENTIALS"]);
    std::fs::write(site.sandbox.path("key.json"), "{\"type\": \"external_account\"}").unwrap();
    refused("a form that is not known", &["external_account"]);
    site.fake.require_auth(true);
    let mut wrong = site.fake.service_account_key();
    wrong["client_email"] = json!("nobody@example.org");
    std::fs::write(site.sandbox.path("key.json"), wrong.to_string()).unwrap();
    refused("an account that is not there", &["account not found"]);
    std::fs::write(site.sandbox.path("key.json"), serde_json::to_vec(&json!({"type": "service_account"})).unwrap()).unwrap();
    refused("half a key", &["service"]);
    // Without --require-delivery the job runs, and one line reports the problem.
    let ended =
        site.sandbox.lorchestra_with(&[("GOOGLE_APPLICATION_CREDENTIALS", &key)], &["run-job", "misbehave", "noop"]).exits(0);
    assert_eq!(ended.err().lines().count(), 1, "{}", ended.shown());
    // One event for each refused run, and two of this one.
    assert!(ended.err().contains("6 events are not in BigQuery yet"), "{}", ended.shown());
    // With a valid key everything is delivered.
    std::fs::write(site.sandbox.path("key.json"), site.fake.service_account_key().to_string()).unwrap();
    site.sandbox.lorchestra_with(&[("GOOGLE_APPLICATION_CREDENTIALS", &key)], &["events", "flush"]).exits(0);
    site.all_is_delivered(Write::Storage, "with credentials");
}

/// Refused credentials are replaced while a run still has many attempts to deliver: the next attempt reads the new file.
#[test]
fn replaced_credentials_are_used_by_the_next_attempt() {
    use lorchestra_core::delivery::bigquery::{BigQuery, BigQueryConfig, CredentialSources, WriteMethod};
    use lorchestra_core::delivery::{DeliveryError, Destination};
    let site = Site::new(Write::Storage);
    site.fake.require_auth(true);
    let file = site.sandbox.path("google.json");
    let mut revoked = site.fake.authorized_user();
    revoked["refresh_token"] = "revoked".into();
    std::fs::write(&file, revoked.to_string()).unwrap();
    let mut bigquery = BigQuery::new(BigQueryConfig {
        project: Some(site.table.project.clone()),
        dataset: site.table.dataset.clone(),
        table: site.table.table.clone(),
        location: None,
        write: WriteMethod::StorageWrite,
        endpoint: Some(site.fake.rest_endpoint()),
        storage_endpoint: Some(site.fake.grpc_endpoint()),
        credentials: CredentialSources { file: Some(file.clone()), ..CredentialSources::default() },
        proxy: None,
        no_proxy: None,
        timeout: Duration::from_secs(5),
    })
    .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for _ in 0..2 {
            let refused = bigquery.connect().await.unwrap_err();
            assert!(matches!(&refused, DeliveryError::Unauthenticated(reason) if reason.contains("invalid_grant")), "{refused}");
        }
        std::fs::write(&file, site.fake.authorized_user().to_string()).unwrap();
        bigquery.connect().await.unwrap();
    });
    assert_eq!(site.fake.grants(), ["authorized_user"]);
}

/// Workload identity federation, from the file to the rows; and every request names the project to bill.
#[test]
fn a_federated_identity_delivers_and_names_the_project_to_bill() {
    for write in BOTH {
        let site = Site::new(write);
        site.fake.require_auth(true);
        std::fs::write(site.sandbox.path("oidc"), "wrong").unwrap();
        let key = site.fake.external_account(&site.sandbox.arg("oidc"));
        std::fs::write(site.sandbox.path("google.json"), key.to_string()).unwrap();
        let file = site.sandbox.arg("google.json");
        let environment = [("GOOGLE_APPLICATION_CREDENTIALS", file.as_str()), ("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")];
        let ended = site.sandbox.lorchestra_with(&environment, &["run-job", "misbehave", "noop"]).exits(0);
        assert!(ended.err().contains("invalid_grant (The subject token is not the identity provider's.)"), "{}", ended.shown());
        assert_eq!(ended.err().lines().count(), 1, "{}", ended.shown());
        std::fs::write(site.sandbox.path("oidc"), "fake-subject-token").unwrap();
        site.fake.record();
        site.sandbox.lorchestra_with(&environment, &["events", "flush"]).exits(0);
        site.all_is_delivered(write, "by a federated identity");
        assert_eq!(site.fake.grants(), ["external_account https://www.googleapis.com/auth/bigquery"]);
        let asked = site.fake.recorded().into_iter().filter(|exchange| exchange.method != Method::Token);
        let payers: Vec<_> = asked.map(|exchange| exchange.headers.get("x-goog-user-project").cloned()).collect();
        assert!(payers.len() >= 2 && payers.iter().all(|payer| payer.as_deref() == Some("payer")), "{payers:?}");
    }
}

/// Tokens, keys, subjects and payloads are neither in lorchestra's output nor in its logs, even at the most verbose level, nor in the
/// stored reasons, although the server quotes what it refuses.
#[test]
fn no_secret_is_printed() {
    for write in BOTH {
        for (form, key) in [("user", true), ("account", false)] {
            let site = Site::new(write);
            site.fake.require_auth(true);
            let key = if key { site.fake.authorized_user() } else { site.fake.service_account_key() };
            std::fs::write(site.sandbox.path("key.json"), key.to_string()).unwrap();
            site.fake.faults().next(carrier(write), Fault::RowErrors(vec![1]));
            site.fake.faults().next(Method::TablesGet, Fault::Status(503, "backendError"));
            let path = site.sandbox.arg("key.json");
            let args = ["-vvv", "run-job", "misbehave", "confide", "--about", "zacharias@example.org", "--secret", "iban-4711"];
            let ended = site.sandbox.lorchestra_with(&[("GOOGLE_APPLICATION_CREDENTIALS", &path)], &args).exits(0);
            assert!(!site.delivered().is_empty(), "{write:?} {form}: {}", ended.shown());
            let failed = site.sandbox.lorchestra(&["events", "list", "--failed"]).exits(0);
            assert_eq!(failed.out().lines().count(), 1, "{}", failed.shown());
            let secrets = ["client_secret", "refresh_token", "private_key"].iter().filter_map(|name| key[*name].as_str());
            for secret in secrets.chain(["fake-token", "zacharias", "iban-4711"]) {
                for output in [ended.err(), ended.out(), failed.out()] {
                    assert!(!output.contains(secret), "{write:?} {form}, {secret}: {output}");
                }
            }
        }
    }
}
