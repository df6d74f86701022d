//! Values of parameters as a test writes them, and as they cross to the job. Owns the checks that the host makes of what is typed, for
//! values that have a type already; times relative to now are the host's language, and are not read here.

use crate::def::{JobDef, ParamDef, ParamKind};
use crate::param::is_duration;
use crate::secret::Secret;
use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, SecondsFormat, Utc};
use serde_json::{Number, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A value that a test can give a parameter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no value of a job's parameter",
    note = "there are texts, numbers, bool, paths, DateTime<Utc>, NaiveDate, Duration, and lists of them; an enum's value is its name"
)]
pub trait Argument {
    /// The value, whatever its type.
    fn given(self) -> Given;
}

/// A value of any type.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[expect(missing_docs, reason = "named like what they hold")]
pub enum Given {
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
            fn given(self) -> Given {
                let $value = self;
                $given
            }
        }
    )*};
}

arguments! {
    &str, |text| Given::Text(text.to_owned());
    String, |text| Given::Text(text);
    bool, |on| Given::Bool(on);
    i8, |n| Given::Integer(n.into());
    i16, |n| Given::Integer(n.into());
    i32, |n| Given::Integer(n.into());
    i64, |n| Given::Integer(n.into());
    u8, |n| Given::Integer(n.into());
    u16, |n| Given::Integer(n.into());
    u32, |n| Given::Integer(n.into());
    u64, |n| Given::Integer(n.into());
    usize, |n| Given::Integer(n as i128);
    f64, |n| Given::Float(n);
    &Path, |path| Given::Path(path.to_owned());
    PathBuf, |path| Given::Path(path);
    DateTime<Utc>, |at| Given::Time(at);
    NaiveDate, |day| Given::Date(day);
    Duration, |time| Given::Duration(time);
    Given, |given| given;
}

impl<A: Argument + Clone> Argument for &A {
    fn given(self) -> Given {
        self.clone().given()
    }
}

impl<A: Argument + Clone> Argument for &[A] {
    fn given(self) -> Given {
        Given::List(self.iter().map(Argument::given).collect())
    }
}

impl<A: Argument> Argument for Vec<A> {
    fn given(self) -> Given {
        Given::List(self.into_iter().map(Argument::given).collect())
    }
}

impl<A: Argument, const N: usize> Argument for [A; N] {
    fn given(self) -> Given {
        Given::List(self.into_iter().map(Argument::given).collect())
    }
}

/// The parameter of that name.
pub(super) fn find<'a>(job: &'a JobDef, name: &str) -> Result<&'a ParamDef, String> {
    job.params.iter().find(|param| param.name == name).ok_or_else(|| {
        let names: Vec<&str> = job.params.iter().map(|param| param.name).collect();
        match names.as_slice() {
            [] => format!("{} has no parameter `{name}`; it has none at all", job.name),
            names => format!("{} has no parameter `{name}`; it has {}", job.name, names.join(", ")),
        }
    })
}

