//! `state.json`: the tap's last stored state, and the valid length of each file.
//!
//! It is replaced atomically, and only after everything it refers to is on disk. After a crash:
//!
//! | killed | on the disk | the next run |
//! | --- | --- | --- |
//! | while records are written | the previous checkpoint, longer files | truncates the files to the stored lengths |
//! | after the sync of the files, before the rename | the same, and `.state.….unfinished` | the same, and removes that |
//! | after the rename | the new checkpoint, files at least as long | removes what was written after the new checkpoint |
//! | after a checkpoint with `activate`, before or after the renames of versions | both names, or the new one only | completes the renames, and writes a checkpoint without `activate` |
//! | after a checkpoint with `renames` and `removes` of Parquet files | some names done | completes them, likewise |
//! | while Parquet files are written | the previous checkpoint, temporary files | removes the temporary files |
//! | while files are truncated | files of any length in between | truncates the rest |
//!
//! A file is recorded here before its first byte is written. So a file that is not recorded was created by another program, or belongs to
//! a checkpoint that was removed or replaced ([`set_stale_aside`]). A file that was moved away is recorded with length 0 before it
//! is created again.

use crate::layout::Widened;
use lorchestra_plugin_api::ParamEnum;
use lorchestra_plugin_api::serde_json::{self, value::RawValue};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Name of the checkpoint file.
pub(crate) const NAME: &str = "state.json";
/// Name of the file with records that were set aside.
pub(crate) const SET_ASIDE: &str = "set_aside.jsonl";
/// End of the names of temporary files.
pub(crate) const UNFINISHED: &str = ".unfinished";
const SCHEMA: &str = "meltano-ingest.state/1";

/// Returns the tap's state inside of Meltano's state, or of a checkpoint; `None` if the text is the tap's state itself.
pub(crate) fn inner_state(text: &str) -> Option<Box<RawValue>> {
    let map: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).ok()?;
    let is_checkpoint = map.get("schema").is_some_and(|schema| schema.get() == format!("\"{SCHEMA}\""));
    // Not if the tap uses that name for a key of its own, next to others.
    let is_meltano = map.len() == 1;
    map.into_iter().find_map(|(key, value)| {
        let is_inner = is_checkpoint && key == "state" || is_meltano && key == "singer_state";
        is_inner.then_some(value)
    })
}

/// How records are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ParamEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One file of JSON Lines per stream
    #[default]
    Jsonl,
    /// Numbered Parquet files per stream
    Parquet,
}

impl Format {
    /// Returns the name, as in `--format`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }
}

/// The content of the checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    schema: String,
    /// How the records of all streams are stored.
    #[serde(default)]
    pub(crate) format: Format,
    /// The tap's state as the tap wrote it; `null` before the first.
    pub(crate) state: Option<Box<RawValue>>,
    /// Streams by name.
    pub(crate) streams: BTreeMap<String, Lengths>,
    /// Valid length of `set_aside.jsonl`.
    pub(crate) set_aside: u64,
}

/// The valid lengths of a stream's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lengths {
    /// Name of its files, without the extension.
    pub(crate) file: String,
    /// Valid length of `<file>.jsonl`; of Parquet files, the number of their rows.
    pub(crate) bytes: u64,
    /// The active version, if the tap uses versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<i64>,
    /// Valid lengths of `<file>~<version>.jsonl`: versions that are not active yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) pending: BTreeMap<i64, u64>,
    /// The pending version that is to replace the active one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) activate: Option<i64>,
    /// The number of the last Parquet file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) last_part: u64,
    /// Complete Parquet files to rename: from, to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) renames: Vec<(String, String)>,
    /// Parquet files of replaced versions to remove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) removes: Vec<String>,
    /// Columns of Parquet files that differ from the schema.
    #[serde(default, skip_serializing_if = "Widened::is_empty")]
    pub(crate) widened: Widened,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Lengths {
    /// Returns the file name of the active version.
    pub(crate) fn active_path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.jsonl", self.file))
    }

    /// Returns the file name of a pending version. No other name contains `~`.
    pub(crate) fn pending_path(&self, dir: &Path, version: i64) -> PathBuf {
        dir.join(format!("{}~{version}.jsonl", self.file))
    }

    /// Returns the start of the names of Parquet files, before `.<number>.parquet`.
    pub(crate) fn parts_of(&self, version: Option<i64>) -> String {
        match version {
            None => self.file.clone(),
            Some(pending) => format!("{}~{pending}", self.file),
        }
    }
}

