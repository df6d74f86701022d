//! Conversion of a user's query to FTS5 syntax.
//!
//! Words match as they are, `"several words"` as a phrase, `wor*` as a prefix. All other FTS5 syntax (AND, MIN_SIMILARITY, parentheses,
//! colons) has no meaning here: each word is quoted, so that no input is a syntax error.

/// Maximum number of words in a query.
const WORDS: usize = 64;

/// The words of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// Quoted for FTS5.
    terms: Vec<String>,
}

impl Query {
    /// Parses a query; `None` if it contains no words.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut terms = Vec::new();
        for (n, piece) in text.split('"').enumerate() {
            if n % 2 == 1 {
                terms.extend(quoted(piece, false));
            } else {
                for word in piece.split_whitespace() {
                    terms.extend(quoted(word.trim_end_matches('*'), word.ends_with('*')));
                }
            }
        }
        terms.truncate(WORDS);
        if terms.is_empty() { None } else { Some(Self { terms }) }
    }

    /// Returns an FTS5 query for documents with all words.
    pub(crate) fn all(&self) -> String {
        self.terms.join(" AND ")
    }

    /// Returns an FTS5 query for documents with any of the words.
    pub(crate) fn any(&self) -> String {
        self.terms.join(" OR ")
    }

    /// Returns the number of words.
    pub(crate) fn len(&self) -> usize {
        self.terms.len()
    }
}

/// FTS5 also ignores text without letters and digits.
fn quoted(text: &str, is_prefix: bool) -> Option<String> {
    if !text.contains(char::is_alphanumeric) {
        return None;
    }
    // FTS5 stops at the first NUL.
    let text = text.replace(['"', '\0'], " ");
    Some(format!("\"{}\"{}", text.trim(), if is_prefix { "*" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_phrases_and_beginnings() {
        let query = Query::parse("anna \"annual  report\" inv* NOT (x:y) -- \"unclosed").unwrap();
        let all = r#""anna" AND "annual  report" AND "inv"* AND "NOT" AND "(x:y)" AND "unclosed""#;
        assert_eq!((query.all(), query.len()), (all.to_owned(), 6));
        assert_eq!(Query::parse("a b").unwrap().any(), r#""a" OR "b""#);
    }

    #[test]
    fn nothing_to_look_for() {
        for text in ["", "  ", "\"\"", "* - ( \" : \" ) ^", "\0"] {
            assert_eq!(Query::parse(text), None, "{text:?}");
        }
    }
}
