//! A text that must not get out: a token, a password, a key.
//!
//! Owns the author's side of it. The host finds the value (environment, file, systemd credential), hands it over with the call, and
//! masks it wherever it captures what the job says.

use std::fmt;
use zeroize::Zeroizing;

/// A parameter whose value is never typed, shown or recorded. What is typed is where it is to be found (`env:NAME`, `file:PATH`,
/// `credential:NAME`).
///
/// It prints as `***`, cannot be serialised, and is overwritten in memory when it is dropped. [`expose`](Self::expose) is the one way
/// to its text, so that a search for that word finds every use.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A secret of this text: for tests. In a job it comes in as a parameter.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text.
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
