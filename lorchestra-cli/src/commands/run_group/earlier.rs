//! Finds the group that a file was run as before (`run-group --rerun-failed`), and refuses a file that has other jobs now: the jobs in the
//! store would run instead of those in the file.
//!
//! Compares the jobs as they are written, with their stages. Resolved, a time such as `last:` differs each day.

use super::{GroupFile, KIND, label};
use crate::exit::Code;
use crate::failure::CommandError;
use lorchestra_core::store::group::{Group, GroupSource, WrittenJob};
use lorchestra_core::store::{Store, short_id};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Maximum number of groups to search.
const SEARCHED: u64 = 1000;
/// Maximum number of differences to name.
const NAMED: usize = 3;

/// Returns what a file says.
pub(super) fn written(file: &GroupFile, path: &Path) -> GroupSource {
    let path = path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned());
    let mut jobs = Vec::new();
    for (stage, number) in file.stage.iter().zip(0_u32..) {
        for job in &stage.jobs {
            // Text, numbers, lists and tables: serialization cannot fail.
            let entry = serde_json::to_value(job).unwrap_or_default();
            jobs.push(WrittenJob { stage: number, label: label(job), entry });
        }
    }
    GroupSource { path: path.to_string_lossy().into_owned(), keep_going: file.keep_going, jobs }
}

/// Returns the newest group of this name, of this very file if there is one.
///
/// # Errors
/// If there is none, or the file has other jobs now.
pub(super) fn find(store: &Store, name: &str, now: &GroupSource) -> Result<Group, CommandError> {
    let mut groups: Vec<Group> = store.groups(KIND, SEARCHED)?.into_iter().filter(|group| group.name == name).collect();
    if groups.is_empty() {
        return Err(none(name));
    }
    let is_of_file = |group: &Group| group.settings.file.as_ref().is_some_and(|before| before.path == now.path);
    let group = groups.remove(groups.iter().position(is_of_file).unwrap_or(0));
    let Some(before) = &group.settings.file else { return Ok(group) };
    let differences = differences(before, now);
    if differences.is_empty() {
        // The file may have been moved.
        if before.path == now.path || !Path::new(&before.path).exists() {
            return Ok(group);
        }
        let (id, path) = (short_id(&group.group_id), &now.path);
        let what =
            format!("{path} has not run yet: the last group called {name} ({id}) is that of another file, {}", before.path);
        return Err(CommandError::new(Code::Usage, what).hint("omit --rerun-failed to run all jobs of this file"));
    }
    let mut what = differences.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if differences.len() > NAMED {
        what = format!("{what}; and {} more", differences.len() - NAMED);
    }
    let id = short_id(&group.group_id);
    let why = if before.path == now.path {
        format!("its jobs have changed since it was run as group {id}")
    } else {
        format!("the last group called {name} ({id}) is that of another file, {}", before.path)
    };
    Err(CommandError::new(Code::Usage, format!("{}: {why}: {what}", now.path))
        .hint("omit --rerun-failed to run all jobs of the file as it is now")
        .hint(format!("run lorchestra backfill resume {id} to run what failed, as it was then")))
}

/// The error if no group of this name has run.
pub(super) fn none(name: &str) -> CommandError {
    CommandError::new(Code::Failed, format!("the group {name} has not run yet")).hint("omit --rerun-failed")
}

/// Names what differs between the jobs of two files. Names parameters without their values, which may be secret.
fn differences(before: &GroupSource, now: &GroupSource) -> Vec<String> {
    let find = |jobs: &[WrittenJob], label: &str| jobs.iter().find(|job| job.label == label).cloned();
    let mut differences = Vec::new();
    for job in &now.jobs {
        let label = &job.label;
        let Some(was) = find(&before.jobs, label) else {
            differences.push(format!("{label} is new"));
            continue;
        };
        if was.stage != job.stage {
            differences.push(format!("{label} was in stage {} and is in stage {}", was.stage + 1, job.stage + 1));
        }
        let keys = differing(&was.entry, &job.entry);
        if !keys.is_empty() {
            differences.push(format!("{label} has another {}", keys.join(", ")));
        }
    }
    let missing = before.jobs.iter().filter(|job| find(&now.jobs, &job.label).is_none());
    differences.extend(missing.map(|job| format!("{} is missing", job.label)));
    differences
}

/// Returns the keys of an entry whose values differ; of `params`, those of its parameters.
fn differing(before: &Value, now: &Value) -> Vec<String> {
    let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<BTreeSet<_>>()).unwrap_or_default();
    let all: BTreeSet<String> = keys(before).union(&keys(now)).cloned().collect();
    let mut found = Vec::new();
    for key in all.into_iter().filter(|key| before.get(key) != now.get(key)) {
        match (before.get(&key), now.get(&key)) {
            (Some(before @ Value::Object(_)), Some(now @ Value::Object(_))) => {
                found.extend(differing(before, now).into_iter().map(|inner| format!("{key}.{inner}")));
            }
            _ => found.push(key),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> GroupSource {
        written(&toml::from_str(text).unwrap(), Path::new("/nightly.toml"))
    }

    #[test]
    fn each_difference_is_named_and_layout_is_none() {
        let job = |more: &str| format!("[[stage]]\n[[stage.jobs]]\njob = \"a/b\"\n{more}\n");
        let base = job("params = { since = \"-1d\", account = \"anna\" }\ntimeout = \"1h\"");
        for (text, expected) in [
            (format!("# A comment.\nname = \"x\"\nkeep_going = true\n{base}"), &[][..]),
            (job("timeout = \"1h\"\n[stage.jobs.params]\naccount = \"anna\"\nsince = \"-1d\""), &[]),
            (base.replace("-1d", "-2d"), &["a/b anna has another params.since"]),
            (base.replace("1h", "2h"), &["a/b anna has another timeout"]),
            (job("params = { since = \"-1d\", account = \"anna\" }\nretries = 1"), &["a/b anna has another retries, timeout"]),
            (base.replace("account", "until"), &["a/b is new", "a/b anna is missing"]),
            (base.replace("a/b\"", "a/c\"\nname = \"a/b anna\""), &["a/b anna has another job, name"]),
            (format!("{}{base}", job("")), &["a/b is new", "a/b anna was in stage 1 and is in stage 2"]),
        ] {
            assert_eq!(differences(&source(&base), &source(&text)), expected, "{text}");
        }
    }
}
