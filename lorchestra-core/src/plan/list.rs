//! Several values of a list parameter in one text: `a,b` is the values `a` and `b`, and `\,` a comma in a value. Pure.
//!
//! Every list is split, also one of texts and paths: the notation does not depend on the job. A backslash that is not before a comma is an
//! ordinary character.

use super::value::ValueError;

/// Returns the values in a text. Without a comma it is one value, whatever it is.
///
/// # Errors
/// If one of several values is empty, as in `a,,b`: it is more often a mistake than a value.
pub(super) fn split(text: &str) -> Result<Vec<String>, ValueError> {
    let mut values = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, values.last_mut()) {
            ('\\', Some(value)) if chars.peek() == Some(&',') => {
                chars.next();
                value.push(',');
            }
            (',', _) => values.push(String::new()),
            (c, Some(value)) => value.push(c),
            (_, None) => {}
        }
    }
    if values.len() > 1 && values.iter().any(String::is_empty) {
        return Err(ValueError::EmptyItem);
    }
    Ok(values)
}

/// Returns the text that [`parameter values`](super::ParamArg) need for this one value of a list.
pub fn escaped(value: &str) -> String {
    value.replace(',', "\\,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_separated_by_commas() {
        for (text, values) in [
            ("a", &["a"][..]),
            ("", &[""]),
            ("a,b", &["a", "b"]),
            ("Berg\\, Anna,Cole", &["Berg, Anna", "Cole"]),
            ("a\\b,c\\", &["a\\b", "c\\"]),
            ("-1,2", &["-1", "2"]),
        ] {
            assert_eq!(split(text).unwrap(), values, "{text:?}");
        }
        for text in ["a,", ",a", "a,,b", ","] {
            assert_eq!(split(text), Err(ValueError::EmptyItem), "{text:?}");
        }
    }

    #[test]
    fn an_escaped_value_is_one_value() {
        for value in ["a", "", "a,b", ",", "\\,", "a\\"] {
            assert_eq!(split(&escaped(value)).unwrap().len(), 1, "{value:?}");
        }
        assert_eq!(split(&escaped("a,b")).unwrap(), ["a,b"]);
    }
}
