//! Keeps several batches in flight in one stream.
//!
//! Talks to the destination and to the store, for the [`Deliverer`]. Guarantees that each batch is frozen before it is sent, that none is
//! sent twice over one connection, and that after an answer other than "landed" nothing more is sent over it.

use super::{Deliverer, StepError, slot};
use crate::delivery::{DeliveryError, Destination, Landed};

/// Approximate number of bytes in flight; below it, one more batch may start.
const BYTES: usize = 12 << 20;

impl<D: Destination> Deliverer<'_, D> {
    /// Whether to send the frozen batches one after the other without waiting for answers. Not while a batch is being split: a refused
    /// batch costs the batches after it their stream.
    pub(super) fn may_pipeline(&self) -> bool {
        let is_plain = |flight: &super::Flight| flight.batch.place.is_some() && flight.batch.was.is_none();
        let is_whole = self.batch_limit >= self.policy.rows;
        self.session.destination.depth() > 1 && is_whole && !self.one_by_one && self.flights.front().is_some_and(is_plain)
    }

    /// Sends batches up to the limit, and waits for the answer to the first one.
    pub(super) async fn pipeline(&mut self) -> Result<(), StepError> {
        // The previous future was dropped while waiting: the next answer may not belong to the first batch.
        if std::mem::replace(&mut self.is_waiting, true) {
            self.abandon_connection();
        }
        let done = if self.one_by_one { self.send_one().await } else { self.send_and_wait().await };
        self.is_waiting = false;
        done
    }

    async fn send_and_wait(&mut self) -> Result<(), StepError> {
        let depth = self.session.destination.depth();
        let is_full =
            |this: &Self| this.flights.len() >= depth || this.flights.iter().map(|flight| flight.size).sum::<usize>() >= BYTES;
        // Suspects come before rows that are not frozen yet.
        while self.has_more && !is_full(self) && !self.awaits_suspects()? {
            if !self.freeze(None).await? {
                break;
            }
        }
        let stream = self.flights.front().and_then(|flight| flight.stream().cloned());
        for at in 0..self.flights.len() {
            let Some(flight) = self.flights.get_mut(at).filter(|flight| flight.stream() == stream.as_ref()) else { break };
            let Some(slot) = slot(&flight.batch).filter(|_| !flight.sent) else { continue };
            match self.session.destination.send(slot, &flight.rows).await {
                // Until the answer arrives, the result is unknown: this future may be dropped.
                Ok(()) => (flight.sent, flight.fresh) = (true, false),
                // It was not sent, and is sent alone later.
                Err(DeliveryError::TooLarge(_)) if at > 0 => break,
                Err(refusal @ DeliveryError::TooLarge(_)) => return self.refused(refusal).await,
                Err(refusal) => {
                    flight.fresh = false;
                    self.abandon_connection();
                    return Err(StepError::Refused(refusal));
                }
            }
        }
        let Some(flight) = self.flights.front() else { return Ok(()) };
        let answer = self.session.destination.answer(&flight.rows).await;
        tracing::debug!(rows = flight.rows.len(), on_their_way = self.flights.len(), ok = answer.is_ok(), "batch answered");
        if answer == Ok(Landed::Now) {
            return self.landed().await;
        }
        self.abandon_connection();
        match answer {
            Ok(_) => self.overtaken().await,
            Err(refusal) => {
                let definite = !matches!(refusal, DeliveryError::Later { .. });
                if let Some(flight) = self.flights.front_mut() {
                    flight.fresh = definite;
                }
                self.refused(refusal).await
            }
        }
    }

    /// Abandons the connection; everything sent over it has an unknown result.
    fn abandon_connection(&mut self) {
        self.one_by_one = true;
        self.session.destination.hang_up();
        self.flights.iter_mut().for_each(|flight| flight.sent = false);
    }
}