impl Checkpoint {
    /// Creates the checkpoint of a tap that has not run yet, with an existing `set_aside` of this length.
    pub(crate) fn first(format: Format, set_aside: u64) -> Self {
        Self { schema: SCHEMA.into(), format, state: None, streams: BTreeMap::new(), set_aside }
    }

    /// Reads the checkpoint of a directory; `None` if there is none. The inner error means that it has another format.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Result<Self, serde_json::Error>>> {
        let text = match fs::read(dir.join(NAME)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let read = serde_json::from_slice::<Self>(&text);
        Ok(Some(read.and_then(|read| {
            if read.schema == SCHEMA { Ok(read) } else { Err(serde::de::Error::custom(format!("its schema is not {SCHEMA}"))) }
        })))
    }

    /// Replaces the checkpoint durably.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        self.place(dir)?;
        sync_dir(dir)
    }

    /// Replaces the checkpoint, which becomes durable only with [`sync_dir`]. After an error the previous one is in place.
    pub(crate) fn place(&self, dir: &Path) -> io::Result<()> {
        place(dir, NAME, &serde_json::to_vec_pretty(self)?)
    }

    /// Resets the lengths of files that were moved away. This is written to disk before the files are created again: otherwise
    /// an empty file with a stored length would look truncated by another program.
    pub(crate) fn reset_missing_files(&mut self, dir: &Path) -> io::Result<()> {
        let mut any = reset_if_missing(&dir.join(SET_ASIDE), &mut self.set_aside)?;
        // Numbers of rows are valid wherever the files are.
        let streams = (self.format == Format::Jsonl).then_some(&mut self.streams);
        for lengths in streams.into_iter().flat_map(BTreeMap::values_mut) {
            any |= reset_if_missing(&lengths.active_path(dir), &mut lengths.bytes)?;
            for version in lengths.pending.keys().copied().collect::<Vec<_>>() {
                let path = lengths.pending_path(dir, version);
                if let Some(bytes) = lengths.pending.get_mut(&version) {
                    any |= reset_if_missing(&path, bytes)?;
                }
            }
        }
        if any { self.write(dir) } else { Ok(()) }
    }

    /// Completes the renames recorded in the checkpoint, and removes them from it. Can be repeated if it is interrupted.
    pub(crate) fn finish_activations(&mut self, dir: &Path) -> io::Result<()> {
        let mut renamed = false;
        for lengths in self.streams.values_mut() {
            renamed |= !lengths.renames.is_empty() || !lengths.removes.is_empty();
            for name in std::mem::take(&mut lengths.removes) {
                match fs::remove_file(dir.join(name)) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            for (from, to) in std::mem::take(&mut lengths.renames) {
                match fs::rename(dir.join(from), dir.join(to)) {
                    // Renamed before the kill.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            let Some(version) = lengths.activate.take() else { continue };
            renamed = true;
            match fs::rename(lengths.pending_path(dir, version), lengths.active_path(dir)) {
                // Renamed before the kill.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
            let newer = lengths.pending.split_off(&version);
            for older in std::mem::replace(&mut lengths.pending, newer).into_keys() {
                match fs::remove_file(lengths.pending_path(dir, older)) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            lengths.bytes = lengths.pending.remove(&version).unwrap_or(0);
            lengths.version = Some(version);
        }
        if renamed {
            sync_dir(dir)?;
            self.write(dir)?;
        }
        Ok(())
    }
}

/// Returns the valid length, or 0 if the file was moved away.
fn reset_if_missing(path: &Path, bytes: &mut u64) -> io::Result<bool> {
    let is_taken = *bytes > 0 && !path.try_exists()?;
    if is_taken {
        *bytes = 0;
    }
    Ok(is_taken)
}

/// Replaces a file (mode 0600) atomically and durably.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    place(dir, name, bytes)?;
    sync_dir(dir)
}

fn place(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(&format!(".{name}.")).suffix(UNFINISHED).tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(dir.join(name)).map_err(|e| e.error)?;
    Ok(())
}

/// Removes temporary files left by killed runs. Requires the lock, so that their writers are dead, and that all renames are complete.
pub(crate) fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Returns the Parquet files of a stream with their numbers: `<start>.<number>.parquet`.
pub(crate) fn parts(dir: &Path, start: &str) -> io::Result<Vec<(u64, String)>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        parts.extend(name.strip_prefix(start).and_then(part_number).map(|number| (number, name)));
    }
    parts.sort_unstable();
    Ok(parts)
}

/// Renames files of a stream that are not in the checkpoint, by adding `.stale`. Returns their number and their size.
///
/// The file of the active version may be adopted instead: its length or last number is then in `lengths`.
pub(crate) fn set_stale_aside(dir: &Path, format: Format, lengths: &Lengths) -> io::Result<(u64, u64)> {
    let is_stale = |name: &str| -> Option<bool> {
        let rest = name.strip_prefix(&lengths.file)?;
        let (version, rest) = match rest.strip_prefix('~') {
            Some(rest) => {
                let (version, _) = rest.split_once('.')?;
                (Some(version.parse::<i64>().ok()?), &rest[version.len()..])
            }
            None => (None, rest),
        };
        let is_gone = version.is_some_and(|version| !lengths.pending.contains_key(&version));
        match format {
            Format::Jsonl => Some(rest == ".jsonl" && is_gone),
            Format::Parquet => Some(part_number(rest)? > lengths.last_part || is_gone),
        }
    };
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_stale(&name) != Some(true) {
            continue;
        }
        let mut names = (1..).map(|n: u32| if n == 1 { format!("{name}.stale") } else { format!("{name}.stale.{n}") });
        let Some(free) = names.find(|name| !dir.join(name).exists()) else { continue };
        bytes += entry.metadata()?.len();
        fs::rename(entry.path(), dir.join(free))?;
        files += 1;
    }
    if files > 0 {
        sync_dir(dir)?;
    }
    Ok((files, bytes))
}

