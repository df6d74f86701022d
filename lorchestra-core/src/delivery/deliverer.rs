//! The order in which events leave, and what each answer means for the store.
//!
//! Owns nothing but the way between an [`Outbox`] and a [`Destination`], for as long as the caller holds the delivery lock:
//!
//! ```text
//!   frozen batch of a predecessor? ── yes ─► the same rows to the same place
//!          │ no
//!   next pending rows ─► freeze (committed) ─► send ─┬─ landed, or had landed before ─► delivered mark moves (committed)
//!                                                    ├─ rows refused, too large ──────► verdict: bad rows set aside; the rest again
//!                                                    ├─ stream finalized, gone, odd ──► settle: fenced; its length, or the table, decides
//!                                                    └─ no answer ────────────────────► the same again, later
//! ```
//!
//! Where a destination takes it, several batches are on their way in one stream (`pipeline`), each frozen, with its offset, before it is sent.
//! Answers are awaited in order. After the first one that is not "landed" the others are of unknown fate: the connection is given up, and they
//! are settled one after the other, as those of a process that died are.
//!
//! What a stream is, which states it has and what the parts promise each other about it is in [`super::destination`]. `verdict` has what a
//! refusal means for the rows, `settle` how the fate of a batch is found out.
//!
//! - A batch that was sent and not answered is never resized and never sent anywhere else until its fate is known: its stream is fenced
//!   first, so that a request that is still on its way cannot land afterwards.
//! - A definite refusal takes it back. *Fresh* means that every answer about it so far was definite: then nothing of it can still arrive.
//! - That something is at the place of a batch of unknown fate is no proof that it is this batch: its first and last event are looked up,
//!   where reading is permitted. A state directory that was copied or restored shows in that way, and by [`Outbox::doubtful_to`].
//! - No event is skipped: what is not delivered is pending, set aside with the server's reason, or uncertain.
//! - Rows that are refused all together for one reason are not set aside: it is the table or this host. Delivery stops, they stay pending.
//! - One row never blocks the others. A batch that the server will not have, without saying which row is to blame, is cut until that row
//!   is alone, and others go before it. It is a *suspect* then, and still pending: when another row has landed it is sent once more, and
//!   set aside for good if it is refused again. When none lands, it is the server that is at fault.

mod pipeline;
mod settle;
mod verdict;

use super::destination::{BatchTarget, DeliveryError, Destination, Landed, Slot};
use super::policy::DeliveryPolicy;
use super::session::Session;
use crate::host::backoff::Backoff;
use crate::store::{Batch, Circuit, NewBatch, OutRow, Outbox, Row, StoreError, Was};
use std::collections::{HashSet, VecDeque};
use std::time::Instant;

/// Why delivery stopped although something is pending.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// It will not get better by itself: reported to a person.
    #[error("{0}")]
    Blocked(DeliveryError),
    /// The destination did not answer, or not well, several times: the circuit is open.
    #[error("{0}")]
    Unreachable(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Rows that are in the table now.
    pub delivered: u64,
    /// Rows that the server refused for good.
    pub refused: u64,
    /// Rows of unknown fate.
    pub uncertain: u64,
}

/// A batch on its way.
struct Flight {
    batch: Batch,
    numbers: Vec<i64>,
    rows: Vec<Row>,
    /// No request for it has gone without a definite answer.
    fresh: bool,
    /// Tries that failed in a way that may be the batch's own.
    stumbles: u32,
    /// It was sent over the connection that is open.
    sent: bool,
    /// Bytes, about.
    size: usize,
}

impl Flight {
    fn stream(&self) -> Option<&String> {
        self.batch.place.as_ref().map(|(stream, _)| stream)
    }

    /// Where it ends in its stream.
    fn end(&self) -> i64 {
        self.batch.place.as_ref().map_or(0, |(_, offset)| offset.saturating_add(self.batch.length))
    }
}

/// Delivers, as long as it is asked to.
pub struct Deliverer<'a, D> {
    store: &'a mut Outbox,
    session: &'a mut Session<D>,
    policy: DeliveryPolicy,
    backoff: Backoff,
    /// Retries of a target that is missing or was changed, in a row.
    patience: u32,
    /// Streams left in a row, without a batch that landed.
    left: u32,
    /// Rows in the next batch: halved when a server finds one too large.
    batch_limit: usize,
    /// The batches that are frozen, in their order.
    flights: VecDeque<Flight>,
    /// One at a time, until none is frozen: the fate of some is unknown.
    one_by_one: bool,
    /// Batches are on their way, and an answer is waited for.
    is_waiting: bool,
    /// There was more to freeze than the last batch has.
    has_more: bool,
    /// A stream that takes no more rows, and what is in it.
    fenced: Option<(String, settle::Fenced)>,
    /// A stream that another store writes to as well.
    shared: Option<String>,
    /// The stream that was left last.
    left_stream: Option<String>,
    /// A batch has landed: the server takes rows.
    proven: bool,
    /// The last answer of the stream in use was that a batch landed.
    stream_works: bool,
    /// A stream was left because of a refusal without a reason, and nothing has landed since.
    renewed: bool,
    /// Events up to this one may be in the target by another store's doing; `None`: not asked yet.
    doubtful_to: Option<i64>,
    /// Suspects since a batch landed last.
    suspects: u32,
    /// What was answered to the last of them.
    suspicion: Option<DeliveryError>,
    /// Suspects up to this event were sent once more, although nothing had landed.
    tried: i64,
    progress: &'a mut Progress,
}

