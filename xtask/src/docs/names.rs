//! Finds names in the source that a reference page must list: environment variables, configuration keys, JSON schemas; and
//! generates the table of exit codes. Reads the source line by line: rustfmt puts each field and variant on a line of its own.

use super::pages;
use crate::Result;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

/// Checks that each name in the source is on its reference page.
pub(super) fn check(root: &Path, errors: &mut Vec<String>) -> Result {
    let cli = sources(root, "lorchestra-cli/src")?;
    let core = sources(root, "lorchestra-core/src")?;
    let config = pages::read(root, "lorchestra-cli/src/config.rs")?;
    let both = [cli.as_str(), core.as_str()].concat();
    for (page, names) in [
        ("docs/reference/environment.md", variables(&cli)),
        ("docs/reference/configuration.md", keys(&config)),
        ("docs/reference/json.md", schemas(&both)),
    ] {
        if names.is_empty() {
            errors.push(format!("{page}: no names found in the source to compare it with"));
        }
        let text = pages::read(root, page)?;
        for name in names.iter().filter(|name| !lists(&text, name)) {
            errors.push(format!("{page}: does not list {name}, which is in the source"));
        }
    }
    Ok(())
}

/// Whether a page contains a name as code, alone or at the end of a dotted path.
fn lists(page: &str, name: &str) -> bool {
    ["`", "."].iter().any(|before| page.contains(&format!("{before}{name}`")))
}

/// Returns the text of all files below a directory, each up to its tests.
fn sources(root: &Path, dir: &str) -> Result<String> {
    let mut text = String::new();
    let mut dirs = vec![root.join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let file = std::fs::read_to_string(&path)?;
                text += file.split("#[cfg(test)]").next().unwrap_or_default();
            }
        }
    }
    Ok(text)
}

/// Returns the arguments of the calls that read an environment variable.
fn variables(source: &str) -> BTreeSet<&str> {
    let calls = ["variable(\"", "var_os(\"", "var(\""];
    let found = calls.iter().flat_map(|call| source.split(call).skip(1)).filter_map(|rest| rest.split('"').next());
    found.filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_')).collect()
}

/// Returns the fields of the structs that are read from the configuration file.
fn keys(source: &str) -> BTreeSet<&str> {
    let mut keys = BTreeSet::new();
    let mut read = false;
    for line in source.lines() {
        if line.starts_with("#[serde(deny_unknown_fields") {
            read = true;
        } else if line == "}" {
            read = false;
        } else if let (true, Some(field)) = (read, line.trim_start().strip_prefix("pub(crate) ")) {
            // A table is represented by its keys.
            if let Some((name, kind)) = field.split_once(": ")
                && !kind.contains("Config")
                && !kind.contains("Section")
                && name != "secrets"
            {
                keys.insert(name);
            }
        }
    }
    keys
}

/// Returns names of the form `lorchestra.NAME/N`, without the prefix.
fn schemas(source: &str) -> BTreeSet<&str> {
    let named = source.split("lorchestra.").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '-'))?;
        let digits = rest[end..].strip_prefix('/')?.chars().take_while(char::is_ascii_digit).count();
        (end > 0 && digits > 0).then(|| &rest[..end + 1 + digits])
    });
    named.collect()
}

/// Returns the table of exit codes: the number and the doc comment of each variant.
pub(super) fn exit_codes(source: &str) -> Result<String> {
    let mut table = "| exit code | name | meaning |\n| --- | --- | --- |\n".to_owned();
    let body = source.split("pub(crate) enum Code {\n").nth(1).ok_or("exit.rs has no enum Code")?;
    let mut doc: Vec<&str> = Vec::new();
    for line in body.lines().map(str::trim).take_while(|line| *line != "}") {
        if let Some(text) = line.strip_prefix("/// ") {
            doc.push(text);
            continue;
        }
        let variant = line.trim_end_matches(',').split('(').next().unwrap_or_default();
        let number = if variant == "Interrupted" { "129, 130, 143".to_owned() } else { number(source, variant)? };
        let meaning = std::mem::take(&mut doc).join(" ");
        writeln!(table, "| {number} | `{}` | {} |", kebab(variant), meaning.trim_end_matches('.'))?;
    }
    Ok(table)
}

fn kebab(variant: &str) -> String {
    let mut name = String::new();
    for c in variant.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

fn number(source: &str, variant: &str) -> Result<String> {
    let arm = format!("Self::{variant} => ");
    let rest = source.split(&arm).nth(1).and_then(|rest| rest.split(',').next());
    Ok(rest.ok_or_else(|| format!("exit.rs has no number for {variant}"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{exit_codes, keys, schemas, variables};

    #[test]
    fn names_are_read_from_the_source() {
        let source =
            "#[serde(deny_unknown_fields, default)]\nstruct C {\n    pub(crate) a_b: bool,\n    pub(crate) c: DConfig,\n}\n";
        assert_eq!(keys(source).into_iter().collect::<Vec<_>>(), ["a_b"]);
        let read: Vec<_> = variables("variable(\"A_B\") std::env::var_os(\"C\") variable(\"{name}\")").into_iter().collect();
        assert_eq!(read, ["A_B", "C"]);
        assert_eq!(
            schemas("(schema lorchestra.run-job/1) lorchestra.db lorchestra.x/").into_iter().collect::<Vec<_>>(),
            ["run-job/1"]
        );
    }

    #[test]
    fn an_exit_code_has_its_number_and_its_comment() {
        let source = "pub(crate) enum Code {\n    /// Wrong\n    /// usage.\n    Usage,\n}\n match self { Self::Usage => 2, }";
        let table = exit_codes(source).unwrap();
        assert!(table.ends_with("| 2 | `usage` | Wrong usage |\n"), "{table}");
    }
}
