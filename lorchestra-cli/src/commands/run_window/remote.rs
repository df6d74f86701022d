//! Plans that a node reads by HTTP: `run-window --plan https://…/plan.jsonl#sha256=…`.
//!
//! Reads the whole plan into memory, with a limit, and checks its own sum, so that a plan that is cut or still being written starts nothing.
//! A plan decides which jobs run with which parameters. TLS or the sum in the URL protects it on the way, so a plain-text URL needs the sum.
//! The libraries are those of the node, compared by their sha256.
//!
//! A server that cannot be reached, or is overloaded, is a reason to run the window again later; an address that is wrong is not, nor is a
//! certificate that this node does not trust, or a server that refuses this node's TLS. User information and query of a URL are
//! credentials: no message has them. Signals end the download, also for PID 1 of a container.

use crate::commands::handle_signals;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::Settings;
use lorchestra_core::group::plan_file::PlanFile;
use lorchestra_core::host::signals::{Signals, signal_name};
use lorchestra_core::text::{chain, path_text};
use reqwest::{StatusCode, Url};
use rustls::{AlertDescription, CertificateError};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Maximum size of a plan: 18,250 windows have about 25 MB.
const MAX_BYTES: usize = 256 << 20;
/// Time limits: for connecting, without any data, and for all attempts.
const CONNECT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(300);
/// Pauses before the next attempts.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// Interval between looks at signals.
const LOOK: Duration = Duration::from_millis(100);

/// Where a plan is.
#[derive(Debug)]
pub(super) enum PlanPlace {
    File(PathBuf),
    Web(PlanUrl),
}

/// The URL of a plan.
#[derive(Debug)]
pub(super) struct PlanUrl {
    url: Url,
    /// The expected sha256 of the file, in hexadecimal.
    sha256: Option<String>,
}

/// Why a plan was not read.
#[derive(Debug)]
enum Unread {
    /// The same request may succeed later.
    Later(String),
    /// It will not.
    Never(String),
    /// Nor will it with TLS as it is on the server and on this node.
    Tls { why: String, hint: &'static str },
}

impl PlanPlace {
    /// Reads the value of `--plan`.
    ///
    /// # Errors
    /// If it is a URL that cannot be used. The message does not repeat it.
    pub(super) fn of(value: &Path) -> Result<Self, CommandError> {
        let place = match value.to_str().and_then(|text| Some((text, text.split_once("://")?.0))) {
            Some((text, scheme)) if ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web)) => {
                PlanUrl::parse(text).map(Self::Web)
            }
            Some((_, scheme)) if !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Err(format!("{scheme}:// is not supported: give a file, or an https:// URL (for a bucket: a signed one)"))
            }
            _ => Ok(Self::File(value.to_owned())),
        };
        place.map_err(|why| CommandError::new(Code::Usage, format!("--plan: {why}")).hint("see lorchestra run-window --help"))
    }
}

impl PlanUrl {
    fn parse(text: &str) -> Result<Self, String> {
        let mut url: Url = text.parse().map_err(|error| format!("not a URL: {error}"))?;
        let is_sum = |sum: &str| sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit());
        let sha256 = match url.fragment() {
            None => None,
            Some(fragment) => match fragment.strip_prefix("sha256=").filter(|sum| is_sum(sum)) {
                Some(sum) => Some(sum.to_ascii_lowercase()),
                None => return Err("after #, write sha256= and the 64 digits that sha256sum prints".into()),
            },
        };
        if url.scheme() == "http" && sha256.is_none() {
            return Err("http:// protects nothing on the way: use https://, or add #sha256= and what sha256sum prints".into());
        }
        url.set_fragment(None);
        Ok(Self { url, sha256 })
    }

    /// The URL without credentials.
    fn shown(&self) -> PathBuf {
        let mut url = self.url.clone();
        // Fails only for URLs without a host, which http does not have.
        let _ = url.set_username("").and_then(|()| url.set_password(None));
        url.set_query(None);
        String::from(url).into()
    }
}

