//! The job `canonicalize_email`: its parameter, and the conversion of lines to Email objects. [`canonicalization`] does the rest.

use crate::canonicalization::{
    self, BatchLine, Canonicalization, CanonicalizationError, Converter, Reason, Request, catch_panic,
};
use crate::email::Email;
use crate::key::Key;
use crate::kind::{EMAIL, Kind};
use crate::mime::Refusal;
use crate::parallel::Workers;
use crate::record::{Record, RecordFault};
use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::serde_json;
use std::collections::HashSet;

/// Convert the mail of ingester/extract_gmail to JMAP Email objects (RFC 8621).
///
/// Reads the JSON Lines of that job, and messages of the Gmail API (one `users.messages` object per line, in the formats full and raw).
/// Writes `email.jsonl` to the package's data directory, one object per message, without duplicates. `email.schema.json` next to it
/// describes the objects. The file is replaced as a whole at the end: a run that fails or is killed leaves the previous one unchanged.
///
/// A line that cannot be converted is reported in a `canonicalization.set_aside` event and stored in `set_aside.jsonl`, and the job
/// continues.
#[job]
pub fn canonicalize_email(
    cx: &JobContext,
    /// JSON Lines file, or a directory of such files [default: everything that ingester has extracted]
    input: Option<PathBuf>,
) -> JobResult {
    let request = Request { input, default_input: cx.package_data_dir("ingester")?.join("mail"), data_dir: cx.data_dir()? };
    match canonicalization::run(&request, EmailConverter::default(), cx) {
        Ok(()) => Ok(()),
        // Retrying would fail in the same way.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}

/// Each line is one message and becomes one object. Of duplicates, the first is used.
#[derive(Default)]
pub(crate) struct EmailConverter {
    /// Keys of the messages written so far.
    known: HashSet<Key>,
}

impl Converter for EmailConverter {
    fn kind(&self) -> &'static Kind {
        &EMAIL
    }

    fn canonicalize(mut self, files: &[PathBuf], run: &mut Canonicalization<'_>) -> Result<(), CanonicalizationError> {
        let workers = Workers::start();
        run.each_batch(files, |run, batch| {
            let converted = workers.map(batch, |line| Converted::of(line, &self.known));
            converted.into_iter().map(|converted| self.take(run, converted)).collect()
        })
    }
}

impl EmailConverter {
    /// Writes the object of a line, if there is none of the same message.
    fn take(
        &mut self,
        run: &mut Canonicalization<'_>,
        converted: Result<Converted, Reason>,
    ) -> Result<Result<(), Reason>, CanonicalizationError> {
        let Converted { keys, size, email } = match converted {
            Ok(converted) => converted,
            Err(reason) => return Ok(Err(reason)),
        };
        if keys.iter().flatten().any(|key| self.known.contains(key)) {
            run.counts.duplicates += 1;
            return Ok(Ok(()));
        }
        match email {
            Ok(email) => run.output.result_json(&email)?,
            Err(reason) => return Ok(Err(reason)),
        }
        self.known.extend(keys.into_iter().flatten());
        run.counts.written += 1;
        run.counts.bytes += size;
        Ok(Ok(()))
    }
}

/// A line that is a message.
struct Converted {
    keys: [Option<Key>; 2],
    /// Size of the message, in bytes.
    size: u64,
    /// The object as JSON; empty if the message was known before.
    email: Result<Vec<u8>, Reason>,
}

impl Converted {
    fn of(line: &BatchLine, known: &HashSet<Key>) -> Result<Self, Reason> {
        let record = catch_panic(|| Record::parse(line.whole()?).map_err(RecordFault::reason)).ok_or(PANICKED)??;
        let keys = [Some(record.key), record.second_key];
        let email = if keys.iter().flatten().any(|key| known.contains(key)) {
            Ok(Vec::new())
        } else {
            let json = |email: &Email| serde_json::to_vec(email).map_err(|_| PANICKED);
            catch_panic(|| Email::of(&record).map_err(Refusal::reason).and_then(|email| json(&email))).unwrap_or(Err(PANICKED))
        };
        Ok(Self { keys, size: record.size() as u64, email })
    }
}

/// Reason for a message on which a parser has panicked.
const PANICKED: Reason = "parser_panicked";
