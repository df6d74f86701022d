//! What end-to-end tests need besides the workspace's dev build: servers and data from elsewhere, plugins built with other settings.
//!
//! Which topics need what is read from their sources: a topic that names [`Need::markers`] has the need. So a new test has no list to
//! maintain, and if a marker is missed, the test itself sets the need up or names the command that builds it.

use crate::{Result, cargo};
use lorchestra_test_setup::{chromium, corpora, dovecot, slurm, systemd, venv};
use std::path::Path;

/// Something that tests need, and how to get it.
pub(super) struct Need {
    pub(super) name: &'static str,
    /// What is downloaded, and how large it is on the disk; empty if nothing is.
    pub(super) download: &'static str,
    /// Typical duration with an empty target directory, in seconds.
    pub(super) seconds: u64,
    /// Texts in the sources of tests that need it.
    markers: &'static [&'static str],
    /// Paths below the target directory that exist once it is there.
    made: &'static [&'static str],
    set_up: fn(&Path) -> std::result::Result<(), String>,
}

impl Need {
    /// Whether it was set up before. It may still be checked or updated.
    pub(super) fn is_there(&self, target: &Path) -> bool {
        self.made.iter().all(|made| target.join(made).exists())
    }

    /// Sets it up; does nothing if it is there in the wanted version.
    pub(super) fn set_up(&self, target: &Path) -> std::result::Result<(), String> {
        (self.set_up)(target)
    }
}

/// From PyPI or Debian's archive. Setting them up mostly waits for the network.
const DOWNLOADS: [Need; 11] = [
    Need {
        name: "BigQuery emulator",
        download: "bqemulator and Google's client from PyPI, 660 MB",
        seconds: 60,
        markers: &["emulator::", "parquet::read"],
        made: &["bqemulator-venv/lorchestra-stamp"],
        set_up: |target| venv::ensure(target).map(drop),
    },
    Need {
        name: "Singer tap",
        download: "tap-jsonfile from PyPI, 126 MB",
        seconds: 15,
        markers: &["venv::ensure_tap"],
        made: &["tap-venv/lorchestra-stamp"],
        set_up: |target| venv::ensure_tap(target).map(drop),
    },
    Need {
        name: "four more Singer taps",
        download: "from PyPI, 430 MB",
        seconds: 60,
        markers: &["venv::ensure_more_taps"],
        made: &["tap-jsonl-venv/lorchestra-stamp", "tap-singer-jsonl-venv/lorchestra-stamp"],
        set_up: |target| venv::ensure_more_taps(target).map(drop),
    },
    Need {
        name: "tools for Python packages",
        download: "setuptools and wheel from PyPI, 29 MB",
        seconds: 10,
        markers: &["venv::with_package"],
        made: &["packaging-venv/lorchestra-stamp"],
        set_up: |target| venv::ensure_packaging(target).map(drop),
    },
    Need {
        name: "embedding model",
        download: "wordllama from PyPI, 43 MB",
        seconds: 10,
        markers: &["venv::ensure_model"],
        made: &["model-venv/lorchestra-stamp"],
        set_up: |target| venv::ensure_model(target).map(drop),
    },
    Need {
        name: "messages of mail parsers' tests",
        download: "mail-parser from PyPI, 25 MB with pip",
        seconds: 10,
        markers: &["corpora::"],
        made: &["corpora-venv/lorchestra-stamp"],
        set_up: |target| corpora::ensure(target).map(drop),
    },
    Need {
        name: "validators of formats",
        download: "kubernetes-validate, prometheus-client and openlineage-python from PyPI, 60 MB",
        seconds: 10,
        markers: &["venv::ensure_formats"],
        made: &["formats-venv/lorchestra-stamp"],
        set_up: |target| venv::ensure_formats(target).map(drop),
    },
    Need {
        name: "Dovecot",
        download: "Debian's packages, unpacked only, 40 MB",
        seconds: 10,
        markers: &["dovecot::", "Dovecot::"],
        made: &["dovecot/lorchestra-stamp"],
        set_up: |target| dovecot::ensure(target).map(drop),
    },
    Need {
        name: "Slurm",
        download: "Debian's packages, unpacked only, 13 MB",
        seconds: 5,
        markers: &["slurm::", "Slurm::"],
        made: &["slurm/lorchestra-stamp"],
        set_up: |target| slurm::ensure(target).map(drop),
    },
    Need {
        name: "systemd-analyze",
        download: "Debian's packages, unpacked only, 17 MB",
        seconds: 5,
        markers: &["systemd::"],
        made: &["systemd/lorchestra-stamp"],
        set_up: |target| systemd::ensure(target).map(drop),
    },
    Need {
        name: "Chromium",
        download: "Debian's packages, unpacked only, 370 MB",
        seconds: 40,
        markers: &["chromium::"],
        made: &["chromium/lorchestra-stamp"],
        set_up: |target| chromium::ensure(target).map(drop),
    },
];

