//! Extracts the kind of failure from the last line of a tap's stderr. Pure functions only.
//!
//! The line itself may quote a record (`invalid literal for int() with base 10: 'anna@example.com'`) or a secret, and a job's
//! error becomes an event that is sent elsewhere. Therefore only names from closed sets are returned: an exception class, an
//! HTTP status, a system error number, a reason of the TLS library. The line itself is in the run's log.

use std::io;

/// Suffixes that identify an exception class.
const CLASSES: [&str; 6] = ["Error", "Exception", "Exit", "Interrupt", "Timeout", "Failure"];
/// Maximum length of a class name in the result.
const LONGEST: usize = 100;

/// Returns the kinds found in a line, as one text; `None` if there are none.
pub(crate) fn kind(line: &str) -> Option<String> {
    let kinds: Vec<String> = [class(line), status(line), errno(line), tls(line)].into_iter().flatten().collect();
    (!kinds.is_empty()).then(|| kinds.join(", "))
}

/// `requests.exceptions.HTTPError` at the start of the line, as Python ends a traceback.
fn class(line: &str) -> Option<String> {
    let name = line.trim().split([':', ' ']).next()?;
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let last = name.rsplit('.').next()?;
    let is_class = CLASSES.iter().any(|end| last.ends_with(end)) && last.starts_with(|c: char| c.is_ascii_uppercase());
    (is_class && name.len() <= LONGEST && name.split('.').all(is_name)).then(|| name.to_owned())
}

/// `401 Client Error` (requests), `HTTP Error 401` (urllib), `status code 503`.
fn status(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.iter().enumerate().find_map(|(at, word)| {
        let code: u16 = word.parse().ok().filter(|code| word.len() == 3 && (400..600).contains(code))?;
        let is = |at: Option<usize>, names: &[&str]| {
            at.and_then(|at| words.get(at)).is_some_and(|word| names.iter().any(|name| word.eq_ignore_ascii_case(name)))
        };
        let before = is(at.checked_sub(1), &["error", "http", "status", "code", "status_code"]);
        (before || is(Some(at + 1), &["client", "server"])).then(|| format!("HTTP {code}"))
    })
}

/// `[Errno 111]`
fn errno(line: &str) -> Option<String> {
    let (number, _) = line.split_once("[Errno ")?.1.split_once(']')?;
    let number: i32 = number.parse().ok()?;
    // Negative numbers are errors of the resolver.
    Some(if number > 0 { io::Error::from_raw_os_error(number).to_string() } else { format!("resolver error {number}") })
}

/// `[SSL: CERTIFICATE_VERIFY_FAILED]`
fn tls(line: &str) -> Option<String> {
    let (reason, _) = line.split_once("[SSL: ")?.1.split_once(']')?;
    let known = reason.len() <= LONGEST && reason.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    known.then(|| format!("TLS {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kind_of_error_is_taken_from_a_line() {
        for (line, named) in [
            ("ValueError: invalid literal for int() with base 10: 'anna@example.com'", Some("ValueError")),
            (
                "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://x/?token=s3cr3t",
                Some("requests.exceptions.HTTPError, HTTP 401"),
            ),
            ("HTTP Error 503: Service Unavailable", Some("HTTP 503")),
            ("<urlopen error [Errno 111] Connection refused>", Some("Connection refused (os error 111)")),
            ("<urlopen error [Errno -2] Name or service not known>", Some("resolver error -2")),
            ("<urlopen error [SSL: WRONG_VERSION_NUMBER] wrong version number>", Some("TLS WRONG_VERSION_NUMBER")),
            ("KeyboardInterrupt", Some("KeyboardInterrupt")),
            ("anna.schmidt: not an error", None),
            ("Anna's Error: she said 401", None),
            ("2026-11-24 15:45:14,900 | ERROR | tap | Config validation failed", None),
            ("[SSL: anna@example.com]", None),
            ("", None),
        ] {
            assert_eq!(kind(line).as_deref(), named, "{line}");
        }
    }
}