/// Tries of a batch on which the server stumbles, before it is cut.
const STUMBLES: u32 = 3;
/// Suspects in a row. With more of them it is not the rows.
const SUSPECTS: u32 = 3;
/// Streams left in a row. With more of them it is the server that takes none.
const STREAMS: u32 = 3;

impl<'a, D: Destination> Deliverer<'a, D> {
    /// For the holder of the delivery lock. What is delivered is added to `progress`.
    pub fn new(store: &'a mut Outbox, session: &'a mut Session<D>, policy: DeliveryPolicy, progress: &'a mut Progress) -> Self {
        let backoff = Backoff::new(policy.first_wait, policy.longest_wait);
        let batch_limit = policy.rows;
        // The one before this may have been dropped while it waited, and what it sent has been settled by another process since.
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
            shared: None,
            left_stream: None,
            proven: false,
            stream_works: false,
            renewed: false,
            doubtful_to: None,
            suspects: 0,
            suspicion: None,
            tried: 0,
            progress,
        }
    }

    /// Sends until nothing is pending. The future may be dropped at any moment: what was on its way stays frozen.
    ///
    /// `persistent`: goes on through failures for as long as it is polled, instead of opening the circuit.
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
                    return match self.suspicion.take() {
                        None => Ok(()),
                        Some(DeliveryError::Later { reason, .. }) => Err(Stopped::Unreachable(reason)),
                        Some(refusal) => Err(Stopped::Blocked(refusal)),
                    };
                }
                Err(StepError::Store(error)) => return Err(Stopped::Store(error)),
                Err(StepError::Refused(refusal)) => self.pause(refusal, persistent).await?,
            }
        }
    }

    /// Sends the batches of unknown fate again, each once: their rows may be in the table twice then.
    pub async fn resend_uncertain(&mut self) -> Result<(), Stopped> {
        self.drain(true).await?;
        let mut tried = HashSet::new();
        let next = |store: &Outbox, tried: &mut HashSet<(i64, i64)>| -> Result<Option<Batch>, StoreError> {
            Ok(store.uncertain_batches()?.into_iter().find(|batch| tried.insert((batch.first, batch.last))))
        };
        while let Some(batch) = next(self.store, &mut tried)? {
            let rows = self.store.rows_of(&batch)?;
            if let Some(new) = self.place_patiently(rows).await? {
                self.store.send_again(&batch, &new)?;
            }
            self.drain(true).await?;
        }
        Ok(())
    }

    /// Sends the events that the server refused once more, one by one.
    pub async fn resend_refused(&mut self) -> Result<(), Stopped> {
        self.drain(true).await?;
        let mut last = 0;
        while let Some(event) = self.store.refused_event(last)? {
            last = event;
            let rows = self.store.row(event)?.into_iter().filter(|out| out.intact).collect();
            if let Some(new) = self.place_patiently(rows).await? {
                self.store.send_one_again(Was::Refused, &new)?;
            }
            self.drain(true).await?;
        }
        Ok(())
    }

    async fn place_patiently(&mut self, rows: Vec<OutRow>) -> Result<Option<NewBatch>, Stopped> {
        loop {
            match self.place(&rows).await {
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
            // What was just created is unknown to some servers for some minutes: whoever has the time, waits.
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
        if !persistent && self.backoff.failures() >= self.policy.failures {
            let until = crate::host::clock::now_micros() + i64::try_from(self.policy.circuit.as_micros()).unwrap_or(i64::MAX);
            let route = self.session.destination.route();
            self.store.set_circuit(Some(&Circuit { until, reason: reason.clone(), route }))?;
            return Err(Stopped::Unreachable(reason));
        }
        tracing::debug!(reason, ?wait, "delivery waits");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// One batch, or one step towards it. `false`: nothing is pending.
    async fn step(&mut self) -> Result<bool, StepError> {
        if self.flights.is_empty() {
            let frozen = self.store.frozen_batches()?;
            // Their sender died: whether they were sent is not known.
            self.one_by_one = !frozen.is_empty();
            for batch in frozen {
                let out = self.store.rows_of(&batch)?;
                self.flights.push_back(flight(batch, out, false));
            }
        }
        if self.flights.is_empty() {
            let unsent = self.store.has_unsent()?;
            let after = if self.proven { 0 } else { self.tried };
            if let Some(suspect) = self.store.suspect(after)?
                && (self.proven || !unsent && self.suspects < SUSPECTS)
            {
                let rows: Vec<OutRow> = self.store.row(suspect)?.into_iter().collect();
                let new = self.place(&rows).await?;
                self.tried = suspect;
                if let Some(new) = new {
                    self.store.send_one_again(Was::Suspect, &new)?;
                }
                return Ok(true);
            }
            if !unsent {
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
        // Until the answer is here, its fate is unknown: this future may be dropped.
        let was_fresh = std::mem::replace(&mut flight.fresh, false);
        let place = slot(&flight.batch).map_or(BatchTarget::Anywhere, BatchTarget::Stream);
        let begun = Instant::now();
        let answer = self.session.destination.append(place, &flight.rows).await;
        tracing::debug!(rows = flight.rows.len(), took = ?begun.elapsed(), ok = answer.is_ok(), "batch sent");
        match answer {
            // Nobody has sent it yet, and there is something in its place: the state directory is a copy of another one that goes on
            // writing, say. What is there is not this.
            Ok(Landed::Before) if was_fresh => self.overtaken().await,
            Ok(Landed::Before) => self.confirm(false).await,
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

    /// These rows as a batch of the stream that they go to, if there are any.
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
            let known = known
                .filter(|stream| destination.has_room(Slot { stream: &stream.name, offset: stream.offset, length: new.length }));
            new.stream = match known {
                Some(stream) => Some(stream.name),
                None => {
                    let stream = destination.create_stream().await.map_err(StepError::Refused)?;
                    self.store.use_stream(&new.target, &stream)?;
                    self.stream_works = false;
                    Some(stream)
                }
            };
        }
        Ok(Some(new))
    }

    /// In one transaction: `done` is delivered, and the next pending rows are frozen. `false`: there are none.
    async fn freeze(&mut self, done: Option<&Batch>) -> Result<bool, StepError> {
        // What is `done` is still pending to the store.
        let after = self.flights.back().map(|flight| &flight.batch).or(done).map_or(0, |batch| batch.last);
        let mut out = self.intact_rows(after)?;
        while out.first().is_some_and(|out| self.doubtful_to.is_none_or(|to| out.n <= to)) {
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
            let flight = flight(batch, out, true);
            self.has_more = flight.rows.len() >= self.batch_limit || flight.size >= self.policy.bytes / 2;
            self.flights.push_back(flight);
        }
        Ok(is_frozen)
    }

    /// The next rows; those that something else has changed in the store are set aside.
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

    /// Leaves out the rows that another store may have delivered and that are in the target.
    async fn without_doubtful(&mut self, out: Vec<OutRow>) -> Result<Vec<OutRow>, StepError> {
        let to = *self.doubtful_to.insert(self.store.doubtful_to()?);
        let doubtful: Vec<Row> = out.iter().filter(|out| out.n <= to).map(|out| out.row.clone()).collect();
        if doubtful.is_empty() {
            return Ok(out);
        }
        self.connect().await?;
        let there = match self.session.destination.present(&doubtful).await {
            Ok(there) => there,
            // The stream that both stores know takes each batch once.
            Err(DeliveryError::Denied(_)) => return Ok(out),
            Err(other) => return Err(StepError::Refused(other)),
        };
        let (present, rest): (Vec<_>, Vec<_>) = out.into_iter().partition(|out| there.contains(&out.row.event_id));
        let present: Vec<i64> = present.iter().map(|out| out.n).collect();
        self.progress.delivered += present.len() as u64;
        self.store.settle_present(&present)?;
        Ok(rest)
    }

    async fn landed(&mut self) -> Result<(), StepError> {
        let Some(flight) = self.flights.pop_front() else { return Ok(()) };
        self.progress.delivered += flight.rows.len() as u64;
        self.left = 0;
        self.stream_works = true;
        self.renewed = false;
        self.session.trouble = None;
        self.suspicion = None;
        self.suspects = 0;
        self.proven = true;
        self.batch_limit = (self.batch_limit * 2).min(self.policy.rows);
        // Suspects are next, or those that are frozen already.
        let others_wait = self.one_by_one && !self.flights.is_empty();
        if others_wait || self.store.suspect(0)?.is_some() {
            self.store.advance(Some(&flight.batch), None)?;
            return Ok(());
        }
        match self.freeze(Some(&flight.batch)).await {
            Ok(_) => Ok(()),
            Err(trouble) => {
                // A stream could not be had, say: what landed is recorded all the same.
                if !matches!(trouble, StepError::Store(_)) {
                    self.store.advance(Some(&flight.batch), None)?;
                }
                Err(trouble)
            }
        }
    }
}

/// Bytes that a row has besides its payload, about.
const ENVELOPE: usize = 300;

/// Where a batch goes, if it goes to a stream.
fn slot(batch: &Batch) -> Option<Slot<'_>> {
    batch.place.as_ref().map(|(stream, offset)| Slot { stream, offset: *offset, length: batch.length })
}

fn flight(batch: Batch, out: Vec<OutRow>, fresh: bool) -> Flight {
    let (numbers, rows): (Vec<i64>, Vec<Row>) = out.into_iter().map(|out| (out.n, out.row)).unzip();
    let size = rows.iter().map(|row| row.payload.as_ref().map_or(0, String::len) + ENVELOPE).sum();
    Flight { batch, numbers, rows, fresh, stumbles: 0, sent: false, size }
}

/// Why a step did not go on.
enum StepError {
    Refused(DeliveryError),
    Store(StoreError),
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
