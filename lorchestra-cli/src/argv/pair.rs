//! `PACKAGE/JOB` in the place of PACKAGE: splits it into two arguments, for every command that takes PACKAGE and JOB. Pure; called by
//! [`crate::commands::args`] before anything else reads the arguments, and by completion.

use super::{is_flag, valued_flags};
use std::collections::HashSet;
use std::ffi::OsString;

/// Returns the package and the job in `PACKAGE/JOB`; `None` for any other text.
pub(crate) fn pair(text: &str) -> Option<(&str, &str)> {
    let (package, job) = text.split_once('/')?;
    (!package.is_empty() && !job.is_empty() && !job.contains('/')).then_some((package, job))
}

/// Splits the argument in the place of PACKAGE if it is `PACKAGE/JOB` and the command's next argument is JOB. `words` begins with the name
/// of the program.
pub(crate) fn split(definition: &clap::Command, words: &mut Vec<OsString>) {
    let mut command = definition;
    let mut takes_value: HashSet<String> = valued_flags(definition).into_iter().collect();
    let (mut open, mut at, mut positional) = (true, 1, 0);
    while let Some(word) = words.get(at) {
        let text = word.to_str();
        if open && word == "--" {
            open = false;
        } else if open && is_flag(word) {
            at += usize::from(text.is_some_and(|text| takes_value.contains(text)));
        } else if let Some(below) = command.find_subcommand(word).filter(|_| positional == 0) {
            command = below;
            takes_value.extend(valued_flags(command));
        } else {
            let names: Vec<&str> = command.get_positionals().skip(positional).take(2).map(|arg| arg.get_id().as_str()).collect();
            match names.as_slice() {
                ["package", "job"] => {
                    let found = text.and_then(pair).map(|(package, job)| [package, job].map(OsString::from));
                    if let Some(found) = found {
                        words.splice(at..=at, found);
                    }
                    return;
                }
                [] => return,
                _ => positional += 1,
            }
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::args::Args;
    use clap::CommandFactory;

    fn after(line: &str) -> String {
        let mut words: Vec<OsString> = format!("lorchestra {line}").split(' ').map(OsString::from).collect();
        split(&Args::command(), &mut words);
        words[1..].join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn a_pair_is_two_names() {
        assert_eq!(pair("p/j"), Some(("p", "j")));
        for other in ["p", "p/", "/j", "/", "p/j/k", "./p/j", ""] {
            assert_eq!(pair(other), None, "{other}");
        }
    }

    #[test]
    fn a_pair_in_the_place_of_package_is_split() {
        for (line, expected) in [
            ("run-job p/j", "run-job p j"),
            ("run-job --timeout 5s -q p/j --since -7d", "run-job --timeout 5s -q p j --since -7d"),
            (
                "-v --plugin-dir a/b run-job --param a=b/c p/j --source x/y",
                "-v --plugin-dir a/b run-job --param a=b/c p j --source x/y",
            ),
            ("run-job -- p/j a/b", "run-job -- p j a/b"),
            ("run-job p j --source x/y", "run-job p j --source x/y"),
            ("run-job p a/b", "run-job p a/b"),
            ("backfill -j 4 p/j --from 2024-01-01", "backfill -j 4 p j --from 2024-01-01"),
            ("backfill resume a/b", "backfill resume a/b"),
            ("jobs show p/j --json", "jobs show p j --json"),
            ("bookmarks set --account a/b p/j -7d", "bookmarks set --account a/b p j -7d"),
            ("bookmarks reset p/j", "bookmarks reset p j"),
            ("bookmarks show p/j", "bookmarks show p j"),
            ("runs show p/j", "runs show p/j"),
            ("jobs list p/j", "jobs list p/j"),
            ("status p/j", "status p/j"),
            ("run-job a/b/c j", "run-job a/b/c j"),
            ("new p/j", "new p/j"),
        ] {
            assert_eq!(after(line), expected, "{line}");
        }
    }

    /// Every command with PACKAGE and JOB accepts both forms, and its help says so.
    #[test]
    fn every_command_with_both_arguments_documents_the_short_form() {
        fn visit(command: &clap::Command, path: &str, found: &mut Vec<String>) {
            let positionals: Vec<&clap::Arg> = command.get_positionals().collect();
            for both in positionals.windows(2).filter(|both| both[1].get_id() == "job") {
                let help = both[0].get_help().map(ToString::to_string).unwrap_or_default();
                assert!(both[0].get_id() == "package" && help.contains("PACKAGE/JOB"), "{path}: {help}");
                found.push(path.to_owned());
            }
            for below in command.get_subcommands() {
                visit(below, &format!("{path}{} ", below.get_name()), found);
            }
        }
        let mut found = Vec::new();
        visit(&Args::command(), "", &mut found);
        for path in &found {
            assert_eq!(after(&format!("{path}p/j")), format!("{path}p j"));
        }
        assert_eq!(found.len(), 6, "{found:?}");
    }
}
