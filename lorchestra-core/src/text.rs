//! Text for people. Makes foreign text (typed, read from a file, sent by a server, found in a plugin's manifest) harmless and short;
//! suggests names for mistyped ones; formats errors with their causes. Pure functions.
//!
//! Guarantees: [`printable`], [`one_line`], [`escaped`] and [`quote`] return no invisible character, nor one that controls a terminal or
//! reorders text, in any Unicode version that the terminal may know. Only [`shortened`] and the functions next to it decide
//! where a text is cut.

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};
use std::path::Path;

/// Maximum length of a value in a message, in characters.
const QUOTED: usize = 60;
/// Maximum length of a foreign line: a message, a reason, the first line of a docstring.
pub const LINE: usize = 400;
/// Maximum length of a signature: that of a job with twenty parameters has a thousand characters.
const SIGNATURE: usize = 2000;
/// Maximum length of a path, longer than any that a person would create.
const PATH: usize = 1000;

/// Whether a character is neither a visible mark nor a space: a control, format (bidirectional marks, tags, soft hyphen), surrogate,
/// private or unassigned character, a line or paragraph separator, or one that Unicode marks as ignorable (fillers, variation selectors).
/// Decided by Unicode properties rather than a list, which the next attack would make out of date.
pub fn is_invisible(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, Surrogate, Unassigned};
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    matches!(category, Control | Format | Surrogate | PrivateUse | Unassigned | LineSeparator | ParagraphSeparator)
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// Removes invisible characters from `text`, except `\n` and `\t`. All text from a plugin passes through this function, or one of those
/// below, before it is shown.
pub fn printable(text: &str) -> String {
    text.chars().filter(|&c| matches!(c, '\n' | '\t') || !is_invisible(c)).collect()
}

/// Like [`printable`], but as one line with single spaces, cut at [`LINE`] characters.
pub fn one_line(text: &str) -> String {
    one_line_of(text, LINE)
}

/// Formats a job's signature as one line, which may be longer than others.
pub fn signature(text: &str) -> String {
    one_line_of(text, SIGNATURE)
}

fn one_line_of(text: &str, most: usize) -> String {
    // Do not read the rest of a long text that will not be shown anyway.
    let beginning = beginning(text, most * 16);
    let line = printable(beginning).split_whitespace().collect::<Vec<_>>().join(" ");
    let short = shortened(&line, most);
    if beginning.len() < text.len() && !short.ends_with('…') { short + " …" } else { short }
}

/// Returns the first line that is not empty, formatted by [`one_line`], with a mark if more lines follow.
pub fn first_line(text: &str) -> String {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let first = one_line(lines.next().unwrap_or_default());
    if lines.next().is_some() && !first.ends_with('…') { first + " …" } else { first }
}

/// Escapes invisible characters and line breaks in a path or a typed text, so that a message shows them.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_invisible(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Formats a value for a message: in double quotes, escaped, and cut if it would be too long.
pub fn quote(text: &str) -> String {
    let mut shown = String::from("\"");
    let mut count = 0;
    for c in text.chars() {
        let escapes = c.escape_debug();
        // `escape_debug` handles combining marks and quotes, but not everything that is invisible by our definition.
        let part: String = if is_invisible(c) && escapes.len() == 1 { c.escape_unicode().collect() } else { escapes.collect() };
        count += part.chars().count();
        if count > QUOTED {
            return shown + "\"…";
        }
        shown.push_str(&part);
    }
    shown + "\""
}

/// Formats a JSON value for a message.
pub fn quote_json(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => quote(text),
        other => {
            let text = other.to_string();
            if text.chars().count() > QUOTED { quote(&text) } else { printable(&text) }
        }
    }
}

/// Returns the beginning of a text, with a mark if more follows. The one place where a text is cut.
pub fn shortened(text: &str, characters: usize) -> String {
    let start = beginning(text, characters);
    if start.len() == text.len() { text.to_owned() } else { format!("{start} …") }
}

/// Like [`shortened`], but keeps the end of the text too, with the mark in the middle.
pub fn shortened_inside(text: &str, characters: usize) -> String {
    let end = characters / 2;
    let start = beginning(text, characters - end);
    let rest = &text[start.len()..];
    match rest.chars().count().checked_sub(end) {
        Some(left_out @ 1..) => format!("{start} … {}", &rest[beginning(rest, left_out).len()..]),
        _ => text.to_owned(),
    }
}

/// Like [`shortened`], but limited in bytes, not counting the mark.
pub fn shortened_to_bytes(text: &str, bytes: usize) -> String {
    let start = &text[..text.floor_char_boundary(bytes)];
    if start.len() == text.len() { text.to_owned() } else { format!("{start} …") }
}

fn beginning(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

/// Formats a path for a message: escaped and cut. Bytes that are not UTF-8 are replaced.
pub fn path_text(path: &Path) -> String {
    shortened(&whole_path(path), PATH)
}

/// Formats a path as an argument of a shell command that a hint shows: never cut.
pub fn shell(path: &Path) -> String {
    let text = whole_path(path);
    let plain = |c: char| c.is_alphanumeric() || "_./+-@%:,=~".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn whole_path(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

/// Returns the known names that a mistyped one most likely means, best first.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    /// Minimum similarity; below it two names have little in common.
    const LIKE: f64 = 0.8;
    let mut scored: Vec<(f64, &str)> = known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(typed, name), name))
        .filter(|(likeness, _)| *likeness >= LIKE)
        .collect();
    scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    scored.into_iter().map(|(_, name)| name).collect()
}

