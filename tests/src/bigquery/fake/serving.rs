//! Sockets: accepts connections, serves HTTP/1 (REST) or HTTP/2 (gRPC) on each, and drops connections on request: one by its [`Door`], or
//! all of them while the fake is down. Does not know any method.

use super::state::Shared;
use super::{grpc, rest};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Rest,
    Grpc,
}

/// Drops the connection of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Door(Arc<Notify>);

impl Door {
    /// Drops the connection. Never returns: the waiting task is dropped with it.
    pub(super) async fn slam(&self) {
        self.0.notify_one();
        std::future::pending().await
    }
}

/// Serves until the runtime ends. While `up` is false no port is listening and no connection is open.
pub(super) async fn serve(
    mut listener: Option<TcpListener>,
    address: SocketAddr,
    protocol: Protocol,
    shared: Arc<Shared>,
    mut up: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        if !*up.borrow() {
            // In this order: a client that is refused knows that no connection is left.
            connections.shutdown().await;
            drop(listener.take());
            if up.wait_for(|up| *up).await.is_err() {
                return;
            }
        }
        let listening = match &listener {
            Some(listening) => listening,
            None => listener.insert(bind_again(address)),
        };
        tokio::select! {
            changed = up.changed() => if changed.is_err() { return },
            accepted = listening.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(connection(stream, protocol, Arc::clone(&shared)));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A reserved port of 127.0.0.1, whether it is listening or not, so that another fake in the same test cannot get the port of one that is
/// down. Connections are refused while it is not listening.
#[derive(Debug)]
pub(super) struct Reserved {
    _socket: OwnedFd,
    address: SocketAddr,
}

impl Reserved {
    /// Reserves a port; 0 for any free one.
    pub(super) fn new(port: u16) -> io::Result<Self> {
        let socket = bound((Ipv4Addr::LOCALHOST, port).into())?;
        let address = rustix::net::getsockname(&socket)?.try_into()?;
        Ok(Self { _socket: socket, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A socket at an address that other sockets of this process may be bound to as well.
fn bound(address: SocketAddr) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    set_socket_reuseaddr(&socket, true)?;
    set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// Listens at the address of a [`Reserved`] port.
pub(super) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = bound(address)?;
    rustix::net::listen(&socket, 1024)?;
    Ok(socket.into())
}

fn bind_again(address: SocketAddr) -> TcpListener {
    listen(address).and_then(TcpListener::from_std).expect("the port is kept for this")
}

async fn connection(stream: TcpStream, protocol: Protocol, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let door = Door::default();
    let slammed = Arc::clone(&door.0);
    let io = TokioIo::new(stream);
    // Errors are the client's: it disconnected, or used another protocol.
    let served = async {
        match protocol {
            Protocol::Rest => {
                let service = service_fn(|request| rest::serve(Arc::clone(&shared), door.clone(), request));
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            }
            Protocol::Grpc => {
                let service = service_fn(|request| grpc::serve(Arc::clone(&shared), door.clone(), request));
                let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // As large as the largest request, so that benches do not measure the window.
                let window = 16 * 1024 * 1024;
                server.initial_stream_window_size(window).initial_connection_window_size(window).max_frame_size(1024 * 1024);
                let _ = server.serve_connection(io, service).await;
            }
        }
    };
    tokio::select! {
        () = served => {}
        () = slammed.notified() => {}
    }
    Ok(())
}
