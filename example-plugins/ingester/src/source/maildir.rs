//! A Maildir: one file per message, in `new/` (unseen) and `cur/` (flags in the name). Folders inside it (`.Sent`) are
//! separate Maildirs and are not read.

use super::{Entry, Fault, MAX_MESSAGE, Place, SourceError};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The files of a Maildir when it was opened, sorted so that every run reads them in the same order.
pub(crate) struct Maildir {
    root: PathBuf,
    /// Directory and name of each file.
    files: std::vec::IntoIter<(&'static str, std::ffi::OsString)>,
    max_message: usize,
}

impl Maildir {
    /// Lists a Maildir.
    pub(crate) fn open(root: &Path) -> Result<Self, SourceError> {
        if !["cur", "new"].iter().all(|name| root.join(name).is_dir()) {
            return Err(SourceError::NotAMaildir { path: root.to_owned(), hint: hint(root) });
        }
        let mut files = Vec::new();
        for directory in ["cur", "new"] {
            let path = root.join(directory);
            let mut names = Vec::new();
            for entry in fs::read_dir(&path).map_err(|e| SourceError::open(&path, e))? {
                let name = entry.map_err(|e| SourceError::open(&path, e))?.file_name();
                // Servers store their own hidden files there.
                if !name.as_encoded_bytes().starts_with(b".") {
                    names.push(name);
                }
            }
            names.sort();
            files.extend(names.into_iter().map(|name| (directory, name)));
        }
        Ok(Self { root: root.to_owned(), files: files.into_iter(), max_message: MAX_MESSAGE })
    }

    /// Returns the next message, see [`Source::next`](super::Source::next).
    pub(crate) fn next(&mut self, raw: &mut Vec<u8>) -> Option<Entry> {
        raw.clear();
        let (directory, name) = self.files.next()?;
        let shown = name.to_string_lossy();
        let fault = read(&self.root.join(directory).join(&name), raw, self.max_message).err();
        if fault.is_some() {
            raw.clear();
        }
        Some(Entry {
            place: Place::File(format!("{directory}/{shown}")),
            received: None,
            flags: Some(flags(&shown).to_owned()),
            labels: None,
            is_whole: true,
            fault,
        })
    }
}

fn read(path: &Path, raw: &mut Vec<u8>, max: usize) -> Result<(), Fault> {
    let fault = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Gone,
        _ => Fault::Unreadable,
    };
    let metadata = fs::metadata(path).map_err(|e| match fs::symlink_metadata(path) {
        Ok(link) if link.is_symlink() => Fault::NotAFile,
        _ => fault(&e),
    })?;
    if !metadata.is_file() {
        return Err(Fault::NotAFile);
    }
    if metadata.len() > max as u64 {
        return Err(Fault::TooLarge);
    }
    // Read with a limit, in case the file grows.
    let file = File::open(path).map_err(|e| fault(&e))?;
    file.take(max as u64 + 1).read_to_end(raw).map_err(|e| fault(&e))?;
    match raw.len() {
        0 => Err(Fault::Empty),
        n if n > max => Err(Fault::TooLarge),
        _ => Ok(()),
    }
}

/// Returns the letters after `:2,` in a file name.
fn flags(name: &str) -> &str {
    name.rsplit_once(":2,").map_or("", |(_, flags)| flags)
}

/// Suggests what may have been meant by a directory that is not a Maildir, usually the unpacked Takeout directory.
fn hint(root: &Path) -> String {
    let mboxes = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(root.join(directory)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| directory.join(entry.file_name()).display().to_string())
            .filter(|name| name.ends_with(".mbox"))
            .collect();
        names.sort();
        names
    };
    let found = ["", "Mail", "Takeout/Mail"].iter().map(|directory| mboxes(Path::new(directory))).find(|names| !names.is_empty());
    match found.as_deref() {
        Some([one]) => format!("use `{one}` in it"),
        Some([first, rest @ ..]) => format!("use `{first}` or one of {} others in it", rest.len()),
        _ => "use the directory that contains both, or an mbox file".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::os::unix::fs::symlink;

    fn maildir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cur", "new", "tmp"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        dir
    }

    /// Returns name, flags, fault and bytes of each message.
    type Found = (String, Option<String>, Option<Fault>, Vec<u8>);

    fn all(mut maildir: Maildir) -> Vec<Found> {
        let mut raw = b"left over".to_vec();
        std::iter::from_fn(|| {
            let entry = maildir.next(&mut raw)?;
            let Place::File(name) = entry.place else { panic!("a Maildir has files") };
            Some((name, entry.flags, entry.fault, raw.clone()))
        })
        .collect()
    }

    #[test]
    fn files_are_sorted_and_keep_their_flags_and_exact_bytes() {
        let dir = maildir();
        for (name, bytes) in [
            ("cur/2.host:2,RS", &b"B: 2\r\n\r\nFrom x\r\n"[..]),
            ("cur/1.host:2,", b"A: 1\n\n>From x\n\n"),
            ("new/3.host", b"C\xff\0"),
            ("cur/.hidden", b"x"),
            ("tmp/4.host", b"half a message"),
        ] {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let found = all(Maildir::open(dir.path()).unwrap());
        let expected = [
            ("cur/1.host:2,", "", &b"A: 1\n\n>From x\n\n"[..]),
            ("cur/2.host:2,RS", "RS", b"B: 2\r\n\r\nFrom x\r\n"),
            ("new/3.host", "", b"C\xff\0"),
        ]
        .map(|(name, flags, raw)| (name.to_owned(), Some(flags.to_owned()), None, raw.to_vec()));
        assert_eq!(found, expected);
    }

    #[test]
    fn unreadable_files_are_reported_and_the_rest_is_read() {
        let dir = maildir();
        let cur = dir.path().join("cur");
        fs::create_dir(cur.join("1-directory")).unwrap();
        fs::write(cur.join("2-empty"), "").unwrap();
        symlink("nowhere", cur.join("3-dangling")).unwrap();
        fs::write(cur.join("4-large"), "x".repeat(101)).unwrap();
        fs::write(cur.join("5-gone"), "x").unwrap();
        mknodat(CWD, cur.join("6-pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::write(cur.join("7-good"), "x".repeat(100)).unwrap();
        let mut maildir = Maildir::open(dir.path()).unwrap();
        maildir.max_message = 100;
        fs::remove_file(cur.join("5-gone")).unwrap();
        let faults: Vec<_> = all(maildir).into_iter().map(|(.., fault, raw)| (fault, raw.len())).collect();
        assert_eq!(
            faults,
            [
                (Some(Fault::NotAFile), 0),
                (Some(Fault::Empty), 0),
                (Some(Fault::NotAFile), 0),
                (Some(Fault::TooLarge), 0),
                (Some(Fault::Gone), 0),
                (Some(Fault::NotAFile), 0),
                (None, 100),
            ]
        );
    }
}
