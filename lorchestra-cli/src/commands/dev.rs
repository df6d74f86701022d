//! `dev`: the inner loop of an author in one command. Builds a package in cargo's dev profile and runs one of its jobs, without installing
//! the library.
//!
//! cargo reports which library it built. It is copied to a directory of its own in the target directory, and [`run_job`] searches
//! only there: the other libraries that cargo builds are not packages.

use super::run_job::{self, RunJob};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::notify::{Hooks, Notices};
use crate::printer::Printer;
use crate::settings::Settings;
use clap::Args;
use lorchestra_core::packages::catalog::{Catalog, SearchDir};
use serde_json::Value;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(super) const EXAMPLES: &str = "Examples:
  lorchestra dev count_words --input README.md
  lorchestra dev crates/words count_words --input README.md --retries 1
  lorchestra dev count_words --help";

/// Origin of the search directory, for messages.
const ORIGIN: &str = "lorchestra dev";

/// `dev [PACKAGE_DIR] JOB`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Directory of the package [default: the working directory], the job, and flags of the job and of run-job
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_names = ["PACKAGE_DIR] JOB [FLAGS"])]
    // Not required: clap would then write the outer brackets as <>. Without a job, this command fails with its own message.
    words: Vec<OsString>,
}

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    /// There is no job name.
    #[error("missing argument JOB")]
    NoJob,
    /// cargo is not installed.
    #[error("cargo cannot be started: {0}")]
    Cargo(io::Error),
    /// The directory is not a crate.
    #[error("{dir} is not the directory of a crate: it has no Cargo.toml", dir = .0.display())]
    NotACrate(PathBuf),
    /// The build failed; cargo has printed why.
    #[error("{dir} cannot be built: cargo build failed", dir = .0.display())]
    Build(PathBuf),
    /// cargo built no library to load.
    #[error("{dir} has no cdylib, which lorchestra loads", dir = .0.display())]
    NoLibrary(PathBuf),
    /// There is more than one.
    #[error("{dir} has several packages: {names}", dir = .0.display(), names = .1.join(", "))]
    Several(PathBuf, Vec<String>),
    /// The copy of the library cannot be made.
    #[error("{path}", path = .0.display())]
    Io(PathBuf, #[source] io::Error),
}

impl From<DevError> for CommandError {
    fn from(error: DevError) -> Self {
        let message = error.to_string();
        match error {
            DevError::NoJob => Self::new(Code::Usage, message).hint("lorchestra dev [PACKAGE_DIR] JOB [FLAGS]"),
            DevError::Cargo(_) => Self::new(Code::Failed, message)
                .hint("install Rust (https://rustup.rs), or put cargo on the PATH")
                .hint("to run a library that is already built: lorchestra run-job --plugin-dir DIR PACKAGE JOB"),
            DevError::NotACrate(_) => Self::new(Code::Usage, message)
                .hint("run this in the directory of a package, or give that directory: lorchestra dev DIR JOB")
                .hint("lorchestra new NAME creates a package"),
            DevError::Build(_) => Self::new(Code::Failed, message),
            DevError::NoLibrary(_) => {
                Self::new(Code::Failed, message).hint("write crate-type = [\"cdylib\", \"rlib\"] below [lib] in Cargo.toml")
            }
            DevError::Several(..) => Self::new(Code::Usage, message).hint("give the directory of one: lorchestra dev DIR JOB"),
            DevError::Io(path, source) => Self::refused(Code::NotWritable, &message, &path, &source),
        }
    }
}

pub(super) fn run(command: &Dev, verbose: u8, mut settings: Settings, printer: &mut Printer) -> Code {
    match prepare(command) {
        Ok((dir, run_job)) => {
            settings.plugin_dirs = vec![SearchDir { path: dir, origin: ORIGIN.to_owned() }];
            // plugins.lock is for installed libraries.
            settings.locked = false;
            // An author's failure must not alert anyone.
            run_job::run(&run_job, verbose, &settings, Notices::new(&Hooks::default()), printer)
        }
        Err(error) => {
            let failure = CommandError::from(error);
            printer.failure(&failure);
            failure.code
        }
    }
}

