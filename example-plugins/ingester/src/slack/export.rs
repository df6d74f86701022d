//! A workspace export: the zip from Slack, read without unpacking it.
//!
//! It contains lists of users and channels, and for each channel a directory with one JSON file per day. At most one such file
//! is in memory, of at most [`MAX_FILE`] bytes. Reading stops if the zip unpacks to an excessive size.

use super::found::{Channel, Found, People, person};
use lorchestra_plugin_api::serde_json::{self, Value};
use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use zip::ZipArchive;
use zip::result::ZipError;

/// Maximum size of a file in the zip, in bytes. A day of a channel has a few megabytes.
const MAX_FILE: u64 = 128 << 20;
/// Maximum compression ratio. JSON typically compresses 20:1, and very repetitive JSON 100:1.
const MAX_RATIO: u64 = 200;
/// Unpacked size in bytes that is always allowed.
const FREE: u64 = 16 << 20;
/// The channel lists, with the field that names their directories.
const LISTS: [(&str, &str); 4] = [("channels.json", "name"), ("groups.json", "name"), ("mpims.json", "name"), ("dms.json", "id")];

/// Why an export cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("{}: cannot open it; set --source to the zip from Slack, and check that the user running the job may read it", .path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{}: is a directory; set --source to the zip itself, not to the unpacked files", .path.display())]
    Directory { path: PathBuf },
    #[error("{}: is not a zip file or is incomplete; check that the download finished", .path.display())]
    NotAZip { path: PathBuf },
    #[error("{}: has no channels.json and users.json; set --source to the zip that Slack creates under Settings, Import/Export Data", .path.display())]
    NotAnExport { path: PathBuf },
    #[error("{}: {file:?} in it exceeds the limit of {limit} MiB when unpacked; this is not an export from Slack", .path.display())]
    Bomb { path: PathBuf, file: String, limit: u64 },
    #[error("{}: {file:?} in it is corrupt; download the export again", .path.display())]
    Damaged { path: PathBuf, file: String, source: io::Error },
}

/// A file of the export that could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) file: String,
}

/// An opened export.
pub(crate) struct Export {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
    /// Remaining number of bytes that may be unpacked.
    budget: u64,
    people: People,
    /// Channels by directory.
    channels: HashMap<String, Rc<Channel>>,
    /// Files, one per channel and day: directory, and index in the zip.
    days: VecDeque<(String, usize)>,
    total: u64,
    channel: Option<Rc<Channel>>,
    messages: VecDeque<Value>,
}

impl Export {
    /// Opens the export and reads the users and channels.
    pub(crate) fn open(path: &Path) -> Result<Self, ExportError> {
        let owned = || path.to_owned();
        let unopened = |source| ExportError::Open { path: owned(), source };
        let metadata = fs::metadata(path).map_err(unopened)?;
        if metadata.is_dir() {
            return Err(ExportError::Directory { path: owned() });
        }
        if !metadata.is_file() {
            return Err(ExportError::NotAZip { path: owned() });
        }
        let file = File::open(path).map_err(unopened)?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|_| ExportError::NotAZip { path: owned() })?;
        let mut export = Self {
            path: owned(),
            zip,
            budget: FREE.saturating_add(metadata.len().saturating_mul(MAX_RATIO)),
            people: People::new(),
            channels: HashMap::new(),
            days: VecDeque::new(),
            total: 0,
            channel: None,
            messages: VecDeque::new(),
        };
        let (Some(people), Some(_)) = (export.list("users.json")?, export.zip.index_for_name("channels.json")) else {
            return Err(ExportError::NotAnExport { path: owned() });
        };
        export.people = people.iter().filter_map(person).collect();
        for (file, directory) in LISTS {
            for channel in export.list(file)?.unwrap_or_default() {
                let (Some(id), Some(directory)) = (channel["id"].as_str(), channel[directory].as_str()) else { continue };
                let name = channel["name"].as_str().unwrap_or(id).to_owned();
                export.channels.insert(directory.to_owned(), Rc::new(Channel { id: id.to_owned(), name }));
            }
        }
        let mut days: Vec<(String, String, usize)> = (0..export.zip.len())
            .filter_map(|at| {
                let name = export.zip.name_for_index(at)?.ok()?;
                let (directory, day) = name.split_once('/')?;
                let is_day = day.strip_suffix(".json").is_some_and(|day| day.starts_with(|c: char| c.is_ascii_digit()));
                is_day.then(|| (directory.to_owned(), day.to_owned(), at))
            })
            .collect();
        days.sort();
        export.total = days.len() as u64;
        export.days = days.into_iter().map(|(directory, _, at)| (directory, at)).collect();
        Ok(export)
    }

    /// Returns the users.
    pub(crate) fn people(&self) -> &People {
        &self.people
    }

    /// Returns the number of files read, and the total.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.total - self.days.len() as u64, self.total)
    }

    /// Returns the next message, or a file that contains none. `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Result<Found, Unreadable>>, ExportError> {
        loop {
            if let (Some(message), Some(channel)) = (self.messages.pop_front(), &self.channel) {
                // A value that is not an object has no ts, and is counted as such.
                let message = message.as_object().cloned().unwrap_or_default();
                return Ok(Some(Ok(Found { channel: Rc::clone(channel), message })));
            }
            let Some((directory, at)) = self.days.pop_front() else { return Ok(None) };
            let (file, bytes) = self.read(at)?;
            let Ok(messages) = serde_json::from_slice::<VecDeque<Value>>(&bytes) else {
                return Ok(Some(Err(Unreadable { file })));
            };
            self.messages = messages;
            // A directory that is in no list: only its name is known.
            let channel = self.channels.entry(directory.clone());
            self.channel =
                Some(Rc::clone(channel.or_insert_with(|| Rc::new(Channel { id: directory.clone(), name: directory }))));
        }
    }

    /// Reads a list at the top level of the zip; `None` if it does not exist.
    fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, ExportError> {
        let Some(at) = self.zip.index_for_name(name) else { return Ok(None) };
        let (file, bytes) = self.read(at)?;
        let damaged = |e: serde_json::Error| ExportError::Damaged { path: self.path.clone(), file, source: e.into() };
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    fn read(&mut self, at: usize) -> Result<(String, Vec<u8>), ExportError> {
        let limit = MAX_FILE.min(self.budget);
        let file = self.zip.name_for_index(at).and_then(Result::ok).unwrap_or_default().into_owned();
        let damaged = |source| ExportError::Damaged { path: self.path.clone(), file: file.clone(), source };
        let mut bytes = Vec::new();
        let entry = self.zip.by_index(at).map_err(|e| match e {
            ZipError::Io(source) => damaged(source),
            other => damaged(io::Error::other(other)),
        })?;
        // The sizes in the zip's directory are not trusted.
        entry.take(limit + 1).read_to_end(&mut bytes).map_err(damaged)?;
        if bytes.len() as u64 > limit {
            return Err(ExportError::Bomb { path: self.path.clone(), file, limit: limit >> 20 });
        }
        self.budget -= bytes.len() as u64;
        Ok((file, bytes))
    }
}
