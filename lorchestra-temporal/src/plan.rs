//! The plan file of `lorchestra backfill --plan`, as far as Temporal needs it: the group, the number of windows, and the account of each.
//!
//! `run-window` reads and checks the file again on each node; here the checksum catches a file that is still being copied.

use crate::error::{CommandError, USAGE};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::Path;

/// The value of `schema`.
const SCHEMA: &str = "lorchestra.plan/1";

/// A plan.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The id of its group.
    pub(crate) group: String,
    /// What it runs, for people.
    pub(crate) name: String,
    /// The account of each window, as a number; windows without an account are of one.
    pub(crate) accounts: Vec<u32>,
}

#[derive(Deserialize)]
struct Header {
    schema: String,
    group: String,
    name: String,
    members: usize,
    sha256: String,
}

#[derive(Deserialize)]
struct Line {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    account: Option<String>,
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// If it is not the whole plan that was written.
    pub(crate) fn read(path: &Path) -> Result<Self, CommandError> {
        let file = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| CommandError::new(USAGE, format!("{file}: {error}")))?;
        Self::parse(&text).map_err(|why| {
            CommandError::new(USAGE, format!("{file} cannot be used: {why}"))
                .hint("write it with `lorchestra backfill … --plan FILE`")
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (first, lines) = text.split_once('\n').ok_or("it is empty")?;
        let header: Header = serde_json::from_str(first).map_err(|error| format!("it is not a plan file ({SCHEMA}): {error}"))?;
        if header.schema != SCHEMA {
            return Err(format!("its schema is {:?}, and this version reads {SCHEMA}", header.schema));
        }
        let mut found = String::new();
        for byte in Sha256::digest(lines) {
            let _ = write!(found, "{byte:02x}");
        }
        if found != header.sha256 {
            return Err("it is incomplete or was changed (its sha256 differs)".into());
        }
        let mut names: Vec<Option<String>> = Vec::new();
        let mut accounts = Vec::new();
        for (index, line) in lines.lines().enumerate() {
            let line: Line = serde_json::from_str(line).map_err(|error| format!("window {index}: {error}"))?;
            let known = names.iter().position(|name| *name == line.spec.account);
            let number = known.unwrap_or_else(|| {
                names.push(line.spec.account);
                names.len() - 1
            });
            accounts.push(u32::try_from(number).map_err(|error| error.to_string())?);
        }
        if accounts.len() != header.members {
            return Err(format!("it has {} windows instead of {}", accounts.len(), header.members));
        }
        Ok(Self { group: header.group, name: header.name, accounts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(lines: &str, members: usize) -> String {
        let sum: String = Sha256::digest(lines).iter().map(|byte| format!("{byte:02x}")).collect();
        let header = serde_json::json!({"schema": SCHEMA, "group": "g", "name": "p/j", "members": members, "libraries": [], "sha256": sum});
        format!("{header}\n{lines}")
    }

    #[test]
    fn accounts_are_numbered_in_the_order_of_the_plan() {
        let lines = "{\"label\":\"a\",\"spec\":{\"account\":\"anna\"}}\n{\"label\":\"b\",\"spec\":{\"account\":\"bert\",\"x\":1}}\n\
                     {\"label\":\"c\",\"spec\":{\"account\":null}}\n{\"label\":\"d\",\"spec\":{\"account\":\"anna\"}}\n";
        let text = plan(lines, 4);
        let read = Plan::parse(&text).unwrap();
        assert_eq!((read.group.as_str(), read.name.as_str(), read.accounts), ("g", "p/j", vec![0, 1, 2, 0]));
        for wrong in
            [text.replace("anna", "anne"), text[..text.len() - 2].to_owned(), plan(lines, 3), String::new(), "{}\n".into()]
        {
            Plan::parse(&wrong).unwrap_err();
        }
    }
}
