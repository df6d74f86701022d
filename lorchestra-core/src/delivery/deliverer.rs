//! The order in which events are sent, and what each answer means for the store.
//!
//! Connects an [`Outbox`] and a [`Destination`], for as long as the caller holds the delivery lock:
//!
//! ```text
//!   frozen batch of a predecessor? ── yes ─► resend the same rows to the same position
//!          │ no
//!   next pending rows ─► freeze (committed) ─► send ─┬─ landed, or had landed before ─► delivered mark moves (committed)
//!                                                    ├─ rows refused, too large ──────► verdict: bad rows set aside; the rest is resent
//!                                                    ├─ stream finalized, gone, odd ──► settle: fenced; its length, or the table, decides
//!                                                    └─ no answer ────────────────────► the same rows again, later
//! ```
//!
//! If a destination supports it, several batches are in flight in one stream (`pipeline`), each frozen with its offset before it is sent.
//! Answers are awaited in order. After the first answer that is not "landed", the results of the others are unknown: the connection is
//! abandoned, and they are settled one after the other, like those of a process that died.
//!
//! [`super::destination`] defines what a stream is, which states it has, and what the parts guarantee each other. `verdict` decides what a
//! refusal means for the rows, `settle` determines whether a batch arrived, `doubt` looks up what another store may have delivered.
//!
//! - A batch that was sent and not answered is never resized and never sent anywhere else until its result is known. Its stream is fenced
//!   first, so that a request in flight cannot land afterwards.
//! - A definite refusal takes the batch back. It is *fresh* if every answer about it so far was definite: then nothing of it can still
//!   arrive.
//! - If something is at the position of a batch with an unknown result, it may be another batch: the batch's events are looked up, or, if
//!   reading is not permitted, the stream is fenced, and must agree with what this store has sent (`settle`). This check, and
//!   [`Outbox::doubtful_to`], detect a state directory that was copied or restored.
//! - If something is at the position of a batch that was never sent, all pending events are looked up before they are sent: a snapshot of
//!   the machine was restored, and the store knows nothing of what was delivered since.
//! - No event is skipped: an event that is not delivered is pending, set aside with the server's reason, or uncertain.
//! - If all rows of a batch, or many rows of several, are refused for the same reason, none is set aside, because the table or this host is
//!   the cause. They stay pending, other rows are delivered, and delivery ends with an error (`suspects`).
//! - One row never blocks the others. If the server refuses a batch without identifying the row, the batch is split until that row is
//!   alone, and others are sent before it. The row is then a *suspect* and still pending: when another row has landed, it is resent once,
//!   and set aside permanently if it is refused again. If no other row lands, the server is at fault.

mod doubt;
mod flight;
mod pipeline;
mod settle;
mod suspects;
mod verdict;

use super::destination::{BatchTarget, DeliveryError, Destination, Landed, Slot};
use super::policy::DeliveryPolicy;
use super::session::Session;
use crate::host::backoff::Backoff;
use crate::store::{Batch, Circuit, NewBatch, OutRow, Outbox, Row, StoreError, Was};
use flight::{Flight, slot};
use std::collections::{HashSet, VecDeque};
use std::time::Instant;

/// Why delivery stopped although events are pending.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// A permanent error, to be reported to a person.
    #[error("{0}")]
    Blocked(DeliveryError),
    /// The destination did not respond, or failed, several times: the circuit is open.
    #[error("{0}")]
    Unreachable(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Number of rows that are in the table now.
    pub delivered: u64,
    /// Number of rows that the server refused permanently.
    pub refused: u64,
    /// Number of rows with an unknown result.
    pub uncertain: u64,
}

