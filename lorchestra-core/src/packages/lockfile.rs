//! `plugins.lock`: which bytes of which package may run. `plugins lock` writes it; where `locked = true` or `--locked` is set, `run-job`
//! and listings enforce it.
//!
//! This module reads, writes and compares; [`crate::packages::library`] ensures that the compared bytes are the ones that run. A package
//! that the file does not list is refused just like a different checksum: only reviewed code runs.

use crate::packages::catalog::{self, FileFault, Package, Reason};
use crate::packages::library::{self, Library};
use crate::text::{one_line, path_text};
use lorchestra_plugin_api::manifest::{Manifest, is_name};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The format that this host writes, and the newest that it reads.
const FORMAT: u32 = 1;
const HEAD: &str = "# Which bytes of which package may run, where `locked = true` or --locked is set.\n\
                    # Written by `lorchestra plugins lock`.\n";
const HINT: &str = "run lorchestra plugins lock, if these are the bytes you want to run";

/// Maximum size of the file in bytes: room for thousands of packages, and a bound on memory for a file of any origin.
const MAX_FILE: u64 = 1 << 20;

/// One package as it was when the file was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// Its version, for people.
    pub version: String,
    /// Size of the library: a file of another size need not be read.
    pub bytes: u64,
    /// SHA-256 of the library in hexadecimal.
    pub sha256: String,
}

/// The contents of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lockfile {
    /// The locked packages by name.
    pub packages: BTreeMap<String, Locked>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockfileError {
    /// Another user could have written it, or it is not a regular file.
    #[error("{}: {}", path.display(), fault.detail)]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The problem and the hint.
        fault: FileFault,
    },
    /// Its contents are invalid.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file or its directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    #[serde(default, rename = "package")]
    packages: Vec<TextPackage>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextPackage {
    name: String,
    version: String,
    bytes: u64,
    sha256: String,
}

