//! Conversion of parameter values from a test to JSON for the job. Performs the same checks as the host for the command line. Relative times
//! (`-7d`) are not supported: the host resolves those before a run.

use crate::def::{JobDef, ParamDef, ParamKind};
use crate::param::is_duration;
use crate::secret::Secret;
use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, SecondsFormat, Utc};
use serde_json::{Number, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A value that a test can pass to [`Test::param`](super::Test::param).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the value of a job's parameter",
    note = "supported: strings, numbers, bool, paths, DateTime<Utc>, NaiveDate, Duration, and lists of these; pass an enum's value by name"
)]
pub trait Argument {
    /// Converts the value.
    fn into_value(self) -> ArgumentValue;
}

/// The value of a parameter, of any supported type.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[expect(missing_docs, reason = "named after their content")]
pub enum ArgumentValue {
    Text(String),
    Integer(i128),
    Float(f64),
    Bool(bool),
    Path(PathBuf),
    Time(DateTime<Utc>),
    Date(NaiveDate),
    Duration(Duration),
    Secret(Secret),
    List(Vec<Self>),
}

macro_rules! arguments {
    ($($ty:ty, |$value:ident| $given:expr;)*) => {$(
        impl Argument for $ty {
            fn into_value(self) -> ArgumentValue {
                let $value = self;
                $given
            }
        }
    )*};
}

arguments! {
    &str, |text| ArgumentValue::Text(text.to_owned());
    String, |text| ArgumentValue::Text(text);
    bool, |on| ArgumentValue::Bool(on);
    i8, |n| ArgumentValue::Integer(n.into());
    i16, |n| ArgumentValue::Integer(n.into());
    i32, |n| ArgumentValue::Integer(n.into());
    i64, |n| ArgumentValue::Integer(n.into());
    u8, |n| ArgumentValue::Integer(n.into());
    u16, |n| ArgumentValue::Integer(n.into());
    u32, |n| ArgumentValue::Integer(n.into());
    u64, |n| ArgumentValue::Integer(n.into());
    usize, |n| ArgumentValue::Integer(n as i128);
    f64, |n| ArgumentValue::Float(n);
    &Path, |path| ArgumentValue::Path(path.to_owned());
    PathBuf, |path| ArgumentValue::Path(path);
    DateTime<Utc>, |at| ArgumentValue::Time(at);
    NaiveDate, |day| ArgumentValue::Date(day);
    Duration, |time| ArgumentValue::Duration(time);
    ArgumentValue, |given| given;
}

impl<A: Argument + Clone> Argument for &A {
    fn into_value(self) -> ArgumentValue {
        self.clone().into_value()
    }
}

impl<A: Argument + Clone> Argument for &[A] {
    fn into_value(self) -> ArgumentValue {
        ArgumentValue::List(self.iter().map(Argument::into_value).collect())
    }
}

impl<A: Argument> Argument for Vec<A> {
    fn into_value(self) -> ArgumentValue {
        ArgumentValue::List(self.into_iter().map(Argument::into_value).collect())
    }
}

impl<A: Argument, const N: usize> Argument for [A; N] {
    fn into_value(self) -> ArgumentValue {
        ArgumentValue::List(self.into_iter().map(Argument::into_value).collect())
    }
}

/// Finds a parameter by name.
pub(super) fn find<'a>(job: &'a JobDef, name: &str) -> Result<&'a ParamDef, String> {
    job.params.iter().find(|param| param.name == name).ok_or_else(|| {
        let names: Vec<&str> = job.params.iter().map(|param| param.name).collect();
        match names.as_slice() {
            [] => format!("{} has no parameter `{name}`: it has no parameters", job.name),
            names => format!("{} has no parameter `{name}`: its parameters are {}", job.name, names.join(", ")),
        }
    })
}

