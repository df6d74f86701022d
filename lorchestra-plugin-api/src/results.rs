//! What a run leaves besides its events: a result, artifacts, counters, the last progress. A job sends each part as a [`Report`]; the host
//! adds them up as [`Results`], within limits.

use crate::limits;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Maximum size of a result, in bytes: it is part of the run's terminal event.
pub const MAX_RESULT: usize = 64 << 10;
/// Maximum number of artifacts of a run.
pub const MAX_ARTIFACTS: usize = 100;
/// Maximum length of an artifact's path, in bytes.
pub const MAX_PATH: usize = 4096;
/// Maximum number of counters of a run.
pub const MAX_COUNTERS: usize = 100;
/// Maximum length of a counter's name, in bytes.
pub const MAX_COUNTER: usize = 64;

/// Maximum number of inputs of a run, and of outputs.
pub const MAX_DATASETS: usize = 100;
/// Maximum length of a dataset's namespace and name together, in bytes.
pub const MAX_DATASET: usize = 1024;

/// Data outside of lorchestra that a run reads or writes, named as OpenLineage does: the namespace is the place (`bigquery`,
/// `s3://bucket`, `file`), the name is unique in it (`project.dataset.table`, a path).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dataset {
    /// The place.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

impl Dataset {
    fn check(&self) -> Result<(), String> {
        let Self { namespace, name } = self;
        if namespace.is_empty() || name.is_empty() || namespace.len() + name.len() > MAX_DATASET {
            return Err(format!("a dataset needs a namespace and a name, of at most {MAX_DATASET} bytes together"));
        }
        Ok(())
    }
}

/// One part of the results, on its way to the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The result; a later one replaces it.
    Result(Value),
    /// The absolute path of a file that belongs to the run.
    Artifact(String),
    /// An amount to add to a counter.
    Count {
        /// Name of the counter.
        name: String,
        /// The amount.
        by: u64,
    },
    /// Data that the run has read.
    Input(Dataset),
    /// Data that the run has written.
    Output(Dataset),
}

/// The results of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The job's result, a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Files that belong to the run, in the order in which the job reported them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// Counters by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, u64>,
    /// The last progress: done, and the total (0 if unknown).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<(u64, u64)>,
    /// Data that the run has read, in the order in which the job named it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Dataset>,
    /// Data that it has written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Dataset>,
}

/// A file that belongs to a run, as it was when the job reported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Absolute path.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Inode and time of the last change in nanoseconds since 1970: they show whether it is still this file.
    pub version: (u64, i64),
}

impl Artifact {
    /// Describes the file at this path.
    ///
    /// # Errors
    /// Returns a message for the author of the job if there is no such regular file.
    pub fn at(path: &str) -> Result<Self, String> {
        if path.len() > MAX_PATH {
            return Err(format!("the path of an artifact has {} bytes, but at most {MAX_PATH} are allowed", path.len()));
        }
        if !Path::new(path).is_absolute() {
            return Err(format!("the artifact {path:?} is not an absolute path"));
        }
        let meta = std::fs::symlink_metadata(path).map_err(|e| format!("the artifact {path:?} cannot be read: {e}"))?;
        if !meta.is_file() {
            return Err(format!("the artifact {path:?} is not a regular file"));
        }
        let changed = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
        Ok(Self { path: path.to_owned(), bytes: meta.len(), version: (meta.ino(), changed) })
    }
}

impl Results {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    /// Adds a report.
    ///
    /// # Errors
    /// Returns a message for the author of the job if a limit is exceeded. Nothing is changed then.
    pub fn add(&mut self, report: Report) -> Result<(), String> {
        match report {
            Report::Result(value) => self.result = Some(checked_result(value)?),
            Report::Artifact(path) => {
                let artifact = Artifact::at(&path)?;
                if let Some(known) = self.artifacts.iter_mut().find(|known| known.path == path) {
                    *known = artifact;
                    return Ok(());
                }
                if self.artifacts.len() >= MAX_ARTIFACTS {
                    return Err(format!("a run has at most {MAX_ARTIFACTS} artifacts: put several files into one archive"));
                }
                self.artifacts.push(artifact);
            }
            Report::Count { name, by } => {
                check_counter(&name)?;
                if self.counters.len() >= MAX_COUNTERS && !self.counters.contains_key(&name) {
                    return Err(format!("a run has at most {MAX_COUNTERS} counters"));
                }
                let count = self.counters.entry(name).or_default();
                *count = count.saturating_add(by);
            }
            Report::Input(dataset) => add_dataset(&mut self.inputs, dataset, "inputs")?,
            Report::Output(dataset) => add_dataset(&mut self.outputs, dataset, "outputs")?,
        }
        Ok(())
    }

