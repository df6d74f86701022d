//! Parses one parameter's value: from the text that a person typed, or the default in a manifest, to the value that the job receives. Owns
//! which values each [`ParamKind`] accepts; called by [`super::resolve`] and, for [`check_default`], by the catalog. Pure functions only.
//!
//! The result has exactly the author's type: the job's side never has to refuse it.

use super::duration::{self, DurationError};
use super::last;
use super::time::{self, TimeError};
use chrono::{DateTime, Utc};
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{ParamManifest, ParamOutline, ValueManifest};
use serde_json::{Number, Value};
use std::time::Duration;
use thiserror::Error;

/// Why a text is not a value of its parameter's kind, and what to write instead. Does not repeat the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ValueError {
    /// The text is empty, but a value is required.
    #[error("is empty; write {example}")]
    Empty {
        /// A valid value.
        example: &'static str,
    },
    /// One of several values of a list is empty.
    #[error("has an empty value between commas; remove the comma, or write \\, for a comma in a value")]
    EmptyItem,
    /// The meaning is clear, but the form is not accepted.
    #[error("{reason}; write {write}")]
    Form {
        /// What is wrong with the form.
        reason: &'static str,
        /// The same value in an accepted form.
        write: String,
    },
    /// It is not a value of this kind.
    #[error("is not {kind}; write {example}")]
    Kind {
        /// The expected kind, with its article.
        kind: String,
        /// A valid value.
        example: &'static str,
    },
    /// A whole number outside the range of the author's type.
    #[error("is outside the range of {kind}; write a number from {min} to {max}")]
    Range {
        /// The type.
        kind: &'static str,
        /// The smallest number in range.
        min: i128,
        /// The largest number in range.
        max: i128,
    },
    /// Infinite, not a number, or too large for a 64-bit float.
    #[error("is not a finite number; write a number between -1.79e308 and 1.79e308")]
    NotFinite,
    /// The text or path contains a NUL byte.
    #[error("contains a NUL character; remove it")]
    Nul,
    /// It is not one of an enum's values.
    #[error("is not one of its values; write {values}")]
    Choice {
        /// The enum's values.
        values: String,
    },
    /// It is not a duration.
    #[error(transparent)]
    Duration(#[from] DurationError),
    /// It is not the source of a secret. It may be the secret itself, so it is not repeated.
    #[error("is not a secret source; other users can read a command line, so write env:NAME, file:PATH or credential:NAME")]
    Source,
    /// The part after `last:` is not a time.
    #[error("after last: {0}")]
    AfterLast(TimeError),
    /// It is not a time or a day.
    #[error(transparent)]
    Time(#[from] TimeError),
}

/// A value that matches its parameter's type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TypedValue {
    /// A time, kept as one for the window.
    Instant(DateTime<Utc>),
    /// Any other value, as the job receives it.
    Json(Value),
}

impl TypedValue {
    /// Returns the value as the job receives it.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Instant(at) => Value::String(time::show(*at)),
            Self::Json(value) => value.clone(),
        }
    }
}

/// The type of a parameter: the part of its manifest that decides which values it accepts.
#[derive(Debug, Clone, Copy)]
pub struct ParamType<'a> {
    /// The parameter's name: only `since` accepts `last`.
    pub name: &'a str,
    /// The kind of each value.
    pub kind: ParamKind,
    /// Whether it is a list.
    pub repeated: bool,
    /// The values of an enum.
    pub values: &'a [ValueManifest],
}

impl<'a> From<&'a ParamManifest> for ParamType<'a> {
    fn from(param: &'a ParamManifest) -> Self {
        Self { name: &param.name, kind: param.kind, repeated: param.repeated, values: &param.values }
    }
}

impl<'a> From<&'a ParamOutline> for ParamType<'a> {
    fn from(param: &'a ParamOutline) -> Self {
        Self { name: &param.name, kind: param.kind, repeated: param.repeated, values: &param.values }
    }
}

