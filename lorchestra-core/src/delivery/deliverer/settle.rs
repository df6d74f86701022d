//! Determines whether a batch with an unknown result arrived: first whether it is in its stream, and otherwise whether its rows are in the
//! target.
//!
//! Talks to the destination and to the store, for the [`Deliverer`]. Guarantees that such a batch is taken back only when nothing of it can
//! arrive any more: its stream was fenced, or something else is at its position. Only a row count, or an answer that the stream is gone or
//! finalized, counts as a fence. As long as the server answers otherwise, the batch stays frozen, and delivery retries.
//!
//! If something is at the position of the batch, the table is queried. Without permission, the evidence is weaker, and the batch counts as
//! delivered only if all of this holds; otherwise it is uncertain:
//! - the fenced stream ends where one of our batches ends. Another writer has usually written more or less than that;
//! - the stream was created since this host was booted. Otherwise the disk may have been cloned since, and both clones write to the stream.
//!
//! Limit: rows of another writer are mistaken for ours if querying is not permitted, and the state directory was copied while the host was
//! running (a snapshot of a volume, without a change of inode and birth time), and both copies have then sent batches of the same length to
//! the same position, and the result of ours is unknown. The permission to query removes it.

use super::flight::slot;
use super::{Deliverer, STREAMS, STUMBLES, StepError};
use crate::delivery::{DeliveryError, Destination, Slot};
use crate::store::{RowDisposition, Was};
use std::collections::HashSet;

pub(super) const ANOTHER: &str = "other rows are at its position in the stream";

/// A stream that accepts no more rows.
#[derive(Debug, Clone)]
pub(super) enum Fenced {
    /// It exists and has this length.
    Length(i64),
    /// It does not exist.
    Gone(String),
}

