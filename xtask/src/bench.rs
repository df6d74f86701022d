//! `cargo xtask bench`: compares lorchestra with its parts, in one run.
//!
//! Each bench alternates between the things it compares, and reports medians and their ratio, so that other load affects both sides. All
//! programs are release builds and run in a sandbox inside the target directory, on one disk. `--write` inserts the tables between the
//! markers of docs/explanation/performance.md.

mod backfill;
mod canonicalize;
mod deliver;
mod documents;
mod emit;
mod hello;
mod history;
mod languages;
mod list;
mod million;
mod recovery;
mod report;
mod run;
mod server;
mod start;
mod taps;
mod timing;
mod trust;

use crate::sandbox::Sandbox;
use crate::{Result, cargo, plugins};
use clap::{Args, ValueEnum};
use report::Report;
use std::path::PathBuf;
use std::process::Command;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these (default: `list`, `start`, `run`, `emit`, `trust` and `recovery`)
    names: Vec<Name>,
    /// Run all: `history` and `million` need some GB of disk, `deliver` and `taps` a Python with venv, `canonicalize` and `languages` a Python
    #[arg(long)]
    all: bool,
    /// Write the tables to docs/explanation/performance.md
    #[arg(long, conflicts_with = "trial")]
    write: bool,
    /// Check that a bench works: dev builds and, where a bench can, little data; the figures mean nothing
    #[arg(long, requires = "names", conflicts_with = "all")]
    trial: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// `jobs list` of 1, 100 and 1000 packages
    List,
    /// `run-job` of a job that does nothing
    Run,
    /// `--version`, `--help` and `jobs list` of 20 plugins, next to an empty program
    Start,
    /// `backfill` of a no-op, next to `run-job` in a loop and by `xargs -P`
    Backfill,
    /// `emit` and `emit_all`
    Emit,
    /// A clean build of the smallest package, and its size
    Hello,
    /// Trust check, sealed copy, checksum and plugins.lock as a share of a run
    Trust,
    /// Closing a thousand abandoned runs, and the check for them
    Recovery,
    /// Commands in stores of a thousand, a hundred thousand and a million runs
    History,
    /// A job that emits five million events
    Million,
    /// Events to BigQuery: rows per second compared with Python's client, backlogs, and the effect on a job
    Deliver,
    /// canonicalize_email compared with Python's `email` and `json`
    Canonicalize,
    /// A Singer tap's records into files of JSON lines and of Parquet, compared with targets in Python
    Taps,
    /// An index of 1000, 100 000 and a million documents, and searches in it; 10 000 with an embedding model, and in an approximate index
    Documents,
    /// Words of Chinese, Japanese and Korean found by `search` and by tokenizers of FTS5, and the size of the index
    Languages,
}

impl Name {
    /// The name as typed.
    fn key(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// The environment of a bench.
struct Site {
    sandbox: Sandbox,
    target: PathBuf,
    /// Little data: to see that the bench works.
    is_trial: bool,
}

impl Site {
    /// A command for a program of bench-parts.
    fn part(&self, name: &str) -> Command {
        self.sandbox.command(&self.target.join(name))
    }
}

pub(crate) fn run(options: &Options) -> Result {
    let target = cargo::built(if options.trial { "debug" } else { "release" })?;
    let names = match options {
        Options { all: true, .. } => Name::value_variants().to_vec(),
        Options { names, .. } if names.is_empty() => {
            vec![Name::List, Name::Start, Name::Run, Name::Emit, Name::Trust, Name::Recovery]
        }
        Options { names, .. } => names.clone(),
    };
    let mut packages = if options.trial { Vec::new() } else { vec!["--release"] };
    packages.extend(["--lib", "--bins", "-p", "lorchestra-cli", "-p", "bench-parts", "-p", "bench-plugin"]);
    if names.contains(&Name::Deliver) {
        // With its servers; in one build, so that shared crates are built once.
        packages.extend(["-p", "lorchestra-tests"]);
    }
    if names.contains(&Name::Backfill) {
        // With a program that measures Slurm, and a job for it.
        packages.extend(["-p", "lorchestra-tests", "-p", "misbehave"]);
    }
    if names.contains(&Name::Canonicalize) {
        packages.extend(["-p", "canonizer"]);
    }
    if names.contains(&Name::Taps) {
        packages.extend(["-p", "meltano-ingest"]);
    }
    if names.contains(&Name::Documents) || names.contains(&Name::Languages) {
        packages.extend(["-p", "vector-projector"]);
    }
    cargo::build(&packages)?;
    let mut report = Report::new()?;
    println!("{}", report.machine());
    for name in names {
        // A separate sandbox each, so that no bench uses another's store.
        let site =
            Site { sandbox: Sandbox::new(&target.join("bench"), &target)?, target: target.clone(), is_trial: options.trial };
        plugins::install(&target.join("libbench_plugin.so"), &site.sandbox.plugins())?;
        let table = match name {
            Name::List => list::run(&site)?,
            Name::Start => start::run(&site)?,
            Name::Run => run::run(&site)?,
            Name::Backfill => backfill::run(&site)?,
            Name::Emit => emit::run(&site)?,
            Name::Hello => hello::run(&site)?,
            Name::Trust => trust::run(&site)?,
            Name::Recovery => recovery::run(&site)?,
            Name::History => history::run(&site)?,
            Name::Million => million::run(&site)?,
            Name::Deliver => deliver::run(&site)?,
            Name::Canonicalize => canonicalize::run(&site)?,
            Name::Taps => taps::run(&site)?,
            Name::Documents => documents::run(&site)?,
            Name::Languages => languages::run(&site)?,
        };
        println!("\n{}\n\n{table}", name.key());
        report.add(name.key(), table);
    }
    if options.write { report.write() } else { Ok(()) }
}
