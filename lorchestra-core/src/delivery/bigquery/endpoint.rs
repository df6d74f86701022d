//! The address of an API: a validated base URL. Pure functions only. Guarantees a scheme, a host, and no credentials inside.

use crate::delivery::DeliveryError;
use tonic::codegen::http::Uri;

/// A base URL without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    url: String,
    plain: bool,
}

impl Endpoint {
    /// Parses `host:port` (plain text, as for emulators), `http://…` or `https://…`. `key` names the setting in the error.
    pub(super) fn parse(text: &str, key: &str) -> Result<Self, DeliveryError> {
        let text = text.trim();
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let wrong = |why: &str| DeliveryError::Denied(format!("{key}: {why}: use host:port, http://host:port or https://host"));
        let uri: Uri = url.parse().map_err(|_| wrong("not an address"))?;
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        if authority.host().is_empty() {
            return Err(wrong("no host"));
        }
        // A password here would appear in every error message.
        if authority.as_str().contains('@') {
            return Err(wrong("an address must not contain a user or password"));
        }
        if uri.query().is_some() {
            return Err(wrong("an address must not contain a query"));
        }
        let plain = match uri.scheme_str() {
            Some("http") => true,
            Some("https") => false,
            _ => return Err(wrong("neither http nor https")),
        };
        Ok(Self { url: url.trim_end_matches('/').to_owned(), plain })
    }

    /// Scheme, host, port and path.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether it is plain text: an emulator, which needs no credentials.
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }

    /// The base URL of REST calls.
    pub(super) fn v2(&self) -> String {
        const PATH: &str = "/bigquery/v2";
        if self.url.ends_with(PATH) { self.url.clone() } else { format!("{}{PATH}", self.url) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (text, url, plain) in [
            ("127.0.0.1:9050", "http://127.0.0.1:9050", true),
            ("http://127.0.0.1:9050/", "http://127.0.0.1:9050", true),
            (" https://bigquery.googleapis.com ", "https://bigquery.googleapis.com", false),
            ("[::1]:9050", "http://[::1]:9050", true),
            ("emulator", "http://emulator", true),
        ] {
            let endpoint = Endpoint::parse(text, "k").unwrap();
            assert_eq!((endpoint.url(), endpoint.is_plain()), (url, plain), "{text}");
        }
        let base = Endpoint::parse("http://h:1", "k").unwrap().v2();
        assert_eq!(base, "http://h:1/bigquery/v2");
        assert_eq!(Endpoint::parse(&base, "k").unwrap().v2(), base);
    }

    #[test]
    fn refused() {
        for text in ["", "http://", "ftp://host", "http://user:hunter2@host", "http://host/?q=1", "a b"] {
            let refusal = Endpoint::parse(text, "destinations.bigquery.endpoint").unwrap_err();
            assert!(
                matches!(&refusal, DeliveryError::Denied(why) if why.starts_with("destinations.bigquery.endpoint: ")),
                "{text}: {refusal}"
            );
            assert!(!refusal.to_string().contains("hunter2"));
        }
    }
}
