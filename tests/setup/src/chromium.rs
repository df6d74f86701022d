//! Chromium, unpacked from Debian's packages below cargo's target directory, without touching the system. Only for `cargo xtask soak`: it
//! is 110 MB to download and 450 MB on the disk.
//!
//! The stamp is written last, so a partial installation is never used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the directory with the contents of its packages, if it was set up.
pub fn found(target: &Path) -> Option<PathBuf> {
    let home = target.join("chromium");
    home.join("lorchestra-stamp").is_file().then(|| home.join("root"))
}

/// Sets it up if it is missing, with access to Debian's archive.
///
/// # Errors
/// A missing tool, or the output of apt.
pub fn ensure(target: &Path) -> Result<PathBuf, String> {
    if let Some(root) = found(target) {
        return Ok(root);
    }
    let home = target.join("chromium");
    let failed = |error: std::io::Error| format!("{}: {error}", home.display());
    if home.exists() {
        fs::remove_dir_all(&home).map_err(failed)?;
    }
    for directory in ["lists/partial", "cache/archives/partial", "debs", "root"] {
        fs::create_dir_all(home.join(directory)).map_err(failed)?;
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.arg("-o").arg(format!("Dir::State::lists={}", home.join("lists").display()));
        command.arg("-o").arg(format!("Dir::Cache={}", home.join("cache").display()));
        command.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=", "-o", "APT::Update::Post-Invoke=", "-q"]);
        run(command.args(args).current_dir(home.join("debs")))
    };
    apt(&["update"])?;
    // What this machine lacks, as apt would install it.
    let plan = apt(&["--simulate", "install", "--no-install-recommends", "chromium"])?;
    let packages = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    let mut download = vec!["download"];
    download.extend(packages);
    apt(&download)?;
    let root = home.join("root");
    for entry in fs::read_dir(home.join("debs")).map_err(failed)?.flatten() {
        run(Command::new("dpkg").arg("-x").arg(entry.path()).arg(&root))?;
    }
    fs::remove_dir_all(home.join("debs")).map_err(failed)?;
    fs::write(home.join("lorchestra-stamp"), "").map_err(failed)?;
    Ok(root)
}

/// A headless browser of these packages that loads nothing but the file and writes a picture of it.
pub fn screenshot(root: &Path, profile: &Path) -> Command {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(root.join("usr/lib/chromium/chromium"));
    command.env("LD_LIBRARY_PATH", format!("{0}:{0}/pulseaudio", libraries.display()));
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    command
}

fn run(command: &mut Command) -> Result<String, String> {
    let line = format!("{command:?}");
    let output = command.env("LC_ALL", "C").output().map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{line}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()))
}
