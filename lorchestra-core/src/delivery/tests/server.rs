//! An in-memory server: its tables outlive connections, and a script injects faults into requests.

use super::*;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

/// The fault of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InjectedFault {
    None,
    /// Fails with a temporary error; `done` says whether the work was done.
    Later {
        done: bool,
    },
    /// Never answers: the waiting process is killed.
    Silent {
        done: bool,
    },
    /// An internal error, possibly caused by the request.
    Stumble,
    /// The server finalizes the stream, or loses it, before it answers.
    Finalized,
    Gone,
    Missing,
    LayoutChanged,
    /// Like [`InjectedFault::Gone`], but the stream still exists.
    GoneForAMoment,
    /// No answer; the work is done after this many more requests, if the stream still accepts it.
    Slow(u8),
    /// The server is restarted and has no streams.
    Restart,
    /// Refused without a reason; the work was not done.
    Precondition,
    /// Not permitted; the work was not done.
    Denied,
    /// No answer, and another writer's rows are at the position.
    Overtaken,
}

/// How a server answers for a stream that it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Unknown {
    #[default]
    Gone,
    Malformed,
    Precondition,
}

/// An append that the server has not processed yet.
#[derive(Debug)]
pub(super) struct Slow {
    after: u8,
    stream: String,
    offset: i64,
    rows: Vec<Row>,
}

#[derive(Debug, Default)]
pub(super) struct TestStream {
    pub(super) rows: Vec<String>,
    pub(super) finalized: bool,
}

/// A server, whose tables outlive connections.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) rows: Vec<String>,
    pub(super) streams: HashMap<String, TestStream>,
    pub(super) made: u32,
    pub(super) script: VecDeque<InjectedFault>,
    pub(super) requests: u32,
    /// Rows with these ids are refused.
    pub(super) bad: HashSet<String>,
    /// The server refuses every request with one of these rows and does not identify it: as malformed, or with an internal error.
    pub(super) poison: HashMap<String, bool>,
    /// Batches with more rows are too large.
    pub(super) limit: usize,
    pub(super) unreadable: bool,
    /// The answer to an append to a missing stream.
    pub(super) unknown: Unknown,
    pub(super) slow: Vec<Slow>,
    /// Every row is refused for this reason, followed by a different number.
    pub(super) every_row: Option<&'static str>,
    /// As soon as it has this many rows.
    pub(super) every_row_after: usize,
    /// This many times, a stream is finalized and there is no answer.
    pub(super) finalize_unanswered: u32,
    /// Streams cannot be finalized, for no given reason.
    pub(super) unclosable: bool,
    /// Maximum number of batches in flight.
    pub(super) depth: usize,
    /// Rows of other writers.
    pub(super) strangers: usize,
    /// Another writer that fills a position writes this many rows after it.
    pub(super) strangers_after: usize,
    /// The answer to a query of the table.
    pub(super) look: Option<DeliveryError>,
}

pub(super) struct Table {
    pub(super) server: Rc<RefCell<Server>>,
    pub(super) streams: bool,
    pub(super) name: String,
    /// Answers not read yet; `None` if there will be none.
    pub(super) answers: VecDeque<Option<Result<Landed, DeliveryError>>>,
}

pub(super) fn later() -> DeliveryError {
    DeliveryError::Later { reason: "503".into(), after: None, perhaps_request: false }
}

pub(super) fn stumbled() -> DeliveryError {
    DeliveryError::Later { reason: "500".into(), after: None, perhaps_request: true }
}

impl Table {
    /// Takes the fault of the next request, which also says whether the caller does its work.
    fn fault(&self) -> InjectedFault {
        let mut server = self.server.borrow_mut();
        server.requests += 1;
        server.process_delayed();
        server.script.pop_front().unwrap_or(InjectedFault::None)
    }

