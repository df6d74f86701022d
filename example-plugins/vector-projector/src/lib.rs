//! Job package `vector-projector`: full-text and similarity search in canonical documents.
//!
//! Two jobs, `index_documents` and `search`. Data flow:
//!
//! ```text
//! email.jsonl, message.jsonl ─► input (lines) ─► document ─► embedding ─► index (SQLite: FTS5, vectors)
//!                                  └── projection: counts and events ──┘          │
//! query text ────────► query ─────────────────────────────────────────────► search: hits
//! ```
//!
//! Personal data stays in the index, in the file of hits and in the run's log: events, traces and errors contain only counts,
//! positions and reasons.
#![forbid(unsafe_code)]

mod calendar;
mod document;
mod embedding;
mod fold;
mod hits;
mod index;
mod index_job;
mod input;
mod projection;
mod query;
mod search_job;

pub use index_job::index_documents;
pub use search_job::search;

lorchestra_plugin_api::plugin! { package = "vector-projector", jobs = [index_documents, search] }
