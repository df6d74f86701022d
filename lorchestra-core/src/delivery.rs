//! The way out: events of the store to [`Destination`]s, in frozen batches.
//!
//! [`deliverer`] has the order and the meaning of answers, [`destination`] what it asks of a destination, [`configured`] the enum of those
//! there are: [`bigquery`] and [`jsonl`]. [`policy`] has sizes and times, [`session`] what is known of a destination, [`live`] the threads in
//! which all this happens, one for each destination. Knows nothing of plugins or runs: it sees an outbox, a target, and a lock.

pub mod bigquery;
pub mod configured;
pub mod deliverer;
pub mod destination;
pub mod jsonl;
pub mod live;
pub mod policy;
pub mod session;

pub use crate::store::Row;
pub use configured::{AnyDestination, Deliveries, DestinationConfig};
pub use deliverer::{Deliverer, Progress, Stopped};
pub use destination::{BatchTarget, DeliveryError, Destination, Landed, RefusedRow, Slot};
pub use live::{FlushRequest, Incomplete, Live, Report, Resend};
pub use policy::DeliveryPolicy;
pub use session::Session;

#[cfg(test)]
mod tests;
