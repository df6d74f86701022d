//! Messages that other mail parsers are tested with, from the packages that carry them, below cargo's target directory:
//!
//! | directory | from |
//! | --- | --- |
//! | `mail-parser` | the crate `mail-parser`, in the version of Cargo.lock |
//! | `mailparser` | the source package of `mail-parser` on PyPI |
//! | `cpython` | the tests of Python's own `email`, if they are installed with the interpreter (Debian's has a package of its own for them) |
//!
//! The package `postal-mime` on npm contains no messages.

use crate::venv;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package on PyPI, as a line of requirements.
const MAILPARSER: &str = "mail-parser==4.8.0 --hash=sha256:602e659b159652d378b0f9cce2d682bee692bedae72687786e2b2e52eaeb9afc\n";

/// Copies the messages: by name, files that end with `.eml` or `.txt`, or have no extension.
const COPY: &str = "
import pathlib, sys, tarfile
to, archive, crate = map(pathlib.Path, sys.argv[1:])
def write(corpus, name, data):
    (to / corpus).mkdir(parents=True, exist_ok=True)
    (to / corpus / (name.removesuffix('.txt').removesuffix('.eml') + '.eml')).write_bytes(data)
try:
    import test.test_email
    for path in sorted((pathlib.Path(test.test_email.__file__).parent / 'data').glob('msg_*.txt')):
        write('cpython', path.name, path.read_bytes())
except ImportError:
    pass
for path in sorted((crate / 'resources/eml').glob('*/*.eml')):
    write('mail-parser', path.parent.name + '-' + path.name, path.read_bytes())
with tarfile.open(next(archive.glob('*.tar.gz'))) as packed:
    for member in packed.getmembers():
        if '/tests/mails/' in member.name and member.isfile():
            write('mailparser', member.name.rsplit('/')[-1], packed.extractfile(member).read())
";

/// Returns the directory with the messages, and a Python. Creates it if it is missing, which takes some seconds and internet access.
///
/// # Errors
/// A missing tool, or the output of pip or cargo.
pub fn ensure(target: &Path) -> Result<(PathBuf, PathBuf), String> {
    let venv = venv::ensure_corpora(target)?;
    Ok((venv.join("corpora"), venv.join("bin/python")))
}

/// Fills the venv's directory `corpora`.
pub(crate) fn fetch(venv: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", venv.display());
    let python = venv.join("bin/python");
    let requirements = venv.join("corpora.txt");
    fs::write(&requirements, MAILPARSER).map_err(failed)?;
    let archive = venv.join("archive");
    let mut download = venv::pip(&python, "download");
    venv::run(
        download
            .args(["--no-deps", "--no-binary=:all:", "--require-hashes", "--dest"])
            .arg(&archive)
            .arg("--requirement")
            .arg(&requirements),
    )?;
    let mut copy = Command::new(&python);
    venv::run(copy.args(["-c", COPY]).arg(venv.join("corpora")).arg(&archive).arg(crate_source("mail-parser")?))?;
    fs::remove_dir_all(&archive).map_err(failed)
}

/// Returns the directory into which cargo has unpacked a dependency.
fn crate_source(name: &str) -> Result<PathBuf, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut metadata = Command::new("cargo");
    let metadata = venv::run(metadata.args(["metadata", "--format-version", "1", "--locked"]).current_dir(workspace))?;
    // A path of a manifest is `…/mail-parser-0.11.9/Cargo.toml`.
    let start = format!("/{name}-");
    let manifests = metadata.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let found = manifests
        .filter_map(|path| path.strip_suffix("/Cargo.toml"))
        .find(|path| path.rfind(&start).is_some_and(|at| path[at + start.len()..].starts_with(|c: char| c.is_ascii_digit())));
    found.map(PathBuf::from).ok_or_else(|| format!("cargo metadata names no source of {name}"))
}
