//! `schedule list`: reads back which systemd units and crontab lines run jobs. Reads files and asks `crontab -l`; starts nothing else, so
//! it works without a running systemd.

use super::super::catalog;
use crate::argv;
use crate::cells;
use crate::commands::run_job::RunJob;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::flags::GlobalFlags;
use crate::printer::{Printer, WARNING};
use crate::settings::Settings;
use crate::wire;
use clap::Args;
use lorchestra_core::packages::catalog::Catalog;
use lorchestra_core::text::{escaped, one_line, path_text, shell};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print one JSON object per line (schema lorchestra.schedule/1)
    #[arg(long)]
    json: bool,
}

/// Something installed that runs a job.
#[derive(Debug)]
struct Entry {
    kind: &'static str,
    /// When it runs, in the syntax of its kind; `None` for a service that no timer starts.
    when: Option<String>,
    package: String,
    job: String,
    /// Where it was found.
    file: String,
    /// What keeps it from running, with the fix.
    problems: Vec<String>,
}

pub(super) fn list(wanted: &List, settings: &Settings, printer: &mut Printer) -> Result<Code, CommandError> {
    // What is installed is listed all the same.
    let catalog = catalog(settings).map_err(|failure| {
        printer.warning(format_args!("whether these jobs can run is not known: {}", failure.message));
    });
    let mut entries = Vec::new();
    let config_home = settings.variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let own = config_home.unwrap_or_else(|| settings.home.join(".config")).join("systemd/user");
    for (dir, user) in [(own, true), ("/etc/systemd/user".into(), true), ("/etc/systemd/system".into(), false)] {
        entries.extend(units(&dir, user, settings));
    }
    entries.extend(crontab(&own_crontab(), "crontab -l", false, settings));
    let system = [PathBuf::from("/etc/crontab")].into_iter().chain(files(Path::new("/etc/cron.d")));
    for path in system {
        if let Ok(text) = std::fs::read_to_string(&path) {
            entries.extend(crontab(&text, &path_text(&path), true, settings));
        }
    }
    for entry in &mut entries {
        entry.problems.extend(catalog.as_ref().ok().and_then(|catalog| missing_job(catalog, entry)));
    }
    if wanted.json {
        for Entry { kind, when, package, job, file, problems } in &entries {
            printer.json(&wire::ScheduleObject {
                schema: "lorchestra.schedule/1",
                kind,
                when: when.clone(),
                package: package.clone(),
                job: job.clone(),
                file: file.clone(),
                problems: problems.clone(),
            });
        }
        return Ok(Code::Success);
    }
    if entries.is_empty() {
        printer.note(format_args!("Nothing on this machine runs a job on a schedule ({}).", settings.user()));
        printer.note("lorchestra schedule print --help shows how to create one.");
        return Ok(Code::Success);
    }
    table(&entries, printer);
    Ok(Code::Success)
}

fn table(entries: &[Entry], printer: &mut Printer) {
    let whens: Vec<String> = entries.iter().map(|entry| escaped(entry.when.as_deref().unwrap_or("never"))).collect();
    let names: Vec<String> = entries.iter().map(|entry| format!("{}/{}", entry.package, entry.job)).collect();
    let longest = |texts: &[String], least: usize| cells::widest(texts.iter().map(String::as_str)).max(least);
    let (when, name) = (longest(&whens, 4).min(30), longest(&names, 3).min(40));
    printer.line(format_args!("{:when$}  {:name$}  FROM", "WHEN", "JOB"));
    for ((entry, at), job) in entries.iter().zip(&whens).zip(&names) {
        let column = |text: &str, width| cells::padded(&cells::fitted(text, width), width);
        printer.line(format_args!("{}  {}  {}", column(at, when), column(job, name), escaped(&entry.file)));
        for problem in &entry.problems {
            printer.line(format_args!("  {WARNING}{}{WARNING:#}", escaped(problem)));
        }
    }
}

fn missing_job(catalog: &Catalog, Entry { package, job, .. }: &Entry) -> Option<String> {
    catalog
        .find_job(package, job)
        .is_err()
        .then(|| format!("{package}/{job} cannot be run: see lorchestra jobs show {package} {job}"))
}

/// The entries of a unit directory.
fn units(dir: &Path, user: bool, settings: &Settings) -> Vec<Entry> {
    let services = files(dir).into_iter().filter(|path| path.extension().is_some_and(|end| end == "service"));
    services.filter_map(|path| unit(&path, user, settings)).collect()
}

fn unit(path: &Path, user: bool, settings: &Settings) -> Option<Entry> {
    let service = std::fs::read_to_string(path).ok()?;
    let command = values(&service, "ExecStart").pop()?;
    let home = settings.home.display().to_string();
    let words: Vec<String> =
        words(&command)?.iter().map(|word| word.replace("%h", &home).replace("%%", "%").replace("$$", "$")).collect();
    let (package, job) = job_of(&words)?;
    let mut problems = missing_program(&words[0]);
    let timer_path = path.with_extension("timer");
    let timer = std::fs::read_to_string(&timer_path).unwrap_or_default();
    let when = values(&timer, "OnCalendar");
    let flag = if user { "--user " } else { "" };
    if !when.is_empty() && !is_enabled(&timer_path) {
        let name = timer_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        problems.push(format!("not enabled: run systemctl {flag}enable --now {name}"));
    }
    let file = path_text(if when.is_empty() { path } else { &timer_path });
    let when = (!when.is_empty()).then(|| when.join(", "));
    Some(Entry { kind: "systemd", when, package, job, file, problems })
}

