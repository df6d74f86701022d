//! Connections: one connector for the gRPC channel and for a service account's token requests, and HTTP clients for everything else. Owns
//! timeouts and the proxy of HTTPS_PROXY; reads no environment. Guarantees that a proxy's password is in no error and no Debug output.

use crate::delivery::DeliveryError;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::codegen::http::{HeaderMap, Uri};
use tonic::codegen::{BoxFuture, Service, StdError};

const KEEPALIVE: Duration = Duration::from_secs(60);
/// Maximum time for connecting, however long an answer may take.
const MAX_CONNECT_TIME: Duration = Duration::from_secs(5);

/// Validated connection settings.
#[derive(Clone)]
pub(super) struct ConnectSettings {
    timeout: Duration,
    proxy: Option<String>,
    no_proxy: Option<String>,
}

impl fmt::Debug for ConnectSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectSettings")
            .field("timeout", &self.timeout)
            .field("proxy", &self.proxy.is_some())
            .finish_non_exhaustive()
    }
}

impl ConnectSettings {
    /// `proxy` as in HTTPS_PROXY, with or without `http://`; `no_proxy` as in NO_PROXY.
    pub(super) fn new(timeout: Duration, proxy: Option<&str>, no_proxy: Option<&str>) -> Result<Self, DeliveryError> {
        let wrong = |why: &str| DeliveryError::Denied(format!("HTTPS_PROXY: {why}: give http://host:port"));
        let set = |text: Option<&str>| text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let proxy = match set(proxy) {
            None => None,
            Some(text) => {
                let url = if text.contains("://") { text } else { format!("http://{text}") };
                let uri: Uri = url.parse().map_err(|_| wrong("not an address"))?;
                if uri.scheme_str() != Some("http") {
                    return Err(wrong("only http:// proxies are supported"));
                }
                if uri.host().is_none_or(str::is_empty) {
                    return Err(wrong("no host"));
                }
                Some(url)
            }
        };
        Ok(Self { timeout, proxy, no_proxy: set(no_proxy) })
    }

    /// Time limit of one request, and of one method.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Time limit for connecting.
    pub(super) fn connect_timeout(&self) -> Duration {
        self.timeout.min(MAX_CONNECT_TIME)
    }

    /// Returns the connector for the channel and for token requests.
    pub(super) fn connector(&self) -> Connector {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_nodelay(true);
        direct.set_keepalive(Some(KEEPALIVE));
        direct.set_connect_timeout(Some(self.connect_timeout()));
        let proxies = Matcher::builder()
            .https(self.proxy.clone().unwrap_or_default())
            .no(self.no_proxy.clone().unwrap_or_default())
            .build();
        Connector { direct, proxies: Arc::new(proxies), limit: self.connect_timeout() }
    }

    /// Returns an HTTP client with our timeouts. It follows no redirect: none is expected, and requests carry secrets.
    ///
    /// `plain`: for a plain-text server, such as an emulator or the metadata server. Then it uses no proxy, and does not load root
    /// certificates, which takes time and may find none.
    pub(super) fn http(&self, headers: HeaderMap, plain: bool) -> Result<reqwest::Client, DeliveryError> {
        let mut builder = reqwest::Client::builder()
            .timeout(self.timeout)
            .connect_timeout(self.connect_timeout())
            .tcp_keepalive(KEEPALIVE)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("lorchestra/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .tls_built_in_root_certs(!plain)
            .no_proxy();
        if let Some(proxy) = self.proxy.as_deref().filter(|_| !plain) {
            let proxy =
                reqwest::Proxy::https(proxy).map_err(|_| DeliveryError::Denied("HTTPS_PROXY: not an address".to_owned()))?;
            let no_proxy = self.no_proxy.as_deref().and_then(reqwest::NoProxy::from_string);
            builder = builder.proxy(proxy.no_proxy(no_proxy));
        }
        builder.build().map_err(|error| {
            let cause = super::answer::cause(&error);
            DeliveryError::Denied(format!(
                "no HTTP client: {cause}: if root certificates are missing, install the package ca-certificates"
            ))
        })
    }
}

/// Connects to a host, directly or through the proxy.
#[derive(Clone)]
pub(super) struct Connector {
    direct: HttpConnector,
    proxies: Arc<Matcher>,
    limit: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = StdError;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let proxy = self.proxies.intercept(&to);
        let mut direct = self.direct.clone();
        let limit = self.limit;
        Box::pin(async move {
            let connecting = async {
                let Some(proxy) = proxy else { return direct.call(to).await.map_err(StdError::from) };
                let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                tunnel.call(to).await.map_err(|error| StdError::from(format!("through the proxy: {error}")))
            };
            // The connector limits only the TCP handshake, not the proxy's answer.
            tokio::time::timeout(limit, connecting).await.map_err(|_| StdError::from("no connection in time"))?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A proxy that accepts one tunnel, and returns the request it received.
    fn proxy() -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                connection.read_exact(&mut byte).unwrap();
                asked.extend(byte);
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            String::from_utf8(asked).unwrap()
        });
        (address, serving)
    }

    fn dial(settings: &ConnectSettings, to: &str) -> Result<TokioIo<TcpStream>, StdError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(settings.connector().call(to.parse().unwrap()))
    }

    #[test]
    fn https_goes_through_the_proxy() {
        let (address, serving) = proxy();
        let settings = ConnectSettings::new(Duration::from_secs(9), Some(&format!("http://me:hunter2@{address}")), None).unwrap();
        assert!(!format!("{settings:?} {:?}", settings.connector()).contains("hunter2"));
        dial(&settings, "https://storage.example").unwrap();
        let asked = serving.join().unwrap();
        assert!(asked.starts_with("CONNECT storage.example:443 HTTP/1.1\r\n"), "{asked}");
        // me:hunter2
        assert!(asked.contains("Basic bWU6aHVudGVyMg=="), "{asked}");
    }

    #[test]
    fn plain_text_and_no_proxy_go_directly() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        // Nothing listens there: connections through the proxy fail.
        let dead = Some("127.0.0.1:1");
        let settings = ConnectSettings::new(Duration::from_secs(9), dead, None).unwrap();
        assert!(dial(&settings, &format!("http://{target}")).is_ok());
        let text = dial(&settings, &format!("https://{target}")).unwrap_err().to_string();
        assert!(text.starts_with("through the proxy: "), "{text}");
        let settings = ConnectSettings::new(Duration::from_secs(9), dead, Some("10.0.0.1,127.0.0.1")).unwrap();
        assert!(dial(&settings, &format!("https://{target}")).is_ok());
    }

    #[test]
    fn limits_and_refused_proxies() {
        let settings = |seconds| ConnectSettings::new(Duration::from_secs(seconds), None, None).unwrap();
        assert_eq!(settings(2).connect_timeout(), Duration::from_secs(2));
        assert_eq!(settings(60).connect_timeout(), Duration::from_secs(5));
        for proxy in ["https://me:hunter2@proxy", "socks5://me:hunter2@proxy", "http://me:hunter2 @"] {
            let refusal = ConnectSettings::new(Duration::from_secs(1), Some(proxy), None).unwrap_err().to_string();
            assert!(refusal.starts_with("HTTPS_PROXY: ") && !refusal.contains("hunter2"), "{refusal}");
        }
        assert!(ConnectSettings::new(Duration::from_secs(1), Some(" "), None).unwrap().proxy.is_none());
    }
}
