//! Preprocesses the arguments before clap parses them: splits `PACKAGE/JOB` ([`pair`]), and separates run-job's own flags from those of a
//! job that is not known yet. Called by [`crate::commands::args`] and, for the arguments after the job, by [`crate::flags`].

pub(crate) mod pair;

use clap::error::{ContextKind, ContextValue};
use lorchestra_core::text;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Cuts off the arguments after `run-job PACKAGE JOB` and `backfill PACKAGE JOB`, whose meaning depends on the job; for `backfill`, also its
/// own flags before PACKAGE. clap knows only lorchestra's own flags: depending
/// on the order of the arguments, it would parse some of the job's flags itself. Returns `None` for other commands.
pub(crate) fn cut(definition: &clap::Command, words: &mut Vec<OsString>) -> Option<Vec<OsString>> {
    let mut takes_value: HashSet<String> = valued_flags(definition).into_iter().collect();
    let (mut open, mut found, mut at) = (true, 0, 1);
    let (mut backfill, mut own) = (None, Vec::new());
    while let Some(word) = words.get(at) {
        if open && word == "--" {
            open = false;
        } else if open && is_flag(word) {
            let end = at + 1 + usize::from(word.to_str().is_some_and(|word| takes_value.contains(word)));
            if backfill.is_some() {
                own.push(at..end.min(words.len()));
            }
            at = end - 1;
        } else {
            found += 1;
            match found {
                1 => match definition.find_subcommand(word).filter(|_| word == "run-job" || word == "backfill") {
                    Some(command) => {
                        takes_value.extend(valued_flags(command));
                        backfill = Some(command).filter(|_| word == "backfill");
                    }
                    None => return None,
                },
                2 if backfill.is_some_and(|command| command.find_subcommand(word).is_some()) => return None,
                3 => {
                    let mut rest = words.split_off(at + 1);
                    for range in own.into_iter().rev() {
                        let flags: Vec<OsString> = words.drain(range).collect();
                        rest.splice(0..0, flags);
                    }
                    return Some(rest);
                }
                _ => {}
            }
        }
        at += 1;
    }
    (found > 0).then(Vec::new)
}

/// Counts `-v` and collects `--plugin-dir`, which are needed before the job is known and count at any position. Does not validate: clap
/// parses the arguments too.
pub(crate) fn globals(words: &[OsString]) -> (u8, Vec<PathBuf>) {
    let (mut verbose, mut dirs) = (0_u8, Vec::new());
    let mut words = words.iter().take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        match word.as_encoded_bytes() {
            b"--verbose" => verbose = verbose.saturating_add(1),
            b"--plugin-dir" => dirs.extend(words.next().map(PathBuf::from)),
            // A path need not be UTF-8.
            [b'-', b'-', ..] => dirs.extend(strip_prefix(word, "--plugin-dir=").map(PathBuf::from)),
            [b'-', letters @ ..] if letters.iter().all(u8::is_ascii_alphabetic) => {
                let n = letters.iter().filter(|letter| **letter == b'v').count();
                verbose = verbose.saturating_add(u8::try_from(n).unwrap_or(u8::MAX));
            }
            _ => {}
        }
    }
    (verbose, dirs)
}

fn strip_prefix<'a>(word: &'a OsStr, prefix: &str) -> Option<&'a OsStr> {
    word.as_bytes().strip_prefix(prefix.as_bytes()).map(OsStr::from_bytes)
}

/// Rewrites `--since -7d` to `--since=-7d`. clap's allow_hyphen_values would also accept the next flag as a forgotten value; no flag of
/// ours begins with `-` and a digit.
pub(crate) fn join_negative(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    let mut open = true;
    for word in words {
        open &= word != "--";
        let negative = matches!(word.as_encoded_bytes(), [b'-', b'0'..=b'9' | b'.', ..]);
        match joined.last_mut() {
            Some(last) if open && negative && is_bare_flag(last) => {
                last.push("=");
                last.push(word);
            }
            _ => joined.push(word),
        }
    }
    joined
}

