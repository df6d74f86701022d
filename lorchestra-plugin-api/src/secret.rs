//! [`Secret`], a parameter whose value must not leak: a token, a password, a key.
//!
//! The host resolves the value (environment, file, systemd credential), passes it with the call, and masks it in everything it
//! captures from the job.

use std::fmt;
use zeroize::Zeroizing;

/// A parameter whose value is never typed, shown or recorded.
///
/// The caller gives a source instead of the value: `--token env:NAME`, `file:PATH` or `credential:NAME` (systemd).
///
/// A `Secret` prints as `***`, does not implement `Serialize`, and is overwritten in memory when it is dropped.
/// [`expose`](Self::expose) is the only way to read the text, so searching for that name finds every use.
///
/// ```
/// use lorchestra_plugin_api::prelude::*;
///
/// /// Upload a file.
/// #[job]
/// fn upload(cx: &JobContext, token: Secret) -> JobResult {
///     let header = format!("Bearer {}", token.expose());
///     cx.emit("upload.started", json!({ "header_bytes": header.len() }))?;
///     assert_eq!(format!("{token} {token:?}"), "*** Secret(***)");
///     Ok(())
/// }
/// # use lorchestra_plugin_api::testing;
/// # fn main() {
/// testing::job::<upload>().secret("token", "hunter22").run().assert_ok().assert_keeps_secrets();
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Creates a secret from text. Meant for tests: a job receives its secrets as parameters.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Returns the secret text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
