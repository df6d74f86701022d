//! `events setup`: creates what a destination lacks, and tests it.

use super::delivery::{invalid, no_thread, refused, warn_once};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::wire::SetupObject;
use lorchestra_core::delivery::bigquery::{BigQuery, BigQueryConfig, setup};
use lorchestra_core::delivery::jsonl::{self, JsonlConfig};
use lorchestra_core::delivery::openlineage::{OpenLineage, OpenLineageConfig};
use lorchestra_core::delivery::{DeliveryError, Destination as _, DestinationConfig};
use lorchestra_core::host::files::check_writable;
use lorchestra_core::plan::duration;
use lorchestra_core::text::path_text;
use std::path::Path;
use std::time::Duration;

/// Default time to wait until the test row can be read.
const PROBE: Duration = Duration::from_secs(180);

/// `events setup`.
pub(super) fn set_up(
    [dry_run, json]: [bool; 2],
    timeout: Option<Duration>,
    to: Vec<DestinationConfig>,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    warn_once(settings, printer);
    for to in to {
        let destination = to.name();
        let mut progress = SetupProgress { dry_run, json, printer };
        let prepared = match to {
            DestinationConfig::BigQuery(config) => table(config, timeout.unwrap_or(PROBE), &mut progress)?,
            DestinationConfig::Jsonl(config) => directory(&config, &mut progress)?,
            DestinationConfig::OpenLineage(config) => endpoint(config, &mut progress)?,
        };
        let PreparedTarget { target, steps, event_id, result } = prepared;
        if json {
            printer.json(&SetupObject { schema: "lorchestra.events-setup/1", destination, target, dry_run, steps, event_id });
        } else if !dry_run {
            printer.good(result);
        } else if steps.is_empty() {
            printer.line(format_args!("{target} needs no changes"));
        }
    }
    Ok(Code::Success)
}

/// A destination that has, or would have, what it needs.
struct PreparedTarget {
    target: String,
    steps: Vec<String>,
    event_id: Option<String>,
    /// What to print about a destination that is ready.
    result: String,
}

/// Prints the steps for people when they are known, before they take their time.
struct SetupProgress<'a> {
    dry_run: bool,
    json: bool,
    printer: &'a mut Printer,
}

impl SetupProgress<'_> {
    fn steps(&mut self, steps: &[String]) {
        let prefix = if self.dry_run { "would " } else { "" };
        if !self.json {
            steps.iter().for_each(|step| self.printer.line(format_args!("{prefix}{step}")));
            self.printer.flush();
        }
    }
}

fn table(config: BigQueryConfig, limit: Duration, progress: &mut SetupProgress<'_>) -> Result<PreparedTarget, CommandError> {
    let mut table = BigQuery::new(config).map_err(|refusal| invalid(&refusal))?;
    let late = || CommandError::new(Code::Undelivered, format!("BigQuery did not respond within {}", duration::show(limit)));
    let plan = blocking(async { tokio::time::timeout(limit, setup::plan(&mut table)).await })?;
    let plan = plan.map_err(|_| late())?.map_err(|refusal| refused(&refusal))?;
    let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    let target = plan.table.clone();
    progress.steps(&steps);
    if progress.dry_run {
        return Ok(PreparedTarget { target, steps, event_id: None, result: String::new() });
    }
    let done = blocking(async {
        match tokio::time::timeout(limit, setup::apply(&mut table, &plan)).await {
            Ok(Ok(())) => Ok(setup::probe(&mut table, limit).await),
            Ok(Err(refusal)) => Ok(Err(refusal)),
            Err(_) => Err(late()),
        }
    })??;
    let event_id = done.map_err(|refusal| refused(&refusal))?;
    let result = format!("{target} is ready: wrote event {event_id} and read it back");
    Ok(PreparedTarget { target, steps, event_id: Some(event_id), result })
}

/// Returns what `events setup` would create. Changes nothing.
pub(super) fn missing(config: BigQueryConfig, limit: Duration) -> Result<Vec<String>, CommandError> {
    let mut table = BigQuery::new(config).map_err(|refusal| invalid(&refusal))?;
    let late = || CommandError::new(Code::Undelivered, format!("BigQuery did not respond within {}", duration::show(limit)));
    let plan = blocking(async { tokio::time::timeout(limit, setup::plan(&mut table)).await })?;
    let plan = plan.map_err(|_| late())?.map_err(|refusal| refused(&refusal))?;
    Ok(plan.steps.iter().map(ToString::to_string).collect())
}

fn directory(config: &JsonlConfig, progress: &mut SetupProgress<'_>) -> Result<PreparedTarget, CommandError> {
    let target = config.dir.display().to_string();
    let missing = jsonl::missing(config).map_err(|refusal| refused(&refusal))?;
    let steps: Vec<String> = missing.then(|| format!("create directory {target}")).into_iter().collect();
    progress.steps(&steps);
    if !progress.dry_run {
        jsonl::set_up(config).map_err(|refusal| not_prepared(&config.dir, &refusal))?;
    }
    let result = format!("{target} is ready: wrote and removed a test file");
    Ok(PreparedTarget { target, steps, event_id: None, result })
}

/// The error for a directory that cannot be created or written: names the permission that is missing, and what to do.
fn not_prepared(dir: &Path, refusal: &DeliveryError) -> CommandError {
    let existing = dir.ancestors().find(|at| at.exists()).unwrap_or(dir);
    match check_writable(existing) {
        Ok(()) => refused(refusal),
        Err(error) => {
            let failure = CommandError::refused(Code::Undelivered, &format!("cannot write to {}", path_text(dir)), dir, &error);
            let or = if failure.hints.is_empty() { "" } else { "or " };
            failure.hint(format!("{or}set dir in [destinations.jsonl] in config.toml to a directory that this user may write to"))
        }
    }
}

fn endpoint(config: OpenLineageConfig, progress: &mut SetupProgress<'_>) -> Result<PreparedTarget, CommandError> {
    let target = config.url.clone();
    if !progress.dry_run {
        let mut backend = OpenLineage::new(config);
        blocking(async { backend.connect().await })?.map_err(|refusal| match refusal {
            DeliveryError::Later { .. } => refused(&refusal).hint("check destinations.openlineage.url"),
            _ => refused(&refusal),
        })?;
    }
    let result = format!("{target} answers");
    Ok(PreparedTarget { target, steps: Vec::new(), event_id: None, result })
}

/// Runs asynchronous work to its end, in a command that does nothing else.
pub(super) fn blocking<T>(work: impl Future<Output = T>) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_thread)?;
    Ok(runtime.block_on(work))
}
