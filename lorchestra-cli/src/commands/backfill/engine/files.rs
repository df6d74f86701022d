//! The files of a group in the shared directory: plan, claims and results. Guarantees that a directory that cannot be read is an error, and
//! never looks like one without claims: windows would be submitted again.

use crate::exit::Code;
use crate::failure::CommandError;
use crate::wire::WindowResult;
use lorchestra_core::group::plan_file::{self, PlannedMember};
use lorchestra_core::plan::RunSpec;
use lorchestra_core::run::claim;
use lorchestra_core::store::group::{Group, GroupEngine};
use lorchestra_core::store::{ClaimHolder, Store};
use lorchestra_core::text::path_text;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirEntry;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The files of a group in the shared directory.
pub(super) struct GroupFiles<'a> {
    pub(super) group: &'a Group,
    pub(super) engine: &'a GroupEngine,
    /// Of this group alone.
    pub(super) dir: PathBuf,
}

impl<'a> GroupFiles<'a> {
    pub(super) fn new(group: &'a Group, engine: &'a GroupEngine) -> Self {
        Self { group, engine, dir: Path::new(&engine.shared).join(&group.group_id) }
    }

    pub(super) fn plan(&self) -> PathBuf {
        self.dir.join("plan.jsonl")
    }

    /// The directory for `run-window --claims`, which appends the group.
    pub(super) fn claims(&self) -> PathBuf {
        Path::new(&self.engine.shared).join("claims")
    }

    pub(super) fn claim(&self, place: u32) -> PathBuf {
        self.claims().join(&self.group.group_id).join(place.to_string())
    }

    pub(super) fn results(&self) -> PathBuf {
        self.dir.join("results")
    }

    /// Writes the plan as the store has it now: a library may have been replaced since the last time.
    pub(super) fn write_plan(&self, store: &Store) -> Result<(), CommandError> {
        for dir in [&self.results(), &self.claims()] {
            std::fs::create_dir_all(dir)
                .map_err(|error| CommandError::refused(Code::NotWritable, &path_text(dir), dir, &error))?;
        }
        let mut members = Vec::new();
        for (label, spec) in store.member_specs(self.group.n)? {
            let spec = RunSpec::from_json(spec.as_bytes())
                .map_err(|error| CommandError::new(Code::Config, format!("the spec of {label} cannot be read: {error}")))?;
            members.push(PlannedMember { label, spec });
        }
        plan_file::write(&self.plan(), &self.group.group_id, &self.group.name, &members).map_err(CommandError::plan_not_written)
    }

    /// Fails if the shared directory is not mounted. Otherwise a missing directory of claims means that there are none.
    pub(super) fn check_mounted(&self) -> Result<(), CommandError> {
        let plan = self.plan();
        std::fs::metadata(&plan).map(drop).map_err(|error| {
            CommandError::new(Code::NotWritable, format!("{}: {error}", path_text(&plan)))
                .hint(format!("check that {} is mounted here", self.engine.shared))
        })
    }

    /// The windows that have a claim.
    pub(super) fn claimed(&self) -> Result<BTreeSet<u32>, CommandError> {
        let entries = entries(&self.claims().join(&self.group.group_id))?;
        Ok(entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// Returns the run that has the claim of a window.
    pub(super) fn holder(&self, place: u32) -> io::Result<Option<ClaimHolder>> {
        claim::holder(&self.claim(place))
    }

    /// The results that windows left, with the window.
    fn result_files(&self) -> Result<Vec<(u32, DirEntry)>, CommandError> {
        let place = |entry: &DirEntry| entry.file_name().to_str()?.split_once('.')?.0.parse().ok();
        Ok(entries(&self.results())?.into_iter().filter_map(|entry| Some((place(&entry)?, entry))).collect())
    }

    /// Returns the newest result of each window that left one.
    pub(super) fn results_by_place(&self) -> Result<BTreeMap<u32, PathBuf>, CommandError> {
        let mut newest: BTreeMap<u32, (std::time::SystemTime, PathBuf)> = BTreeMap::new();
        for (place, entry) in self.result_files()? {
            let Ok(modified) = entry.metadata().and_then(|meta| meta.modified()) else { continue };
            if newest.get(&place).is_none_or(|(other, _)| *other <= modified) {
                newest.insert(place, (modified, entry.path()));
            }
        }
        Ok(newest.into_iter().map(|(place, (_, path))| (place, path)).collect())
    }

    /// Removes the results of windows that are about to be submitted again.
    pub(super) fn forget_results(&self, places: &[u32]) -> Result<(), CommandError> {
        let places: BTreeSet<u32> = places.iter().copied().collect();
        for (place, entry) in self.result_files()? {
            if places.contains(&place) {
                // One that stays is only shown in place of a newer one.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// Returns the entries of a directory; none if it does not exist.
fn entries(dir: &Path) -> Result<Vec<DirEntry>, CommandError> {
    let read = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.and_then(Iterator::collect),
    };
    read.map_err(|error| CommandError::refused(Code::NotWritable, &path_text(dir), dir, &error))
}

pub(super) fn read_result(path: &Path) -> Option<WindowResult> {
    let result: WindowResult = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (result.schema == WindowResult::SCHEMA).then_some(result)
}
