//! `cargo xtask dist`: a Debian package and an archive with an install script, both of one tree of files below `target/packages`.
//!
//! Builds the binary (or takes the dev build, for tests), asks it for its man pages and completions, and adds the units of
//! docs/guides/sandbox.md. Uses Debian's own tools: `tar`, `gzip`, and `dpkg-deb` if there is one; a build machine needs nothing else. The
//! same sources give the same packages, byte for byte: times are those of the last commit, and owners are root.

mod archive;
mod deb;
mod tree;

use crate::{Result, cargo};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::Command;
use tree::Tree;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The build to package; dev takes the binary of the tests, which is large but there
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Directory to write to, instead of target/packages
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Make only this
    #[arg(long, value_enum, value_name = "KIND")]
    only: Option<Kind>,
    /// Revision of the Debian package
    #[arg(long, default_value_t = 1, value_name = "N")]
    revision: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    Release,
    Dev,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Archive,
    Deb,
}

/// What is packaged.
struct Release {
    /// The version of the command line.
    version: String,
    /// The revision of the Debian package.
    revision: u32,
    /// Time of all files, in seconds since 1970.
    time: String,
    /// Whether to compress well. Otherwise quickly: a dev build is large, and thrown away.
    is_small: bool,
    /// The directory for the results.
    out: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result {
    let binary = binary(options.profile)?;
    let out = options.out.clone().map_or_else(|| Ok::<_, Box<dyn std::error::Error>>(cargo::target()?.join("packages")), Ok)?;
    std::fs::create_dir_all(&out)?;
    let version = printed(Command::new(&binary).arg("--version"))?;
    let version = version.trim().strip_prefix("lorchestra ").ok_or("the binary prints no version")?.to_owned();
    let release =
        Release { version, revision: options.revision, time: time()?, is_small: options.profile == Profile::Release, out };
    let work = tempfile::tempdir_in(&release.out)?;
    let tree = Tree::stage(&binary, work.path(), &release)?;
    let mut made = Vec::new();
    if options.only != Some(Kind::Deb) {
        made.push(archive::make(&tree, work.path(), &release)?);
    }
    match Command::new("dpkg-deb").arg("--version").output() {
        _ if options.only == Some(Kind::Archive) => {}
        Ok(_) => made.push(deb::make(&tree, work.path(), &release)?),
        Err(error) => println!("no Debian package: dpkg-deb: {error}"),
    }
    for path in made {
        println!("{} ({:.1} MB)", path.display(), std::fs::metadata(&path)?.len() as f64 / 1e6);
    }
    Ok(())
}

/// The binary to package, built if it is the release.
fn binary(profile: Profile) -> Result<PathBuf> {
    if profile == Profile::Release {
        // Default features are all of them.
        cargo::build(&["--profile", "dist", "-p", "lorchestra-cli"])?;
    }
    let path = cargo::built(if profile == Profile::Release { "dist" } else { "debug" })?.join("lorchestra");
    if path.is_file() { Ok(path) } else { Err(format!("{} is not built: run cargo build --workspace", path.display()).into()) }
}

/// The time of the last commit, or 2000-01-01 outside a repository.
fn time() -> Result<String> {
    let commit = Command::new("git").current_dir(cargo::root()?).args(["log", "-1", "--format=%ct"]).output();
    let time = commit
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    Ok(time.filter(|time| !time.is_empty()).unwrap_or_else(|| "946684800".to_owned()))
}

/// Returns what a command prints.
fn printed(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|e| format!("{}: {e}", cargo::line(command)))?;
    if !output.status.success() {
        return Err(
            format!("{} failed ({}): {}", cargo::line(command), output.status, String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Reads a file of `xtask/dist`.
fn source(name: &str) -> Result<String> {
    let path = cargo::root()?.join("xtask/dist").join(name);
    Ok(std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?)
}

/// Compresses a file, without name and time.
fn gzip(path: &Path, level: &str) -> Result {
    cargo::run(Command::new("gzip").args([level, "-n"]).arg(path))
}
