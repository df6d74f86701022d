//! One parameter's value: from the text a person typed, or from the default in a manifest, to what crosses to the job.
//! Owns what each [`ParamKind`] takes; called by [`super::resolve`] and, for [`check_default`], by the catalog. Pure.
//!
//! What comes out fits the author's type exactly: the job's side finds nothing left to refuse.

use super::duration::{self, DurationError};
use super::last;
use super::time::{self, TimeError};
use chrono::{DateTime, Utc};
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{ParamManifest, ParamOutline, ValueManifest};
use serde_json::{Number, Value};
use thiserror::Error;

/// Why a text is not a value of its parameter's kind, and what to write instead. The text itself is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ValueError {
    /// Nothing, where something is needed.
    #[error("is empty; write {example}")]
    Empty {
        /// A value that would do.
        example: &'static str,
    },
    /// A person can read it, but it is not in the form that is taken; `write` is.
    #[error("{reason}; write {write}")]
    Form {
        /// What is wrong with the form.
        reason: &'static str,
        /// The same value in the right form.
        write: String,
    },
    /// Nothing of that kind.
    #[error("is not {kind}; write {example}")]
    Kind {
        /// What is asked for, with its article.
        kind: String,
        /// A value that would do.
        example: &'static str,
    },
    /// A whole number that the author's type does not hold.
    #[error("is outside the range of {kind}; write a number from {min} to {max}")]
    Range {
        /// The type.
        kind: &'static str,
        /// Smallest number it holds.
        min: i128,
        /// Largest number it holds.
        max: i128,
    },
    /// Infinite, not a number, or too large for a 64-bit float.
    #[error("is not a finite number; write a number between -1.79e308 and 1.79e308")]
    NotFinite,
    /// A NUL byte in a text or path.
    #[error("contains a NUL character; remove it")]
    Nul,
    /// None of an enum's values.
    #[error("is not one of its values; write {values}")]
    Choice {
        /// Those there are.
        values: String,
    },
    /// Not a duration.
    #[error(transparent)]
    Duration(#[from] DurationError),
    /// What may be a secret, where its source is asked for: it is not repeated.
    #[error("is not a source of a secret; other users can read a command line, so write env:NAME, file:PATH or credential:NAME")]
    Source,
    /// Not a time, behind `last:`.
    #[error("after last: {0}")]
    AfterLast(TimeError),
    /// Not a time or a day.
    #[error(transparent)]
    Time(#[from] TimeError),
}

/// A value that fits its parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TypedValue {
    /// A time; kept as one, for the window.
    Instant(DateTime<Utc>),
    /// Everything else, as it crosses.
    Json(Value),
}

impl TypedValue {
    /// As it crosses to the job.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Instant(at) => Value::String(time::show(*at)),
            Self::Json(value) => value.clone(),
        }
    }
}

/// What a parameter takes: the part of its manifest that decides it.
#[derive(Debug, Clone, Copy)]
pub struct Takes<'a> {
    /// The parameter's name: `since` may be `last`.
    pub name: &'a str,
    /// What each value is.
    pub kind: ParamKind,
    /// Whether it takes any number of them.
    pub repeated: bool,
    /// The values there are, of an enum.
    pub values: &'a [ValueManifest],
}

impl<'a> From<&'a ParamManifest> for Takes<'a> {
    fn from(param: &'a ParamManifest) -> Self {
        Self { name: &param.name, kind: param.kind, repeated: param.repeated, values: &param.values }
    }
}

impl<'a> From<&'a ParamOutline> for Takes<'a> {
    fn from(param: &'a ParamOutline) -> Self {
        Self { name: &param.name, kind: param.kind, repeated: param.repeated, values: &param.values }
    }
}

/// What a value of the parameter is, for people, with an article where there is one: `a whole number from 0 to 255`.
pub fn describe(takes: Takes<'_>) -> String {
    match takes.kind {
        ParamKind::String => "text".into(),
        ParamKind::Int(_) | ParamKind::Uint(_) => whole_number(takes.kind),
        ParamKind::Float => "a number".into(),
        ParamKind::Bool => "true or false".into(),
        ParamKind::DateTime => "a time".into(),
        ParamKind::Date => "a day".into(),
        ParamKind::Path => "a path".into(),
        ParamKind::Duration => "a duration".into(),
        ParamKind::Enum => format!("one of {}", names(takes.values)),
        ParamKind::Secret => "the source of a secret".into(),
    }
}

/// What stands for the value in a usage line: `--page-size N`.
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

/// The values of an enum, in words.
fn names(values: &[ValueManifest]) -> String {
    let names: Vec<&str> = values.iter().map(|value| value.name.as_str()).collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Whether the default in a manifest is a value of the parameter; no default always is.
///
/// Defaults relative to now are tried against the year 2000: one that fits there fits on every later day.
///
/// # Errors
/// What is wrong with it, as a fragment that follows the parameter's name. Such a plugin is broken, not its caller.
pub fn check_default(takes: Takes<'_>, json: &Value) -> Result<(), String> {
    let year_2000 = DateTime::from_timestamp(946_684_800, 0).unwrap_or_default();
    if let Some(last) = default_last(takes.name, takes.kind, json) {
        return last.at(None, year_2000).map(drop).map_err(|why| unfit(json, why));
    }
    default(takes, json, year_2000).map(drop)
}

/// The manifest's default, where that is a bookmark.
pub(super) fn default_last<'a>(name: &str, kind: ParamKind, json: &'a Value) -> Option<last::Last<'a>> {
    json.as_str().filter(|_| last::takes(name, kind)).and_then(last::read)
}

