//! Records the session shown in the README: real commands in a sandbox, their output as SVG. Written only on request, because run ids and
//! times differ each time.

use super::pages;
use crate::sandbox::Sandbox;
use crate::{Result, cargo};
use anstyle_svg::Term;
use std::path::Path;

/// The path that the README uses.
const PATH: &str = "docs/first-run.svg";
const MAILBOX: &str = "example-plugins/ingester/sample/takeout.mbox";

/// Runs the session and writes the SVG.
pub(super) fn write(root: &Path) -> Result {
    let target = cargo::built("debug")?;
    let sandbox = Sandbox::new(&std::env::temp_dir(), &target)?;
    let libraries = ["libingester.so", "libcanonizer.so"].map(|name| target.join(name).display().to_string());
    run(&sandbox, root, &["plugins", "install", &libraries[0], &libraries[1]])?;
    let mut session = String::new();
    for args in [
        &["jobs", "list"][..],
        &["run-job", "ingester", "extract_gmail", "--source", MAILBOX, "--account", "demo"],
        &["run-job", "canonizer", "canonicalize_email"],
        &["runs", "list"],
        &["run-job", "ingster", "extract_gmail"],
    ] {
        session += &format!("\u{1b}[1m$ lorchestra {}\u{1b}[0m\n", args.join(" "));
        session += &run(&sandbox, root, args)?;
    }
    let session = session.replace(&sandbox.home().display().to_string(), "/home/anna");
    std::fs::write(root.join(PATH), Term::new().min_width_px(900).render_svg(&session))?;
    println!("written: {PATH} ({} bytes)", pages::read(root, PATH)?.len());
    Ok(())
}

/// Returns the output of a command on a terminal with colours, including stderr. A command of the session may fail.
fn run(sandbox: &Sandbox, root: &Path, args: &[&str]) -> Result<String> {
    let mut command = sandbox.lorchestra(args);
    let output = command.current_dir(root).env_remove("NO_COLOR").env("CLICOLOR_FORCE", "1").output()?;
    Ok(String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?)
}
