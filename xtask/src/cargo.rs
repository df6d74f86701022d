//! How the tasks call cargo, and where cargo puts its output.

use crate::Result;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything but the packages of benches, whose additional features would make cargo compile dependencies twice.
pub(crate) const WITH_FUZZ: [&str; 5] = ["--workspace", "--exclude", "bench-parts", "--exclude", "bench-plugin"];
/// Everything that tests use: not the fuzz targets either, which are programs without an end.
pub(crate) const TESTED: [&str; 7] =
    ["--workspace", "--exclude", "bench-parts", "--exclude", "bench-plugin", "--exclude", "lorchestra-fuzz"];

/// Whether the tests' build was made: it has a fixture that only tests use.
pub(crate) fn is_tested_built() -> Result<bool> {
    Ok(built("debug")?.join("libconstructor.so").exists())
}

/// The workspace's root.
pub(crate) fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().ok_or("xtask is not in a workspace")?.to_owned())
}

/// The target directory of this program, independent of CARGO_TARGET_DIR.
pub(crate) fn target() -> Result<PathBuf> {
    // <target>/<profile>/xtask
    let exe = std::env::current_exe()?;
    Ok(exe.ancestors().nth(2).ok_or("xtask is not in a target directory")?.to_owned())
}

/// The directory with a profile's binaries and libraries.
pub(crate) fn built(profile: &str) -> Result<PathBuf> {
    Ok(target()?.join(profile))
}

/// A cargo command in the workspace's root, with `--locked`.
pub(crate) fn cargo(subcommand: &str) -> Result<Command> {
    let mut command = Command::new(program());
    command.current_dir(root()?).args([subcommand, "--locked"]);
    // `cargo run` sets these for this program. A build script that reads them (ring's) would run again, and everything that depends on
    // it would be compiled again, after each change between `cargo xtask …` and `cargo …`.
    for name in variables_of_this_package() {
        command.env_remove(name);
    }
    Ok(command)
}

#[expect(clippy::disallowed_methods, reason = "cargo sets them for the programs that it runs")]
fn variables_of_this_package() -> impl Iterator<Item = std::ffi::OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)))
}

/// The cargo that started this program. Not the one that built it, whose toolchain may have been removed since.
#[expect(clippy::disallowed_methods, reason = "cargo sets CARGO for the programs that it runs")]
pub(crate) fn program() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Builds packages of the workspace.
pub(crate) fn build(args: &[&str]) -> Result {
    let mut command = cargo("build")?;
    run(command.args(args))
}

/// Builds the command line and packages, and prints the command.
///
/// With `-p`, cargo compiles only what they need: quick with an empty target directory. But it then compiles some dependencies, and all that
/// depends on them, with fewer features than the whole workspace needs. So after the tests, whose build has these packages too, it builds
/// the whole workspace, which has nothing to do.
pub(crate) fn build_command_line(packages: &[&str]) -> Result {
    let tested = is_tested_built()?;
    let chosen = ["lorchestra-cli"].iter().chain(packages).flat_map(|package| ["-p", package]).collect::<Vec<_>>();
    let args: &[&str] = if tested { &TESTED } else { &chosen };
    println!("$ cargo build --locked {}", args.join(" "));
    build(args)
}

/// Runs a command with its output on the terminal.
pub(crate) fn run(command: &mut Command) -> Result {
    let name = command.get_program().to_owned();
    let status = command.status().map_err(|e| format!("{}: {e}", shown(&name)))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed ({status})", line(command)).into()) }
}

/// Formats a command as a user would type it, with the program name without its directory.
pub(crate) fn line(command: &Command) -> String {
    let mut line = shown(command.get_program());
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&quoted(&arg.to_string_lossy()));
    }
    line
}

fn quoted(arg: &str) -> String {
    match arg {
        _ if arg.contains('"') => format!("'{arg}'"),
        _ if arg.contains(' ') => format!("\"{arg}\""),
        _ => arg.to_owned(),
    }
}

fn shown(program: &OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}
