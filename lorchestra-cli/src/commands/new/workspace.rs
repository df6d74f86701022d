//! Finds the workspace above a new crate, and whether the crate is a member of it, by cargo's own rules.
//!
//! Reads each `Cargo.toml` above the crate. Ignores one that cannot be read: cargo reports it.

use glob::{MatchOptions, Pattern};
use std::fs;
use std::path::{Path, PathBuf};
use toml::Table;

/// Expands `members` as cargo does: a star matches one directory with any name.
const BY_DIRECTORY: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// The workspace that cargo finds above a crate.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Workspace {
    /// The directory of its `Cargo.toml`.
    pub(super) root: PathBuf,
    /// The entry of `members` that matches the crate's directory: the crate is a member, and must not be a workspace root.
    pub(super) takes_in: Option<String>,
}

/// Returns the workspace above `krate`, an absolute path of a crate that need not exist yet.
pub(super) fn above(krate: &Path) -> Option<Workspace> {
    for dir in krate.ancestors().skip(1) {
        let Some(manifest) = manifest(dir) else { continue };
        if let Some(workspace) = manifest.get("workspace").and_then(toml::Value::as_table) {
            if !is_excluded(krate, dir, workspace) {
                return Some(Workspace { root: dir.to_owned(), takes_in: member_by(krate, dir, workspace) });
            }
        } else if let Some(pointer) = manifest.get("package").and_then(|package| package.get("workspace")?.as_str()) {
            // A member that names its root; cargo applies this to the directories below it, too.
            let root = dir.join(pointer).canonicalize().ok()?;
            let manifest = self::manifest(&root)?;
            let takes_in = member_by(krate, &root, manifest.get("workspace")?.as_table()?);
            return Some(Workspace { root, takes_in });
        }
    }
    None
}

impl Workspace {
    /// Returns the directory of another workspace, below this one, that contains a dependency of a member. cargo considers dependencies
    /// below the root to be members, and can build neither workspace until this one excludes it.
    pub(super) fn to_exclude(&self, dependency: &Path) -> Option<PathBuf> {
        let manifest = manifest(&self.root)?;
        let inner = above(dependency)?.root;
        let below = inner.strip_prefix(&self.root).ok().filter(|below| *below != Path::new(""))?;
        let excluded = is_excluded(dependency, &self.root, manifest.get("workspace")?.as_table()?);
        (!excluded).then(|| below.to_owned())
    }
}

fn manifest(dir: &Path) -> Option<Table> {
    fs::read_to_string(dir.join("Cargo.toml")).ok()?.parse().ok()
}

fn entries<'a>(workspace: &'a Table, key: &str) -> impl Iterator<Item = &'a str> {
    workspace.get(key).and_then(toml::Value::as_array).into_iter().flatten().filter_map(toml::Value::as_str)
}

/// Whether a path is below a directory of `exclude` and not below one of `members`; in both, stars are literal.
fn is_excluded(krate: &Path, root: &Path, workspace: &Table) -> bool {
    let is_below = |key| entries(workspace, key).any(|entry| krate.starts_with(root.join(entry)));
    is_below("exclude") && !is_below("members")
}

fn member_by(krate: &Path, root: &Path, workspace: &Table) -> Option<String> {
    if is_excluded(krate, root, workspace) {
        return None;
    }
    let below = krate.strip_prefix(root).ok()?;
    let matches = |entry: &&str| {
        let pattern = entry.trim_start_matches("./").trim_end_matches('/');
        Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_path_with(below, BY_DIRECTORY))
    };
    entries(workspace, "members").find(matches).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the workspace that contains `all/crates/words`, with these files.
    fn found(files: &[(&str, &str)]) -> Option<(String, Option<String>)> {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("all/crates")).unwrap();
        for (at, text) in files {
            fs::create_dir_all(top.join(at)).unwrap();
            fs::write(top.join(at).join("Cargo.toml"), text).unwrap();
        }
        let workspace = above(&top.join("all/crates/words"))?;
        let root = workspace.root.strip_prefix(&top).unwrap().display().to_string();
        Some((root, workspace.takes_in))
    }

    fn takes_in(members: &str) -> Option<String> {
        found(&[("all", &format!("[workspace]\n{members}"))]).expect("a workspace").1
    }

    #[test]
    fn members_are_matched_like_cargos_globs() {
        for entry in ["crates/*", "./crates/*", "crates/words", "crates/words/", "*/*", "**/words", "crates/w[o]rd?", "**"] {
            assert_eq!(takes_in(&format!("members = [\"other\", {entry:?}]")).as_deref(), Some(entry));
        }
        for entry in ["*", "crates", "crates/*/x", "crates/W*", "words", "crates/*/*", "[", "../crates/*"] {
            assert_eq!(takes_in(&format!("members = [{entry:?}]")), None, "{entry}");
        }
        assert_eq!(takes_in(""), None);
    }

    #[test]
    fn an_excluded_crate_may_belong_to_an_outer_workspace() {
        let excluded = "[workspace]\nmembers = [\"crates/*\"]\nexclude = [\"crates/words\"]";
        assert_eq!(found(&[("all", excluded)]), None);
        let outer = "[workspace]\nmembers = [\"all/crates/*\"]";
        assert_eq!(found(&[("all", excluded), ("", outer)]), Some((String::new(), Some("all/crates/*".into()))));
        let named = "[workspace]\nmembers = [\"crates/words\"]\nexclude = [\"crates\"]";
        assert_eq!(found(&[("all", named)]), Some(("all".into(), Some("crates/words".into()))));
    }

    #[test]
    fn an_inner_workspace_that_a_member_depends_on_must_be_excluded() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("other/api")).unwrap();
        let write = |at: &str, text: &str| fs::write(root.join(at).join("Cargo.toml"), text).unwrap();
        write("other", "[workspace]\nmembers = [\"api\"]");
        let to_exclude = |text: &str| {
            write("", text);
            above(&root.join("words")).unwrap().to_exclude(&root.join("other/api"))
        };
        assert_eq!(to_exclude("[workspace]\nmembers = [\"words\"]"), Some("other".into()));
        assert_eq!(to_exclude("[workspace]\nmembers = [\"words\"]\nexclude = [\"other\"]"), None);
        // A dependency in this workspace, and one elsewhere.
        fs::remove_file(root.join("other/Cargo.toml")).unwrap();
        assert_eq!(to_exclude("[workspace]\nmembers = [\"words\"]"), None);
        assert_eq!(above(&root.join("words")).unwrap().to_exclude(Path::new("/elsewhere/api")), None);
    }

    #[test]
    fn the_nearest_root_counts() {
        let (package, root) = ("[package]\nname = \"x\"", "[workspace]\nmembers = [\"crates/*\"]");
        assert_eq!(found(&[("all/crates", package)]), None);
        assert_eq!(found(&[("all/crates", package), ("all", root)]), Some(("all".into(), Some("crates/*".into()))));
        assert_eq!(found(&[("all/crates", "[workspace]"), ("all", root)]), Some(("all/crates".into(), None)));
        assert_eq!(found(&[("all/crates", "no TOML"), ("all", root)]), Some(("all".into(), Some("crates/*".into()))));
        let pointer = "[package]\nname = \"x\"\nworkspace = \"../..\"";
        assert_eq!(found(&[("all/crates", pointer), ("all", root), ("", "[workspace]")]), Some((String::new(), None)));
    }
}
