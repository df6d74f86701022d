//! Errors of the Web API: one line each, with a hint.

use crate::roots::RootsError;
use lorchestra_plugin_api::serde_json::Value;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why the Web API cannot be used. No data was lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("--token is missing; set its source, for example --token env:SLACK_TOKEN, or set --source to an export")]
    NoToken,
    #[error("--base-url {base:?}: is not a URL; the default is https://slack.com/api")]
    BadBase { base: String },
    #[error("--base-url {base:?}: is a remote host, and http would send the token unencrypted; use https")]
    PlainElsewhere { base: String },
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error("{base}: cannot resolve the host name; check the network connection")]
    NoSuchHost { base: String },
    #[error("{base}: cannot connect; check the network connection, and that Slack is up")]
    Connect { base: String, source: io::Error },
    #[error("{base}: did not answer within {idle_timeout:?}; run the job again, or raise --idle-timeout")]
    Silent { base: String, idle_timeout: Duration },
    #[error(
        "{base}: the server's certificate is not trusted; set --ca-file to the issuer's certificate, for example a company proxy's"
    )]
    Certificate { base: String, source: rustls::Error },
    #[error("{base}: does not speak TLS; check --base-url, and look for a proxy in between")]
    NotTls { base: String },
    #[error("{base}: {method}: the connection was lost; messages already read are saved, run the job again to continue")]
    Broken { base: String, method: &'static str, source: Box<ureq::Error> },
    #[error("{base}: {method} returned HTTP status {status}; messages already read are saved, run the job again later")]
    Status { base: String, method: &'static str, status: u16 },
    #[error(
        "{base}: {method} returned an invalid or incomplete response; messages already read are saved, run the job again to continue"
    )]
    Garbled { base: String, method: &'static str },
    #[error(
        "{base}: {method} returned the cursor of a page that was already read; messages already read are saved, run the job again later"
    )]
    Circles { base: String, method: &'static str },
    #[error("{base}: {method} returned a response that is too large; messages already read are saved")]
    TooLarge { base: String, method: &'static str },
    #[error(
        "{base}: {method} is rate limited, counting all users of this token; messages already read are saved, run the job again later"
    )]
    Limited { base: String, method: &'static str },
    #[error("{base}: refused the token ({error}); check that --token is complete, for this workspace, and not revoked")]
    Denied { base: String, error: String },
    #[error(
        "{base}: the token may not call {method}; add the scope {needed} to the Slack app, reinstall it, and use the new token"
    )]
    Scope { base: String, method: &'static str, needed: String },
    #[error("the token cannot see a channel {channel:?}; check --channel and --kind, and that the app was invited")]
    NoChannel { channel: String },
    #[error("the app is not in channel {channel}; invite it (/invite @app), then run the job again")]
    NotInChannel { channel: String },
    #[error("{base}: {method} failed ({error}); messages already read are saved, run the job again to continue")]
    Refused { base: String, method: &'static str, error: String },
    #[error("{}: {doing} failed; messages already read are saved, run the job again to continue", .path.display())]
    Bookmark { path: PathBuf, doing: &'static str, source: io::Error },
    /// The collection adds how many messages it has read.
    #[error("cancelled")]
    Cancelled,
}

impl ApiError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::NoToken
            | Self::BadBase { .. }
            | Self::PlainElsewhere { .. }
            | Self::Roots(_)
            | Self::Certificate { .. }
            | Self::NotTls { .. }
            | Self::Denied { .. }
            | Self::Scope { .. }
            | Self::NoChannel { .. }
            | Self::NotInChannel { .. } => true,
            Self::NoSuchHost { .. }
            | Self::Connect { .. }
            | Self::Silent { .. }
            | Self::Broken { .. }
            | Self::Status { .. }
            | Self::Garbled { .. }
            | Self::Circles { .. }
            | Self::TooLarge { .. }
            | Self::Limited { .. }
            | Self::Refused { .. }
            | Self::Bookmark { .. }
            | Self::Cancelled => false,
        }
    }

    /// Converts a response with `"ok": false`.
    pub(super) fn of_slack(base: &str, method: &'static str, answer: &Value) -> Self {
        let base = base.to_owned();
        // Slack's error code, limited to a short word.
        let word =
            |value: &Value| value.as_str().unwrap_or_default().chars().filter(|c| !c.is_control()).take(80).collect::<String>();
        let error = word(&answer["error"]);
        match error.as_str() {
            "missing_scope" => Self::Scope { base, method, needed: word(&answer["needed"]) },
            "not_in_channel" => Self::NotInChannel { channel: String::new() },
            "channel_not_found" => Self::NoChannel { channel: String::new() },
            "invalid_auth"
            | "not_authed"
            | "account_inactive"
            | "token_revoked"
            | "token_expired"
            | "no_permission"
            | "org_login_required"
            | "ekm_access_denied"
            | "not_allowed_token_type"
            | "access_denied" => Self::Denied { base, error },
            _ => Self::Refused { base, method, error },
        }
    }

    /// Converts the error of a call without a response.
    pub(super) fn of_client(base: &str, method: &'static str, idle_timeout: Duration, error: ureq::Error) -> Self {
        let base = base.to_owned();
        match error {
            ureq::Error::HostNotFound => Self::NoSuchHost { base },
            ureq::Error::Timeout(_) => Self::Silent { base, idle_timeout },
            ureq::Error::BodyExceedsLimit(_) => Self::TooLarge { base, method },
            ureq::Error::ConnectionFailed => Self::Connect { base, source: io::ErrorKind::ConnectionRefused.into() },
            ureq::Error::Rustls(source @ rustls::Error::InvalidCertificate(_)) => Self::Certificate { base, source },
            ureq::Error::Rustls(rustls::Error::InvalidMessage(_)) => Self::NotTls { base },
            ureq::Error::Io(error) => {
                let tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()).cloned();
                match (tls, error.kind()) {
                    (Some(source @ rustls::Error::InvalidCertificate(_)), _) => Self::Certificate { base, source },
                    (Some(rustls::Error::InvalidMessage(_)), _) => Self::NotTls { base },
                    (
                        _,
                        io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable,
                    ) => Self::Connect { base, source: error },
                    // The system's name lookup returns an error without a kind.
                    _ if error.to_string().contains("failed to lookup") => Self::NoSuchHost { base },
                    _ => Self::Broken { base, method, source: Box::new(ureq::Error::Io(error)) },
                }
            }
            other => Self::Broken { base, method, source: Box::new(other) },
        }
    }
}
