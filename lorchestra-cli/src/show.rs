//! Formats values for people: times, durations, parameters as flags.

use chrono::{DateTime, SecondsFormat, Utc};
use lorchestra_core::packages::catalog::{Package, SearchOutcome, Searched};
use lorchestra_core::plan::value;
use lorchestra_core::text::{escaped, one_line, path_text, printable};
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{JobManifest, ParamManifest};
use std::fmt::Display;
use std::time::Duration;

/// Formats microseconds since 1970 in RFC 3339 with whole seconds.
pub(crate) fn time(micros: i64) -> String {
    DateTime::<Utc>::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |t| t.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// Formats microseconds since 1970 in RFC 3339 with full precision.
pub(crate) fn exact_time(micros: i64) -> String {
    DateTime::<Utc>::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |t| t.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// Formats a duration: `0.31s`, `12.4s`, `3m10s`.
pub(crate) fn elapsed(duration: Duration) -> String {
    match duration.as_secs_f64() {
        s if s < 10.0 => format!("{s:.2}s"),
        s if s < 60.0 => format!("{s:.1}s"),
        _ => lorchestra_core::plan::duration::show(Duration::from_secs(duration.as_secs())),
    }
}

/// Formats the time between `then` and `now` in one unit: `5s`, `12m`, `3h`, `41d`. Both are in microseconds since 1970.
pub(crate) fn age(now: i64, then: i64) -> String {
    // The clock was set back.
    let Ok(seconds) = u64::try_from((now - then) / 1_000_000) else { return "0s".to_owned() };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Formats a parameter as a flag: `--since <TIME>`, `--[no-]dry`.
pub(crate) fn flag(param: &ParamManifest) -> String {
    match param.kind {
        ParamKind::Bool => format!("--[no-]{}", param.flag()),
        kind => format!("--{} <{}>{}", param.flag(), value::placeholder(kind), if param.repeated { "..." } else { "" }),
    }
}

/// Returns the parameter's documentation with its values, its default or that it is required, and its deprecation.
pub(crate) fn param_help(param: &ParamManifest) -> String {
    let mut notes = Vec::new();
    if !param.values.is_empty() {
        let values: Vec<&str> = param.values.iter().map(|value| value.name.as_str()).collect();
        notes.push(format!("[values: {}]", values.join(", ")));
    }
    if param.kind == ParamKind::Secret {
        notes.push("[secret: env:NAME, file:PATH or credential:NAME]".to_owned());
    }
    if param.repeated {
        notes.push("[may be repeated, or a,b]".to_owned());
    }
    match &param.default {
        _ if param.is_required() => notes.push("[required]".to_owned()),
        serde_json::Value::Null | serde_json::Value::Bool(false) => {}
        serde_json::Value::String(default) => notes.push(format!("[default: {}]", one_line(default))),
        other => notes.push(format!("[default: {}]", one_line(&other.to_string()))),
    }
    if let Some(instead) = &param.deprecated {
        notes.push(format!("[deprecated: {}]", one_line(instead)));
    }
    let docs = printable(param.docs.trim());
    let mut text = [docs].into_iter().filter(|docs| !docs.is_empty()).chain([notes.join(" ")]).collect::<Vec<_>>().join(" ");
    text.truncate(text.trim_end().len());
    for value in param.values.iter().filter(|value| !value.docs.trim().is_empty()) {
        text.push_str(&format!("\n- {}: {}", value.name, one_line(&value.docs)));
    }
    text
}

/// Returns a job's execution defaults and its deprecation, one line each; empty if its source sets none.
pub(crate) fn source_notes(job: &JobManifest) -> Vec<String> {
    let policy = [
        job.timeout.as_ref().map(|timeout| format!("timeout {timeout}")),
        job.retries.map(|retries| format!("retries {retries}")),
        job.overlap.as_ref().map(|overlap| format!("on overlap {overlap}")),
    ];
    let policy: Vec<String> = policy.into_iter().flatten().collect();
    let deprecated = job.deprecated.as_ref().map(|instead| format!("Deprecated: {}", one_line(instead)));
    let policy = (!policy.is_empty()).then(|| format!("Defaults: {}", one_line(&policy.join(", "))));
    deprecated.into_iter().chain(policy).collect()
}

/// Formats an account's name within a line: quoted if it would be ambiguous.
pub(crate) fn account(name: &str) -> String {
    let plain = !name.is_empty() && name.trim() == name && name != "-" && !name.starts_with('"');
    if plain { escaped(name) } else { format!("\"{}\"", escaped(name)) }
}

/// Describes the result of searching a directory: `2 plugin files`, `does not exist`.
pub(crate) fn searched(outcome: &SearchOutcome) -> String {
    match outcome {
        SearchOutcome::Read { files: 1 } => "1 plugin file".to_owned(),
        SearchOutcome::Read { files } => format!("{files} plugin files"),
        SearchOutcome::Before(path) => format!("the same directory as {}", path_text(path)),
        SearchOutcome::Missing => "does not exist".to_owned(),
        SearchOutcome::NotADirectory => "is not a directory".to_owned(),
        SearchOutcome::Unreadable(why) => format!("cannot be read: {why}"),
    }
}

/// Describes a searched directory: its path, its origin, and the result.
pub(crate) fn looked_in(Searched { dir, outcome }: &Searched) -> String {
    format!("looked in {} ({}): {}", path_text(&dir.path), dir.origin, searched(outcome))
}

/// Joins the lines of each paragraph of a docstring, because the help is wrapped at another width. Keeps indented, listed and fenced lines.
pub(crate) fn flowing(text: &str) -> String {
    let mut out = String::new();
    // Whether the next line may be joined to this one.
    let mut open = false;
    let mut fenced = false;
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        let listed =
            line.starts_with(['-', '*', '#', '|', '>']) || line.split_once('.').is_some_and(|(n, _)| n.parse::<u8>().is_ok());
        let own = fenced || fence || listed || line.is_empty() || line.starts_with([' ', '\t']);
        fenced ^= fence;
        if !out.is_empty() {
            out.push(if open && !own { ' ' } else { '\n' });
        }
        out.push_str(line);
        open = !own;
    }
    out
}

/// `1 job`, `2 jobs`.
pub(crate) fn counted<N: Display + PartialEq + From<u8>>(n: N, what: &str) -> String {
    format!("{n} {what}{}", if n == N::from(1) { "" } else { "s" })
}

/// Returns the names of a package's jobs, sorted, with a mark if deprecated.
pub(crate) fn jobs(package: &Package) -> Vec<String> {
    let mut names: Vec<String> = package
        .summary
        .jobs
        .iter()
        .map(|job| format!("{}{}", job.name, if job.is_deprecated { " (deprecated)" } else { "" }))
        .collect();
    names.sort_unstable();
    names
}

/// Returns the names of a package's jobs, sorted.
pub(crate) fn job_names(package: &Package) -> Vec<&str> {
    let mut names: Vec<_> = package.summary.jobs.iter().map(|job| job.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_wrapped_and_the_rest_is_unchanged() {
        let text =
            "Extract mail:\nall of it.\n\nWrites one line\nper message.\n- a\n- b\n    code\n```\nx\ny\n```\n1. one\n2. two";
        let flows =
            "Extract mail: all of it.\n\nWrites one line per message.\n- a\n- b\n    code\n```\nx\ny\n```\n1. one\n2. two";
        assert_eq!(flowing(text), flows);
        assert_eq!(flowing(""), "");
    }
}
