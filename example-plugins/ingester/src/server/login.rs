//! From a socket to a session: greeting, STARTTLS, authentication.

use super::error::reply;
use super::link::{Budget, Link};
use super::tls::Stream;
use super::tolerant::{Losses, Tolerant};
use super::{Auth, Encryption, Server, ServerError};
use imap::{Authenticator, Client, Session};
use lorchestra_plugin_api::Secret;
use rustls::ClientConfig;
use std::cell::Cell;
use std::io::{Read, Write};
use std::sync::Arc;

/// Maximum length of a line before the login, in bytes.
const LINE: usize = 8 << 10;

/// Credentials.
pub(crate) struct Credentials {
    pub(crate) user: String,
    auth: Auth,
    secret: Secret,
}

impl Credentials {
    /// Derives the credentials from the parameters, some of which are optional.
    pub(crate) fn of(server: &Server) -> Result<Self, ServerError> {
        let Some(user) = server.user.clone().filter(|user| !user.is_empty()) else {
            let hint = "set it to the mail address to log in with, or set --source to a local mailbox";
            return Err(ServerError::Missing { what: "user", hint });
        };
        let auth = match (server.auth, &server.password, &server.token) {
            (Some(auth), ..) => auth,
            (None, Some(_), Some(_)) => return Err(ServerError::TwoSecrets),
            (None, None, Some(_)) => Auth::Xoauth2,
            (None, ..) => Auth::Password,
        };
        let (secret, what, hint) = match auth {
            Auth::Password => {
                (&server.password, "password", "set its source, for example --password file:PATH (for Gmail, an app password)")
            }
            Auth::Xoauth2 => (&server.token, "token", "set its source, for example --token env:NAME"),
        };
        let secret = secret.clone().ok_or(ServerError::Missing { what, hint })?;
        Ok(Self { user, auth, secret })
    }
}

/// Reads the greeting and logs in. Also returns what the session will not be able to parse.
pub(crate) fn log_in<'a>(
    link: Link<'a>,
    server: &Server,
    config: Option<Arc<ClientConfig>>,
    credentials: &Credentials,
    budget: &Budget,
) -> Result<(Session<Tolerant<Stream<'a>>>, Losses), ServerError> {
    let place = server.place();
    let mut stream = match (config, server.tls) {
        (Some(config), Encryption::Starttls) => start_tls(link, &server.host, &place, config)?,
        (Some(config), _) => {
            let mut stream = Stream::secure(link, &server.host, &place, config)?;
            greeting(&mut stream, &place)?;
            stream
        }
        (None, _) => {
            let mut stream = Stream::Plain(link);
            greeting(&mut stream, &place)?;
            stream
        }
    };
    stream.flush().map_err(|e| ServerError::from_io(&place, "the greeting", e))?;
    budget.allow(0);
    let losses = Losses::default();
    let mut client = Client::new(Tolerant::new(stream, losses.clone()));
    let capabilities = client.capabilities().map_err(|e| ServerError::from_imap(&place, "the greeting", e))?;
    let offers = |name: &str| capabilities.has_str(name);
    let denied = |error: imap::Error, hint| denied(&place, error, credentials.auth, hint);
    let session = match credentials.auth {
        Auth::Password if offers("LOGINDISABLED") => Err(ServerError::NoPasswords { place: place.clone() }),
        Auth::Password => client.login(&credentials.user, credentials.secret.expose()).map_err(|(error, _)| {
            denied(
                error,
                if server.host.ends_with("gmail.com") {
                    "; Gmail requires an app password, not the account's password"
                } else {
                    ""
                },
            )
        }),
        Auth::Xoauth2 if !offers("AUTH=XOAUTH2") => Err(ServerError::NoXoauth2 { place: place.clone() }),
        Auth::Xoauth2 => {
            let exchange = Exchange { credentials, answered: Cell::new(false) };
            let hint = "; most access tokens expire after an hour";
            client.authenticate("XOAUTH2", &exchange).map_err(|(error, _)| denied(error, hint))
        }
    };
    Ok((session?, losses))
}

/// Answers XOAUTH2's challenge, and then the server's error report with an empty line, as the protocol requires.
struct Exchange<'a> {
    credentials: &'a Credentials,
    answered: Cell<bool>,
}

impl Authenticator for Exchange<'_> {
    type Response = String;

    fn process(&self, _challenge: &[u8]) -> String {
        if self.answered.replace(true) {
            return String::new();
        }
        format!("user={}\x01auth=Bearer {}\x01\x01", self.credentials.user, self.credentials.secret.expose())
    }
}

/// Classifies a failed login.
fn denied(place: &str, error: imap::Error, auth: Auth, hint: &'static str) -> ServerError {
    let secret = match auth {
        Auth::Password => "password",
        Auth::Xoauth2 => "token",
    };
    match error {
        imap::Error::No(no) => {
            let words = no.information.to_ascii_uppercase();
            let place = place.to_owned();
            let reply = reply(&no.information);
            // Not an authentication failure: RFC 5530 codes, and Gmail's response to too many connections.
            let later = ["UNAVAILABLE", "INUSE", "SERVERBUG", "LIMIT", "TOO MANY", "TEMPORAR", "TRY AGAIN"];
            if later.iter().any(|word| words.contains(word)) {
                return ServerError::Busy { place, reply };
            }
            ServerError::Denied { place, reply, secret, hint }
        }
        // Characters such as line breaks, which no server accepts.
        imap::Error::Validate(_) => ServerError::Denied {
            place: place.to_owned(),
            reply: "it contains characters that cannot be sent".into(),
            secret,
            hint,
        },
        error => ServerError::from_imap(place, "the login", error),
    }
}

fn start_tls<'a>(mut link: Link<'a>, host: &str, place: &str, config: Arc<ClientConfig>) -> Result<Stream<'a>, ServerError> {
    greeting(&mut link, place)?;
    let io = |e| ServerError::from_io(place, "STARTTLS", e);
    link.write_all(b"s STARTTLS\r\n").and_then(|()| link.flush()).map_err(io)?;
    loop {
        let line = line(&mut link, place, "STARTTLS")?;
        if line.starts_with("s OK") {
            // Bytes were read one at a time, so nothing sent before the handshake can be mistaken for data after it.
            return Stream::secure(link, host, place, config);
        }
        if !line.starts_with("* ") {
            return Err(ServerError::NoStartTls { place: place.to_owned() });
        }
    }
}

fn greeting(stream: &mut impl Read, place: &str) -> Result<(), ServerError> {
    let line = line(stream, place, "the greeting")?;
    let place = place.to_owned();
    if line.starts_with("* OK") {
        Ok(())
    } else if let Some(words) = line.strip_prefix("* BYE") {
        Err(ServerError::Busy { place, reply: reply(words.trim()) })
    } else {
        let reply = if line.trim().is_empty() { String::new() } else { format!(" (its greeting: {:?})", reply(&line)) };
        Err(ServerError::NotImap { place, reply })
    }
}

/// Reads a line byte by byte, so that bytes after it stay in the socket.
fn line(stream: &mut impl Read, place: &str, doing: &'static str) -> Result<String, ServerError> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') && line.len() < LINE {
        match stream.read(&mut byte) {
            Ok(0) => return Err(ServerError::Closed { place: place.to_owned(), doing }),
            Ok(_) => line.push(byte[0]),
            Err(error) => return Err(ServerError::from_io(place, doing, error)),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