/// Formats an error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests every character: the functions drop or escape exactly those of the categories above, and those that known attacks with
    /// invisible text used are among them.
    #[test]
    fn no_invisible_character_passes_and_every_visible_one_does() {
        let seen = "\u{ad}\u{61c}\u{180e}\u{200b}\u{200e}\u{2028}\u{2029}\u{202e}\u{2066}\u{feff}\u{fff9}\u{e0001}\u{e0041}\u{e007f}\
                    \u{e000}\u{f0000}\u{10ffff}\u{378}\u{7f}\u{9b}\u{3164}\u{115f}\u{fe0f}\u{e0100}\u{34f}\u{0}\u{1b}";
        assert!(seen.chars().all(is_invisible));
        assert!("aZ0 ~\u{a0}äñ日本語Ωж€🙂́अक्षिไทย٣".chars().all(|c| !is_invisible(c)));
        let mut dropped = 0;
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let text = format!("a{c}b");
            let (printed, one, shown, quoted) = (printable(&text), one_line(&text), escaped(&text), quote(&text));
            for out in [&one, &shown, &quoted] {
                assert!(!out.chars().any(is_invisible), "{c:?}: {out:?}");
            }
            if is_invisible(c) && c != '\n' && c != '\t' {
                dropped += 1;
                assert_eq!(printed, "ab", "{c:?}");
                assert!(shown.contains('\\') && quoted.contains('\\'), "{c:?}: {shown} {quoted}");
            } else {
                assert_eq!(printed, text);
            }
        }
        assert!(dropped > 900_000, "most of the code space is private or unassigned: {dropped}");
    }

    #[test]
    fn values_stay_on_their_line() {
        assert_eq!(quote("-7d"), "\"-7d\"");
        assert_eq!(quote("a\nb\u{1b}[31m\u{202e}"), r#""a\nb\u{1b}[31m\u{202e}""#);
        let long = quote(&"ü".repeat(1000));
        assert_eq!(long.chars().count(), QUOTED + 3);
        assert!(long.ends_with("\"…"));
        assert_eq!(escaped("a\u{1b}[2J\n\t\0\u{202e}\u{9b}ü\"'"), "a\\u{1b}[2J\\n\\t\\u{0}\\u{202e}\\u{9b}ü\"'");
    }

    #[test]
    fn a_foreign_text_stays_on_its_line() {
        assert_eq!(printable("a\u{1b}[31mb\r\n\tc\u{202e}d\u{9b}e"), "a[31mb\n\tcde");
        assert_eq!(one_line(" Which\tmailbox \u{1b}[31m.\nMore. "), "Which mailbox [31m. More.");
        assert_eq!(first_line("\n Which\tmailbox.\nMore."), "Which mailbox. …");
        assert_eq!(first_line("\n Which\tmailbox.\n\n"), "Which mailbox.");
        assert_eq!(first_line(""), "");
        for long in ["x".repeat(1 << 20), "\u{200b}".repeat(1 << 20), "x y ".repeat(1 << 20)] {
            let line = one_line(&long);
            assert!(line.chars().count() <= LINE + 2 && line.ends_with('…'), "{line}");
            assert!(first_line(&format!("{long}\n{long}")).chars().count() <= LINE + 2);
        }
    }

    #[test]
    fn the_end_of_a_long_text_is_kept() {
        assert_eq!(shortened_inside("äbcdefg", 7), "äbcdefg");
        assert_eq!(shortened_inside("äbcdefgh", 7), "äbcd … fgh");
        assert_eq!(shortened_inside("", 7), "");
        assert_eq!(shortened_inside(&format!("{}: no", "ü".repeat(5000)), 10), "üüüüü … ü: no");
    }

    #[test]
    fn a_path_in_a_command_is_one_argument() {
        for (path, word) in [
            ("/home/anna/lib-x_1.so", "/home/anna/lib-x_1.so"),
            ("/home/Änne/x.so", "/home/Änne/x.so"),
            ("/a b/x.so", "'/a b/x.so'"),
            ("/a;rm -rf $HOME", "'/a;rm -rf $HOME'"),
            ("/it's", "'/it'\\''s'"),
            ("", "''"),
        ] {
            assert_eq!(shell(Path::new(path)), word);
        }
        assert!(!shell(Path::new("/a\n\u{1b}b")).contains(['\n', '\u{1b}']));
    }

    #[test]
    fn the_nearest_name() {
        let known = ["account", "since", "source", "until", "page_size"];
        for (typed, meant) in [("accuont", "account"), ("acc", "account"), ("pagesize", "page_size"), ("untill", "until")] {
            assert_eq!(nearest(typed, known).first(), Some(&meant), "{typed}");
        }
        assert!(nearest("colour", known).is_empty());
        assert!(nearest("", known).is_empty());
    }
}