/// Whether a timer is started at boot or login.
fn is_enabled(timer: &Path) -> bool {
    let (Some(dir), Some(name)) = (timer.parent(), timer.file_name()) else { return false };
    dir.join("timers.target.wants").join(name).is_symlink()
}

/// The values of a key in a unit, with continued lines joined.
fn values(unit: &str, key: &str) -> Vec<String> {
    let joined = unit.replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| line.trim().split_once('='));
    lines
        .filter(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().to_owned())
        .filter(|value| !value.is_empty())
        .collect()
}

/// This user's crontab; empty if there is none, or no cron.
fn own_crontab() -> String {
    let output = Command::new("crontab").arg("-l").stdin(Stdio::null()).stderr(Stdio::null()).output();
    output
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

/// The entries of a crontab. In those of the system, a user follows the time.
fn crontab(text: &str, file: &str, system: bool, settings: &Settings) -> Vec<Entry> {
    let entry = |line: &str| {
        let line = line.trim();
        if line.starts_with('#') {
            return None;
        }
        let fields = if line.starts_with('@') { 1 } else { 5 };
        let mut rest = line;
        let mut when = Vec::new();
        for _ in 0..fields + usize::from(system) {
            let (field, after) = rest.split_once(char::is_whitespace)?;
            when.push(field);
            rest = after.trim_start();
        }
        let command = rest.replace("\\%", "%").replace("$HOME", &settings.home.display().to_string());
        let words: Vec<String> = words(&command)?.into_iter().skip_while(|word| is_assignment(word)).collect();
        let (package, job) = job_of(&words)?;
        let problems = missing_program(words.iter().find(|word| word.ends_with("lorchestra"))?);
        Some(Entry { kind: "cron", when: Some(when[..fields].join(" ")), package, job, file: file.to_owned(), problems })
    };
    text.lines().filter_map(entry).collect()
}

/// Whether a word before a command sets a variable for it.
fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name).filter(|name| !name.is_empty());
    name.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

fn missing_program(program: &str) -> Vec<String> {
    let path = Path::new(program);
    match path.is_absolute() {
        true if path.is_file() => Vec::new(),
        true => vec![format!("{} does not exist", shell(path))],
        false => vec![format!(
            "{} is not an absolute path: cron and systemd do not search the directories of users",
            one_line(program)
        )],
    }
}

/// The job that a command runs; `None` if it is not `lorchestra run-job`.
fn job_of(words: &[String]) -> Option<(String, String)> {
    let at = words.iter().position(|word| Path::new(word).file_name().is_some_and(|name| name == "lorchestra"))?;
    let definition = GlobalFlags::augment_args(clap::Command::new("lorchestra"));
    let definition = definition.subcommand(RunJob::augment_args(clap::Command::new("run-job")));
    let mut words: Vec<OsString> = words[at..].iter().map(OsString::from).collect();
    argv::cut(&definition, &mut words)?;
    let mut last = words.iter().rev().map(|word| word.to_string_lossy().into_owned());
    let (job, package) = (last.next()?, last.next()?);
    let is_job = words.iter().any(|word| word == "run-job") && words.len() >= 4;
    (is_job && lorchestra_plugin_api::manifest::is_name(&package)).then_some((package, job))
}

/// Splits a command into words as a shell does: quotes and backslashes. `None` if a quote is not closed.
fn words(command: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (quote.is_none() && !words.is_empty()).then_some(words)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        words(text).unwrap()
    }

    #[test]
    fn a_command_is_split_as_a_shell_does() {
        assert_eq!(split("a 'b c' \"d\\\"e\" f\\ g ''"), ["a", "b c", "d\"e", "f g", ""]);
        assert_eq!(words("a 'b"), None);
    }

    #[test]
    fn the_job_of_a_command_is_found_after_flags_with_values() {
        let job = |text: &str| job_of(&split(text));
        let found = Some(("ingester".to_owned(), "extract_gmail".to_owned()));
        assert_eq!(job("/usr/bin/lorchestra run-job -q --timeout 2h ingester extract_gmail --source /x"), found);
        assert_eq!(job("nice /usr/bin/lorchestra --config /c.toml run-job ingester extract_gmail"), found);
        assert_eq!(job("/usr/bin/lorchestra status"), None);
        assert_eq!(job("/usr/bin/backup run-job ingester extract_gmail"), None);
    }

    #[test]
    fn values_of_a_unit_may_be_continued() {
        assert_eq!(values("[Service]\nExecStart=/a \\\n  b\nExecStartPre=x\nExecStart=\n", "ExecStart"), ["/a    b"]);
    }
}
