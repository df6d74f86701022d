//! The life of a run, from its plan to its recorded end.
//!
//! [`launch`] takes a [`RunSpec`](crate::plan::RunSpec), does everything up to the last flush, and reports one stream of
//! [`event::RunEvent`]s. [`supervisor`] runs attempts in the process that the user started; [`worker`] is the child that loads the library;
//! [`recovery`] closes the runs of dead supervisors; [`claim`] decides which of several runs of one window counts. The supervisor calls recovery before its own run; recovery imports nothing from the
//! supervisor. Both use [`decision`] (evidence to outcome), `ending` (the terminal event), [`intake`] (spool to store), `note` (the
//! supervisor's observations), `traces` (a run's files), `resume` (a stopped supervisor), and [`log`] (what jobs print).

pub mod claim;
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
pub mod trace_context;
pub(crate) mod traces;
pub mod worker;
