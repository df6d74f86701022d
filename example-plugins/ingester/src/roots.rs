//! Trusted root certificates: those of the system, and those of a file.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::{Path, PathBuf};

/// Why there are no root certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootsError {
    #[error("{}: {reason}; set --ca-file to a file with PEM certificates", .path.display())]
    CaFile { path: PathBuf, reason: String },
    #[error("this host has no root certificates; install the package ca-certificates, or set --ca-file")]
    None,
}

/// Returns the certificates that can be parsed.
pub(crate) fn load(ca_file: Option<&Path>) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), RootsError> {
    let mut roots = RootCertStore::empty();
    let mut certificates = rustls_native_certs::load_native_certs().certs;
    certificates.retain(|certificate| roots.add(certificate.clone()).is_ok());
    if let Some(path) = ca_file {
        let bad = |reason: String| RootsError::CaFile { path: path.to_owned(), reason };
        let more = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let more = more.map_err(|e| bad(e.to_string()))?;
        if more.is_empty() {
            return Err(bad("it contains no certificate".into()));
        }
        for certificate in more {
            roots.add(certificate.clone()).map_err(|e| bad(e.to_string()))?;
            certificates.push(certificate);
        }
    }
    if roots.is_empty() { Err(RootsError::None) } else { Ok((roots, certificates)) }
}
