//! The form of a text in which words are compared: without case, diacritics and other differences of spelling. Pure functions only.
//!
//! The index and the query use the same function, so what it does to a word matters less than that it does it to both:
//!
//! - compatibility forms are the same (NFKC: `ﬁ`, full width, half width), and so are composed and decomposed ones (NFD, as macOS
//!   writes names);
//! - marks of Latin, Greek, Cyrillic, Hebrew and Arabic are dropped, `ё` is `е`;
//! - letters that have no decomposition are spelled out: `ł` l, `ø` o, `đ` d, `ß` ss, `æ` ae;
//! - soft hyphens and other characters without width are dropped;
//! - Chinese, Japanese and Korean have no blanks between words: a run of their characters becomes its overlapping pairs, and a
//!   single character finds the pairs that start with it.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Returns the folded text. Words are separated as before, and pairs of characters by blanks.
pub(crate) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mut folded = String::with_capacity(text.len() + text.len() / 8);
    let mut run: Vec<char> = Vec::new();
    // Decomposed, so that the marks are seen; composed again, because Korean syllables were taken apart, too.
    let plain: String = text.nfkd().filter(|&c| !is_dropped(c)).nfc().flat_map(char::to_lowercase).collect();
    for c in plain.chars() {
        if is_unspaced(c) {
            run.push(c);
            continue;
        }
        end_run(&mut folded, &mut run);
        match spelled_out(c) {
            Some(letters) => folded.push_str(letters),
            None => folded.push(c),
        }
    }
    end_run(&mut folded, &mut run);
    folded
}

/// A run of characters, as its pairs and its last character.
fn end_run(folded: &mut String, run: &mut Vec<char>) {
    if run.is_empty() {
        return;
    }
    if !folded.is_empty() && !folded.ends_with(char::is_whitespace) {
        folded.push(' ');
    }
    for pair in run.windows(2) {
        folded.extend([pair[0], pair[1], ' ']);
    }
    folded.extend(run.last());
    folded.push(' ');
    run.clear();
}

/// A word of a query: the text to look for, and whether words that start with it count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) text: String,
    pub(crate) is_prefix: bool,
}

/// Folds a word or phrase of a query. The last character of a run has no pair in the middle of a text, so it is left out, and a
/// single one is a prefix.
pub(crate) fn fold_query(text: &str, is_prefix: bool) -> Vec<Term> {
    let mut terms: Vec<Term> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let unspaced = is_unspaced_raw(first);
        let end = rest.find(|c| is_unspaced_raw(c) != unspaced).unwrap_or(rest.len());
        let (piece, more) = rest.split_at(end);
        rest = more;
        let folded = fold(piece);
        if !unspaced {
            if folded.contains(char::is_alphanumeric) {
                terms.push(Term { text: folded.trim().to_owned(), is_prefix: is_prefix && rest.is_empty() });
            }
            continue;
        }
        match folded.trim().rsplit_once(' ') {
            Some((pairs, _)) => terms.push(Term { text: pairs.to_owned(), is_prefix: false }),
            None => terms.push(Term { text: folded.trim().to_owned(), is_prefix: true }),
        }
    }
    terms
}

/// As [`is_unspaced`], of a text that is not folded yet: half-width katakana become full-width ones.
fn is_unspaced_raw(c: char) -> bool {
    is_unspaced(c) || matches!(c, '\u{ff66}'..='\u{ff9f}')
}

/// Returns whether words with this character are written without blanks between them.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{3005}'..='\u{3007}' | '\u{3041}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}' | '\u{ac00}'..='\u{d7a3}')
        && c != '\u{30fb}'
}

/// Returns whether a character of a decomposed text is dropped.
fn is_dropped(c: char) -> bool {
    match c {
        // Without width: soft hyphen, joiners, direction marks, byte order mark, variation selectors.
        '\u{ad}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2064}'
        | '\u{feff}'
        | '\u{fe00}'..='\u{fe0f}' => true,
        // Latin, Greek, Cyrillic; Hebrew; Arabic. Marks of other scripts are vowels or part of a letter.
        '\u{300}'..='\u{36f}'
        | '\u{483}'..='\u{487}'
        | '\u{591}'..='\u{5c7}'
        | '\u{610}'..='\u{61a}'
        | '\u{640}'
        | '\u{64b}'..='\u{65f}'
        | '\u{670}' => c == '\u{640}' || is_combining_mark(c),
        _ => false,
    }
}

/// Letters with a stroke or a shape of their own, which no decomposition takes apart.
fn spelled_out(c: char) -> Option<&'static str> {
    Some(match c {
        'ß' => "ss",
        'æ' => "ae",
        'œ' => "oe",
        'ø' => "o",
        'ł' | 'ƚ' => "l",
        'đ' | 'ð' | 'ɖ' => "d",
        'þ' => "th",
        'ħ' => "h",
        'ŧ' => "t",
        'ı' => "i",
        'ĸ' => "k",
        'ŋ' => "n",
        'ƀ' => "b",
        'ɨ' => "i",
        'ς' => "σ",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_the_same_word_are_the_same() {
        for (one, other) in [
            ("Łódź", "lodz"),
            ("Ærøskøbing", "aeroskobing"),
            ("Đakovo", "dakovo"),
            ("STRASSE", "straße"),
            ("Straẞe", "strasse"),
            ("ёлка", "Елка"),
            ("Bücher", "Bu\u{308}cher"),
            ("Bücher", "bucher"),
            ("Rech\u{ad}nung", "rechnung"),
            ("ﬁnance", "finance"),
            ("ＡＢＣ１２", "abc12"),
            ("Ἀθήνας", "αθηνασ"),
            ("İstanbul", "istanbul"),
            ("ﾃｽﾄ", "テスト"),
            ("한국", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}"),
            ("שָׁלוֹם", "שלום"),
        ] {
            assert_eq!(fold(one).trim(), fold(other).trim(), "{one} {other}");
        }
        assert_ne!(fold("か"), fold("が"), "a mark that is part of a letter");
        assert_ne!(fold("हिन्दी"), fold("हनद"), "vowels");
    }

    #[test]
    fn characters_without_blanks_become_pairs() {
        assert_eq!(fold("会議は東京、2024年"), "会議 議は は東 東京 京 、2024 年 ");
        assert_eq!(fold("Über東京"), "uber 東京 京 ");
        let query = |text: &str, is_prefix| -> Vec<(String, bool)> {
            fold_query(text, is_prefix).into_iter().map(|term| (term.text, term.is_prefix)).collect()
        };
        assert_eq!(query("東京都", false), [("東京 京都".to_owned(), false)]);
        assert_eq!(query("東", false), [("東".to_owned(), true)]);
        assert_eq!(query("2024年", true), [("2024".to_owned(), false), ("年".to_owned(), true)]);
        assert_eq!(query("Büro", true), [("buro".to_owned(), true)]);
        assert_eq!(query("a-b", false), [("a-b".to_owned(), false)]);
        assert_eq!(query("、", false), []);
    }
}
