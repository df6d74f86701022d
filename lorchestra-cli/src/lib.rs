//! The `lorchestra` command: the user interface of lorchestra.
//!
//! The command line passes through three stages: `commands::args` only validates; `settings` is the only module that reads the environment,
//! the home directory and the configuration file; a command (`commands`) takes these values and a `printer`, and returns an exit code.
//! `failure` turns errors into a sentence, hints and a code. All logic is in lorchestra-core.
//!
//! A library only for `fuzzing`: the binary just calls `main`.

mod argv;
mod bar;
mod bigquery;
mod cells;
mod charset;
// Of the build script, for its tests.
#[cfg(test)]
#[path = "../build/checkout.rs"]
mod checkout;
mod commands;
mod complete;
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
mod telemetry;
mod values;
mod wire;

use failure::CommandError;
use printer::Printer;
use settings::Settings;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// The entry point of the process, which is a command or a worker.
pub fn main() -> ExitCode {
    // For the worker too: a job does not expect the inherited signal dispositions.
    lorchestra_core::host::signals::reset();
    // Checked first, because this process may be a worker.
    if std::env::args_os().nth(1).is_some_and(|first| first == lorchestra_core::run::worker::ARGUMENT) {
        return lorchestra_core::run::worker::main();
    }
    complete::answer(<commands::args::Args as clap::CommandFactory>::command);
    stream::report_panics();
    let code = command();
    // Waits for pending output, within limits.
    stream::STDERR.finish();
    code
}

fn command() -> ExitCode {
    let mut printer = Printer::new();
    if version(&mut printer) {
        return printer.finish(exit::Code::Success);
    }
    let args = match commands::args::Args::read(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => {
            let code = printer.clap(&error);
            return printer.finish(code);
        }
    };
    if let Err(failure) = check_clock(std::time::SystemTime::now()) {
        let code = printer.ended(Err(failure));
        return printer.finish(code);
    }
    diagnostics(args.global.verbose);
    // A panic here is a bug in lorchestra, with its own exit code; the hook has printed its location. The next command closes a run that
    // was in progress.
    let result = catch_unwind(AssertUnwindSafe(|| {
        let definition = <commands::args::Args as clap::CommandFactory>::command;
        if let Some(package) = help::requested(&args) {
            return help::print(package, &args, &mut printer);
        }
        if let Some(result) = commands::before_settings(&args.command, definition, &mut printer) {
            return result;
        }
        Ok(match Settings::read(&args.global) {
            Ok(settings) => commands::run(&args.command, args.global.verbose, settings, &mut printer),
            Err(failure) => commands::without_settings(&args.command, args.global.verbose, &args.global, &failure, &mut printer),
        })
    }));
    let fault = |_| {
        Err(CommandError::new(exit::Code::Internal, "internal error in lorchestra; see the lines above")
            .hint("report this as a bug, with those lines and the command"))
    };
    let code = printer.ended(result.unwrap_or_else(fault));
    printer.finish(code)
}

/// Fails if the clock shows a time before 1970, which no record can hold.
fn check_clock(now: std::time::SystemTime) -> Result<(), CommandError> {
    now.duration_since(std::time::UNIX_EPOCH).map(drop).map_err(|_| {
        CommandError::new(exit::Code::Config, "the clock of this host is wrong: it shows a time before 1970")
            .hint("set the clock (check with: date; timedatectl)")
    })
}

/// Sends lorchestra's own diagnostics to stderr; a job's go to its trace. Text that cannot be written is dropped: by default, tracing
/// reports a failed write with `eprintln!`, which panics if stderr is the problem.
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

/// Handles `--version`, which would otherwise take longer to define all commands than to print; and `--version --json`, because clap would
/// exit at `--version` without reading `--json`.
fn version(printer: &mut Printer) -> bool {
    let words: Vec<_> = std::env::args_os().skip(1).take(3).collect();
    let is_version = |word: &std::ffi::OsString| word == "--version" || word == "-V";
    let is_json = words.len() == 2 && words.iter().any(|word| word == "--json") && words.iter().any(is_version);
    let is_plain = words.len() == 1 && words.iter().any(is_version);
    if is_plain {
        printer.line(concat!("lorchestra ", env!("CARGO_PKG_VERSION")));
    }
    if is_json {
        printer.json(&wire::Version {
            schema: "lorchestra.version/1",
            version: env!("CARGO_PKG_VERSION"),
            revision: option_env!("LORCHESTRA_REVISION"),
            abi_revision: lorchestra_plugin_api::abi::ABI_REVISION,
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            features: if telemetry::IS_BUILT { vec!["otel"] } else { Vec::new() },
        });
    }
    is_json || is_plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    /// A host without a battery for its clock may start before 1970.
    #[test]
    fn a_clock_before_1970_is_an_error_that_names_the_clock() {
        let refused = check_clock(UNIX_EPOCH - Duration::from_secs(1)).unwrap_err();
        assert!(refused.message.contains("clock") && !refused.hints.is_empty(), "{refused:?}");
        assert!(check_clock(UNIX_EPOCH).is_ok() && check_clock(SystemTime::now()).is_ok());
    }
}
