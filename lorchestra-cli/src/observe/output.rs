//! `run-job --show-output`: what the job printed, on stderr, where it cannot be mistaken for lorchestra's own output on stdout.

use crate::printer::Printer;
use lorchestra_core::run::log;
use lorchestra_core::text::printable;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Prints the log of an attempt, line by line, without control characters. A log that cannot be read is reported by `runs logs`.
pub(super) fn print(path: &Path, printer: &mut Printer) {
    for part in log::parts(path).unwrap_or_default() {
        let Ok(file) = part.open() else { continue };
        for line in BufReader::new(file).split(b'\n') {
            let Ok(line) = line else { return };
            printer.note(printable(&String::from_utf8_lossy(&line)));
        }
    }
}
