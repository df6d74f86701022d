//! Parameter types: what a job may take, and how a checked value becomes the author's type.
//!
//! The host has already checked every value against the manifest (type, range, format) when it gets here; a value that
//! still does not fit means that host and plugin disagree, and is reported as such.

use crate::def::ParamKind;
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;

/// A type that a job may take as a parameter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a parameter of a job",
    label = "unsupported parameter type",
    note = "supported: String, i8 to i64, u8 to u64, f64, bool, DateTime<Utc>, NaiveDate, PathBuf, and Option<T> of these"
)]
pub trait Param: Sized {
    /// What values it takes.
    const KIND: ParamKind;
    /// Whether the job runs without a value.
    const OPTIONAL: bool = false;
    /// The type of a default in the source.
    type Literal;

    /// The value, from what the host sent; `None` where it sent nothing.
    fn from_value(value: Option<Value>) -> Result<Self, ParamError>;
}

/// A value that does not fit its parameter, although the host had checked it.
#[derive(Debug)]
pub struct ParamError {
    /// The parameter.
    pub name: &'static str,
    /// What was wrong.
    pub reason: String,
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parameter `{}`: {}", self.name, self.reason)
    }
}

fn mismatch(expected: &str, got: Option<&Value>) -> ParamError {
    let got = match got {
        None | Some(Value::Null) => "nothing",
        Some(Value::Bool(_)) => "a boolean",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(_)) => "text",
        Some(_) => "a list or object",
    };
    ParamError { name: "", reason: format!("expected {expected}, got {got} of another kind or size") }
}

/// Takes `name` out of `params` as a `T`. Called by the code that `#[job]` makes.
pub fn take<T: Param>(name: &'static str, params: &mut serde_json::Map<String, Value>) -> Result<T, ParamError> {
    T::from_value(params.remove(name)).map_err(|e| ParamError { name, ..e })
}

macro_rules! integer {
    ($($ty:ty, $kind:expr, $get:ident;)*) => {$(
        impl Param for $ty {
            const KIND: ParamKind = $kind;
            type Literal = $ty;
            fn from_value(value: Option<Value>) -> Result<Self, ParamError> {
                value.as_ref().and_then(Value::$get).and_then(|n| n.try_into().ok())
                    .ok_or_else(|| mismatch(stringify!($ty), value.as_ref()))
            }
        }
    )*};
}

integer! {
    i8, ParamKind::Int(8), as_i64;
    i16, ParamKind::Int(16), as_i64;
    i32, ParamKind::Int(32), as_i64;
    i64, ParamKind::Int(64), as_i64;
    u8, ParamKind::Uint(8), as_u64;
    u16, ParamKind::Uint(16), as_u64;
    u32, ParamKind::Uint(32), as_u64;
    u64, ParamKind::Uint(64), as_u64;
}

macro_rules! text {
    ($($ty:ty, $kind:expr, $expected:literal, |$text:ident| $parse:expr;)*) => {$(
        impl Param for $ty {
            const KIND: ParamKind = $kind;
            type Literal = &'static str;
            fn from_value(value: Option<Value>) -> Result<Self, ParamError> {
                match value {
                    Some(Value::String($text)) => $parse,
                    other => Err(mismatch($expected, other.as_ref())),
                }
            }
        }
    )*};
}

text! {
    String, ParamKind::String, "text", |text| Ok(text);
    PathBuf, ParamKind::Path, "a path", |text| Ok(PathBuf::from(text));
    NaiveDate, ParamKind::Date, "a date", |text| text.parse().map_err(|_| mismatch("a date", None));
    DateTime<Utc>, ParamKind::DateTime, "an RFC 3339 time", |text| {
        DateTime::parse_from_rfc3339(&text).map(|t| t.to_utc()).map_err(|_| mismatch("an RFC 3339 time", None))
    };
}

impl Param for f64 {
    const KIND: ParamKind = ParamKind::Float;
    type Literal = Self;
    fn from_value(value: Option<Value>) -> Result<Self, ParamError> {
        value.as_ref().and_then(Value::as_f64).ok_or_else(|| mismatch("f64", value.as_ref()))
    }
}

impl Param for bool {
    const KIND: ParamKind = ParamKind::Bool;
    type Literal = Self;
    fn from_value(value: Option<Value>) -> Result<Self, ParamError> {
        value.as_ref().and_then(Value::as_bool).ok_or_else(|| mismatch("bool", value.as_ref()))
    }
}

impl<T: Param> Param for Option<T> {
    const KIND: ParamKind = T::KIND;
    const OPTIONAL: bool = true;
    type Literal = T::Literal;
    fn from_value(value: Option<Value>) -> Result<Self, ParamError> {
        match value {
            None | Some(Value::Null) => Ok(None),
            some => T::from_value(some).map(Some),
        }
    }
}

