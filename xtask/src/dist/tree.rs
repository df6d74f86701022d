//! The files of a release, staged below one directory as they will be below `/usr`: binary, man pages, completions, units, licence.

use super::{Release, gzip, printed, source};
use crate::{Result, cargo};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A staged tree, which corresponds to `/usr`.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Stages everything below `work`.
    pub(super) fn stage(binary: &Path, work: &Path, release: &Release) -> Result<Self> {
        let tree = Self { root: work.join("usr") };
        tree.add_binary(binary, !release.is_small)?;
        tree.add_man_pages(binary)?;
        for (shell, path) in [
            ("bash", "share/bash-completion/completions/lorchestra"),
            ("zsh", "share/zsh/vendor-completions/_lorchestra"),
            ("fish", "share/fish/vendor_completions.d/lorchestra.fish"),
        ] {
            let script = printed(Command::new(binary).args(["completions", shell]))?;
            tree.add(path, &script)?;
        }
        tree.add("lib/sysusers.d/lorchestra.conf", &source("sysusers.conf")?)?;
        tree.add("lib/tmpfiles.d/lorchestra.conf", &source("tmpfiles.conf")?)?;
        tree.add("share/doc/lorchestra/copyright", &source("copyright")?)?;
        for (name, text) in units()? {
            tree.add(&format!("share/doc/lorchestra/examples/{name}"), &text)?;
        }
        tree.add("share/doc/lorchestra/changelog", &fs::read_to_string(cargo::root()?.join("CHANGELOG.md"))?)?;
        gzip(&tree.path("share/doc/lorchestra/changelog"), if release.is_small { "-9" } else { "-1" })?;
        Ok(tree)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The size of all files, in KiB.
    pub(super) fn kib(&self) -> Result<u64> {
        let size = printed(Command::new("du").args(["--apparent-size", "-sk"]).arg(&self.root))?;
        Ok(size.split_whitespace().next().unwrap_or_default().parse()?)
    }

    fn add(&self, path: &str, text: &str) -> Result {
        let path = self.path(path);
        fs::create_dir_all(path.parent().ok_or("a file at the root")?)?;
        fs::write(&path, text)?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?)
    }

    fn add_binary(&self, binary: &Path, is_dev: bool) -> Result {
        let path = self.path("bin/lorchestra");
        fs::create_dir_all(self.path("bin"))?;
        // The profile of a release strips it. A dev build has as much again in symbols, which nothing here needs.
        let is_stripped =
            is_dev && Command::new("strip").arg("-o").arg(&path).arg(binary).status().is_ok_and(|status| status.success());
        if !is_stripped {
            fs::copy(binary, &path)?;
        }
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?)
    }

    fn add_man_pages(&self, binary: &Path) -> Result {
        let dir = self.path("share/man/man1");
        printed(Command::new(binary).args(["man", "--dir"]).arg(&dir))?;
        let mut pages: Vec<PathBuf> = fs::read_dir(&dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        pages.sort();
        for page in &pages {
            fs::set_permissions(page, fs::Permissions::from_mode(0o644))?;
        }
        cargo::run(Command::new("gzip").args(["-9", "-n"]).args(&pages))
    }
}

/// The units of docs/guides/sandbox.md, by file name, for the path of a package: a test checks those of the guide.
fn units() -> Result<Vec<(String, String)>> {
    let page = fs::read_to_string(cargo::root()?.join("docs/guides/sandbox.md"))?;
    let mut units = Vec::new();
    for (before, after) in page.match_indices("```ini\n").map(|(at, fence)| (&page[..at], &page[at + fence.len()..])) {
        let name = before.rsplit('`').nth(1).and_then(|path| path.strip_prefix("/etc/systemd/system/"));
        let text = after.split_once("```\n").map(|(text, _)| text);
        let (name, text) = name.zip(text).ok_or("docs/guides/sandbox.md: a unit without a path or an end")?;
        units.push((name.to_owned(), text.replace("/usr/local/bin/lorchestra", "/usr/bin/lorchestra")));
    }
    if units.len() == 2 { Ok(units) } else { Err(format!("docs/guides/sandbox.md has {} units", units.len()).into()) }
}
