//! Reads a command line of a crontab or a unit: which `lorchestra` command in it runs jobs, and which ones. Splits text as a shell or as
//! systemd does, and lets [`Args`] read the rest, so that what is listed is what would run. Reads only a file that `--spec` names.

use crate::commands::args::Args;
use crate::commands::{Command, spec_file};
use lorchestra_core::text::{one_line, path_text};
use lorchestra_plugin_api::manifest::is_name;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

/// How deep commands may be quoted in each other, as in `sh -c "flock x sh -c '…'"`.
pub(super) const DEPTH: u32 = 3;
/// Commands that run jobs, if the rest of the line cannot be read.
const RUNNING: [&str; 3] = ["run-job", "run-group", "backfill"];

/// Who reads the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Shell,
    /// `ExecStart=`, in which only a `;` on its own separates commands.
    Systemd,
}

/// A `lorchestra` command that runs jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobCommand {
    /// `run-job`, `run-group`, `backfill`.
    pub(super) name: &'static str,
    /// `None` for a group, and if the file of `--spec` cannot be read.
    pub(super) package: Option<String>,
    pub(super) job: Option<String>,
    /// The group file, or the file of `--spec`.
    pub(super) input: Option<String>,
    /// What keeps it from running.
    pub(super) problems: Vec<String>,
}

/// Returns the commands in a text that run jobs.
pub(super) fn all(text: &str, syntax: Syntax) -> Vec<JobCommand> {
    let mut found = Vec::new();
    collect(&split(text, syntax).unwrap_or_default(), DEPTH, &mut found);
    found
}

/// Adds what commands, already split into words, run.
pub(super) fn collect(commands: &[Vec<String>], depth: u32, found: &mut Vec<JobCommand>) {
    for words in commands {
        if let Some(command) = direct(words) {
            found.push(command);
        } else if depth > 0 {
            // The argument of a shell, or of a program like flock that starts one.
            for inner in words.iter().filter(|word| word.contains("lorchestra") && word.contains(char::is_whitespace)) {
                collect(&split(inner, Syntax::Shell).unwrap_or_default(), depth - 1, found);
            }
        }
    }
}

/// The command that these words start, perhaps by other programs, such as `nice`.
fn direct(words: &[String]) -> Option<JobCommand> {
    let is_lorchestra = |word: &String| Path::new(word).file_name().is_some_and(|name| name == "lorchestra");
    // A user or a file may have that name too: the program is what the command follows.
    let starts: Vec<&[String]> =
        words.iter().enumerate().filter(|(_, word)| is_lorchestra(word)).map(|(at, _)| &words[at..]).collect();
    let found = starts.iter().find_map(|start| Some((start, valid(start)?)));
    let (start, mut command) = found.or_else(|| starts.iter().rev().find_map(|start| Some((start, invalid(start)?))))?;
    command.problems.splice(0..0, missing_program(start.first()?));
    Some(command)
}

fn valid(words: &[String]) -> Option<JobCommand> {
    let args = Args::read(words.iter().map(OsString::from)).ok()?;
    let of = |name, package: Option<String>, job| {
        let package = package.filter(|package| is_name(package))?;
        Some(JobCommand { name, package: Some(package), job, input: None, problems: Vec::new() })
    };
    match args.command {
        Command::RunJob(command) if command.help => None,
        Command::RunJob(command) => match command.spec {
            Some(file) => Some(of_spec(&file)),
            None => of("run-job", command.package, command.job),
        },
        Command::Backfill(command) if command.action.is_none() => of("backfill", command.package, command.job),
        Command::RunGroup(command) => {
            let problems = missing_file(&command.file);
            let input = Some(command.file.display().to_string());
            Some(JobCommand { name: "run-group", package: None, job: None, input, problems })
        }
        _ => None,
    }
}

/// A command with a mistake, which runs nothing although it is installed.
fn invalid(words: &[String]) -> Option<JobCommand> {
    let at = words.iter().position(|word| RUNNING.contains(&word.as_str()))?;
    let name = RUNNING.into_iter().find(|name| *name == words[at])?;
    let error = Args::read(words.iter().map(OsString::from)).err().filter(clap::Error::use_stderr)?;
    let text = error.render().to_string();
    let why = text.lines().next().unwrap_or_default().trim_start_matches("error: ").trim_end_matches(':').to_owned();
    Some(JobCommand { name, package: None, job: None, input: None, problems: vec![why] })
}

fn of_spec(file: &Path) -> JobCommand {
    let mut problems = missing_file(file);
    // Not standard input, and not a file that depends on the working directory.
    let spec = (file.is_absolute() && file.is_file()).then(|| spec_file::read(file));
    let spec = spec.and_then(|spec| spec.map_err(|failure| problems.push(failure.message)).ok());
    let (package, job) = spec.map(|spec| (spec.package, spec.job)).unzip();
    JobCommand { name: "run-job", package, job, input: Some(file.display().to_string()), problems }
}

fn missing_program(program: &str) -> Option<String> {
    let path = Path::new(program);
    match path.is_absolute() {
        true => missing_file(path).pop(),
        false => Some(format!(
            "{} is not an absolute path: cron and systemd do not search the directories of users",
            one_line(program)
        )),
    }
}

/// A relative path cannot be checked: it depends on the working directory of the schedule.
fn missing_file(file: &Path) -> Vec<String> {
    // One that this user may not see is not missing.
    let is_missing = file.is_absolute() && std::fs::metadata(file).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    is_missing.then(|| format!("{} does not exist", path_text(file))).into_iter().collect()
}

