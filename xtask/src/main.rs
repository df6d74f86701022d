//! The project's own tasks: `cargo xtask demo|test|docs|lint-words|soak|fuzz|deny|bench|dist`. See the module of each task.
#![expect(clippy::print_stdout, reason = "the tasks report their progress on stdout")]

mod bench;
mod cargo;
mod demo;
mod deny;
mod dist;
mod docs;
mod fuzz;
mod plugins;
mod sandbox;
mod test;
mod words;

use clap::{Parser, Subcommand, ValueEnum};
use std::error::Error;
use std::process::ExitCode;

/// The result of a task. `main` reports failures.
type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the command line and two small packages, run them in a sandbox, and check the results
    Demo {
        /// Run the example packages instead, from a mailbox to a search
        #[arg(long)]
        pipeline: bool,
        /// Keep the sandbox
        #[arg(long)]
        keep: bool,
    },
    /// Build everything that the tests need, then run all tests or some topics
    Test(test::Options),
    /// Write the generated reference pages and check all pages: links, width, names, drift
    Docs(docs::Options),
    /// Find phrases to avoid (xtask/words) and misspelled words in docs and messages
    LintWords,
    /// Kill workers, supervisors and deliveries at random moments and swap libraries, many times; block the store for minutes; check the
    /// events and what ran
    Soak {
        /// Instead: run a group of many windows on this engine, with workers, nodes and server killed and frozen
        engine: Option<Engine>,
        /// Number of rounds
        #[arg(long, default_value_t = 200, value_name = "N")]
        rounds: u32,
        /// Number of windows on an engine
        #[arg(long, default_value_t = 2000, value_name = "N")]
        windows: u32,
        /// On Temporal: use release builds
        #[arg(long, requires = "engine")]
        release: bool,
        /// On Temporal: only measure windows per second next to `true` in an activity
        #[arg(long, requires = "engine")]
        rate: bool,
    },
    /// Check advisories, licences and sources of dependencies with deny.toml; needs cargo-deny and the network
    Deny,
    /// Run the parsers on generated input and look for crashes
    Fuzz(fuzz::Options),
    /// Measure lorchestra against its parts, for docs/explanation/performance.md
    Bench(bench::Options),
    /// Make a Debian package and an archive with an install script, in target/packages
    Dist(dist::Options),
}

/// An engine that runs windows.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Engine {
    Temporal,
    Slurm,
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Demo { pipeline, keep } => demo::run(pipeline, keep),
        Task::Test(options) => test::run(&options),
        Task::Docs(options) => docs::run(&options),
        Task::LintWords => words::run(),
        Task::Soak { engine: Some(Engine::Slurm), windows, release: false, rate: false, .. } => test::soak_slurm(windows),
        Task::Soak { engine: Some(Engine::Slurm), .. } => Err("--release and --rate are only for temporal".into()),
        Task::Soak { engine: Some(Engine::Temporal), windows, release, rate, .. } => {
            test::soak_temporal(test::temporal::Soak { windows, is_release: release, is_rate: rate })
        }
        Task::Soak { engine: None, rounds, .. } => test::soak(rounds),
        Task::Deny => deny::run(),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Dist(options) => dist::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
