//! Tests of tokens, against a small server.

use super::super::credentials::CredentialSources;
use super::*;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::mpsc;
use tempfile::TempDir;

/// Answers each request with the next of these, and returns what it received. After the last one it stops listening.
pub(super) struct TokenServer {
    pub(super) address: String,
    pub(super) asked: mpsc::Receiver<String>,
}

impl TokenServer {
    pub(super) fn start(answers: &'static [(u16, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (tell, asked) = mpsc::channel();
        std::thread::spawn(move || {
            for (status, body) in answers {
                let (mut connection, _) = listener.accept().unwrap();
                let mut request = vec![0; 65536];
                let mut length = 0;
                // The request is complete when its Content-Length has been received.
                loop {
                    length += connection.read(&mut request[length..]).unwrap();
                    let text = String::from_utf8_lossy(&request[..length]).into_owned();
                    let Some((head, rest)) = text.split_once("\r\n\r\n") else { continue };
                    let announced =
                        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
                    if rest.len() >= announced.unwrap_or(0) {
                        tell.send(text).unwrap();
                        break;
                    }
                }
                let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                connection.write_all((head + body).as_bytes()).unwrap();
            }
        });
        Self { address, asked }
    }
}

pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn settings() -> ConnectSettings {
    ConnectSettings::new(Duration::from_secs(10), None, None).unwrap()
}

fn user(dir: &TempDir, server: &TokenServer) -> PathBuf {
    let path = dir.path().join("user.json");
    let text = serde_json::json!({
        "type": "authorized_user", "client_id": "who", "client_secret": "hunter2-secret", "refresh_token": "hunter2-refresh",
        "token_uri": format!("http://{}/token", server.address),
    });
    std::fs::write(&path, text.to_string()).unwrap();
    path
}

pub(super) fn tokens(file: PathBuf) -> Tokens {
    let sources = CredentialSources { file: Some(file), ..CredentialSources::default() };
    Tokens::new(Credentials::find(&sources, false).unwrap(), settings())
}

#[test]
fn a_user_token_is_fetched_once_and_again_after_a_refusal() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(&[
        (200, r#"{"access_token":"one","expires_in":3600}"#),
        (200, r#"{"access_token":"two","expires_in":3600}"#),
    ]);
    let mut tokens = tokens(user(&dir, &server));
    run(async {
        assert_eq!(tokens.bearer().await.unwrap().as_deref(), Some("one"));
        assert!(!tokens.was_kept());
        assert_eq!(tokens.bearer().await.unwrap().as_deref(), Some("one"));
        assert!(tokens.was_kept());
        tokens.forget();
        assert_eq!(tokens.bearer().await.unwrap().as_deref(), Some("two"));
        assert!(!tokens.was_kept());
    });
    assert!(!format!("{tokens:?}").contains("two"));
    let asked = server.asked.recv().unwrap();
    assert!(asked.starts_with("POST /token "), "{asked}");
    assert!(asked.ends_with("grant_type=refresh_token&client_id=who&client_secret=hunter2-secret&refresh_token=hunter2-refresh"));
}

#[test]
fn a_token_near_its_end_is_not_kept() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(&[
        (200, r#"{"access_token":"one","expires_in":59}"#),
        (200, r#"{"access_token":"two","expires_in":59}"#),
    ]);
    let mut tokens = tokens(user(&dir, &server));
    run(async {
        assert_eq!(tokens.bearer().await.unwrap().as_deref(), Some("one"));
        assert_eq!(tokens.bearer().await.unwrap().as_deref(), Some("two"));
    });
}

#[test]
fn refused_users_and_failing_endpoints() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(&[
        (400, r#"{"error":"invalid_grant","error_description":"Token has been expired or revoked."}"#),
        (503, r#"{"error":"temporarily_unavailable"}"#),
        (502, "<html>"),
        (200, r#"{"access_token":7,"id":"hunter2"}"#),
    ]);
    let path = user(&dir, &server);
    let mut tokens = tokens(path.clone());
    let mut outcomes = Vec::new();
    run(async {
        for _ in 0..5 {
            outcomes.push(tokens.bearer().await.unwrap_err());
        }
    });
    let DeliveryError::Unauthenticated(text) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert!(
        text.contains("invalid_grant (Token has been expired or revoked.)") && text.contains("application-default login"),
        "{text}"
    );
    assert!(text.contains(&path.display().to_string()), "{text}");
    assert!(outcomes[1..].iter().all(|refusal| matches!(refusal, DeliveryError::Later { .. })), "{outcomes:?}");
    assert!(!format!("{outcomes:?}").contains("hunter2"), "{outcomes:?}");
}

#[test]
fn the_metadata_server() {
    let server = TokenServer::start(&[
        (200, r#"{"access_token":"machine","expires_in":3600,"token_type":"Bearer"}"#),
        (200, "some-project"),
        (404, "none"),
        (404, "none"),
    ]);
    let sources =
        CredentialSources { metadata: true, metadata_host: Some(server.address.clone()), ..CredentialSources::default() };
    let mut tokens = Tokens::new(Credentials::find(&sources, false).unwrap(), settings());
    run(async {
        assert_eq!(tokens.bearer().await.unwrap().as_deref(), Some("machine"));
        assert_eq!(tokens.machine_project().await.unwrap().as_deref(), Some("some-project"));
        // A server that answered before exists.
        tokens.forget();
        assert!(matches!(tokens.bearer().await, Err(DeliveryError::Later { .. })));
        let mut tokens = Tokens::new(Credentials::find(&sources, false).unwrap(), settings());
        let text = tokens.bearer().await.unwrap_err().to_string();
        assert!(text.contains("has no service account"), "{text}");
        // No server listens: this is not one of Google's machines. The thread of this one ends soon.
        while std::net::TcpStream::connect(&server.address).is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let Err(DeliveryError::Unauthenticated(text)) = tokens.bearer().await else { panic!() };
        assert!(text.contains("no credentials: ") && text.contains(&server.address), "{text}");
    });
    let asked = server.asked.recv().unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("get /computemetadata/v1/instance/service-accounts/default/token?scopes=https://"), "{asked}");
    assert!(asked.contains("\r\nmetadata-flavor: google\r\n"), "{asked}");
}

#[test]
fn an_invalid_key() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("key.json");
    let text = serde_json::json!({
        "type": "service_account", "client_email": "a@b", "private_key": "-----BEGIN hunter2-----",
        "token_uri": "http://127.0.0.1:1/",
    });
    std::fs::write(&path, text.to_string()).unwrap();
    let mut tokens = tokens(path);
    let Err(DeliveryError::Unauthenticated(text)) = run(tokens.bearer()) else { panic!() };
    assert!(text.contains("private_key is not an RSA key") && !text.contains("hunter2"), "{text}");
}
