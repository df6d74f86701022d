//! Servers from Debian's packages, unpacked below cargo's target directory: once, by any user, without touching the system (with package
//! lists of their own, which all servers share).
//!
//! A partial installation is never used: the stamp is written last, and without the correct stamp everything is created again. Concurrent
//! processes wait for each other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// How long package lists are used.
const LISTS: Duration = Duration::from_secs(3600);

/// A server and the packages that contain it.
pub(crate) struct Server {
    /// Its name, and that of its directory.
    pub(crate) name: &'static str,
    /// The packages to unpack; libraries that they need and this machine lacks are added.
    pub(crate) packages: &'static [&'static str],
    /// Programs and modules that tests use, whose libraries must be found.
    pub(crate) programs: &'static [&'static str],
    /// Directories with its own libraries.
    pub(crate) libraries: &'static [&'static str],
    /// Increment when the same packages are laid out differently.
    pub(crate) layout: u32,
    /// Checks and completes what was unpacked.
    pub(crate) complete: fn(&Path) -> Result<(), String>,
}

impl Server {
    /// Returns the directory with the contents of the packages below this target directory. Creates it if it is missing, which takes some
    /// seconds and access to Debian's archive.
    pub(crate) fn ensure(&self, target: &Path) -> Result<PathBuf, String> {
        let home = target.join(self.name);
        let root = home.join("root");
        let failed = |what: &Path, error: std::io::Error| format!("{}: {error}", what.display());
        let held = exclusive(target)?;

        let stamp_file = home.join("lorchestra-stamp");
        let stamp = format!("layout {}\n{}\n", self.layout, home.display());
        if fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
            return Ok(root);
        }
        if home.exists() {
            fs::remove_dir_all(&home).map_err(|error| failed(&home, error))?;
        }
        let apt = Apt::new(target, &home);
        let made =
            self.unpack(&apt, &root).and_then(|()| fs::write(&stamp_file, stamp).map_err(|error| failed(&stamp_file, error)));
        drop(held);
        made.map_err(|error| {
            let name = self.name;
            format!("{name}, which tests start, could not be unpacked from Debian's packages (it needs apt and dpkg):\n{error}")
        })?;
        Ok(root)
    }

    /// Returns the `LD_LIBRARY_PATH` for its programs.
    pub(crate) fn library_path(&self, root: &Path) -> String {
        let mut places: Vec<PathBuf> = self.libraries.iter().map(|place| root.join(place)).collect();
        for place in ["usr/lib", "lib"] {
            let entries = fs::read_dir(root.join(place)).into_iter().flatten().flatten();
            places.extend(
                entries.filter(|entry| entry.file_name().to_string_lossy().ends_with("-linux-gnu")).map(|entry| entry.path()),
            );
        }
        places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(":")
    }

    fn unpack(&self, apt: &Apt, root: &Path) -> Result<(), String> {
        fs::create_dir_all(root).map_err(|error| format!("{}: {error}", root.display()))?;
        apt.update()?;
        let mut packages: Vec<String> = self.packages.iter().map(ToString::to_string).collect();
        let mut known = packages.clone();
        // First the server, then the libraries that this machine lacks, then their dependencies.
        for _ in 0..4 {
            let mut download = vec!["download"];
            download.extend(packages.iter().map(String::as_str));
            apt.run("apt-get", &download)?;
            unpack_all(&apt.home, root)?;
            let missing = self.missing(root)?;
            if missing.is_empty() {
                break;
            }
            let mut wanted = Vec::new();
            for package in &packages {
                let depends = apt.run("apt-cache", &["depends", "--no-recommends", "--no-suggests", package])?;
                wanted.extend(
                    depends
                        .lines()
                        .filter_map(|line| line.trim().strip_prefix("Depends: "))
                        // A process can have only one C library.
                        .filter(|name| {
                            name.starts_with("lib") && !matches!(*name, "libc6" | "libelogind0") && !name.contains("pam-")
                        })
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
        let missing = self.missing(root)?;
        if !missing.is_empty() {
            return Err(format!("these libraries were not found: {}", missing.join(", ")));
        }
        (self.complete)(root)
    }

    /// Shared libraries that are neither on this machine nor unpacked.
    fn missing(&self, root: &Path) -> Result<Vec<String>, String> {
        let mut missing = Vec::new();
        for program in self.programs {
            let listed = run(Command::new("ldd").arg(root.join(program)).env("LD_LIBRARY_PATH", self.library_path(root)))?;
            missing.extend(listed.lines().filter(|line| line.ends_with("not found")).map(|line| line.trim().to_owned()));
        }
        missing.sort();
        missing.dedup();
        Ok(missing)
    }
}

/// Waits until no other process unpacks packages below this target directory: one lock for all, because they share the lists. Held until the
/// file is dropped.
pub(crate) fn exclusive(target: &Path) -> Result<File, String> {
    let lock = target.join("debian.lock");
    let held = fs::create_dir_all(target).and_then(|()| File::create(&lock)).and_then(|file| file.lock().map(|()| file));
    held.map_err(|error| format!("{}: {error}", lock.display()))
}

/// apt, as the current user and with separate directories.
pub(crate) struct Apt {
    lists: PathBuf,
    home: PathBuf,
}

impl Apt {
    /// Uses the lists that all share below the target directory, and downloads into `home`.
    pub(crate) fn new(target: &Path, home: &Path) -> Self {
        Self { lists: target.join("debian-lists"), home: home.to_owned() }
    }

    /// Unpacks a package with everything that apt would install for it on this machine.
    pub(crate) fn unpack_with_dependencies(&self, package: &str, root: &Path) -> Result<(), String> {
        fs::create_dir_all(root).map_err(|error| format!("{}: {error}", root.display()))?;
        self.update()?;
        let plan = self.run("apt-get", &["--simulate", "install", "--no-install-recommends", package])?;
        let packages = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        let mut download = vec!["download"];
        download.extend(packages);
        self.run("apt-get", &download)?;
        unpack_all(&self.home, root)
    }

    fn update(&self) -> Result<(), String> {
        let cache = self.home.join("cache/archives/partial");
        for directory in [&self.lists.join("partial"), &cache] {
            fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        let stamp = self.lists.join("lorchestra-stamp");
        let age = fs::metadata(&stamp).and_then(|meta| meta.modified()).map(|at| SystemTime::now().duration_since(at));
        if age.is_ok_and(|age| age.is_ok_and(|age| age < LISTS)) {
            return Ok(());
        }
        self.run("apt-get", &["update"])?;
        fs::write(&stamp, "").map_err(|error| format!("{}: {error}", stamp.display()))
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program);
        command.arg("-o").arg(format!("Dir::State::lists={}", self.lists.display()));
        command.arg("-o").arg(format!("Dir::Cache={}", self.home.join("cache").display()));
        command.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=", "-o", "APT::Update::Post-Invoke=", "-q"]);
        run(command.args(args).current_dir(&self.home))
    }
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

/// Standard output of a command that succeeds.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let command_line = format!("{command:?}");
    let output = command.env("LC_ALL", "C").output().map_err(|error| format!("{command_line}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command_line}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()))
}
