//! Parameter types: what a job may take, and how a checked value becomes the author's type.
//!
//! The host has already checked every value against the manifest (type, range, format) when it gets here; a value that
//! still does not fit means that host and plugin disagree, and is reported as such.

use crate::def::{ParamKind, ValueDef};
use crate::secret::Secret;
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A type that a job may take as a parameter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a parameter of a job",
    label = "unsupported parameter type",
    note = "supported: String, i8 to i64, u8 to u64, f64, bool, DateTime<Utc>, NaiveDate, Duration, PathBuf, Secret, enums that derive ParamEnum; Option<T> and Vec<T> of these"
)]
pub trait Param: Sized {
    /// What values it takes.
    const KIND: ParamKind;
    /// Whether the job runs without a value.
    const OPTIONAL: bool = false;
    /// Whether it takes any number of values.
    const REPEATED: bool = false;
    /// The values there are, for [`ParamKind::Enum`].
    const VALUES: &'static [ValueDef] = &[];
    /// The type of a default in the source.
    type Literal;

    /// The value, from what the host sent; `None` where it sent nothing.
    fn from_value(value: Option<Value>) -> Result<Self, ParamError>;
}

/// A type that takes one value: what an `Option` may be of.
#[diagnostic::on_unimplemented(
    message = "`Option<{Self}>` cannot be a parameter of a job",
    label = "not a type that takes one value",
    note = "a Vec is empty where nothing is given: it needs no Option"
)]
pub trait One: Param {}

/// A type that a `Vec` may be of: its flag may be given any number of times.
#[diagnostic::on_unimplemented(
    message = "`Vec<{Self}>` cannot be a parameter of a job",
    label = "not a type that a list can be made of",
    note = "supported: a Vec of String, numbers, DateTime<Utc>, NaiveDate, Duration, PathBuf, or an enum that derives ParamEnum"
)]
pub trait Listed: One {}

/// The type of a `Vec`'s default, of which there is no value: it is empty where nothing is given.
#[derive(Debug)]
pub enum ListsHaveNoDefault {}

/// The type of a `Secret`'s default, of which there is no value: it would stand in the library.
#[derive(Debug)]
pub enum SecretsHaveNoDefault {}

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

/// A name that is none of an enum's values. Called by the code that `ParamEnum` makes.
pub fn no_such_value<T: Param>(value: Option<&Value>) -> ParamError {
    let names: Vec<&str> = T::VALUES.iter().map(|value| value.name).collect();
    mismatch(&format!("one of {}", names.join(", ")), value)
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
        impl One for $ty {}
        impl Listed for $ty {}
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
        impl One for $ty {}
        impl Listed for $ty {}
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

impl One for f64 {}
impl Listed for f64 {}

/// A length of time; whole seconds, as `30m` or `1h30m`.
impl Param for Duration {
    const KIND: ParamKind = ParamKind::Duration;
    type Literal = &'static str;
    fn from_value(value: Option<Value>) -> Result<Self, ParamError> {
        value
            .as_ref()
            .and_then(Value::as_u64)
            .map(Self::from_secs)
            .ok_or_else(|| mismatch("a duration in seconds", value.as_ref()))
    }
}

impl One for Duration {}
impl Listed for Duration {}

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

impl One for Secret {}

impl Param for bool {
    const KIND: ParamKind = ParamKind::Bool;
    type Literal = Self;
    fn from_value(value: Option<Value>) -> Result<Self, ParamError> {
        value.as_ref().and_then(Value::as_bool).ok_or_else(|| mismatch("bool", value.as_ref()))
    }
}

impl One for bool {}

impl<T: Listed> Param for Vec<T> {
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

impl<T: One> Param for Option<T> {
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

/// Whether a text default can be read as the parameter's kind; checked while the plugin compiles.
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

/// The default that the manifest carries: a `bool` without one is off unless its flag is given.
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

/// `1h30m`: whole numbers, each with a unit of `w d h m s`, largest first, each unit once; at most seven digits each.
pub const fn is_duration(text: &str) -> bool {
    const UNITS: [u8; 5] = *b"wdhms";
    let text = text.as_bytes();
    let mut i = 0;
    let mut unit = 0;
    while i < text.len() {
        let start = i;
        while i < text.len() && text[i].is_ascii_digit() {
            i += 1;
        }
        if i == start || i - start > 7 || i == text.len() {
            return false;
        }
        while unit < UNITS.len() && UNITS[unit] != text[i] {
            unit += 1;
        }
        if unit == UNITS.len() {
            return false;
        }
        unit += 1;
        i += 1;
    }
    !text.is_empty()
}

/// A duration that is not nothing.
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

/// `fail`, `skip`, `allow`, `wait`, `wait=5m`.
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
