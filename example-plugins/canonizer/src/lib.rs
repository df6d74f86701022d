//! Job package `canonizer`: converts the output of ingester to canonical schemas.
//!
//! `canonicalize_email` converts mail to JMAP Email objects (RFC 8621, section 4), `canonicalize_message` Slack messages to a chat
//! schema. Data flow:
//!
//! ```text
//! mail/*.jsonl  ─► input (lines) ─► record (bytes, or gmail) ─► mime (parts) ─► email (JMAP) ─► output (email.jsonl)
//!                                   └───────── several messages at once: parallel ─────────┘
//! slack/*.jsonl ─► input (lines) ─► slack (raw) ─► directory (names), mrkdwn ─► message ─► output (message.jsonl)
//!                     └────────────────── canonicalization: counts and events ──────────────────┘
//! ```
//!
//! Personal data stays in the files: events, traces and errors contain counts, positions and reasons, but never a subject, an
//! address or the text of a message.
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
mod parallel;
mod record;
mod slack;

pub use email_job::canonicalize_email;
pub use message_job::canonicalize_message;

lorchestra_plugin_api::plugin! { package = "canonizer", jobs = [canonicalize_email, canonicalize_message] }
