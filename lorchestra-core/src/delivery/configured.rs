//! The configured destinations. The only place that lists the destination types.

use super::bigquery::{BigQuery, BigQueryConfig};
use super::jsonl::{Jsonl, JsonlConfig};
use super::live::{FlushRequest, Live, Report};
use super::openlineage::{OpenLineage, OpenLineageConfig};
use super::{BatchTarget, DeliveryError, DeliveryPolicy, Destination, Landed, Row, Slot};
use crate::host::signals::Signals;
use crate::host::state::StateDir;
use std::collections::HashSet;
use std::io;

/// A configured destination. There is at most one of each type.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there are three at most, and they are passed by reference")]
pub enum DestinationConfig {
    /// A table of BigQuery.
    BigQuery(BigQueryConfig),
    /// A directory of JSON lines.
    Jsonl(JsonlConfig),
    /// A lineage backend.
    OpenLineage(OpenLineageConfig),
}

impl DestinationConfig {
    /// Names of all types, in the order in which they are listed.
    pub const NAMES: [&'static str; 3] = ["bigquery", "jsonl", "openlineage"];

    /// The name in the store, in the configuration and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BigQuery(_) => "bigquery",
            Self::Jsonl(_) => "jsonl",
            Self::OpenLineage(_) => "openlineage",
        }
    }

    /// The name for use in a sentence.
    pub fn label(&self) -> &'static str {
        match self {
            Self::BigQuery(_) => "BigQuery",
            Self::Jsonl(_) => "jsonl",
            Self::OpenLineage(_) => "OpenLineage",
        }
    }

    /// The kind of object that receives events, which `events setup` creates.
    pub fn target_kind(&self) -> &'static str {
        match self {
            Self::BigQuery(_) => "table",
            Self::Jsonl(_) => "directory",
            Self::OpenLineage(_) => "endpoint",
        }
    }

    /// Opens the destination. Makes no connection and reads no file.
    ///
    /// # Errors
    /// [`DeliveryError::Denied`], which names the invalid setting.
    pub fn open(self) -> Result<AnyDestination, DeliveryError> {
        Ok(match self {
            Self::BigQuery(config) => AnyDestination::BigQuery(Box::new(BigQuery::new(config)?)),
            Self::Jsonl(config) => AnyDestination::Jsonl(Jsonl::new(config)),
            Self::OpenLineage(config) => AnyDestination::OpenLineage(OpenLineage::new(config)),
        })
    }
}

/// The delivery threads, one for each destination.
#[derive(Debug)]
pub struct Deliveries<'a> {
    to: &'a [DestinationConfig],
    lives: Vec<Live>,
}

impl<'a> Deliveries<'a> {
    /// Starts a delivery thread for each destination.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(to: &'a [DestinationConfig], state: &StateDir) -> io::Result<Self> {
        let start = |to: &DestinationConfig| {
            let (name, config) = (to.name(), to.clone());
            Live::start(state, name, move || config.open())
        };
        let lives = to.iter().map(start).collect::<Result<_, _>>()?;
        Ok(Self { to, lives })
    }

    /// The destinations.
    pub fn to(&self) -> &'a [DestinationConfig] {
        self.to
    }

    /// Asks all threads to deliver what is pending now, and returns at once.
    pub fn deliver_now(&self, request: &FlushRequest) {
        self.lives.iter().for_each(|live| live.deliver_now(request.clone()));
    }

    /// Ends all threads and returns the report of each.
    pub fn finish(self, request: &FlushRequest, signals: Option<&mut Signals>) -> Vec<(&'a DestinationConfig, Report)> {
        self.to.iter().zip(Live::finish(self.lives, request, signals)).collect()
    }
}

/// A destination of any type.
#[derive(Debug)]
pub enum AnyDestination {
    /// A table of BigQuery.
    BigQuery(Box<BigQuery>),
    /// A directory of JSON lines.
    Jsonl(Jsonl),
    /// A lineage backend.
    OpenLineage(OpenLineage),
}

macro_rules! each {
    ($of:expr, $one:ident => $call:expr) => {
        match $of {
            AnyDestination::BigQuery($one) => $call,
            AnyDestination::Jsonl($one) => $call,
            AnyDestination::OpenLineage($one) => $call,
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

    fn server(&self) -> &str {
        each!(self, one => one.server())
    }

    fn advice(&self) -> &'static str {
        each!(self, one => one.advice())
    }

    fn uses_streams(&self) -> bool {
        each!(self, one => one.uses_streams())
    }

    fn policy(&self) -> DeliveryPolicy {
        each!(self, one => one.policy())
    }

    fn length(&self, rows: &[Row]) -> i64 {
        each!(self, one => one.length(rows))
    }

    fn has_room(&self, slot: Slot<'_>) -> bool {
        each!(self, one => one.has_room(slot))
    }

    fn is_sent(&self, row: &Row) -> bool {
        each!(self, one => one.is_sent(row))
    }

    fn is_ahead(&self, slot: Slot<'_>) -> bool {
        each!(self, one => one.is_ahead(slot))
    }

    async fn connect(&mut self) -> Result<(), DeliveryError> {
        each!(self, one => one.connect().await)
    }

    async fn create_stream(&mut self) -> Result<String, DeliveryError> {
        each!(self, one => one.create_stream().await)
    }

    async fn append(&mut self, place: BatchTarget<'_>, rows: &[Row]) -> Result<Landed, DeliveryError> {
        each!(self, one => one.append(place, rows).await)
    }

    fn depth(&self) -> usize {
        each!(self, one => one.depth())
    }

    fn hang_up(&mut self) {
        each!(self, one => one.hang_up());
    }

    async fn send(&mut self, slot: Slot<'_>, rows: &[Row]) -> Result<(), DeliveryError> {
        each!(self, one => one.send(slot, rows).await)
    }

    async fn answer(&mut self, rows: &[Row]) -> Result<Landed, DeliveryError> {
        each!(self, one => one.answer(rows).await)
    }

    async fn finalize(&mut self, slot: Slot<'_>, rows: &[Row]) -> Result<i64, DeliveryError> {
        each!(self, one => one.finalize(slot, rows).await)
    }

    async fn present(&mut self, rows: &[Row]) -> Result<HashSet<String>, DeliveryError> {
        each!(self, one => one.present(rows).await)
    }
}