/// Reads and checks the plan at a URL. Returns the signals that are handled from now on, too.
pub(super) fn read(plan: &PlanUrl, settings: &Settings) -> Result<(PlanFile, Signals), CommandError> {
    if plan.url.scheme() == "https" {
        check_roots(settings)?;
    }
    let shown = plan.shown();
    let mut signals = handle_signals()?;
    let no_client = |why: String| {
        CommandError::new(Code::Config, format!("no HTTP client: {why}"))
            .hint("if root certificates are missing, install the package ca-certificates")
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| no_client(error.to_string()))?;
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .timeout(LIMIT)
        // Requests may carry credentials.
        .redirect(reqwest::redirect::Policy::none())
        .tls_built_in_root_certs(plan.url.scheme() == "https")
        .user_agent(concat!("lorchestra/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| no_client(chain(&error.without_url())))?;
    let done = runtime.block_on(async {
        let mut download = std::pin::pin!(download(&client, &plan.url));
        loop {
            tokio::select! {
                done = &mut download => return Ok(done),
                () = tokio::time::sleep(LOOK) => {
                    if let Some(signal) = signals.endings().first() {
                        return Err(*signal);
                    }
                }
            }
        }
    });
    drop(client);
    // The thread that looked up the name ends before the run starts.
    runtime.shutdown_timeout(CONNECT);
    let bytes = match done {
        Err(signal) => {
            let what = format!("stopped by {} before the plan was read: nothing was started", signal_name(signal));
            return Err(CommandError::new(Code::Interrupted(signal), what));
        }
        Ok(Err(unread)) => return Err(failure(&shown, unread)),
        Ok(Ok(bytes)) => bytes,
    };
    if let Some(expected) = &plan.sha256 {
        let found = PlanFile::sum(&bytes);
        if found != *expected {
            let what = format!("{} has the sha256 {found}, and --plan expects {expected}", shown.display());
            return Err(CommandError::new(Code::Usage, what).hint("copy the plan there again, or correct the sha256 in the URL"));
        }
    }
    Ok((PlanFile::parse(&shown, &bytes)?, signals))
}

fn failure(shown: &Path, unread: Unread) -> CommandError {
    let at = shown.display();
    match unread {
        Unread::Later(why) => CommandError::new(Code::Undelivered, format!("the plan could not be read from {at}: {why}"))
            .hint("check the address and the network of this node, and run the window again"),
        Unread::Never(why) => CommandError::new(Code::Usage, format!("the plan could not be read from {at}: {why}"))
            .hint("check the address, and whether this node may read it: curl -I URL"),
        Unread::Tls { why, hint } => {
            CommandError::new(Code::Config, format!("the plan could not be read from {at}: {why}")).hint(hint)
        }
    }
}

/// Why a request failed before it had a complete answer.
fn unread(error: reqwest::Error) -> Unread {
    let error = error.without_url();
    let hint = match tls_error(&error) {
        Some(rustls::Error::InvalidCertificate(fault)) => match fault {
            CertificateError::UnknownIssuer => {
                "install the issuer's certificate on this node, or set SSL_CERT_FILE to a file with the certificates to trust"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "use a name in the URL for which the certificate is valid, or correct the server's certificate"
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => "renew the server's certificate, and check the clock of this node",
            _ => "correct the server's certificate",
        },
        Some(rustls::Error::InvalidMessage(_) | rustls::Error::PeerIncompatible(_)) => {
            "check the port and the scheme of the URL: the server must speak TLS 1.2 or 1.3"
        }
        Some(rustls::Error::AlertReceived(alert)) => match refusal(*alert) {
            Some(hint) => hint,
            None => return Unread::Later(chain(&error)),
        },
        // Connections that break are no faults of the configuration.
        _ => return Unread::Later(chain(&error)),
    };
    Unread::Tls { why: in_words(&chain(&error)), hint }
}

/// What to do about an alert that the server sends to each request of this node; `None` if the next one may succeed.
fn refusal(alert: AlertDescription) -> Option<&'static str> {
    use AlertDescription as Alert;
    match alert {
        Alert::ProtocolVersion | Alert::InsufficientSecurity | Alert::HandshakeFailure | Alert::NoApplicationProtocol => {
            Some("configure the server for TLS 1.2 or 1.3 with common cipher suites, or use another server")
        }
        Alert::CertificateRequired
        | Alert::NoCertificate
        | Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => {
            Some("run-window sends no client certificate: use a server, or an address of this one, that does not require it")
        }
        Alert::UnrecognisedName => Some("check the host in the URL: the server does not know this name"),
        _ => None,
    }
}

/// Replaces what rustls has only as the name of an error.
fn in_words(text: &str) -> String {
    text.replace(
        "Other(OtherError(CaUsedAsEndEntity))",
        "it is the certificate of a certificate authority (CA:TRUE), which is not valid for a server",
    )
}

/// Fails if `SSL_CERT_FILE` cannot be read: the certificates of the machine are not used then, and the server's would seem to be wrong.
fn check_roots(settings: &Settings) -> Result<(), CommandError> {
    let Some(file) = settings.variable("SSL_CERT_FILE").filter(|file| !file.is_empty()) else { return Ok(()) };
    std::fs::read(&file).map(drop).map_err(|error| {
        let file = path_text(Path::new(&file));
        CommandError::new(Code::Config, format!("SSL_CERT_FILE: {file} cannot be read: {error}"))
            .hint("set it to a file with the certificates to trust, or unset it to use those of the machine")
    })
}

/// Returns the TLS error that caused an error, if one did.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = |error: &&'a (dyn Error + 'static)| -> Option<&'a (dyn Error + 'static)> {
        // The source of an I/O error is that of the error in it.
        let error = *error;
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    };
    std::iter::successors(Some(error), inner).find_map(|error| error.downcast_ref())
}

