//! `cargo xtask demo`: a session of one screen, in a sandbox. It lists jobs, runs one, shows a crash with its true end, a retry, and a job
//! that continues where its last success ended. Each command is printed as a user would type it. With `--pipeline` it runs the example
//! packages instead, from a mailbox to a search ([`pipeline`]).
//!
//! Fails if a command does not end as expected, or if the recorded events are not those of the story.

mod pipeline;
mod story;

use crate::sandbox::Sandbox;
use crate::{Result, cargo};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Instant;

const MAILBOX: &str = "example-plugins/ingester/sample/takeout.mbox";
/// Number of messages in it that are neither empty nor duplicates.
const MESSAGES: u64 = 34;

pub(crate) fn run(pipeline: bool, keep: bool) -> Result {
    let begun = Instant::now();
    let packages: &[&str] = if pipeline { &pipeline::PACKAGES } else { &story::PACKAGES };
    cargo::build_command_line(packages)?;
    let target = cargo::built("debug")?;
    let stage = Stage { sandbox: Sandbox::new(&std::env::temp_dir(), &target)?, target };
    println!("built in {} s; home directory: {}\n", begun.elapsed().as_secs(), stage.sandbox.home().display());
    let done = if pipeline { pipeline::show(&stage) } else { story::show(&stage) };
    if keep {
        println!("\nkept: {}", stage.sandbox.keep().display());
    }
    done
}

/// The environment of the demo.
struct Stage {
    sandbox: Sandbox,
    target: PathBuf,
}

impl Stage {
    /// Prints a command and its output. The command must succeed.
    fn lorchestra(&self, args: &[&str]) -> Result {
        self.ends_with(0, args)
    }

    /// Prints a command and its output. The command must end with this exit code.
    fn ends_with(&self, code: i32, args: &[&str]) -> Result {
        let mut command = self.sandbox.lorchestra(args);
        let line = cargo::line(&command);
        println!("$ {line}");
        let status = command.current_dir(cargo::root()?).status()?;
        if status.code() == Some(code) { Ok(()) } else { Err(format!("{line}: {status} instead of exit code {code}").into()) }
    }

    /// Installs freshly built libraries, given by their file names without `lib` and `.so`. Its output, long signatures, is not shown.
    fn install(&self, libraries: &[&str]) -> Result {
        let files: Vec<String> =
            libraries.iter().map(|library| self.target.join(format!("lib{library}.so")).display().to_string()).collect();
        let args: Vec<&str> = ["plugins", "install"].into_iter().chain(files.iter().map(String::as_str)).collect();
        let root = cargo::root()?;
        let mut command = self.sandbox.lorchestra(&args);
        println!("$ {}", cargo::line(&command).replace(&format!("{}/", root.display()), ""));
        let output = command.current_dir(root).output()?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
    }

    /// Parent of the packages' data directories.
    fn data(&self) -> PathBuf {
        self.sandbox.home().join(".local/share/lorchestra/data")
    }

    /// Returns the JSON lines that a command prints, without showing them.
    fn json(&self, args: &[&str]) -> Result<Vec<Value>> {
        let output = self.sandbox.lorchestra(args).output()?;
        let lines = output.stdout.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        Ok(lines.map(serde_json::from_slice).collect::<std::result::Result<_, _>>()?)
    }
}
