//! Events that another store may have delivered: the state directory or the machine was copied or restored. They are looked up in the
//! destination before they are sent, and are uncertain if it cannot be queried.
//!
//! Talks to the destination and to the store, for the [`Deliverer`]. Guarantees that no such event is sent that is in the destination.

use super::{Deliverer, StepError};
use crate::delivery::{DeliveryError, Destination, Row};
use crate::store::{NewBatch, OutRow, Was};
use std::collections::HashSet;

impl<D: Destination> Deliverer<'_, D> {
    /// Another store may have delivered events up to this one.
    pub(super) fn doubtful_to(&mut self) -> Result<i64, StepError> {
        match self.doubtful_to {
            Some(to) => Ok(to),
            None => Ok(*self.doubtful_to.insert(self.store.doubtful_to()?)),
        }
    }

    /// From now on, no event of this store is sent before the target was queried for it.
    pub(super) fn doubt(&mut self) -> Result<(), StepError> {
        self.store.doubt()?;
        self.doubtful_to = None;
        Ok(())
    }

    /// Resends suspects, unless another store has delivered one, or may have.
    pub(super) async fn retry(&mut self, rows: Vec<OutRow>) -> Result<(), StepError> {
        let (Some(suspect), Some(last)) = (rows.first().map(|out| out.n), rows.last().map(|out| out.n)) else { return Ok(()) };
        if rows.iter().any(|out| !out.intact) {
            self.tried = suspect;
            self.progress.refused += 1;
            return Ok(self.store.resolve_suspect(suspect, false)?);
        }
        if suspect <= self.doubtful_to()? {
            let there = self.look_up(&rows).await?;
            if there.as_ref().is_ok_and(|there| !there.is_empty()) {
                self.tried = suspect;
                self.progress.delivered += 1;
                return Ok(self.store.resolve_suspect(suspect, true)?);
            }
            if let Err(denied) = there {
                self.tried = suspect;
                return self.give_up_doubtful(&rows, Some(Was::Suspect), &denied);
            }
        }
        let new = self.place(&rows).await?;
        self.tried = last;
        if let Some(new) = new {
            let numbers: Vec<i64> = rows.iter().map(|out| out.n).collect();
            let batch = self.store.send_set_aside_again(Was::Suspect, &numbers, &new)?;
            self.send_alone(batch, rows);
        }
        Ok(())
    }

    /// Removes the rows that another store may have delivered and that are in the target.
    pub(super) async fn without_doubtful(&mut self, out: Vec<OutRow>) -> Result<Vec<OutRow>, StepError> {
        let to = self.doubtful_to()?;
        let (doubtful, mut rest): (Vec<_>, Vec<_>) = out.into_iter().partition(|out| out.n <= to);
        if doubtful.is_empty() {
            return Ok(rest);
        }
        let there = match self.look_up(&doubtful).await? {
            Ok(there) => there,
            Err(denied) => {
                self.give_up_doubtful(&doubtful, None, &denied)?;
                return Ok(rest);
            }
        };
        let (present, mut missing): (Vec<_>, Vec<_>) = doubtful.into_iter().partition(|out| there.contains(&out.row.event_id));
        self.progress.delivered += present.len() as u64;
        self.store.settle_present(&present.iter().map(|out| out.n).collect::<Vec<_>>())?;
        missing.append(&mut rest);
        Ok(missing)
    }

    /// Returns the ids of the rows that are in the target, or why it cannot be queried.
    async fn look_up(&mut self, out: &[OutRow]) -> Result<Result<HashSet<String>, String>, StepError> {
        self.connect().await?;
        let rows: Vec<Row> = out.iter().map(|out| out.row.clone()).collect();
        match self.session.destination.present(&rows).await {
            Ok(there) => Ok(Ok(there)),
            Err(DeliveryError::Denied(denied) | DeliveryError::Forbidden(denied)) => Ok(Err(denied)),
            Err(other) => Err(StepError::Refused(other)),
        }
    }

    /// Marks rows as uncertain that another store may have delivered, if the target cannot be queried for them.
    fn give_up_doubtful(&mut self, doubtful: &[OutRow], was: Option<Was>, denied: &str) -> Result<(), StepError> {
        let (Some(first), Some(last)) = (doubtful.first(), doubtful.last()) else { return Ok(()) };
        let rows = i64::try_from(doubtful.len()).unwrap_or(i64::MAX);
        let target = self.session.destination.name().to_owned();
        let new = NewBatch { target, stream: None, length: 0, first: first.n, last: last.n, rows };
        let reason = format!(
            "the state directory or the machine was copied or restored; the destination cannot be queried for it: {denied}"
        );
        self.store.set_uncertain(&new, was, &reason)?;
        self.progress.uncertain += doubtful.len() as u64;
        Ok(())
    }
}
