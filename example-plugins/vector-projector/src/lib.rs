//! Job package `vector-projector`: an index of canonical documents, and a search in it.
//!
//! Two jobs, `index_documents` and `search`. The way of the data:
//!
//! ```text
//! email.jsonl, message.jsonl ─► input (lines) ─► document ─► embedding ─► index (SQLite: FTS5, vectors)
//!                                  └── projection: counts and events ──┘          │
//! words of a person ─► query ─────────────────────────────────────────────► search: hits
//! ```
//!
//! What is personal stays in the index, in the file of hits and in the run's log: events, traces and errors carry counts, places and
//! reasons.
#![forbid(unsafe_code)]

mod document;
mod embedding;
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
