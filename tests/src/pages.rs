//! The command blocks of Markdown pages, run as they are: all blocks of a page in one shell, in a directory that looks like a checkout, with
//! an empty home and the binary under test on the PATH.
//!
//! A block with the info string `sh` must succeed. A block `console` has commands after `$ ` (a `\` at the end of a line continues one), each followed by its output: a command fails
//! if and only if its output has a line that begins with `error:` or `✗`. Ids, times, durations and sizes are not compared, nor is the width
//! of columns. `…` alone on a line stands for any lines, elsewhere for any text.
//!
//! A comment on the line before a block, or before the text that introduces it, changes this:
//!
//! - `<!-- run: with hello ingester -->`: these packages are installed, from here to the end of the page.
//! - `<!-- run: first COMMAND -->`: COMMAND runs before the block; for what a reader has and the test does not.
//! - `<!-- run: any output, REASON -->`: the output is not compared.
//! - `<!-- run: not here, REASON -->`: the block does not run.
//!
//! With `LORCHESTRA_TEST_UPDATE_PAGES=1`, the outputs that differ are written to the page; review the diff.

use crate::built::{self, Fixture};
use crate::sandbox::Sandbox;
use regex_lite::Regex;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

/// A command of a `console` block, and the output below it.
#[derive(Debug)]
pub struct ConsoleStep {
    /// The last line of the command in the block, from 0.
    pub line: usize,
    /// The command, which may have several lines.
    pub command: String,
    /// Each line of the output, with its end.
    pub output: String,
}

/// The commands of a `console` block: after `$ `, continued after a `\\` at the end of a line.
///
/// # Panics
/// If the block begins with output.
pub fn console_steps(block: &[&str]) -> Vec<ConsoleStep> {
    let mut steps: Vec<ConsoleStep> = Vec::new();
    let mut continued = false;
    for (at, line) in block.iter().enumerate() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(ConsoleStep { line: at, command: command.to_owned(), output: String::new() }),
            (None, Some(step)) if continued => {
                step.line = at;
                step.command += &format!("\n{line}");
            }
            (None, Some(step)) => step.output += &format!("{line}\n"),
            (None, None) => panic!("output without a command: {line}"),
        }
        continued = line.ends_with('\\') && (continued || line.starts_with("$ "));
    }
    steps
}

/// One command of a page, and what the page shows after it.
#[derive(Debug)]
struct Step {
    /// Line on the page.
    line: usize,
    script: String,
    /// `None` if the output is not compared.
    output: Option<String>,
    /// Number of lines of the output on the page.
    shown: usize,
    fails: bool,
}

/// How a command differs from the page.
struct Difference {
    text: String,
    /// The line of the command, the number of lines of its output on the page, and what it printed.
    update: Option<(usize, usize, String)>,
}

/// The command blocks of a page.
#[derive(Debug, Default)]
pub struct Page {
    path: String,
    steps: Vec<Step>,
    /// Number of blocks that run.
    pub run: usize,
    /// The line and the reason of each block that does not.
    pub not_run: Vec<(usize, String)>,
}

/// What a comment asks for.
enum Wish<'a> {
    With(&'a str),
    First(&'a str),
    AnyOutput,
    NotHere(&'a str),
}

impl<'a> Wish<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let text = line.trim().strip_prefix("<!-- run: ")?.strip_suffix(" -->")?;
        Some(match text.split_once(' ')? {
            ("with", packages) => Self::With(packages),
            ("first", command) => Self::First(command),
            ("any", reason) if reason.starts_with("output, ") => Self::AnyOutput,
            ("not", reason) => Self::NotHere(reason.strip_prefix("here, ")?),
            _ => return None,
        })
    }
}

