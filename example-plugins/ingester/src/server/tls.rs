//! TLS: trusted certificates, and the stream with or without TLS.

use super::ServerError;
use super::link::Link;
use crate::roots;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// The connection as seen by the client.
pub(crate) enum Stream<'a> {
    Plain(Link<'a>),
    Tls(Box<StreamOwned<ClientConnection, Link<'a>>>),
}

/// Trusts the system's root certificates and those in `ca_file`.
pub(crate) fn config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, ServerError> {
    let (roots, _) = roots::load(ca_file)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ServerError::Tls { place: String::new(), source: e })?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

impl<'a> Stream<'a> {
    /// Performs the handshake now, so that errors are known before any data is sent.
    pub(crate) fn secure(link: Link<'a>, host: &str, place: &str, config: Arc<ClientConfig>) -> Result<Self, ServerError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ServerError::NoSuchHost {
            host: host.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, "not a host name"),
        })?;
        let tls = |source| ServerError::Tls { place: place.to_owned(), source };
        let mut stream = StreamOwned::new(ClientConnection::new(config, name).map_err(tls)?, link);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|e| ServerError::from_io(place, "the TLS handshake", e))?;
        }
        Ok(Self::Tls(Box::new(stream)))
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(link) => link.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(link) => link.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(link) => link.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
