//! Files that a user names as output, and files of ours that may be links: a reader sees the old contents or the complete new ones.
//!
//! [`OutputFile`] writes to a temporary file in the same directory, which replaces the file at the end. Where the file system can, that file
//! has no name until it is complete, so that a process that is killed leaves nothing. [`OutputFile`] decides first what the path is, because
//! a rename would replace whatever is there:
//!
//! - a regular file, or nothing: replaced or created by the rename;
//! - a symbolic link: what it leads to is replaced or created, and the link stays;
//! - a device or a FIFO: written to directly, as the shell does;
//! - an open file of this process (`/dev/stdout`, `/dev/fd/3`): written to through that descriptor, from where it is.
//!
//! A file that cannot be replaced is overwritten in place: one in a directory that this process may not write, and one on which a file is
//! mounted, as in a container. Then a reader may see a part of it, and a kill may leave a part of it.

use super::process;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Seek, Write};
use std::os::fd::AsRawFd;
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
    /// Gets a name when it is complete, and then replaces the file at the path.
    Unnamed(File, PathBuf),
    /// Replaces the file at the path when it is complete.
    Named(NamedTempFile, PathBuf),
    /// The file itself, which cannot be replaced.
    InPlace(File),
    /// A device, a FIFO or an open file.
    Direct(File),
}

impl OutputFile {
    /// Begins a file with these permissions. Waits for a reader if the path is a FIFO.
    ///
    /// # Errors
    /// If a directory is there, a link leads nowhere, or the system refuses to create the temporary file, or to open the file or the special
    /// file that is there.
    pub fn create(path: &Path, permissions: Permissions) -> io::Result<Self> {
        let path = match resolve(path)? {
            ResolvedPath::Opened(file) => return Ok(Self(OutputKind::Direct(file))),
            ResolvedPath::Regular(path) => path,
        };
        // Whoever could read the file before can read it afterwards; and the umask does not take away what the caller needs.
        let before = fs::metadata(&path).ok().map(|meta| meta.mode() & 0o777);
        let permissions = Permissions::from_mode(permissions.mode() | before.unwrap_or(0));
        let kind = match unnamed(parent(&path)) {
            Ok(Some(file)) => OutputKind::Unnamed(file, path),
            Ok(None) => OutputKind::Named(with_name(parent(&path))?, path),
            Err(error) if before.is_some() && is_denied(&error) => {
                return open_in_place(&path).map(OutputKind::InPlace).map(Self);
            }
            Err(error) => return Err(error),
        };
        let this = Self(kind);
        this.file().set_permissions(permissions)?;
        Ok(this)
    }

    fn file(&self) -> &File {
        match &self.0 {
            OutputKind::Unnamed(file, _) | OutputKind::InPlace(file) | OutputKind::Direct(file) => file,
            OutputKind::Named(file, _) => file.as_file(),
        }
    }

