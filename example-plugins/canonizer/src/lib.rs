//! Job package `canonizer`: turns what ingester left into one canonical form.
//!
//! `canonicalize_email` makes JMAP's Email objects (RFC 8621, section 4) of mail, `canonicalize_message` one kind of chat
//! message of Slack's. The way of the data:
//!
//! ```text
//! mail/*.jsonl  ─► input (lines) ─► record (bytes, or gmail) ─► mime (parts) ─► email (JMAP) ─► output (email.jsonl)
//! slack/*.jsonl ─► input (lines) ─► slack (raw) ─► directory (names), mrkdwn ─► message ─► output (message.jsonl)
//!                     └────────────────── canonicalization: counts and events ──────────────────┘
//! ```
//!
//! What is personal stays in the files: events, traces and errors carry counts, places and reasons, never a subject, an
//! address or text of a message.
#![forbid(unsafe_code)]

mod canonicalization;
mod directory;
mod email;
mod email_job;
mod gmail;
mod input;
mod key;
mod kind;
mod message;
mod message_job;
mod mime;
mod output;
mod record;
mod slack;

pub use email_job::canonicalize_email;
pub use message_job::canonicalize_message;

lorchestra_plugin_api::plugin! { package = "canonizer", jobs = [canonicalize_email, canonicalize_message] }
