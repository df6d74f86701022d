//! The order of deliveries, against a table in memory that fails in every way a server can, at any moment.

use super::*;
use crate::spool::Cursor;
use crate::spool::record::{self, Record};
use crate::state::StateDir;
use crate::store::{NewRun, Store};
use proptest::prelude::*;
use serde_json::json;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Not answered well; the work was not done, or was.
    Later {
        done: bool,
    },
    /// Never answered: whoever waits is killed.
    Silent {
        done: bool,
    },
    /// An answer that may hide "too large".
    Unreadable,
    /// The server finalises the stream, or loses it, before it answers.
    Finalized,
    Gone,
    Missing,
    SchemaChanged,
}

#[derive(Debug, Default)]
struct Stream {
    rows: Vec<String>,
    finalized: bool,
}

/// A server: tables outlive connections.
#[derive(Debug, Default)]
struct Server {
    rows: Vec<String>,
    streams: HashMap<String, Stream>,
    made: u32,
    script: VecDeque<Fault>,
    requests: u32,
    /// Rows with these ids are refused.
    bad: HashSet<String>,
    /// Batches of more rows are too large.
    limit: usize,
    unreadable: bool,
}

struct Table {
    server: Rc<RefCell<Server>>,
    streams: bool,
    name: String,
}

fn later() -> Refusal {
    Refusal::Later { reason: "503".into(), after: None, perhaps_too_large: false }
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

    fn uses_streams(&self) -> bool {
        self.streams
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
                (Fault::Finalized, Place::Stream { stream, .. }) => {
                    server.streams.entry(stream.into()).and_modify(|stream| stream.finalized = true);
                }
                (Fault::Gone, Place::Stream { stream, .. }) => drop(server.streams.remove(stream)),
                (Fault::Later { done: false }, _) => return Err(later()),
                (Fault::Unreadable, _) => {
                    return Err(Refusal::Later { reason: "html".into(), after: None, perhaps_too_large: true });
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

    async fn finalize(&mut self, stream: &str) -> Result<i64, Refusal> {
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
            Place::Table => None,
            Place::Stream { stream, offset } => {
                let Some(stream) = self.streams.get_mut(stream) else { return Err(Refusal::StreamGone("no stream".into())) };
                if stream.finalized {
                    return Err(Refusal::StreamFinalized("finalized".into()));
                }
                let (offset, length) = (usize::try_from(offset).unwrap(), stream.rows.len());
                if offset < length {
                    return Ok(Landed::Before);
                }
                if offset > length {
                    return Err(Refusal::OffsetBeyondEnd("beyond".into()));
                }
                Some(stream)
            }
        };
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

struct Site {
    _dir: tempfile::TempDir,
    state: StateDir,
}

fn site() -> Site {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(&dir.path().join("state")).unwrap();
    Site { _dir: dir, state }
}

fn new_run() -> NewRun {
    NewRun {
        run_id: "run".into(),
        package: "pkg".into(),
        job: "job".into(),
        account: None,
        started_at: 1,
        params: json!({}),
        since: None,
        until: None,
        plugin_path: String::new(),
        plugin_version: String::new(),
        plugin_sha256: String::new(),
        location: String::new(),
        host: String::new(),
        supervisor_pid: 1,
        supervisor_start: 1,
        boot_id: String::new(),
        worker_pid: 1,
    }
}

/// A store with `count` events of one run beside its `job.started`; the ids of all.
fn filled(site: &Site, count: usize) -> (Store, Vec<String>) {
    let mut store = Store::open(&site.state).unwrap();
    store.begin_run(&new_run(), &json!({})).unwrap();
    let lines: Vec<Vec<u8>> = (0..count)
        .map(|i| {
            let mut line = Vec::new();
            let json = json!({"seq": i + 1, "event": {"id": format!("e{i}"), "at": 5, "type": "t", "payload": {"i": i}}});
            record::frame(&mut line, |out| out.extend_from_slice(json.to_string().as_bytes()));
            line.pop();
            line
        })
        .collect();
    let records: Vec<Record<'_>> = lines.iter().map(|line| record::parse(line).unwrap()).collect();
    store.take_in("run", 1, &records, Cursor::default(), 0, &mut Default::default()).unwrap();
    let ids = store.pending_rows(usize::MAX, usize::MAX).unwrap().into_iter().map(|out| out.row.event_id).collect();
    (store, ids)
}

fn policy(rows: usize) -> Policy {
    Policy {
        rows,
        bytes: usize::MAX,
        first_wait: Duration::from_millis(10),
        longest_wait: Duration::from_secs(1),
        failures: 4,
        circuit: Duration::from_secs(60),
        stream_idle: Duration::from_secs(3600),
    }
}

fn server(script: impl IntoIterator<Item = Fault>) -> Rc<RefCell<Server>> {
    Rc::new(RefCell::new(Server { script: script.into_iter().collect(), limit: usize::MAX, ..Server::default() }))
}

fn table(server: &Rc<RefCell<Server>>, streams: bool) -> Table {
    Table { server: Rc::clone(server), streams, name: "p.d.t".into() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// One process after another delivers, each for twice ten seconds at most, until nothing is pending.
fn deliver_all(store: &mut Store, server: &Rc<RefCell<Server>>, streams: bool, rows: usize) {
    let runtime = runtime();
    for _ in 0..200 {
        let mut session = Session::new(table(server, streams));
        runtime.block_on(async {
            let mut progress = Progress::default();
            let mut deliverer = Deliverer::new(store, &mut session, policy(rows), &mut progress);
            // Given up and taken up again, as beside a run.
            for _ in 0..2 {
                let _ = tokio::time::timeout(Duration::from_secs(10), deliverer.drain(false)).await;
            }
        });
        if store.backlog(None).unwrap().pending == 0 {
            return;
        }
    }
    panic!("never done: {:?}", server.borrow());
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        3 => Just(Fault::None),
        2 => any::<bool>().prop_map(|done| Fault::Later { done }),
        2 => any::<bool>().prop_map(|done| Fault::Silent { done }),
        1 => Just(Fault::Unreadable),
        1 => Just(Fault::Finalized),
        1 => Just(Fault::Gone),
        1 => Just(Fault::Missing),
        1 => Just(Fault::SchemaChanged),
    ];
    prop::collection::vec(fault, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever fails and whoever dies: each event is in the table once, or set aside because the server refused it.
    #[test]
    fn streams_deliver_exactly_once(
        script in faults(), count in 0_usize..60, rows in 1_usize..20, limit in 1_usize..20, bad in prop::collection::hash_set(0_usize..60, 0..4),
    ) {
        let site = site();
        let (mut store, ids) = filled(&site, count);
        let server = server(script);
        server.borrow_mut().limit = limit;
        server.borrow_mut().bad = bad.iter().map(|i| format!("e{i}")).collect();
        deliver_all(&mut store, &server, true, rows);
        let server = server.borrow();
        let expected: Vec<&String> = ids.iter().filter(|id| !server.bad.contains(*id)).collect();
        prop_assert_eq!(server.rows.iter().collect::<Vec<_>>(), expected);
        let backlog = store.backlog(None).unwrap();
        prop_assert_eq!((backlog.pending, backlog.refused, backlog.uncertain), (0, (ids.len() - server.rows.len()) as u64, 0));
    }

    #[test]
    fn single_requests_deliver_at_least_once(
        script in faults(), count in 0_usize..60, rows in 1_usize..20, limit in 1_usize..20, bad in prop::collection::hash_set(0_usize..60, 0..4),
    ) {
        let site = site();
        let (mut store, ids) = filled(&site, count);
        let server = server(script);
        server.borrow_mut().limit = limit;
        server.borrow_mut().bad = bad.iter().map(|i| format!("e{i}")).collect();
        deliver_all(&mut store, &server, false, rows);
        let server = server.borrow();
        let expected: HashSet<&String> = ids.iter().filter(|id| !server.bad.contains(*id)).collect();
        prop_assert_eq!(server.rows.iter().collect::<HashSet<_>>(), expected);
    }
}

/// A batch of unknown fate, a stream that is gone, and no right to read: kept as uncertain; nothing else waits for it.
#[test]
fn what_cannot_be_found_out_is_uncertain_until_it_is_sent_again() {
    let site = site();
    let (mut store, ids) = filled(&site, 9);
    let server = server([Fault::None, Fault::None, Fault::Later { done: true }, Fault::Gone]);
    server.borrow_mut().unreadable = true;
    deliver_all(&mut store, &server, true, 5);
    let backlog = store.backlog(None).unwrap();
    assert_eq!((backlog.pending, backlog.uncertain), (0, 5));
    assert_eq!(server.borrow().rows.len(), ids.len(), "they were there, which nobody may know");
    let mut session = Session::new(table(&server, true));
    runtime().block_on(async {
        Deliverer::new(&mut store, &mut session, policy(5), &mut Progress::default()).resend_uncertain().await.unwrap();
    });
    assert_eq!(store.backlog(None).unwrap().uncertain, 0);
    assert_eq!(server.borrow().rows.len(), ids.len() + 5, "sent again on request, and so twice");
}

#[test]
fn a_destination_that_fails_is_left_alone() {
    let site = site();
    let (mut store, _) = filled(&site, 3);
    let server = server([Fault::Later { done: false }; 100]);
    let mut session = Session::new(table(&server, true));
    let stopped = runtime()
        .block_on(async { Deliverer::new(&mut store, &mut session, policy(5), &mut Progress::default()).drain(false).await });
    assert!(matches!(stopped, Err(Stopped::Unreachable(_))), "{stopped:?}");
    assert_eq!(server.borrow().requests, 4, "attempts are bounded");
    let circuit = store.circuit(crate::now_micros()).unwrap().unwrap();
    assert_eq!(circuit.reason, "503");
    assert!(store.circuit(crate::now_micros() + 61_000_000).unwrap().is_none(), "for a minute");
}

#[test]
fn a_table_that_is_not_there_is_told_after_some_patience() {
    let site = site();
    let (mut store, _) = filled(&site, 3);
    let server = server([Fault::Missing; 100]);
    let mut session = Session::new(table(&server, false));
    let stopped = runtime()
        .block_on(async { Deliverer::new(&mut store, &mut session, policy(5), &mut Progress::default()).drain(true).await });
    assert!(matches!(stopped, Err(Stopped::Blocked(Refusal::TableMissing(_)))), "{stopped:?}");
    assert_eq!(server.borrow().requests, 4);
    assert_eq!(store.backlog(None).unwrap().pending, 4);
}

/// The state directory was copied, and both go on: what is in the stream is the other one's.
#[test]
fn another_writer_in_the_stream_is_not_mistaken_for_us() {
    let site = site();
    let (mut store, ids) = filled(&site, 4);
    let server = server([]);
    deliver_all(&mut store, &server, true, 2);
    server.borrow_mut().streams.get_mut("stream1").unwrap().rows.extend(["x", "y", "z"].map(String::from));
    store.begin_run(&NewRun { run_id: "second".into(), ..new_run() }, &json!({})).unwrap();
    deliver_all(&mut store, &server, true, 2);
    assert_eq!(server.borrow().rows.len(), ids.len() + 1);
    assert_eq!(server.borrow().streams.len(), 2, "a stream of its own");
}

/// The configuration names another table while a batch is on its way to the first.
#[test]
fn a_batch_for_the_table_before_is_settled_there() {
    for done in [true, false] {
        let site = site();
        let (mut store, ids) = filled(&site, 4);
        let server = server([Fault::None, Fault::None, Fault::Silent { done }]);
        let runtime = runtime();
        let mut first = Session::new(table(&server, true));
        runtime.block_on(async {
            let mut progress = Progress::default();
            let mut deliverer = Deliverer::new(&mut store, &mut first, policy(100), &mut progress);
            assert!(tokio::time::timeout(Duration::from_secs(1), deliverer.drain(false)).await.is_err());
        });
        let mut second = Session::new(Table { server: Rc::clone(&server), streams: true, name: "p.d.other".into() });
        runtime.block_on(async {
            Deliverer::new(&mut store, &mut second, policy(100), &mut Progress::default()).drain(false).await.unwrap();
        });
        assert_eq!(server.borrow().rows, ids, "once, in one of the two");
    }
}
