//! The `lorchestra` command: people's side of lorchestra.
//!
//! Argv goes through three hands: `args` only validates, `settings` is the one place that reads environment, home and
//! configuration file, and a command (`commands`) takes those values and a `printer` and returns an exit code. What goes
//! wrong becomes a sentence, a hint and a code in `failure`. No business rules here: those are in lorchestra-core.
//!
//! A library only for the sake of `fuzzing`: the binary is `main` and nothing else.

mod args;
mod argv;
mod bar;
mod bigquery;
mod commands;
mod config;
mod destinations;
mod exit;
mod failure;
mod flags;
mod follow;
#[doc(hidden)]
pub mod fuzzing;
mod help;
mod notify;
mod observe;
mod params;
mod printer;
mod refusal;
mod secrets;
mod settings;
mod show;
mod stream;
mod values;

use failure::CommandError;
use printer::Printer;
use settings::Settings;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// The process that was started: a command, or a worker.
pub fn main() -> ExitCode {
    // For the worker as well: what it was started with is not what a job expects.
    lorchestra_core::host::signals::reset();
    // Before anything else: this process may be a worker.
    if std::env::args_os().nth(1).is_some_and(|first| first == lorchestra_core::run::worker::ARGUMENT) {
        return lorchestra_core::run::worker::main();
    }
    stream::report_panics();
    let code = command();
    // The last words, as far as somebody takes them.
    stream::STDERR.finish();
    code
}

fn command() -> ExitCode {
    let mut printer = Printer::new();
    let args = match args::Args::read(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => {
            let code = printer.clap(&error);
            return printer.finish(code);
        }
    };
    diagnostics(args.global.verbose);
    // A panic in here is a fault of lorchestra, and has its own exit code; the hook has printed where it was. A run that was under
    // way is closed by the next command.
    let result = catch_unwind(AssertUnwindSafe(|| match help::asked_for(&args) {
        Some(package) => help::print(package, &args, &mut printer),
        None => match Settings::read(&args.global) {
            Ok(settings) => Ok(commands::run(&args.command, args.global.verbose, &settings, &mut printer)),
            Err(failure) => Ok(commands::without_settings(&args, &failure, &mut printer)),
        },
    }));
    let fault = |_| {
        Err(CommandError::new(exit::Code::Internal, "internal error in lorchestra; see the lines above")
            .hint("report this as a bug, with those lines and the command"))
    };
    let code = printer.ended(result.unwrap_or_else(fault));
    printer.finish(code)
}

/// lorchestra's own diagnostics, on standard error; a job's go into its trace. What cannot be written is dropped: by default tracing reports
/// a write that failed with `eprintln!`, which panics when standard error is what cannot be written.
fn diagnostics(verbose: u8) {
    use tracing_subscriber::filter::LevelFilter;
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| stream::BestEffort(&stream::STDERR))
        .log_internal_errors(false)
        .with_target(false)
        .init();
}
