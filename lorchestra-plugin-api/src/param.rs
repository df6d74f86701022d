//! Parameter types: which types a job may take, and how a value becomes the author's type.
//!
//! | type | on the command line | default in `#[param(default = …)]` |
//! | --- | --- | --- |
//! | `String` | any UTF-8 text | `"text"` |
//! | `i8` … `i64`, `u8` … `u64` | an integer in the type's range | `500` |
//! | `f64` | a finite number | `0.5` |
//! | `bool` | `--name` or `--no-name`; off if neither is given | `true` |
//! | `DateTime<Utc>` | `2024-01-31`, RFC 3339, or relative to now: `-7d`, `-30min`, `now`, `today`, `yesterday`; for `since` also `last` | the same as text |
//! | `NaiveDate` | `2024-01-31`, `-7d`, `today`, `yesterday` | the same as text |
//! | `Duration` | `90s`, `1h30m`, `1.5s`, `500ms` (units `w d h m s ms`, largest first) | `"30m"` |
//! | `PathBuf` | a path in UTF-8 | `"file.csv"` |
//! | [`Secret`] | where the secret is: `env:NAME`, `file:PATH`, `credential:NAME` | none |
//! | an enum that derives [`ParamEnum`](crate::ParamEnum) | the name of a variant | `"nd-json"` |
//! | `Option<T>` of the above | as `T`; `None` if the flag is missing | none |
//! | `Vec<T>` of the above, except `bool` and `Secret` | as `T`, repeatable or separated by commas (`\\,` is a comma in a value); empty if the flag is missing | none |
//!
//! A parameter without a default that is not a `bool`, `Option` or `Vec` is required.
//!
//! The host checks every value against the manifest (type, range, format) before the job starts. If a value still cannot be
//! converted here, host and plugin disagree, and the call fails with a [`ParamError`].

use crate::def::{ParamKind, ValueDef};
use crate::secret::Secret;
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A type that a job may take as a parameter. See the [module](self) for the list.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a parameter of a job",
    label = "unsupported parameter type",
    note = "supported: String, i8 to i64, u8 to u64, f64, bool, DateTime<Utc>, NaiveDate, Duration, PathBuf, Secret, enums that derive ParamEnum, and Option<T> or Vec<T> of these"
)]
pub trait Param: Sized {
    /// Which values the parameter accepts.
    const KIND: ParamKind;
    /// Whether the job runs without a value.
    const OPTIONAL: bool = false;
    /// Whether the flag may be given any number of times.
    const REPEATED: bool = false;
    /// The allowed values of an enum.
    const VALUES: &'static [ValueDef] = &[];
    /// The type of the literal in `#[param(default = …)]`.
    type Literal;

    /// Converts the value that the host sent. `None` means that it sent no value.
    fn from_value(value: Option<Value>) -> Result<Self, ParamError>;
}

/// A type with exactly one value, which `Option` can wrap.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`Option<{Self}>` cannot be a parameter of a job",
    label = "not a single-value type",
    note = "use `Vec<T>` without `Option`: it is empty if the flag is not given"
)]
pub trait Scalar: Param {}

/// A type that `Vec` can hold.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`Vec<{Self}>` cannot be a parameter of a job",
    label = "unsupported list item type",
    note = "supported: Vec of String, numbers, DateTime<Utc>, NaiveDate, Duration, PathBuf, or an enum that derives ParamEnum"
)]
pub trait ListItem: Scalar {}

/// The literal type of a `Vec`. It has no values, because a list cannot have a default: without a flag it is empty.
#[doc(hidden)]
#[derive(Debug)]
pub enum ListsHaveNoDefault {}

/// The literal type of a `Secret`. It has no values, because a default secret would be readable in the library file.
#[doc(hidden)]
#[derive(Debug)]
pub enum SecretsHaveNoDefault {}

/// A value that could not be converted, although the host had checked it.
#[derive(Debug)]
pub struct ParamError {
    /// Name of the parameter.
    pub name: &'static str,
    /// The expected type and the type of the value.
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
    ParamError { name: "", reason: format!("expected {expected}, got {got} of a different type or size") }
}

/// Creates the error for a text that is not a value of the enum. Called by code that `ParamEnum` generates.
#[doc(hidden)]
pub fn no_such_value<T: Param>(value: Option<&Value>) -> ParamError {
    let names: Vec<&str> = T::VALUES.iter().map(|value| value.name).collect();
    mismatch(&format!("one of {}", names.join(", ")), value)
}

/// Removes `name` from `params` and converts it to `T`. Called by code that `#[job]` generates.
#[doc(hidden)]
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
        impl Scalar for $ty {}
        impl ListItem for $ty {}
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
        impl Scalar for $ty {}
        impl ListItem for $ty {}
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

impl Scalar for f64 {}
impl ListItem for f64 {}

