//! Builds the site with mdbook, from a copy of the pages below the target directory and a table of contents generated from `docs/README.md`. The
//! copy keeps the paths of all files, so that links between pages work. Only `README.md` is renamed to `index.md`, because mdbook would
//! rename it without changing the links to it.

use super::pages::Page;
use crate::{Result, cargo};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

const BOOK: &str = "[book]\ntitle = \"lorchestra\"\nsrc = \"src\"\n\n[output.html]\nno-section-label = true\n";

pub(super) fn open(root: &Path, pages: &[Page]) -> Result {
    let there = Command::new("mdbook").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if !there {
        return Err("mdbook is not installed: cargo install --locked mdbook".into());
    }
    let site = cargo::target()?.join("site");
    let src = site.join("src");
    if src.exists() {
        std::fs::remove_dir_all(&src)?;
    }
    for page in pages {
        let to = src.join(renamed(&page.path.display().to_string()));
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(to, renamed(&page.text))?;
    }
    std::fs::copy(root.join("docs/first-run.svg"), src.join("docs/first-run.svg"))?;
    copy_dir(&root.join("docs/guides/sql"), &src.join("docs/guides/sql"))?;
    let index = pages.iter().find(|page| page.path == Path::new("docs/README.md")).ok_or("docs/README.md is missing")?;
    std::fs::write(src.join("SUMMARY.md"), renamed(&summary(&index.text)?))?;
    std::fs::write(site.join("book.toml"), BOOK)?;
    cargo::run(Command::new("mdbook").args(["build", "--open"]).arg(&site))
}

/// Changes paths and links to a README to an index. Other mentions of the name are not at the end of a path.
fn renamed(text: &str) -> String {
    let links = text.replace("README.md)", "index.md)").replace("README.md#", "index.md#");
    links.strip_suffix("README.md").map(|path| format!("{path}index.md")).unwrap_or(links)
}

fn copy_dir(from: &Path, to: &Path) -> Result {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Turns the index's headings into parts, and the first link of each list item into a chapter.
fn summary(index: &str) -> Result<String> {
    let mut summary = "# Summary\n\n[lorchestra](README.md)\n[Documentation](docs/README.md)\n".to_owned();
    for line in index.lines() {
        if let Some(part) = line.strip_prefix("## ") {
            write!(summary, "\n# {part}\n\n")?;
        } else if let Some(item) = line.strip_prefix("- [")
            && let Some((title, rest)) = item.split_once("](")
            && let Some((link, _)) = rest.split_once(')')
        {
            match link.strip_prefix("../") {
                Some(outside) => writeln!(summary, "- [{title}]({outside})")?,
                None => writeln!(summary, "- [{title}](docs/{link})")?,
            }
        }
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::{renamed, summary};

    #[test]
    fn links_to_a_readme_lead_to_an_index() {
        assert_eq!(renamed("see [docs](docs/README.md) and README.md."), "see [docs](docs/index.md) and README.md.");
        assert_eq!(renamed("docs/README.md"), "docs/index.md");
    }

    #[test]
    fn the_index_becomes_the_table_of_contents() {
        let made =
            summary("# Docs\n\n## Tutorial\n\n- [First](tutorial/a.md): text [b](c.md)\n- [Change](../CHANGELOG.md)\n").unwrap();
        assert!(made.ends_with("\n# Tutorial\n\n- [First](docs/tutorial/a.md)\n- [Change](CHANGELOG.md)\n"), "{made}");
    }
}
