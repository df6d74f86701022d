//! `cargo xtask demo`: the whole way from two libraries to events, in a sandbox, each command shown as a person would type it.
//!
//! Ends with an error when a command fails, or when the counts are not those of the sample mailbox: the same number of messages
//! must come out of the second package as went into it from the first.

use crate::sandbox::Sandbox;
use crate::{Result, cargo};
use serde_json::Value;
use std::path::Path;

const MAILBOX: &str = "example-plugins/ingester/sample/takeout.mbox";
/// Messages in it that are neither empty nor a second copy of another.
const MESSAGES: u64 = 34;

pub(crate) fn run(keep: bool) -> Result {
    println!("$ cargo build --locked -p lorchestra-cli -p ingester -p canonizer");
    cargo::build(&["-p", "lorchestra-cli", "-p", "ingester", "-p", "canonizer"])?;
    let target = cargo::target("debug")?;
    let sandbox = Sandbox::new(&std::env::temp_dir(), &target)?;
    println!("\nsandbox: {}", sandbox.path().display());
    let done = show(&sandbox, &target);
    if keep {
        println!("\nkept: {}", sandbox.keep().display());
    } else {
        println!("\nremoved: {}", sandbox.path().display());
    }
    done
}

fn show(sandbox: &Sandbox, target: &Path) -> Result {
    let lorchestra = |args: &[&str]| -> Result {
        let mut command = sandbox.lorchestra(args);
        println!("\n$ {}", cargo::line(&command));
        cargo::run(command.current_dir(cargo::root()?))
    };
    let library = |name: &str| target.join(name).display().to_string();
    lorchestra(&["plugins", "install", &library("libingester.so"), &library("libcanonizer.so")])?;
    lorchestra(&["jobs", "list"])?;
    lorchestra(&["jobs", "show", "ingester", "extract_gmail"])?;
    lorchestra(&["run-job", "ingester", "extract_gmail", "--source", MAILBOX, "--account", "demo"])?;
    lorchestra(&["run-job", "canonizer", "canonicalize_email"])?;
    lorchestra(&["runs", "list"])?;
    lorchestra(&["events", "list"])?;
    lorchestra(&["events", "list", "--payload", "--type", "canonicalization.completed"])?;
    check(sandbox)
}

/// Counts in the events, and lines in the files they speak of.
fn check(sandbox: &Sandbox) -> Result {
    let data = sandbox.home().join(".local/share/lorchestra/data");
    let extracted = lines(&data.join("ingester/mail/demo.jsonl"))?;
    let objects = lines(&data.join("canonizer/email.jsonl"))?;
    let set_aside = lines(&data.join("canonizer/set_aside.jsonl")).unwrap_or(0);
    println!("\n{extracted} messages extracted; {objects} JMAP objects made of them, {set_aside} set aside");
    if extracted != MESSAGES || objects + set_aside != extracted {
        return Err(format!("{MESSAGES} messages should have come through").into());
    }
    let output = sandbox.lorchestra(&["events", "list", "--payload", "--json"]).output()?;
    let events: Vec<Value> = output
        .stdout
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(serde_json::from_slice)
        .collect::<std::result::Result<_, _>>()?;
    for (event_type, wanted) in
        [("job.started", 2), ("job.completed", 2), ("extraction.completed", 1), ("canonicalization.completed", 1)]
    {
        let found = events.iter().filter(|event| event["event_type"] == event_type).count();
        if found != wanted {
            return Err(format!("{found} events {event_type}, and {wanted} should be there").into());
        }
    }
    Ok(())
}

fn lines(path: &Path) -> Result<u64> {
    let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.iter().filter(|&&byte| byte == b'\n').count() as u64)
}
