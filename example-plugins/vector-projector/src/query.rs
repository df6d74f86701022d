//! What a person types, as a query that FTS5 takes. Talks to nobody.
//!
//! Words are looked for as they are, `"several words"` in this order, `wor*` by their beginning. Everything else that FTS5 gives a
//! meaning (AND, NEAR, parentheses, colons) has none here: each word is quoted, so that no input is an error of syntax.

/// Words of a query that are looked at.
const WORDS: usize = 64;

/// The words of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// Quoted for FTS5.
    terms: Vec<String>,
}

impl Query {
    /// Reads a query; `None` where no word is in it.
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

    /// Documents with all of the words.
    pub(crate) fn all(&self) -> String {
        self.terms.join(" AND ")
    }

    /// Documents with any of them.
    pub(crate) fn any(&self) -> String {
        self.terms.join(" OR ")
    }

    /// How many words there are.
    pub(crate) fn len(&self) -> usize {
        self.terms.len()
    }
}

/// What has no letter or digit is nothing to FTS5 either.
fn quoted(text: &str, is_prefix: bool) -> Option<String> {
    if !text.contains(char::is_alphanumeric) {
        return None;
    }
    // FTS5 reads to the first NUL.
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
