//! Dovecot, unpacked from Debian's packages below cargo's target directory: once, by any user, without touching the system (it uses its own
//! package lists).
//!
//! A partial installation is never used: the stamp is written last, and without the correct stamp everything is created again. Concurrent
//! processes wait for each other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages to unpack; libraries that they need and this machine lacks are added.
const PACKAGES: [&str; 2] = ["dovecot-core", "dovecot-imapd"];
/// The release for which the tests write configuration files.
const RELEASE: &str = "2.3.";
/// Increment when the same packages are laid out differently.
const LAYOUT: u32 = 1;
/// Where the library looks for its modules (TLS is one). It cannot be configured, so this path is replaced by one that is
/// relative to the directory its processes run in.
const MODULES: &[u8] = b"/usr/lib/dovecot/modules\0";
/// Programs and modules that Dovecot uses to serve a mail client.
const PROGRAMS: [&str; 10] = [
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
];

/// Returns the directory with the contents of Dovecot's packages (`usr/sbin/dovecot` and the rest) below this target directory. Creates it
/// if it is missing, which takes some seconds and access to Debian's archive.
///
/// # Errors
/// A missing tool, or the output of apt.
pub fn ensure(target: &Path) -> Result<PathBuf, String> {
    let home = target.join("dovecot");
    let root = home.join("root");
    let failed = |what: &Path, error: std::io::Error| format!("{}: {error}", what.display());
    fs::create_dir_all(target).map_err(|error| failed(target, error))?;
    let lock = target.join("dovecot.lock");
    // Held until the end of this function.
    let held = File::create(&lock).map_err(|error| failed(&lock, error))?;
    held.lock().map_err(|error| failed(&lock, error))?;

    let stamp_file = home.join("lorchestra-stamp");
    let stamp = format!("layout {LAYOUT}\n{}\n", home.display());
    if fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
        return Ok(root);
    }
    if home.exists() {
        fs::remove_dir_all(&home).map_err(|error| failed(&home, error))?;
    }
    let made = unpack(&home, &root).and_then(|()| fs::write(&stamp_file, stamp).map_err(|error| failed(&stamp_file, error)));
    drop(held);
    made.map_err(|error| {
        format!("Dovecot, which the tests of mail over IMAP start, could not be installed from Debian's packages (it needs apt and dpkg):\n{error}")
    })?;
    Ok(root)
}

/// Returns the `LD_LIBRARY_PATH` for its programs.
pub fn library_path(root: &Path) -> String {
    let mut places =
        vec![root.join("usr/lib/dovecot"), root.join("usr/lib/dovecot/modules"), root.join("usr/lib/dovecot/modules/old-stats")];
    for place in ["usr/lib", "lib"] {
        let entries = fs::read_dir(root.join(place)).into_iter().flatten().flatten();
        places.extend(
            entries.filter(|entry| entry.file_name().to_string_lossy().ends_with("-linux-gnu")).map(|entry| entry.path()),
        );
    }
    places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(":")
}

fn unpack(home: &Path, root: &Path) -> Result<(), String> {
    let lists = home.join("lists");
    let cache = home.join("cache");
    for directory in [&lists.join("partial"), &cache.join("archives/partial"), root] {
        fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let apt = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.arg("-o").arg(format!("Dir::State::lists={}", lists.display()));
        command.arg("-o").arg(format!("Dir::Cache={}", cache.display()));
        // As the current user, with separate directories.
        command.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=", "-o", "APT::Update::Post-Invoke=", "-q"]);
        run(command.args(args).current_dir(home))
    };
    apt("apt-get", &["update"])?;
    let mut packages: Vec<String> = PACKAGES.map(String::from).to_vec();
    let mut known = packages.clone();
    // First Dovecot, then the libraries that this machine lacks, then their dependencies.
    for _ in 0..4 {
        let mut download = vec!["download"];
        download.extend(packages.iter().map(String::as_str));
        apt("apt-get", &download)?;
        unpack_all(home, root)?;
        let missing = missing(root)?;
        if missing.is_empty() {
            break;
        }
        let mut wanted = Vec::new();
        for package in &packages {
            let depends = apt("apt-cache", &["depends", "--no-recommends", "--no-suggests", package])?;
            wanted.extend(
                depends
                    .lines()
                    .filter_map(|line| line.trim().strip_prefix("Depends: "))
                    // A process can have only one C library.
                    .filter(|name| name.starts_with("lib") && !matches!(*name, "libc6" | "libelogind0") && !name.contains("pam-"))
                    .map(String::from),
            );
        }
        wanted.retain(|name| !known.contains(name));
        wanted.sort();
        wanted.dedup();
        if wanted.is_empty() {
            return Err(format!("no package contains these libraries: {}", missing.join(", ")));
        }
        known.extend(wanted.iter().cloned());
        packages = wanted;
    }
    let missing = missing(root)?;
    if !missing.is_empty() {
        return Err(format!("these libraries were not found: {}", missing.join(", ")));
    }
    let version = run(Command::new(root.join("usr/sbin/dovecot")).arg("--version").env("LD_LIBRARY_PATH", library_path(root)))?;
    if !version.starts_with(RELEASE) {
        return Err(format!("the tests need Dovecot {RELEASE}x (Debian 12), but this machine has {}", version.trim()));
    }
    relocate(&root.join("usr/lib/dovecot/libdovecot.so.0.0.0"))
}

fn unpack_all(home: &Path, root: &Path) -> Result<(), String> {
    for entry in fs::read_dir(home).map_err(|error| format!("{}: {error}", home.display()))?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(&path).arg(root))?;
            fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

/// Shared libraries that are neither on this machine nor unpacked.
fn missing(root: &Path) -> Result<Vec<String>, String> {
    let mut missing = Vec::new();
    for program in PROGRAMS {
        let listed = run(Command::new("ldd").arg(root.join(program)).env("LD_LIBRARY_PATH", library_path(root)))?;
        missing.extend(listed.lines().filter(|line| line.ends_with("not found")).map(|line| line.trim().to_owned()));
    }
    missing.sort();
    missing.dedup();
    Ok(missing)
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

/// Standard output of a command that succeeds.
fn run(command: &mut Command) -> Result<String, String> {
    let command_line = format!("{command:?}");
    let output = command.env("LC_ALL", "C").output().map_err(|error| format!("{command_line}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command_line}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()))
}