impl Lockfile {
    /// Reads the file; `None` if it does not exist. It must satisfy the rules for libraries, because a user who can change it decides what
    /// runs.
    pub fn read(path: &Path) -> Result<Option<Self>, LockfileError> {
        let io = |source| LockfileError::Io { path: path.to_owned(), source };
        if let Err(e) = path.symlink_metadata() {
            return if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
                Ok(None)
            } else {
                Err(io(e))
            };
        }
        let malformed = |what: String| LockfileError::Malformed { path: path.to_owned(), what: one_line(&what) };
        let file = catalog::open_trusted(path).map_err(|mut fault| {
            match fault.reason {
                // The hints of these faults are for libraries. A link is replaced by writing the lock file again; anything that is not a
                // file must be removed first.
                Reason::LinkOut => fault.fix = HINT.to_owned(),
                Reason::NotAFile => {
                    fault.fix = format!("move {} away; run lorchestra plugins lock to create it again", path_text(path))
                }
                _ => {}
            }
            LockfileError::Unusable { path: path.to_owned(), fault }
        })?;
        let len = file.metadata().map_err(io)?.len();
        if len > MAX_FILE {
            return Err(malformed(format!("it is {len} bytes long; the maximum is {MAX_FILE} (1 MiB)")));
        }
        let mut text = String::new();
        // The file may grow while it is read.
        file.take(MAX_FILE).read_to_string(&mut text).map_err(io)?;
        Self::parse(&text).map(Some).map_err(malformed)
    }

    /// Parses the file. The error describes what is wrong.
    fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            version: u32,
        }
        let message = |e: toml::de::Error| e.message().lines().next().unwrap_or_default().to_owned();
        // Checked first: a newer format may have fields that this host does not know.
        let format: Format = toml::from_str(text).map_err(message)?;
        if format.version > FORMAT {
            return Err(format!("its format is {}; this lorchestra reads format {FORMAT}", format.version));
        }
        let text: Text = toml::from_str(text).map_err(message)?;
        let mut packages = BTreeMap::new();
        for TextPackage { name, version, bytes, sha256 } in text.packages {
            if !is_name(&name) {
                return Err(format!("{name:?} is not the name of a package"));
            }
            if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(format!("the sha256 of {name} is not 64 hexadecimal digits"));
            }
            if packages.insert(name.clone(), Locked { version, bytes, sha256 }).is_some() {
                return Err(format!("{name} is listed twice"));
            }
        }
        Ok(Self { packages })
    }

    /// Writes the file atomically and durably: after return the new file survives a power loss; concurrent readers see the old file or the
    /// new one. Creates its directory if it is missing.
    pub fn write(&self, path: &Path) -> Result<(), LockfileError> {
        let io = |source| LockfileError::Io { path: path.to_owned(), source };
        let dir = path.parent().unwrap_or(Path::new("/"));
        let package = |(name, locked): (&String, &Locked)| TextPackage {
            name: name.clone(),
            version: locked.version.clone(),
            bytes: locked.bytes,
            sha256: locked.sha256.clone(),
        };
        let text = Text { version: FORMAT, packages: self.packages.iter().map(package).collect() };
        let text = toml::to_string(&text).map_err(|e| io(io::Error::other(e)))?;
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        // The file is not secret: root may write it for other users.
        let mode = Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().prefix(".plugins.lock.").permissions(mode).tempfile_in(dir).map_err(io)?;
        file.write_all(format!("{HEAD}{text}").as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(io)?;
        file.persist(path).map_err(|e| io(e.error))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
    }

    /// Checks that these bytes are the locked ones.
    pub fn allows(&self, library: &Library) -> Result<(), FileFault> {
        let Manifest { package, version, .. } = library.manifest();
        let bytes = library.size().map_err(|e| FileFault::unreadable(library.path(), &e))?;
        self.check(package, version, bytes, || Ok(library.sha256().to_owned()))
    }

    /// Checks the file of a package. Reads it, completely, only if version and size match.
    pub fn allows_file(&self, package: &Package) -> Result<(), FileFault> {
        let summary = &package.summary;
        let bytes = package.path.metadata().map_err(|e| FileFault::unreadable(&package.path, &e))?.len();
        self.check(&summary.package, &summary.version, bytes, || library::sha256(&package.path))
    }

    fn check(
        &self,
        package: &str,
        version: &str,
        bytes: u64,
        sha256: impl FnOnce() -> Result<String, FileFault>,
    ) -> Result<(), FileFault> {
        let fault = |reason, detail| Err(FileFault { package: Some(package.to_owned()), ..FileFault::new(reason, detail, HINT) });
        let Some(locked) = self.packages.get(package) else {
            return fault(Reason::NotLocked, format!("plugins.lock does not list the package {package}"));
        };
        if locked.version != version {
            let locked = &locked.version;
            return fault(Reason::LockDiffers, format!("it is {package} {version}; plugins.lock lists {package} {locked}"));
        }
        if locked.bytes == bytes && locked.sha256 == sha256()? {
            Ok(())
        } else {
            fault(Reason::LockDiffers, format!("its bytes differ from the {package} {version} in plugins.lock"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(version: &str, digit: char) -> Lockfile {
        let locked = Locked { version: version.into(), bytes: 7, sha256: String::from(digit).repeat(64) };
        Lockfile { packages: BTreeMap::from([("pack".to_owned(), locked)]) }
    }

    #[test]
    fn a_written_file_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/plugins.lock");
        assert_eq!(Lockfile::read(&path).unwrap(), None);
        for lock in [Lockfile::default(), locked("1.0.0", 'a'), locked("2.0.0-\"x\"", 'b')] {
            lock.write(&path).unwrap();
            assert_eq!(Lockfile::read(&path).unwrap(), Some(lock));
        }
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left in the directory");
    }

    #[test]
    fn only_the_same_bytes_are_allowed() {
        let lock = locked("1.0.0", 'a');
        assert!(lock.check("pack", "1.0.0", 7, || Ok("a".repeat(64))).is_ok());
        for (package, version, digit, reason) in [
            ("pack", "1.0.0", "b", Reason::LockDiffers),
            ("pack", "1.0.1", "b", Reason::LockDiffers),
            ("other", "1.0.0", "a", Reason::NotLocked),
        ] {
            let fault = lock.check(package, version, 7, || Ok(digit.repeat(64))).unwrap_err();
            assert_eq!((fault.reason, fault.package.as_deref()), (reason, Some(package)), "{fault:?}");
        }
    }

    #[test]
    fn a_file_of_another_size_is_not_read() {
        let fault = locked("1.0.0", 'a').check("pack", "1.0.0", 8, || unreachable!("it was read")).unwrap_err();
        assert_eq!(fault.reason, Reason::LockDiffers, "{fault:?}");
    }

    #[test]
    fn the_error_describes_what_is_wrong_with_the_file() {
        let sha = "a".repeat(64);
        for (text, what) in [
            ("version = 2\nnew = 1", "format is 2"),
            ("", "missing field `version`"),
            ("version = 1\nfurther = 1", "unknown field `further`"),
            ("version = 1\n[[package]]\nname = \"a/b\"\nversion = \"1\"\nbytes = 1\nsha256 = \"\"", "\"a/b\" is not the name"),
            ("version = 1\n[[package]]\nname = \"a\"\nversion = \"1\"\nbytes = 1\nsha256 = \"AA\"", "the sha256 of a is not"),
            ("version = 1\n[[package]]\nname = \"a\"\nversion = \"1\"\nbytes = 1", "missing field `sha256`"),
            (
                &format!("version = 1\n{0}{0}", format!("[[package]]\nname=\"a\"\nversion=\"1\"\nbytes=1\nsha256=\"{sha}\"\n")),
                "twice",
            ),
        ] {
            let error = Lockfile::parse(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugins.lock");
        locked("1.0.0", 'a').write(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o646)).unwrap();
        let Err(LockfileError::Unusable { fault, .. }) = Lockfile::read(&path) else { panic!("it was read") };
        assert_eq!((fault.reason, fault.fix), (Reason::NotTrusted, format!("chmod o-w {}", path.display())));
    }

    /// The fix differs from that for a library.
    #[test]
    fn a_link_is_refused_and_writing_the_file_fixes_it() {
        let dir = tempfile::tempdir().unwrap();
        let (config, path) = (dir.path().join("config"), dir.path().join("config/plugins.lock"));
        locked("1.0.0", 'a').write(&dir.path().join("elsewhere.lock")).unwrap();
        std::fs::create_dir(&config).unwrap();
        std::os::unix::fs::symlink("../elsewhere.lock", &path).unwrap();
        let Err(LockfileError::Unusable { fault, .. }) = Lockfile::read(&path) else { panic!("it was read") };
        assert_eq!((fault.reason, &*fault.fix), (Reason::LinkOut, HINT));
        locked("1.0.0", 'b').write(&path).unwrap();
        assert_eq!(Lockfile::read(&path).unwrap(), Some(locked("1.0.0", 'b')));
    }

    /// A file of any origin: no command may run out of memory on it, nor fill the screen with it.
    #[test]
    fn a_file_that_is_too_large_is_not_read_and_a_long_key_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugins.lock");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = Lockfile::read(&path).unwrap_err();
        assert!(matches!(error, LockfileError::Malformed { .. }), "{error}");
        assert!(error.to_string().ends_with(": it is 1099511627776 bytes long; the maximum is 1048576 (1 MiB)"), "{error}");
        std::fs::write(&path, format!("version = 1\n{} = 1", "k".repeat(200_000))).unwrap();
        let error = Lockfile::read(&path).unwrap_err().to_string();
        assert!(error.contains("unknown field `kkk") && error.len() < 500, "{} bytes", error.len());
    }

    #[test]
    fn anything_but_a_file_is_refused_with_a_hint_for_lock_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugins.lock");
        std::fs::create_dir(&path).unwrap();
        let Err(LockfileError::Unusable { fault, .. }) = Lockfile::read(&path) else { panic!("it was read") };
        assert_eq!(fault.fix, format!("move {} away; run lorchestra plugins lock to create it again", path.display()));
    }
}