    /// Gives the complete file its name. It survives power loss after this returns. Returns whether there is such a file: otherwise
    /// everything went to a device, a FIFO or an open file.
    ///
    /// # Errors
    /// If the data cannot reach the disk, or the rename fails. The previous file then is as it was, unless it was overwritten in place.
    pub fn finish(self) -> io::Result<bool> {
        let (file, path) = match self.0 {
            OutputKind::Direct(mut file) => return file.flush().map(|()| false),
            OutputKind::InPlace(file) => return file.sync_all().map(|()| true),
            OutputKind::Named(file, path) => {
                file.as_file().sync_all()?;
                (file, path)
            }
            OutputKind::Unnamed(file, path) => {
                file.sync_all()?;
                (named(file, &path)?, path)
            }
        };
        if let Err(error) = file.persist(&path) {
            // A file is mounted there.
            return if error.error.kind() == io::ErrorKind::ResourceBusy {
                copy_over(error.file, &path)
            } else {
                Err(error.error)
            };
        }
        // A directory may be writable but not readable, and some file systems cannot sync one.
        let Ok(dir) = File::open(parent(&path)) else { return Ok(true) };
        match dir.sync_all() {
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
            _ => Ok(true),
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
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

/// The result of writing a file, for a command that ends without an error if the reader of a pipe has left, as it does if its standard output
/// is that pipe.
///
/// # Errors
/// Any other error.
pub fn unless_reader_left(written: io::Result<bool>) -> io::Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other,
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".lorchestra-");
    builder
}

/// Whether a directory cannot be written, though a file in it may be.
fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Creates a file in a directory that has no name and is gone when it is closed. `None` if the file system has no such files, or there is no
/// `/proc` by which it gets its name.
fn unnamed(dir: &Path) -> io::Result<Option<File>> {
    use rustix::io::Errno;
    match rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(Some(File::from(file)).filter(|file| by_descriptor(file).exists())),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Creates a temporary file with a name. Opened here, because errors of `tempfile_in` have the path of the temporary file, which the user has
/// never seen.
fn with_name(dir: &Path) -> io::Result<NamedTempFile> {
    temporary().make_in(dir, |path| File::options().read(true).write(true).create_new(true).mode(0o600).open(path))
}

fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Gives an unnamed file a name next to a path.
fn named(file: File, path: &Path) -> io::Result<NamedTempFile> {
    let link = |to: &Path| Ok(rustix::fs::linkat(CWD, by_descriptor(&file), CWD, to, AtFlags::SYMLINK_FOLLOW)?);
    let (_, name) = temporary().make_in(parent(path), link)?.into_parts();
    Ok(NamedTempFile::from_parts(file, name))
}

fn open_in_place(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Overwrites a file with a temporary one, which loses its name first.
fn copy_over(from: NamedTempFile, path: &Path) -> io::Result<bool> {
    let (mut from, name) = from.into_parts();
    drop(name);
    from.rewind()?;
    let mut to = open_in_place(path)?;
    io::copy(&mut from, &mut to)?;
    to.sync_all().map(|()| true)
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
        let dir = parent(&at);
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
    let dir = parent(path);
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
    if let Some(number) = link.file_name().and_then(|name| name.to_str()?.parse().ok()).filter(|_| is_own) {
        // Shared rather than opened again: a socket cannot be opened, and for a file the shell's position counts.
        let shared = process::inherited(number).map(File::from);
        if !shared.as_ref().is_err_and(is_filtered) {
            return shared;
        }
    }
    open_link(link)
}

/// Whether a system call was refused as such: filters of system calls (systemd's `@system-service`, Docker's) do not know `pidfd_getfd`.
fn is_filtered(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::PERM, Errno::NOSYS].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Opens what a link in `/proc/<pid>/fd` leads to again. The position is not shared, so text is appended.
fn open_link(link: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(link, flags, Mode::empty())?))
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
        let entries = || fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(entries(), if unnamed(dir.path()).unwrap().is_some() { 1 } else { 2 }, "a kill would leave nothing");
        file.finish().unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), meta.mode() & 0o777), ("new", 0o644));
        assert_ne!(meta.ino(), before);
        drop(OutputFile::create(&path, private()).unwrap());
        assert_eq!(entries(), 1, "nothing is left of a file that was not finished");
        // As on a file system without unnamed files, and over a mounted file.
        for copied in [false, true] {
            let mut file = with_name(dir.path()).unwrap();
            file.write_all(format!("named {copied}").as_bytes()).unwrap();
            let before = fs::metadata(&path).unwrap().ino();
            assert!(
                if copied { copy_over(file, &path) } else { OutputFile(OutputKind::Named(file, path.clone())).finish() }.unwrap()
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("named {copied}"));
            assert_eq!((fs::metadata(&path).unwrap().ino() == before, entries()), (copied, 1));
        }
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

    /// Filters of system calls refuse `pidfd_getfd` with one of two errors; an unknown descriptor has another.
    #[test]
    fn a_descriptor_that_a_filter_does_not_share_is_opened() {
        use rustix::io::Errno;
        let filtered = [Errno::PERM, Errno::NOSYS, Errno::BADF, Errno::IO].map(|errno| is_filtered(&errno.into()));
        assert_eq!(filtered, [true, true, false, false]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "before\n").unwrap();
        let open = File::options().write(true).open(&path).unwrap();
        let link = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        open_link(&link).unwrap().write_all(b"after\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\nafter\n");
        let (mut reader, writer) = io::pipe().unwrap();
        let link = PathBuf::from(format!("/proc/self/fd/{}", writer.as_raw_fd()));
        open_link(&link).unwrap().write_all(b"piped").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "piped");
    }

    /// The name of the file that is open says nothing: it may be a pipe, or have been replaced.
    #[test]
    fn an_open_file_is_written_to_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "before\nand the rest\n").unwrap();
        let mut open = File::options().write(true).open(&path).unwrap();
        open.seek(io::SeekFrom::Start(7)).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let by_number = |fd: &dyn AsRawFd| PathBuf::from(format!("/dev/fd/{}", fd.as_raw_fd()));
        // Standard library descriptors are closed by exec, as lorchestra's own are: its database is not an output.
        assert_eq!(write(&by_number(&open), "x").unwrap_err().raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
        for fd in [&open as &dyn std::os::fd::AsFd, &writer] {
            rustix::io::fcntl_setfd(fd.as_fd(), rustix::io::FdFlags::empty()).unwrap();
        }
        write(&by_number(&open), "after\n").unwrap();
        write(&by_number(&open), "it\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\nafter\nit\nest\n");
        write(&by_number(&writer), "piped").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "piped");
        drop(reader);
        let (reader, writer) = io::pipe().unwrap();
        rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
        drop(reader);
        let left = write(&by_number(&writer), "nobody reads this");
        assert_eq!(left.as_ref().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(!unless_reader_left(left).unwrap());
    }
}