    async fn appended(&self, place: BatchTarget<'_>, rows: &[Row]) -> Result<Landed, DeliveryError> {
        let fault = self.fault();
        let answer = {
            let mut guard = self.server.borrow_mut();
            let server = &mut *guard;
            match (fault, place) {
                (InjectedFault::Finalized, BatchTarget::Stream(Slot { stream, .. })) => {
                    server.streams.entry(stream.into()).and_modify(|stream| stream.finalized = true);
                }
                (InjectedFault::Gone, BatchTarget::Stream(Slot { stream, .. })) => drop(server.streams.remove(stream)),
                (InjectedFault::Later { done: false }, _) => return Err(later()),
                (InjectedFault::Stumble, _) => {
                    return Err(stumbled());
                }
                (InjectedFault::GoneForAMoment, BatchTarget::Stream(_)) => {
                    return Err(DeliveryError::StreamGone("the server reports no stream".into()));
                }
                (InjectedFault::Denied, _) => return Err(DeliveryError::Forbidden("403".into())),
                (InjectedFault::Precondition, _) => return Err(DeliveryError::Precondition("no".into())),
                (InjectedFault::Restart, _) => server.streams.clear(),
                (InjectedFault::Slow(after), BatchTarget::Stream(Slot { stream, offset, .. })) => {
                    server.slow.push(Slow { after, stream: stream.to_owned(), offset, rows: rows.to_vec() });
                    return Err(later());
                }
                (InjectedFault::Overtaken, BatchTarget::Stream(Slot { stream, offset, length })) => {
                    server.overtake(stream, offset, length);
                    return Err(later());
                }
                (InjectedFault::Missing, _) => return Err(DeliveryError::TargetMissing("no table".into())),
                (InjectedFault::LayoutChanged, _) => return Err(DeliveryError::LayoutChanged("columns".into())),
                _ => {}
            }
            if fault != (InjectedFault::Silent { done: false }) { server.take(place, rows) } else { Err(later()) }
        };
        match fault {
            InjectedFault::Silent { .. } => std::future::pending().await,
            InjectedFault::Later { .. } => Err(later()),
            _ => answer,
        }
    }
}

impl Destination for Table {
    fn name(&self) -> &str {
        &self.name
    }

    fn route(&self) -> String {
        self.name.clone()
    }

    fn uses_streams(&self) -> bool {
        self.streams
    }

    fn policy(&self) -> DeliveryPolicy {
        policy(100)
    }

    async fn connect(&mut self) -> Result<(), DeliveryError> {
        match self.fault() {
            InjectedFault::Later { .. } => Err(later()),
            InjectedFault::Silent { .. } => std::future::pending().await,
            InjectedFault::Missing => Err(DeliveryError::TargetMissing("no table".into())),
            _ => Ok(()),
        }
    }

    async fn create_stream(&mut self) -> Result<String, DeliveryError> {
        let fault = self.fault();
        let name = {
            let mut server = self.server.borrow_mut();
            server.made += 1;
            let name = format!("stream{}", server.made);
            server.streams.insert(name.clone(), TestStream::default());
            name
        };
        match fault {
            InjectedFault::Later { .. } => Err(later()),
            InjectedFault::Silent { .. } => std::future::pending().await,
            _ => Ok(name),
        }
    }

    fn depth(&self) -> usize {
        if self.streams { self.server.borrow().depth } else { 1 }
    }

    fn hang_up(&mut self) {
        self.answers.clear();
    }

    async fn send(&mut self, slot: Slot<'_>, rows: &[Row]) -> Result<(), DeliveryError> {
        let mut appending = Box::pin(self.appended(BatchTarget::Stream(slot), rows));
        let answer = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match appending.as_mut().poll(cx) {
                std::task::Poll::Ready(answer) => Some(answer),
                std::task::Poll::Pending => None,
            })
        })
        .await;
        drop(appending);
        self.answers.push_back(answer);
        Ok(())
    }

    async fn answer(&mut self, _: &[Row]) -> Result<Landed, DeliveryError> {
        let answer = match self.answers.pop_front() {
            Some(Some(answer)) => answer,
            Some(None) => std::future::pending().await,
            None => Err(later()),
        };
        if answer != Ok(Landed::Now) {
            self.answers.clear();
        }
        answer
    }

    async fn append(&mut self, place: BatchTarget<'_>, rows: &[Row]) -> Result<Landed, DeliveryError> {
        self.answers.clear();
        self.appended(place, rows).await
    }

    async fn finalize(&mut self, Slot { stream, .. }: Slot<'_>, _: &[Row]) -> Result<i64, DeliveryError> {
        match self.fault() {
            InjectedFault::Later { .. } => return Err(later()),
            InjectedFault::Silent { .. } => std::future::pending().await,
            InjectedFault::Precondition => return Err(DeliveryError::Precondition("no".into())),
            _ => {}
        }
        let mut server = self.server.borrow_mut();
        if server.unclosable {
            return Err(DeliveryError::Precondition("no".into()));
        }
        let stream = server.streams.get_mut(stream).ok_or_else(|| DeliveryError::StreamGone("no stream".into()))?;
        stream.finalized = true;
        let length = i64::try_from(stream.rows.len()).unwrap();
        if server.finalize_unanswered > 0 {
            server.finalize_unanswered -= 1;
            return Err(later());
        }
        Ok(length)
    }

    async fn present(&mut self, rows: &[Row]) -> Result<HashSet<String>, DeliveryError> {
        match self.fault() {
            InjectedFault::Later { .. } => return Err(later()),
            InjectedFault::Silent { .. } => std::future::pending().await,
            _ => {}
        }
        let server = self.server.borrow();
        if let Some(refusal) = &server.look {
            return Err(refusal.clone());
        }
        if server.unreadable {
            return Err(DeliveryError::Forbidden("no right to read".into()));
        }
        Ok(server.rows.iter().filter(|id| rows.iter().any(|row| row.event_id == **id)).cloned().collect())
    }
}

