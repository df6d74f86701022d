//! The commit that is checked out, read from git's files, because a machine that builds may have no git. Part of the build script, which
//! cannot have tests: they are run with those of the library.

use std::fs;
use std::path::{Path, PathBuf};

/// A directory with a `.git`.
#[derive(Debug)]
pub(crate) struct Checkout {
    /// The directory with `HEAD`.
    git: PathBuf,
    /// The directory with the branches. Another one in a linked worktree.
    common: PathBuf,
}

impl Checkout {
    /// Returns the checkout in a directory. Does not search its parents.
    pub(crate) fn at(directory: &Path) -> Option<Self> {
        let dot_git = directory.join(".git");
        let git = match fs::read_to_string(&dot_git) {
            // A linked worktree or a submodule.
            Ok(text) => directory.join(text.strip_prefix("gitdir:")?.trim()),
            Err(_) => dot_git,
        };
        let common = match fs::read_to_string(git.join("commondir")) {
            Ok(text) => git.join(text.trim()),
            Err(_) => git.clone(),
        };
        git.join("HEAD").is_file().then_some(Self { git, common })
    }

    /// Returns the full hash of the commit; `None` before the first commit, or if the branches are in a format other than files.
    pub(crate) fn commit(&self) -> Option<String> {
        let head = fs::read_to_string(self.git.join("HEAD")).ok()?;
        let Some(name) = head.strip_prefix("ref:").map(str::trim) else { return hash(&head) };
        let loose = [&self.git, &self.common].into_iter().find_map(|dir| hash(&fs::read_to_string(dir.join(name)).ok()?));
        loose.or_else(|| {
            let packed = fs::read_to_string(self.common.join("packed-refs")).ok()?;
            packed.lines().find_map(|line| hash(line.strip_suffix(name)?.strip_suffix(' ')?))
        })
    }

    /// Returns the files of which one changes with every commit and checkout. Only existing ones: cargo would build again and again for a
    /// missing one.
    pub(crate) fn changing(&self) -> Vec<PathBuf> {
        let head = fs::read_to_string(self.git.join("HEAD")).unwrap_or_default();
        let branch = head.strip_prefix("ref:").map(|name| self.common.join(name.trim()));
        // The log, because a packed branch has no file, which the next commit creates.
        let files = [self.git.join("HEAD"), self.git.join("logs/HEAD"), self.common.join("packed-refs")];
        files.into_iter().chain(branch).filter(|path| path.is_file()).collect()
    }
}

fn hash(text: &str) -> Option<String> {
    let text = text.trim();
    let is_hash = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::Checkout;
    use std::fs;
    use std::path::{Path, PathBuf};

    const FIRST: &str = "0123456789abcdef0123456789abcdef01234567";
    const SECOND: &str = "89abcdef0123456789abcdef0123456789abcdef";

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn commit(directory: &Path) -> Option<String> {
        Checkout::at(directory)?.commit()
    }

    #[test]
    fn the_commit_of_a_branch_a_detached_head_and_a_worktree_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let git = dir.path().join(".git");
        assert_eq!(commit(dir.path()), None);
        write(git.join("HEAD"), "ref: refs/heads/main\n");
        assert_eq!(commit(dir.path()), None, "before the first commit");
        write(
            git.join("packed-refs"),
            &format!("# pack-refs with: peeled\n{SECOND} refs/heads/other/refs/heads/main\n{FIRST} refs/heads/main\n^{SECOND}\n"),
        );
        assert_eq!(commit(dir.path()).unwrap(), FIRST);
        write(git.join("refs/heads/main"), &format!("{SECOND}\n"));
        assert_eq!(commit(dir.path()).unwrap(), SECOND, "the file is newer than the packed branch");
        // A worktree next to it.
        let tree = dir.path().join("tree");
        write(git.join("worktrees/tree/HEAD"), "ref: refs/heads/topic\n");
        write(git.join("worktrees/tree/commondir"), "../..\n");
        write(git.join("refs/heads/topic"), FIRST);
        write(tree.join(".git"), &format!("gitdir: {}\n", git.join("worktrees/tree").display()));
        assert_eq!(commit(&tree).unwrap(), FIRST);
        write(git.join("HEAD"), &format!("{FIRST}\n"));
        assert_eq!(commit(dir.path()).unwrap(), FIRST);
        // Sources below a directory with a repository are not of that repository.
        fs::create_dir(dir.path().join("vendored")).unwrap();
        assert_eq!(commit(&dir.path().join("vendored")), None);
    }

    /// Cargo takes a missing file for a changed one, and would build on every call.
    #[test]
    fn only_existing_files_are_watched_and_every_commit_changes_one() {
        let dir = tempfile::tempdir().unwrap();
        let git = dir.path().join(".git");
        write(git.join("HEAD"), "ref: refs/heads/main\n");
        write(git.join("logs/HEAD"), "");
        let watched = || Checkout::at(dir.path()).unwrap().changing();
        assert_eq!(watched(), [git.join("HEAD"), git.join("logs/HEAD")]);
        write(git.join("refs/heads/main"), FIRST);
        assert_eq!(watched(), [git.join("HEAD"), git.join("logs/HEAD"), git.join("refs/heads/main")]);
    }

    /// An archive has none, unless the build names it.
    #[test]
    fn a_build_of_a_checkout_has_its_revision() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(option_env!("LORCHESTRA_REVISION").is_some() || commit(root).is_none());
    }
}
