//! `cargo xtask fuzz`: runs the targets of `fuzz/` for some time, on the stable toolchain.
//!
//! Does what cargo-fuzz would do, without a tool to install: it sets the flags that make the compiler record coverage, and uses libFuzzer,
//! which comes as a crate and needs a C++ compiler. Without a sanitizer (which would need another toolchain) it finds panics, overflows,
//! failed assertions, and inputs that take too much time or memory.
//!
//! All crates are built with coverage, in `<target>/fuzz`, separate from other builds: that takes some minutes. With `--quick`, only the
//! crates that are tested have coverage, and their dependencies are those that `cargo xtask test` has built.
//!
//! New inputs are kept in `<target>/fuzz/corpus`, where the next call continues; `fuzz/corpus` in the repository has a few initial inputs
//! and is only read.

use crate::{Result, cargo};
use clap::Args;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Coverage of edges and comparisons, with the flags of cargo-fuzz.
const FLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Ccodegen-units=8",
    "--cfg",
    "fuzzing",
];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these targets (default: all)
    targets: Vec<String>,
    /// Seconds to run each target
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u32,
    /// Only build the targets
    #[arg(long)]
    build: bool,
    /// Record the coverage of lorchestra's own crates only, and use the dependencies that the tests use: builds in a minute
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(options: &Options) -> Result {
    let source = cargo::root()?.join("fuzz");
    let known = targets(&source)?;
    if let Some(unknown) = options.targets.iter().find(|name| !known.contains(name)) {
        return Err(format!("{unknown} is not a fuzz target; the targets are {}", known.join(", ")).into());
    }
    let work = cargo::target()?.join("fuzz");
    let programs = if options.quick { build_quickly(&source, &known)? } else { build(&work)? };
    if options.build {
        return Ok(());
    }
    let chosen: Vec<String> =
        known.into_iter().filter(|name| options.targets.is_empty() || options.targets.contains(name)).collect();
    // A target uses one thread, so run as many as there are cores.
    let cores = std::thread::available_parallelism()?.get();
    println!("{} for {} s each, {cores} at a time", chosen.join(", "), options.seconds);
    let mut failed = Vec::new();
    for some in chosen.chunks(cores) {
        let started: Vec<_> =
            some.iter().map(|name| Fuzzing::start(name, &programs, &source, &work, options.seconds)).collect::<Result<_>>()?;
        for mut fuzzing in started {
            if !fuzzing.finish()? {
                failed.push(fuzzing.name.clone());
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("{} failed", failed.join(", ")).into()) }
}

/// Returns the names of the targets: the files in `fuzz_targets`.
fn targets(source: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(source.join("fuzz_targets"))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort_unstable();
    Ok(names)
}

/// Builds all targets with coverage of all crates, and returns their directory.
fn build(work: &Path) -> Result<PathBuf> {
    let host = host()?;
    let mut command = cargo::cargo("build")?;
    command.args(["-p", "lorchestra-fuzz", "--profile", "fuzz", "--bins"]);
    // With an explicit target, build scripts and macros are built without the flags.
    command.args(["--target", &host]).arg("--target-dir").arg(work).env_remove("RUSTFLAGS");
    command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    cargo::run(&mut command)?;
    Ok(work.join(host).join("fuzz"))
}

/// Builds all targets with coverage of the crates that they test, and returns their directory.
fn build_quickly(source: &Path, names: &[String]) -> Result<PathBuf> {
    let mut command = cargo::cargo("build")?;
    // Features are those of all selected packages: with the tests' selection and the targets, no dependency is built again.
    command.args(cargo::WITH_FUZZ).args(names.iter().flat_map(|name| ["--bin", name]));
    // Cargo has no flags for some crates only, but calls this for the workspace's.
    command.env("RUSTC_WORKSPACE_WRAPPER", source.join("coverage.sh"));
    command.env("LORCHESTRA_FUZZ_FLAGS", [&FLAGS[..], &["-Copt-level=2"]].concat().join(" "));
    cargo::run(&mut command)?;
    cargo::built("debug")
}

/// A running target.
struct Fuzzing {
    name: String,
    child: Child,
    /// The file with its output.
    log: PathBuf,
}

impl Fuzzing {
    fn start(name: &str, programs: &Path, source: &Path, work: &Path, seconds: u32) -> Result<Self> {
        let corpus = work.join("corpus").join(name);
        let artifacts = work.join("artifacts").join(name);
        std::fs::create_dir_all(&corpus)?;
        std::fs::create_dir_all(&artifacts)?;
        let log = artifacts.join("log");
        let out = File::create(&log)?;
        let option = |name: &str, path: PathBuf| {
            let mut option = OsString::from(name);
            option.push(path);
            option
        };
        let mut command = Command::new(programs.join(name));
        command.arg(&corpus).arg(source.join("corpus").join(name)).arg(option("-artifact_prefix=", artifacts.join("")));
        command.args([
            &*format!("-max_total_time={seconds}"),
            // An input that takes ten seconds would keep a user waiting.
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-max_len=8192",
            "-print_final_stats=1",
        ]);
        let dictionary = source.join("dictionaries").join(name);
        if dictionary.is_file() {
            command.arg(option("-dict=", dictionary));
        }
        let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Waits for its end and prints the result. Returns whether it succeeded.
    fn finish(&mut self) -> Result<bool> {
        let status = self.child.wait()?;
        let text = String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned();
        let runs = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")).unwrap_or(" ?").trim();
        if status.success() {
            println!("{}: {runs} executions, nothing found", self.name);
            return Ok(true);
        }
        println!("{}: {status} after {runs} executions; see {}", self.name, self.log.display());
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].iter().for_each(|line| println!("    {line}"));
        Ok(false)
    }
}

/// The host triple, as rustc prints it.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").current_dir(cargo::root()?).output()?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc -vV names no host")?;
    Ok(host.to_owned())
}
