//! The way out: events of the store to a [`Destination`], in frozen batches.
//!
//! [`deliverer`] has the order and the meaning of answers, [`destination`] what it asks of a destination,
//! [`bigquery`] the one for production, [`policy`] sizes and times, [`session`] what is known of a destination, [`live`] the thread in
//! which all this happens. Knows nothing of plugins or runs: it sees a store, a table, and a lock.

pub mod bigquery;
pub mod deliverer;
pub mod destination;
pub mod live;
pub mod policy;
pub mod session;

pub use deliverer::{Deliverer, Progress, Stopped};
pub use destination::{Destination, Landed, Place, Refusal, RefusedRow, Row};
pub use live::{Live, Report, Request, Resend, Trouble};
pub use policy::Policy;
pub use session::Session;

#[cfg(test)]
mod tests;
