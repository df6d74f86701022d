//! Checks the structure of modules, by reading the sources.
//!
//! - `lorchestra-core`: a top-level module imports only from those before it in the list of `src/lib.rs`, so they form a DAG.
//! - `lorchestra-cli`: its modules form a DAG too, so shared modules import no command.
//!
//! - A type name has one meaning: no two modules of core and CLI declare the same one.
//! - Only one module writes commands that change an owner or a mode: it decides where a hint may contain one.
//!
//! Imports of tests do not count: a test may use anything.

#![expect(clippy::expect_used, reason = "a panic fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the workspace").to_owned()
}

/// Returns all Rust files of a top-level module: `module.rs` and those below `module/`.
fn files(src: &Path, module: &str) -> Vec<PathBuf> {
    let mut files = vec![src.join(format!("{module}.rs"))];
    let mut directories = vec![src.join(module)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// Returns a source without comments and test-only items, and the names of its test modules that are separate files.
fn code(source: &str) -> (String, Vec<String>) {
    let (mut code, mut test_files) = (String::new(), Vec::new());
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            let indent = &line[..line.len() - line.trim_start().len()];
            // Other attributes, then the item, up to the closing bracket at the same depth.
            let item = lines.by_ref().find(|line| !line.trim_start().starts_with("#[")).unwrap_or_default().trim();
            if let Some(module) = item.strip_suffix(';').and_then(|item| item.rsplit_once("mod ")) {
                test_files.push(module.1.to_owned());
            } else if !item.ends_with(';') && !item.ends_with('}') {
                let _ = lines.by_ref().find(|line| line.strip_prefix(indent).is_some_and(|rest| rest.starts_with(['}', ')'])));
            }
        } else {
            code.push_str(line.split("//").next().unwrap_or_default());
            code.push('\n');
        }
    }
    (code, test_files)
}