/// Delivers events while it is polled.
pub struct Deliverer<'a, D> {
    store: &'a mut Outbox,
    session: &'a mut Session<D>,
    policy: DeliveryPolicy,
    backoff: Backoff,
    /// Consecutive retries because the target is missing or was changed.
    patience: u32,
    /// Number of streams left in a row, without a batch that landed.
    left: u32,
    /// Maximum number of rows in the next batch: halved when the server finds one too large.
    batch_limit: usize,
    /// The frozen batches in order.
    flights: VecDeque<Flight>,
    /// Send one batch at a time until none is frozen, because the results of some are unknown.
    one_by_one: bool,
    /// Batches are in flight, and an answer is awaited.
    is_waiting: bool,
    /// There were more rows to freeze than the last batch holds.
    has_more: bool,
    /// A fenced stream, and its contents.
    fenced: Option<(String, settle::Fenced)>,
    /// The last stream that was left.
    left_stream: Option<String>,
    /// A batch has landed: the server accepts rows.
    proven: bool,
    /// The last answer for the stream in use was that a batch landed.
    stream_works: bool,
    /// A stream was left because of a refusal without a reason, and nothing has landed since.
    renewed: bool,
    /// Another store may have delivered events up to this one; `None` if not determined yet.
    doubtful_to: Option<i64>,
    /// Number of suspects since the last batch landed.
    suspects: u32,
    /// The answer to the last suspect.
    suspicion: Option<DeliveryError>,
    /// Suspects up to this event were resent since the first batch landed, or although none had landed.
    tried: i64,
    /// The kinds of reasons for which too many rows were refused: suspects with one of them are not sent.
    held: HashSet<String>,
    /// The last of these reasons.
    blame: Option<DeliveryError>,
    /// The user asked for what was refused to be resent: suspects up to this event are set aside if they are refused again.
    set_aside_to: i64,
    /// A refused permission was reported.
    has_warned: bool,
    progress: &'a mut Progress,
}

/// Number of attempts with a batch on which the server fails, before it is split.
const STUMBLES: u32 = 3;
/// Maximum number of suspects in a row. More of them mean that the rows are not the cause.
const SUSPECTS: u32 = 3;
/// Maximum number of streams left in a row. More of them mean that the server accepts none.
const STREAMS: u32 = 3;

impl<'a, D: Destination> Deliverer<'a, D> {
    /// Creates a deliverer for the holder of the delivery lock. Adds to `progress` what it delivers.
    pub fn new(store: &'a mut Outbox, session: &'a mut Session<D>, policy: DeliveryPolicy, progress: &'a mut Progress) -> Self {
        let backoff = Backoff::new(policy.first_wait, policy.longest_wait);
        let batch_limit = policy.rows;
        // The previous deliverer may have been dropped while it waited, and another process may have settled its batches since.
        session.destination.hang_up();
        Self {
            store,
            session,
            policy,
            backoff,
            patience: 0,
            left: 0,
            batch_limit,
            flights: VecDeque::new(),
            one_by_one: false,
            is_waiting: false,
            has_more: false,
            fenced: None,
            left_stream: None,
            proven: false,
            stream_works: false,
            renewed: false,
            doubtful_to: None,
            suspects: 0,
            suspicion: None,
            tried: 0,
            held: HashSet::new(),
            blame: None,
            set_aside_to: 0,
            has_warned: false,
            progress,
        }
    }

    /// Sends until nothing is pending. The future may be dropped at any moment: batches in flight stay frozen.
    ///
    /// `persistent`: retries failures while it is polled, instead of opening the circuit.
    pub async fn drain(&mut self, persistent: bool) -> Result<(), Stopped> {
        loop {
            match self.step().await {
                Ok(true) => {
                    if self.backoff.failures() > 0 || self.patience > 0 {
                        self.backoff.reset();
                        self.patience = 0;
                    }
                }
                Ok(false) => {
                    let error = self.suspicion.take().or_else(|| self.blame.take());
                    match error {
                        // The last pass could not send all suspects: without a pause, the caller would start the next one at once.
                        None if self.store.suspect(0)?.is_some() => {
                            self.tried = 0;
                            let reason = "events that were refused before could not be resent yet".to_owned();
                            let later = DeliveryError::Later { reason, after: None, perhaps_request: false };
                            self.pause(later, persistent).await?;
                        }
                        None => return Ok(()),
                        Some(DeliveryError::Later { reason, .. }) => return Err(Stopped::Unreachable(reason)),
                        Some(refusal) => return Err(Stopped::Blocked(refusal)),
                    }
                }
                Err(StepError::Store(error)) => return Err(Stopped::Store(error)),
                Err(StepError::Refused(refusal)) => self.pause(refusal, persistent).await?,
            }
        }
    }

