//! The services and timers of systemd that run jobs. Reads files only, so it works without a running systemd; drop-ins are not read.

use super::command::{DEPTH, JobCommand, Syntax, collect, split};
use super::{Entry, Found};
use crate::settings::Settings;
use lorchestra_core::text::path_text;
use std::path::{Path, PathBuf};

/// What may precede the path of a program in `ExecStart=`.
const PREFIXES: [char; 6] = ['-', '@', ':', '+', '!', '|'];
/// The keys of a timer that start its unit at a time after an event.
const MONOTONIC: [&str; 5] = ["OnActiveSec", "OnBootSec", "OnStartupSec", "OnUnitActiveSec", "OnUnitInactiveSec"];

/// A timer that starts a service.
struct Timer {
    path: PathBuf,
    /// The name of the service.
    unit: String,
    when: Option<String>,
}

/// The entries of a unit directory.
pub(super) fn all(dir: &Path, user: bool, settings: &Settings) -> Vec<Entry> {
    let files = super::files(dir);
    let timers: Vec<Timer> = with_extension(&files, "timer").filter_map(|path| timer(path)).collect();
    with_extension(&files, "service").flat_map(|path| service(path, user, &timers, settings)).collect()
}

fn with_extension<'a>(files: &'a [PathBuf], extension: &'static str) -> impl Iterator<Item = &'a PathBuf> {
    files.iter().filter(move |path| path.extension().is_some_and(|end| end == extension))
}

fn timer(path: &Path) -> Option<Timer> {
    let text = super::text_of(path)?;
    let of_same_name = || path.with_extension("service").file_name().map(|name| name.to_string_lossy().into_owned());
    let unit = values(&text, "Unit").pop().or_else(of_same_name)?;
    let after = MONOTONIC.iter().flat_map(|key| values(&text, key).into_iter().map(move |value| format!("{key}={value}")));
    let when: Vec<String> = values(&text, "OnCalendar").into_iter().chain(after).collect();
    Some(Timer { path: path.to_owned(), unit, when: (!when.is_empty()).then(|| when.join(", ")) })
}

fn service(path: &Path, user: bool, timers: &[Timer], settings: &Settings) -> Vec<Entry> {
    let Some(text) = super::text_of(path) else { return Vec::new() };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let home = settings.home.display().to_string();
    let mut commands = Vec::new();
    for line in values(&text, "ExecStart") {
        collect(&words(&line, &home), DEPTH, &mut commands);
    }
    let own: Vec<&Timer> = timers.iter().filter(|timer| timer.unit == name).collect();
    let entry = |command: &JobCommand, timer: Option<&Timer>| {
        let mut command = command.clone();
        if let Some(Timer { path, .. }) = timer.filter(|timer| timer.when.is_some() && !is_enabled(&timer.path)) {
            let (flag, name) = (if user { "--user " } else { "" }, path.file_name().unwrap_or_default().to_string_lossy());
            command.problems.push(format!("not enabled: run systemctl {flag}enable --now {name}"));
        }
        let timer = timer.filter(|timer| timer.when.is_some());
        let file = path_text(timer.map_or(path, |timer| &timer.path));
        Entry { found: Found { kind: "systemd", when: timer.and_then(|timer| timer.when.clone()), file }, command }
    };
    let of = |command: &JobCommand| match own.as_slice() {
        [] => vec![entry(command, None)],
        timers => timers.iter().map(|timer| entry(command, Some(timer))).collect(),
    };
    commands.iter().flat_map(of).collect()
}

/// Splits a value of `ExecStart=` into commands and words, without the prefixes of a program.
fn words(line: &str, home: &str) -> Vec<Vec<String>> {
    let mut commands = split(line, Syntax::Systemd).unwrap_or_default();
    for words in &mut commands {
        words.iter_mut().for_each(|word| *word = word.replace("%h", home).replace("%%", "%").replace("$$", "$"));
        let program = words[0].trim_start_matches(PREFIXES).to_owned();
        let prefixes = &words[0][..words[0].len() - program.len()];
        // The word after the program is then its argument 0.
        if prefixes.contains('@') && words.len() > 1 {
            words.remove(1);
        }
        words[0] = program;
    }
    commands
}

/// Whether a timer is started at boot or login.
fn is_enabled(timer: &Path) -> bool {
    let (Some(dir), Some(name)) = (timer.parent(), timer.file_name()) else { return false };
    dir.join("timers.target.wants").join(name).is_symlink()
}

/// The values of a key in a unit, with continued lines joined. An empty one resets those before it.
fn values(unit: &str, key: &str) -> Vec<String> {
    let joined = unit.replace("\\\n", " ");
    let mut values = Vec::new();
    for (name, value) in joined.lines().filter_map(|line| line.trim().split_once('=')) {
        match value.trim() {
            _ if name.trim() != key => {}
            "" => values.clear(),
            value => values.push(value.to_owned()),
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_unit_may_be_continued_and_reset() {
        assert_eq!(values("[Service]\nExecStart=/a \\\n  b\nExecStartPre=x\n#ExecStart=c\n", "ExecStart"), ["/a    b"]);
        assert_eq!(values("ExecStart=/a\nExecStart=\nExecStart=/b\nExecStart=/c\n", "ExecStart"), ["/b", "/c"]);
    }

    #[test]
    fn a_program_is_found_behind_its_prefixes() {
        for line in ["-/b/x a", "@/b/x other a", "+/b/x a", "!!/b/x a", ":-/b/x a", "-@/b/x other a"] {
            assert_eq!(words(line, "/home/anna"), [["/b/x", "a"]], "{line}");
        }
        assert_eq!(words("%h/x 50%% $$a ; %h/y", "/home/anna"), [&["/home/anna/x", "50%", "$a"][..], &["/home/anna/y"]]);
    }
}
