//! The job `canonicalize_email`: its parameter, and how lines become Email objects. [`canonicalization`] does the rest.

use crate::canonicalization::{self, CanonicalizationError, Course, Form, Found, Reason, Request, guarded};
use crate::email::Email;
use crate::key::Key;
use crate::kind::{EMAIL, Kind};
use crate::record::Record;
use lorchestra_plugin_api::prelude::*;
use std::collections::HashSet;

/// Canonicalize email: JMAP Email objects (RFC 8621) of all mail that ingester/extract_gmail left.
///
/// Reads its JSON Lines, and messages of the Gmail API (one `users.messages` a line, in the formats full and raw), and writes
/// `email.jsonl` into the package's data directory, one object a message, each message once; `email.schema.json` beside it says
/// what is in them. The file is replaced as a whole at the end: a run that fails or is killed leaves the old one.
///
/// What cannot be read is named in a `canonicalization.set_aside` event and kept in `set_aside.jsonl`; the rest goes on.
#[job]
pub fn canonicalize_email(
    cx: &JobContext,
    /// A file of JSON Lines, or a directory of such; without it, all that ingester has extracted.
    input: Option<PathBuf>,
) -> JobResult {
    let request = Request { input, default_input: cx.package_data_dir("ingester")?.join("mail"), data_dir: cx.data_dir()? };
    match canonicalization::run(&request, EmailForm::default(), cx) {
        Ok(()) => Ok(()),
        // What would fail again is not worth a retry.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}

/// One line, one message, one object; of a message that comes again the first is taken.
#[derive(Default)]
pub(crate) struct EmailForm {
    /// Messages that objects were made of.
    known: HashSet<Key>,
}

impl Form for EmailForm {
    fn kind(&self) -> &'static Kind {
        &EMAIL
    }

    fn canonicalize(mut self, files: &[PathBuf], course: &mut Course<'_>) -> Result<(), CanonicalizationError> {
        course.each_line(files, |course, line| self.take(course, line))
    }
}

impl EmailForm {
    fn take(&mut self, course: &mut Course<'_>, line: &Found<'_>) -> Result<Result<(), Reason>, CanonicalizationError> {
        let record = match Record::parse(line.bytes) {
            Ok(record) => record,
            Err(fault) => return Ok(Err(fault.reason())),
        };
        let keys = [Some(record.key), record.second_key];
        if keys.iter().flatten().any(|key| self.known.contains(key)) {
            course.counts.duplicates += 1;
            return Ok(Ok(()));
        }
        let email = match guarded(|| Email::of(&record)) {
            Some(Ok(email)) => email,
            Some(Err(refusal)) => return Ok(Err(refusal.reason())),
            None => return Ok(Err("parser_panicked")),
        };
        course.output.result(&email)?;
        self.known.extend(keys.into_iter().flatten());
        course.counts.written += 1;
        course.counts.bytes += record.size() as u64;
        Ok(Ok(()))
    }
}
