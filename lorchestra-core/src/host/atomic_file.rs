//! Files that a user names as output, and files of ours that may be links: a reader sees the old contents or the complete new ones.
//!
//! [`OutputFile`] writes to a temporary file in the same directory, which replaces the file at the end. So it decides first what the path
//! is, because a rename would replace whatever is there:
//!
//! - a regular file, or nothing: replaced or created by the rename;
//! - a symbolic link: what it leads to is replaced or created, and the link stays;
//! - a device, a FIFO, or an open file of a process (`/dev/stdout`, `/dev/fd/3`): written to directly, as the shell does.

use rustix::fs::{Mode, OFlags};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Maximum number of links to follow, as in the kernel.
const MAX_LINKS: usize = 40;
/// The type of `/proc` in statfs(2).
const PROC: rustix::fs::FsWord = 0x9fa0;

/// A file that is being written.
#[derive(Debug)]
pub struct OutputFile(OutputKind);

#[derive(Debug)]
enum OutputKind {
    /// Replaces the file at the path when it is complete.
    Replacing(NamedTempFile, PathBuf),
    /// A device, a FIFO or an open file.
    Direct(File),
}

impl OutputFile {
    /// Begins a file with these permissions. Waits for a reader if the path is a FIFO.
    ///
    /// # Errors
    /// If a directory is there, a link leads nowhere, or the system refuses to create the temporary file or to open a special file.
    pub fn create(path: &Path, permissions: Permissions) -> io::Result<Self> {
        let path = match resolve(path)? {
            ResolvedPath::Opened(file) => return Ok(Self(OutputKind::Direct(file))),
            ResolvedPath::Regular(path) => path,
        };
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Whoever could read the file before can read it afterwards; and the umask does not take away what the caller needs.
        let before = fs::metadata(&path).map_or(0, |meta| meta.mode() & 0o777);
        let permissions = Permissions::from_mode(permissions.mode() | before);
        // Opened here, because errors of `tempfile_in` have the path of the temporary file, which the user has never seen.
        let open = |path: &Path| File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = tempfile::Builder::new().prefix(".lorchestra-").make_in(dir, open)?;
        file.as_file().set_permissions(permissions)?;
        Ok(Self(OutputKind::Replacing(file, path)))
    }

    /// Gives the complete file its name. It survives power loss after this returns. Returns whether there is such a file: otherwise
    /// everything went to a device, a FIFO or an open file.
    ///
    /// # Errors
    /// If the data cannot reach the disk, or the rename fails. The previous file then is as it was.
    pub fn finish(self) -> io::Result<bool> {
        match self.0 {
            OutputKind::Direct(mut file) => file.flush().map(|()| false),
            OutputKind::Replacing(file, path) => {
                file.as_file().sync_all()?;
                file.persist(&path).map_err(|error| error.error)?;
                let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
                // A directory may be writable but not readable, and some file systems cannot sync one.
                let Ok(dir) = File::open(dir) else { return Ok(true) };
                match dir.sync_all() {
                    Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
                    _ => Ok(true),
                }
            }
        }
    }

    /// Writes a whole file. Returns what [`finish`](Self::finish) returns.
    ///
    /// # Errors
    /// Those of [`create`](Self::create) and [`finish`](Self::finish), and those of writing.
    pub fn write_whole(path: &Path, permissions: Permissions, content: &[u8]) -> io::Result<bool> {
        let mut file = Self::create(path, permissions)?;
        file.write_all(content)?;
        file.finish()
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            // Not by the temporary file itself, whose errors have its path.
            OutputKind::Replacing(file, _) => file.as_file_mut().write(bytes),
            OutputKind::Direct(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            OutputKind::Replacing(file, _) => file.as_file_mut().flush(),
            OutputKind::Direct(file) => file.flush(),
        }
    }
}

/// What a path leads to.
enum ResolvedPath {
    /// A regular file, or nothing yet.
    Regular(PathBuf),
    /// Something else, opened for writing.
    Opened(File),
}

fn resolve(path: &Path) -> io::Result<ResolvedPath> {
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        let meta = match fs::symlink_metadata(&at) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ResolvedPath::Regular(at)),
            Err(error) => return Err(error),
        };
        let kind = meta.file_type();
        if kind.is_file() {
            return Ok(ResolvedPath::Regular(at));
        }
        if (kind.is_symlink() || kind.is_fifo()) && is_trap(&at, &meta) {
            return Err(rustix::io::Errno::ACCESS.into());
        }
        if kind.is_dir() {
            return Err(rustix::io::Errno::ISDIR.into());
        }
        if !kind.is_symlink() {
            return open_special(&at).map(ResolvedPath::Opened);
        }
        let dir = at.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if rustix::fs::statfs(dir).is_ok_and(|file_system| file_system.f_type == PROC) {
            return open_descriptor(&at, dir).map(ResolvedPath::Opened);
        }
        at = dir.join(fs::read_link(&at)?);
    }
    Err(rustix::io::Errno::LOOP.into())
}

/// Whether someone else may have put a link or a FIFO into a directory like `/tmp`, to redirect what is written: the rule of
/// `fs.protected_symlinks` and `fs.protected_fifos`, which the kernel cannot apply to a link that is read.
fn is_trap(path: &Path, meta: &Metadata) -> bool {
    const STICKY_FOR_ALL: u32 = 0o1002;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_shared = |dir: &Metadata| dir.mode() & STICKY_FOR_ALL == STICKY_FOR_ALL && dir.uid() != meta.uid();
    meta.uid() != rustix::process::geteuid().as_raw() && fs::metadata(dir).is_ok_and(|dir| is_shared(&dir))
}