/// Whole milliseconds, written as `30m`, `1h30m`, `1.5s` or `500ms`.
impl Param for Duration {
    const KIND: ParamKind = ParamKind::Duration;
    type Literal = &'static str;
    fn from_value(value: Option<Value>) -> Result<Self, ParamError> {
        let seconds = match &value {
            Some(Value::Number(number)) => number.as_u64().map(Self::from_secs).or_else(|| {
                // The host sends a fraction only for milliseconds; the nearest double is not exactly one.
                let seconds = number.as_f64().filter(|seconds| (0.0..1e12).contains(seconds))?;
                Some(Self::from_millis((seconds * 1000.0).round() as u64))
            }),
            _ => None,
        };
        seconds.ok_or_else(|| mismatch("a duration in seconds", value.as_ref()))
    }
}

impl Scalar for Duration {}
impl ListItem for Duration {}

impl Param for Secret {
    const KIND: ParamKind = ParamKind::Secret;
    type Literal = SecretsHaveNoDefault;
    fn from_value(value: Option<Value>) -> Result<Self, ParamError> {
        match value {
            Some(Value::String(text)) => Ok(Self::new(text)),
            other => Err(mismatch("a secret", other.as_ref())),
        }
    }
}

impl Scalar for Secret {}

impl Param for bool {
    const KIND: ParamKind = ParamKind::Bool;
    type Literal = Self;
    fn from_value(value: Option<Value>) -> Result<Self, ParamError> {
        value.as_ref().and_then(Value::as_bool).ok_or_else(|| mismatch("bool", value.as_ref()))
    }
}

impl Scalar for bool {}

impl<T: ListItem> Param for Vec<T> {
    const KIND: ParamKind = T::KIND;
    const REPEATED: bool = true;
    const VALUES: &'static [ValueDef] = T::VALUES;
    type Literal = ListsHaveNoDefault;
    fn from_value(value: Option<Value>) -> Result<Self, ParamError> {
        match value {
            None | Some(Value::Null) => Ok(Self::new()),
            Some(Value::Array(values)) => values.into_iter().map(|value| T::from_value(Some(value))).collect(),
            other => Err(mismatch("a list", other.as_ref())),
        }
    }
}

impl<T: Scalar> Param for Option<T> {
    const KIND: ParamKind = T::KIND;
    const OPTIONAL: bool = true;
    const VALUES: &'static [ValueDef] = T::VALUES;
    type Literal = T::Literal;
    fn from_value(value: Option<Value>) -> Result<Self, ParamError> {
        match value {
            None | Some(Value::Null) => Ok(None),
            some => T::from_value(some).map(Some),
        }
    }
}

// ---- defaults, at compile time --------------------------------------------------------------------------------------

/// Returns whether a text default is valid for the parameter's kind. Evaluated while the plugin compiles.
#[doc(hidden)]
pub const fn is_default(kind: ParamKind, values: &[ValueDef], text: &str) -> bool {
    match kind {
        ParamKind::Duration => is_duration(text),
        ParamKind::Enum => {
            let mut i = 0;
            while i < values.len() {
                if same(values[i].name.as_bytes(), text.as_bytes()) {
                    return true;
                }
                i += 1;
            }
            false
        }
        ParamKind::Date => {
            is_date(text.as_bytes()) || matches!(text.as_bytes(), b"today" | b"yesterday") || is_days_ago(text.as_bytes())
        }
        ParamKind::DateTime => is_date(text.as_bytes()) || is_relative(text.as_bytes()) || is_last(text.as_bytes()),
        ParamKind::Path => !text.is_empty(),
        _ => true,
    }
}

