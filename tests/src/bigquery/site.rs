//! A sandbox whose configuration names a table of a fake, with checks that compare the table with the store.

use super::fake::{Fake, Method, TableName};
use crate::{Fixture, Sandbox};
use std::collections::{BTreeMap, HashMap, HashSet};

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Committed streams: each event once.
    Storage,
    /// insertAll: each event at least once.
    InsertAll,
}

/// Both methods.
pub const BOTH: [Write; 2] = [Write::Storage, Write::InsertAll];

/// The request that carries events.
pub fn carrier(write: Write) -> Method {
    if write == Write::Storage { Method::AppendRows } else { Method::InsertAll }
}

/// A sandbox, and the fake to which its commands deliver.
#[derive(Debug)]
pub struct Site {
    /// The sandbox of the commands.
    pub sandbox: Sandbox,
    /// The server that receives their events.
    pub fake: Fake,
    /// The table.
    pub table: TableName,
}

impl Site {
    /// With a table that has all columns.
    pub fn new(write: Write) -> Self {
        let site = Self::without_table(write);
        site.fake.create_event_table(&site.table);
        site
    }

    /// Without a table or dataset.
    pub fn without_table(write: Write) -> Self {
        let site = Self {
            sandbox: Sandbox::with(&[Fixture::Misbehave]),
            fake: Fake::start(),
            table: TableName::parse("p1.lorchestra.events"),
        };
        site.configure(write, "");
        site
    }

    /// Writes a new configuration; `more` is appended.
    pub fn configure(&self, write: Write, more: &str) {
        let write = if write == Write::Storage { "storage-write" } else { "insert-all" };
        self.sandbox.configure(&format!(
            "[destinations.bigquery]\nproject = \"p1\"\ndataset = \"lorchestra\"\ntable = \"events\"\nwrite = \"{write}\"\n\
             endpoint = \"{}\"\nstorage_endpoint = \"{}\"\n{more}",
            self.fake.rest_endpoint(),
            self.fake.grpc_endpoint(),
        ));
    }

    /// Delivers pending events, and returns how many there were.
    #[track_caller]
    pub fn flushed(&self) -> u64 {
        let ended = self.sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]).exits(0);
        if ended.err() == "No events yet.\n" {
            return 0;
        }
        let text = ended.out().strip_prefix("Delivered ").and_then(|rest| rest.split(' ').next()).map(str::parse);
        text.and_then(Result::ok).unwrap_or_else(|| panic!("not a number of events: {}", ended.shown()))
    }

    /// Ids of all events of the store, oldest first.
    #[track_caller]
    pub fn stored(&self) -> Vec<String> {
        let listed = self.sandbox.lorchestra(&["events", "list", "--json"]).exits(0);
        let lines = listed.json_lines("lorchestra.event/1");
        lines.iter().map(|event| event["event_id"].as_str().expect("an event has an id").to_owned()).collect()
    }

    /// Ids of all rows of the table, as they arrived.
    pub fn delivered(&self) -> Vec<String> {
        let rows = self.fake.rows(&self.table);
        rows.iter().map(|row| row.values["event_id"].as_str().expect("a row has an id").to_owned()).collect()
    }

    /// Checks that everything in the store is in the table; with streams: exactly once, with each run's events in order. (Between runs, the
    /// table is ordered by insertion into the store, and a listing by time.)
    #[track_caller]
    pub fn all_is_delivered(&self, write: Write, label: &str) {
        let (stored, delivered) = (self.stored(), self.delivered());
        if write == Write::Storage {
            assert_eq!(delivered.len(), stored.len(), "{label}: rows and events");
            let listed = self.sandbox.lorchestra(&["events", "list", "--json"]).exits(0);
            let lines = listed.json_lines("lorchestra.event/1");
            let run_of: HashMap<&str, &str> =
                lines.iter().map(|event| (event["event_id"].as_str().unwrap(), event["run_id"].as_str().unwrap())).collect();
            let by_run = |ids: &[String]| {
                let mut runs: BTreeMap<String, Vec<String>> = BTreeMap::new();
                for id in ids {
                    let run = run_of.get(id.as_str()).copied().unwrap_or_default().to_owned();
                    runs.entry(run).or_default().push(id.clone());
                }
                runs
            };
            assert!(by_run(&delivered) == by_run(&stored), "{label}: the rows are not the same as the events, in the same order");
        } else {
            let distinct: HashSet<&String> = delivered.iter().collect();
            assert!(distinct == stored.iter().collect(), "{label}: {} of {} arrived", distinct.len(), stored.len());
        }
    }
}
