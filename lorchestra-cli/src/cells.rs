//! Text measured in terminal cells: how wide it is, cut to a width, padded to one, wrapped at one. Pure functions.
//!
//! A character is not a cell: those of Chinese, Japanese and Korean and most emoji take two, and a combining mark takes none. `{:10}` counts
//! characters, so a column of foreign text must be padded with [`padded`].

use unicode_width::UnicodeWidthStr;

/// Number of cells of a text on a terminal.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// Number of cells of the widest text.
pub(crate) fn widest<'a>(texts: impl IntoIterator<Item = &'a str>) -> usize {
    texts.into_iter().map(width).max().unwrap_or(0)
}

/// Adds spaces up to this many cells. A wider text is unchanged.
pub(crate) fn padded(text: &str, cells: usize) -> String {
    format!("{text}{:1$}", "", cells.saturating_sub(width(text)))
}

/// Like [`padded`], with the spaces first.
pub(crate) fn aligned_right(text: &str, cells: usize) -> String {
    format!("{:1$}{text}", "", cells.saturating_sub(width(text)))
}

/// Shortens a text to this many cells, with a mark if something is cut.
pub(crate) fn fitted(text: &str, cells: usize) -> String {
    if width(text) <= cells {
        return text.to_owned();
    }
    let start = &text[..beginning(text, cells.saturating_sub(1))];
    format!("{}…", start.trim_end())
}

/// The byte where the longest beginning of a text ends that has at most this many cells. Marks stay with the character that they combine with.
fn beginning(text: &str, cells: usize) -> usize {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    ends.take_while(|end| width(&text[..*end]) <= cells).last().unwrap_or(0)
}

/// Splits a text after this many cells: `("", …)` if not even its first character has room.
pub(crate) fn split_at(text: &str, cells: usize) -> (&str, &str) {
    text.split_at(beginning(text, cells))
}

/// Breaks a text into lines of at most this many cells, at spaces, and within a word only if the word is longer than a line.
pub(crate) fn folded(text: &str, cells: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for mut word in text.split_whitespace() {
        if !line.is_empty() && width(&line) + 1 + width(word) <= cells {
            line.push(' ');
            line.push_str(word);
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        while width(word) > cells {
            // A character that is wider than the line is not split.
            let first = word.chars().next().map_or(0, char::len_utf8);
            let (start, rest) = word.split_at(beginning(word, cells).max(first));
            lines.push(start.to_owned());
            word = rest;
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// Wraps each line of a text at spaces to this many cells, and indents what follows in it by `indent`. `None`: no limit. A word that is
/// longer than a line stays whole.
pub(crate) fn wrapped(text: &str, cells: Option<usize>, indent: usize) -> String {
    let Some(cells) = cells else { return text.to_owned() };
    let cells = cells.max(indent + 20);
    let mut out = Vec::new();
    for mut rest in text.split('\n') {
        let blanks = rest.chars().take_while(|c| *c == ' ').count();
        let mut line = String::new();
        loop {
            let end = beginning(rest, cells.saturating_sub(width(&line)));
            if end == rest.len() {
                break;
            }
            let start = if line.is_empty() { blanks } else { 0 };
            // A line may end right before a space.
            let fits = &rest[..if rest[end..].starts_with(' ') { end + 1 } else { end }];
            let last = fits.rfind(' ').filter(|at| *at > start);
            let Some(cut) = last.or_else(|| rest[end..].find(' ').map(|at| at + end)) else { break };
            line.push_str(&rest[..cut]);
            out.push(std::mem::take(&mut line));
            line = " ".repeat(indent.max(if indent == 0 { blanks } else { 0 }));
            rest = rest[cut..].trim_start();
        }
        line.push_str(rest);
        out.push(line);
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_counted_not_characters() {
        for (text, cells) in [("mail", 4), ("メール", 6), ("한국어", 6), ("📬", 2), ("e\u{301}te\u{301}", 3), ("ü", 1), ("", 0)]
        {
            assert_eq!(width(text), cells, "{text}");
            assert_eq!(width(&padded(text, 8)), 8, "{text}");
            assert_eq!(width(&aligned_right(text, 8)), 8, "{text}");
        }
        assert_eq!(padded("メール", 5), "メール", "already wider");
        assert_eq!(widest(["ab", "メ", "メール"]), 6);
    }

    #[test]
    fn a_cut_text_never_has_more_cells() {
        assert_eq!(fitted("メールbox", 9), "メールbox");
        assert_eq!(fitted("メールbox", 8), "メールb…");
        // Half a character is not shown.
        assert_eq!(fitted("メールbox", 6), "メー…");
        assert_eq!(fitted("e\u{301}te\u{301}s", 3), "e\u{301}t…", "a mark stays with its letter");
        assert_eq!(fitted("two words", 5), "two…");
        for text in ["メールbox📬e\u{301}te\u{301}", "plain text", "📬📬📬"] {
            for cells in 1..20 {
                let cut = fitted(text, cells);
                assert!(width(&cut) <= cells, "{cells}: {cut}");
                assert!(width(text) > cells || cut == text, "{cells}: {cut}");
            }
        }
    }

    #[test]
    fn folded_lines_have_at_most_their_cells() {
        assert_eq!(folded("one two three", 7), ["one two", "three"]);
        assert_eq!(folded("a-long-word", 4), ["a-lo", "ng-w", "ord"]);
        assert_eq!(folded("x メール", 4), ["x", "メー", "ル"]);
        assert_eq!(folded("メール", 1), ["メ", "ー", "ル"], "ends");
        assert_eq!(folded(" ", 4), Vec::<String>::new());
        assert_eq!(split_at("メール", 5), ("メー", "ル"));
    }

    #[test]
    fn long_lines_are_wrapped_at_spaces() {
        let text = "  --flag  one two three four five six seven\nshort\n\na-word-that-is-longer-than-any-line-of-this-terminal b";
        let expected = "  --flag  one two three four\n          five six seven\nshort\n\na-word-that-is-longer-than-any-line-of-this-terminal\n          b";
        assert_eq!(wrapped(text, Some(30), 10), expected);
        assert_eq!(wrapped(text, None, 10), text);
        let umlauts = "ü".repeat(28) + " ü ü";
        assert_eq!(wrapped(&umlauts, Some(30), 0), format!("{} ü\nü", "ü".repeat(28)));
        assert_eq!(wrapped(&umlauts, Some(29), 0), format!("{}\nü ü", "ü".repeat(28)));
        let wide = "メ".repeat(14) + " メ メ";
        assert_eq!(wrapped(&wide, Some(31), 0), format!("{} メ\nメ", "メ".repeat(14)));
        assert_eq!(wrapped(&wide, Some(30), 0), format!("{}\nメ メ", "メ".repeat(14)));
    }
}
