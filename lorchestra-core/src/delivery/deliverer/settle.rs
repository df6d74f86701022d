//! How the fate of a batch is found out: whether it is in its stream, and else whether its rows are in the target.
//!
//! Talks to the destination and to the store, for the [`Deliverer`]. Promises that a batch of unknown fate is taken back only when nothing
//! of it can arrive any more: its stream was fenced, or something else is in its place.

use super::{Deliverer, STREAMS, STUMBLES, StepError, slot};
use crate::delivery::{DeliveryError, Destination, Row, Slot};
use crate::store::{RowDisposition, Was};
use std::collections::HashSet;

pub(super) const ANOTHER: &str = "something else is in its place in the stream";

/// A stream that takes no more rows.
#[derive(Debug, Clone)]
pub(super) enum Fenced {
    /// It is there, and this long.
    Length(i64),
    /// It is not.
    Gone(String),
}

impl<D: Destination> Deliverer<'_, D> {
    /// Closes the stream of the batch for ever.
    async fn fence(&mut self) -> Result<Option<Fenced>, StepError> {
        let Some(flight) = self.flights.front_mut() else { return Ok(None) };
        let Some(slot) = slot(&flight.batch) else { return Ok(None) };
        if let Some((_, fenced)) = self.fenced.as_ref().filter(|(stream, _)| stream == slot.stream) {
            return Ok(Some(fenced.clone()));
        }
        let fenced = match self.session.destination.finalize(slot, &flight.rows).await {
            Ok(length) => Fenced::Length(length),
            Err(DeliveryError::StreamGone(gone)) => Fenced::Gone(gone),
            // It may be that the server has forgotten the stream; but then it says so always.
            Err(DeliveryError::Precondition(reason)) if flight.stumbles >= 2 * STUMBLES => Fenced::Gone(reason),
            Err(refusal) => {
                flight.stumbles += u32::from(matches!(refusal, DeliveryError::Precondition(_)));
                return Err(StepError::Refused(refusal));
            }
        };
        self.fenced = Some((slot.stream.to_owned(), fenced.clone()));
        Ok(Some(fenced))
    }

    /// Of a stream in which a batch is not: it takes no more rows, if that can be had. With others of unknown fate behind it, it must.
    pub(super) async fn fence_damaged(&mut self) -> Result<(), StepError> {
        if self.flights.len() > 1 {
            return self.fence().await.map(drop);
        }
        if let Some(slot) = self.flights.front().and_then(|flight| slot(&flight.batch)) {
            // Of what is in its place nothing is ours to remove.
            let _ = self.session.destination.finalize(Slot { length: 0, ..slot }, &[]).await;
        }
        Ok(())
    }

    /// The batch was never sent before, and something is in its place.
    pub(super) async fn overtaken(&mut self) -> Result<(), StepError> {
        self.shared = self.flights.front().and_then(|flight| flight.stream().cloned());
        self.settle_by_query(ANOTHER).await
    }

    /// Fences the stream, and finds out whether the batch is in it. The stream is left.
    pub(super) async fn settle(&mut self) -> Result<(), StepError> {
        if self.clear_place().await? {
            return self.leave_and_take_back(Vec::new());
        }
        Ok(())
    }

    /// The same of a batch behind one whose stream was fenced.
    pub(super) async fn settle_behind(&mut self) -> Result<(), StepError> {
        if self.clear_place().await? {
            return self.take_back(Vec::new(), self.batch_limit, "its stream was left");
        }
        Ok(())
    }

    /// Makes certain that nothing of the batch is in its place and nothing of it can arrive there any more. `false`: it was there, or its
    /// rows are in the target, and all is recorded.
    pub(super) async fn clear_place(&mut self) -> Result<bool, StepError> {
        let Some(flight) = self.flights.front() else { return Ok(false) };
        if flight.batch.place.is_none() || flight.fresh && self.flights.len() == 1 {
            return Ok(true);
        }
        self.clear_unknown().await
    }

    /// The same, and the stream is fenced for it: of a batch that is not fresh, or before others of unknown fate.
    pub(super) async fn clear_unknown(&mut self) -> Result<bool, StepError> {
        let Some(fenced) = self.fence().await? else { return Ok(true) };
        let doubtful = self.is_doubtful()?;
        let Some(flight) = self.flights.front() else { return Ok(false) };
        match fenced {
            Fenced::Length(length) if length >= flight.end() => self.confirm(true).await.map(|()| false),
            // Every request for it was answered with a refusal.
            _ if flight.fresh => {
                self.store.leave_stream(&flight.batch.target)?;
                Ok(true)
            }
            // The other store may have taken it back from here and sent it elsewhere.
            Fenced::Length(_) if doubtful => {
                self.settle_by_query("the state directory is a copy of another one").await.map(|()| false)
            }
            Fenced::Length(_) => {
                self.store.leave_stream(&flight.batch.target)?;
                Ok(true)
            }
            Fenced::Gone(gone) => self.settle_by_query(&gone).await.map(|()| false),
        }
    }

    fn is_doubtful(&mut self) -> Result<bool, StepError> {
        let to = *self.doubtful_to.insert(self.store.doubtful_to()?);
        let is_shared = |flight: &super::Flight| self.shared.is_some() && flight.stream() == self.shared.as_ref();
        Ok(self.flights.front().is_some_and(|flight| flight.batch.first <= to || is_shared(flight)))
    }

    /// Something is in the place of the batch, whose fate was unknown: where reading is permitted, its first and last row are looked up.
    pub(super) async fn confirm(&mut self, leave: bool) -> Result<(), StepError> {
        let doubtful = self.is_doubtful()?;
        let Some(flight) = self.flights.front() else { return Ok(()) };
        let ends: Vec<Row> = flight.rows.first().into_iter().chain(flight.rows.last()).cloned().collect();
        // The target that it went to is another one: it cannot be asked.
        if flight.batch.target == self.session.destination.name() {
            match self.session.destination.present(&ends).await {
                Ok(there) if ends.iter().all(|row| there.contains(&row.event_id)) => {}
                Ok(_) => return self.settle_by_query(ANOTHER).await,
                Err(DeliveryError::Denied(denied)) if doubtful => {
                    return self.give_up(&format!("{ANOTHER}, or it is; and that cannot be read: {denied}"));
                }
                Err(DeliveryError::Denied(_)) => {}
                Err(other) => return Err(StepError::Refused(other)),
            }
        }
        if leave && let Some(flight) = self.flights.front() {
            self.store.leave_stream(&flight.batch.target)?;
        }
        self.landed().await
    }

    /// Which rows are there, the target itself shows. The stream is left.
    pub(super) async fn settle_by_query(&mut self, why: &str) -> Result<(), StepError> {
        let Some(flight) = self.flights.front() else { return Ok(()) };
        let there = match self.session.destination.present(&flight.rows).await {
            Ok(there) => there,
            Err(DeliveryError::Denied(denied)) => {
                return self.give_up(&format!("{why}; and whether it arrived cannot be read: {denied}"));
            }
            // It may be answered yet.
            Err(other) => return Err(StepError::Refused(other)),
        };
        self.leave_with(&there)
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
        if let Some(flight) = self.flights.front() {
            self.store.leave_stream(&flight.batch.target)?;
            if flight.stream() != self.left_stream.as_ref() {
                // The next one may be at fault as well, for a reason of its own.
                self.renewed = false;
                self.left_stream = flight.stream().cloned();
                self.left += 1;
            }
        }
        self.take_back(settled, self.batch_limit, "its stream was gone")?;
        if self.left > STREAMS {
            // Streams are not for free, and this server takes none.
            return Err(StepError::Refused(DeliveryError::Later {
                reason: "it refused one new stream after the other".into(),
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

    /// A batch that was frozen for another target, or for the other way of writing, before the configuration changed.
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
        self.give_up(&format!("it was on its way to {to}, of which nothing can be learned: {refusal}"))
    }

    /// What it was before it was sent.
    pub(super) fn was(&self) -> Option<Was> {
        self.flights.front().and_then(|flight| flight.batch.was)
    }
}
