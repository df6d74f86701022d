//! Errors of mail servers: one line each, with a hint.

use super::link::Interruption;
use crate::roots::RootsError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Maximum length of a server's message in an error.
const MAX_REPLY: usize = 200;

/// Why a server cannot be read. No data was lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("--{what} is missing; {hint}")]
    Missing { what: &'static str, hint: &'static str },
    #[error("--password and --token are both set; remove one, or choose with --auth")]
    TwoSecrets,
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error("{place}: is a remote host, and --tls plain would send the password unencrypted; use --tls tls or --tls starttls")]
    PlainElsewhere { place: String },
    #[error("{host}: cannot resolve the host name; check --host and the network connection")]
    NoSuchHost { host: String, source: io::Error },
    #[error("{place}: cannot connect; check --host, --port, and that the server is running")]
    Connect { place: String, source: io::Error },
    #[error("{place}: sent nothing for {idle_timeout:?}; run the job again, or raise --idle-timeout")]
    Silent { place: String, idle_timeout: Duration },
    #[error("{place}: the server's certificate is not trusted; check --host, or set --ca-file to the issuer's certificate")]
    Certificate { place: String, source: rustls::Error },
    #[error("{place}: does not speak TLS; use --tls starttls (port 143), or check --port")]
    NotTls { place: String },
    #[error("{place}: the TLS handshake failed; run the job again, or look for a proxy or firewall in between")]
    Tls { place: String, source: rustls::Error },
    #[error("{place}: does not speak IMAP{}; check --host, --port and --tls", .reply)]
    NotImap { place: String, reply: String },
    #[error("{place}: refused the connection: {reply}; run the job again later")]
    Busy { place: String, reply: String },
    #[error("{place}: does not offer STARTTLS; use --tls tls (port 993)")]
    NoStartTls { place: String },
    #[error("{place}: does not accept password logins on this connection; use --tls tls or starttls, or --auth xoauth2")]
    NoPasswords { place: String },
    #[error("{place}: does not support XOAUTH2; use --auth password")]
    NoXoauth2 { place: String },
    #[error("{place}: refused the login: {reply}; check --user, and that the {secret} is correct and not revoked{hint}")]
    Denied { place: String, reply: String, secret: &'static str, hint: &'static str },
    #[error("{place}: has no folder {folder:?}{near}; check --folder")]
    NoFolder { place: String, folder: String, near: String },
    #[error("{place}: closed the connection during {doing}; messages already read are saved, run the job again to continue")]
    Closed { place: String, doing: &'static str },
    #[error("{place}: refused {doing}: {reply}; messages already read are saved, run the job again to continue")]
    Refused { place: String, doing: &'static str, reply: String },
    #[error("{place}: refused {doing} (folder {folder:?}): {reply}; the other folders were read, run the job again later")]
    FolderRefused { place: String, folder: String, doing: &'static str, reply: String },
    #[error("{place}: sent an invalid response during {doing}; messages already read are saved, run the job again to continue")]
    Garbled { place: String, doing: &'static str },
    #[error("{place}: sent too much data during {doing}; messages already read are saved")]
    TooMuch { place: String, doing: &'static str },
    #[error("{place}: the connection was lost during {doing}; messages already read are saved, run the job again to continue")]
    Broken { place: String, doing: &'static str, source: io::Error },
    #[error("{}: {doing} failed; messages already read are saved, run the job again to continue", .path.display())]
    Bookmark { path: PathBuf, doing: &'static str, source: io::Error },
    /// The extraction adds how many messages it has read.
    #[error("cancelled")]
    Cancelled,
}

impl ServerError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Missing { .. }
            | Self::TwoSecrets
            | Self::Roots(_)
            | Self::PlainElsewhere { .. }
            | Self::Certificate { .. }
            | Self::NotTls { .. }
            | Self::NotImap { .. }
            | Self::NoStartTls { .. }
            | Self::NoPasswords { .. }
            | Self::NoXoauth2 { .. }
            | Self::Denied { .. }
            | Self::NoFolder { .. } => true,
            Self::NoSuchHost { .. }
            | Self::Connect { .. }
            | Self::Silent { .. }
            | Self::Tls { .. }
            | Self::Busy { .. }
            | Self::Closed { .. }
            | Self::Refused { .. }
            | Self::FolderRefused { .. }
            | Self::Garbled { .. }
            | Self::TooMuch { .. }
            | Self::Broken { .. }
            | Self::Bookmark { .. }
            | Self::Cancelled => false,
        }
    }

    /// Converts the error of a broken stream.
    pub(crate) fn from_io(place: &str, doing: &'static str, error: io::Error) -> Self {
        let place = place.to_owned();
        let inner = error.get_ref();
        if let Some(interruption) = inner.and_then(|e| e.downcast_ref::<Interruption>()) {
            return match *interruption {
                Interruption::Cancelled => Self::Cancelled,
                Interruption::Silent(idle_timeout) => Self::Silent { place, idle_timeout },
                Interruption::TooMuch => Self::TooMuch { place, doing },
            };
        }
        if let Some(tls) = inner.and_then(|e| e.downcast_ref::<rustls::Error>()) {
            let source = tls.clone();
            return match tls {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    Self::Certificate { place, source }
                }
                rustls::Error::InvalidMessage(_) if doing.contains("handshake") => Self::NotTls { place },
                _ => Self::Tls { place, source },
            };
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed { place, doing },
            _ => Self::Broken { place, doing, source: error },
        }
    }

    /// Converts the client's error of a failed command.
    pub(crate) fn from_imap(place: &str, doing: &'static str, error: imap::Error) -> Self {
        let place_of = || place.to_owned();
        match error {
            imap::Error::Io(error) => Self::from_io(place, doing, error),
            imap::Error::ConnectionLost => Self::Closed { place: place_of(), doing },
            imap::Error::No(no) => Self::Refused { place: place_of(), doing, reply: reply(&no.information) },
            imap::Error::Bad(bad) => Self::Refused { place: place_of(), doing, reply: reply(&bad.information) },
            // The client also uses this for responses that it cannot parse.
            imap::Error::Bye(bye) if bye.information == "no explanation given" => Self::Garbled { place: place_of(), doing },
            imap::Error::Bye(_) => Self::Closed { place: place_of(), doing },
            _ => Self::Garbled { place: place_of(), doing },
        }
    }
}

/// Returns a server's message as one line of limited length, without control characters.
pub(crate) fn reply(text: &str) -> String {
    let mut reply: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REPLY).collect();
    reply.truncate(reply.trim_end_matches([' ', '.']).len());
    if reply.is_empty() { "no reason given".into() } else { reply }
}
