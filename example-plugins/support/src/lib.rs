//! Code shared by the example packages, so that they agree on date fields, the start of headers, conversion of HTML, charsets
//! and encoded words to text, locking of data directories, and running other programs. A plain library: not a plugin, without
//! state and events.
//!
//! Only [`lock`], [`atomic_file`] and [`process`] have effects outside of the process.
#![forbid(unsafe_code)]

pub mod atomic_file;
pub mod charset;
pub mod date;
pub mod encoded_word;
pub mod file_name;
pub mod header;
pub mod html;
pub mod lines;
pub mod lock;
pub mod parameters;
pub mod process;
