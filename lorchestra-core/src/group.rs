//! Many runs as one: a backfill, or a group file. Owns which member runs when ([`drive`]) and in which process ([`pool`]).
//!
//! ```text
//! lorchestra backfill ── drive ── pool ─┬─ pipe ─► lane process ─► supervisor ─► worker     one member at a time
//!         │                             └─ pipe ─► lane process ─► supervisor ─► worker
//!         └─ delivery and retention, once for all
//! ```
//!
//! The store has the plan ([`crate::store::group`]). A lane is a process that supervises one run at a time, exactly as `run-job` does, and
//! several in succession: everything that a supervisor owns process-wide (signals, orphans, its identity in the store) belongs to one run at
//! any moment. What `run-job` does around a run is done once by the process that drives the group.
//!
//! Guarantees, whatever is killed at whatever moment:
//!
//! - A member that has completed is not run again, and no two runs of one member overlap: one id is one run (`run-job --run-id`), and the
//!   overlap lock of its window is held from before the run is recorded until after its end is.
//! - If the driving process is killed, each lane finishes the run that it supervises, finds that its pipe is closed, and exits.
//! - If a lane is killed, its worker dies with it; the run is closed as `abandoned`, and counts as a failure of its member.

pub mod drive;
pub mod interrupt;
pub mod order;
pub mod plan_file;
pub mod pool;
