//! The crontab lines that run jobs: those of this user (`crontab -l`), `/etc/crontab` and `/etc/cron.d`.

use super::command::{self, Syntax};
use super::{Entry, Found};
use crate::printer::Printer;
use crate::settings::Settings;
use lorchestra_core::text::{one_line, path_text};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(super) fn all(settings: &Settings, printer: &mut Printer) -> Vec<Entry> {
    let mut entries = entries(&own(settings, printer), "crontab -l", false, settings);
    for path in [PathBuf::from("/etc/crontab")].into_iter().chain(super::files(Path::new("/etc/cron.d"))) {
        if let Some(text) = super::text_of(&path) {
            entries.extend(self::entries(&text, &path_text(&path), true, settings));
        }
    }
    entries
}

/// This user's crontab; empty if there is none, or no cron. Warns if it cannot be read.
fn own(settings: &Settings, printer: &mut Printer) -> String {
    // Its messages are compared below.
    let output = Command::new("crontab").arg("-l").env("LC_ALL", "C").stdin(Stdio::null()).output();
    let why = match output {
        Ok(output) if output.status.success() => return String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            // The second is BusyBox.
            if stderr.contains("no crontab for") || stderr.contains("No such file or directory") {
                return String::new();
            }
            stderr.lines().next().map_or_else(|| output.status.to_string(), one_line)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return String::new(),
        Err(error) => error.to_string(),
    };
    printer.warning(format_args!("the crontab of {} is not listed, because crontab -l failed: {why}", settings.user()));
    String::new()
}

/// The entries of a crontab. In those of the system, a user follows the time.
fn entries(text: &str, file: &str, system: bool, settings: &Settings) -> Vec<Entry> {
    let home = settings.home.display().to_string();
    let of_line = |line: &str| {
        let (when, command) = parts(line, system)?;
        let commands = command::all(&command.replace("$HOME", &home).replace("${HOME}", &home), Syntax::Shell);
        let found = Found { kind: "cron", when: Some(when), file: file.to_owned() };
        Some(commands.into_iter().map(move |command| Entry { found: found.clone(), command }))
    };
    text.lines().filter_map(of_line).flatten().collect()
}

/// The time of a line and its command, as cron passes it to a shell: what follows the first `%` is its input.
fn parts(line: &str, system: bool) -> Option<(String, String)> {
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
    let mut command = String::new();
    let mut chars = rest.chars().peekable();
    while let Some(c) = chars.next().filter(|c| *c != '%') {
        match c {
            '\\' if chars.next_if_eq(&'%').is_some() => command.push('%'),
            c => command.push(c),
        }
    }
    Some((when[..fields].join(" "), command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_time_and_a_command() {
        let of = |line, system| parts(line, system).map(|(when, command)| format!("{when}|{command}"));
        assert_eq!(of("5 4  * * 1-5  a -x 50\\% b%input", false).unwrap(), "5 4 * * 1-5|a -x 50% b");
        assert_eq!(of("@daily root a", true).unwrap(), "@daily|a");
        assert_eq!(of("# 5 4 * * * a", false), None);
        assert_eq!(of("MAILTO=ops", false), None);
    }
}
