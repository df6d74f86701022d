//! `doctor --fix`: repairs what can be repaired without a decision, before the checks: missing directories, and modes of this user's own
//! files. What runs have left is removed by [`super::leftovers`].
//!
//! Removes no file of a user and overwrites nothing. A library that other users could change is not repaired: they may have changed it
//! already.

use super::Finding;
use crate::settings::Settings;
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::host::rights::is_ours;
use lorchestra_core::packages::catalog::trust;
use lorchestra_core::plan::source::Source;
use lorchestra_core::text::path_text;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Repairs everything, and returns what was done or could not be done.
pub(super) fn all(settings: &Settings) -> Vec<Finding> {
    let mut done = Vec::new();
    done.extend(without(&settings.config_path, 0o022, "configuration"));
    done.extend(without(&settings.lockfile, 0o022, "configuration"));
    for file in [&settings.config_path, &settings.lockfile] {
        // The first finding: with umask 002, a group without other members may write.
        let Some(dir) = file.parent().filter(|dir| is_ours(dir) && trust::configuration(file).is_err()) else { continue };
        done.extend(without(dir, 0o022, "configuration"));
    }
    done.extend(without(&settings.state_dir, 0o077, "state"));
    for dir in &settings.plugin_dirs {
        done.extend(created(&dir.path, 0o755, "plugins"));
    }
    for (job, config) in &settings.jobs {
        for source in config.secrets.values() {
            if let Some(Source::File(path)) = Source::parse(source) {
                let base = settings.config_path.parent().unwrap_or(Path::new("/"));
                let path = path.strip_prefix("~").map_or_else(|_| base.join(&path), |below| settings.home.join(below));
                tracing::debug!(job, "checking the file of a secret");
                done.extend(without(&path, 0o077, "secrets"));
            }
        }
    }
    for to in &settings.destinations {
        if let DestinationConfig::Jsonl(config) = to {
            done.extend(created(&config.dir, 0o700, "delivery"));
        }
    }
    done
}

/// Takes these rights from a file or directory of this user.
fn without(path: &Path, rights: u32, check: &'static str) -> Option<Finding> {
    let meta = fs::symlink_metadata(path).ok().filter(|meta| !meta.is_symlink())?;
    if meta.mode() & rights == 0 || meta.uid() != rustix::process::geteuid().as_raw() {
        return None;
    }
    let mode = meta.mode() & 0o7777 & !rights;
    let result = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    Some(finding(check, result, format!("mode of {} set to {mode:o}", path_text(path))))
}

/// Creates a missing directory, if its parent exists: otherwise the path is probably wrong.
fn created(path: &Path, mode: u32, check: &'static str) -> Option<Finding> {
    if path.exists() || !path.parent().is_some_and(Path::is_dir) {
        return None;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        // By another process, at the same time.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
        result => Some(finding(check, result, format!("created {}", path_text(path)))),
    }
}

fn finding(check: &'static str, result: io::Result<()>, what: String) -> Finding {
    match result {
        Ok(()) => Finding::fixed(check, what),
        Err(error) => Finding::warning(check, format!("not done: {what}: {error}"), "check the owner of the directory"),
    }
}
