//! What a new version of a package changes for the callers of its jobs. Compares two manifests; reads no files.

use lorchestra_plugin_api::manifest::{JobManifest, Manifest};

/// The differences, each sorted by job.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes {
    /// New jobs: name and signature.
    pub added: Vec<(String, String)>,
    /// Jobs that no longer exist.
    pub removed: Vec<(String, String)>,
    /// Jobs whose signature differs.
    pub changed: Vec<ChangedJob>,
}

/// A job whose signature has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedJob {
    /// Its name.
    pub job: String,
    /// The signature before.
    pub before: String,
    /// The signature now.
    pub after: String,
}

impl Changes {
    /// Returns the differences between `before` and `after`; without `before` every job is new.
    pub fn between(before: Option<&Manifest>, after: &Manifest) -> Self {
        let jobs = |manifest: &Manifest| manifest.jobs.clone();
        let (before, after) = (before.map(jobs).unwrap_or_default(), jobs(after));
        let known = |jobs: &[JobManifest], name: &str| jobs.iter().find(|job| job.name == name).map(|job| job.signature.clone());
        let missing = |from: &[JobManifest], of: &[JobManifest]| {
            let mut missing: Vec<_> = of
                .iter()
                .filter(|job| known(from, &job.name).is_none())
                .map(|job| (job.name.clone(), job.signature.clone()))
                .collect();
            missing.sort();
            missing
        };
        let mut changed: Vec<_> = after
            .iter()
            .filter_map(|job| {
                let before = known(&before, &job.name).filter(|before| *before != job.signature)?;
                Some(ChangedJob { job: job.name.clone(), before, after: job.signature.clone() })
            })
            .collect();
        changed.sort_by(|a, b| a.job.cmp(&b.job));
        Self { added: missing(&before, &after), removed: missing(&after, &before), changed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(jobs: &[(&str, &str)]) -> Manifest {
        let job = |(name, signature): &(&str, &str)| JobManifest {
            name: (*name).into(),
            signature: (*signature).into(),
            docs: String::new(),
            file: String::new(),
            line: 1,
            params: vec![],
            timeout: None,
            retries: None,
            overlap: None,
            deprecated: None,
        };
        Manifest {
            abi: 1,
            package: "p".into(),
            version: "1".into(),
            rustc: String::new(),
            target: String::new(),
            jobs: jobs.iter().map(job).collect(),
        }
    }

    #[test]
    fn added_removed_and_changed_jobs_are_reported() {
        let before = manifest(&[("z", "(cx)"), ("same", "(cx)"), ("b", "(cx, n: u8)"), ("a", "(cx)")]);
        let after = manifest(&[("new", "(cx)"), ("b", "(cx, n: u16)"), ("same", "(cx)"), ("also", "(cx)")]);
        let changes = Changes::between(Some(&before), &after);
        let names = |jobs: &[(String, String)]| jobs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(&changes.added), names(&changes.removed)),
            (vec!["also".into(), "new".into()], vec!["a".into(), "z".into()])
        );
        let changed = ChangedJob { job: "b".into(), before: "(cx, n: u8)".into(), after: "(cx, n: u16)".into() };
        assert_eq!(changes.changed, [changed]);
        assert_eq!(Changes::between(Some(&after), &after), Changes::default());
        assert_eq!(Changes::between(None, &after).added.len(), 4);
    }
}