    /// Resends each batch with an unknown result once; its rows may be in the table twice afterwards.
    pub async fn resend_uncertain(&mut self) -> Result<(), Stopped> {
        // Not what becomes uncertain now: the user has not seen it.
        let known = self.store.uncertain_batches()?;
        self.drain(true).await?;
        let mut tried = HashSet::new();
        let next = |store: &Outbox, tried: &mut HashSet<(i64, i64)>| -> Result<Option<Batch>, StoreError> {
            let is_known = |batch: &Batch| known.iter().any(|of| of.first <= batch.first && batch.last <= of.last);
            Ok(store.uncertain_batches()?.into_iter().find(|batch| is_known(batch) && tried.insert((batch.first, batch.last))))
        };
        while let Some(batch) = next(self.store, &mut tried)? {
            let (rows, damaged): (Vec<_>, Vec<_>) = self.store.rows_of(&batch)?.into_iter().partition(|out| out.intact);
            if !damaged.is_empty() {
                self.store.set_aside_damaged(&damaged.iter().map(|out| out.n).collect::<Vec<_>>())?;
                self.progress.refused += damaged.len() as u64;
            }
            match self.place_patiently(&rows).await? {
                Some(new) => {
                    let batch = self.store.send_again(&batch, &new)?;
                    self.send_alone(batch, rows);
                }
                None => self.store.forget(&batch)?,
            }
            self.drain(true).await?;
        }
        let rest = self.store.uncertain_batches()?.iter().map(|batch| batch.rows.unsigned_abs()).sum();
        self.progress.uncertain = rest;
        Ok(())
    }

    /// Resends the events that the server refused, one by one, after those that are pending. Suspects that are refused again are set aside.
    pub async fn resend_refused(&mut self) -> Result<(), Stopped> {
        // Not what is refused now.
        let mut known = Vec::new();
        while let Some(event) = self.store.refused_event(known.last().copied().unwrap_or_default())? {
            known.push(event);
        }
        self.set_aside_to = self.store.last_suspect()?.unwrap_or_default();
        self.drain(true).await?;
        for event in known {
            // Retention may have removed its payload.
            if self.store.refused_event(event - 1)? != Some(event) {
                continue;
            }
            let rows: Vec<OutRow> = self.store.row(event)?.into_iter().filter(|out| out.intact).collect();
            if let Some(new) = self.place_patiently(&rows).await? {
                let batch = self.store.send_set_aside_again(Was::Refused, &[event], &new)?;
                self.send_alone(batch, rows);
            }
            self.drain(true).await?;
        }
        Ok(())
    }

    /// The next batch to send, one at a time. No one has sent it yet.
    fn send_alone(&mut self, batch: Batch, rows: Vec<OutRow>) {
        self.one_by_one = true;
        self.flights.push_back(Flight::new(batch, rows, true));
    }

    async fn place_patiently(&mut self, rows: &[OutRow]) -> Result<Option<NewBatch>, Stopped> {
        loop {
            match self.place(rows).await {
                Ok(new) => return Ok(new),
                Err(StepError::Store(error)) => return Err(Stopped::Store(error)),
                Err(StepError::Refused(refusal)) => self.pause(refusal, true).await?,
            }
        }
    }

