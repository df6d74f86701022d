//! `--from bigquery` of `status`, `runs list` and `report`: the runs of all hosts, read from the events table into a temporary store. The
//! commands then answer from that store as from the one of this host, so both give the same answers.

use super::delivery::{invalid, refused};
use super::setup::blocking;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::Settings;
use clap::{Args, ValueEnum};
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::delivery::bigquery::BigQuery;
use lorchestra_core::host::clock::now_micros;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::store::OwnType;
use lorchestra_core::store::Store;
use lorchestra_core::store::fleet::FleetEvent;

/// Number of days that are read by default.
const DAYS: i64 = 30;
const DAY: i64 = 86_400_000_000;

/// Where to read runs from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum RunSource {
    /// The store of this host
    #[default]
    Store,
    /// The events table: the runs of all hosts, as far as their events are delivered
    Bigquery,
}

/// The flag of commands that can answer for all hosts.
#[derive(Debug, Default, Args)]
pub(crate) struct From {
    /// Read runs from the store of this host, or those of all hosts in the last 30 days from the events table
    #[arg(long, value_enum, default_value_t, value_name = "SOURCE", hide_possible_values = true)]
    pub(crate) from: RunSource,
}

/// The runs of all hosts.
pub(super) struct Fleet {
    pub(super) history: (StateDir, Store),
    /// Removed at the end.
    _dir: tempfile::TempDir,
}

impl Fleet {
    /// Reads the events since a time, or of the last 30 days.
    pub(super) fn read(since: Option<i64>, settings: &Settings) -> Result<Self, CommandError> {
        let config = settings.destinations.iter().find_map(|to| match to {
            DestinationConfig::BigQuery(config) => Some(config.clone()),
            _ => None,
        });
        let config = config.ok_or_else(|| {
            CommandError::new(Code::Config, "--from bigquery needs the events table, and no BigQuery table is configured")
                .hint("set BQ_EVENTS_DATASET and BQ_EVENTS_TABLE, or destinations.bigquery in config.toml")
        })?;
        let mut table = BigQuery::new(config).map_err(|refusal| invalid(&refusal))?;
        let until = now_micros() + DAY;
        let since = since.unwrap_or(until - (DAYS + 1) * DAY);
        let found = blocking(table.events_of_types(&OwnType::ALL.map(OwnType::as_str), (since, until)))?
            .map_err(|refusal| refused(&refusal))?;
        let events: Vec<FleetEvent> = found
            .iter()
            .map(|text| serde_json::from_str(text))
            .collect::<Result<_, _>>()
            .map_err(|error| CommandError::new(Code::Internal, format!("an event of the table cannot be read: {error}")))?;
        let failed = |error: std::io::Error| CommandError::new(Code::NotWritable, format!("no temporary directory: {error}"));
        let dir = tempfile::Builder::new().prefix("lorchestra-fleet-").tempdir().map_err(failed)?;
        let state = StateDir::open(&dir.path().join("state"))?;
        let mut store = Store::open(&state)?;
        store.fill(&events)?;
        Ok(Self { history: (state, store), _dir: dir })
    }
}