/// Reads a URL, with a few attempts.
async fn download(client: &reqwest::Client, url: &Url) -> Result<Vec<u8>, Unread> {
    let begun = Instant::now();
    for pause in PAUSES {
        match attempt(client, url).await {
            Err(Unread::Later(_)) if begun.elapsed() + pause < LIMIT => tokio::time::sleep(pause).await,
            done => return done,
        }
    }
    attempt(client, url).await
}

async fn attempt(client: &reqwest::Client, url: &Url) -> Result<Vec<u8>, Unread> {
    let mut answer = client.get(url.clone()).send().await.map_err(unread)?;
    let status = answer.status();
    if status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) {
        return Err(Unread::Later(format!("the server answered {status}")));
    }
    if status.is_redirection() {
        return Err(Unread::Never(format!("the server answered {status}: give the address to which it redirects")));
    }
    if status != StatusCode::OK {
        return Err(Unread::Never(format!("the server answered {status}")));
    }
    let too_large = || Unread::Never(format!("it has more than {} MiB", MAX_BYTES >> 20));
    if answer.content_length().is_some_and(|length| length > MAX_BYTES as u64) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // A body that is shorter than announced is an error.
    while let Some(chunk) = answer.chunk().await.map_err(unread)? {
        if bytes.len() + chunk.len() > MAX_BYTES {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "E3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_plan_is_a_file_or_a_protected_url() {
        let place = |text: &str| PlanPlace::of(Path::new(text));
        for file in ["plan.jsonl", "/shared/plan.jsonl", "a:b", "://x", "a b://c"] {
            assert!(matches!(place(file), Ok(PlanPlace::File(path)) if path == Path::new(file)), "{file}");
        }
        for (url, sum) in [
            ("https://h/p".to_owned(), false),
            (format!("https://h/p#sha256={SUM}"), true),
            (format!("HTTP://h/p?a=b#sha256={SUM}"), true),
        ] {
            let Ok(PlanPlace::Web(plan)) = place(&url) else { panic!("{url}") };
            assert_eq!(plan.sha256, sum.then(|| SUM.to_ascii_lowercase()));
            assert_eq!(plan.url.fragment(), None);
        }
        for (text, why) in [
            ("http://h/p", "use https://"),
            ("https://", "not a URL"),
            ("https://h/p#sha256=12", "sha256sum"),
            ("https://h/p#md5=12", "sha256sum"),
            ("gs://bucket/plan.jsonl", "gs:// is not supported"),
            ("file:///plan.jsonl", "file:// is not supported"),
        ] {
            let refused = place(text).unwrap_err().message;
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    #[test]
    fn no_message_has_credentials() {
        let text = format!("https://anna:secret@h:8443/a/plan.jsonl?token=secret#sha256={SUM}");
        let Ok(PlanPlace::Web(plan)) = PlanPlace::of(Path::new(&text)) else { panic!("{text}") };
        assert_eq!(plan.shown(), Path::new("https://h:8443/a/plan.jsonl"));
        for text in ["https://anna:secret@h/p#secret", "http://anna:secret@h/p?secret", "https://anna:secret@h:x/p"] {
            let refused = format!("{:?}", PlanPlace::of(Path::new(text)).unwrap_err());
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