impl Page {
    /// Reads the page at this path of the workspace.
    ///
    /// # Panics
    /// If it cannot be read, or has a comment that is not understood.
    pub fn read(path: &str) -> Self {
        let text = fs::read_to_string(built::workspace().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut page = Self { path: path.to_owned(), ..Self::default() };
        let (mut any_output, mut not_here) = (false, None);
        let mut lines = text.lines().enumerate();
        while let Some((at, line)) = lines.next() {
            if line.trim().starts_with("<!-- run:") {
                match Wish::read(line).unwrap_or_else(|| panic!("{path}:{}: not understood: {line}", at + 1)) {
                    Wish::With(packages) => page.add(at + 1, install(packages), None, false),
                    Wish::First(command) => page.add(at + 1, command.to_owned(), None, false),
                    Wish::AnyOutput => any_output = true,
                    Wish::NotHere(reason) => not_here = Some(reason.to_owned()),
                }
                continue;
            }
            let Some(info) = line.trim_start().strip_prefix("```").filter(|info| !info.is_empty()) else { continue };
            let indent = line.len() - line.trim_start().len();
            let block: Vec<(usize, &str)> = lines
                .by_ref()
                .take_while(|(_, line)| line.trim() != "```")
                .map(|(at, line)| (at + 1, line.get(indent..).unwrap_or_default()))
                .collect();
            if !matches!(info, "sh" | "console") {
                continue;
            }
            match not_here.take() {
                Some(reason) => page.not_run.push((at + 1, reason)),
                None => {
                    page.run += 1;
                    page.block(info == "console", &block, any_output);
                }
            }
            any_output = false;
        }
        page
    }

    fn block(&mut self, console: bool, lines: &[(usize, &str)], any_output: bool) {
        if !console {
            let script: Vec<&str> = lines.iter().map(|(_, line)| *line).collect();
            return self.add(lines.first().map_or(0, |(at, _)| *at), script.join("\n"), None, false);
        }
        let first = lines.first().map_or(0, |(at, _)| *at);
        let text: Vec<&str> = lines.iter().map(|(_, line)| *line).collect();
        for ConsoleStep { line, command, output } in console_steps(&text) {
            let fails = output.lines().any(|line| line.starts_with("error:") || line.starts_with('✗'));
            self.add(first + line, command, (!any_output).then_some(output), fails || any_output);
        }
    }

    fn add(&mut self, line: usize, script: String, output: Option<String>, fails: bool) {
        let shown = output.as_ref().map_or(0, |output| output.lines().count());
        self.steps.push(Step { line, script, output, shown, fails });
    }

    /// Runs the blocks. Returns a description of each difference.
    ///
    /// # Panics
    /// If the shell cannot be started.
    pub fn check(&self) -> Vec<String> {
        let sandbox = Sandbox::with(&[]);
        let checkout = checkout(&sandbox);
        let mut script = String::new();
        for (n, step) in self.steps.iter().enumerate() {
            let _ = writeln!(script, "{{\n{}\n}} > \"$OUT/{n}.out\" 2>&1\necho $? > \"$OUT/{n}.code\"", step.script);
        }
        let out = sandbox.path("out");
        fs::create_dir(&out).expect("a directory");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", sandbox.path("bin").display());
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(&script).current_dir(&checkout).env_clear().env("HOME", sandbox.home());
        shell.env("PATH", path).env("OUT", &out).env("LANG", "C.UTF-8").stdin(Stdio::null());
        let shown = shell.output().expect("bash runs");
        assert!(shown.status.success(), "{}: the shell: {}", self.path, String::from_utf8_lossy(&shown.stderr));
        let steps = self.steps.iter().enumerate();
        let differences: Vec<Difference> = steps.filter_map(|(n, step)| self.difference(n, step, &sandbox)).collect();
        #[expect(clippy::disallowed_methods, reason = "a setting of the test")]
        if std::env::var_os("LORCHESTRA_TEST_UPDATE_PAGES").is_some() {
            self.update(&differences);
        }
        differences.into_iter().map(|difference| difference.text).collect()
    }

    /// Writes what the commands printed to the page.
    fn update(&self, differences: &[Difference]) {
        let path = built::workspace().join(&self.path);
        let text = fs::read_to_string(&path).expect("a page");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (line, shown, output) in differences.iter().rev().filter_map(|difference| difference.update.as_ref()) {
            let indent = lines[line - 1].len() - lines[line - 1].trim_start().len();
            let output = output.lines().map(|line| format!("{:indent$}{line}", "").trim_end().to_owned());
            lines.splice(*line..line + shown, output);
        }
        fs::write(&path, lines.join("\n") + "\n").expect("a page");
    }

    /// Compares what the step with this number printed to the sandbox's files.
    fn difference(&self, n: usize, step: &Step, sandbox: &Sandbox) -> Option<Difference> {
        let output = String::from_utf8_lossy(&fs::read(sandbox.path(&format!("out/{n}.out"))).unwrap_or_default()).into_owned();
        let code = sandbox.read(&format!("out/{n}.code"));
        let checkout = sandbox.path("checkout");
        let output =
            output.replace(&format!("{}/", checkout.display()), "").replace(&sandbox.home().display().to_string(), "/home/anna");
        let at = format!("{}:{}: {}", self.path, step.line, step.script);
        // Without an output to compare, a command that reports a state may exit with 1.
        let expected_code = if step.output.is_none() && step.fails {
            matches!(code.trim(), "0" | "1")
        } else {
            (code.trim() != "0") == step.fails
        };
        if !expected_code {
            return Some(Difference { text: format!("{at}\nexit code {}:\n{output}", code.trim()), update: None });
        }
        let expected = step.output.as_ref()?;
        if matches(&normalized(expected), &normalized(&output)) {
            return None;
        }
        let text = format!("{at}\nprints:\n{output}but the page shows:\n{expected}");
        Some(Difference { text, update: Some((step.line, step.shown, output)) })
    }
}

/// A shell command that installs the packages from the build.
fn install(packages: &str) -> String {
    let library = |package: &str| format!("target/release/lib{}.so", package.replace('-', "_"));
    let libraries: Vec<String> = packages.split(' ').map(library).collect();
    format!("lorchestra plugins install {}", libraries.join(" "))
}

/// A directory that looks like a checkout in which everything is built.
fn checkout(sandbox: &Sandbox) -> std::path::PathBuf {
    let dir = sandbox.path("checkout");
    let bin = sandbox.path("bin");
    for dir in [&dir, &bin, &dir.join("target")] {
        fs::create_dir(dir).expect("a directory");
    }
    symlink(built::lorchestra(), bin.join("lorchestra")).expect("a link");
    let root = built::workspace();
    for name in ["example-plugins", "docs", "README.md"] {
        symlink(root.join(name), dir.join(name)).expect("a link");
    }
    let built = Fixture::Kit.built();
    for profile in ["debug", "release"] {
        symlink(built.parent().expect("a directory"), dir.join("target").join(profile)).expect("a link");
    }
    dir
}

/// The text with one value for everything that differs between runs.
fn normalized(text: &str) -> String {
    let mut text = text.trim_end().to_owned();
    for (pattern, by) in [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "ID"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"\b\d\d-\d\d \d\d:\d\d\b", "TIME"),
        (r"(?m)^[0-9a-f]{8}( +)\S+( +(completed|failed|running))", "ID AGE$2"),
        (r"\b(run|show|logs|stop|group|resume) [0-9a-f]{8}\b", "$1 ID"),
        (r"\b\d+(\.\d+)? ?(s|ms|min|m\d\ds|MB|MiB|kB|KiB)\b", "SIZE"),
        (r"sha256:\s+[0-9a-f]{64}", "sha256: SHA"),
        (r"(?m)^( +(built|glibc):).*", "$1 MACHINE"),
        (r#"("(index_)?bytes":)\d+"#, "${1}N"),
        (r"[ \t]+", " "),
    ] {
        text = Regex::new(pattern).expect("a pattern of ours").replace_all(&text, by).into_owned();
    }
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

/// Whether the output is what the page shows.
fn matches(page: &str, output: &str) -> bool {
    let mut pattern = String::from("(?s)^");
    for (n, line) in page.split('\n').enumerate() {
        if line == "…" {
            pattern.push_str("(\n?[^\n]*)*?");
            continue;
        }
        if n > 0 {
            pattern.push('\n');
        }
        let parts: Vec<String> = line.split('…').map(regex_lite::escape).collect();
        pattern.push_str(&parts.join("[^\n]*"));
    }
    pattern.push('$');
    // The lines before the first one.
    let pattern = pattern.replace("^(\n?[^\n]*)*?\n", "^([^\n]*\n)*?");
    Regex::new(&pattern).expect("a pattern of escaped text").is_match(output)
}

#[cfg(test)]
mod tests {
    use super::{matches, normalized};

    #[test]
    fn an_ellipsis_stands_for_lines_or_for_text() {
        assert!(matches("a\n…\nd", "a\nb\nc\nd") && matches("a\n…", "a\nb") && matches("a … c", "a b c"));
        assert!(!matches("a\n…\nd", "a\nb\nc") && !matches("a … c", "a b\nc") && !matches("a", "a\nb"));
    }

    #[test]
    fn ids_times_and_durations_are_not_compared() {
        let old = "RUN  AGE\nf2a74de4    8s  completed    0.16s  a/b\n2026-11-29T11:17:56.291974Z  x  run d8da6609  {\"bytes\":54629}\n";
        let new = "RUN  AGE\nabcdef01  12m  completed  1.6s  a/b\n2027-01-01T00:00:00.000001Z  x  run 00000000  {\"bytes\":1}\n";
        assert_eq!(normalized(old), normalized(new));
        assert_ne!(normalized("✓ a/b completed"), normalized("✓ a/b completed (run d8da6609)"));
    }
}