/// Plugins that are not part of the workspace's dev build.
const BUILDS: [Need; 2] = [
    Need {
        name: "plugin with an async runtime",
        download: "",
        seconds: 40,
        markers: &["Fixture::Web"],
        made: &["debug/libweb.so"],
        set_up: |target| {
            let built = cargo::cargo("build").and_then(|mut build| {
                cargo::run(build.args(["--manifest-path", "tests/web/Cargo.toml", "--target-dir"]).arg(target))
            });
            built.map_err(|error| error.to_string())
        },
    },
    Need {
        name: "plugins as authors ship them",
        download: "",
        seconds: 60,
        markers: &["Fixture::Shipped"],
        made: &["shipped/libhello.so", "shipped/libmisbehave.so", "shipped/libconstructor.so"],
        set_up: |_| {
            let built = cargo::build(&["--profile", "shipped", "-p", "misbehave", "-p", "constructor", "-p", "hello"]);
            built.map_err(|error| error.to_string())
        },
    },
];

/// The needs of some sources: downloads and builds.
pub(super) fn of(source: &str) -> (Vec<&'static Need>, Vec<&'static Need>) {
    let named = |need: &&Need| need.markers.iter().any(|marker| source.contains(marker));
    (DOWNLOADS.iter().filter(named).collect(), BUILDS.iter().filter(named).collect())
}

/// Sets up several, one after another.
pub(super) fn set_up(needs: &[&'static Need]) -> std::result::Result<(), String> {
    let target = cargo::target().map_err(|error| error.to_string())?;
    needs.iter().try_for_each(|need| need.set_up(&target).map_err(|error| format!("{}: {error}", need.name)))
}

/// Returns the names of those that are not there yet.
pub(super) fn missing(needs: &[&'static Need]) -> Result<Vec<&'static Need>> {
    let target = cargo::target()?;
    Ok(needs.iter().copied().filter(|need| !need.is_there(&target)).collect())
}

#[cfg(test)]
mod tests {
    use super::{BUILDS, DOWNLOADS, of};
    use crate::cargo;
    use crate::test::topics::Topics;

    fn names(topics: &[&str]) -> Vec<&'static str> {
        let topics: Vec<String> = topics.iter().map(|&name| name.to_owned()).collect();
        let (downloads, builds) = of(&Topics::read().unwrap().sources(&topics).unwrap());
        downloads.iter().chain(&builds).map(|need| need.name).collect()
    }

    #[test]
    fn a_topic_has_the_needs_that_its_source_names() {
        assert_eq!(names(&["killed"]), <[&str; 0]>::default());
        assert_eq!(names(&["imap"]), ["Dovecot"]);
        assert_eq!(names(&["slurm"]), ["BigQuery emulator", "Slurm"]);
        assert_eq!(names(&["trust"]), ["systemd-analyze"]);
        assert_eq!(names(&["browser"]), ["Chromium"]);
        assert_eq!(names(&["web"]), ["plugin with an async runtime"]);
        assert_eq!(names(&["compatibility"]), ["plugins as authors ship them"]);
    }

    #[test]
    fn every_need_is_the_need_of_a_test() {
        let all = names(&[]);
        assert_eq!(all.len(), DOWNLOADS.len() + BUILDS.len(), "{all:?}");
        assert!(cargo::root().unwrap().join("tests/web/Cargo.toml").is_file());
    }
}
