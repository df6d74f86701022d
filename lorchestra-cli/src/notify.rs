//! The `on_failure` command: a failure under cron must not be silent. Run by `/bin/sh -c` with one JSON object on standard
//! input; has 30 s, and cannot change the outcome.

use crate::printer::Printer;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the command may take.
const TIME_BOX: Duration = Duration::from_secs(30);

/// Runs the command with `failure` (schema lorchestra.failure/1) on its standard input. What it prints goes to standard error;
/// what goes wrong with it is a warning.
pub(crate) fn on_failure(command: Option<&str>, failure: &Value, printer: &mut Printer) {
    let Some(command) = command else { return };
    printer.flush();
    if let Err(why) = run(command, failure) {
        printer.warning(format_args!("on_failure: {why}"));
    }
}

fn run(command: &str, failure: &Value) -> Result<(), String> {
    let stderr = || Stdio::from(std::io::stderr());
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(stderr())
        .stderr(stderr())
        .process_group(0)
        .spawn()
        .map_err(|e| format!("/bin/sh could not be started: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Smaller than a pipe's buffer, so that a command that does not read cannot hold us; one that closes it early may.
        let _ = writeln!(stdin, "{failure}");
    }
    let deadline = Instant::now() + TIME_BOX;
    loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("the command ended with {status}")),
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            None => {
                let _ = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
                let _ = child.wait();
                return Err(format!("the command was killed after {} s", TIME_BOX.as_secs()));
            }
        }
    }
}
