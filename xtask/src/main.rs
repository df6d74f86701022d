//! The project's own tasks: `cargo xtask demo|test|docs|lint-words|soak|fuzz|deny|bench`. What each does is said in its module.
#![expect(clippy::print_stdout, reason = "telling what it does is what it is for")]

mod bench;
mod cargo;
mod demo;
mod deny;
mod docs;
mod fuzz;
mod plugins;
mod sandbox;
mod test;
mod words;

use clap::{Parser, Subcommand};
use std::error::Error;
use std::process::ExitCode;

/// What a task answers with. A failure is told once, at the end, in one place.
type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build everything, then list, show and run the two packages in a sandbox, and look at what happened
    Demo {
        /// The whole pipeline instead: extract, canonize, index, search
        #[arg(long)]
        pipeline: bool,
        /// Keep the sandbox
        #[arg(long)]
        keep: bool,
    },
    /// Build what the tests need, then run all of them, or only some topics
    Test(test::Options),
    /// Write the generated reference pages and check all pages: links, width, names, drift
    Docs(docs::Options),
    /// Find phrases to avoid (xtask/words) in docs and messages
    LintWords,
    /// Kill workers, supervisors and deliveries at random moments, and swap libraries, many times; keep the store for minutes; count
    /// events and what ran
    Soak {
        /// How often
        #[arg(long, default_value_t = 200, value_name = "N")]
        rounds: u32,
    },
    /// Look at advisories, licences and sources of dependencies, as deny.toml has it; needs cargo-deny and the network
    Deny,
    /// Give bytes that nobody would write to what reads them, and look whether it holds
    Fuzz(fuzz::Options),
    /// Measure lorchestra against its parts; the figures of docs/explanation/performance.md
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Demo { pipeline, keep } => demo::run(pipeline, keep),
        Task::Test(options) => test::run(&options),
        Task::Docs(options) => docs::run(&options),
        Task::LintWords => words::run(),
        Task::Soak { rounds } => test::soak(rounds),
        Task::Deny => deny::run(),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Bench(options) => bench::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
