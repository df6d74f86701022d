//! Runs the end-to-end test program and prints each test as it ends, with the number of ended tests and the time so far.

use crate::{Result, cargo};
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs the tests of these modules, or all if there are none. `rest` is passed to the test program.
pub(super) fn end_to_end(modules: &[String], rest: &[OsString]) -> Result {
    let begun = Instant::now();
    let mut command = super::test(&["--test", "e2e", "--"])?;
    if !modules.is_empty() {
        let tests = tests_of(modules)?;
        if tests.is_empty() {
            return Err(format!("{} has no tests", modules.join(", ")).into());
        }
        command.arg("--exact").args(tests);
    }
    // Tests spend much of their time waiting for processes, deadlines and retries, so run 1.5 times as many as there are cores. Not more,
    // because some start two hundred processes, each with a deadline.
    let cores = std::thread::available_parallelism()?.get();
    let threads = cores + cores.div_ceil(2);
    if !rest.iter().any(|arg| arg.to_string_lossy().starts_with("--test-threads")) {
        command.arg(format!("--test-threads={threads}"));
    }
    let line = cargo::line(&command);
    let mut child = command.args(rest).stdout(Stdio::piped()).spawn()?;
    let (mut ended, mut all) = (0, 0);
    for text in BufReader::new(child.stdout.take().ok_or("no output")?).lines() {
        let text = text?;
        if let Some(count) = text.strip_prefix("running ").and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok()) {
            all = count;
        }
        let result = text.strip_prefix("test ").and_then(|test| test.split_once(" ... "));
        if result.is_some() {
            ended += 1;
            println!("[{ended}/{all} {}] {text}", clock(begun));
        } else {
            println!("{text}");
        }
    }
    if child.wait()?.success() { Ok(()) } else { Err(format!("{line} failed").into()) }
}

/// Returns the names of all tests with one of the modules in their path.
fn tests_of(modules: &[String]) -> Result<Vec<String>> {
    let output = list()?.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let text = String::from_utf8(output.stdout)?;
    let tests = text.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(tests.filter(|test| is_of(test, modules)).map(str::to_owned).collect())
}

fn list() -> Result<Command> {
    let mut command = super::test(&["--quiet", "--test", "e2e", "--", "--list", "--format=terse"])?;
    command.stderr(Stdio::inherit());
    Ok(command)
}

/// Whether one of the modules is a component of the test's path. The last component is the test itself.
fn is_of(test: &str, modules: &[String]) -> bool {
    let path = test.rsplit_once("::").map_or("", |(path, _)| path);
    path.split("::").any(|step| modules.iter().any(|module| module == step))
}

/// The elapsed time, as `1m05s`.
pub(super) fn clock(since: Instant) -> String {
    shown(since.elapsed())
}

/// A duration, as `1m05s`.
pub(super) fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{:02}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn a_topic_is_a_component_of_the_path_and_not_a_part_of_a_word() {
        let of = |test: &str, module: &str| is_of(test, &[module.to_owned()]);
        assert!(of("crash::killed::a_test", "killed") && of("crash::killed::a_test", "crash"));
        assert!(!of("crash::killed::a_test", "kill") && !of("crash::killed::a_test", "a_test"));
        assert!(!of("every_file_is_a_module", "e2e"));
    }
}
