//! Several batches on their way in one stream.
//!
//! Talks to the destination and to the store, for the [`Deliverer`]. Promises that each batch is frozen before it is sent, that none is sent
//! twice over one connection, and that after an answer other than "landed" nothing is sent over it any more.

use super::{Deliverer, StepError, slot};
use crate::delivery::{DeliveryError, Destination, Landed};

/// Bytes on their way, about: one more batch may begin below it.
const BYTES: usize = 12 << 20;

impl<D: Destination> Deliverer<'_, D> {
    /// Whether the batches that are frozen go out one after the other, without waiting for answers. Not while a batch is being split: what
    /// is behind one that is refused costs its stream.
    pub(super) fn may_pipeline(&self) -> bool {
        let is_plain = |flight: &super::Flight| flight.batch.place.is_some() && flight.batch.was.is_none();
        let is_whole = self.batch_limit >= self.policy.rows;
        self.session.destination.depth() > 1 && is_whole && !self.one_by_one && self.flights.front().is_some_and(is_plain)
    }

    /// Sends what may be on its way, and waits for the answer to the first batch.
    pub(super) async fn pipeline(&mut self) -> Result<(), StepError> {
        // The future that waited last was dropped: what is answered next is not known to belong to the first batch.
        if std::mem::replace(&mut self.is_waiting, true) {
            self.fall_out_of_step();
        }
        let done = if self.one_by_one { self.send_one().await } else { self.send_and_wait().await };
        self.is_waiting = false;
        done
    }

    async fn send_and_wait(&mut self) -> Result<(), StepError> {
        let depth = self.session.destination.depth();
        let is_full =
            |this: &Self| this.flights.len() >= depth || this.flights.iter().map(|flight| flight.size).sum::<usize>() >= BYTES;
        // Suspects come before what is not frozen yet.
        while self.has_more && !is_full(self) && self.store.suspect(0)?.is_none() {
            if !self.freeze(None).await? {
                break;
            }
        }
        let stream = self.flights.front().and_then(|flight| flight.stream().cloned());
        for at in 0..self.flights.len() {
            let Some(flight) = self.flights.get_mut(at).filter(|flight| flight.stream() == stream.as_ref()) else { break };
            let Some(slot) = slot(&flight.batch).filter(|_| !flight.sent) else { continue };
            match self.session.destination.send(slot, &flight.rows).await {
                // Until the answer is here, its fate is unknown: this future may be dropped.
                Ok(()) => (flight.sent, flight.fresh) = (true, false),
                // It was not sent, and waits for its turn.
                Err(DeliveryError::TooLarge(_)) if at > 0 => break,
                Err(refusal @ DeliveryError::TooLarge(_)) => return self.refused(refusal).await,
                Err(refusal) => {
                    flight.fresh = false;
                    self.fall_out_of_step();
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
        self.fall_out_of_step();
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

    /// The connection is given up; what was sent over it is of unknown fate.
    fn fall_out_of_step(&mut self) {
        self.one_by_one = true;
        self.session.destination.hang_up();
        self.flights.iter_mut().for_each(|flight| flight.sent = false);
    }
}
