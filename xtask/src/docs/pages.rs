//! The Markdown pages of the project, and the rules for them: width, links, anchors.

use crate::Result;
use std::path::{Path, PathBuf};

/// Maximum number of columns of a line. Tables, code, headings and lines that cannot be broken are exempt.
const WIDTH: usize = 100;

/// A Markdown page.
pub(super) struct Page {
    /// Path relative to the workspace's root.
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Reads a file of the workspace.
pub(super) fn read(root: &Path, path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    Ok(std::fs::read_to_string(root.join(path)).map_err(|e| format!("{}: {e}", path.display()))?)
}

impl Page {
    /// Returns README, CHANGELOG, all of docs and the README of each package.
    pub(super) fn all(root: &Path) -> Result<Vec<Self>> {
        let mut paths = vec![PathBuf::from("README.md"), PathBuf::from("CHANGELOG.md")];
        for dir in ["docs", "example-plugins"] {
            find(root, Path::new(dir), &mut paths)?;
        }
        paths.sort();
        paths.into_iter().map(|path| Ok(Self { text: read(root, &path)?, path })).collect()
    }

    /// Adds an error for each broken link and each line that is too long.
    pub(super) fn check(&self, root: &Path, errors: &mut Vec<String>) -> Result {
        // A benchmark writes the text between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`.
        let mut written = false;
        for (number, line) in prose(&self.text) {
            written = line.starts_with("<!-- bench:") || written && !line.starts_with("<!-- /bench:");
            let at = || format!("{}:{number}", self.path.display());
            if !written && too_long(line) {
                errors.push(format!("{}: {} columns; wrap it at {WIDTH}", at(), line.chars().count()));
            }
            for link in links(line) {
                if let Some(error) = self.broken(root, link)? {
                    errors.push(format!("{}: {error}", at()));
                }
            }
        }
        Ok(())
    }

    /// Returns the error of a link, if it is a broken link into the workspace.
    fn broken(&self, root: &Path, link: &str) -> Result<Option<String>> {
        if link.contains("://") || link.starts_with("mailto:") {
            return Ok(None);
        }
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = match file {
            "" => self.path.clone(),
            file => self.path.parent().unwrap_or(Path::new("")).join(file),
        };
        if !root.join(&target).exists() {
            return Ok(Some(format!("the link {link} does not lead to a file")));
        }
        if anchor.is_empty() || anchors(&read(root, &target)?).iter().any(|known| known == anchor) {
            return Ok(None);
        }
        Ok(Some(format!("the link {link} does not lead to a heading")))
    }
}

/// Adds an error for each page of docs that `docs/README.md` does not list.
pub(super) fn check_index(pages: &[Page], errors: &mut Vec<String>) {
    let index = pages.iter().find(|page| page.path == Path::new("docs/README.md"));
    let listed: Vec<&str> = index.map(|page| page.text.lines().flat_map(links).collect()).unwrap_or_default();
    for page in pages {
        let Ok(path) = page.path.strip_prefix("docs") else { continue };
        if path != Path::new("README.md") && !listed.iter().any(|link| Path::new(link) == path) {
            errors.push(format!("docs/README.md: does not list {}", path.display()));
        }
    }
}

fn find(root: &Path, dir: &Path, paths: &mut Vec<PathBuf>) -> Result {
    for entry in std::fs::read_dir(root.join(dir))? {
        let entry = entry?;
        let path = dir.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            find(root, &path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
    Ok(())
}

/// Returns the numbered lines outside code blocks. Indented text is code only if it follows an empty line or other code.
pub(super) fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    let mut after_empty = true;
    let mut in_list = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let trimmed = line.trim_start();
        let fence = trimmed.starts_with("```");
        fenced ^= fence;
        if !line.is_empty() && !line.starts_with(' ') {
            in_list = trimmed.starts_with("- ") || trimmed.starts_with(|c: char| c.is_ascii_digit());
        }
        let indent = line.len() - trimmed.len();
        let code = fence || fenced || (after_empty && !trimmed.is_empty() && indent >= if in_list { 6 } else { 4 });
        after_empty = trimmed.is_empty() || (code && !fence);
        (!code).then_some((index + 1, line))
    })
}

fn too_long(line: &str) -> bool {
    let trimmed = line.trim_start();
    line.chars().count() > WIDTH && !trimmed.starts_with(['|', '#']) && !trimmed.starts_with("<!--") && {
        // A link or a path that is too long itself cannot be broken.
        let start = trimmed.trim_start_matches("- ").trim_start_matches("> ");
        start.contains(' ')
    }
}

/// Returns the targets of the inline links in a line, outside code.
fn links(line: &str) -> Vec<&str> {
    let mut links = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find("](") {
        let before = &rest[..at];
        rest = &rest[at + 2..];
        // A link inside `code` does not count.
        let in_code = before.matches('`').count() % 2 == 1 && rest.contains('`') && !before.contains("[`");
        if let (Some(end), false) = (rest.find(')'), in_code) {
            links.push(&rest[..end]);
        }
    }
    links
}

/// Returns the anchors of a page's headings, in the form of GitHub and mdbook.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).filter_map(|(_, line)| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len() && title.starts_with(' ')).then(|| title.trim())
    });
    headings
        .map(|title| {
            let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{anchors, links, prose, too_long};

    #[test]
    fn anchors_are_those_of_github() {
        assert_eq!(anchors("# Exit codes\n\n## `config.toml`, and more\n"), ["exit-codes", "configtoml-and-more"]);
    }

    #[test]
    fn links_are_found_outside_code() {
        assert_eq!(links("see [a](b.md#c) and [`d`](e.md), not `[f](g)`"), ["b.md#c", "e.md"]);
    }

    #[test]
    fn code_is_not_prose() {
        let text = "one\n\n    code\n\n- item\n\n  two\n```\nfenced\n```\nthree";
        let lines: Vec<&str> = prose(text).map(|(_, line)| line).filter(|line| !line.is_empty()).collect();
        assert_eq!(lines, ["one", "- item", "  two", "three"]);
    }

    #[test]
    fn tables_and_unbreakable_lines_may_be_long() {
        let long = "x".repeat(101);
        assert!(!too_long(&format!("| {long} |")) && !too_long(&format!("- {long}")));
        assert!(too_long(&format!("see {long}")));
    }
}
