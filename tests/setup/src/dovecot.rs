//! Dovecot, unpacked from Debian's packages (`debian.rs`).

use crate::debian::{Server, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release for which the tests write configuration files.
const RELEASE: &str = "2.3.";
/// Where the library looks for its modules (TLS is one). It cannot be configured, so this path is replaced by one that is
/// relative to the directory its processes run in.
const MODULES: &[u8] = b"/usr/lib/dovecot/modules\0";

const DOVECOT: Server = Server {
    name: "dovecot",
    packages: &["dovecot-core", "dovecot-imapd"],
    programs: &[
        "usr/sbin/dovecot",
        "usr/bin/doveconf",
        "usr/lib/dovecot/anvil",
        "usr/lib/dovecot/auth",
        "usr/lib/dovecot/config",
        "usr/lib/dovecot/imap",
        "usr/lib/dovecot/imap-login",
        "usr/lib/dovecot/log",
        "usr/lib/dovecot/stats",
        "usr/lib/dovecot/modules/libssl_iostream_openssl.so",
    ],
    libraries: &["usr/lib/dovecot", "usr/lib/dovecot/modules", "usr/lib/dovecot/modules/old-stats"],
    layout: 1,
    complete,
};

/// Returns the directory with the contents of Dovecot's packages (`usr/sbin/dovecot` and the rest) below this target directory. Creates it
/// if it is missing, which takes some seconds and access to Debian's archive.
///
/// # Errors
/// A missing tool, or the output of apt.
pub fn ensure(target: &Path) -> Result<PathBuf, String> {
    DOVECOT.ensure(target)
}

/// Returns the `LD_LIBRARY_PATH` for its programs.
pub fn library_path(root: &Path) -> String {
    DOVECOT.library_path(root)
}

fn complete(root: &Path) -> Result<(), String> {
    let version = run(Command::new(root.join("usr/sbin/dovecot")).arg("--version").env("LD_LIBRARY_PATH", library_path(root)))?;
    if !version.starts_with(RELEASE) {
        return Err(format!("the tests need Dovecot {RELEASE}x (Debian 12), but this machine has {}", version.trim()));
    }
    relocate(&root.join("usr/lib/dovecot/libdovecot.so.0.0.0"))
}

fn relocate(library: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", library.display());
    let mut bytes = fs::read(library).map_err(failed)?;
    let places: Vec<usize> = bytes.windows(MODULES.len()).enumerate().filter(|(_, w)| *w == MODULES).map(|(at, _)| at).collect();
    let [at] = places[..] else {
        return Err(format!("{}: the path of its modules is in it {} times, not once", library.display(), places.len()));
    };
    let relative = b"modules";
    bytes[at..at + MODULES.len()].fill(0);
    bytes[at..at + relative.len()].copy_from_slice(relative);
    fs::write(library, bytes).map_err(failed)
}
