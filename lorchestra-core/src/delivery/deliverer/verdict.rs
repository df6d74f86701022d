//! Decides what a refusal means for the rows of a batch, and which of them caused it.
//!
//! Talks to the store, for the [`Deliverer`]. Guarantees that no row is set aside because of a stream, the target or this host. Whether rows
//! that the server has named are set aside or stay pending is decided in [`super::suspects`].

use super::suspects::kind_of;
use super::{Deliverer, STUMBLES, SUSPECTS, StepError};
use crate::delivery::{DeliveryError, Destination, RefusedRow};
use crate::store::{RowDisposition, Was};

impl<D: Destination> Deliverer<'_, D> {
    pub(super) async fn refused(&mut self, refusal: DeliveryError) -> Result<(), StepError> {
        let worked = std::mem::take(&mut self.stream_works);
        let blames_stream = self.blames_stream(worked);
        let Some(flight) = self.flights.front_mut() else { return Ok(()) };
        match refusal {
            DeliveryError::Later { perhaps_request: true, .. } => {
                flight.stumbles += 1;
                if flight.stumbles < STUMBLES {
                    return Err(StepError::Refused(refusal));
                }
                self.split_after_unknown(refusal).await
            }
            DeliveryError::Precondition(ref reason) => {
                flight.stumbles += 1;
                if flight.stumbles < STUMBLES {
                    return Err(StepError::Refused(refusal));
                }
                if self.renewed || flight.batch.place.is_none() {
                    return Err(StepError::Refused(DeliveryError::Forbidden(reason.clone())));
                }
                self.renew().await
            }
            DeliveryError::Rows(rows) => {
                if !self.clear_place().await? {
                    return Ok(());
                }
                match self.one_reason(&rows) {
                    Some(reason) => self.every_row(&rows, &reason),
                    None => self.some_rows(&rows),
                }
            }
            DeliveryError::Malformed(_) if blames_stream => self.renew().await,
            DeliveryError::TooLarge(_) | DeliveryError::Malformed(_) => {
                if self.clear_place().await? {
                    self.cut(refusal, 2)
                } else {
                    Ok(())
                }
            }
            DeliveryError::StreamDamaged(reason) => {
                // The stream can no longer be trusted, and this batch is not in it.
                if self.left == 0 {
                    tracing::warn!(reason, "a stream has lost rows or has unexpected ones; starting a new stream");
                }
                self.fence_damaged().await?;
                self.leave_and_take_back(Vec::new())
            }
            DeliveryError::StreamFinalized(_) => self.settle_finalized().await,
            DeliveryError::StreamGone(_) => self.settle().await,
            other => Err(StepError::Refused(other)),
        }
    }

    /// Whether to suspect the stream before the rows: immediately if nothing has landed in it yet, otherwise when the batch is a single
    /// row that would be suspected. The server may have lost the stream since its last batch landed.
    fn blames_stream(&self, worked: bool) -> bool {
        let Some(flight) = self.flights.front() else { return false };
        let is_single = flight.rows.len() == 1;
        let is_at_stake = is_single && matches!(flight.batch.was, None | Some(Was::Suspect));
        flight.batch.place.is_some() && !self.renewed && (is_at_stake || !worked && (is_single || !self.proven))
    }

    /// Fences the stream and leaves it, so that the batch goes to a new one.
    async fn renew(&mut self) -> Result<(), StepError> {
        let left = if self.clear_unknown().await? { self.leave_and_take_back(Vec::new()) } else { Ok(()) };
        self.renewed = true;
        left
    }

    /// The server fails on the batch, and it is unknown whether it arrived: determines that first.
    async fn split_after_unknown(&mut self, refusal: DeliveryError) -> Result<(), StepError> {
        // Without a stream, delivery is at least once: the batch may be split although its result is unknown.
        if self.clear_place().await? { self.cut(refusal, 8) } else { Ok(()) }
    }

    /// Takes back the batch, which has not arrived, to send it in `parts`. A single row cannot be split and becomes suspect.
    fn cut(&mut self, refusal: DeliveryError, parts: usize) -> Result<(), StepError> {
        let Some(flight) = self.flights.front() else { return Ok(()) };
        let (rows, was) = (flight.rows.len(), flight.batch.was);
        let reason = refusal.to_string();
        match (flight.numbers.as_slice(), was) {
            ([], _) | ([_, _, ..], _) => {
                self.rewind();
                self.take_back(Vec::new(), rows / parts, &reason)
            }
            // It was resent on request, and goes back to its previous state.
            ([_], Some(Was::Uncertain)) => self.give_up(&reason),
            ([_], Some(Was::Refused)) => {
                self.progress.refused += 1;
                self.take_back(Vec::new(), self.batch_limit, &reason)
            }
            (&[n], Some(Was::Suspect)) if self.proven || self.sets_aside() => {
                self.progress.refused += 1;
                self.take_back(vec![(n, RowDisposition::Refused(reason.clone()))], self.batch_limit, &reason)
            }
            ([_], Some(Was::Suspect)) => self.still_suspect(refusal),
            ([_], None) if self.suspects == SUSPECTS => {
                self.take_back(Vec::new(), self.batch_limit, &reason)?;
                Err(StepError::Refused(refusal))
            }
            (&[n], None) => self.suspect(&[n], &reason, refusal),
        }
    }

    /// Sets the rows aside as suspects: other rows are sent before them.
    fn suspect(&mut self, numbers: &[i64], reason: &str, refusal: DeliveryError) -> Result<(), StepError> {
        let settled = numbers.iter().map(|n| (*n, RowDisposition::Suspect(reason.to_owned()))).collect();
        self.take_back(settled, self.batch_limit, reason)?;
        self.suspects += 1;
        self.suspicion = Some(refusal);
        // What landed before proves nothing about now: the clock or the target may have changed since.
        self.proven = false;
        Ok(())
    }

    fn still_suspect(&mut self, refusal: DeliveryError) -> Result<(), StepError> {
        self.take_back(Vec::new(), self.batch_limit, &refusal.to_string())?;
        self.suspects += 1;
        self.suspicion = Some(refusal);
        Ok(())
    }

    /// Returns the reason for which all rows of the batch were refused, if it is the same, or if nothing has landed yet. Ignores numbers in
    /// it, which may refer to rows.
    fn one_reason(&self, refused: &[RefusedRow]) -> Option<String> {
        let flight = self.flights.front()?;
        let first = refused.first()?;
        let kind = kind_of(&first.reason);
        let sent = flight.rows.iter().filter(|row| self.session.destination.is_sent(row)).count();
        let all = refused.len() == sent
            && (!self.proven && refused.len() > 1 || refused.iter().all(|row| kind_of(&row.reason) == kind));
        all.then(|| first.reason.clone())
    }

    /// Handles a batch whose rows were all refused for one reason, which may be the target or this host's clock.
    fn every_row(&mut self, refused: &[RefusedRow], reason: &str) -> Result<(), StepError> {
        let Some(flight) = self.flights.front() else { return Ok(()) };
        let (name, last) = (self.session.destination.name(), flight.batch.last);
        let rows = flight.numbers.iter().zip(&flight.rows);
        let numbers: Vec<i64> = rows.filter(|(_, row)| self.session.destination.is_sent(row)).map(|(n, _)| *n).collect();
        let count = numbers.len();
        let text = match count {
            1 => format!("{name}: an event was refused, and none was accepted after it: {reason}"),
            _ => format!(
                "{name}: all {count} events of a batch were refused for one reason: {reason}: {}",
                self.session.destination.advice()
            ),
        };
        let refusal = DeliveryError::EveryRow(text);
        match self.was() {
            // Other rows have landed since, so these rows are the cause, if they are few.
            Some(Was::Suspect) if self.proven || self.sets_aside() => self.every_suspect(refused, reason),
            Some(Was::Refused) => self.refuse(&numbers, reason),
            // It may have arrived when it was sent first.
            Some(Was::Uncertain) => {
                self.give_up(reason)?;
                Err(StepError::Refused(refusal))
            }
            Some(Was::Suspect) => self.still_suspect(refusal),
            None if self.suspects < SUSPECTS && (count == 1 || !self.store.pending_rows(last, 1, usize::MAX)?.is_empty()) => {
                self.suspect(&numbers, reason, refusal)
            }
            None => {
                self.take_back(Vec::new(), self.batch_limit, reason)?;
                Err(StepError::Refused(refusal))
            }
        }
    }

    fn refuse(&mut self, numbers: &[i64], reason: &str) -> Result<(), StepError> {
        self.progress.refused += numbers.len() as u64;
        let settled = numbers.iter().map(|n| (*n, RowDisposition::Refused(reason.to_owned()))).collect();
        self.take_back(settled, self.batch_limit, reason)
    }

    pub(super) fn take_back(
        &mut self,
        settled: Vec<(i64, RowDisposition)>,
        batch_limit: usize,
        reason: &str,
    ) -> Result<(), StepError> {
        if let Some(flight) = self.flights.pop_front() {
            self.batch_limit = batch_limit.max(1);
            self.store.release(&flight.batch, &settled, self.batch_limit, reason)?;
        }
        Ok(())
    }
}