impl Server {
    /// Processes delayed appends that are due.
    fn process_delayed(&mut self) {
        let (due, mut rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.slow).into_iter().partition(|slow| slow.after == 0);
        rest.iter_mut().for_each(|slow| slow.after -= 1);
        self.slow = rest;
        for Slow { stream, offset, rows, .. } in due {
            let length = i64::try_from(rows.len()).unwrap();
            let _ = self.take(BatchTarget::Stream(Slot { stream: &stream, offset, length }), &rows);
        }
    }

    /// Another writer fills exactly this position.
    fn overtake(&mut self, stream: &str, offset: i64, length: i64) {
        let Some(stream) = self.streams.get_mut(stream) else { return };
        if !stream.finalized && i64::try_from(stream.rows.len()).unwrap() == offset {
            let count = usize::try_from(length).unwrap() + self.strangers_after;
            stream.rows.extend((0..count).map(|n| format!("stranger {offset} {n}")));
            self.strangers += count;
        }
    }

    fn take(&mut self, place: BatchTarget<'_>, rows: &[Row]) -> Result<Landed, DeliveryError> {
        if rows.len() > self.limit {
            return Err(DeliveryError::TooLarge("413".into()));
        }
        let stream = match place {
            BatchTarget::Anywhere => None,
            BatchTarget::Stream(Slot { stream, offset, .. }) => {
                let Some(stream) = self.streams.get_mut(stream) else {
                    return Err(match self.unknown {
                        Unknown::Gone => DeliveryError::StreamGone("no stream".into()),
                        Unknown::Malformed => DeliveryError::Malformed("400".into()),
                        Unknown::Precondition => DeliveryError::Precondition("no".into()),
                    });
                };
                if stream.finalized {
                    return Err(DeliveryError::StreamFinalized("finalized".into()));
                }
                let (offset, length) = (usize::try_from(offset).unwrap(), stream.rows.len());
                if offset < length {
                    return Ok(Landed::Before);
                }
                if offset > length {
                    return Err(DeliveryError::StreamDamaged("beyond".into()));
                }
                Some(stream)
            }
        };
        if let Some(stumbles) = rows.iter().find_map(|row| self.poison.get(&row.event_id)) {
            return Err(if *stumbles { stumbled() } else { DeliveryError::Malformed("400".into()) });
        }
        if let Some(reason) = self.every_row.filter(|_| self.rows.len() >= self.every_row_after) {
            let refused = |index: usize| RefusedRow { index, reason: format!("{reason} {index}") };
            return Err(DeliveryError::Rows((0..rows.len()).map(refused).collect()));
        }
        let bad: Vec<RefusedRow> = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| self.bad.contains(&row.event_id))
            .map(|(index, _)| RefusedRow { index, reason: "invalid".into() })
            .collect();
        if !bad.is_empty() {
            return Err(DeliveryError::Rows(bad));
        }
        let ids = rows.iter().map(|row| row.event_id.clone());
        self.rows.extend(ids.clone());
        if let Some(stream) = stream {
            stream.rows.extend(ids);
        }
        Ok(Landed::Now)
    }
}
