//! Plan files: the members of a group in a file that every node of an engine can read, each by its index. Owns the format.
//!
//! ```text
//! {"schema":"lorchestra.plan/1","group":"019…","name":"pkg/job","members":365,"libraries":[{"package":…,"version":…,"sha256":…}],"sha256":"…"}
//! {"label":"2024-01-01..2024-01-02 anna","spec":{…},"check":"…"}
//! …
//! ```
//!
//! `sha256` in the first line is that of all the following lines: a file that is cut, still being copied, or edited is refused as a whole by
//! [`PlanFile::read`]. A node reads its members only ([`read_members`]) and must not pay for the other 18,249: `check` is the sum of group,
//! index, label and spec. The specs name the sha256 of their library, so that every node runs the same bytes.

use crate::host::atomic_file::OutputFile;
use crate::host::locks::hex;
use crate::plan::{RunSpec, SpecError};
use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The value of `schema`.
const SCHEMA: &str = "lorchestra.plan/1";

/// A plan that was read and checked.
#[derive(Debug)]
pub struct PlanFile {
    /// The id of the group.
    pub group: String,
    /// What it runs, for people.
    pub name: String,
    members: Vec<String>,
}

/// A member of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedMember {
    /// Its name in the group.
    pub label: String,
    /// Its spec.
    pub spec: RunSpec,
}

/// A library that the members use.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
struct PlanLibrary {
    package: String,
    version: String,
    /// Null if any build of the version may be used.
    sha256: Option<String>,
}

/// The first line of a plan file. Each further line is an object with the `label` and the `spec` of a window.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PlanHeader")]
struct Header {
    #[schemars(extend("const" = "lorchestra.plan/1"))]
    schema: String,
    /// The id of the group.
    group: String,
    /// What it runs: PACKAGE/JOB.
    name: String,
    /// Number of further lines.
    members: usize,
    libraries: Vec<PlanLibrary>,
    /// SHA-256 of the further lines.
    sha256: String,
}

/// Returns the JSON Schema of a plan file's first line.
pub fn schema() -> Schema {
    schema_for!(Header)
}

#[derive(Debug, Serialize)]
struct LineOut<'a> {
    label: &'a str,
    spec: &'a RawValue,
    check: String,
}

#[derive(Debug, Deserialize)]
struct LineIn<'a> {
    label: String,
    #[serde(borrow)]
    spec: &'a RawValue,
    check: String,
}

/// Returns the sum of one member.
fn check(group: &str, index: usize, label: &str, spec: &str) -> String {
    hex(&Sha256::digest(format!("{group} {index} {label}\n{spec}")))
}

/// Why a plan cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    /// The file cannot be read or written.
    #[error("{path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is not a plan of a version that this lorchestra reads.
    #[error("{path} is not a plan file ({SCHEMA}): {reason}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Its contents are not those that were written.
    #[error("{path} is incomplete or was changed: its sha256 is {found}, and its first line has {written}", path = path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The sum of its contents.
        found: String,
        /// The sum in its first line.
        written: String,
    },
    /// A member is not as it was written.
    #[error("member {index} of {path} was changed, or the file is incomplete", path = path.display())]
    Member {
        /// The file.
        path: PathBuf,
        /// The index.
        index: usize,
    },
    /// There is no member with this index.
    #[error("the plan has {members} member{}, so there is no index {index}", if *members == 1 { "" } else { "s" })]
    Index {
        /// The index.
        index: usize,
        /// Number of members.
        members: usize,
    },
    /// The spec of a member cannot be run by this lorchestra.
    #[error("the spec of member {index}")]
    Spec {
        /// The index.
        index: usize,
        /// The reason.
        source: SpecError,
    },
}

/// Writes a plan: the whole file, or nothing.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, group: &str, name: &str, members: &[PlannedMember]) -> Result<(), PlanFileError> {
    let io = |source| PlanFileError::Io { path: path.to_owned(), source };
    let mut lines = Vec::new();
    let mut libraries = BTreeSet::new();
    for (index, PlannedMember { label, spec }) in members.iter().enumerate() {
        let text = RawValue::from_string(spec.to_json()).map_err(|error| io(error.into()))?;
        let line = LineOut { label, spec: &text, check: check(group, index, label, text.get()) };
        serde_json::to_writer(&mut lines, &line).map_err(|error| io(error.into()))?;
        lines.push(b'\n');
        let RunSpec { package, version, sha256, .. } = spec;
        libraries.insert(PlanLibrary { package: package.clone(), version: version.clone(), sha256: sha256.clone() });
    }
    let header = Header {
        schema: SCHEMA.into(),
        group: group.into(),
        name: name.into(),
        members: members.len(),
        libraries: libraries.into_iter().collect(),
        sha256: hex(&Sha256::digest(&lines)),
    };
    let mut text = serde_json::to_vec(&header).map_err(|error| io(error.into()))?;
    text.push(b'\n');
    let mut file = OutputFile::create(path, Permissions::from_mode(0o600)).map_err(io)?;
    file.write_all(&text).and_then(|()| file.write_all(&lines)).and_then(|()| file.finish()).map(drop).map_err(io)
}