/// Splits a text into commands, and each into words: quotes, backslashes, operators; without redirections and without assignments before
/// a command. `None` if a quote is not closed.
pub(super) fn split(text: &str, syntax: Syntax) -> Option<Vec<Vec<String>>> {
    let mut words = Words::default();
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => words.push(c),
            (_, '\\') => chars.next().into_iter().for_each(|c| words.push(c)),
            (Some(_), c) => words.push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                words.word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() && (c != '\n' || syntax == Syntax::Systemd) => words.end_word(),
            (None, '<' | '>') | (None, '&') if syntax == Syntax::Shell && (c != '&' || chars.peek() == Some(&'>')) => {
                words.redirect();
                while chars.next_if(|c| "<>&|".contains(*c)).is_some() {}
            }
            (None, ';' | '&' | '|' | '\n' | '(' | ')') if syntax == Syntax::Shell => words.end_command(),
            (None, ';') if words.word.is_none() && chars.peek().is_none_or(|next| next.is_whitespace()) => words.end_command(),
            // A comment.
            (None, '#') if syntax == Syntax::Shell && words.word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            (None, c) => words.push(c),
        }
    }
    words.end_command();
    quote.is_none().then_some(words.commands)
}

/// What was split so far.
#[derive(Default)]
struct Words {
    commands: Vec<Vec<String>>,
    command: Vec<String>,
    word: Option<String>,
    /// Whether the next word is the target of a redirection.
    is_target: bool,
}

impl Words {
    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        if std::mem::take(&mut self.is_target) || (self.command.is_empty() && is_assignment(&word)) {
            return;
        }
        self.command.push(word);
    }

    /// Digits directly before a redirection are a descriptor.
    fn redirect(&mut self) {
        if self.word.as_ref().is_some_and(|word| word.chars().all(|c| c.is_ascii_digit())) {
            self.word = None;
        }
        self.end_word();
        self.is_target = true;
    }

    fn end_command(&mut self) {
        self.end_word();
        self.is_target = false;
        let command = std::mem::take(&mut self.command);
        if !command.is_empty() {
            self.commands.push(command);
        }
    }
}

/// Whether a word before a command sets a variable for it.
fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name).filter(|name| !name.is_empty());
    name.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_as_a_shell_does() {
        let words = |text: &str| split(text, Syntax::Shell).unwrap();
        assert_eq!(words("a 'b c' \"d\\\"e\" f\\ g ''"), [["a", "b c", "d\"e", "f g", ""]]);
        assert_eq!(
            words("A=1 b c=2 >x 2>&1 d </dev/null & e&&f || g;(h)|i &>j # k"),
            [&["b", "c=2", "d"][..], &["e"], &["f"], &["g"], &["h"], &["i"]]
        );
        assert_eq!(split("a 'b", Syntax::Shell), None);
    }

    #[test]
    fn systemd_has_no_operators_but_a_semicolon_on_its_own() {
        assert_eq!(split("/a b;c d&e >f ; /g", Syntax::Systemd).unwrap(), [&["/a", "b;c", "d&e", ">f"][..], &["/g"]]);
    }

    /// What a line runs: `command package/job` or `command file`.
    fn of(line: &str) -> Vec<String> {
        let text = |found: JobCommand| match (&found.package, &found.job) {
            (Some(package), Some(job)) => format!("{} {package}/{job}", found.name),
            _ => format!("{} {}", found.name, found.input.unwrap_or_else(|| found.problems.join("; "))),
        };
        all(line, Syntax::Shell).into_iter().map(text).collect()
    }

    #[test]
    fn every_command_that_runs_jobs_is_found() {
        for (line, found) in [
            ("/b/lorchestra run-job -q --timeout 2h p j --source /x", &["run-job p/j"][..]),
            ("/b/lorchestra run-job -q p/j --source /x >> /var/log/x 2>&1", &["run-job p/j"]),
            ("nice /b/lorchestra --config /c.toml run-job p j", &["run-job p/j"]),
            ("runuser -u lorchestra -- /b/lorchestra run-job p j", &["run-job p/j"]),
            ("X=1 /b/lorchestra run-job p j; /b/lorchestra run-job p/k && lorchestra status", &["run-job p/j", "run-job p/k"]),
            ("flock /l -c '/b/lorchestra run-job p j || sh -c \"lorchestra run-job p k\"'", &["run-job p/j", "run-job p/k"]),
            ("/b/lorchestra backfill p/j --from 2024-01-01 --every 1d", &["backfill p/j"]),
            ("/b/lorchestra run-group /g.toml --keep-going > /dev/null", &["run-group /g.toml"]),
            ("/b/lorchestra run-job --spec /s.json", &["run-job /s.json"]),
            ("/b/lorchestra status", &[]),
            ("/b/lorchestra backfill list", &[]),
            ("/b/lorchestra run-job --help", &[]),
            ("/b/backup run-job p j", &[]),
            ("cd /srv/lorchestra && make", &[]),
        ] {
            assert_eq!(of(line), found, "{line}");
        }
        let wrong = of("/b/lorchestra run-job --retires 3 p j");
        assert!(wrong.len() == 1 && wrong[0].contains("--retires"), "{wrong:?}");
    }

    /// Users, lock files and directories have the name too.
    #[test]
    fn the_program_is_the_word_before_the_command() {
        for line in ["sudo -u lorchestra /b/lorchestra run-job p j", "flock /var/lock/lorchestra /b/lorchestra run-job p j"] {
            let problems = all(line, Syntax::Shell).remove(0).problems;
            assert_eq!(problems, ["/b/lorchestra does not exist"], "{line}");
        }
        let problems = all("sudo -u lorchestra /b/lorchestra run-job --retires 3 p j", Syntax::Shell).remove(0).problems;
        assert!(problems[1].contains("--retires"), "{problems:?}");
    }
}
