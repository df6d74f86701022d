//! The job `extract_gmail`: its parameters, and nothing else. [`extraction`] does the work.

use crate::extraction::{self, Origin, Request};
use crate::server::{Auth, Encryption, Server};
use crate::window::Window;
use lorchestra_plugin_api::prelude::*;

/// Extract mail from Gmail or another mail server over IMAP, a Google Takeout mbox file, or a Maildir.
///
/// Writes one JSON line a message into `mail/<account>.jsonl` of the package's data directory: sha256, message_id, date,
/// received, labels, flags, size, account, and the exact bytes as `raw` (text) or `raw_base64`. The sha256 of the bytes is
/// the key: running again adds nothing twice, and a run that was killed is completed by the next one.
///
/// Without `--source` mail is fetched from a server: `--user`, and `--password` or `--token`. It is only read there. How far
/// each folder was read is kept in `imap/<account>.json`, so that the next run fetches what is new.
///
/// `--since` and `--until` select by the message's own Date (half open); on a server by the server's, where it has none. A message
/// of which no date is known is taken, unless `--since` is given: then it is set aside, and counted as such.
///
/// What cannot be taken is named in an `extraction.set_aside` event; the rest goes on. Messages of more than 64 MiB are. What a server
/// refuses to hand out is tried once more by the next run.
#[job]
pub fn extract_gmail(
    cx: &JobContext,
    /// An unpacked Takeout file (`All mail Including Spam and Trash.mbox`), or a directory with `cur/` and `new/`.
    source: Option<PathBuf>,
    /// Whose mail it is; names the output file. Without it: `default`.
    account: Option<String>,
    /// Only messages dated at or after this time.
    since: Option<DateTime<Utc>>,
    /// Only messages dated before this time. Without it: before now; `extraction.completed` names mail dated in the future.
    until: Option<DateTime<Utc>>,
    /// The mail server.
    #[param(default = "imap.gmail.com")]
    host: String,
    /// Its port. Without it: 993, or 143 with `--tls starttls` and `plain`.
    port: Option<u16>,
    /// Who logs in: the mail address, mostly.
    user: Option<String>,
    /// Password of the mailbox; of Gmail an app password.
    password: Option<Secret>,
    /// OAuth 2 access token with the scope `https://mail.google.com/`.
    token: Option<Secret>,
    /// How to log in. Without it: as there is a password or a token.
    auth: Option<Auth>,
    /// A folder on the server; again for each. Without it: all mail but trash and junk.
    folder: Vec<String>,
    /// How the connection is encrypted.
    #[param(default = "tls")]
    tls: Encryption,
    /// Certificates (PEM) to trust beside the machine's own: a company's.
    ca_file: Option<PathBuf>,
    /// How long the server may say nothing.
    #[param(default = "1m")]
    patience: Duration,
) -> JobResult {
    let origin = match source {
        Some(_) if user.is_some() || password.is_some() || token.is_some() || !folder.is_empty() => {
            return Err("--source is a mailbox on this machine, and --user, --password, --token, --folder are for a server; give one of both")
                .permanent();
        }
        Some(path) => Origin::Path(path),
        None => {
            Origin::Server(Box::new(Server { host, port, tls, ca_file, user, auth, password, token, folders: folder, patience }))
        }
    };
    let data_dir = cx.data_dir()?;
    let request = Request {
        source: origin,
        account,
        window: Window { since, until },
        mail_dir: data_dir.join("mail"),
        bookmark_dir: data_dir.join("imap"),
    };
    match extraction::run(&request, cx) {
        Ok(()) => Ok(()),
        // What would fail again is not worth a retry.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}
