//! `cargo xtask docs`: writes the generated reference pages, checks all pages, and builds the site.
//!
//! Generates `docs/reference/commands.md` from the `--help` of the built binary, the JSON Schemas in `docs/reference/schemas` from the binary,
//! the tables in `docs/reference/events.md` from these schemas, and the table in `docs/reference/exit-codes.md` from the enum in the source.
//! Compares the environment variables, configuration keys and JSON schemas in the source with the reference pages. Checks on every page: links and anchors, lines of at most 100 columns, and that `docs/README.md` lists it.
//!
//! Reads the source as text instead of linking the command line, to keep xtask quick to build.

mod events;
mod help;
mod names;
mod pages;
mod recording;
mod schemas;
mod site;

use crate::{Result, cargo};
use pages::Page;
use std::path::Path;

/// Options of `cargo xtask docs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Change nothing; fail if a generated page is out of date or a page has an error
    #[arg(long, conflicts_with = "open")]
    check: bool,
    /// Also record a session in a sandbox as docs/first-run.svg
    #[arg(long, conflicts_with = "check")]
    record: bool,
    /// Build the site with mdbook and open it in a browser
    #[arg(long)]
    open: bool,
}

pub(crate) fn run(options: &Options) -> Result {
    let root = cargo::root()?;
    cargo::build_command_line(&["ingester", "canonizer"])?;
    let lorchestra = cargo::built("debug")?.join("lorchestra");
    if options.record {
        recording::write(&root)?;
    }
    let mut errors = Vec::new();
    for (path, text) in [("docs/reference/commands.md", help::page(&lorchestra)?), exit_codes(&root)?] {
        generated(&root, path, &text, options.check, &mut errors)?;
    }
    let schemas = schemas::files(&lorchestra)?;
    std::fs::create_dir_all(root.join(schemas::DIR))?;
    for (path, text) in &schemas {
        generated(&root, path, text, options.check, &mut errors)?;
    }
    let (path, text) = events::page(&root, &schemas)?;
    generated(&root, path, &text, options.check, &mut errors)?;
    schemas::check_others(&root, &schemas, &mut errors)?;
    let pages = Page::all(&root)?;
    for page in &pages {
        page.check(&root, &mut errors)?;
    }
    pages::check_index(&pages, &mut errors);
    names::check(&root, &mut errors)?;
    if !errors.is_empty() {
        for error in &errors {
            println!("{error}");
        }
        return Err(format!("{} errors in the documentation", errors.len()).into());
    }
    println!("{} pages checked", pages.len());
    if options.open { site::open(&root, &pages) } else { Ok(()) }
}

/// Writes a generated page or, with `check`, compares it.
fn generated(root: &Path, path: &str, text: &str, check: bool, errors: &mut Vec<String>) -> Result {
    let file = root.join(path);
    if std::fs::read_to_string(&file).is_ok_and(|current| current == text) {
        return Ok(());
    }
    if check {
        errors.push(format!("{path}: out of date: run cargo xtask docs"));
    } else {
        std::fs::write(&file, text).map_err(|e| format!("{path}: {e}"))?;
        println!("written: {path}");
    }
    Ok(())
}

/// Returns the page of exit codes with its table generated from the source.
fn exit_codes(root: &Path) -> Result<(&'static str, String)> {
    let path = "docs/reference/exit-codes.md";
    let text = pages::read(root, path)?;
    let table = names::exit_codes(&pages::read(root, "lorchestra-cli/src/exit.rs")?)?;
    Ok((path, between(path, &text, "exit codes", &table)?))
}

/// Returns a page with `new` between the markers of this name.
fn between(path: &str, text: &str, name: &str, new: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), "<!-- /generated -->");
    let marker = || format!("{path} has no {} … {end}", begin.trim_end());
    let from = text.find(&begin).ok_or_else(marker)? + begin.len();
    let to = from + text[from..].find(end).ok_or_else(marker)?;
    Ok(format!("{}{new}{}", &text[..from], &text[to..]))
}
