//! `cargo xtask demo`: everything from libraries to events, in a sandbox; prints each command as a user would type it. With `--pipeline` it
//! continues with an index and a search ([`pipeline`]).
//!
//! Fails if a command fails, or if the counts do not match the sample mailbox: the second package must produce as many messages as the
//! first one extracted.

mod pipeline;

use crate::sandbox::Sandbox;
use crate::{Result, cargo};
use serde_json::Value;
use std::path::{Path, PathBuf};

const MAILBOX: &str = "example-plugins/ingester/sample/takeout.mbox";
/// Number of messages in it that are neither empty nor duplicates.
const MESSAGES: u64 = 34;

pub(crate) fn run(pipeline: bool, keep: bool) -> Result {
    let packages: &[&str] = if pipeline { &pipeline::PACKAGES } else { &["ingester", "canonizer"] };
    let mut args = vec!["-p", "lorchestra-cli"];
    args.extend(packages.iter().flat_map(|package| ["-p", package]));
    println!("$ cargo build --locked {}", args.join(" "));
    cargo::build(&args)?;
    let target = cargo::built("debug")?;
    let stage = Stage { sandbox: Sandbox::new(&std::env::temp_dir(), &target)?, target };
    println!("\nsandbox: {}", stage.sandbox.path().display());
    let done = if pipeline { pipeline::show(&stage) } else { show(&stage) };
    let Stage { sandbox, .. } = stage;
    if keep {
        println!("\nkept: {}", sandbox.keep().display());
    } else {
        println!("\nremoved: {}", sandbox.path().display());
    }
    done
}

/// The environment of the demo.
struct Stage {
    sandbox: Sandbox,
    target: PathBuf,
}

impl Stage {
    /// Prints a command and its output.
    fn lorchestra(&self, args: &[&str]) -> Result {
        let mut command = self.sandbox.lorchestra(args);
        println!("\n$ {}", cargo::line(&command));
        cargo::run(command.current_dir(cargo::root()?))
    }

    /// Installs freshly built libraries.
    fn install(&self, packages: &[&str]) -> Result {
        let libraries: Vec<String> = packages
            .iter()
            .map(|package| self.target.join(format!("lib{}.so", package.replace('-', "_"))).display().to_string())
            .collect();
        let mut args = vec!["plugins", "install"];
        args.extend(libraries.iter().map(String::as_str));
        self.lorchestra(&args)
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

fn show(stage: &Stage) -> Result {
    stage.install(&["ingester", "canonizer"])?;
    stage.lorchestra(&["jobs", "list"])?;
    stage.lorchestra(&["jobs", "show", "ingester", "extract_gmail"])?;
    stage.lorchestra(&["run-job", "ingester", "extract_gmail", "--source", MAILBOX, "--account", "demo"])?;
    stage.lorchestra(&["run-job", "canonizer", "canonicalize_email"])?;
    stage.lorchestra(&["runs", "list"])?;
    stage.lorchestra(&["events", "list"])?;
    stage.lorchestra(&["events", "list", "--payload", "--type", "canonicalization.completed"])?;
    check(stage)
}

/// Checks the counts in the events, and the number of lines in the files that the events name.
fn check(stage: &Stage) -> Result {
    let data = stage.data();
    let extracted = lines(&data.join("ingester/mail/demo.jsonl"))?;
    let objects = lines(&data.join("canonizer/email.jsonl"))?;
    let set_aside = lines(&data.join("canonizer/set_aside.jsonl")).unwrap_or(0);
    println!("\n{extracted} messages extracted; {objects} JMAP objects made of them, {set_aside} set aside");
    if extracted != MESSAGES || objects + set_aside != extracted {
        return Err(format!("expected {MESSAGES} messages").into());
    }
    let events = stage.json(&["events", "list", "--payload", "--json"])?;
    for (event_type, wanted) in
        [("job.started", 2), ("job.completed", 2), ("extraction.completed", 1), ("canonicalization.completed", 1)]
    {
        let found = events.iter().filter(|event| event["event_type"] == event_type).count();
        if found != wanted {
            return Err(format!("found {found} events {event_type}, expected {wanted}").into());
        }
    }
    Ok(())
}

fn lines(path: &Path) -> Result<u64> {
    let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.iter().filter(|&&byte| byte == b'\n').count() as u64)
}
