//! Job package `python`: runs jobs of the Python lorchestra unchanged, as `def job(bq_client, **kwargs)` with `emit(...)`.
//!
//! Two jobs: `run` calls one function, `list` shows the entry points of a virtual environment. Data flow:
//!
//! ```text
//! run_job, list_job ─► interpreter (which Python) ─► bridge ◄── socket ──► bridge.py (a process) ─► the function
//!                                                      │  ▲
//!                                 JobContext::emit ◄───┘  └─ exception (classes and places)
//! ```
//!
//! `emit` in Python returns after `JobContext::emit` has returned here, so the event is as safe as one of a Rust job.
//!
//! The text of an exception may contain personal data. It is in the run's log; events and errors contain only classes and places
//! in the source.
#![forbid(unsafe_code)]

mod arguments;
mod bookmark;
mod bridge;
mod exception;
mod interpreter;
mod list_job;
mod run_job;

pub use list_job::list;
pub use run_job::run;

lorchestra_plugin_api::plugin! { package = "python", jobs = [run, list] }