/// The value as it crosses to the job.
pub(super) fn crossing(job: &JobDef, param: &ParamDef, given: Given) -> Result<Value, String> {
    match given {
        Given::List(values) if param.repeated => {
            values.into_iter().map(|value| one(job, param, value)).collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        value if param.repeated => Ok(Value::Array(vec![one(job, param, value)?])),
        value => one(job, param, value),
    }
}

/// What the job gets where the test gives nothing; `None` where that is nothing.
pub(super) fn unsaid(job: &JobDef, param: &ParamDef, now: DateTime<Utc>) -> Result<Option<Value>, String> {
    let name = param.name;
    let Some(default) = param.default else {
        return match param.kind {
            // The host passes the start of the run on.
            ParamKind::DateTime if name == "until" && param.optional => Ok(Some(show(now).into())),
            _ if param.repeated => Ok(Some(Value::Array(Vec::new()))),
            _ if param.optional => Ok(None),
            ParamKind::Secret => Err(format!("{} needs the secret `{name}`: .secret({name:?}, …)", job.name)),
            _ => Err(format!("{} needs `{name}`: .param({name:?}, …)", job.name)),
        };
    };
    let given = match serde_json::from_str(default) {
        Ok(Value::String(text)) => Given::Text(text),
        Ok(Value::Bool(on)) => Given::Bool(on),
        Ok(Value::Number(number)) => match number.as_i128() {
            Some(number) => Given::Integer(number),
            None => Given::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        _ => return Err(format!("the default of `{name}` cannot be read: {default}")),
    };
    crossing(job, param, given).map(Some).map_err(|why| match param.kind {
        ParamKind::DateTime | ParamKind::Date => format!(
            "`{name}` has the default {default}, which lorchestra reckons from the start of the run, or from a bookmark: give it a value \
             in the test: .param({name:?}, …)"
        ),
        _ => why,
    })
}

fn one(job: &JobDef, param: &ParamDef, given: Given) -> Result<Value, String> {
    let misfit = |given: &Given| format!("`{}` of {} takes {}, not {}", param.name, job.name, taken(param), shown(given));
    Ok(match (param.kind, given) {
        (ParamKind::String, Given::Text(text)) if !text.contains('\0') => text.into(),
        (ParamKind::Path, Given::Text(text)) if !text.is_empty() && !text.contains('\0') => text.into(),
        (ParamKind::Path, Given::Path(path)) => match path.to_str() {
            Some(text) if !text.is_empty() && !text.contains('\0') => text.into(),
            _ => return Err(misfit(&Given::Path(path))),
        },
        (ParamKind::Int(_) | ParamKind::Uint(_), Given::Integer(number)) if holds(param.kind, number) => {
            Number::from_i128(number).map(Value::Number).ok_or_else(|| misfit(&Given::Integer(number)))?
        }
        (ParamKind::Float, Given::Integer(number)) => Value::from(number as f64),
        (ParamKind::Float, Given::Float(number)) if number.is_finite() => Value::from(number),
        (ParamKind::Bool, Given::Bool(on)) => on.into(),
        (ParamKind::DateTime, Given::Time(at)) if is_writable(at.naive_utc().date()) => show(at).into(),
        (ParamKind::DateTime, Given::Text(text)) => match time(&text) {
            Some(at) if is_writable(at.naive_utc().date()) => show(at).into(),
            _ => return Err(misfit(&Given::Text(text))),
        },
        (ParamKind::Date, Given::Date(day)) if is_writable(day) => day.to_string().into(),
        (ParamKind::Date, Given::Text(text)) => match text.parse::<NaiveDate>() {
            Ok(day) if is_writable(day) => day.to_string().into(),
            _ => return Err(misfit(&Given::Text(text))),
        },
        (ParamKind::Duration, Given::Duration(time)) if time.subsec_nanos() == 0 => time.as_secs().into(),
        (ParamKind::Duration, Given::Text(text)) if is_duration(&text) => seconds(&text).into(),
        (ParamKind::Enum, Given::Text(text)) if param.values.iter().any(|value| value.name == text) => text.into(),
        (ParamKind::Secret, Given::Secret(secret)) => secret.expose().into(),
        (ParamKind::Secret, _) => {
            return Err(format!("`{}` of {} is a secret: .secret({:?}, …)", param.name, job.name, param.name));
        }
        (_, given) => return Err(misfit(&given)),
    })
}

/// What a value of the parameter is, in a test.
fn taken(param: &ParamDef) -> String {
    match param.kind {
        ParamKind::String => "text without NUL".to_owned(),
        ParamKind::Int(_) | ParamKind::Uint(_) => {
            let (min, max) = range(param.kind);
            format!("a whole number from {min} to {max}")
        }
        ParamKind::Float => "a finite number".to_owned(),
        ParamKind::Bool => "true or false".to_owned(),
        ParamKind::DateTime => "an absolute time (\"2024-01-31\", \"2024-01-31T12:00:00Z\", a DateTime<Utc>)".to_owned(),
        ParamKind::Date => "a day (\"2024-01-31\", a NaiveDate)".to_owned(),
        ParamKind::Path => "a path that is UTF-8 and is not empty".to_owned(),
        ParamKind::Duration => "whole seconds (\"1h30m\", a Duration)".to_owned(),
        ParamKind::Enum => {
            let names: Vec<&str> = param.values.iter().map(|value| value.name).collect();
            format!("one of {}", names.join(", "))
        }
        ParamKind::Secret => "a secret".to_owned(),
    }
}

fn shown(given: &Given) -> String {
    match given {
        Given::Text(text) => format!("the text {text:?}"),
        Given::Integer(number) => number.to_string(),
        Given::Float(number) => number.to_string(),
        Given::Bool(on) => on.to_string(),
        Given::Path(path) => format!("the path {path:?}"),
        Given::Time(at) => format!("the time {at}"),
        Given::Date(day) => format!("the day {day}"),
        Given::Duration(time) => format!("a duration of {time:?}"),
        Given::Secret(_) => "a secret".to_owned(),
        Given::List(_) => "a list".to_owned(),
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

/// As times cross to the job: microseconds, UTC.
fn show(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Years of four digits.
fn is_writable(day: NaiveDate) -> bool {
    (1..=9999).contains(&day.year())
}

/// Seconds of a text that is a duration.
fn seconds(text: &str) -> u64 {
    let mut total = 0;
    let mut number = 0;
    for c in text.chars() {
        match c.to_digit(10) {
            Some(digit) => number = number * 10 + u64::from(digit),
            None => {
                total += number
                    * match c {
                        'w' => 604_800,
                        'd' => 86_400,
                        'h' => 3600,
                        'm' => 60,
                        _ => 1,
                    };
                number = 0;
            }
        }
    }
    total
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
    fn values_cross_as_the_hosts_do() {
        let day = NaiveDate::from_ymd_opt(2024, 1, 31).unwrap();
        for (kind, given, crossed) in [
            (ParamKind::String, "x".given(), json!("x")),
            (ParamKind::Path, Path::new("/x").given(), json!("/x")),
            (ParamKind::Uint(8), 255.given(), json!(255)),
            (ParamKind::Int(64), i64::MIN.given(), json!(i64::MIN)),
            (ParamKind::Uint(64), u64::MAX.given(), json!(u64::MAX)),
            (ParamKind::Uint(32), "four".len().given(), json!(4)),
            (ParamKind::Float, 2.given(), json!(2.0)),
            (ParamKind::DateTime, "2024-01-31".given(), json!("2024-01-31T00:00:00.000000Z")),
            (ParamKind::DateTime, "2024-01-31T01:00:00+01:00".given(), json!("2024-01-31T00:00:00.000000Z")),
            (ParamKind::Date, day.given(), json!("2024-01-31")),
            (ParamKind::Duration, "1w1d1h1m1s".given(), json!(694_861)),
            (ParamKind::Duration, Duration::from_secs(90).given(), json!(90)),
            (ParamKind::Enum, "csv".given(), json!("csv")),
        ] {
            assert_eq!(crossing(&JOB, &param(kind), given).unwrap(), crossed, "{kind:?}");
        }
        let list = ParamDef { repeated: true, ..param(ParamKind::Uint(8)) };
        assert_eq!(crossing(&JOB, &list, [1, 2].given()).unwrap(), json!([1, 2]));
        assert_eq!(crossing(&JOB, &list, 1.given()).unwrap(), json!([1]));
        assert_eq!(crossing(&JOB, &list, [1_u8, 2][..].given()).unwrap(), json!([1, 2]));
        assert_eq!(crossing(&JOB, &list, (&vec![3]).given()).unwrap(), json!([3]));
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_would() {
        for (kind, given, told) in [
            (ParamKind::String, 1.given(), "`p` of a_job takes text without NUL, not 1"),
            (ParamKind::Uint(8), 256.given(), "from 0 to 255, not 256"),
            (ParamKind::Int(8), "1".given(), "from -128 to 127, not the text \"1\""),
            (ParamKind::Float, f64::NAN.given(), "a finite number"),
            (ParamKind::Bool, "true".given(), "true or false"),
            (ParamKind::DateTime, "-7d".given(), "an absolute time"),
            (ParamKind::Date, "yesterday".given(), "a day"),
            (ParamKind::Path, "".given(), "not empty"),
            (ParamKind::Duration, "1 h".given(), "whole seconds"),
            (ParamKind::Duration, Duration::from_millis(1500).given(), "whole seconds"),
            (ParamKind::Enum, "xml".given(), "one of json, csv"),
            (ParamKind::Secret, "hunter22".given(), "is a secret: .secret(\"p\", …)"),
            (ParamKind::Uint(8), [1].given(), "not a list"),
        ] {
            let why = crossing(&JOB, &param(kind), given).unwrap_err();
            assert!(why.contains(told), "{why}");
            assert!(!why.contains("hunter22"));
        }
    }

    #[test]
    fn defaults_are_the_hosts_or_asked_for() {
        let now = time("2024-01-31").unwrap();
        let with = |kind, default| unsaid(&JOB, &ParamDef { default: Some(default), ..param(kind) }, now);
        assert_eq!(with(ParamKind::Uint(32), "500").unwrap(), Some(json!(500)));
        assert_eq!(with(ParamKind::Duration, "\"30m\"").unwrap(), Some(json!(1800)));
        assert_eq!(with(ParamKind::DateTime, "\"2024-01-01\"").unwrap(), Some(json!("2024-01-01T00:00:00.000000Z")));
        for relative in ["\"-7d\"", "\"last:-30d\"", "\"now\""] {
            let why = with(ParamKind::DateTime, relative).unwrap_err();
            assert!(why.contains(".param(\"p\", …)") && why.contains(relative), "{why}");
        }
        let until = ParamDef { name: "until", optional: true, ..param(ParamKind::DateTime) };
        assert_eq!(unsaid(&JOB, &until, now).unwrap(), Some(json!("2024-01-31T00:00:00.000000Z")));
        assert!(unsaid(&JOB, &param(ParamKind::Bool), now).unwrap_err().contains("needs `p`"));
    }
}
