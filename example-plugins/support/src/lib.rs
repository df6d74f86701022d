//! What the example packages share, so that two of them never disagree: what a date field means, where a header begins, how HTML,
//! charsets and encoded words become text, and how a data directory is locked. A plain library; no plugin, no state, no events.
//!
//! Talks to nobody, but [`lock`] and [`atomic_file`] to the file system.
#![forbid(unsafe_code)]

pub mod atomic_file;
pub mod charset;
pub mod date;
pub mod encoded_word;
pub mod file_name;
pub mod header;
pub mod html;
pub mod lock;
pub mod parameters;
