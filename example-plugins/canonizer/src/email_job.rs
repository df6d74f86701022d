//! The job `canonicalize_email`: its parameter, and the conversion of lines to Email objects. [`canonicalization`] does the rest.

use crate::canonicalization::{
    self, Canonicalization, CanonicalizationError, Converter, InputLine, Reason, Request, catch_panic,
};
use crate::email::Email;
use crate::key::Key;
use crate::kind::{EMAIL, Kind};
use crate::record::Record;
use lorchestra_plugin_api::prelude::*;
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
        run.each_line(files, |run, line| self.convert(run, line))
    }
}

impl EmailConverter {
    fn convert(
        &mut self,
        run: &mut Canonicalization<'_>,
        line: &InputLine<'_>,
    ) -> Result<Result<(), Reason>, CanonicalizationError> {
        let record = match Record::parse(line.bytes) {
            Ok(record) => record,
            Err(fault) => return Ok(Err(fault.reason())),
        };
        let keys = [Some(record.key), record.second_key];
        if keys.iter().flatten().any(|key| self.known.contains(key)) {
            run.counts.duplicates += 1;
            return Ok(Ok(()));
        }
        let email = match catch_panic(|| Email::of(&record)) {
            Some(Ok(email)) => email,
            Some(Err(refusal)) => return Ok(Err(refusal.reason())),
            None => return Ok(Err("parser_panicked")),
        };
        run.output.result(&email)?;
        self.known.extend(keys.into_iter().flatten());
        run.counts.written += 1;
        run.counts.bytes += record.size() as u64;
        Ok(Ok(()))
    }
}
