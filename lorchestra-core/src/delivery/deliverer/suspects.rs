//! Suspects: rows that the server has refused, and that stay pending because the target or this host may be the cause. Other rows are sent
//! before them.
//!
//! Talks to the store, for the [`Deliverer`]. Guarantees that rows are set aside only if few of them were refused for one reason, and that
//! resending suspects costs few requests: consecutive ones are sent as one batch, which is split like any other. If a batch of them is
//! refused again for a reason that many rows have, the reason is *held*: no other suspect with it is sent in this delivery, all of them stay
//! pending, and delivery ends with one error about it. Other rows are delivered.
//!
//! What stays pending forever (the clock was wrong when the events were emitted) is set aside when the user asks to resend refused events:
//! then each row that is refused again is.

use super::{Deliverer, StepError, flight};
use crate::delivery::{DeliveryError, Destination, RefusedRow};
use crate::host::clock::now_micros;
use crate::store::{OutRow, RowDisposition, Suspect, Was};
use std::collections::HashMap;

/// Maximum number of rows that are set aside for one reason within a day. More of them mean that the rows are not the cause.
const MANY: u64 = 10;
/// A day, in microseconds.
const LATELY: i64 = 24 * 60 * 60 * 1_000_000;

/// The kind of a reason: without numbers, which may refer to rows.
pub(super) fn kind_of(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_ascii_digit() && *c != '…').collect()
}

impl<D: Destination> Deliverer<'_, D> {
    /// Whether there are suspects to send in this delivery.
    pub(super) fn awaits_suspects(&mut self) -> Result<bool, StepError> {
        loop {
            let found = self.store.suspects(self.tried, self.policy.rows)?;
            let is_held = |suspect: &&Suspect| self.held.contains(&kind_of(&suspect.reason));
            match found.iter().take_while(is_held).last() {
                Some(held) => self.tried = held.n,
                None => return Ok(!found.is_empty()),
            }
        }
    }

    /// Returns the suspects to send next as one batch: consecutive ones that were refused for the same reason. One that is damaged, or that
    /// another store may have delivered, is alone.
    pub(super) fn next_suspects(&mut self) -> Result<Vec<OutRow>, StepError> {
        if !self.awaits_suspects()? {
            return Ok(Vec::new());
        }
        let found = self.store.suspects(self.tried, self.batch_limit)?;
        let doubtful_to = self.doubtful_to()?;
        let mut rows: Vec<OutRow> = Vec::new();
        let mut size = 0;
        for suspect in &found {
            let Some(out) = self.store.row(suspect.n)? else { break };
            size += flight::size_of(&out.row);
            let is_alone = !out.intact || out.n <= doubtful_to;
            let is_same = found.first().is_some_and(|first| kind_of(&first.reason) == kind_of(&suspect.reason));
            if !rows.is_empty() && (is_alone || !is_same || size > self.policy.bytes) {
                break;
            }
            rows.push(out);
            if is_alone {
                break;
            }
        }
        Ok(rows)
    }

    /// Whether the suspects in the first batch are set aside if they are refused again, because the user asked for that.
    pub(super) fn sets_aside(&self) -> bool {
        self.flights.front().is_some_and(|flight| flight.batch.last <= self.set_aside_to)
    }

    /// If the first batch has suspects, makes this delivery resend them after the batch is taken back.
    pub(super) fn rewind(&mut self) {
        if let Some(flight) = self.flights.front().filter(|flight| flight.batch.was == Some(Was::Suspect)) {
            self.tried = self.tried.min(flight.batch.first - 1);
        }
    }

    /// Handles a batch of which the server has refused some rows for their own sake, and found nothing wrong with the others.
    pub(super) fn some_rows(&mut self, refused: &[RefusedRow]) -> Result<(), StepError> {
        self.rewind();
        let settled = self.judge(refused)?;
        self.take_back(settled, self.batch_limit, "other rows of its batch were refused")
    }

    /// Handles suspects that were all refused again, although other rows were accepted.
    pub(super) fn every_suspect(&mut self, refused: &[RefusedRow], reason: &str) -> Result<(), StepError> {
        let settled = self.judge(refused)?;
        self.take_back(settled, self.batch_limit, reason)
    }

    /// Decides which of the refused rows of the first batch are set aside. Those that many others share their reason with are not.
    fn judge(&mut self, refused: &[RefusedRow]) -> Result<Vec<(i64, RowDisposition)>, StepError> {
        let Some(flight) = self.flights.front() else { return Ok(Vec::new()) };
        let numbers = flight.numbers.clone();
        let mut counts: HashMap<String, u64> = HashMap::new();
        refused.iter().for_each(|row| *counts.entry(kind_of(&row.reason)).or_default() += 1);
        // What was resent on request returns to where it was.
        let may_hold = match flight.batch.was {
            None => true,
            Some(Was::Suspect) => !self.sets_aside(),
            Some(Was::Refused | Was::Uncertain) => false,
        };
        if may_hold {
            for reason in self.store.refusals(now_micros() - LATELY)? {
                counts.entry(kind_of(&reason)).and_modify(|total| *total += 1);
            }
        }
        let mut settled = Vec::new();
        for row in refused {
            let (Some(n), kind) = (numbers.get(row.index), kind_of(&row.reason)) else { continue };
            let count = counts.get(&kind).copied().unwrap_or_default();
            if may_hold && count > MANY {
                self.hold(kind, &row.reason, count);
                settled.push((*n, RowDisposition::Suspect(row.reason.clone())));
            } else {
                self.progress.refused += 1;
                settled.push((*n, RowDisposition::Refused(row.reason.clone())));
            }
        }
        Ok(settled)
    }

    fn hold(&mut self, kind: String, reason: &str, count: u64) {
        if self.held.insert(kind) {
            let (name, advice) = (self.session.destination.name(), self.session.destination.advice());
            self.blame = Some(DeliveryError::EveryRow(format!(
                "{name}: {count} events were refused for one reason and stay pending: {reason}: {advice}; if they can never be \
                 delivered, `lorchestra events flush --resend-failed` sets them aside"
            )));
        }
    }
}
