//! Job package `ingester`: extracts personal mail and chat messages to JSON Lines files in the package's data directory.
//!
//! Two jobs: `extract_gmail` in `gmail`, `extract_slack` in `slack`. Data flow for mail:
//!
//! ```text
//! mbox file | Maildir | mail server ─► source ─► message (header fields) ─► window ─► archive (mail/<account>.jsonl)
//!                                         └──────────── extraction: counts and events ───────────┘
//! ```
//!
//! Data flow for Slack messages: `slack::export` ─► `slack::found` ─► `slack::collection` ─► archive (`slack/<account>.jsonl`).
//!
//! Personal data stays in the archive: events, traces and errors contain counts, positions and reasons, but never a subject, an
//! address or the text of a message.
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
