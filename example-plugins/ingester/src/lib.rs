//! Job package `ingester`: takes personal data out of where it lies, and leaves it as JSON Lines in the package's data
//! directory.
//!
//! Two jobs: `extract_gmail` in `gmail`, `extract_slack` in `slack`. The way of the data, of mail:
//!
//! ```text
//! mbox file | Maildir | mail server ─► source ─► message (header fields) ─► window ─► archive (mail/<account>.jsonl)
//!                                         └──────────── extraction: counts and events ───────────┘
//! ```
//!
//! Messages of Slack go the same way: `slack::export` ─► `slack::found` ─► `slack::collection` ─► archive (`slack/<account>.jsonl`).
//!
//! What is personal stays in the archive: events, traces and errors carry counts, places and reasons, never a subject, an
//! address or text of a message.
#![forbid(unsafe_code)]

mod account;
mod archive;
mod extraction;
mod gmail;
mod key;
mod message;
mod roots;
mod server;
mod slack;
mod source;
mod window;

pub use gmail::extract_gmail;
pub use slack::extract_slack;

lorchestra_plugin_api::plugin! { package = "ingester", jobs = [extract_gmail, extract_slack] }