    async fn pause(&mut self, refusal: DeliveryError, persistent: bool) -> Result<(), Stopped> {
        let (reason, after) = match refusal {
            DeliveryError::Later { reason, after, .. } => (reason, after),
            DeliveryError::Precondition(reason) => (reason, None),
            // A permission that was just granted takes minutes to apply: wait if there is time.
            DeliveryError::Forbidden(reason) if persistent => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    tracing::warn!("{reason}: retrying until the time limit");
                }
                (reason, None)
            }
            // Some servers do not know a new table for some minutes: wait if there is time.
            DeliveryError::TargetMissing(_) | DeliveryError::LayoutChanged(_)
                if self.patience < self.policy.patience
                    || persistent && (self.session.connected || matches!(refusal, DeliveryError::LayoutChanged(_))) =>
            {
                self.patience = self.patience.saturating_add(1);
                self.session.connected = false;
                (refusal.to_string(), None)
            }
            blocked => return Err(Stopped::Blocked(blocked)),
        };
        self.session.trouble = Some(reason.clone());
        let wait = self.backoff.next(after);
        let too_long = wait > self.policy.circuit;
        // Never sleep for longer than a circuit stays open, because the delivery lock is held while sleeping.
        let wait = wait.min(self.policy.circuit);
        if !persistent && (too_long || self.backoff.failures() >= self.policy.failures) {
            let until = crate::host::clock::now_micros() + i64::try_from(self.policy.circuit.as_micros()).unwrap_or(i64::MAX);
            let route = self.session.destination.route();
            self.store.set_circuit(Some(&Circuit { until, reason: reason.clone(), route }))?;
            return Err(Stopped::Unreachable(reason));
        }
        tracing::debug!(reason, ?wait, "delivery waits");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Sends one batch, or takes one step towards it. Returns `false` if nothing is pending.
    async fn step(&mut self) -> Result<bool, StepError> {
        if self.flights.is_empty() {
            let frozen = self.store.frozen_batches()?;
            // Their sender died: it is unknown whether they were sent.
            self.one_by_one = !frozen.is_empty();
            for batch in frozen {
                let out = self.store.rows_of(&batch)?;
                self.flights.push_back(Flight::new(batch, out, false));
            }
        }
        if self.flights.is_empty() {
            let unsent = self.store.has_unsent()?;
            if self.proven || !unsent && self.suspects < SUSPECTS {
                let suspects = self.next_suspects()?;
                if !suspects.is_empty() {
                    self.retry(suspects).await?;
                    if self.flights.is_empty() {
                        return Ok(true);
                    }
                }
            }
            if self.flights.is_empty() && !unsent {
                self.store.pass_settled()?;
                return Ok(false);
            }
        }
        self.connect().await?;
        if self.flights.is_empty() && !self.freeze(None).await? {
            return Ok(false);
        }
        let Some(flight) = self.flights.front() else { return Ok(false) };
        let ours = flight.batch.target == self.session.destination.name()
            && flight.batch.place.is_some() == self.session.destination.uses_streams();
        if !ours {
            return self.settle_elsewhere().await.map(|()| true);
        }
        if self.fenced.as_ref().is_some_and(|(stream, _)| flight.stream() == Some(stream)) {
            return self.settle_behind().await.map(|()| true);
        }
        if self.may_pipeline() { self.pipeline().await } else { self.send_one().await }.map(|()| true)
    }

    /// Sends the first batch, and waits for the answer.
    async fn send_one(&mut self) -> Result<(), StepError> {
        let Some(flight) = self.flights.front_mut() else { return Ok(()) };
        // Until the answer arrives, the result is unknown: this future may be dropped.
        let was_fresh = std::mem::replace(&mut flight.fresh, false);
        let place = slot(&flight.batch).map_or(BatchTarget::Anywhere, BatchTarget::Stream);
        let begun = Instant::now();
        let answer = self.session.destination.append(place, &flight.rows).await;
        tracing::debug!(rows = flight.rows.len(), took = ?begun.elapsed(), ok = answer.is_ok(), "batch sent");
        match answer {
            // No one has sent this batch yet, but something is at its position: for example, the state directory is a copy of one that is
            // still in use. What is there is not this batch.
            Ok(Landed::Before) if was_fresh => self.overtaken().await,
            Ok(Landed::Before) => self.landed_before().await,
            Ok(Landed::Now) => self.landed().await,
            Err(refusal) => {
                let definite = !matches!(refusal, DeliveryError::Later { .. });
                if let Some(flight) = self.flights.front_mut() {
                    flight.fresh = was_fresh && definite;
                }
                self.refused(refusal).await
            }
        }
    }

    async fn connect(&mut self) -> Result<(), StepError> {
        if !self.session.connected {
            self.session.connect().await.map_err(StepError::Refused)?;
            if self
                .store
                .circuit(&self.session.destination.route(), crate::host::clock::now_micros(), self.policy.circuit)?
                .is_some()
            {
                self.store.set_circuit(None)?;
            }
        }
        Ok(())
    }

    /// Plans a batch of these rows for the stream in use; returns `None` if there are no rows.
    async fn place(&mut self, out: &[OutRow]) -> Result<Option<NewBatch>, StepError> {
        let (Some(first), Some(last)) = (out.first(), out.last()) else { return Ok(None) };
        self.connect().await?;
        let destination = &mut self.session.destination;
        let rows: Vec<Row> = out.iter().map(|out| out.row.clone()).collect();
        let mut new = NewBatch {
            target: destination.name().to_owned(),
            stream: None,
            length: destination.length(&rows),
            first: first.n,
            last: last.n,
            rows: i64::try_from(out.len()).unwrap_or(i64::MAX),
        };
        if destination.uses_streams() {
            let idle = i64::try_from(self.policy.stream_idle.as_micros()).unwrap_or(i64::MAX);
            let known = self.store.stream(&new.target, crate::host::clock::now_micros().saturating_sub(idle))?;
            if let Some(stream) = &known
                && destination.is_ahead(Slot { stream: &stream.name, offset: stream.offset, length: new.length })
            {
                self.store.leave_stream(&new.target)?;
                self.doubt()?;
                let reason = format!("{} has rows that this store has not sent", stream.name);
                return Err(StepError::Refused(DeliveryError::Later { reason, after: None, perhaps_request: false }));
            }
            let known = known
                .filter(|stream| destination.has_room(Slot { stream: &stream.name, offset: stream.offset, length: new.length }));
            new.stream = match known {
                Some(stream) => Some(stream.name),
                None => {
                    let stream = destination.create_stream().await.map_err(StepError::Refused)?;
                    self.store.use_stream(&new.target, &stream)?;
                    self.stream_works = false;
                    // A server may use a name again.
                    self.fenced.take_if(|(fenced, _)| *fenced == stream);
                    self.left_stream.take_if(|left| *left == stream);
                    Some(stream)
                }
            };
        }
        Ok(Some(new))
    }

    /// In one transaction, records that `done` is delivered and freezes the next pending rows. Returns `false` if there are none.
    async fn freeze(&mut self, done: Option<&Batch>) -> Result<bool, StepError> {
        // The rows of `done` are still pending in the store.
        let after = self.flights.back().map(|flight| &flight.batch).or(done).map_or(0, |batch| batch.last);
        let mut out = self.intact_rows(after)?;
        let doubtful_to = self.doubtful_to()?;
        let is_doubtful = |out: &[OutRow]| out.first().is_some_and(|out| out.n <= doubtful_to);
        if is_doubtful(&out) && (done.is_some() || !self.flights.is_empty()) {
            // They are looked up when nothing is in flight: only then is all before them settled.
            if done.is_some() {
                self.store.advance(done, None)?;
            }
            return Ok(false);
        }
        while is_doubtful(&out) {
            let rest = self.without_doubtful(out).await?;
            let is_settled = rest.is_empty();
            out = rest;
            if !is_settled {
                break;
            }
            out = self.intact_rows(after)?;
        }
        let new = self.place(&out).await?;
        if done.is_none() && new.is_none() {
            return Ok(false);
        }
        let batch = self.store.advance(done, new.as_ref())?;
        let is_frozen = batch.is_some();
        if let Some(batch) = batch {
            let flight = Flight::new(batch, out, true);
            self.has_more = flight.rows.len() >= self.batch_limit || flight.size >= self.policy.bytes / 2;
            self.flights.push_back(flight);
        }
        Ok(is_frozen)
    }

    /// Returns the next rows; sets aside those that another program has changed in the store.
    fn intact_rows(&mut self, after: i64) -> Result<Vec<OutRow>, StepError> {
        loop {
            let out = self.store.pending_rows(after, self.batch_limit, self.policy.bytes)?;
            let damaged: Vec<i64> = out.iter().filter(|out| !out.intact).map(|out| out.n).collect();
            if damaged.is_empty() {
                return Ok(out);
            }
            self.store.set_aside_damaged(&damaged)?;
            self.progress.refused += damaged.len() as u64;
        }
    }

    async fn landed(&mut self) -> Result<(), StepError> {
        let Some(flight) = self.flights.pop_front() else { return Ok(()) };
        self.progress.delivered += flight.rows.len() as u64;
        if flight.rows.iter().any(|row| self.session.destination.is_sent(row)) {
            self.left = 0;
            self.stream_works = true;
            self.renewed = false;
            self.session.trouble = None;
            self.suspicion = None;
            self.suspects = 0;
            if !std::mem::replace(&mut self.proven, true) {
                self.tried = 0;
            }
        }
        self.batch_limit = (self.batch_limit * 2).min(self.policy.rows);
        // Suspects are next, or batches that are already frozen.
        let others_wait = self.one_by_one && !self.flights.is_empty();
        if others_wait || self.awaits_suspects()? {
            self.store.advance(Some(&flight.batch), None)?;
            return Ok(());
        }
        // Nothing is frozen whose result is unknown.
        if self.flights.is_empty() {
            self.one_by_one = false;
        }
        match self.freeze(Some(&flight.batch)).await {
            Ok(_) => Ok(()),
            Err(trouble) => {
                // For example, a stream could not be created: the landed batch is recorded all the same.
                if !matches!(trouble, StepError::Store(_)) {
                    self.store.advance(Some(&flight.batch), None)?;
                }
                Err(trouble)
            }
        }
    }
}

/// Why a step failed.
enum StepError {
    Refused(DeliveryError),
    Store(StoreError),
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