/// Describes the values of the parameter, with an article where there is one: `a whole number from 0 to 255`.
pub fn describe(ty: ParamType<'_>) -> String {
    match ty.kind {
        ParamKind::String => "text".into(),
        ParamKind::Int(_) | ParamKind::Uint(_) => whole_number(ty.kind),
        ParamKind::Float => "a number".into(),
        ParamKind::Bool => "true or false".into(),
        ParamKind::DateTime => "a time".into(),
        ParamKind::Date => "a day".into(),
        ParamKind::Path => "a path".into(),
        ParamKind::Duration => "a duration".into(),
        ParamKind::Enum => format!("one of {}", names(ty.values)),
        ParamKind::Secret => "the source of a secret".into(),
    }
}

/// Returns the placeholder for the value in a usage line: `--page-size N`.
pub const fn placeholder(kind: ParamKind) -> &'static str {
    match kind {
        ParamKind::String => "TEXT",
        ParamKind::Int(_) | ParamKind::Uint(_) => "N",
        ParamKind::Float => "NUMBER",
        ParamKind::Bool => "true|false",
        ParamKind::DateTime => "TIME",
        ParamKind::Date => "DATE",
        ParamKind::Path => "PATH",
        ParamKind::Duration => "DURATION",
        ParamKind::Enum => "VALUE",
        ParamKind::Secret => "SOURCE",
    }
}

fn whole_number(kind: ParamKind) -> String {
    let (min, max) = limits(kind);
    format!("a whole number from {min} to {max}")
}

/// The values of an enum, joined for a sentence.
fn names(values: &[ValueManifest]) -> String {
    let names: Vec<&str> = values.iter().map(|value| value.name.as_str()).collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Checks that the default in a manifest is a value of the parameter. A parameter without a default is valid.
///
/// Defaults relative to now are resolved against the year 2000: one that is valid then is valid on every later day.
///
/// # Errors
/// The problem, as a fragment to follow the parameter's name. It is a bug of the plugin, not of its caller.
pub fn check_default(ty: ParamType<'_>, json: &Value) -> Result<(), String> {
    let year_2000 = DateTime::from_timestamp(946_684_800, 0).unwrap_or_default();
    if let Some(last) = default_last(ty.name, ty.kind, json) {
        return last.at(None, year_2000).map(drop).map_err(|why| invalid_default(json, why));
    }
    default(ty, json, year_2000).map(drop)
}

/// Returns the manifest's default if it refers to the bookmark.
pub(super) fn default_last<'a>(name: &str, kind: ParamKind, json: &'a Value) -> Option<last::Last<'a>> {
    json.as_str().filter(|_| last::accepts_last(name, kind)).and_then(last::read)
}

/// Describes why a default is invalid.
pub(super) fn invalid_default(json: &Value, why: impl std::fmt::Display) -> String {
    format!("the default {} {why}", crate::text::quote_json(json))
}

/// Returns the manifest's default; `None` if there is none.
pub(super) fn default(ty: ParamType<'_>, json: &Value, now: DateTime<Utc>) -> Result<Option<TypedValue>, String> {
    let value = match (json, ty.kind) {
        (Value::Null, _) => return Ok(None),
        _ if ty.repeated => return Err("has a default, but a list cannot have one".to_owned()),
        (Value::Bool(on), ParamKind::Bool) => Ok(TypedValue::Json((*on).into())),
        // A number is parsed from its text, so that there is one rule for valid numbers, and 1.0 is not a whole number.
        (Value::Number(number), ParamKind::Int(_) | ParamKind::Uint(_) | ParamKind::Float) => {
            parse(ty, &number.to_string(), now).map_err(|e| e.to_string())
        }
        (
            Value::String(text),
            ParamKind::String | ParamKind::DateTime | ParamKind::Date | ParamKind::Path | ParamKind::Duration | ParamKind::Enum,
        ) => parse(ty, text, now).map_err(|e| e.to_string()),
        _ => Err(format!("is not {}", describe(ty))),
    };
    value.map(Some).map_err(|why| invalid_default(json, why))
}

