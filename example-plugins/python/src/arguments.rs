//! The arguments of a Python function, from the parameters of the job. Pure functions only.

use lorchestra_plugin_api::serde_json::{self, value::RawValue};
use std::collections::BTreeMap;

/// Arguments by name. Values are JSON as it was written, so that long numbers keep their digits.
pub(crate) type Arguments = BTreeMap<String, Box<RawValue>>;

/// The parameters of the job that become arguments.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    pub(crate) args: &'a [String],
    pub(crate) account: Option<String>,
    pub(crate) since: Option<String>,
    pub(crate) until: Option<String>,
}

/// Why the parameters are not arguments of a Python function.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("--arg {shown}: expected `name=text` or `name:=JSON`")]
    Form { shown: String },
    #[error("--arg {name}:=…: the value is not JSON; write `{name}=…` for text")]
    NotJson { name: String, source: serde_json::Error },
    #[error("--arg {0}: given more than once, or also as --{0}")]
    Twice(String),
    #[error("--arg {0}: the job receives this argument from lorchestra")]
    Reserved(String),
    #[error("--entry {0}: expected `module:function`, as in the entry points of the package; `run-job python list` shows them")]
    Entry(String),
}

/// Collects the arguments. Only those that are given are passed, as in the old tool.
pub(crate) fn collect(given: &Given<'_>) -> Result<Arguments, ArgumentError> {
    let mut arguments = Arguments::new();
    for (name, value) in [("account", &given.account), ("since", &given.since), ("until", &given.until)] {
        if let Some(value) = value {
            arguments.insert(name.to_owned(), text(name, value)?);
        }
    }
    for arg in given.args {
        let (name, value) = arg.split_once('=').ok_or_else(|| ArgumentError::Form { shown: shown(arg) })?;
        let (name, json) = name.strip_suffix(':').map_or((name, None), |name| (name, Some(value)));
        if name.is_empty()
            || name.starts_with(|c: char| c.is_ascii_digit())
            || !name.chars().all(|c| c.is_alphanumeric() || c == '_')
        {
            return Err(ArgumentError::Form { shown: shown(arg) });
        }
        if name == "bq_client" {
            return Err(ArgumentError::Reserved(name.to_owned()));
        }
        let value = match json {
            Some(json) => {
                serde_json::from_str(json).map_err(|source| ArgumentError::NotJson { name: name.to_owned(), source })?
            }
            None => text(name, value)?,
        };
        if arguments.insert(name.to_owned(), value).is_some() {
            return Err(ArgumentError::Twice(name.to_owned()));
        }
    }
    Ok(arguments)
}

/// Checks the form of `module:function`.
pub(crate) fn check_entry(entry: &str) -> Result<(), ArgumentError> {
    let is_path =
        |path: &str| path.split('.').all(|part| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_'));
    match entry.split_once(':') {
        Some((module, function)) if is_path(module) && is_path(function) => Ok(()),
        _ => Err(ArgumentError::Entry(entry.to_owned())),
    }
}

fn text(name: &str, value: &str) -> Result<Box<RawValue>, ArgumentError> {
    serde_json::value::to_raw_value(value).map_err(|source| ArgumentError::NotJson { name: name.to_owned(), source })
}

/// The name only: the rest may be a secret.
fn shown(arg: &str) -> String {
    arg.split_once('=').map_or_else(|| "(no `=`)".to_owned(), |(name, _)| format!("{name}=…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(args: &[&str]) -> Result<String, String> {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let given = Given { args: &args, account: None, since: Some("-7d".into()), until: None };
        collect(&given).map(|all| serde_json::to_string(&all).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn text_and_json_arrive_unchanged() {
        let all = collected(&["label=a=b", "limit:=10", "id:=12345678901234567890123", "dry_run:=true", "empty="]).unwrap();
        assert_eq!(all, r#"{"dry_run":true,"empty":"","id":12345678901234567890123,"label":"a=b","limit":10,"since":"-7d"}"#);
    }

    #[test]
    fn an_invalid_argument_is_refused_without_printing_its_value() {
        for (args, why) in [
            (&["s3cr3t"][..], "--arg (no `=`): expected `name=text` or `name:=JSON`"),
            (&["a b=s3cr3t"], "--arg a b=…: expected `name=text` or `name:=JSON`"),
            (&["limit:=s3cr3t"], "--arg limit:=…: the value is not JSON; write `limit=…` for text"),
            (&["a=1", "a=2"], "--arg a: given more than once, or also as --a"),
            (&["since=x"], "--arg since: given more than once, or also as --since"),
            (&["bq_client=x"], "--arg bq_client: the job receives this argument from lorchestra"),
        ] {
            assert_eq!(collected(args).unwrap_err(), why);
        }
    }

    #[test]
    fn an_entry_has_a_module_and_a_function() {
        for entry in ["my_package.jobs:extract_gmail", "jobs:Mail.extract", "büro:läuft"] {
            check_entry(entry).unwrap();
        }
        for entry in ["", "jobs", "jobs:", ":run", "a..b:run", "jobs:run()", "my-package:run", "a:b:c"] {
            assert!(check_entry(entry).is_err(), "{entry}");
        }
    }
}
