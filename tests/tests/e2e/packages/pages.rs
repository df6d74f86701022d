//! Every command block of README, docs and the READMEs of packages is run as it is ([`lorchestra_tests::pages`]), and its output compared.
//! Runbooks start from something broken, so they have a test of their own (`operator/runbooks`).

use lorchestra_tests::built;
use lorchestra_tests::pages::Page;
use std::fs;
use std::path::Path;

/// Number of blocks that cannot run here, each with its reason on the page.
const NOT_RUN: usize = 46;

/// All pages below a path of the workspace.
fn pages(below: &str) -> Vec<String> {
    fn find(dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).expect("a directory of pages") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && path.ends_with("runbooks") {
                continue;
            }
            if path.is_dir() {
                find(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let path = path.strip_prefix(built::workspace()).expect("a path in the workspace");
                found.push(path.display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    find(&built::workspace().join(below), &mut found);
    found.sort();
    found
}

#[track_caller]
fn check(pages: &[String]) {
    let differences: Vec<String> = pages.iter().flat_map(|page| Page::read(page).check()).collect();
    assert!(differences.is_empty(), "{} commands differ:\n\n{}", differences.len(), differences.join("\n\n"));
}

#[test]
fn the_readme_and_the_tutorial_run_as_they_are() {
    check(&[vec!["README.md".to_owned()], pages("docs/tutorial")].concat());
}

#[test]
fn guides_and_reference_run_as_they_are() {
    check(&[pages("docs/guides"), pages("docs/reference"), pages("docs/explanation")].concat());
}

#[test]
fn the_readmes_of_packages_run_as_they_are() {
    check(&pages("example-plugins"));
}

#[test]
fn blocks_that_do_not_run_are_counted() {
    let all: Vec<Page> = [vec!["README.md".to_owned()], pages("docs"), pages("example-plugins")]
        .concat()
        .iter()
        .map(|page| Page::read(page))
        .collect();
    let run: usize = all.iter().map(|page| page.run).sum();
    let not_run: usize = all.iter().map(|page| page.not_run.len()).sum();
    assert!(run > not_run, "{run} blocks run, and {not_run} do not");
    assert_eq!(not_run, NOT_RUN, "update NOT_RUN only for a block that cannot run here");
}
