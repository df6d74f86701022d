//! A mail server (IMAP): its parameters and the login. Owns the connection from the name lookup to the session. [`reading`]
//! fetches the messages.
//!
//! ```text
//! Server ─► link (socket: cancellation, timeout, byte limit) ─► tls ─► tolerant ─► login ─► session ─► folders ─► reading ◄─► bookmarks
//! ```
//!
//! The IMAP client is blocking. Cancellation, timeouts and the limit for endless responses are implemented in the stream that
//! it reads from.

mod bookmarks;
mod error;
mod folders;
mod left;
mod link;
mod login;
mod reading;
mod requests;
mod tls;
mod tolerant;
mod utf7;

pub(crate) use error::ServerError;
pub(crate) use reading::{Note, Reading};

use crate::window::Window;
use lorchestra_plugin_api::{JobContext, ParamEnum, Secret};
use std::path::PathBuf;
use std::time::Duration;

/// Login method.
#[derive(ParamEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// With `--password`, the password of the mailbox or an app password
    Password,
    /// With `--token`, an OAuth 2 access token of Google or Microsoft
    Xoauth2,
}

/// Encryption of the connection.
#[derive(ParamEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Implicit TLS (port 993)
    Tls,
    /// STARTTLS (port 143)
    Starttls,
    /// No encryption, allowed only for localhost
    Plain,
}

impl Encryption {
    fn port(self) -> u16 {
        match self {
            Self::Tls => 993,
            Self::Starttls | Self::Plain => 143,
        }
    }
}

/// A server, the login, and the folders to read.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) tls: Encryption,
    /// Additional trusted certificates (PEM).
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) user: Option<String>,
    /// Default: depends on which secret is set.
    pub(crate) auth: Option<Auth>,
    pub(crate) password: Option<Secret>,
    pub(crate) token: Option<Secret>,
    /// Empty means all mail, see [`folders`].
    pub(crate) folders: Vec<String>,
    /// Maximum time without data from the server.
    pub(crate) idle_timeout: Duration,
}

impl Server {
    /// Returns `host:port`.
    pub(crate) fn place(&self) -> String {
        let port = self.port();
        if self.host.contains(':') { format!("[{}]:{port}", self.host) } else { format!("{}:{port}", self.host) }
    }

    fn port(&self) -> u16 {
        self.port.unwrap_or_else(|| self.tls.port())
    }

    /// Connects, logs in, and selects the folders. Reads no messages yet.
    pub(crate) fn open<'a>(&self, cx: &'a JobContext, window: Window, bookmarks: PathBuf) -> Result<Reading<'a>, ServerError> {
        let credentials = login::Credentials::of(self)?;
        let roots = match self.tls {
            Encryption::Plain => None,
            Encryption::Tls | Encryption::Starttls => Some(tls::config(self.ca_file.as_deref())?),
        };
        let place = self.place();
        let local_only = self.tls == Encryption::Plain;
        let link = link::Link::connect(&self.host, self.port(), &place, local_only, self.idle_timeout, cx)?;
        let budget = link.budget();
        let (mut session, losses) = login::log_in(link, self, roots, &credentials, &budget)?;
        budget.allow(folders::MAX_LIST_SIZE);
        let folders::Chosen { folders, is_gmail, unreadable } = folders::choose(&mut session, &losses, &place, &self.folders)?;
        let mailbox = bookmarks::Mailbox { place: place.clone(), user: credentials.user.clone() };
        let requests = requests::Requests::new(session, losses, budget, place);
        let mut reading = Reading::new(requests, folders, is_gmail, window, bookmarks, mailbox);
        reading.note_unreadable(unreadable);
        Ok(reading)
    }
}

#[cfg(test)]
mod tests;
