//! `completions` and `man`: shell completion scripts and manual pages.

use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use clap::Args;
use clap_complete::env::Shells;
use lorchestra_core::text::path_text;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_parser = ["bash", "elvish", "fish", "powershell", "zsh"])]
    shell: String,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write a page for each command into this directory, instead of lorchestra(1) to stdout
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(command: &Completions, printer: &mut Printer) -> Result<Code, CommandError> {
    let mut script = Vec::new();
    let shells = Shells::builtins();
    let shell = shells.completer(&command.shell);
    let internal = |what: String| CommandError::new(Code::Internal, what);
    let shell = shell.ok_or_else(|| internal(format!("there is no completion for {}", command.shell)))?;
    shell
        .write_registration("COMPLETE", "lorchestra", "lorchestra", "lorchestra", &mut script)
        .map_err(|e| internal(e.to_string()))?;
    printer.line(String::from_utf8_lossy(&script).trim_end());
    Ok(Code::Success)
}

pub(super) fn man(command: &Man, definition: fn() -> clap::Command, printer: &mut Printer) -> Result<Code, CommandError> {
    let Some(dir) = &command.dir else {
        let mut page = Vec::new();
        let made = clap_mangen::Man::new(definition()).render(&mut page);
        made.map_err(|e| CommandError::new(Code::Internal, e.to_string()))?;
        printer.line(String::from_utf8_lossy(&page).trim_end());
        return Ok(Code::Success);
    };
    let failed = |error: &std::io::Error| CommandError::refused(Code::NotWritable, &path_text(dir), dir, error);
    std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
    clap_mangen::generate_to(definition(), dir).map_err(|e| failed(&e))?;
    printer.good(format_args!("man pages written to {}", path_text(dir)));
    Ok(Code::Success)
}
