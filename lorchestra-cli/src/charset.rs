//! ASCII forms of the characters that lorchestra itself prints, for a terminal in a locale without UTF-8, where they would become `_` or `?`.
//! Other characters are part of names and texts of jobs: they stay as they are.

use crate::cells;
use std::borrow::Cow;

/// Characters and their ASCII forms, except the mark of what is cut.
const FORMS: [(&str, &str); 7] = [("✓", "ok"), ("✗", "x"), ("→", "->"), ("–", "-"), ("—", "-"), ("·", "-"), ("×", "x")];

/// Whether the locale of this process has UTF-8. No locale at all is the locale `C`, which does not.
#[expect(clippy::disallowed_methods, reason = "a printer exists before the settings, to report that they cannot be read")]
pub(crate) fn has_utf8() -> bool {
    is_utf8(["LC_ALL", "LC_CTYPE", "LANG"].map(|name| std::env::var(name).unwrap_or_default()))
}

/// The first variable that is not empty decides.
fn is_utf8(variables: [String; 3]) -> bool {
    let locale = variables.into_iter().find(|value| !value.is_empty()).unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Replaces the marks in a text. The mark of what is cut becomes `...`, or `~` in a line that has no room for that in `cells`.
pub(crate) fn ascii(text: &str, cells: Option<usize>) -> Cow<'_, str> {
    if text.is_ascii() {
        return text.into();
    }
    let replaced = FORMS.iter().fold(text.to_owned(), |text, (mark, form)| text.replace(mark, form));
    let lines = replaced.split('\n').map(|line| {
        let wide = line.replace('…', "...");
        let fits = |cells: usize| cells::width(&anstream::adapter::strip_str(&wide).to_string()) <= cells;
        if cells.is_none_or(fits) { wide } else { line.replace('…', "~") }
    });
    lines.collect::<Vec<_>>().join("\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_decides() {
        let is = |values: [&str; 3]| is_utf8(values.map(str::to_owned));
        assert!(is(["", "", "en_US.UTF-8"]) && is(["", "de_DE.utf8", "C"]) && is(["C.UTF-8", "C", "C"]));
        assert!(!is(["", "", ""]) && !is(["C", "en_US.UTF-8", "en_US.UTF-8"]) && !is(["", "POSIX", "en_US.UTF-8"]));
        assert!(!is(["", "", "de_DE.ISO-8859-1"]));
    }

    #[test]
    fn marks_have_ascii_forms_and_names_stay() {
        assert_eq!(ascii("✓ a → b", None), "ok a -> b");
        assert_eq!(ascii("✗ メール of café", None), "x メール of café");
        assert_eq!(ascii("run-job … --json", Some(80)), "run-job ... --json");
        // What was cut at the edge of the terminal does not become longer than the terminal, with or without colour.
        assert_eq!(ascii("too lon…", Some(8)), "too lon~");
        assert_eq!(ascii("\u{1b}[31mtoo lo…\u{1b}[0m", Some(9)), "\u{1b}[31mtoo lo...\u{1b}[0m");
        assert_eq!(ascii("one…\ntoo lon…", Some(8)), "one...\ntoo lon~");
        assert!(matches!(ascii("plain", Some(3)), Cow::Borrowed("plain")));
    }
}