/// Returns the number in the end of a Parquet file's name, `.<number>.parquet`.
fn part_number(end: &str) -> Option<u64> {
    let digits = end.strip_prefix('.')?.strip_suffix(".parquet")?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Returns the name of a Parquet file.
pub(crate) fn part_name(start: &str, number: u64) -> String {
    format!("{start}.{number:05}.parquet")
}

/// Syncs the entries of a directory to disk.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_kept_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Checkpoint::read(dir.path()).unwrap().is_none());
        let mut checkpoint = Checkpoint::first(Format::Jsonl, 0);
        let state = r#"{"b":1.10,"a":"\ud83d"}"#;
        checkpoint.state = Some(RawValue::from_string(state.into()).unwrap());
        let lengths = Lengths { file: "people".into(), bytes: 7, pending: [(3, 4)].into(), ..Lengths::default() };
        checkpoint.streams.insert("People".into(), lengths.clone());
        checkpoint.write(dir.path()).unwrap();
        let read = Checkpoint::read(dir.path()).unwrap().unwrap().unwrap();
        assert_eq!((read.state.unwrap().get(), &read.streams["People"]), (state, &lengths));
    }

    #[test]
    fn a_file_of_another_format_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{}", "[]", r#"{"schema":"x/1","state":null,"streams":{},"set_aside":0}"#] {
            fs::write(dir.path().join(NAME), text).unwrap();
            assert!(Checkpoint::read(dir.path()).unwrap().unwrap().is_err(), "{text}");
        }
    }

    #[test]
    fn an_interrupted_activation_is_finished() {
        for done in 0..4 {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name);
            let lengths = Lengths {
                file: "a".into(),
                bytes: 4,
                version: Some(1),
                pending: [(2, 4), (3, 6), (4, 2)].into(),
                activate: Some(3),
                ..Lengths::default()
            };
            for (name, text) in [("a.jsonl", "one\n"), ("a~2.jsonl", "two\n"), ("a~3.jsonl", "three\n"), ("a~4.jsonl", "4\n")] {
                fs::write(path(name), text).unwrap();
            }
            let mut checkpoint = Checkpoint::first(Format::Jsonl, 0);
            checkpoint.streams.insert("a".into(), lengths);
            checkpoint.write(dir.path()).unwrap();
            if done > 0 {
                fs::rename(path("a~3.jsonl"), path("a.jsonl")).unwrap();
            }
            if done > 1 {
                fs::remove_file(path("a~2.jsonl")).unwrap();
            }
            for _ in 0..done {
                checkpoint.finish_activations(dir.path()).unwrap();
            }
            let mut read = Checkpoint::read(dir.path()).unwrap().unwrap().unwrap();
            read.finish_activations(dir.path()).unwrap();
            let now = Lengths { file: "a".into(), bytes: 6, version: Some(3), pending: [(4, 2)].into(), ..Lengths::default() };
            assert_eq!(Checkpoint::read(dir.path()).unwrap().unwrap().unwrap().streams["a"], now);
            assert_eq!(fs::read_to_string(path("a.jsonl")).unwrap(), "three\n");
            assert!(!path("a~2.jsonl").exists() && !path("a~3.jsonl").exists() && path("a~4.jsonl").exists());
        }
    }
}