/// Returns the modules after each `crate::` of a source, including those of `crate::{a, b::c}`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => found.push(name(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut begins = true;
                for (at, character) in group.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        _ if begins && !character.is_whitespace() => {
                            found.push(name(&group[at..]));
                            begins = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

fn name(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

/// Returns the imports of each file of a module from the crate, without tests.
fn imports_of(src: &Path, module: &str) -> Vec<(PathBuf, Vec<String>)> {
    let mut sources = BTreeMap::new();
    let mut tests = Vec::new();
    for file in files(src, module) {
        let (code, modules) = code(&fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
        tests.extend(modules.into_iter().map(|module| file.with_extension("").join(module)));
        sources.insert(file, code);
    }
    sources.retain(|file, _| !tests.iter().any(|test| file.with_extension("") == *test || file.starts_with(test)));
    sources.into_iter().map(|(file, code)| (file, imports(&code))).collect()
}

/// Returns the top-level modules, in the order of the list in core's `lib.rs`.
fn modules(library: &str) -> Vec<String> {
    let items = library.lines().filter_map(|line| line.strip_prefix("//! - "));
    items
        .flat_map(|item| {
            let names = item.split_once("]:").map_or(item, |(names, _)| names);
            names.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn core_modules_import_only_from_modules_listed_before_them() {
    let src = workspace().join("lorchestra-core/src");
    let library = fs::read_to_string(src.join("lib.rs")).expect("lib.rs");
    let modules = modules(&library);
    let mut declared: Vec<&str> = library
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ").or(line.strip_prefix("mod "))?.strip_suffix(';'))
        .collect();
    let mut listed: Vec<&str> = modules.iter().map(String::as_str).collect();
    declared.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, declared, "the list at the top of lib.rs names each module once");

    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for (place, module) in modules.iter().enumerate() {
        for (file, imports) in imports_of(&src, module) {
            for import in imports {
                match modules.iter().position(|other| *other == import) {
                    Some(other) if other > place => wrong.push(format!("{} ({module}) imports {import}", file.display())),
                    Some(_) => looked_at += 1,
                    None => wrong.push(format!("{} imports {import}, which is not in that list", file.display())),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(looked_at > 100, "only {looked_at} imports were found: this test misreads the sources");
}

#[test]
fn modules_of_the_cli_form_a_dag() {
    let src = workspace().join("lorchestra-cli/src");
    let library = code(&fs::read_to_string(src.join("lib.rs")).expect("lib.rs")).0;
    let mut left: BTreeMap<String, BTreeSet<String>> = library
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ").or(line.strip_prefix("mod "))?.strip_suffix(';'))
        .map(|module| {
            let imports = imports_of(&src, module).into_iter().flat_map(|(_, imports)| imports);
            (module.to_owned(), imports.filter(|import| import != module).collect())
        })
        .collect();
    assert!(left.values().map(BTreeSet::len).sum::<usize>() > 40, "this test misreads the sources: {left:?}");
    // Repeatedly remove modules that import no remaining one, until none is left or the rest is cyclic.
    while let Some(leaf) = left.iter().find(|(_, imports)| !imports.iter().any(|import| left.contains_key(import))) {
        let leaf = leaf.0.clone();
        left.remove(&leaf);
    }
    assert!(left.is_empty(), "these modules are in a cycle, or import modules in one: {left:#?}");
}

#[test]
fn imports_are_read_as_by_rustc() {
    let source = "use crate::{one::{A, b}, two};\n// crate::comment\nfn f() { crate::three::g() }\n#[cfg(test)]\nmod tests {\n    use \
                  crate::four;\n}\n#[cfg(test)]\nmod more;\nuse crate::five::H;\n";
    let (code, test_files) = code(source);
    assert_eq!(test_files, ["more"]);
    assert_eq!(imports(&code), ["one", "two", "three", "five"]);
}

/// Names that many modules may use: associated types, a function's local helper, a command's arguments.
const SHARED_NAMES: [&str; 3] = ["Args", "Err", "Inner"];

#[test]
fn a_type_name_has_one_meaning() {
    let mut declared: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    for krate in ["lorchestra-core", "lorchestra-cli"] {
        for file in files(&workspace().join(krate), "src") {
            let Ok(source) = fs::read_to_string(&file) else { continue };
            for line in source.lines() {
                let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
                let keyword = words.by_ref().find(|word| !["pub", "crate", "super", "in", "unsafe"].contains(word));
                if keyword.is_some_and(|word| ["struct", "enum", "trait", "type"].contains(&word))
                    && let Some(name) = words.next()
                    && name.starts_with(char::is_uppercase)
                    && !line.trim_start().starts_with("//")
                {
                    declared.entry(name.to_owned()).or_default().insert(file.clone());
                }
            }
        }
    }
    assert!(declared.len() > 250, "only {} types were found: this test misreads the sources", declared.len());
    declared.retain(|name, files| files.len() > 1 && !SHARED_NAMES.contains(&name.as_str()));
    assert!(declared.is_empty(), "declared more than once: {declared:#?}");
}

/// People copy hints into a shell, often as root: only `host::rights` decides what they may change.
#[test]
fn one_module_writes_commands_that_change_owners_and_modes() {
    let mut pending: Vec<PathBuf> = ["lorchestra-core/src", "lorchestra-cli/src", "lorchestra-plugin-api/src", "example-plugins"]
        .map(|at| workspace().join(at))
        .into();
    let mut found = BTreeSet::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
            continue;
        }
        let is_test = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
        if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
            let (code, _) = code(&fs::read_to_string(&path).expect("a source"));
            if ["chmod ", "chown ", "setfacl ", "install -d", "chgrp "].iter().any(|command| code.contains(command)) {
                found.insert(path.strip_prefix(workspace()).expect("below the workspace").to_owned());
            }
        }
    }
    let only = PathBuf::from("lorchestra-core/src/host/rights.rs");
    assert_eq!(found, BTreeSet::from([only]), "use host::rights::command, which knows what a hint may change");
}
