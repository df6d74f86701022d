//! From the values of one member of a group to its run spec, with the settings of config.toml: what `run-job` does for its own arguments.

use super::run_job;
use crate::config::JobConfig;
use crate::failure::CommandError;
use crate::params;
use crate::secrets::Configured;
use crate::settings::Settings;
use chrono::{DateTime, Utc};
use lorchestra_core::plan::{self, Context, ParamArg, PlanRequest, RequestedBy, RunPolicy, RunSpec};
use lorchestra_plugin_api::manifest::JobManifest;

/// A member, as it was asked for.
pub(super) struct SpecRequest<'a> {
    pub(super) package: &'a str,
    pub(super) version: &'a str,
    pub(super) job: &'a JobManifest,
    pub(super) values: Vec<ParamArg>,
    pub(super) policy: RunPolicy,
    pub(super) group: &'a str,
    pub(super) now: DateTime<Utc>,
    pub(super) bookmark: Option<DateTime<Utc>>,
}

/// Returns the spec.
///
/// # Errors
/// All faults of the values.
pub(super) fn resolve(request: SpecRequest<'_>, settings: &Settings) -> Result<RunSpec, CommandError> {
    let SpecRequest { package, version, job, mut values, policy, group, now, bookmark } = request;
    values.extend(params::configured(package, job, &values, settings)?);
    let configured = Configured::of(package, job, &values, settings)?;
    values.extend(configured.values(settings));
    let config = settings.jobs.get(&format!("{package}/{}", job.name)).map(JobConfig::policy).unwrap_or_default();
    let context = Context {
        directory: settings.directory.clone(),
        group: Some(group.to_owned()),
        trace_parent: settings.trace_parent.clone(),
        requested_by: RequestedBy::CommandLine,
    };
    let limits = plan::policy::limits(policy, config, job);
    let request = PlanRequest { package, version, job, values, now, bookmark, limits, context };
    let mut spec = plan::resolve(request).map_err(|error| run_job::bad_parameters(package, job, &error, settings))?;
    configured.place(&mut spec, settings);
    Ok(spec)
}