/// Reads some members of a plan in one pass, with the id of the group. Returns them with their indices, in ascending order. The cost hardly
/// depends on the number of members.
///
/// # Errors
/// If there is no such member, or one of them is not as it was written.
pub fn read_members(path: &Path, indices: &[usize]) -> Result<(String, Vec<(usize, PlannedMember)>), PlanFileError> {
    let io = |source| PlanFileError::Io { path: path.to_owned(), source };
    let wrong = |reason: String| PlanFileError::Format { path: path.to_owned(), reason };
    let mut file = BufReader::with_capacity(256 << 10, File::open(path).map_err(io)?);
    let mut line = String::new();
    file.read_line(&mut line).map_err(io)?;
    if !line.ends_with('\n') {
        return Err(wrong("it has no lines".into()));
    }
    let header = header(path, line.as_bytes())?;
    let mut members = Vec::new();
    let mut at = 0;
    for index in indices.iter().copied().collect::<BTreeSet<usize>>() {
        if index >= header.members {
            return Err(PlanFileError::Index { index, members: header.members });
        }
        for _ in at..index {
            file.skip_until(b'\n').map_err(io)?;
        }
        at = index + 1;
        line.clear();
        file.read_line(&mut line).map_err(io)?;
        let changed = || PlanFileError::Member { path: path.to_owned(), index };
        let LineIn { label, spec, check: written } = serde_json::from_str(&line).map_err(|_| changed())?;
        if check(&header.group, index, &label, spec.get()) != written {
            return Err(changed());
        }
        let spec = RunSpec::from_json(spec.get().as_bytes()).map_err(|source| PlanFileError::Spec { index, source })?;
        members.push((index, PlannedMember { label, spec }));
    }
    Ok((header.group, members))
}

fn header(path: &Path, line: &[u8]) -> Result<Header, PlanFileError> {
    let wrong = |reason: String| PlanFileError::Format { path: path.to_owned(), reason };
    let header: Header = serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
    if header.schema != SCHEMA {
        return Err(wrong(format!("its schema is {}", crate::text::quote(&header.schema))));
    }
    Ok(header)
}

impl PlanFile {
    /// Reads a plan and checks its sum.
    ///
    /// # Errors
    /// If it is not the whole plan that was written.
    pub fn read(path: &Path) -> Result<Self, PlanFileError> {
        let text = std::fs::read(path).map_err(|source| PlanFileError::Io { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Returns the SHA-256 of a whole file, as `sha256sum` prints it.
    pub fn sum(text: &[u8]) -> String {
        hex(&Sha256::digest(text))
    }

    /// Parses a plan and checks its sum. Errors name `path`, which may be a URL.
    ///
    /// # Errors
    /// If it is not the whole plan that was written.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, PlanFileError> {
        let wrong = |reason: String| PlanFileError::Format { path: path.to_owned(), reason };
        let end = text.iter().position(|byte| *byte == b'\n').ok_or_else(|| wrong("it has no lines".into()))?;
        let (first, lines) = (&text[..end], &text[end + 1..]);
        let header = header(path, first)?;
        let found = Self::sum(lines);
        if found != header.sha256 {
            return Err(PlanFileError::Checksum { path: path.to_owned(), found, written: header.sha256 });
        }
        let lines = std::str::from_utf8(lines).map_err(|error| wrong(error.to_string()))?;
        let members: Vec<String> = lines.lines().map(str::to_owned).collect();
        if members.len() != header.members {
            return Err(wrong(format!("it has {} members instead of {}", members.len(), header.members)));
        }
        Ok(Self { group: header.group, name: header.name, members })
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns a member.
    ///
    /// # Errors
    /// If there is no such member, or its spec is of another version.
    pub fn member(&self, index: usize) -> Result<PlannedMember, PlanFileError> {
        let members = self.members.len();
        let line = self.members.get(index).ok_or(PlanFileError::Index { index, members })?;
        let invalid = |error: serde_json::Error| PlanFileError::Spec { index, source: SpecError::Json(error.to_string()) };
        let LineIn { label, spec, .. } = serde_json::from_str(line).map_err(invalid)?;
        let spec = RunSpec::from_json(spec.get().as_bytes()).map_err(|source| PlanFileError::Spec { index, source })?;
        Ok(PlannedMember { label, spec })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(label: &str) -> PlannedMember {
        let spec = RunSpec::bare("pkg", "job", "1.0.0", chrono::DateTime::UNIX_EPOCH);
        PlannedMember { label: label.into(), spec: RunSpec { sha256: Some("ab".into()), ..spec } }
    }

    #[test]
    fn a_plan_is_read_as_it_was_written_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.jsonl");
        let members: Vec<_> = ["one", "two", "drei ü \" \n"].map(member).into();
        write(&path, "group", "pkg/job", &members).unwrap();
        let plan = PlanFile::read(&path).unwrap();
        assert_eq!((plan.group.as_str(), plan.name.as_str(), plan.len()), ("group", "pkg/job", 3));
        for (index, member) in members.iter().enumerate() {
            assert_eq!(plan.member(index).unwrap(), *member);
        }
        assert!(matches!(plan.member(3), Err(PlanFileError::Index { index: 3, members: 3 })));
        let one = |index| read_members(&path, &[index]).map(|(group, mut members)| (group, members.remove(0).1));
        for (index, member) in members.iter().enumerate() {
            assert_eq!(one(index).unwrap(), ("group".to_owned(), member.clone()));
        }
        assert!(matches!(one(3), Err(PlanFileError::Index { index: 3, members: 3 })));
        let some = read_members(&path, &[2, 0, 2]).unwrap().1;
        assert_eq!(some, [(0, members[0].clone()), (2, members[2].clone())]);
        assert!(matches!(read_members(&path, &[1, 3]), Err(PlanFileError::Index { index: 3, members: 3 })));
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            PlanFile::read(&path).unwrap_err();
        }
        for at in first + 1..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            assert!(matches!(PlanFile::read(&path), Err(PlanFileError::Checksum { .. })), "byte {at}");
            // The member that was changed is refused, the others are not.
            let intact = (0..3).filter(|index| one(*index).is_ok_and(|(_, member)| member == members[*index])).count();
            let read = (0..3).filter(|index| one(*index).is_ok()).count();
            assert_eq!((read, intact), (read, read), "byte {at}");
            assert!(read < 3, "byte {at}");
        }
    }
}
