//! Delivers events from the store to [`Destination`]s, in frozen batches.
//!
//! [`deliverer`] has the order of operations and the meaning of answers, [`destination`] the interface of a destination, [`configured`] the
//! enum of destination types: [`bigquery`], [`jsonl`] and [`openlineage`]. [`policy`] has sizes and times, [`session`] the state of a destination between
//! deliveries, [`live`] the delivery threads, one for each destination. Knows nothing about plugins or runs: it uses an outbox, a target,
//! and a lock.

pub mod bigquery;
pub mod configured;
pub mod deliverer;
pub mod destination;
pub mod jsonl;
pub mod live;
pub mod openlineage;
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
