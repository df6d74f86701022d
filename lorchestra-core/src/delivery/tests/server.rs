//! A server in memory: tables that outlive connections, and a script of what befalls the requests.

use super::*;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Not answered well; the work was not done, or was.
    Later {
        done: bool,
    },
    /// Never answered: whoever waits is killed.
    Silent {
        done: bool,
    },
    /// The server stumbles; it may be the request.
    Stumble,
    /// The server finalises the stream, or loses it, before it answers.
    Finalized,
    Gone,
    Missing,
    SchemaChanged,
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) rows: Vec<String>,
    pub(super) finalized: bool,
}

/// A server: tables outlive connections.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) rows: Vec<String>,
    pub(super) streams: HashMap<String, Stream>,
    pub(super) made: u32,
    pub(super) script: VecDeque<Fault>,
    pub(super) requests: u32,
    /// Rows with these ids are refused.
    pub(super) bad: HashSet<String>,
    /// The server will have no request with one of these in it, and does not say why: malformed, or it stumbles.
    pub(super) poison: HashMap<String, bool>,
    /// Batches of more rows are too large.
    pub(super) limit: usize,
    pub(super) unreadable: bool,
    /// What a look into the table is answered with.
    pub(super) look: Option<Refusal>,
}

pub(super) struct Table {
    pub(super) server: Rc<RefCell<Server>>,
    pub(super) streams: bool,
    pub(super) name: String,
}

pub(super) fn later() -> Refusal {
    Refusal::Later { reason: "503".into(), after: None, perhaps_request: false }
}

pub(super) fn stumbled() -> Refusal {
    Refusal::Later { reason: "500".into(), after: None, perhaps_request: true }
}

impl Table {
    /// What befalls the next request; the caller does its work when this says so.
    fn fault(&self) -> Fault {
        let mut server = self.server.borrow_mut();
        server.requests += 1;
        server.script.pop_front().unwrap_or(Fault::None)
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

    fn policy(&self) -> Policy {
        policy(100)
    }

    async fn connect(&mut self) -> Result<(), Refusal> {
        match self.fault() {
            Fault::Later { .. } => Err(later()),
            Fault::Silent { .. } => std::future::pending().await,
            Fault::Missing => Err(Refusal::TableMissing("no table".into())),
            _ => Ok(()),
        }
    }

    async fn create_stream(&mut self) -> Result<String, Refusal> {
        let fault = self.fault();
        let name = {
            let mut server = self.server.borrow_mut();
            server.made += 1;
            let name = format!("stream{}", server.made);
            server.streams.insert(name.clone(), Stream::default());
            name
        };
        match fault {
            Fault::Later { .. } => Err(later()),
            Fault::Silent { .. } => std::future::pending().await,
            _ => Ok(name),
        }
    }

    async fn append(&mut self, place: Place<'_>, rows: &[Row]) -> Result<Landed, Refusal> {
        let fault = self.fault();
        let answer = {
            let mut guard = self.server.borrow_mut();
            let server = &mut *guard;
            match (fault, place) {
                (Fault::Finalized, Place::Stream(Slot { stream, .. })) => {
                    server.streams.entry(stream.into()).and_modify(|stream| stream.finalized = true);
                }
                (Fault::Gone, Place::Stream(Slot { stream, .. })) => drop(server.streams.remove(stream)),
                (Fault::Later { done: false }, _) => return Err(later()),
                (Fault::Stumble, _) => {
                    return Err(stumbled());
                }
                (Fault::Missing, _) => return Err(Refusal::TableMissing("no table".into())),
                (Fault::SchemaChanged, _) => return Err(Refusal::SchemaChanged("columns".into())),
                _ => {}
            }
            if fault != (Fault::Silent { done: false }) { server.take(place, rows) } else { Err(later()) }
        };
        match fault {
            Fault::Silent { .. } => std::future::pending().await,
            Fault::Later { .. } => Err(later()),
            _ => answer,
        }
    }

    async fn finalize(&mut self, Slot { stream, .. }: Slot<'_>) -> Result<i64, Refusal> {
        match self.fault() {
            Fault::Later { .. } => return Err(later()),
            Fault::Silent { .. } => std::future::pending().await,
            _ => {}
        }
        let mut server = self.server.borrow_mut();
        let stream = server.streams.get_mut(stream).ok_or_else(|| Refusal::StreamGone("no stream".into()))?;
        stream.finalized = true;
        Ok(i64::try_from(stream.rows.len()).unwrap())
    }

    async fn present(&mut self, event_ids: &[&str]) -> Result<HashSet<String>, Refusal> {
        match self.fault() {
            Fault::Later { .. } => return Err(later()),
            Fault::Silent { .. } => std::future::pending().await,
            _ => {}
        }
        let server = self.server.borrow();
        if let Some(refusal) = &server.look {
            return Err(refusal.clone());
        }
        if server.unreadable {
            return Err(Refusal::Denied("no right to read".into()));
        }
        Ok(server.rows.iter().filter(|id| event_ids.contains(&id.as_str())).cloned().collect())
    }
}

impl Server {
    fn take(&mut self, place: Place<'_>, rows: &[Row]) -> Result<Landed, Refusal> {
        if rows.len() > self.limit {
            return Err(Refusal::TooLarge("413".into()));
        }
        let stream = match place {
            Place::Anywhere => None,
            Place::Stream(Slot { stream, offset, .. }) => {
                let Some(stream) = self.streams.get_mut(stream) else { return Err(Refusal::StreamGone("no stream".into())) };
                if stream.finalized {
                    return Err(Refusal::StreamFinalized("finalized".into()));
                }
                let (offset, length) = (usize::try_from(offset).unwrap(), stream.rows.len());
                if offset < length {
                    return Ok(Landed::Before);
                }
                if offset > length {
                    return Err(Refusal::StreamDamaged("beyond".into()));
                }
                Some(stream)
            }
        };
        if let Some(stumbles) = rows.iter().find_map(|row| self.poison.get(&row.event_id)) {
            return Err(if *stumbles { stumbled() } else { Refusal::Malformed("400".into()) });
        }
        let bad: Vec<RefusedRow> = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| self.bad.contains(&row.event_id))
            .map(|(index, _)| RefusedRow { index, reason: "invalid".into() })
            .collect();
        if !bad.is_empty() {
            return Err(Refusal::Rows(bad));
        }
        let ids = rows.iter().map(|row| row.event_id.clone());
        self.rows.extend(ids.clone());
        if let Some(stream) = stream {
            stream.rows.extend(ids);
        }
        Ok(Landed::Now)
    }
}