/// Checks a value in the form in which the job receives it, the only form in a spec: times absolute, durations in seconds.
pub(super) fn check_resolved(ty: ParamType<'_>, json: &Value) -> Result<(), String> {
    if ty.repeated {
        let Value::Array(values) = json else { return Err("is not a list".into()) };
        return values.iter().try_for_each(|value| check_resolved(ParamType { repeated: false, ..ty }, value));
    }
    let example = match (json, ty.kind) {
        (Value::Number(seconds), ParamKind::Duration) => match seconds.as_f64().map(Duration::try_from_secs_f64) {
            // The only form in which a duration is passed on: whole milliseconds.
            Some(Ok(duration)) if in_seconds(whole_milliseconds(duration)) == *json => return Ok(()),
            _ => "a number of seconds with at most three decimals".to_owned(),
        },
        (_, ParamKind::Duration) => "a number of seconds".to_owned(),
        (Value::String(text), ParamKind::DateTime) => match text.parse::<DateTime<Utc>>() {
            Ok(at) if time::show(at) == *text => return Ok(()),
            _ => "a time in UTC such as 2024-03-30T12:00:00Z".to_owned(),
        },
        _ => describe(ty),
    };
    // A relative day would be another day tomorrow: require the absolute form.
    match default(ty, json, DateTime::UNIX_EPOCH) {
        Ok(Some(value)) if value.to_json() == *json => Ok(()),
        _ => Err(format!("is not {example}")),
    }
}

/// Parses `text`.
pub(super) fn parse(ty: ParamType<'_>, text: &str, now: DateTime<Utc>) -> Result<TypedValue, ValueError> {
    let kind = ty.kind;
    Ok(match kind {
        ParamKind::DateTime => TypedValue::Instant(time::parse(text, now)?),
        ParamKind::Date => TypedValue::Json(time::parse_date(text, now)?.to_string().into()),
        ParamKind::Int(_) | ParamKind::Uint(_) => TypedValue::Json(integer(kind, text)?.into()),
        ParamKind::Float => TypedValue::Json(float(text)?.into()),
        ParamKind::Bool => TypedValue::Json(boolean(text)?.into()),
        ParamKind::Path if text.is_empty() => {
            return Err(ValueError::Empty { example: "a path, such as . for the working directory" });
        }
        ParamKind::String | ParamKind::Path if text.contains('\0') => return Err(ValueError::Nul),
        ParamKind::String | ParamKind::Path => TypedValue::Json(text.into()),
        ParamKind::Duration => {
            // Also accepts a number of seconds, the format of `runs show` and of a spec, so that printed values can be used as input.
            let number = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            let seconds = number.then(|| duration::parse(&format!("{text}s")).ok()).flatten();
            TypedValue::Json(in_seconds(seconds.map_or_else(|| duration::parse(text), Ok)?))
        }
        ParamKind::Enum => TypedValue::Json(chosen(ty.values, text)?.into()),
        // A secret never becomes a value here: `resolve` keeps only its source.
        ParamKind::Secret => return Err(ValueError::Source),
    })
}

/// A duration as the job receives it: in seconds, with a fraction only if it has one.
fn in_seconds(duration: Duration) -> Value {
    if duration.subsec_nanos() == 0 { duration.as_secs().into() } else { duration.as_secs_f64().into() }
}

/// Rounds to milliseconds, because the double nearest to them is not exact.
fn whole_milliseconds(duration: Duration) -> Duration {
    Duration::from_millis((duration.as_secs_f64() * 1000.0).round() as u64)
}

/// Returns the enum value with this name.
fn chosen<'a>(values: &'a [ValueManifest], text: &str) -> Result<&'a str, ValueError> {
    let named = |name: &str| values.iter().find(|value| value.name == name).map(|value| value.name.as_str());
    let respelt = text.trim().to_lowercase().replace('_', "-");
    match (named(text), named(&respelt)) {
        (Some(value), _) => Ok(value),
        (None, Some(write)) => Err(ValueError::Form { reason: "the value is spelled differently", write: write.to_owned() }),
        (None, None) => Err(ValueError::Choice { values: names(values) }),
    }
}

const fn limits(kind: ParamKind) -> (i128, i128) {
    let (bits, signed) = match kind {
        ParamKind::Int(bits) => (bits, true),
        ParamKind::Uint(bits) => (bits, false),
        _ => (64, true),
    };
    // `ParamKind::as_str` calls every other width 64 bits too.
    let bits = if let 8 | 16 | 32 = bits { bits } else { 64 };
    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn integer(kind: ParamKind, text: &str) -> Result<Number, ValueError> {
    let (min, max) = limits(kind);
    let range = || ValueError::Range { kind: kind.as_str(), min, max };
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return Err(not_an_integer(kind, text));
    }
    // Digits only: a number that exceeds 128 bits exceeds every type.
    let number = text.parse::<i128>().map_err(|_| range())?;
    if number < min || number > max {
        return Err(range());
    }
    Number::from_i128(number).ok_or_else(range)
}