/// Returns the default for the manifest: a `bool` without one defaults to `false`.
#[doc(hidden)]
pub const fn default_or_off(kind: ParamKind, optional: bool, default: Option<&'static str>) -> Option<&'static str> {
    match (kind, default) {
        (ParamKind::Bool, None) if !optional => Some("false"),
        _ => default,
    }
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// Returns whether the text is a duration such as `1h30m`: integers of at most seven digits, each with one of the units `w d h m s ms`,
/// largest first, each unit at most once. Seconds, if they come last, may have up to three decimals.
#[doc(hidden)]
pub const fn is_duration(text: &str) -> bool {
    const UNITS: [u8; 5] = *b"wdhms";
    let text = text.as_bytes();
    let mut i = 0;
    let mut unit = 0;
    while i < text.len() {
        let end = digits_end(text, i);
        if end == i || end - i > 7 || end == text.len() {
            return false;
        }
        if text[end] == b'.' {
            let decimals = digits_end(text, end + 1) - end - 1;
            let last = end + decimals + 1;
            return unit < UNITS.len() && 1 <= decimals && decimals <= 3 && last + 1 == text.len() && text[last] == b's';
        }
        if text.len() == end + 2 && text[end] == b'm' && text[end + 1] == b's' {
            return true;
        }
        while unit < UNITS.len() && UNITS[unit] != text[end] {
            unit += 1;
        }
        if unit == UNITS.len() {
            return false;
        }
        unit += 1;
        i = end + 1;
    }
    !text.is_empty()
}

/// Returns the position after the digits that begin at `from`.
const fn digits_end(text: &[u8], from: usize) -> usize {
    let mut i = from;
    while i < text.len() && text[i].is_ascii_digit() {
        i += 1;
    }
    i
}

/// Returns whether the text is a duration greater than zero.
#[doc(hidden)]
pub const fn is_limit(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut i = 0;
    let mut any = false;
    while i < bytes.len() {
        any |= matches!(bytes[i], b'1'..=b'9');
        i += 1;
    }
    any && is_duration(text)
}

/// Returns whether the text is an overlap policy: `fail`, `skip`, `allow`, `wait` or `wait=5m`.
#[doc(hidden)]
pub const fn is_overlap(text: &str) -> bool {
    match text.as_bytes() {
        b"fail" | b"skip" | b"allow" | b"wait" => true,
        [b'w', b'a', b'i', b't', b'=', limit @ ..] => match std::str::from_utf8(limit) {
            Ok(limit) => is_duration(limit),
            Err(_) => false,
        },
        _ => false,
    }
}

/// `2024-01-31`. Checks the form, the month and a day up to 31; a day such as February 30 is only detected when the job runs.
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

/// `-`, digits, and a unit of whole days.
const fn is_days_ago(text: &[u8]) -> bool {
    is_relative(text) && matches!(text, [b'-', .., b'd' | b'w' | b'y'] | [b'-', .., b'm', b'o'])
}

/// `last`, or `last:` and a time. Only `since` accepts it; the host checks that when it lists the library.
const fn is_last(text: &[u8]) -> bool {
    match text {
        b"last" => true,
        [b'l', b'a', b's', b't', b':', time @ ..] => is_date(time) || is_relative(time),
        _ => false,
    }
}

/// `now`, `today`, `yesterday`, or `-`, digits, and one of the units `s h d w min mo y`.
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
    fn a_conversion_error_names_the_parameter() {
        let mut params = json!({"n": 256}).as_object().unwrap().clone();
        let error = take::<u8>("n", &mut params).unwrap_err().to_string();
        assert!(error.contains("`n`") && error.contains("u8"), "{error}");
        assert!(take::<u8>("n", &mut params).is_err(), "a value that is missing");
    }

    #[test]
    fn text_defaults_of_days() {
        for good in ["today", "yesterday", "-7d", "-1mo", "2024-01-31"] {
            assert!(is_default(ParamKind::Date, &[], good), "{good}");
        }
        for bad in ["now", "last", "-7h", "-30min", "-5s", "tomorrow", "d", "-d"] {
            assert!(!is_default(ParamKind::Date, &[], bad), "{bad}");
        }
    }

    #[test]
    fn durations_and_policies() {
        for good in ["30m", "1h30m", "0s", "2w1d1h1m1s", "9999999s"] {
            assert!(is_duration(good) && is_overlap(&format!("wait={good}")), "{good}");
        }
        for bad in ["", "30", "m", "30m1h", "1h1h", "1 h", "-1h", "1.5h", "1mo", "12345678s", "1H"] {
            assert!(!is_duration(bad) && !is_overlap(&format!("wait={bad}")), "{bad}");
        }
        assert!(is_limit("1s") && is_limit("0h10m") && !is_limit("0s") && !is_limit("0h0m") && !is_limit("10"));
        assert!(["fail", "skip", "allow", "wait"].into_iter().all(is_overlap));
        assert!(!["", "Fail", "wait:5m", "never"].into_iter().any(is_overlap));
        let values = [ValueDef { name: "json", docs: "" }, ValueDef { name: "nd-json", docs: "" }];
        assert!(is_default(ParamKind::Enum, &values, "nd-json"));
        assert!(!is_default(ParamKind::Enum, &values, "nd") && !is_default(ParamKind::Enum, &values, "jsonx"));
    }

    #[test]
    fn lists_durations_and_secrets() {
        assert_eq!(Vec::<u8>::from_value(None).unwrap(), Vec::<u8>::new());
        assert_eq!(Vec::<u8>::from_value(Some(json!([1, 2]))).unwrap(), [1, 2]);
        assert!(Vec::<u8>::from_value(Some(json!([1, 256]))).is_err() && Vec::<u8>::from_value(Some(json!(1))).is_err());
        assert_eq!(Duration::from_value(Some(json!(90))).unwrap(), Duration::from_secs(90));
        let secret = Secret::from_value(Some(json!("hunter22"))).unwrap();
        assert_eq!(secret.expose(), "hunter22");
        assert!(!format!("{secret:?} {secret}").contains("hunter"));
    }

    #[test]
    fn text_defaults() {
        for good in ["-7d", "-1mo", "now", "2024-01-31", "-30min", "last", "last:-30d", "last:2024-01-31"] {
            assert!(is_default(ParamKind::DateTime, &[], good), "{good}");
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
            assert!(!is_default(ParamKind::DateTime, &[], bad), "{bad}");
        }
    }
}