    /// Returns why no host can have recorded these results, if so. A job can write into its spool.
    ///
    /// # Errors
    /// The reason.
    pub fn check(&self) -> Result<(), String> {
        if let Some(result) = &self.result {
            checked_result(result.clone())?;
        }
        self.counters.keys().try_for_each(|name| check_counter(name))?;
        self.inputs.iter().chain(&self.outputs).try_for_each(Dataset::check)?;
        if self.inputs.len().max(self.outputs.len()) > MAX_DATASETS {
            return Err("it has too many datasets".into());
        }
        let paths = self.artifacts.iter().all(|artifact| artifact.path.len() <= MAX_PATH && artifact.path.starts_with('/'));
        if !paths || self.artifacts.len() > MAX_ARTIFACTS || self.counters.len() > MAX_COUNTERS {
            return Err("it has too many artifacts or counters, or an invalid path".into());
        }
        Ok(())
    }
}

fn add_dataset(datasets: &mut Vec<Dataset>, dataset: Dataset, kind: &str) -> Result<(), String> {
    dataset.check()?;
    if datasets.contains(&dataset) {
        return Ok(());
    }
    if datasets.len() >= MAX_DATASETS {
        return Err(format!("a run has at most {MAX_DATASETS} {kind}: name what contains them, such as a directory"));
    }
    datasets.push(dataset);
    Ok(())
}

fn checked_result(value: Value) -> Result<Value, String> {
    let json = value.to_string();
    if json.len() > MAX_RESULT {
        return Err(format!(
            "the result has {} bytes, but at most {MAX_RESULT} (64 KiB) are allowed: write it to a file and report that as an artifact",
            json.len()
        ));
    }
    limits::check("result", json.as_bytes(), "", "", "").map_err(|why| why.replace("the payload of `result`", "the result"))?;
    Ok(value)
}

fn check_counter(name: &str) -> Result<(), String> {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > MAX_COUNTER || !name.bytes().all(valid) {
        return Err(format!(
            "{name:?} is not the name of a counter: use a-z, 0-9, `.`, `_` and `-`, at most {MAX_COUNTER} bytes"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dataset(name: &str) -> Dataset {
        Dataset { namespace: "file".into(), name: name.into() }
    }

    #[test]
    fn reports_add_up() {
        let file = crate::testing::TempDir::new().write("a.csv", "1,2");
        let path = file.to_str().unwrap().to_owned();
        let dir = crate::testing::TempDir::new();
        let kept = dir.write("b.csv", "1").to_str().unwrap().to_owned();
        let mut results = Results::default();
        assert!(results.is_empty());
        for report in [
            Report::Result(json!({"rows": 1})),
            Report::Result(json!({"rows": 2})),
            Report::Artifact(kept.clone()),
            Report::Artifact(kept.clone()),
            Report::Count { name: "rows.read".into(), by: 2 },
            Report::Count { name: "rows.read".into(), by: u64::MAX },
            Report::Input(dataset("a")),
            Report::Input(dataset("a")),
            Report::Output(dataset("a")),
        ] {
            results.add(report).unwrap();
        }
        assert_eq!((results.result.as_ref(), results.counters["rows.read"]), (Some(&json!({"rows": 2})), u64::MAX));
        assert_eq!((results.artifacts.len(), results.artifacts[0].bytes), (1, 1));
        assert_eq!((&results.inputs, &results.outputs), (&vec![dataset("a")], &vec![dataset("a")]));
        results.check().unwrap();
        let again: Results = serde_json::from_str(&serde_json::to_string(&results).unwrap()).unwrap();
        assert_eq!(again, results);
        // The directory was dropped with the file in it.
        assert!(results.add(Report::Artifact(path)).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn what_exceeds_a_limit_is_refused_and_changes_nothing() {
        let mut results = Results::default();
        let count = |name: &str| Report::Count { name: name.into(), by: 1 };
        for (report, why) in [
            (Report::Result(json!([1])), "the result is not a JSON object"),
            (Report::Result(json!({"a": "x".repeat(MAX_RESULT)})), "report that as an artifact"),
            (Report::Artifact("a.csv".into()), "not an absolute path"),
            (Report::Artifact("/".into()), "not a regular file"),
            (Report::Artifact(format!("/{}", "a".repeat(MAX_PATH))), "at most 4096"),
            (count(""), "not the name of a counter"),
            (count("Rows"), "not the name of a counter"),
            (Report::Input(dataset("")), "needs a namespace and a name"),
            (Report::Output(dataset(&"a".repeat(MAX_DATASET))), "at most 1024 bytes"),
        ] {
            let error = results.add(report).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(results.is_empty());
        (0..MAX_COUNTERS).for_each(|n| results.add(count(&format!("n{n}"))).unwrap());
        assert!(results.add(count("one-more")).unwrap_err().contains("at most 100 counters"));
        results.add(count("n0")).unwrap();
        (0..MAX_DATASETS).for_each(|n| results.add(Report::Input(dataset(&n.to_string()))).unwrap());
        assert!(results.add(Report::Input(dataset("one-more"))).unwrap_err().contains("at most 100 inputs"));
        results.add(Report::Input(dataset("0"))).unwrap();
    }
}