/// Returns the flags of a command that take a value, as they are typed.
fn valued_flags(command: &clap::Command) -> Vec<String> {
    let flags = command.get_arguments().filter(|arg| arg.get_action().takes_values());
    let names = |arg: &clap::Arg| {
        let short = arg.get_short().map(|short| format!("-{short}"));
        arg.get_long().map(|long| format!("--{long}")).into_iter().chain(short).collect::<Vec<_>>()
    };
    flags.flat_map(names).collect()
}

fn is_flag(word: &OsStr) -> bool {
    matches!(word.as_encoded_bytes(), [b'-', _, ..])
}

/// Whether the argument is `--name` without a value.
fn is_bare_flag(word: &OsStr) -> bool {
    let bytes = word.as_encoded_bytes();
    bytes.len() > 2 && bytes.starts_with(b"--") && !bytes.contains(&b'=')
}

/// Escapes typed text in the error, so that it cannot control the terminal.
pub(crate) fn harmless(mut error: clap::Error) -> clap::Error {
    let escaped: Vec<(ContextKind, ContextValue)> = error
        .context()
        .filter_map(|(kind, value)| {
            let new = match value {
                ContextValue::String(text) => ContextValue::String(shown(text)),
                ContextValue::Strings(texts) => ContextValue::Strings(texts.iter().map(|text| shown(text)).collect()),
                _ => return None,
            };
            (new != *value).then_some((kind, new))
        })
        .collect();
    if !escaped.is_empty() {
        // Suggestions repeat the text, in a form that cannot be rewritten.
        error.insert(ContextKind::Suggested, ContextValue::None);
    }
    for (kind, value) in escaped {
        error.insert(kind, value);
    }
    error
}

/// Escapes and shortens typed text.
fn shown(text: &str) -> String {
    text::shortened(&text::escaped(text), TYPED)
}

/// Maximum number of characters of typed text in an error.
const TYPED: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::args::Args;
    use clap::CommandFactory;

    /// [`cut`] and [`globals`] rely on this.
    #[test]
    fn one_letter_flags_are_switches() {
        let args = Args::command();
        let run_job = args.find_subcommand("run-job").unwrap();
        for arg in args.get_arguments().chain(run_job.get_arguments()).filter(|arg| arg.get_short().is_some()) {
            assert!(!arg.get_action().takes_values(), "{:?}", arg.get_short());
        }
    }

    #[test]
    fn arguments_after_the_job_are_left_unchanged() {
        let behind = ["--timeout", "5s", "-7d", "--since", "-7d", "-q", "--", "-v", "stray", "--help"];
        for front in [
            &["pkg", "job"][..],
            &["-q", "pkg", "job"],
            &["--timeout", "pkg2", "pkg", "job"],
            &["--timeout=1s", "--param", "a=b", "pkg", "--grace", "1m", "job"],
            &["--plugin-dir", "dir", "pkg", "-v", "job"],
            &["--", "pkg", "job"],
        ] {
            let mut words: Vec<OsString> = ["lorchestra", "--plugin-dir", "run-job", "-v", "run-job"]
                .iter()
                .chain(front)
                .chain(&behind)
                .map(OsString::from)
                .collect();
            let rest = cut(&Args::command(), &mut words);
            assert_eq!(rest.as_deref(), Some(&behind.map(OsString::from)[..]), "{front:?}");
            assert_eq!(words.len(), 5 + front.len());
        }
        let cut_of = |words: &[&str]| {
            cut(&Args::command(), &mut std::iter::once(&"lorchestra").chain(words).map(OsString::from).collect())
        };
        for other in [&["runs", "show", "a", "b"][..], &["jobs", "run-job", "a", "b"], &["--", "x"], &["-v"], &[]] {
            assert_eq!(cut_of(other), None, "{other:?}");
        }
        assert_eq!(cut_of(&["run-job", "a", "--timeout", "b"]), Some(vec![]));
    }
}
