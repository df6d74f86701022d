//! The job `canonicalize_message`: its parameter, and how lines become messages of a chat. [`canonicalization`] does the rest.
//!
//! The files are read twice. The first time tells which line of a message is the newest, and what people are called; what is
//! kept of a line is 32 bytes of key, its version and its number. The second time the newest lines become objects.

use crate::canonicalization::{self, CanonicalizationError, Course, Form, Found, Reason, Request, guarded};
use crate::directory::Directory;
use crate::key::Key;
use crate::kind::{Kind, MESSAGE};
use crate::message::Message;
use crate::slack::{Post, Version};
use lorchestra_plugin_api::prelude::*;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Canonicalize chat: messages of one schema of all that ingester/extract_slack left.
///
/// Reads its JSON Lines and writes `message.jsonl` into the package's data directory, one object a message, as it is after the
/// last change; `message.schema.json` beside it says what is in them. The file is replaced as a whole at the end: a run that
/// fails or is killed leaves the old one.
///
/// What cannot be read is named in a `canonicalization.set_aside` event and kept in `message_set_aside.jsonl`; the rest goes on.
#[job]
pub fn canonicalize_message(
    cx: &JobContext,
    /// A file of JSON Lines, or a directory of such; without it, all that ingester has extracted.
    input: Option<PathBuf>,
) -> JobResult {
    let request = Request { input, default_input: cx.package_data_dir("ingester")?.join("slack"), data_dir: cx.data_dir()? };
    match canonicalization::run(&request, MessageForm::default(), cx) {
        Ok(()) => Ok(()),
        // What would fail again is not worth a retry.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}

/// Many lines, one message, one object: the newest line is taken, of equals the last.
#[derive(Default)]
pub(crate) struct MessageForm {
    newest: HashMap<Key, Newest>,
    directory: Directory,
}

/// The newest line of a message so far.
struct Newest {
    version: Version,
    number: u64,
}

impl Form for MessageForm {
    fn kind(&self) -> &'static Kind {
        &MESSAGE
    }

    fn canonicalize(mut self, files: &[PathBuf], course: &mut Course<'_>) -> Result<(), CanonicalizationError> {
        self.survey(files, course)?;
        self.write(files, course)
    }
}

impl MessageForm {
    /// The first reading.
    fn survey(&mut self, files: &[PathBuf], course: &mut Course<'_>) -> Result<(), CanonicalizationError> {
        course.each_line(files, |course, line| Ok(self.look(course, line)))
    }

    /// The second.
    fn write(self, files: &[PathBuf], course: &mut Course<'_>) -> Result<(), CanonicalizationError> {
        let Self { newest, directory } = self;
        let mut numbers: Vec<u64> = newest.into_values().map(|newest| newest.number).collect();
        numbers.sort_unstable();
        course.again(files, &numbers, |course, line| {
            let Some(Ok(post)) = guarded(|| Post::parse(line.bytes)) else { return Ok(false) };
            course.output.result(&Message::of(post, &directory))?;
            course.counts.written += 1;
            course.counts.bytes += line.bytes.len() as u64;
            Ok(true)
        })
    }

    fn look(&mut self, course: &mut Course<'_>, line: &Found<'_>) -> Result<(), Reason> {
        let post = match guarded(|| Post::parse(line.bytes)) {
            Some(Ok(post)) => post,
            Some(Err(fault)) => return Err(fault.reason()),
            None => return Err("parser_panicked"),
        };
        self.directory.learn(&post);
        let newest = Newest { version: post.version(), number: line.number };
        match self.newest.entry(Key::of(post.id().as_bytes())) {
            Entry::Vacant(entry) => drop(entry.insert(newest)),
            Entry::Occupied(mut entry) => {
                course.counts.duplicates += 1;
                if newest.version >= entry.get().version {
                    entry.insert(newest);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