fn not_an_integer(kind: ParamKind, text: &str) -> ValueError {
    if text.trim().is_empty() {
        return ValueError::Empty { example: "digits, such as 10" };
    }
    let try_instead = |reason, write: String| match integer(kind, &write) {
        Ok(_) => ValueError::Form { reason, write },
        Err(error) => error,
    };
    if let Some(write) = respelt(text) {
        return try_instead("a number is written with digits and a plain - only", write);
    }
    let (sign, unsigned) = text.strip_prefix('-').map_or(("", text), |unsigned| ("-", unsigned));
    for (prefix, radix) in [("0x", 16), ("0X", 16), ("0b", 2), ("0o", 8)] {
        let digits = unsigned.strip_prefix(prefix).filter(|digits| !digits.starts_with('+'));
        if let Some(Ok(number)) = digits.map(|digits| u64::from_str_radix(digits, radix)) {
            return try_instead("a number is written in decimal", format!("{sign}{number}"));
        }
    }
    // 5.0 and 1e3 are whole; beyond 2^53 the float may differ from the typed number. Any letter but the exponent's would allow `inf` and
    // `nan`.
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    match text.parse::<f64>() {
        Ok(number) if plain && number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 => {
            try_instead("a whole number is written without a decimal point or exponent", format!("{number}"))
        }
        _ => ValueError::Kind { kind: whole_number(kind), example: "digits only, such as 10" },
    }
}

fn float(text: &str) -> Result<Number, ValueError> {
    if text.trim().is_empty() {
        return Err(ValueError::Empty { example: "a number, such as 1.5" });
    }
    if let Ok(number) = text.parse::<f64>() {
        return Number::from_f64(number).ok_or(ValueError::NotFinite);
    }
    let try_instead = |reason, write: String| match float(&write) {
        Ok(_) => Err(ValueError::Form { reason, write }),
        Err(error) => Err(error),
    };
    if let Some(write) = respelt(text) {
        return try_instead("a number is written with digits and a plain - only", write);
    }
    match text.split_once(',') {
        // `1,000` can mean one thousand or one.
        Some((whole, fraction))
            if text.len() <= LONGEST && !whole.contains('.') && fraction.len() != 3 && digits_only(fraction) =>
        {
            try_instead("the decimal separator is a point", format!("{whole}.{fraction}"))
        }
        _ => Err(ValueError::Kind { kind: "a number".into(), example: "digits with a point, such as 1.5" }),
    }
}

/// No intended number is longer, and a message shows a proposed one in full.
const LONGEST: usize = 64;

/// Removes digit group separators used in some locales, and normalizes the minus sign; `None` if nothing changes. Leaves commas and points,
/// whose meaning depends on the locale.
fn respelt(text: &str) -> Option<String> {
    let plain: String = text
        .trim()
        .chars()
        .filter(|c| !matches!(c, '_' | '\'' | '\u{2019}'))
        .map(|c| if matches!(c, '\u{2212}' | '\u{2013}') { '-' } else { c })
        .collect();
    let like_a_number = plain.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    (plain != text && !plain.is_empty() && plain.len() <= LONGEST && like_a_number).then_some(plain)
}

fn digits_only(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn boolean(text: &str) -> Result<bool, ValueError> {
    const ON: &[&str] = &["true", "t", "yes", "y", "on", "1"];
    const OFF: &[&str] = &["false", "f", "no", "n", "off", "0"];
    let lower = text.trim().to_lowercase();
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ if lower.is_empty() => Err(ValueError::Empty { example: "true or false" }),
        _ if ON.contains(&lower.as_str()) => Err(ValueError::Form { reason: "a switch is true or false", write: "true".into() }),
        _ if OFF.contains(&lower.as_str()) => {
            Err(ValueError::Form { reason: "a switch is true or false", write: "false".into() })
        }
        _ => Err(ValueError::Kind { kind: "a switch's value".into(), example: "true or false" }),
    }
}
