//! `events setup`: creates what a destination lacks, and tests it.

use super::delivery::{no_thread, refused, warn_once};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use lorchestra_core::delivery::bigquery::{BigQuery, BigQueryConfig, setup};
use lorchestra_core::delivery::jsonl::{self, JsonlConfig};
use lorchestra_core::delivery::openlineage::{OpenLineage, OpenLineageConfig};
use lorchestra_core::delivery::{Destination as _, DestinationConfig};
use lorchestra_core::plan::duration;
use std::time::Duration;

/// Default time to wait until the test row can be read.
const PROBE: Duration = Duration::from_secs(180);

/// `events setup`.
pub(super) fn set_up(
    dry_run: bool,
    timeout: Option<Duration>,
    to: Vec<DestinationConfig>,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    warn_once(settings, printer);
    for to in to {
        match to {
            DestinationConfig::BigQuery(config) => table(config, dry_run, timeout.unwrap_or(PROBE), printer)?,
            DestinationConfig::Jsonl(config) => directory(&config, dry_run, printer)?,
            DestinationConfig::OpenLineage(config) => endpoint(config, dry_run, printer)?,
        }
    }
    Ok(Code::Success)
}

fn table(config: BigQueryConfig, dry_run: bool, limit: Duration, printer: &mut Printer) -> Result<(), CommandError> {
    let mut table = BigQuery::new(config).map_err(|refusal| refused(&refusal))?;
    let late = || CommandError::new(Code::Undelivered, format!("BigQuery did not respond within {}", duration::show(limit)));
    let plan = blocking(async { tokio::time::timeout(limit, setup::plan(&mut table)).await })?;
    let plan = plan.map_err(|_| late())?.map_err(|refusal| refused(&refusal))?;
    let prefix = if dry_run { "would " } else { "" };
    for step in &plan.steps {
        printer.line(format_args!("{prefix}{step}"));
    }
    if dry_run {
        if plan.steps.is_empty() {
            printer.line(format_args!("{} needs no changes", plan.table));
        }
        return Ok(());
    }
    printer.flush();
    let done = blocking(async {
        match tokio::time::timeout(limit, setup::apply(&mut table, &plan)).await {
            Ok(Ok(())) => Ok(setup::probe(&mut table, limit).await),
            Ok(Err(refusal)) => Ok(Err(refusal)),
            Err(_) => Err(late()),
        }
    })??;
    let event_id = done.map_err(|refusal| refused(&refusal))?;
    printer.good(format_args!("{} is ready: wrote event {event_id} and read it back", plan.table));
    Ok(())
}

/// Returns what `events setup` would create. Changes nothing.
pub(super) fn missing(config: BigQueryConfig, limit: Duration) -> Result<Vec<String>, CommandError> {
    let mut table = BigQuery::new(config).map_err(|refusal| refused(&refusal))?;
    let late = || CommandError::new(Code::Undelivered, format!("BigQuery did not respond within {}", duration::show(limit)));
    let plan = blocking(async { tokio::time::timeout(limit, setup::plan(&mut table)).await })?;
    let plan = plan.map_err(|_| late())?.map_err(|refusal| refused(&refusal))?;
    Ok(plan.steps.iter().map(ToString::to_string).collect())
}

fn directory(config: &JsonlConfig, dry_run: bool, printer: &mut Printer) -> Result<(), CommandError> {
    let dir = config.dir.display();
    let missing = jsonl::missing(config).map_err(|refusal| refused(&refusal))?;
    if missing {
        printer.line(format_args!("{}create directory {dir}", if dry_run { "would " } else { "" }));
    }
    if dry_run {
        if !missing {
            printer.line(format_args!("{dir} needs no changes"));
        }
        return Ok(());
    }
    jsonl::set_up(config).map_err(|refusal| refused(&refusal))?;
    printer.good(format_args!("{dir} is ready: wrote and removed a test file"));
    Ok(())
}

fn endpoint(config: OpenLineageConfig, dry_run: bool, printer: &mut Printer) -> Result<(), CommandError> {
    let url = config.url.clone();
    if dry_run {
        printer.line(format_args!("{url} needs no changes"));
        return Ok(());
    }
    let mut backend = OpenLineage::new(config);
    blocking(async { backend.connect().await })?.map_err(|refusal| refused(&refusal))?;
    printer.good(format_args!("{url} answers"));
    Ok(())
}

/// Runs asynchronous work to its end, in a command that does nothing else.
pub(super) fn blocking<T>(work: impl Future<Output = T>) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_thread)?;
    Ok(runtime.block_on(work))
}
