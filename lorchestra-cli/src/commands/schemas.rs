//! `schemas`: the JSON Schemas of everything that lorchestra prints as JSON, generated from the types ([`crate::wire`]).

use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::wire;
use clap::Args;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use lorchestra_core::text::{path_text, quote};
use std::ffi::OsStr;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Schemas {
    /// Name of a schema, such as run or status; without it, list the names
    #[arg(conflicts_with = "dir", add = ArgValueCompleter::new(names))]
    name: Option<String>,
    /// Write a file for each schema into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Completes names of schemas.
fn names(current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let all = wire::schemas();
    all.iter().filter(|(name, _)| name.starts_with(&*current)).map(|(name, _)| CompletionCandidate::new(name)).collect()
}

pub(super) fn run(command: &Schemas, printer: &mut Printer) -> Result<Code, CommandError> {
    let all = wire::schemas();
    // Serializing a schema cannot fail: it is made of JSON values.
    let text = |schema: &schemars::Schema| serde_json::to_string_pretty(schema).unwrap_or_default();
    if let Some(dir) = &command.dir {
        let failed = |error: &std::io::Error| CommandError::refused(Code::NotWritable, &path_text(dir), dir, error);
        std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
        for (name, schema) in &all {
            std::fs::write(dir.join(format!("{name}.json")), text(schema) + "\n").map_err(|e| failed(&e))?;
        }
        printer.good(format_args!("{} schemas written to {}", all.len(), path_text(dir)));
        return Ok(Code::Success);
    }
    let Some(name) = &command.name else {
        all.iter().for_each(|(name, _)| printer.line(name));
        return Ok(Code::Success);
    };
    match all.iter().find(|(known, _)| known == name) {
        Some((_, schema)) => printer.line(text(schema)),
        None => {
            let known: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            return Err(CommandError::new(Code::Usage, format!("there is no schema {}", quote(name)))
                .hint(format!("schemas: {}", known.join(", "))));
        }
    }
    Ok(Code::Success)
}
