//! The life of a run, from its plan to its recorded end.
//!
//! [`launch`] takes a [`RunSpec`](crate::plan::RunSpec) and does everything up to the last flush, reporting one stream of
//! [`event::RunEvent`]s. [`supervisor`] runs attempts in the process a person started; [`worker`] is the child that loads the library; [`recovery`] closes
//! what a dead supervisor left open. The supervisor calls recovery before its own run; recovery imports nothing of the supervisor. What both need is here: [`decision`]
//! (evidence to outcome), `ending` (the terminal event), [`intake`] (spool to store), `note` (what the supervisor saw), `traces`
//! (what a run has on disk), `resume` (a stopped supervisor), and [`log`] (what jobs print).

pub mod decision;
pub(crate) mod ending;
pub mod error;
pub mod event;
pub mod intake;
pub mod launch;
pub mod log;
pub(crate) mod note;
pub mod recovery;
pub(crate) mod resume;
pub mod supervisor;
pub(crate) mod traces;
pub mod worker;
