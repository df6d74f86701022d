//! The job `extract_gmail`: its parameters. [`extraction`] does the work.

use crate::extraction::{self, Origin, Request};
use crate::server::{Auth, Encryption, Server};
use crate::window::Window;
use lorchestra_plugin_api::prelude::*;

/// Extract mail from Gmail or another mail server over IMAP, a Google Takeout mbox file, or a Maildir.
///
/// Writes one JSON line per message to `mail/<account>.jsonl` in the package's data directory: sha256, message_id, date,
/// received, labels, flags, size, account, and the exact bytes as `raw` (text) or `raw_base64`. The sha256 of the bytes is
/// the key: running the job again adds no duplicates, and the next run completes a killed one.
///
/// Without `--source`, the job reads mail from a server with `--user` and `--password` or `--token`, and changes nothing
/// there. It stores its position in each folder in `imap/<account>.json`, so that the next run fetches only new mail.
///
/// `--since` and `--until` select messages by their Date header (`--since` inclusive, `--until` exclusive). A message from a server
/// without a valid Date uses the server's date. A message without any date is extracted unless `--since` is set; then it is
/// set aside.
///
/// A message that cannot be extracted, for example one larger than 64 MiB, is reported in an `extraction.set_aside` event, and
/// the job continues. The next run retries once what the server refused to send.
#[job]
pub fn extract_gmail(
    cx: &JobContext,
    /// Local mailbox: an unpacked Takeout file (`All mail Including Spam and Trash.mbox`) or a Maildir (`cur/`, `new/`)
    source: Option<PathBuf>,
    /// Account name, used for the output file [default: `default`]
    account: Option<String>,
    /// Extract only messages dated at or after this time
    since: Option<DateTime<Utc>>,
    /// Extract only messages dated before this time [default: now; `extraction.completed` counts mail dated in the future]
    until: Option<DateTime<Utc>>,
    /// Mail server
    #[param(default = "imap.gmail.com")]
    host: String,
    /// Port of the mail server [default: 993, or 143 with `--tls starttls` or `plain`]
    port: Option<u16>,
    /// User name for the login, usually the mail address
    user: Option<String>,
    /// Password of the mailbox (for Gmail, an app password)
    password: Option<Secret>,
    /// OAuth 2 access token with the scope `https://mail.google.com/`
    token: Option<Secret>,
    /// Login method [default: depends on whether a password or a token is set]
    auth: Option<Auth>,
    /// Folder to read (repeatable) [default: all mail except trash and junk]
    folder: Vec<String>,
    /// Encryption of the connection
    #[param(default = "tls")]
    tls: Encryption,
    /// Additional root certificates (PEM), for example a company's
    ca_file: Option<PathBuf>,
    /// Give up when the server sends nothing for this long
    #[param(default = "1m")]
    idle_timeout: Duration,
) -> JobResult {
    let origin = match source {
        Some(_) if user.is_some() || password.is_some() || token.is_some() || !folder.is_empty() => {
            return Err("--source reads a local mailbox, but --user, --password, --token and --folder read from a server; remove one side")
                .permanent();
        }
        Some(path) => Origin::Path(path),
        None => Origin::Server(Box::new(Server {
            host,
            port,
            tls,
            ca_file,
            user,
            auth,
            password,
            token,
            folders: folder,
            idle_timeout,
        })),
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
        // Retrying would fail in the same way.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}
