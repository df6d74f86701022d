//! Crontab lines.

use super::Scheduled;
use super::environment::Variable;
use crate::exit::Code;
use crate::failure::CommandError;
use lorchestra_core::text::quote;
use std::path::Path;

/// Every night at 03:15.
pub(super) const NIGHTLY: &str = "15 3 * * *";

/// The names of schedules.
const NAMES: [&str; 8] = ["@reboot", "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// A field of a schedule: its values, and the names of the first ones.
struct CronField {
    name: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const FIELDS: [CronField; 5] = [
    CronField { name: "minute", least: 0, most: 59, names: &[] },
    CronField { name: "hour", least: 0, most: 23, names: &[] },
    CronField { name: "day of the month", least: 1, most: 31, names: &[] },
    CronField {
        name: "month",
        least: 1,
        most: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    // Sunday is 0 and 7.
    CronField { name: "weekday", least: 0, most: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

impl CronField {
    /// Whether a text is a list of values, ranges and `*`, with steps. Also accepts what only some of the readers do: `?` for `*`, and `~`
    /// for a random value of a range.
    fn accepts(&self, text: &str) -> bool {
        text.split(',').all(|item| {
            let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
            let is_step = step.is_none_or(|step| number(step).is_some_and(|step| (1..=self.most).contains(&step)));
            is_step && (["*", "?", "~"].contains(&range) || self.is_range(range))
        })
    }

    fn is_range(&self, range: &str) -> bool {
        let Some((first, last)) = range.split_once(['-', '~']) else { return self.value(range).is_some() };
        let is_sunday = |last: u32| last == 0 && self.most == 7;
        matches!((self.value(first), self.value(last)), (Some(first), Some(last)) if first <= last || is_sunday(last))
    }

    fn value(&self, text: &str) -> Option<u32> {
        let named = (self.least..).zip(self.names).find(|(_, name)| text.eq_ignore_ascii_case(name)).map(|(value, _)| value);
        named.or_else(|| number(text).filter(|value| (self.least..=self.most).contains(value)))
    }
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Checks the fields and their ranges: cron refuses a whole crontab for one wrong line.
pub(super) fn check(at: &str) -> Result<(), CommandError> {
    let fields: Vec<&str> = at.split_whitespace().collect();
    let wrong = |what: String| {
        let hint = "write MINUTE HOUR DAY MONTH WEEKDAY, for example '15 3 * * *'";
        Err(CommandError::new(Code::Usage, format!("--at {} {what}", quote(at))).hint(hint))
    };
    match &fields[..] {
        [name] if NAMES.contains(name) => return Ok(()),
        [name] if name.starts_with('@') => return wrong(format!("is none of {}", NAMES.join(", "))),
        _ if fields.len() != FIELDS.len() => {
            return wrong(format!("has {} fields, and a cron schedule has 5", fields.len()));
        }
        _ => {}
    }
    match FIELDS.iter().zip(fields).find(|(field, text)| !field.accepts(text)) {
        None => Ok(()),
        Some((CronField { name, least, most, .. }, text)) => {
            wrong(format!("has {} as the {name}, which is from {least} to {most}", quote(text)))
        }
    }
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
        assert!(
            check("@dayly")
                .unwrap_err()
                .message
                .ends_with("is none of @reboot, @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly")
        );
    }

    #[test]
    fn each_field_has_its_range() {
        for good in ["*/5 0-23/2 1,15 jan-Mar,12 MON-fri", "0 0 31 12 7", "59 23 ? * 5-0", "0~59 ~ * * sun", "00 03 * * *"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "61 3 * * *",
            "5 24 * * *",
            "5 3 0 * *",
            "5 3 32 * *",
            "5 3 * 13 *",
            "5 3 * * 8",
            "5 3 * * someday",
            "*/0 * * * *",
            "*/60 * * * *",
            "30-10 * * * *",
            "5, 3 * * *",
            "-5 3 * * *",
            "+5 3 * * *",
            "5 3 * feb- *",
            "** * * * *",
            "a b c d e",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        let error = check("61 3 * * *").unwrap_err();
        assert_eq!(error.message, "--at \"61 3 * * *\" has \"61\" as the minute, which is from 0 to 59");
    }
}
