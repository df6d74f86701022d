//! `doctor`: reports everything that keeps runs from starting, being recorded or being delivered, with one line for the cause and one for the fix.
//!
//! Each check examines one thing and changes nothing, except that runs whose supervisors died are closed, and what they left is removed, as every
//! command does that reads the history. A check that cannot be carried out is a finding itself, so that no check hides another.

mod jobs;
mod leftovers;
mod repair;
mod state;

use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags::GlobalFlags;
use crate::notify::Notices;
use crate::printer::{BAD, GOOD, Printer, WARNING};
use crate::settings::{HistoryPlace, Settings};
use crate::wire;
use clap::Args;
use lorchestra_core::text;

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Also ask each destination whether it accepts events, and whether its table lacks columns
    #[arg(long)]
    network: bool,
    /// Create missing directories, remove access by other users from this user's own files where it is a risk, and kill processes and remove
    /// spools that ended runs have left
    #[arg(long)]
    fix: bool,
    /// Print one JSON object (schema lorchestra.doctor/1)
    #[arg(long)]
    json: bool,
}

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Runs, records or deliveries fail because of it.
    Error,
    /// Runs, records or deliveries will fail because of it, or it is probably unintended.
    Warning,
    /// Nothing is wrong.
    Ok,
    /// `--fix` has fixed it.
    Fixed,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Ok => "ok",
            Self::Fixed => "fixed",
        }
    }
}

/// Result of a check.
#[derive(Debug)]
pub(crate) struct Finding {
    check: &'static str,
    level: Level,
    cause: String,
    fix: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, cause: what.into(), fix: None }
    }

    pub(crate) fn error(check: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, level: Level::Error, cause: cause.into(), fix: Some(fix.into()) }
    }

    pub(crate) fn fixed(check: &'static str, what: impl Into<String>) -> Self {
        Self { level: Level::Fixed, ..Self::ok(check, what) }
    }

    pub(crate) fn warning(check: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::error(check, cause, fix) }
    }

    /// Creates an error from the failure with which a command would end.
    pub(crate) fn of(check: &'static str, error: &CommandError) -> Self {
        let fix = (!error.hints.is_empty()).then(|| error.hints.join("; "));
        Self { check, level: Level::Error, cause: error.message.clone(), fix }
    }
}

pub(super) fn run(
    command: &Doctor,
    settings: &Settings,
    notices: &mut Notices<'_>,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    let mut findings = if command.fix { repair::all(settings) } else { Vec::new() };
    state::configuration(settings, &mut findings);
    jobs::plugins(settings, &mut findings);
    jobs::secrets(settings, &mut findings);
    state::host(settings, &mut findings);
    state::store(settings, command.fix, notices, &mut findings);
    state::destinations(settings, command.network, &mut findings);
    Ok(report(&findings, command.json, printer))
}

/// Reports that the configuration cannot be read, and examines what does not depend on it.
pub(crate) fn without_settings(command: &Doctor, global: &GlobalFlags, error: &CommandError, printer: &mut Printer) -> Code {
    let mut findings = vec![Finding::of("configuration", error)];
    let known = Settings::without_config(global);
    let mut notices = known.as_ref().map(|(settings, _)| Notices::new(&settings.hooks));
    let mut unchecked = "Plugins, secrets and destinations were not checked";
    match known.as_ref().zip(notices.as_mut()) {
        Some(((settings, place), notices)) if *place != HistoryPlace::Unknown => {
            state::host(settings, &mut findings);
            state::store(settings, command.fix, notices, &mut findings);
        }
        _ => unchecked = "The host, the history, plugins, secrets and destinations were not checked",
    }
    let code = report(&findings, command.json, printer);
    printer.note(format_args!("{unchecked}: fix the configuration first."));
    if let Some(notices) = notices {
        notices.send(None, printer);
    }
    code
}

fn report(findings: &[Finding], as_json: bool, printer: &mut Printer) -> Code {
    let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    if as_json {
        let list: Vec<_> = findings
            .iter()
            .map(|finding| {
                let Finding { check, level, cause, fix } = finding;
                wire::FindingObject { check, level: level.as_str(), cause: cause.clone(), fix: fix.clone() }
            })
            .collect();
        printer.json(&wire::DoctorObject { schema: "lorchestra.doctor/1", healthy: errors == 0, findings: list });
    } else {
        for Finding { check, level, cause, fix } in findings {
            let (sign, style) = match level {
                Level::Error => ("✗", BAD),
                Level::Warning => ("!", WARNING),
                Level::Ok => ("✓", GOOD),
                Level::Fixed => ("+", GOOD),
            };
            printer.line(format_args!("{style}{sign}{style:#} {check}: {}", text::escaped(cause)));
            if let Some(fix) = fix {
                printer.line(format_args!("  fix: {}", text::escaped(fix)));
            }
        }
    }
    if errors == 0 {
        return Code::Success;
    }
    printer.note(format_args!("{} found.", crate::show::counted(errors, "error")));
    Code::Failed
}
