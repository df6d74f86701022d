//! The destinations there are, by what is configured: the one place that lists them.

use super::bigquery::{BigQuery, BigQueryConfig};
use super::jsonl::{Jsonl, JsonlConfig};
use super::{Destination, Landed, Place, Policy, Refusal, Row, Slot};
use std::collections::HashSet;

/// A destination that is configured. At most one of each kind.
#[derive(Debug, Clone)]
pub enum DestinationConfig {
    /// A table of BigQuery.
    BigQuery(BigQueryConfig),
    /// A directory of JSON lines.
    Jsonl(JsonlConfig),
}

impl DestinationConfig {
    /// Names of all kinds, in the order in which they are listed.
    pub const NAMES: [&'static str; 2] = ["bigquery", "jsonl"];

    /// Its name: in the store, in the configuration, on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BigQuery(_) => "bigquery",
            Self::Jsonl(_) => "jsonl",
        }
    }

    /// Its name in a sentence.
    pub fn label(&self) -> &'static str {
        match self {
            Self::BigQuery(_) => "BigQuery",
            Self::Jsonl(_) => "jsonl",
        }
    }

    /// The destination. Makes no connection and reads no file.
    ///
    /// # Errors
    /// [`Refusal::Denied`], naming the setting.
    pub fn open(self) -> Result<AnyDestination, Refusal> {
        Ok(match self {
            Self::BigQuery(config) => AnyDestination::BigQuery(Box::new(BigQuery::new(config)?)),
            Self::Jsonl(config) => AnyDestination::Jsonl(Jsonl::new(config)),
        })
    }
}

/// One of them.
#[derive(Debug)]
pub enum AnyDestination {
    /// A table of BigQuery.
    BigQuery(Box<BigQuery>),
    /// A directory of JSON lines.
    Jsonl(Jsonl),
}

macro_rules! each {
    ($of:expr, $one:ident => $call:expr) => {
        match $of {
            AnyDestination::BigQuery($one) => $call,
            AnyDestination::Jsonl($one) => $call,
        }
    };
}

impl Destination for AnyDestination {
    fn name(&self) -> &str {
        each!(self, one => one.name())
    }

    fn route(&self) -> String {
        each!(self, one => one.route())
    }

    fn uses_streams(&self) -> bool {
        each!(self, one => one.uses_streams())
    }

    fn policy(&self) -> Policy {
        each!(self, one => one.policy())
    }

    fn length(&self, rows: &[Row]) -> i64 {
        each!(self, one => one.length(rows))
    }

    fn has_room(&self, slot: Slot<'_>) -> bool {
        each!(self, one => one.has_room(slot))
    }

    async fn connect(&mut self) -> Result<(), Refusal> {
        each!(self, one => one.connect().await)
    }

    async fn create_stream(&mut self) -> Result<String, Refusal> {
        each!(self, one => one.create_stream().await)
    }

    async fn append(&mut self, place: Place<'_>, rows: &[Row]) -> Result<Landed, Refusal> {
        each!(self, one => one.append(place, rows).await)
    }

    async fn finalize(&mut self, slot: Slot<'_>) -> Result<i64, Refusal> {
        each!(self, one => one.finalize(slot).await)
    }

    async fn present(&mut self, event_ids: &[&str]) -> Result<HashSet<String>, Refusal> {
        each!(self, one => one.present(event_ids).await)
    }
}
