//! Why a server cannot be read from: one line each, with its mend. Talks to nobody.

use super::link::Interruption;
use crate::roots::RootsError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of a server's own words that are told, at most.
const SAID: usize = 200;

/// Why a server cannot be read from. Nothing was lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("--{what} is missing; {mend}")]
    Missing { what: &'static str, mend: &'static str },
    #[error("--password and --token were both given; leave one out, or say with --auth which it is to be")]
    TwoSecrets,
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error("{place}: is not this machine, and --tls plain would show the password on the way; use --tls tls or starttls")]
    PlainElsewhere { place: String },
    #[error("{host}: no address was found for this name; see --host, and whether this machine is on the network")]
    NoSuchHost { host: String, source: io::Error },
    #[error("{place}: cannot be connected to; see --host and --port, and whether the server is up")]
    Connect { place: String, source: io::Error },
    #[error("{place}: said nothing for {patience:?}; run the job again, or allow it more with --patience")]
    Silent { place: String, patience: Duration },
    #[error("{place}: its certificate is not trusted; see --host, or give --ca-file the certificate of who signed it")]
    Certificate { place: String, source: rustls::Error },
    #[error("{place}: does not speak TLS; use --tls starttls (port 143), or see --port")]
    NotTls { place: String },
    #[error("{place}: TLS failed; run the job again, and see whether something between is in the way")]
    Tls { place: String, source: rustls::Error },
    #[error("{place}: does not speak IMAP{}; see --host, --port and --tls", .said)]
    NotImap { place: String, said: String },
    #[error("{place}: turns visitors away: {said}; run the job again later")]
    Busy { place: String, said: String },
    #[error("{place}: does not offer STARTTLS; use --tls tls (port 993)")]
    NoStartTls { place: String },
    #[error("{place}: does not take passwords this way; use --tls tls or starttls, or --auth xoauth2")]
    NoPasswords { place: String },
    #[error("{place}: does not know XOAUTH2; use --auth password")]
    NoXoauth2 { place: String },
    #[error("{place}: refused the login: {said}; see --user, and whether the {secret} is right and not withdrawn{hint}")]
    Denied { place: String, said: String, secret: &'static str, hint: &'static str },
    #[error("{place}: has no folder {folder:?}{near}; see --folder")]
    NoFolder { place: String, folder: String, near: String },
    #[error("{place}: closed the connection during {doing}; what was taken before is kept, run the job again to go on")]
    Closed { place: String, doing: &'static str },
    #[error("{place}: refused {doing}: {said}; what was taken before is kept, run the job again to go on")]
    Refused { place: String, doing: &'static str, said: String },
    #[error("{place}: sent what cannot be understood, during {doing}; what was taken before is kept, run the job again to go on")]
    Garbled { place: String, doing: &'static str },
    #[error("{place}: sent more than was asked for, during {doing}; what was taken before is kept")]
    TooMuch { place: String, doing: &'static str },
    #[error("{place}: the connection broke during {doing}; what was taken before is kept, run the job again to go on")]
    Broken { place: String, doing: &'static str, source: io::Error },
    #[error("{}: {doing} failed; the messages before are kept, run the job again to go on", .path.display())]
    Bookmark { path: PathBuf, doing: &'static str, source: io::Error },
    /// The extraction says how far it came.
    #[error("cancelled")]
    Cancelled,
}

impl ServerError {
    /// Whether another attempt must end the same way.
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
            | Self::Garbled { .. }
            | Self::TooMuch { .. }
            | Self::Broken { .. }
            | Self::Bookmark { .. }
            | Self::Cancelled => false,
        }
    }

    /// What a broken stream was broken by.
    pub(crate) fn from_io(place: &str, doing: &'static str, error: io::Error) -> Self {
        let place = place.to_owned();
        let inner = error.get_ref();
        if let Some(interruption) = inner.and_then(|e| e.downcast_ref::<Interruption>()) {
            return match *interruption {
                Interruption::Cancelled => Self::Cancelled,
                Interruption::Silent(patience) => Self::Silent { place, patience },
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

    /// What the client says of a command that failed.
    pub(crate) fn from_imap(place: &str, doing: &'static str, error: imap::Error) -> Self {
        let place_of = || place.to_owned();
        match error {
            imap::Error::Io(error) => Self::from_io(place, doing, error),
            imap::Error::ConnectionLost => Self::Closed { place: place_of(), doing },
            imap::Error::No(no) => Self::Refused { place: place_of(), doing, said: said(&no.information) },
            imap::Error::Bad(bad) => Self::Refused { place: place_of(), doing, said: said(&bad.information) },
            // The client's word for what it cannot read, too.
            imap::Error::Bye(bye) if bye.information == "no explanation given" => Self::Garbled { place: place_of(), doing },
            imap::Error::Bye(_) => Self::Closed { place: place_of(), doing },
            _ => Self::Garbled { place: place_of(), doing },
        }
    }
}

/// A server's own words: one line, without what steers a terminal, not endless.
pub(crate) fn said(text: &str) -> String {
    let mut said: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID).collect();
    said.truncate(said.trim_end_matches([' ', '.']).len());
    if said.is_empty() { "no reason was given".into() } else { said }
}