/// Why a default is none.
pub(super) fn unfit(json: &Value, why: impl std::fmt::Display) -> String {
    format!("the default {} {why}", crate::text::quote_json(json))
}

/// The manifest's default; `None` where there is none.
pub(super) fn default(takes: Takes<'_>, json: &Value, now: DateTime<Utc>) -> Result<Option<TypedValue>, String> {
    let value = match (json, takes.kind) {
        (Value::Null, _) => return Ok(None),
        _ if takes.repeated => return Err("has a default, and a list has none".to_owned()),
        (Value::Bool(on), ParamKind::Bool) => Ok(TypedValue::Json((*on).into())),
        // A number is checked as its text is: one rule for what fits, and 1.0 is no whole number.
        (Value::Number(number), ParamKind::Int(_) | ParamKind::Uint(_) | ParamKind::Float) => {
            parse(takes, &number.to_string(), now).map_err(|e| e.to_string())
        }
        (
            Value::String(text),
            ParamKind::String | ParamKind::DateTime | ParamKind::Date | ParamKind::Path | ParamKind::Duration | ParamKind::Enum,
        ) => parse(takes, text, now).map_err(|e| e.to_string()),
        _ => Err(format!("is not {}", describe(takes))),
    };
    value.map(Some).map_err(|why| unfit(json, why))
}

/// Checks a value as it crosses to the job, in the one form that a spec has it in: times absolute, durations in seconds.
pub(super) fn check_resolved(takes: Takes<'_>, json: &Value) -> Result<(), String> {
    if takes.repeated {
        let Value::Array(values) = json else { return Err("is not a list".into()) };
        return values.iter().try_for_each(|value| check_resolved(Takes { repeated: false, ..takes }, value));
    }
    let example = match (json, takes.kind) {
        (Value::Number(seconds), ParamKind::Duration) if seconds.is_u64() => return Ok(()),
        (_, ParamKind::Duration) => "a whole number of seconds".to_owned(),
        (Value::String(text), ParamKind::DateTime) => match text.parse::<DateTime<Utc>>() {
            Ok(at) if time::show(at) == *text => return Ok(()),
            _ => "a time in UTC such as 2024-03-30T12:00:00Z".to_owned(),
        },
        _ => describe(takes),
    };
    // Relative days would be other ones tomorrow: what is read must be what is written.
    match default(takes, json, DateTime::UNIX_EPOCH) {
        Ok(Some(value)) if value.to_json() == *json => Ok(()),
        _ => Err(format!("is not {example}")),
    }
}

/// The value that `text` says.
pub(super) fn parse(takes: Takes<'_>, text: &str, now: DateTime<Utc>) -> Result<TypedValue, ValueError> {
    let kind = takes.kind;
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
        // Also a number of seconds, as `runs show` and a spec have it: what was printed can be typed again.
        ParamKind::Duration => TypedValue::Json(match text.parse::<u64>() {
            Ok(seconds) if seconds <= duration::MAX.as_secs() => seconds.into(),
            _ => duration::parse(text)?.as_secs().into(),
        }),
        ParamKind::Enum => TypedValue::Json(chosen(takes.values, text)?.into()),
        // It never becomes a value here: `resolve` keeps where it is to be found.
        ParamKind::Secret => return Err(ValueError::Source),
    })
}

/// The value of that name.
fn chosen<'a>(values: &'a [ValueManifest], text: &str) -> Result<&'a str, ValueError> {
    let named = |name: &str| values.iter().find(|value| value.name == name).map(|value| value.name.as_str());
    let respelt = text.trim().to_lowercase().replace('_', "-");
    match (named(text), named(&respelt)) {
        (Some(value), _) => Ok(value),
        (None, Some(write)) => Err(ValueError::Form { reason: "the value is spelt differently", write: write.to_owned() }),
        (None, None) => Err(ValueError::Choice { values: names(values) }),
    }
}

const fn limits(kind: ParamKind) -> (i128, i128) {
    let (bits, signed) = match kind {
        ParamKind::Int(bits) => (bits, true),
        ParamKind::Uint(bits) => (bits, false),
        _ => (64, true),
    };
    // Any other width is called 64 bits by `ParamKind::as_str`, too.
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
    // Digits only: what 128 bits do not hold, no type of ours does.
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
    // 5.0 and 1e3 are whole; beyond 2^53 a float may not be the number that was typed. A letter other than the exponent's
    // would let `inf` and `nan` in.
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    match text.parse::<f64>() {
        Ok(number) if plain && number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 => {
            try_instead("a whole number is written without a point or exponent", format!("{number}"))
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
        // `1,000` is a thousand to some and one to others.
        Some((whole, fraction))
            if text.len() <= LONGEST && !whole.contains('.') && fraction.len() != 3 && digits_only(fraction) =>
        {
            try_instead("the decimal sign is a point", format!("{whole}.{fraction}"))
        }
        _ => Err(ValueError::Kind { kind: "a number".into(), example: "digits with a point, such as 1.5" }),
    }
}

/// No number that is meant is longer, and one that is proposed stands in a message, whole.
const LONGEST: usize = 64;

/// The number without what separates groups of digits in some places, and with a plain minus; `None` where that changes
/// nothing. Commas and points are left alone: they mean different things to different people.
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