/// Builds the package. Returns the directory with its library, and the command that runs the job.
fn prepare(command: &Dev) -> Result<(PathBuf, RunJob), DevError> {
    let (dir, words) = match command.words.split_first() {
        Some((first, rest)) if is_dir(first) => (PathBuf::from(first), rest),
        _ => (PathBuf::from("."), &*command.words),
    };
    let (job, rest) = words.split_first().ok_or(DevError::NoJob)?;
    let library = build(&dir)?;
    // Of this library alone: packages of one workspace share the target directory.
    let only = library.parent().unwrap_or(Path::new(".")).join("lorchestra-dev").join(library.file_stem().unwrap_or_default());
    let package = place(&library, &only)?;
    let run_job = RunJob {
        own: crate::flags::OwnFlags::default(),
        help: false,
        spec: None,
        package: Some(package),
        job: Some(job.to_string_lossy().into_owned()),
        rest: rest.to_vec(),
    };
    Ok((only, run_job))
}

/// Whether the first argument is a directory and not a job: it is written as a path, or is a crate.
fn is_dir(word: &OsString) -> bool {
    let path = Path::new(word);
    word.as_encoded_bytes().contains(&b'/')
        || matches!(word.as_encoded_bytes(), b"." | b"..")
        || path.join("Cargo.toml").is_file()
}

/// Builds the crate in the dev profile. Returns the library that lorchestra loads.
fn build(dir: &Path) -> Result<PathBuf, DevError> {
    if !dir.join("Cargo.toml").is_file() {
        return Err(DevError::NotACrate(std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())));
    }
    // Not through a shell and not another tool: the author's own cargo, with its configuration.
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--message-format", "json-render-diagnostics"]).current_dir(dir).stdout(Stdio::piped());
    let mut child = cargo.spawn().map_err(DevError::Cargo)?;
    let mut libraries = Vec::new();
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let Ok(line) = line else { break };
        let message: Value = serde_json::from_str(&line).unwrap_or_default();
        libraries.extend(library(&message));
    }
    if !child.wait().map_err(DevError::Cargo)?.success() {
        return Err(DevError::Build(dir.to_owned()));
    }
    // A dependency may have a cdylib too.
    let manifest = fs::canonicalize(dir.join("Cargo.toml")).ok();
    if libraries.iter().any(|(of, _)| Some(of) == manifest.as_ref()) {
        libraries.retain(|(of, _)| Some(of) == manifest.as_ref());
    }
    match libraries.as_slice() {
        [] => Err(DevError::NoLibrary(dir.to_owned())),
        [(_, library)] => Ok(library.clone()),
        several => {
            let name = |(_, library): &(PathBuf, PathBuf)| library.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Err(DevError::Several(dir.to_owned(), several.iter().map(name).collect()))
        }
    }
}

/// Returns the manifest of the crate and the library, if a message of cargo reports one.
fn library(message: &Value) -> Option<(PathBuf, PathBuf)> {
    let kinds = message["target"]["kind"].as_array()?;
    if message["reason"] != "compiler-artifact" || !kinds.iter().any(|kind| kind == "cdylib") {
        return None;
    }
    let files = message["filenames"].as_array()?;
    let library = files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".so"))?;
    Some((PathBuf::from(message["manifest_path"].as_str()?), PathBuf::from(library)))
}

/// Copies the library into an otherwise empty directory. Returns the name of its package.
fn place(library: &Path, only: &Path) -> Result<String, DevError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| DevError::Io(path, source)
    };
    match fs::remove_dir_all(only) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(only)(error)),
        _ => DirBuilder::new().recursive(true).mode(0o700).create(only).map_err(io(only))?,
    }
    let copy = only.join(library.file_name().unwrap_or_default());
    fs::copy(library, &copy).map_err(io(&copy))?;
    let catalog = Catalog::scan(&[SearchDir { path: only.to_owned(), origin: ORIGIN.to_owned() }]);
    let name = catalog.packages.first().map(|package| package.summary.package.clone());
    // A library without a manifest: run-job reports why it cannot be used, under the name of its file.
    Ok(name.unwrap_or_else(|| library.file_stem().unwrap_or_default().to_string_lossy().trim_start_matches("lib").to_owned()))
}
