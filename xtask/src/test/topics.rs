//! The topics of `cargo xtask test`: modules of the end-to-end program, and packages of the workspace. Read from the source tree and from
//! cargo, so that new ones need no change here.

use crate::{Result, cargo};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The program of all end-to-end tests.
const PROGRAM: &str = "e2e";

pub(super) struct Topics {
    modules: BTreeSet<String>,
    packages: BTreeSet<String>,
    /// Test programs of packages, except those that need a feature.
    programs: Vec<String>,
}

/// The chosen topics. If empty, everything runs.
#[derive(Default)]
pub(super) struct Chosen {
    pub(super) modules: Vec<String>,
    pub(super) packages: Vec<String>,
}

impl Topics {
    pub(super) fn read() -> Result<Self> {
        let mut modules = BTreeSet::new();
        names(&cargo::root()?.join("tests/tests").join(PROGRAM), &mut modules)?;
        let output = cargo::cargo("metadata")?.args(["--no-deps", "--format-version", "1"]).output()?;
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        let mut topics = Self { modules, packages: BTreeSet::new(), programs: Vec::new() };
        for package in list(&metadata, "packages") {
            topics.packages.extend(package["name"].as_str().map(str::to_owned));
            for target in list(&package, "targets") {
                let is_test = list(&target, "kind").iter().any(|kind| kind == "test");
                if is_test && list(&target, "required-features").is_empty() && target["name"] != PROGRAM {
                    topics.programs.extend(target["name"].as_str().map(str::to_owned));
                }
            }
        }
        topics.programs.sort_unstable();
        topics.programs.dedup();
        Ok(topics)
    }

    /// Test programs other than the end-to-end one.
    pub(super) fn own_programs(&self) -> &[String] {
        &self.programs
    }

    /// Returns the sources of these modules, with what is below them; of all modules if none are given.
    pub(super) fn sources(&self, chosen: &[String]) -> Result<String> {
        let mut sources = String::new();
        add_sources(&cargo::root()?.join("tests/tests").join(PROGRAM), chosen, chosen.is_empty(), &mut sources)?;
        Ok(sources)
    }

    /// Resolves names to modules and packages. If both have a name, it means the module, as for `canonizer`.
    pub(super) fn choose(&self, names: &[String]) -> Result<Chosen> {
        let mut chosen = Chosen::default();
        for name in names {
            if self.modules.contains(name) {
                chosen.modules.push(name.clone());
            }
            if self.packages.contains(name) {
                chosen.packages.push(name.clone());
            }
            if !self.modules.contains(name) && !self.packages.contains(name) {
                let all = self.modules.iter().chain(&self.packages).map(String::as_str).collect::<Vec<_>>();
                return Err(format!("unknown topic {name:?}; topics are {}", all.join(", ")).into());
            }
        }
        Ok(chosen)
    }
}

/// Adds the text of each Rust file in a directory that is a chosen module or below one.
fn add_sources(directory: &Path, chosen: &[String], all: bool, sources: &mut String) -> Result {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let all = all || chosen.contains(&name);
        if path.is_dir() {
            add_sources(&path, chosen, all, sources)?;
        } else if all && path.extension().is_some_and(|extension| extension == "rs") {
            *sources += &fs::read_to_string(&path)?;
        }
    }
    Ok(())
}

/// Adds the modules in a directory: its files and directories.
fn names(directory: &Path, modules: &mut BTreeSet<String>) -> Result {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "snapshots" {
            names(&path, modules)?;
            modules.insert(name);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "main" {
            modules.insert(name);
        }
    }
    Ok(())
}
