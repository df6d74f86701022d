//! Crontab lines.

use super::Scheduled;
use super::environment::Variable;
use crate::exit::Code;
use crate::failure::CommandError;
use lorchestra_core::text::quote;
use std::path::Path;

/// Every night at 03:15.
pub(super) const NIGHTLY: &str = "15 3 * * *";

/// Checks the number of fields, and nothing else: the rest is for cron to judge.
pub(super) fn check(at: &str) -> Result<(), CommandError> {
    let fields = at.split_whitespace().count();
    if fields == 5 || (fields == 1 && at.starts_with('@')) {
        return Ok(());
    }
    Err(CommandError::new(Code::Usage, format!("--at {} has {fields} fields, and a cron schedule has 5", quote(at)))
        .hint("write MINUTE HOUR DAY MONTH WEEKDAY, for example '15 3 * * *'"))
}

/// Returns one line for each job.
pub(super) fn lines(
    jobs: &[Scheduled],
    at: Option<&str>,
    binary: &Path,
    environment: &[Variable],
) -> Result<String, CommandError> {
    // Before the command, so that they are not those of the other lines of the crontab.
    let variables: String = environment.iter().map(|Variable { name, value, .. }| format!("{name}={} ", quoted(value))).collect();
    let lines: Result<Vec<String>, CommandError> = jobs
        .iter()
        .map(|job| {
            let words: Vec<String> =
                [binary.display().to_string()].into_iter().chain(job.args.iter().cloned()).map(|word| quoted(&word)).collect();
            let line = format!("{}  {variables}{}", at.unwrap_or(NIGHTLY), words.join(" "));
            if line.contains('\n') {
                return Err(CommandError::new(Code::Usage, "a crontab line cannot contain a line break")
                    .hint("pass this value in a file, or set it in config.toml"));
            }
            Ok(line)
        })
        .collect();
    Ok(lines?.join("\n"))
}

/// Quotes a word for /bin/sh, and `%` for cron, which turns it into a line break.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./+-@:,=".contains(c);
    let text =
        if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) };
    text.replace('%', "\\%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_word_for_the_shell_and_for_cron() {
        assert_eq!(quoted("--since"), "--since");
        assert_eq!(quoted("it's 5%"), "'it'\\''s 5\\%'");
        assert_eq!(quoted("$HOME"), "'$HOME'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_schedule_has_five_fields_or_a_name() {
        assert!(check("15 3 * * *").is_ok() && check("@daily").is_ok());
        assert!(check("3:15").is_err() && check("* * * * * *").is_err());
    }
}
