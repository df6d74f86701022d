//! How connections are made: one connector for the gRPC channel and for a service account's token requests, one kind of HTTP
//! client for the rest. Owns timeouts and the proxy of HTTPS_PROXY; reads no environment. Promises that a proxy's password is in
//! no error and no Debug.

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
/// No connection takes longer, however long an answer may.
const CONNECT_AT_MOST: Duration = Duration::from_secs(5);

/// Checked settings of connections.
#[derive(Clone)]
pub(super) struct Dialing {
    timeout: Duration,
    proxy: Option<String>,
    no_proxy: Option<String>,
}

impl fmt::Debug for Dialing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialing").field("timeout", &self.timeout).field("proxy", &self.proxy.is_some()).finish_non_exhaustive()
    }
}

impl Dialing {
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
                    return Err(wrong("only proxies spoken to by plain HTTP are supported"));
                }
                if uri.host().is_none_or(str::is_empty) {
                    return Err(wrong("no host"));
                }
                Some(url)
            }
        };
        Ok(Self { timeout, proxy, no_proxy: set(no_proxy) })
    }

    /// The limit of one request, and of one method.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The limit of making a connection.
    pub(super) fn connect_timeout(&self) -> Duration {
        self.timeout.min(CONNECT_AT_MOST)
    }

    /// The connector of the channel and of the token requests.
    pub(super) fn dialer(&self) -> Dialer {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_nodelay(true);
        direct.set_keepalive(Some(KEEPALIVE));
        direct.set_connect_timeout(Some(self.connect_timeout()));
        let proxies = Matcher::builder()
            .https(self.proxy.clone().unwrap_or_default())
            .no(self.no_proxy.clone().unwrap_or_default())
            .build();
        Dialer { direct, proxies: Arc::new(proxies), limit: self.connect_timeout() }
    }

    /// An HTTP client with our timeouts. It follows no redirect: none is expected, and requests carry secrets.
    ///
    /// `plain`: for a plain-text server, an emulator or the metadata server: no proxy, and no search for root certificates, which
    /// takes time and may find none.
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

/// Connects to a host, or through the proxy to it.
#[derive(Clone)]
pub(super) struct Dialer {
    direct: HttpConnector,
    proxies: Arc<Matcher>,
    limit: Duration,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Service<Uri> for Dialer {
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
            let dialing = async {
                let Some(proxy) = proxy else { return direct.call(to).await.map_err(StdError::from) };
                let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                tunnel.call(to).await.map_err(|error| StdError::from(format!("through the proxy: {error}")))
            };
            // The connector limits the TCP handshake alone, not the proxy's answer.
            tokio::time::timeout(limit, dialing).await.map_err(|_| StdError::from("no connection in time"))?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A proxy that grants one tunnel, and tells what it was asked.
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

    fn dial(dialing: &Dialing, to: &str) -> Result<TokioIo<TcpStream>, StdError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(dialing.dialer().call(to.parse().unwrap()))
    }

    #[test]
    fn https_goes_through_the_proxy() {
        let (address, serving) = proxy();
        let dialing = Dialing::new(Duration::from_secs(9), Some(&format!("http://me:hunter2@{address}")), None).unwrap();
        assert!(!format!("{dialing:?} {:?}", dialing.dialer()).contains("hunter2"));
        dial(&dialing, "https://storage.example").unwrap();
        let asked = serving.join().unwrap();
        assert!(asked.starts_with("CONNECT storage.example:443 HTTP/1.1\r\n"), "{asked}");
        // me:hunter2
        assert!(asked.contains("Basic bWU6aHVudGVyMg=="), "{asked}");
    }

    #[test]
    fn plain_text_and_no_proxy_go_directly() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        // Nobody is there: what goes through it fails.
        let dead = Some("127.0.0.1:1");
        let dialing = Dialing::new(Duration::from_secs(9), dead, None).unwrap();
        assert!(dial(&dialing, &format!("http://{target}")).is_ok());
        let text = dial(&dialing, &format!("https://{target}")).unwrap_err().to_string();
        assert!(text.starts_with("through the proxy: "), "{text}");
        let dialing = Dialing::new(Duration::from_secs(9), dead, Some("10.0.0.1,127.0.0.1")).unwrap();
        assert!(dial(&dialing, &format!("https://{target}")).is_ok());
    }

    #[test]
    fn limits_and_refused_proxies() {
        let dialing = |seconds| Dialing::new(Duration::from_secs(seconds), None, None).unwrap();
        assert_eq!(dialing(2).connect_timeout(), Duration::from_secs(2));
        assert_eq!(dialing(60).connect_timeout(), Duration::from_secs(5));
        for proxy in ["https://me:hunter2@proxy", "socks5://me:hunter2@proxy", "http://me:hunter2 @"] {
            let refusal = Dialing::new(Duration::from_secs(1), Some(proxy), None).unwrap_err().to_string();
            assert!(refusal.starts_with("HTTPS_PROXY: ") && !refusal.contains("hunter2"), "{refusal}");
        }
        assert!(Dialing::new(Duration::from_secs(1), Some(" "), None).unwrap().proxy.is_none());
    }
}