/// Converts a value to the JSON that the job receives.
pub(super) fn to_json(job: &JobDef, param: &ParamDef, given: ArgumentValue) -> Result<Value, String> {
    match given {
        ArgumentValue::List(values) if param.repeated => {
            values.into_iter().map(|value| scalar_to_json(job, param, value)).collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        value if param.repeated => Ok(Value::Array(vec![scalar_to_json(job, param, value)?])),
        value => scalar_to_json(job, param, value),
    }
}

/// Returns the JSON for a parameter without a value in the test: its default, or `None` if it is optional.
pub(super) fn default_value(job: &JobDef, param: &ParamDef, now: DateTime<Utc>) -> Result<Option<Value>, String> {
    let name = param.name;
    let Some(default) = param.default else {
        return match param.kind {
            // The host passes the start of the run.
            ParamKind::DateTime if name == "until" && param.optional => Ok(Some(show(now).into())),
            _ if param.repeated => Ok(Some(Value::Array(Vec::new()))),
            _ if param.optional => Ok(None),
            ParamKind::Secret => Err(format!("{} requires the secret `{name}`: add .secret({name:?}, …)", job.name)),
            _ => Err(format!("{} requires `{name}`: add .param({name:?}, …)", job.name)),
        };
    };
    let given = match serde_json::from_str(default) {
        Ok(Value::String(text)) => ArgumentValue::Text(text),
        Ok(Value::Bool(on)) => ArgumentValue::Bool(on),
        Ok(Value::Number(number)) => match number.as_i128() {
            Some(number) => ArgumentValue::Integer(number),
            None => ArgumentValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        _ => return Err(format!("cannot parse the default of `{name}`: {default}")),
    };
    to_json(job, param, given).map(Some).map_err(|why| match param.kind {
        ParamKind::DateTime | ParamKind::Date => format!(
            "the default {default} of `{name}` depends on the time of the run or on a bookmark: set a value in the test with \
             .param({name:?}, …)"
        ),
        _ => why,
    })
}

fn scalar_to_json(job: &JobDef, param: &ParamDef, given: ArgumentValue) -> Result<Value, String> {
    let mismatch =
        |given: &ArgumentValue| format!("`{}` of {} takes {}, not {}", param.name, job.name, expected(param), describe(given));
    Ok(match (param.kind, given) {
        (ParamKind::String, ArgumentValue::Text(text)) if !text.contains('\0') => text.into(),
        (ParamKind::Path, ArgumentValue::Text(text)) if !text.is_empty() && !text.contains('\0') => text.into(),
        (ParamKind::Path, ArgumentValue::Path(path)) => match path.to_str() {
            Some(text) if !text.is_empty() && !text.contains('\0') => text.into(),
            _ => return Err(mismatch(&ArgumentValue::Path(path))),
        },
        (ParamKind::Int(_) | ParamKind::Uint(_), ArgumentValue::Integer(number)) if holds(param.kind, number) => {
            Number::from_i128(number).map(Value::Number).ok_or_else(|| mismatch(&ArgumentValue::Integer(number)))?
        }
        (ParamKind::Float, ArgumentValue::Integer(number)) => Value::from(number as f64),
        (ParamKind::Float, ArgumentValue::Float(number)) if number.is_finite() => Value::from(number),
        (ParamKind::Bool, ArgumentValue::Bool(on)) => on.into(),
        (ParamKind::DateTime, ArgumentValue::Time(at)) if has_four_digit_year(at.naive_utc().date()) => show(at).into(),
        (ParamKind::DateTime, ArgumentValue::Text(text)) => match time(&text) {
            Some(at) if has_four_digit_year(at.naive_utc().date()) => show(at).into(),
            _ => return Err(mismatch(&ArgumentValue::Text(text))),
        },
        (ParamKind::Date, ArgumentValue::Date(day)) if has_four_digit_year(day) => day.to_string().into(),
        (ParamKind::Date, ArgumentValue::Text(text)) => match text.parse::<NaiveDate>() {
            Ok(day) if has_four_digit_year(day) => day.to_string().into(),
            _ => return Err(mismatch(&ArgumentValue::Text(text))),
        },
        (ParamKind::Duration, ArgumentValue::Duration(time)) if time.subsec_nanos() % 1_000_000 == 0 => in_seconds(time),
        (ParamKind::Duration, ArgumentValue::Text(text)) if is_duration(&text) => in_seconds(duration(&text)),
        (ParamKind::Enum, ArgumentValue::Text(text)) if param.values.iter().any(|value| value.name == text) => text.into(),
        (ParamKind::Secret, ArgumentValue::Secret(secret)) => secret.expose().into(),
        (ParamKind::Secret, _) => {
            return Err(format!("`{}` of {} is a secret: use .secret({:?}, …)", param.name, job.name, param.name));
        }
        (_, given) => return Err(mismatch(&given)),
    })
}

/// Describes the values that the parameter accepts in a test.
fn expected(param: &ParamDef) -> String {
    match param.kind {
        ParamKind::String => "a string without NUL".to_owned(),
        ParamKind::Int(_) | ParamKind::Uint(_) => {
            let (min, max) = range(param.kind);
            format!("an integer from {min} to {max}")
        }
        ParamKind::Float => "a finite number".to_owned(),
        ParamKind::Bool => "true or false".to_owned(),
        ParamKind::DateTime => "an absolute time (\"2024-01-31\", \"2024-01-31T12:00:00Z\", a DateTime<Utc>)".to_owned(),
        ParamKind::Date => "a day (\"2024-01-31\", a NaiveDate)".to_owned(),
        ParamKind::Path => "a non-empty UTF-8 path".to_owned(),
        ParamKind::Duration => "whole milliseconds (\"1h30m\", \"500ms\", a Duration)".to_owned(),
        ParamKind::Enum => {
            let names: Vec<&str> = param.values.iter().map(|value| value.name).collect();
            format!("one of {}", names.join(", "))
        }
        ParamKind::Secret => "a secret".to_owned(),
    }
}

fn describe(given: &ArgumentValue) -> String {
    match given {
        ArgumentValue::Text(text) => format!("the string {text:?}"),
        ArgumentValue::Integer(number) => number.to_string(),
        ArgumentValue::Float(number) => number.to_string(),
        ArgumentValue::Bool(on) => on.to_string(),
        ArgumentValue::Path(path) => format!("the path {path:?}"),
        ArgumentValue::Time(at) => format!("the time {at}"),
        ArgumentValue::Date(day) => format!("the day {day}"),
        ArgumentValue::Duration(time) => format!("a duration of {time:?}"),
        ArgumentValue::Secret(_) => "a secret".to_owned(),
        ArgumentValue::List(_) => "a list".to_owned(),
    }
}

fn range(kind: ParamKind) -> (i128, i128) {
    match kind {
        ParamKind::Int(bits) => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        ParamKind::Uint(bits) => (0, (1 << bits) - 1),
        _ => (0, 0),
    }
}

fn holds(kind: ParamKind, number: i128) -> bool {
    let (min, max) = range(kind);
    (min..=max).contains(&number)
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    let midnight = || text.parse::<NaiveDate>().ok().map(|day| day.and_time(NaiveTime::MIN).and_utc());
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc()).or_else(midnight)
}

/// Formats a time as the host does: UTC, microseconds.
fn show(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Returns whether the year has at most four digits and is positive.
fn has_four_digit_year(day: NaiveDate) -> bool {
    (1..=9999).contains(&day.year())
}

/// Returns the value of a valid duration text.
fn duration(text: &str) -> Duration {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let number = &rest[..end];
        let next = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        let seconds = match &rest[end..next] {
            "w" => 604_800.0,
            "d" => 86_400.0,
            "h" => 3600.0,
            "m" => 60.0,
            "ms" => 0.001,
            _ => 1.0,
        };
        // At most seven digits and three decimals: exact after rounding.
        let milliseconds = number.parse::<f64>().unwrap_or_default() * seconds * 1000.0;
        total += Duration::from_millis(milliseconds.round() as u64);
        rest = &rest[next..];
    }
    total
}

/// The value as a run passes it: in seconds.
fn in_seconds(duration: Duration) -> Value {
    if duration.subsec_nanos() == 0 { duration.as_secs().into() } else { duration.as_secs_f64().into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const JOB: JobDef = JobDef {
        name: "a_job",
        signature: "",
        docs: "",
        file: "",
        line: 1,
        params: &[],
        timeout: None,
        retries: None,
        overlap: None,
        deprecated: None,
    };

    fn param(kind: ParamKind) -> ParamDef {
        let values: &[crate::def::ValueDef] =
            &[crate::def::ValueDef { name: "json", docs: "" }, crate::def::ValueDef { name: "csv", docs: "" }];
        ParamDef {
            name: "p",
            rust_type: "",
            kind,
            optional: false,
            default: None,
            docs: "",
            repeated: false,
            values,
            deprecated: None,
        }
    }

    #[test]
    fn values_convert_as_in_the_host() {
        let day = NaiveDate::from_ymd_opt(2024, 1, 31).unwrap();
        for (kind, given, crossed) in [
            (ParamKind::String, "x".into_value(), json!("x")),
            (ParamKind::Path, Path::new("/x").into_value(), json!("/x")),
            (ParamKind::Uint(8), 255.into_value(), json!(255)),
            (ParamKind::Int(64), i64::MIN.into_value(), json!(i64::MIN)),
            (ParamKind::Uint(64), u64::MAX.into_value(), json!(u64::MAX)),
            (ParamKind::Uint(32), "four".len().into_value(), json!(4)),
            (ParamKind::Float, 2.into_value(), json!(2.0)),
            (ParamKind::DateTime, "2024-01-31".into_value(), json!("2024-01-31T00:00:00.000000Z")),
            (ParamKind::DateTime, "2024-01-31T01:00:00+01:00".into_value(), json!("2024-01-31T00:00:00.000000Z")),
            (ParamKind::Date, day.into_value(), json!("2024-01-31")),
            (ParamKind::Duration, "1w1d1h1m1s".into_value(), json!(694_861)),
            (ParamKind::Duration, Duration::from_secs(90).into_value(), json!(90)),
            (ParamKind::Duration, Duration::from_millis(1500).into_value(), json!(1.5)),
            (ParamKind::Duration, "1m1.25s".into_value(), json!(61.25)),
            (ParamKind::Duration, "500ms".into_value(), json!(0.5)),
            (ParamKind::Enum, "csv".into_value(), json!("csv")),
        ] {
            assert_eq!(to_json(&JOB, &param(kind), given).unwrap(), crossed, "{kind:?}");
        }
        let list = ParamDef { repeated: true, ..param(ParamKind::Uint(8)) };
        assert_eq!(to_json(&JOB, &list, [1, 2].into_value()).unwrap(), json!([1, 2]));
        assert_eq!(to_json(&JOB, &list, 1.into_value()).unwrap(), json!([1]));
        assert_eq!(to_json(&JOB, &list, [1_u8, 2][..].into_value()).unwrap(), json!([1, 2]));
        assert_eq!(to_json(&JOB, &list, (&vec![3]).into_value()).unwrap(), json!([3]));
    }

    #[test]
    fn a_wrong_value_is_reported_with_the_accepted_ones() {
        for (kind, given, expected) in [
            (ParamKind::String, 1.into_value(), "`p` of a_job takes a string without NUL, not 1"),
            (ParamKind::Uint(8), 256.into_value(), "from 0 to 255, not 256"),
            (ParamKind::Int(8), "1".into_value(), "from -128 to 127, not the string \"1\""),
            (ParamKind::Float, f64::NAN.into_value(), "a finite number"),
            (ParamKind::Bool, "true".into_value(), "true or false"),
            (ParamKind::DateTime, "-7d".into_value(), "an absolute time"),
            (ParamKind::Date, "yesterday".into_value(), "a day"),
            (ParamKind::Path, "".into_value(), "a non-empty UTF-8 path"),
            (ParamKind::Duration, "1 h".into_value(), "whole milliseconds"),
            (ParamKind::Duration, Duration::from_micros(1500).into_value(), "whole milliseconds"),
            (ParamKind::Enum, "xml".into_value(), "one of json, csv"),
            (ParamKind::Secret, "hunter22".into_value(), "is a secret: use .secret(\"p\", …)"),
            (ParamKind::Uint(8), [1].into_value(), "not a list"),
        ] {
            let why = to_json(&JOB, &param(kind), given).unwrap_err();
            assert!(why.contains(expected), "{why}");
            assert!(!why.contains("hunter22"));
        }
    }

    #[test]
    fn relative_defaults_must_be_set_in_the_test() {
        let now = time("2024-01-31").unwrap();
        let with = |kind, default| default_value(&JOB, &ParamDef { default: Some(default), ..param(kind) }, now);
        assert_eq!(with(ParamKind::Uint(32), "500").unwrap(), Some(json!(500)));
        assert_eq!(with(ParamKind::Duration, "\"30m\"").unwrap(), Some(json!(1800)));
        assert_eq!(with(ParamKind::DateTime, "\"2024-01-01\"").unwrap(), Some(json!("2024-01-01T00:00:00.000000Z")));
        for relative in ["\"-7d\"", "\"last:-30d\"", "\"now\""] {
            let why = with(ParamKind::DateTime, relative).unwrap_err();
            assert!(why.contains(".param(\"p\", …)") && why.contains(relative), "{why}");
        }
        let until = ParamDef { name: "until", optional: true, ..param(ParamKind::DateTime) };
        assert_eq!(default_value(&JOB, &until, now).unwrap(), Some(json!("2024-01-31T00:00:00.000000Z")));
        assert!(default_value(&JOB, &param(ParamKind::Bool), now).unwrap_err().contains("requires `p`"));
    }
}
