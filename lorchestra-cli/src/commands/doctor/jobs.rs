//! The checks of `doctor` for packages and their jobs: directories, files, the lock file, and names and secrets in `config.toml`.

use super::Finding;
use crate::commands::{catalog, find_job, jobs, run_job};
use crate::params;
use crate::secrets::Configured;
use crate::settings::Settings;
use chrono::Utc;
use lorchestra_core::host::rights::{self, Change, Kind, Target};
use lorchestra_core::packages::catalog::{Catalog, Lookup, Problem, Reason};
use lorchestra_core::plan::source::Source;
use lorchestra_core::plan::{self, Context, PlanFault, PlanRequest, RunPolicy};
use lorchestra_core::text::path_text;
use lorchestra_plugin_api::manifest::JobManifest;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub(super) fn plugins(settings: &Settings, findings: &mut Vec<Finding>) {
    let mut catalog = match catalog(settings) {
        Ok(catalog) => catalog,
        Err(error) => {
            findings.push(Finding::of("plugins", &error));
            Catalog::scan(&settings.plugin_dirs)
        }
    };
    catalog.check_texts();
    for problem in jobs::directories(&catalog).iter().chain(&catalog.problems) {
        let cause = format!("{}: {} ({})", path_text(&problem.path), problem.detail, problem.reason.as_str());
        findings.push(Finding::error("plugins", cause, fix(problem)));
    }
    if catalog.packages.is_empty() {
        let dirs: Vec<String> = settings.plugin_dirs.iter().map(|dir| path_text(&dir.path)).collect();
        let cause = format!("no usable package in {}", dirs.join(", "));
        findings.push(Finding::error("plugins", cause, "run lorchestra plugins install FILE"));
    } else {
        let names: Vec<&str> = catalog.packages.iter().map(|package| package.summary.package.as_str()).collect();
        findings.push(Finding::ok("plugins", names.join(", ")));
    }
    for name in settings.jobs.keys() {
        let Some((package, job)) = name.split_once('/') else { continue };
        if let Err(Lookup::Unknown { nearest }) = catalog.find_job(package, job) {
            let what = if catalog.find(package).is_ok() {
                format!("{package} has no job {job}")
            } else {
                format!("there is no package {package}")
            };
            let fix = match nearest.first() {
                Some(nearest) => format!("did you mean {nearest}? Fix the name in {}", path_text(&settings.config_path)),
                None => format!("install the package, or remove the table from {}", path_text(&settings.config_path)),
            };
            findings.push(Finding::warning("jobs", format!("[job.{name:?}] in config.toml: {what}"), fix));
        }
        if let Ok((_, manifest, job)) = find_job(&catalog, package, job) {
            findings.extend(parameters(package, &manifest.version, &job, settings));
        }
    }
}

/// What to do about a problem. `--fix` takes rights from no library that other users may write: they may have changed it already.
fn fix(problem: &Problem) -> String {
    let is_writable = std::fs::metadata(&problem.path).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o022 != 0);
    match problem.reason {
        Reason::NotTrusted if is_writable => format!(
            "{}; then install the library again, because other users may have changed it (so --fix leaves it as it is)",
            problem.fix
        ),
        _ => problem.fix.clone(),
    }
}

/// Checks the values that `config.toml` sets for a job. What depends on the request is not checked: missing values, and bookmarks.
fn parameters(package: &str, version: &str, job: &JobManifest, settings: &Settings) -> Option<Finding> {
    let mut values = match params::configured(package, job, &[], settings) {
        Ok(values) => values,
        Err(error) => return Some(Finding::of("jobs", &error)),
    };
    params::expand_home(job, &mut values, settings);
    let limits = RunPolicy::default().limits();
    let context = Context::default();
    let mut error =
        plan::resolve(PlanRequest { package, version, job, values, now: Utc::now(), bookmark: None, limits, context }).err()?;
    error.faults.retain(|fault| matches!(fault, PlanFault::Value { .. } | PlanFault::Repeated { .. } | PlanFault::Window { .. }));
    let is_wrong = error.is_configured && !error.faults.is_empty();
    is_wrong.then(|| Finding::of("jobs", &run_job::bad_parameters(package, job, &error, settings)))
}

/// Checks the secret sources named in `config.toml`. A missing variable is only a warning because it may be set where the schedule runs.
pub(super) fn secrets(settings: &Settings, findings: &mut Vec<Finding>) {
    let catalog = Catalog::scan(&settings.plugin_dirs);
    for (job, config) in &settings.jobs {
        let found = job.split_once('/').and_then(|(package, job)| Some((package, find_job(&catalog, package, job).ok()?.2)));
        if let Some(Err(error)) = found.map(|(package, manifest)| Configured::of(package, &manifest, &[], settings).map(drop)) {
            // A run would be refused, whatever the sources are.
            findings.push(Finding::of("secrets", &error));
            continue;
        }
        for (name, source) in &config.secrets {
            let key = format!("[job.{job:?}.secrets] {name}");
            match Source::parse(source) {
                Some(Source::Env(variable)) if settings.variable(&variable).is_none_or(|value| value.is_empty()) => {
                    let fix = format!("set {variable} where the job is scheduled (cron passes no variables), or use file:PATH");
                    findings.push(Finding::warning("secrets", format!("{key}: {variable} is not set here"), fix));
                }
                Some(Source::File(path)) => {
                    let base = settings.config_path.parent().unwrap_or(Path::new("/"));
                    let path = match path.strip_prefix("~") {
                        Ok(below) => settings.home.join(below),
                        Err(_) => base.join(&path),
                    };
                    findings.extend(secret_file(&key, &path));
                }
                _ => {}
            }
        }
    }
}

fn secret_file(key: &str, path: &Path) -> Option<Finding> {
    let shown = path_text(path);
    match std::fs::metadata(path) {
        Err(e) => Some(Finding::error("secrets", format!("{key}: {shown}: {e}"), format!("create {shown} with the secret"))),
        Ok(meta) if meta.mode() & 0o077 != 0 => Some(Finding::error(
            "secrets",
            format!("{key}: other users may read {shown}"),
            rights::command(
                Target { path, owner: meta.uid(), kind: Kind::File },
                Change::Private,
                rustix::process::geteuid().as_raw(),
            )
            .unwrap_or_else(|| format!("see ls -l {}", lorchestra_core::text::shell(path))),
        )),
        Ok(_) => None,
    }
}
