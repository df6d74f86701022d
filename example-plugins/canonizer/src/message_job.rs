//! The job `canonicalize_message`: its parameter, and the conversion of lines to chat messages. [`canonicalization`] does the rest.
//!
//! The job reads the files twice. The first pass finds the newest line of each message and the names of users; it keeps a 32-byte key,
//! the version and the number of each line in memory. The second pass converts the newest lines.

use crate::canonicalization::{
    self, Canonicalization, CanonicalizationError, Converter, InputLine, Reason, Request, catch_panic,
};
use crate::directory::Directory;
use crate::key::Key;
use crate::kind::{Kind, MESSAGE};
use crate::message::Message;
use crate::slack::{Post, Version};
use lorchestra_plugin_api::prelude::*;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Convert the chat messages of ingester/extract_slack to one schema.
///
/// Reads the JSON Lines of that job and writes `message.jsonl` to the package's data directory, one object per message, in its latest
/// version. `message.schema.json` next to it describes the objects. The file is replaced as a whole at the end: a run that fails or
/// is killed leaves the previous one unchanged.
///
/// A line that cannot be converted is reported in a `canonicalization.set_aside` event and stored in `message_set_aside.jsonl`, and
/// the job continues.
#[job]
pub fn canonicalize_message(
    cx: &JobContext,
    /// JSON Lines file, or a directory of such files [default: everything that ingester has extracted]
    input: Option<PathBuf>,
) -> JobResult {
    let request = Request { input, default_input: cx.package_data_dir("ingester")?.join("slack"), data_dir: cx.data_dir()? };
    match canonicalization::run(&request, MessageConverter::default(), cx) {
        Ok(()) => Ok(()),
        // Retrying would fail in the same way.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}

/// Several lines may be versions of one message. The newest becomes the object; of equal versions, the last line.
#[derive(Default)]
pub(crate) struct MessageConverter {
    newest: HashMap<Key, Newest>,
    directory: Directory,
}

/// The newest line of a message so far.
struct Newest {
    version: Version,
    number: u64,
}

impl Converter for MessageConverter {
    fn kind(&self) -> &'static Kind {
        &MESSAGE
    }

    fn canonicalize(mut self, files: &[PathBuf], run: &mut Canonicalization<'_>) -> Result<(), CanonicalizationError> {
        self.survey(files, run)?;
        self.write(files, run)
    }
}

impl MessageConverter {
    /// The first pass.
    fn survey(&mut self, files: &[PathBuf], run: &mut Canonicalization<'_>) -> Result<(), CanonicalizationError> {
        run.each_line(files, |run, line| Ok(self.look(run, line)))
    }

    /// The second pass.
    fn write(self, files: &[PathBuf], run: &mut Canonicalization<'_>) -> Result<(), CanonicalizationError> {
        let Self { newest, directory } = self;
        let mut numbers: Vec<u64> = newest.into_values().map(|newest| newest.number).collect();
        numbers.sort_unstable();
        run.again(files, &numbers, |run, line| {
            let Some(Ok(post)) = catch_panic(|| Post::parse(line.bytes)) else { return Ok(false) };
            run.output.result(&Message::of(post, &directory))?;
            run.counts.written += 1;
            run.counts.bytes += line.bytes.len() as u64;
            Ok(true)
        })
    }

    fn look(&mut self, run: &mut Canonicalization<'_>, line: &InputLine<'_>) -> Result<(), Reason> {
        let post = match catch_panic(|| Post::parse(line.bytes)) {
            Some(Ok(post)) => post,
            Some(Err(fault)) => return Err(fault.reason()),
            None => return Err("parser_panicked"),
        };
        self.directory.learn(&post);
        let newest = Newest { version: post.version(), number: line.number };
        match self.newest.entry(Key::of(post.id().as_bytes())) {
            Entry::Vacant(entry) => drop(entry.insert(newest)),
            Entry::Occupied(mut entry) => {
                run.counts.duplicates += 1;
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
