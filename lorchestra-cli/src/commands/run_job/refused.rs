//! Runs that cannot start: which of them are recorded as refused, and with which facts.
//!
//! A refusal is recorded if the owner of a schedule needs to know: a plugin, secret, configuration or other run prevented the run. It is not
//! recorded for a dry run, for help, for a mistake in the command line (exit code 2), for an id that `--run-id` has used before, or for a
//! package or job that this machine neither configures nor has ever run: that is a mistyped name, and the user sees the error at once.

use super::RunJob;
use crate::failure::CommandError;
use crate::flags::OwnFlags;
use crate::settings::Settings;
use lorchestra_core::host::state::StateDir;
use lorchestra_core::outcome::Cause;
use lorchestra_core::plan::RunSpec;
use lorchestra_core::store::{Refusal, Store};
use lorchestra_core::text;
use lorchestra_plugin_api::manifest::is_name;

/// Maximum number of characters of a recorded message.
const MESSAGE: usize = 2000;

/// The facts known about a run before it starts. Each step adds to them.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    package: Option<String>,
    job: Option<String>,
    account: Option<String>,
    spec: Option<RunSpec>,
    pub(in crate::commands) own: OwnFlags,
    /// A dry run, or help.
    only_asks: bool,
}

impl Asked {
    /// Reads the facts from the command line, before the job is known.
    pub(crate) fn of(command: &RunJob) -> Self {
        let words: Vec<&str> = command.rest.iter().filter_map(|word| word.to_str()).collect();
        let value_of = |flag: &str| {
            let joined = words.iter().find_map(|word| word.strip_prefix(flag)?.strip_prefix('='));
            joined.or_else(|| words.iter().skip_while(|word| **word != flag).nth(1).copied())
        };
        Self {
            package: command.package.clone(),
            job: command.job.clone(),
            account: value_of("--account").map(str::to_owned),
            spec: None,
            own: OwnFlags { json: command.own.json || words.contains(&"--json"), ..command.own.clone() },
            only_asks: command.help
                || command.own.dry_run
                || words.iter().any(|word| matches!(*word, "--dry-run" | "--help" | "-h")),
        }
    }

    /// Adds the flags after the job.
    pub(crate) fn own(&mut self, own: &OwnFlags) {
        self.own = own.clone();
        self.only_asks |= own.dry_run;
    }

    /// Adds the spec.
    pub(crate) fn spec(&mut self, spec: &RunSpec) {
        (self.package, self.job) = (Some(spec.package.clone()), Some(spec.job.clone()));
        self.account.clone_from(&spec.account);
        self.spec = Some(spec.clone());
    }

    /// Returns the refusal to record for a failure. `None` if nothing is recorded.
    pub(crate) fn refusal(&self, failure: &CommandError, settings: &Settings) -> Option<Refusal> {
        let refusal = self.unchecked(failure)?;
        // A caller that chose an id and finds the job running has most likely found that same run: it repeats the call.
        if refusal.cause == Cause::Overlap && self.own.run_id.is_some() {
            return None;
        }
        let mistyped = failure.bare && !is_expected(&refusal.package, &refusal.job, settings);
        (!mistyped).then_some(refusal)
    }

    /// Like [`Self::refusal`], but also for packages and jobs unknown to this machine, and for runs whose id another program of ours chose.
    pub(crate) fn unchecked(&self, failure: &CommandError) -> Option<Refusal> {
        let cause = failure.refusal()?;
        let (package, job) = (self.package.clone()?, self.job.clone()?);
        if self.only_asks || !is_name(&package) || !is_name(&job) {
            return None;
        }
        let spec = self.spec.as_ref();
        let message = match &failure.reason {
            Some(reason) => format!("{}: {reason}", failure.message),
            None => failure.message.clone(),
        };
        Some(Refusal {
            package,
            job,
            account: self.account.clone(),
            spec: self.spec.clone(),
            cause,
            message: text::shortened(&text::printable(&message), MESSAGE),
            exit_code: failure.code.number(),
            requested_run_id: self.own.run_id.map(|run_id| run_id.to_string()),
            requested_by: spec.map(|spec| &spec.requested_by).or(self.own.requested_by.as_ref()).cloned().unwrap_or_default(),
            group: spec.map_or_else(|| self.own.group.clone(), |spec| spec.group.clone()),
        })
    }
}

/// Whether the job is configured on this machine or has run here.
fn is_expected(package: &str, job: &str, settings: &Settings) -> bool {
    if settings.jobs.contains_key(&format!("{package}/{job}")) {
        return true;
    }
    let state = StateDir::existing(&settings.state_dir).ok().flatten().filter(|state| state.store().exists());
    let store = state.and_then(|state| Store::open(&state).ok());
    store.is_some_and(|store| store.has_run_of(package, Some(job)).unwrap_or(false))
}