/// Opens a device or a FIFO. Never makes a terminal the controlling terminal.
fn open_special(path: &Path) -> io::Result<File> {
    Ok(File::from(rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?))
}

/// Opens a file that a process has open, by its link in `/proc/<pid>/fd`. The text of the link may be no path (`pipe:[123]`), or the path of
/// a file that now is another one.
fn open_descriptor(link: &Path, dir: &Path) -> io::Result<File> {
    let is_own = fs::canonicalize("/proc/self/fd").is_ok_and(|own| fs::canonicalize(dir).is_ok_and(|dir| dir == own));
    // Shared rather than opened again: a socket cannot be opened, and for a file the shell's position counts.
    match link.file_name().and_then(|name| name.to_str()) {
        Some("1") if is_own => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        Some("2") if is_own => io::stderr().as_fd().try_clone_to_owned().map(File::from),
        _ => {
            let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOCTTY;
            Ok(File::from(rustix::fs::open(link, flags, Mode::empty())?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::{chown, symlink};

    fn private() -> Permissions {
        Permissions::from_mode(0o600)
    }

    fn write(path: &Path, text: &str) -> io::Result<bool> {
        OutputFile::write_whole(path, private(), text.as_bytes())
    }

    #[test]
    fn a_regular_file_is_replaced_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "old").unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        let mut file = OutputFile::create(&path, Permissions::from_mode(0o644)).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        file.finish().unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), meta.mode() & 0o777), ("new", 0o644));
        assert_ne!(meta.ino(), before);
        drop(OutputFile::create(&path, private()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left of a file that was not finished");
    }

    #[test]
    fn a_link_stays_and_its_target_is_replaced_or_created() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::create_dir(dir.path().join("links")).unwrap();
        let target = dir.path().join("below/target");
        // Relative to the link's directory, and over another link.
        let link = dir.path().join("links/link");
        symlink("../second", &link).unwrap();
        symlink("below/target", dir.path().join("second")).unwrap();
        for text in ["created", "replaced"] {
            assert!(write(&link, text).unwrap());
            assert_eq!(fs::read_to_string(&target).unwrap(), text);
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && fs::symlink_metadata(&target).unwrap().is_file());
        }
        let around = dir.path().join("around");
        symlink("around", &around).unwrap();
        assert_eq!(write(&around, "").unwrap_err().raw_os_error(), Some(rustix::io::Errno::LOOP.raw_os_error()));
        let nowhere = dir.path().join("nowhere");
        symlink("missing/target", &nowhere).unwrap();
        let missing = write(&nowhere, "").unwrap_err();
        assert_eq!((missing.kind(), missing.raw_os_error()), (io::ErrorKind::NotFound, Some(2)), "{missing}");
        assert_eq!(write(dir.path(), "").unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn the_permissions_are_those_asked_for_and_those_before() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o777;
        OutputFile::write_whole(&dir.path().join("open"), Permissions::from_mode(0o666), b"").unwrap();
        assert_eq!(mode("open"), 0o666, "whatever the umask is");
        fs::write(dir.path().join("page"), "old").unwrap();
        fs::set_permissions(dir.path().join("page"), Permissions::from_mode(0o644)).unwrap();
        write(&dir.path().join("page"), "new").unwrap();
        assert_eq!(mode("page"), 0o644);
    }

    /// Needs root, to make another user's link.
    #[test]
    fn links_and_fifos_of_others_in_a_directory_for_all_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
        let (link, target, fifo) = (dir.path().join("link"), dir.path().join("target"), dir.path().join("fifo"));
        fs::write(&target, "mine").unwrap();
        symlink(&target, &link).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
            chown(&fifo, Some(65534), None).unwrap();
            for path in [&link, &fifo] {
                assert_eq!(write(path, "theirs").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            }
            fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        }
        write(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    }

    #[test]
    fn a_fifo_and_a_device_are_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        symlink("fifo", dir.path().join("link")).unwrap();
        for name in ["fifo", "link"] {
            let reader = {
                let fifo = fifo.clone();
                std::thread::spawn(move || {
                    let mut text = String::new();
                    File::open(fifo).unwrap().read_to_string(&mut text).unwrap();
                    text
                })
            };
            assert!(!write(&dir.path().join(name), "through it").unwrap());
            assert_eq!(reader.join().unwrap(), "through it", "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        // A link to the device, so that a mistake replaces the link and not the machine's device.
        let null = dir.path().join("null");
        symlink("/dev/null", &null).unwrap();
        write(&null, "gone").unwrap();
        assert!(fs::symlink_metadata(&null).unwrap().is_symlink());
    }

    /// The name of the file that is open says nothing: it may be a pipe, or have been replaced.
    #[test]
    fn an_open_file_is_written_to_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "before\n").unwrap();
        let open = File::options().append(true).open(&path).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let by_number = |fd: &dyn std::os::fd::AsRawFd| PathBuf::from(format!("/dev/fd/{}", fd.as_raw_fd()));
        write(&by_number(&open), "after\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\nafter\n");
        write(&by_number(&writer), "piped").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "piped");
    }
}
