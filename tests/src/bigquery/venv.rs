//! The virtual environment that the BigQuery emulator and Python's own BigQuery client live in: made once, below cargo's target
//! directory, with pinned versions. Uses the standard library only, so that `xtask` can take this file in as it is.
//!
//! Half a venv is never used: the stamp is written last, and without the right stamp everything is made anew. Two processes at once
//! wait for each other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is installed. The last one carries the file that DuckDB would otherwise want to download at each start.
const PINS: [&str; 5] =
    ["bqemulator==1.4.0", "google-cloud-bigquery==3.47.0", "numpy==2.4.6", "duckdb==1.5.5", "duckdb-extension-spatial==1.5.5"];
/// Grows when the same packages are laid out differently.
const LAYOUT: u32 = 1;
/// Newest last: the first that is good enough is taken.
const PYTHONS: [&str; 4] = ["python3", "python3.11", "python3.12", "python3.13"];

/// Prints the platform's name as DuckDB has it, and where its extension lies.
const FIND_EXTENSION: &str = "
import duckdb, duckdb_extension_spatial, pathlib
print(duckdb.sql('PRAGMA platform').fetchone()[0])
print(next(pathlib.Path(duckdb_extension_spatial.__file__).parent.rglob('spatial.duckdb_extension')))
print('v' + duckdb.__version__)
";

/// The venv below this target directory: made now if it is not there or has other versions, which takes about a minute and the
/// internet. In it `bin/python`, and `home`, which emulators are to be started with as HOME.
///
/// # Errors
/// What is missing, or what pip said.
pub fn ensure(target: &Path) -> Result<PathBuf, String> {
    let venv = target.join("bqemulator-venv");
    let failed = |what: &Path, error: std::io::Error| format!("{}: {error}", what.display());
    fs::create_dir_all(target).map_err(|error| failed(target, error))?;
    let lock = target.join("bqemulator-venv.lock");
    // Held until the end of this function.
    let held = File::create(&lock).map_err(|error| failed(&lock, error))?;
    held.lock().map_err(|error| failed(&lock, error))?;

    let stamp_file = venv.join("lorchestra-stamp");
    // With its path, because a venv that was moved does not work.
    let stamp = format!("layout {LAYOUT}\n{}\n{}\n", PINS.join("\n"), venv.display());
    if fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
        return Ok(venv);
    }
    if venv.exists() {
        fs::remove_dir_all(&venv).map_err(|error| failed(&venv, error))?;
    }
    let python = python()?;
    let made = build(&python, &venv).and_then(|()| fs::write(&stamp_file, stamp).map_err(|error| failed(&stamp_file, error)));
    drop(held);
    made.map(|()| venv)
}

fn build(python: &str, venv: &Path) -> Result<(), String> {
    run(Command::new(python).args(["-m", "venv"]).arg(venv))?;
    let inside = venv.join("bin/python");
    run(Command::new(&inside).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]).args(PINS))?;
    let found = run(Command::new(&inside).args(["-c", FIND_EXTENSION]))?;
    let [platform, extension, version] = found.lines().collect::<Vec<_>>()[..] else {
        return Err(format!("DuckDB's platform and its extension were not found: {found}"));
    };
    let place = venv.join("home/.duckdb/extensions").join(version).join(platform);
    let copied = fs::create_dir_all(&place).and_then(|()| fs::copy(extension, place.join("spatial.duckdb_extension")));
    copied.map(drop).map_err(|error| format!("{}: {error}", place.display()))
}

/// A Python that is new enough and can make a venv.
fn python() -> Result<String, String> {
    let mut tried = Vec::new();
    for python in PYTHONS {
        let check = "import sys, venv, ensurepip; assert sys.version_info >= (3, 11), 'version ' + sys.version.split()[0]";
        match run(Command::new(python).args(["-c", check])) {
            Ok(_) => return Ok(python.to_owned()),
            Err(error) => tried.push(format!("{python}: {}", error.lines().last().unwrap_or_default())),
        }
    }
    Err(format!("the BigQuery emulator needs Python 3.11 or newer with venv; tried {}", tried.join("; ")))
}

/// Standard output of a command that succeeds.
fn run(command: &mut Command) -> Result<String, String> {
    // What a shell has set for another Python is not for this one.
    command.env_remove("PYTHONPATH").env_remove("PYTHONHOME").env("PYTHONNOUSERSITE", "1");
    let told = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{told}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{told}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()))
}
