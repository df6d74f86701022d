//! Conversion of a user's query to FTS5 syntax.
//!
//! Words match as they are, `"several words"` as a phrase, `wor*` as a prefix. All other FTS5 syntax (AND, NEAR, parentheses,
//! colons) has no meaning here: each word is quoted, so that no input is a syntax error.

use crate::fold::{Term, fold, fold_query};

/// Maximum number of words in a query.
const WORDS: usize = 64;

/// The words of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// Folded.
    terms: Vec<Term>,
}

impl Query {
    /// Parses a query; `None` if it contains no words.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut terms = Vec::new();
        for (n, piece) in text.split('"').enumerate() {
            if n % 2 == 1 {
                terms.extend(fold_query(piece.trim(), false));
            } else {
                for word in piece.split_whitespace() {
                    terms.extend(fold_query(word.trim_end_matches('*'), word.ends_with('*')));
                }
            }
        }
        terms.truncate(WORDS);
        if terms.is_empty() { None } else { Some(Self { terms }) }
    }

    /// Returns an FTS5 query for documents with all words.
    pub(crate) fn all(&self) -> String {
        self.joined(" AND ")
    }

    /// Returns an FTS5 query for documents with any of the words.
    pub(crate) fn any(&self) -> String {
        self.joined(" OR ")
    }

    fn joined(&self, operator: &str) -> String {
        self.terms.iter().map(quoted).collect::<Vec<_>>().join(operator)
    }

    /// Returns where the first of the words is in a text, as an offset in bytes.
    pub(crate) fn position(&self, text: &str) -> Option<usize> {
        // Words of the query, as far as they are words: phrases and pairs by their first one.
        let wanted: Vec<(&str, bool)> = self
            .terms
            .iter()
            .filter_map(|term| {
                let first = term.text.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty())?;
                Some((first, term.is_prefix))
            })
            .collect();
        let is_part = |c: char| c.is_alphanumeric() || fold(c.encode_utf8(&mut [0; 4])).is_empty();
        let mut at = 0;
        while let Some(start) = text[at..].find(char::is_alphanumeric).map(|start| at + start) {
            let end = text[start..].find(|c| !is_part(c)).map_or(text.len(), |end| start + end);
            let word = fold(&text[start..end]);
            // A run without blanks has several words in it.
            let is_found = word
                .split_whitespace()
                .any(|word| wanted.iter().any(|(wanted, is_prefix)| word == *wanted || *is_prefix && word.starts_with(wanted)));
            if is_found {
                return Some(start);
            }
            at = end;
        }
        None
    }

    /// Returns the number of words.
    pub(crate) fn len(&self) -> usize {
        self.terms.len()
    }
}

/// Quotes a term for FTS5.
fn quoted(term: &Term) -> String {
    // FTS5 stops at the first NUL.
    let text = term.text.replace(['"', '\0'], " ");
    format!("\"{}\"{}", text.trim(), if term.is_prefix { "*" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_phrases_and_prefixes() {
        let query = Query::parse("anna \"annual  report\" inv* NOT (x:y) -- \"unclosed").unwrap();
        let all = r#""anna" AND "annual  report" AND "inv"* AND "not" AND "(x:y)" AND "unclosed""#;
        assert_eq!((query.all(), query.len()), (all.to_owned(), 6));
        assert_eq!(Query::parse("a b").unwrap().any(), r#""a" OR "b""#);
    }

    #[test]
    fn the_first_match_is_located_in_the_original_text() {
        for (query, text, from) in [
            ("bucher", "Die Rech\u{ad}nung, zwei Bücher", "Bücher"),
            ("rechnung", "Die Rech\u{ad}nung", "Rech"),
            ("inv*", "no Invoice", "Invoice"),
            ("京都", "会議は東京都で", "会議は東京都で"),
            ("\"annual report\"", "the Annual report", "Annual"),
        ] {
            let at = Query::parse(query).unwrap().position(text).unwrap();
            assert!(text[at..].starts_with(from), "{query}: {}", &text[at..]);
        }
        assert_eq!(Query::parse("port").unwrap().position("report"), None);
    }

    #[test]
    fn queries_without_words() {
        for text in ["", "  ", "\"\"", "* - ( \" : \" ) ^", "\0"] {
            assert_eq!(Query::parse(text), None, "{text:?}");
        }
    }
}
