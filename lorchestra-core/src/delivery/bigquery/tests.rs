//! How a configuration is interpreted, before any connection.

use super::*;
use std::path::PathBuf;

fn config() -> BigQueryConfig {
    BigQueryConfig {
        project: Some("p".to_owned()),
        dataset: "d".to_owned(),
        table: "t".to_owned(),
        location: None,
        write: WriteMethod::StorageWrite,
        endpoint: None,
        storage_endpoint: None,
        credentials: CredentialSources::default(),
        proxy: None,
        no_proxy: None,
        timeout: Duration::from_secs(5),
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn the_name_with_and_without_a_project() {
    assert_eq!(BigQuery::new(config()).unwrap().name(), "p.d.t");
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("user.json");
    let user = r#"{"type":"authorized_user","client_id":"a","client_secret":"hunter2","refresh_token":"hunter2",
        "quota_project_id":"pays"}"#;
    std::fs::write(&file, user).unwrap();
    let credentials = CredentialSources { file: Some(file), ..CredentialSources::default() };
    let nameless = BigQueryConfig { project: None, credentials: credentials.clone(), ..config() };
    let refusal = run(BigQuery::new(nameless).unwrap().resolve()).unwrap_err();
    assert!(refusal.to_string().starts_with("no project: "), "the quota project is not the table's project: {refusal}");
    let credentials = CredentialSources { gcloud_project: Some("gclouds".to_owned()), ..credentials };
    let mut unnamed = BigQuery::new(BigQueryConfig { project: None, credentials, ..config() }).unwrap();
    assert_eq!(unnamed.name(), "?.d.t");
    run(unnamed.resolve()).unwrap();
    assert_eq!(unnamed.name(), "gclouds.d.t");
    assert!(!format!("{unnamed:?}").contains("hunter2"));
}

#[test]
fn an_emulator_needs_no_credentials_but_a_project_and_a_storage_endpoint() {
    let emulator = BigQueryConfig { endpoint: Some("127.0.0.1:9050".to_owned()), ..config() };
    let Err(DeliveryError::Denied(text)) = BigQuery::new(emulator.clone()) else { panic!() };
    assert!(text.starts_with("destinations.bigquery.storage_endpoint: "), "{text}");
    let mut inserting = BigQuery::new(BigQueryConfig { write: WriteMethod::InsertAll, ..emulator.clone() }).unwrap();
    assert!(!inserting.uses_streams());
    run(inserting.resolve()).unwrap();
    // A stream of an earlier configuration is refused, not sent to Google.
    assert!(
        matches!(run(inserting.finalize(Slot { stream: "s", offset: 0, length: 1 }, &[])), Err(DeliveryError::Denied(text)) if text.starts_with("destinations.bigquery.storage_endpoint: "))
    );
    let storage_endpoint = Some("127.0.0.1:9060".to_owned());
    let mut nameless = BigQuery::new(BigQueryConfig { project: None, storage_endpoint, ..emulator }).unwrap();
    assert!(nameless.uses_streams());
    assert!(matches!(run(nameless.resolve()), Err(DeliveryError::Denied(text)) if text.starts_with("no project: ")));
}

#[test]
fn no_request_to_google_without_credentials() {
    let gcloud = Some(PathBuf::from("/nowhere"));
    let credentials = CredentialSources { gcloud, ..CredentialSources::default() };
    let mut lost = BigQuery::new(BigQueryConfig { credentials, ..config() }).unwrap();
    let Err(DeliveryError::Unauthenticated(text)) = run(lost.connect()) else { panic!() };
    assert!(text.contains("there is no /nowhere/application_default_credentials.json") && !text.contains('\n'), "{text}");
}

#[test]
fn another_universe_has_its_own_addresses_unless_configured() {
    let credentials =
        CredentialSources { universe_domain: Some("cloud.example".to_owned()), metadata: true, ..CredentialSources::default() };
    let mut moved = BigQuery::new(BigQueryConfig { credentials: credentials.clone(), ..config() }).unwrap();
    run(moved.resolve()).unwrap();
    assert_eq!(moved.endpoint.url(), "https://bigquery.cloud.example");
    assert_eq!(moved.storage_endpoint.as_ref().map(Endpoint::url), Some("https://bigquerystorage.cloud.example"));
    // The credentials are replaced by those of the default universe.
    moved.storage =
        moved.storage_endpoint.as_ref().map(|endpoint| run(async { Storage::new(endpoint, &moved.settings) }).unwrap());
    moved.config.credentials.universe_domain = None;
    moved.tokens = None;
    run(moved.resolve()).unwrap();
    assert_eq!(moved.endpoint.url(), "https://bigquery.googleapis.com");
    assert_eq!(moved.storage_endpoint.as_ref().map(Endpoint::url), Some("https://bigquerystorage.googleapis.com"));
    assert!(moved.storage.is_none(), "the connection to the other universe is closed");
    let endpoint = Some("https://private.example".to_owned());
    let mut named = BigQuery::new(BigQueryConfig { credentials, endpoint, ..config() }).unwrap();
    run(named.resolve()).unwrap();
    assert_eq!(named.endpoint.url(), "https://private.example");
}

#[test]
fn refused_settings_name_their_key() {
    for (key, wrong) in [
        ("destinations.bigquery.table", BigQueryConfig { table: "a`b".to_owned(), ..config() }),
        ("destinations.bigquery.dataset", BigQueryConfig { dataset: String::new(), ..config() }),
        ("destinations.bigquery.project", BigQueryConfig { project: Some("a/b".to_owned()), ..config() }),
        ("destinations.bigquery.endpoint", BigQueryConfig { endpoint: Some("http://".to_owned()), ..config() }),
        ("destinations.bigquery.storage_endpoint", BigQueryConfig { storage_endpoint: Some("x://y".to_owned()), ..config() }),
        ("HTTPS_PROXY", BigQueryConfig { proxy: Some("socks5://hunter2@h".to_owned()), ..config() }),
    ] {
        assert!(!format!("{wrong:?}").contains("hunter2"));
        let Err(DeliveryError::Denied(text)) = BigQuery::new(wrong) else { panic!("{key}") };
        assert!(text.starts_with(&format!("{key}: ")) && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn nothing_is_sent_before_connecting() {
    let emulator =
        BigQueryConfig { endpoint: Some("127.0.0.1:1".to_owned()), storage_endpoint: Some("127.0.0.1:1".to_owned()), ..config() };
    let mut unconnected = BigQuery::new(emulator).unwrap();
    let rows = [encode::tests::full()];
    for place in [BatchTarget::Anywhere, BatchTarget::Stream(Slot { stream: "s", offset: 0, length: 1 })] {
        let refusal = run(unconnected.append(place, &rows)).unwrap_err();
        assert_eq!(refusal, DeliveryError::Denied("p.d.t: not connected yet".to_owned()));
    }
    assert!(matches!(run(unconnected.connect()), Err(DeliveryError::Later { .. })));
}