// ---- defaults, at compile time --------------------------------------------------------------------------------------

/// Whether a text default can be read as the parameter's kind; checked while the plugin compiles.
pub const fn is_default(kind: ParamKind, text: &str) -> bool {
    match kind {
        ParamKind::Date => {
            is_date(text.as_bytes()) || matches!(text.as_bytes(), b"today" | b"yesterday") || is_days_ago(text.as_bytes())
        }
        ParamKind::DateTime => is_date(text.as_bytes()) || is_relative(text.as_bytes()) || is_last(text.as_bytes()),
        ParamKind::Path => !text.is_empty(),
        _ => true,
    }
}

/// The default that the manifest carries: a `bool` without one is off unless its flag is given.
pub const fn default_or_off(kind: ParamKind, optional: bool, default: Option<&'static str>) -> Option<&'static str> {
    match (kind, default) {
        (ParamKind::Bool, None) if !optional => Some("false"),
        _ => default,
    }
}

/// `2024-01-31`, by form and range of the numbers; a day that the month does not have is found when the job is run.
const fn is_date(text: &[u8]) -> bool {
    if text.len() != 10 || text[4] != b'-' || text[7] != b'-' {
        return false;
    }
    let mut i = 0;
    while i < 10 {
        if i != 4 && i != 7 && !text[i].is_ascii_digit() {
            return false;
        }
        i += 1;
    }
    let month = (text[5] - b'0') * 10 + text[6] - b'0';
    let day = (text[8] - b'0') * 10 + text[9] - b'0';
    1 <= month && month <= 12 && 1 <= day && day <= 31
}

/// `-` digits and a unit of whole days.
const fn is_days_ago(text: &[u8]) -> bool {
    is_relative(text) && matches!(text, [b'-', .., b'd' | b'w' | b'y'] | [b'-', .., b'm', b'o'])
}

/// `last`, or `last:` and a time. That only a `since` takes it is found when the library is listed.
const fn is_last(text: &[u8]) -> bool {
    match text {
        b"last" => true,
        [b'l', b'a', b's', b't', b':', time @ ..] => is_date(time) || is_relative(time),
        _ => false,
    }
}

/// `now`, `today`, `yesterday`, or `-` digits and one of the units `s h d w min mo y`.
const fn is_relative(text: &[u8]) -> bool {
    if let b"now" | b"today" | b"yesterday" = text {
        return true;
    }
    if text.is_empty() || text[0] != b'-' {
        return false;
    }
    let mut i = 1;
    while i < text.len() && text[i].is_ascii_digit() {
        i += 1;
    }
    let (_, unit) = text.split_at(i);
    i > 1 && i <= 7 && matches!(unit, b"s" | b"h" | b"d" | b"w" | b"min" | b"mo" | b"y")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_become_the_authors_types() {
        assert_eq!(u8::from_value(Some(json!(255))).unwrap(), 255);
        assert_eq!(f64::from_value(Some(json!(3))).unwrap(), 3.0);
        assert_eq!(Option::<String>::from_value(None).unwrap(), None);
        assert_eq!(Option::<String>::from_value(Some(json!("x"))).unwrap().as_deref(), Some("x"));
        let at = DateTime::<Utc>::from_value(Some(json!("2024-01-31T12:00:00+02:00"))).unwrap();
        assert_eq!(at.to_rfc3339(), "2024-01-31T10:00:00+00:00");
    }

    #[test]
    fn what_does_not_fit_names_the_parameter() {
        let mut params = json!({"n": 256}).as_object().unwrap().clone();
        let error = take::<u8>("n", &mut params).unwrap_err().to_string();
        assert!(error.contains("`n`") && error.contains("u8"), "{error}");
        assert!(take::<u8>("n", &mut params).is_err(), "a value that is missing");
    }

    #[test]
    fn text_defaults_of_days() {
        for good in ["today", "yesterday", "-7d", "-1mo", "2024-01-31"] {
            assert!(is_default(ParamKind::Date, good), "{good}");
        }
        for bad in ["now", "last", "-7h", "-30min", "-5s", "tomorrow", "d", "-d"] {
            assert!(!is_default(ParamKind::Date, bad), "{bad}");
        }
    }

    #[test]
    fn text_defaults() {
        for good in ["-7d", "-1mo", "now", "2024-01-31", "-30min", "last", "last:-30d", "last:2024-01-31"] {
            assert!(is_default(ParamKind::DateTime, good), "{good}");
        }
        for bad in [
            "",
            "-",
            "-d",
            "7d",
            "-7m",
            "-7 d",
            "2024-13-01",
            "2024-1-1",
            "tomorrow",
            "-12345678d",
            "last:",
            "last:7d",
            "last-7d",
        ] {
            assert!(!is_default(ParamKind::DateTime, bad), "{bad}");
        }
    }
}
