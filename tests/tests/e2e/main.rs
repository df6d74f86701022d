//! All end-to-end tests: one program, one module per topic (tests/README.md).
//!
//! One program, because forty would each link the same libraries and run one after another. Tests share the process, so no test changes
//! process-wide state (environment, working directory, umask): each command gets its own.
//!
//! Every new file needs a line here. [`every_file_is_a_module`] fails for a file without one, because such a file would not be compiled and
//! its tests would not run.

mod catalog {
    mod compatibility;
    mod constructor;
    mod directories;
    mod foreign_text;
    mod jobs;
    mod locked;
    mod plugins;
    mod trust;
}

mod crash {
    mod kill_matrix;
    mod killed;
    mod mutations;
    mod remains;
    mod replaced;
    mod trouble;
}

mod delivery {
    mod bigquery;
    mod bigquery_servers;
    mod conversation;
    mod credentials;
    mod faults;
    mod jsonl;
    mod openlineage;
    mod second_emulator;
    mod sending;
    mod streams;
    mod tables;
}

mod engines {
    mod slurm;
}

mod operator {
    mod alarms;
    mod browser;
    mod config;
    mod containers;
    mod doctor;
    mod history;
    mod install;
    mod metrics;
    mod names;
    mod output;
    mod refused;
    mod runbooks;
    mod schedule;
    mod schemas;
    mod screen;
    mod shell;
    mod status;
    mod watch;
}

mod packages {
    mod canonizer;
    mod corpora;
    mod documents;
    mod guide;
    mod imap;
    mod in_process;
    mod kit;
    mod mail;
    mod new;
    mod pages;
    mod python;
    mod slack;
    mod taps;
    mod web;
}

mod run {
    mod backfill;
    mod bookmarks;
    mod concurrency;
    mod endings;
    mod hooks;
    mod hosts;
    mod limits;
    mod on_failure;
    mod output;
    mod overlap;
    mod parameters;
    mod plan_url;
    mod rerun;
    mod results;
    mod resume;
    mod retries;
    mod secrets;
    mod settings;
    mod signals;
    mod spec;
    mod stopping;
    mod streams;
    mod telemetry;
    mod tracing;
    mod windows;
}

mod zoo;

use lorchestra_tests::built;
use std::fs;
use std::path::{Path, PathBuf};

/// The path below this directory that `file` would have as a module: `run/stopping.rs` is `run/stopping`.
fn module_path(root: &Path, file: &Path) -> String {
    let relative = file.strip_prefix(root).expect("a file below the root");
    relative.with_extension("").to_string_lossy().into_owned()
}

/// All Rust files below a directory.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory of tests") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The modules that `source` declares, as paths below `parent`; inline ones (`mod run { … }`) are only components of the path.
fn declared(source: &str, parent: &str) -> Vec<String> {
    let mut inside = vec![parent.to_owned()];
    let mut modules = Vec::new();
    for line in source.lines() {
        let line = line.trim();
        let parent = inside.last().map_or("", String::as_str);
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            inside.push(format!("{parent}{name}/"));
        } else if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            modules.push(format!("{parent}{name}"));
        } else if line == "}" && inside.len() > 1 {
            inside.pop();
        }
    }
    modules
}

/// A file without a `mod` line is not compiled, and no one would miss its tests. `declared` reads the lines as formatted by rustfmt.
#[test]
fn every_file_is_a_module() {
    let tests = built::workspace().join("tests/tests");
    let root = tests.join("e2e");
    let mut known = declared(&fs::read_to_string(root.join("main.rs")).expect("this file"), "");
    let mut reached = 0;
    while reached < known.len() {
        let module = known[reached].clone();
        let source = fs::read_to_string(root.join(format!("{module}.rs"))).unwrap_or_else(|error| panic!("{module}.rs: {error}"));
        known.extend(declared(&source, &format!("{module}/")));
        reached += 1;
    }
    let mut files: Vec<String> = rust_files(&root).iter().map(|file| module_path(&root, file)).collect();
    files.retain(|file| file != "main");
    files.sort_unstable();
    known.sort_unstable();
    assert_eq!(files, known, "each file of tests/tests/e2e needs a `mod` line, most in main.rs");

    let programs: Vec<PathBuf> = rust_files(&tests).into_iter().filter(|file| !file.starts_with(&root)).collect();
    assert!(programs.is_empty(), "put into tests/tests/e2e, with a `mod` line in main.rs: {programs:?}");
}
