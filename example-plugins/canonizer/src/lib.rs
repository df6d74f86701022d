//! Job package `canonizer`: turns what ingester left into one canonical form.
//!
//! One job so far, `canonicalize_email`, whose form is JMAP's Email object (RFC 8621,
//! section 4). The way of the data:
//!
//! ```text
//! mail/*.jsonl ─► input (lines) ─► record (bytes, checked) ─► mime (parts) ─► email (JMAP) ─► output (email.jsonl)
//!                    └───────────────── canonicalization: counts and events ─────────────────┘
//! ```
//!
//! What is personal stays in the files: events, traces and errors carry counts, places and reasons, never a subject, an
//! address or text of a message.
#![forbid(unsafe_code)]

mod canonicalization;
mod email;
mod email_job;
mod input;
mod key;
mod mime;
mod output;
mod record;

pub use email_job::canonicalize_email;

lorchestra_plugin_api::plugin! { package = "canonizer", jobs = [canonicalize_email] }