impl<D: Destination> Deliverer<'_, D> {
    /// Closes the stream of the batch permanently.
    async fn fence(&mut self) -> Result<Option<Fenced>, StepError> {
        let Some(flight) = self.flights.front_mut() else { return Ok(None) };
        let Some(slot) = slot(&flight.batch) else { return Ok(None) };
        if let Some((_, fenced)) = self.fenced.as_ref().filter(|(stream, _)| stream == slot.stream) {
            return Ok(Some(fenced.clone()));
        }
        self.store.close_stream(&flight.batch.target, slot.stream)?;
        let fenced = match self.session.destination.finalize(slot, &flight.rows).await {
            Ok(length) => Fenced::Length(length),
            Err(DeliveryError::StreamGone(gone)) => Fenced::Gone(gone),
            // The answer to the batch was that the stream is finalized. That is a fence, without a row count.
            Err(DeliveryError::Precondition(reason)) if flight.finalized && flight.fence_refusals + 1 >= STUMBLES => {
                Fenced::Gone(reason)
            }
            Err(DeliveryError::Precondition(reason)) => {
                flight.fence_refusals += 1;
                let reason = format!("the stream of an unconfirmed batch cannot be closed: {reason}");
                return Err(StepError::Refused(DeliveryError::Precondition(reason)));
            }
            Err(refusal) => return Err(StepError::Refused(refusal)),
        };
        self.fenced = Some((slot.stream.to_owned(), fenced.clone()));
        Ok(Some(fenced))
    }

    /// Fences, if possible, a stream in which a batch is missing. If other batches with an unknown result follow, the fence is required.
    pub(super) async fn fence_damaged(&mut self) -> Result<(), StepError> {
        if self.flights.len() > 1 {
            return self.fence().await.map(drop);
        }
        let Some(flight) = self.flights.front() else { return Ok(()) };
        if let Some(slot) = slot(&flight.batch) {
            self.store.close_stream(&flight.batch.target, slot.stream)?;
            // Whatever is at its position is not ours to complete.
            let _ = self.session.destination.finalize(Slot { length: 0, ..slot }, &[]).await;
        }
        Ok(())
    }

    /// Handles a batch that was never sent although something is at its position: this state is older than its deliveries (a snapshot of
    /// the machine was restored), or another store has the same stream.
    pub(super) async fn overtaken(&mut self) -> Result<(), StepError> {
        self.doubt()?;
        self.settle_by_query(ANOTHER).await
    }

    /// Fences the stream, determines whether the batch is in it, and leaves the stream.
    pub(super) async fn settle(&mut self) -> Result<(), StepError> {
        if self.clear_place().await? {
            return self.leave_and_take_back(Vec::new());
        }
        Ok(())
    }

    /// Does the same for a stream that was finalized. If this store has not begun to do so, another one has: the state is older than its
    /// deliveries.
    pub(super) async fn settle_finalized(&mut self) -> Result<(), StepError> {
        let front = self.flights.front().and_then(|flight| Some((flight.batch.target.clone(), flight.stream()?.clone())));
        if let Some((target, stream)) = front
            && self.store.is_open(&target, &stream)?
        {
            self.doubt()?;
        }
        if let Some(flight) = self.flights.front_mut() {
            flight.finalized = true;
        }
        self.settle().await
    }

    /// Does the same for a batch that follows one whose stream was fenced.
    pub(super) async fn settle_behind(&mut self) -> Result<(), StepError> {
        if self.clear_place().await? {
            self.rewind();
            return self.take_back(Vec::new(), self.batch_limit, "its stream was left");
        }
        Ok(())
    }

    /// Ensures that nothing of the batch is at its position or can still arrive there. Returns `false` if the batch was there, or its rows
    /// are in the target; then that is recorded.
    pub(super) async fn clear_place(&mut self) -> Result<bool, StepError> {
        let Some(flight) = self.flights.front() else { return Ok(false) };
        if flight.batch.place.is_none() || flight.fresh && self.flights.len() == 1 {
            return Ok(true);
        }
        self.clear_unknown().await
    }

    /// Like [`clear_place`](Self::clear_place), and fences the stream for it, for a batch that is not fresh or is followed by others with
    /// an unknown result.
    pub(super) async fn clear_unknown(&mut self) -> Result<bool, StepError> {
        let fenced = match self.fence().await {
            Ok(Some(fenced)) => fenced,
            Ok(None) => return Ok(true),
            // Nothing of it is in flight, so nothing can land later: the stream is left as it is.
            Err(StepError::Refused(DeliveryError::Precondition(_))) if self.is_unsent_and_unclosable() => {
                if let Some(flight) = self.flights.front() {
                    self.store.leave_stream(&flight.batch.target)?;
                }
                return Ok(true);
            }
            Err(trouble) => return Err(trouble),
        };
        if self.is_ahead(&fenced) {
            self.doubt()?;
        }
        let doubtful = self.is_doubtful()?;
        let Some(flight) = self.flights.front() else { return Ok(false) };
        match fenced {
            // Every request for it was definitely refused: the data at its position belongs to another writer.
            _ if flight.fresh => {
                self.store.leave_stream(&flight.batch.target)?;
                Ok(true)
            }
            Fenced::Length(length) if length >= flight.end() => self.confirm().await.map(|()| false),
            // The other store may have taken it back from here and sent it to another stream.
            Fenced::Length(_) if doubtful => {
                self.clear_by_query("the state directory or the machine was copied or restored").await
            }
            Fenced::Length(_) => {
                self.store.leave_stream(&flight.batch.target)?;
                Ok(true)
            }
            Fenced::Gone(gone) => self.clear_by_query(&gone).await,
        }
    }

    /// The batch is the only one, nothing of it is in flight, and the server has refused several times to close its stream.
    fn is_unsent_and_unclosable(&self) -> bool {
        self.flights.len() == 1 && self.flights.front().is_some_and(|flight| flight.fresh && flight.fence_refusals >= STUMBLES)
    }

    /// Whether the stream has rows that this store has not sent: it does not end where a batch ends (all of a batch arrives, or nothing), or
    /// ends after the last one.
    fn is_ahead(&self, fenced: &Fenced) -> bool {
        let (Some(first), Fenced::Length(length)) = (self.flights.front(), fenced) else { return false };
        if first.fresh {
            return *length > first.offset();
        }
        let ends = || self.flights.iter().filter(|flight| flight.stream() == first.stream()).map(super::Flight::end);
        let is_ours = first.batch.target == self.session.destination.name();
        let is_after = ends().all(|end| *length > end);
        let is_inside = *length > first.offset() && !is_after && ends().all(|end| *length != end);
        is_inside || is_ours && is_after
    }

    fn is_doubtful(&mut self) -> Result<bool, StepError> {
        let to = self.doubtful_to()?;
        Ok(self.flights.front().is_some_and(|flight| flight.batch.first <= to))
    }

    /// The server answers that something is at the position of a batch with an unknown result: looks up its rows. If that is not permitted,
    /// fences the stream for other evidence.
    pub(super) async fn landed_before(&mut self) -> Result<(), StepError> {
        let Some(flight) = self.flights.front() else { return Ok(()) };
        match self.session.destination.present(&flight.rows).await {
            Ok(there) if flight.rows.iter().all(|row| there.contains(&row.event_id)) => self.landed().await,
            Ok(_) => self.settle_by_query(ANOTHER).await,
            Err(DeliveryError::Denied(_) | DeliveryError::Forbidden(_)) => self.settle().await,
            Err(other) => Err(StepError::Refused(other)),
        }
    }

    /// Something is at the position of a batch with an unknown result, and its stream was fenced: looks up its rows. If that is not
    /// permitted, the batch counts as delivered unless another store may have written there.
    async fn confirm(&mut self) -> Result<(), StepError> {
        let doubtful = self.is_doubtful()?;
        let Some(flight) = self.flights.front() else { return Ok(()) };
        let is_proven = self.session.destination.compares() || self.store.is_from_this_boot(&flight.batch);
        let denied = if flight.batch.target == self.session.destination.name() {
            match self.session.destination.present(&flight.rows).await {
                Ok(there) if flight.rows.iter().all(|row| there.contains(&row.event_id)) => None,
                Ok(_) => return self.settle_by_query(ANOTHER).await,
                Err(DeliveryError::Denied(denied) | DeliveryError::Forbidden(denied)) => Some(denied),
                Err(other) => return Err(StepError::Refused(other)),
            }
        } else {
            Some(format!("{} is no longer the configured target", flight.batch.target))
        };
        match denied {
            Some(denied) if doubtful || !is_proven => {
                return self.give_up(&format!("{ANOTHER}, or it has arrived; the destination cannot be queried: {denied}"));
            }
            _ => self.store.leave_stream(&flight.batch.target)?,
        }
        self.landed().await
    }

    /// Queries the target for the rows that are there. Leaves the stream, and takes the batch back.
    pub(super) async fn settle_by_query(&mut self, why: &str) -> Result<(), StepError> {
        if self.clear_by_query(why).await? { self.leave_and_take_back(Vec::new()) } else { Ok(()) }
    }

    /// Like [`clear_place`](Self::clear_place), by a query of the target. Leaves the stream.
    async fn clear_by_query(&mut self, why: &str) -> Result<bool, StepError> {
        let Some(flight) = self.flights.front() else { return Ok(false) };
        // Another target than the one that the batch was sent to knows nothing about it.
        if flight.batch.target != self.session.destination.name() {
            let target = flight.batch.target.clone();
            self.give_up(&format!("{why}; {target}, where it was sent, is no longer the configured target"))?;
            return Ok(false);
        }
        let there = match self.session.destination.present(&flight.rows).await {
            Ok(there) => there,
            Err(DeliveryError::Denied(denied) | DeliveryError::Forbidden(denied)) => {
                self.give_up(&format!("{why}; the destination cannot be queried for it: {denied}"))?;
                return Ok(false);
            }
            // A retry may succeed.
            Err(other) => return Err(StepError::Refused(other)),
        };
        if there.is_empty() {
            // The caller may have to split it.
            self.store.leave_stream(&flight.batch.target)?;
            return Ok(true);
        }
        self.leave_with(&there)?;
        Ok(false)
    }

    fn leave_with(&mut self, there: &HashSet<String>) -> Result<(), StepError> {
        let Some(flight) = self.flights.front() else { return Ok(()) };
        let present: Vec<_> = flight
            .numbers
            .iter()
            .zip(&flight.rows)
            .filter(|(_, row)| there.contains(&row.event_id))
            .map(|(n, _)| (*n, RowDisposition::Present))
            .collect();
        self.progress.delivered += present.len() as u64;
        self.leave_and_take_back(present)
    }

    pub(super) fn leave_and_take_back(&mut self, settled: Vec<(i64, RowDisposition)>) -> Result<(), StepError> {
        self.rewind();
        if let Some(flight) = self.flights.front() {
            self.store.leave_stream(&flight.batch.target)?;
            if flight.stream() != self.left_stream.as_ref() {
                // The next stream may fail too, for a reason of its own.
                self.renewed = false;
                self.left_stream = flight.stream().cloned();
                self.left += 1;
            }
        }
        self.take_back(settled, self.batch_limit, "its stream was gone")?;
        if self.left > STREAMS {
            // Creating streams has a cost, and this server accepts none.
            return Err(StepError::Refused(DeliveryError::Later {
                reason: "it refuses every new stream".into(),
                after: None,
                perhaps_request: false,
            }));
        }
        Ok(())
    }

    pub(super) fn give_up(&mut self, reason: &str) -> Result<(), StepError> {
        if let Some(flight) = self.flights.pop_front() {
            self.store.leave_stream(&flight.batch.target)?;
            self.store.give_up(&flight.batch, reason)?;
            self.progress.uncertain += flight.rows.len() as u64;
        }
        Ok(())
    }

    /// Settles a batch that was frozen for another target, or for the other write method, before the configuration changed.
    pub(super) async fn settle_elsewhere(&mut self) -> Result<(), StepError> {
        let Some(flight) = self.flights.front() else { return Ok(()) };
        if flight.batch.place.is_some() {
            return match self.clear_unknown().await {
                Ok(true) => self.leave_and_take_back(Vec::new()),
                Err(StepError::Refused(refusal))
                    if !matches!(refusal, DeliveryError::Later { .. } | DeliveryError::Precondition(_)) =>
                {
                    self.settle_unreadable(&refusal)
                }
                settled => settled.map(drop),
            };
        }
        if flight.batch.target == self.session.destination.name() {
            return self.settle_by_query("it was sent by single requests").await;
        }
        self.give_up(&format!("it was sent to {} when the configuration changed", flight.batch.target.clone()))
    }

    fn settle_unreadable(&mut self, refusal: &DeliveryError) -> Result<(), StepError> {
        let to = self.flights.front().map(|flight| flight.batch.target.clone()).unwrap_or_default();
        self.give_up(&format!("it was in flight to {to}, which cannot be queried: {refusal}"))
    }

    /// The state of the batch before it was sent.
    pub(super) fn was(&self) -> Option<Was> {
        self.flights.front().and_then(|flight| flight.batch.was)
    }
}
