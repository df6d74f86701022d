//! The command line of a job in a container, which has no config.toml: settings of the file that apply to the job become flags, and those
//! for which there is no flag are named. Pure.

use super::environment::{HOME, left_out};
use crate::config::JobConfig;
use crate::flags::OwnFlags;
use crate::settings::Settings;
use lorchestra_core::plan::source::Source;
use lorchestra_core::plan::{ParamArg, RunPolicy, RunSpec, duration, size};
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{JobManifest, ParamManifest};

/// Keys of a job for which `run-job` has no flag.
const WITHOUT_FLAG: [&str; 4] = ["retry_on", "retry_wait", "expect_every", "ping"];

/// A job with what the command line and config.toml set for it.
pub(super) struct Origins<'a> {
    pub(super) package: &'a str,
    pub(super) job: &'a JobManifest,
    pub(super) own: &'a OwnFlags,
    /// The arguments after JOB, as typed.
    pub(super) rest: &'a [String],
    /// Parameters and sources of secrets in config.toml that no flag overrides.
    pub(super) configured: &'a [ParamArg],
}

/// What a container needs in order to run a job as this machine would.
pub(super) struct Portable {
    /// Arguments of lorchestra.
    pub(super) args: Vec<String>,
    /// Environment variables that hold secrets.
    pub(super) variables: Vec<String>,
    /// What the container must have, or lacks.
    pub(super) notes: Vec<String>,
    /// Keys of config.toml that have no effect in the container.
    pub(super) left_out: Vec<String>,
}

/// Returns the command line of a container. `spec` is the plan of the job on this machine.
pub(super) fn portable(origins: &Origins<'_>, spec: &RunSpec, settings: &Settings) -> Portable {
    let Origins { package, job, own, rest, configured } = origins;
    let full_name = format!("{package}/{}", job.name);
    let policy = settings.jobs.get(&full_name).map(JobConfig::policy).unwrap_or_default();
    let mut args = ["run-job", "-q", "--requested-by", "schedule"].map(str::to_owned).to_vec();
    // Before PACKAGE, where no parameter of the job has the name of a flag.
    args.extend(policies(&policy, own, settings));
    args.extend([(*package).to_owned(), job.name.clone()]);
    args.extend(rest.iter().cloned());
    let mut variables = secret_variables(spec);
    let mut notes = Vec::new();
    for given in *configured {
        let Some(param) = job.params.iter().find(|param| param.name == given.name) else { continue };
        let flag = param.flag();
        match (param.kind, Source::parse(&given.text)) {
            (ParamKind::Secret, Some(Source::File(_) | Source::Credential(_))) => {
                let Source::Usual { variable, .. } = Source::usual(package, &param.name, false) else { continue };
                notes.push(format!("The container has no {}: it reads the secret --{flag} from {variable}.", given.text));
                variables.push(variable);
            }
            (ParamKind::Path, _) => {
                notes.push(format!("The container needs this path: --{flag} {}", given.text));
                args.extend(as_flag(param, &given.text));
            }
            _ => args.extend(as_flag(param, &given.text)),
        }
    }
    let left_out = left_out(settings, |key| WITHOUT_FLAG.iter().any(|name| key == crate::config::job_key(&full_name, name)));
    Portable { args, variables, notes, left_out }
}

/// Names the keys without effect, and where the container can have a file with them.
pub(in crate::commands) fn note_of(left_out: &[String]) -> Option<String> {
    let keys = left_out.join(", ");
    (!keys.is_empty()).then(|| format!("Not in the container, unless it has {HOME}/.config/lorchestra/config.toml: {keys}"))
}

/// Returns the variables that a run reads secrets from.
pub(in crate::commands) fn secret_variables(spec: &RunSpec) -> Vec<String> {
    let variable = |source: &Source| match source {
        Source::Env(name) | Source::Usual { variable: name, optional: false, .. } => Some(name.clone()),
        _ => None,
    };
    spec.secrets.values().filter_map(variable).collect()
}

/// Returns the policies of the file that no flag overrides, as flags.
fn policies(config: &RunPolicy, own: &OwnFlags, settings: &Settings) -> Vec<String> {
    let is_set = settings.configured.iter().any(|key| key == "delivery.timeout") && own.delivery_timeout.is_none();
    let flags = [
        ("--timeout", config.timeout.filter(|_| own.timeout.is_none()).map(duration::show)),
        ("--grace", config.grace.filter(|_| own.grace.is_none()).map(duration::show)),
        ("--on-overlap", config.on_overlap.filter(|_| own.on_overlap.is_none()).map(|overlap| overlap.to_string())),
        ("--retries", config.retries.filter(|_| own.retries.is_none()).map(|retries| retries.to_string())),
        ("--memory-max", config.memory_max.filter(|_| own.memory_max.is_none()).map(size::show)),
        ("--delivery-timeout", is_set.then(|| duration::show(settings.delivery_timeout))),
    ];
    let words = flags.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?]));
    words.flatten().collect()
}

/// Returns a parameter of the file as it is written on the command line.
fn as_flag(param: &ParamManifest, text: &str) -> Vec<String> {
    let flag = param.flag();
    match (param.kind, text) {
        (ParamKind::Bool, "true") => vec![format!("--{flag}")],
        (ParamKind::Bool, "false") => vec![format!("--no-{flag}")],
        // Also a value that begins like a flag.
        _ if text.starts_with('-') => vec![format!("--{flag}={text}")],
        _ => vec![format!("--{flag}"), text.to_owned()],
    }
}
