//! A run before it starts: typed parameters, the window in absolute time, and the run's limits.
//!
//! Owns the step from the user's input to the run, [`resolve`]. The caller passes the job's manifest (from the catalog) and the texts (from
//! the command line), and gives the resulting [`RunSpec`] to [`crate::run::launch`] or to the printer of `--dry-run`. Has no side effects:
//! no clock, no environment, no file; the current time is a parameter.
//!
//! Guarantees: each time is resolved once, so the plan that is printed is the plan that runs; a plan contains only values that match the
//! job's types; all faults of a request are reported at once, one line each; and a plan contains no secret, only the source of each
//! ([`source`]).
//!
//! [`time`], [`duration`] and [`size`] parse their notations, [`last`] handles the bookmark as a time, [`value`] defines which values each
//! kind of parameter accepts; [`overlap`] and [`retries`] define what happens if a run cannot start or has failed.

pub mod duration;
pub mod every;
pub mod last;
pub mod list;
pub mod overlap;
pub mod policy;
pub mod retries;
pub mod size;
pub mod source;
pub mod spec;
pub mod time;
pub mod value;

mod date;
mod diagnose;
mod fault;
mod instant;
mod relative;
mod unit;
mod window;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use fault::{PlanError, PlanFault};
pub use overlap::OnOverlap;
pub use policy::{RunLimits, RunPolicy};
pub use retries::Retries;
pub use spec::{Context, OverlapKey, RequestedBy, RunSpec, SpecError};
pub use window::Window;

use crate::text::{nearest, quote, quote_json};
use chrono::{DateTime, Utc};
use lorchestra_plugin_api::def::ParamKind;
use lorchestra_plugin_api::manifest::{JobManifest, ParamManifest};
use serde_json::{Map, Value};
use source::Source;
use spec::Resolved;
use std::collections::BTreeMap;
use value::{TypedValue, ValueError};
use window::WindowEnd;

/// Origin of an `until` that was not given.
const START: &str = "not given: the start of the run";

/// The input of [`resolve`].
#[derive(Debug, Clone)]
pub struct PlanRequest<'a> {
    /// Package of the job.
    pub package: &'a str,
    /// Version of the package.
    pub version: &'a str,
    /// The job, as its library describes it.
    pub job: &'a JobManifest,
    /// The given values, in the order in which they were typed.
    pub values: Vec<ParamArg>,
    /// The instant to which relative times refer.
    pub now: DateTime<Utc>,
    /// The bookmark that [`last::requested_bookmark`] identifies, if it exists.
    pub bookmark: Option<DateTime<Utc>>,
    /// Timeout, retries and other limits ([`policy::limits`]).
    pub limits: RunLimits,
    /// Who requests the run, and in which context.
    pub context: Context,
}

/// A parameter value as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamArg {
    /// The parameter's name as in the manifest, or with `-` for `_`.
    pub name: String,
    /// The value; for a list, several values may be separated by commas ([`list`]).
    pub text: String,
    /// The text before the value, for messages: `--since`, or `--param since`.
    pub typed_as: String,
    /// Whether it comes from the configuration, and not from the request.
    pub is_configured: bool,
}

/// Resolves a request to the spec of a run.
///
/// # Errors
/// All faults of the request. No code of the job has run.
pub fn resolve(request: PlanRequest<'_>) -> Result<RunSpec, PlanError> {
    let PlanRequest { package, version, job, values, now, bookmark, limits, context } = request;
    let now = time::to_micros(now);
    let mut faults = Vec::new();
    let mut is_configured = false;
    let mut given: BTreeMap<&str, Vec<&ParamArg>> = BTreeMap::new();
    for value in &values {
        match find(job, &value.name) {
            Some(param) => given.entry(&param.name).or_default().push(value),
            None => {
                is_configured |= value.is_configured;
                faults.push(unknown(package, job, value));
            }
        }
    }
    let asked = last::requested_bookmark(job, &values);
    let since_last = asked.is_some();
    let mark = JobBookmark { package, job: &job.name, account: asked.and_then(|asked| asked.account), at: bookmark };
    let mut params = Map::new();
    let mut secrets = BTreeMap::new();
    let mut ends = Ends::default();
    for param in &job.params {
        let typed = given.remove(param.name.as_str()).unwrap_or_default();
        let of_configuration = typed.iter().any(|value| value.is_configured);
        if param.kind == ParamKind::Secret {
            match source_of(param, &typed, &mark) {
                Ok(source) => drop(secrets.insert(param.name.clone(), source)),
                Err(mut wrong) => {
                    is_configured |= of_configuration;
                    faults.append(&mut wrong);
                }
            }
            continue;
        }
        if is_end(param) {
            ends.is_configured |= of_configuration;
            ends.is_typed |= typed.iter().any(|value| !value.is_configured);
        }
        match resolve_param(param, &typed, now, &mark) {
            Ok(Some(resolved)) => {
                params.insert(param.name.clone(), resolved.value.to_json());
                ends.add(param, Some(resolved));
            }
            Ok(None) => ends.add(param, None),
            Err(mut wrong) => {
                ends.add(param, None);
                ends.broken |= is_end(param);
                is_configured |= of_configuration;
                faults.append(&mut wrong);
            }
        }
    }
    // An end that was typed may be the wrong one.
    let has_configured_end = ends.is_configured && !ends.is_typed;
    let window = ends.window(now, &mark).unwrap_or_else(|fault| {
        is_configured |= has_configured_end;
        faults.push(fault);
        None
    });
    if !faults.is_empty() {
        return Err(PlanError { faults, is_configured });
    }
    let account = spec::account(job, &params);
    let resolved = Resolved { params, secrets, account, window, since_last, at: now };
    Ok(RunSpec::new([package, &job.name, version], resolved, limits, context))
}

/// Returns the parameter with this name or, failing that, with this flag.
fn find<'a>(job: &'a JobManifest, name: &str) -> Option<&'a ParamManifest> {
    let exact = job.params.iter().find(|param| param.name == name);
    exact.or_else(|| {
        let mut alike = job.params.iter().filter(|param| param.flag() == name.replace('_', "-"));
        alike.next().filter(|_| alike.next().is_none())
    })
}

/// A parameter's value.
struct ResolvedValue {
    value: TypedValue,
    /// Describes where it came from.
    origin: String,
    /// Whether it is the bookmark.
    is_bookmark: bool,
}

impl ResolvedValue {
    fn new(value: TypedValue, origin: impl Into<String>) -> Self {
        Self { value, origin: origin.into(), is_bookmark: false }
    }
}

/// The job, and its bookmark if the request uses it.
struct JobBookmark<'a> {
    package: &'a str,
    job: &'a str,
    account: Option<String>,
    at: Option<DateTime<Utc>>,
}

impl JobBookmark<'_> {
    /// The fault of a parameter that accepts one value and was given several.
    fn repeated(&self, param: &ParamManifest, typed: Vec<String>) -> PlanFault {
        const LISTED: usize = 3;
        let job = fault::whose(self.package, self.job, None);
        let more = if typed.len() > LISTED { " and …" } else { "" };
        let shown = format!("{}{more}", typed[..typed.len().min(LISTED)].join(" and "));
        PlanFault::Repeated { flag: format!("--{}", param.flag()), times: typed.len(), typed: shown, job }
    }

    /// Turns the result of [`last::Last::at`] into a value or a fault.
    fn value(&self, param: &ParamManifest, at: Option<DateTime<Utc>>, origin: String) -> Result<ResolvedValue, PlanFault> {
        let account = self.account.as_deref();
        match at {
            Some(at) => Ok(ResolvedValue { value: TypedValue::Instant(at), origin, is_bookmark: self.at.is_some() }),
            None => Err(PlanFault::NoBookmark {
                typed: origin,
                flag: param.flag(),
                whose: fault::whose(self.package, self.job, account),
                command: fault::set_command(self.package, self.job, account),
            }),
        }
    }
}

/// Resolves a parameter's value; `Ok(None)` if the job decides.
fn resolve_param(
    param: &ParamManifest,
    typed: &[&ParamArg],
    now: DateTime<Utc>,
    mark: &JobBookmark<'_>,
) -> Result<Option<ResolvedValue>, Vec<PlanFault>> {
    let flag = || format!("--{}", param.flag());
    if typed.is_empty() {
        if let Some(last) = value::default_last(&param.name, param.kind, &param.default) {
            let at = last.at(mark.at, now).map_err(|why| value::invalid_default(&param.default, why));
            let at = at.map_err(|reason| vec![PlanFault::Default { flag: flag(), reason }])?;
            let origin = format!("the default {} of {}", quote_json(&param.default), flag());
            return mark.value(param, at, origin).map(Some).map_err(|fault| vec![fault]);
        }
        let default = value::default(param.into(), &param.default, now)
            .map_err(|reason| vec![PlanFault::Default { flag: flag(), reason }])?;
        return match default {
            Some(value) => Ok(Some(ResolvedValue::new(value, format!("the default {}", quote_json(&param.default))))),
            // Pass on the start of the run, so that job and window have the same end.
            None if is_end(param) && param.name == "until" && param.optional => {
                let start = value::parse(param.into(), "now", now);
                let typed = format!("until ({START})");
                start
                    .map(|value| Some(ResolvedValue::new(value, START)))
                    .map_err(|reason| vec![PlanFault::Value { typed, reason }])
            }
            None if param.repeated => Ok(Some(ResolvedValue::new(TypedValue::Json(Value::Array(Vec::new())), "nothing"))),
            None if param.is_required() => Err(vec![missing(param)]),
            None => Ok(None),
        };
    }
    let mut faults = Vec::new();
    let mut resolved = None;
    let mut list = Vec::new();
    if typed.len() > 1 && !param.repeated {
        faults.push(mark.repeated(param, typed.iter().map(|given| given.shown(param.kind)).collect()));
    }
    let items = if param.repeated { list_items(param, typed, &mut faults) } else { Vec::new() };
    let items: Vec<&ParamArg> = if param.repeated { items.iter().collect() } else { typed.to_vec() };
    for given in items {
        let shown = given.shown(param.kind);
        let read = match last::read(&given.text).filter(|_| last::accepts_last(&param.name, param.kind)) {
            Some(last) => match last.at(mark.at, now) {
                Ok(at) => mark.value(param, at, shown),
                Err(reason) => Err(PlanFault::Value { typed: shown, reason }),
            },
            None => match value::parse(param.into(), &given.text, now) {
                Ok(value) => Ok(ResolvedValue::new(value, shown)),
                Err(reason) => Err(PlanFault::Value { typed: shown, reason }),
            },
        };
        match read {
            Ok(value) if param.repeated => list.push(value.value.to_json()),
            Ok(value) => resolved = Some(value),
            Err(fault) => faults.push(fault),
        }
    }
    if param.repeated {
        resolved = Some(ResolvedValue::new(TypedValue::Json(list.into()), "its values"));
    }
    if faults.is_empty() { Ok(resolved) } else { Err(faults) }
}

/// Returns each value of a list, as if it had been typed alone.
fn list_items(param: &ParamManifest, typed: &[&ParamArg], faults: &mut Vec<PlanFault>) -> Vec<ParamArg> {
    let mut items = Vec::new();
    for given in typed {
        match list::split(&given.text) {
            Ok(values) => items.extend(values.into_iter().map(|text| ParamArg { text, ..(*given).clone() })),
            Err(reason) => faults.push(PlanFault::Value { typed: given.shown(param.kind), reason }),
        }
    }
    items
}

/// Returns the source of a secret. Repeats the typed text only if it is a source: it may be the secret itself.
fn source_of(param: &ParamManifest, typed: &[&ParamArg], mark: &JobBookmark<'_>) -> Result<Source, Vec<PlanFault>> {
    let hidden = |given: &ParamArg| format!("{} …", printable_flag(&given.typed_as));
    let sources: Vec<Result<Source, PlanFault>> = typed
        .iter()
        .map(|given| {
            Source::parse(&given.text).ok_or_else(|| PlanFault::Value { typed: hidden(given), reason: ValueError::Source })
        })
        .collect();
    let mut faults: Vec<PlanFault> = sources.iter().filter_map(|source| source.as_ref().err().cloned()).collect();
    if typed.len() > 1 {
        faults.push(mark.repeated(param, typed.iter().map(|given| hidden(given)).collect()));
    }
    match sources.into_iter().next() {
        _ if !faults.is_empty() => Err(faults),
        Some(Ok(source)) => Ok(source),
        _ => Ok(Source::usual(mark.package, &param.name, param.optional)),
    }
}

/// Whether this parameter bounds the window.
fn is_end(param: &ParamManifest) -> bool {
    param.kind == ParamKind::DateTime && (param.name == "since" || param.name == "until")
}

/// The ends of the window, as far as they are known.
#[derive(Debug, Default)]
struct Ends {
    /// The job has at least one of the parameters.
    declared: bool,
    /// One of the ends has a fault of its own, so the window cannot be checked.
    broken: bool,
    since: Option<WindowEnd>,
    until: Option<WindowEnd>,
    /// `since` is the bookmark.
    from_bookmark: bool,
    /// One of them comes from the configuration.
    is_configured: bool,
    /// One of them comes from the request.
    is_typed: bool,
}

impl Ends {
    fn add(&mut self, param: &ParamManifest, value: Option<ResolvedValue>) {
        if !is_end(param) {
            return;
        }
        self.declared = true;
        if let Some(ResolvedValue { value: TypedValue::Instant(at), origin, is_bookmark }) = value {
            let end = Some(WindowEnd { at, origin });
            if param.name == "since" {
                self.since = end
            } else {
                self.until = end
            }
            self.from_bookmark |= is_bookmark;
        }
    }

    fn window(self, now: DateTime<Utc>, mark: &JobBookmark<'_>) -> Result<Option<Window>, PlanFault> {
        if !self.declared || self.broken {
            return Ok(None);
        }
        let until = self.until.unwrap_or_else(|| WindowEnd { at: now, origin: START.to_owned() });
        Window::of(self.since.as_ref(), &until).map(Some).map_err(|fault| match fault {
            PlanFault::Window { since, since_origin, until, until_origin } if self.from_bookmark => PlanFault::AllDone {
                typed: since_origin,
                whose: fault::whose(mark.package, mark.job, mark.account.as_deref()),
                bookmark: since,
                until,
                until_origin,
            },
            other => other,
        })
    }
}

impl ParamArg {
    /// Flag and value as they were typed.
    fn shown(&self, kind: ParamKind) -> String {
        let by_name = self.typed_as.starts_with("--param ");
        let text = quote(&self.text);
        if by_name {
            format!("{}={text}", printable_flag(&self.typed_as))
        } else if kind == ParamKind::Bool && (self.text == "true" || self.text == "false") {
            // `--x` and `--no-x` have no value of their own.
            printable_flag(&self.typed_as)
        } else {
            format!("{} {text}", printable_flag(&self.typed_as))
        }
    }
}

/// The flag as typed, if it is harmless and short; otherwise quoted.
fn printable_flag(typed_as: &str) -> String {
    let quoted = quote(typed_as);
    if quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) == Some(typed_as) { typed_as.to_owned() } else { quoted }
}

fn unknown(package: &str, job: &JobManifest, given: &ParamArg) -> PlanFault {
    let flags: Vec<String> = job.params.iter().map(ParamManifest::flag).collect();
    let typed_flag = given.name.replace('_', "-");
    let hint = match nearest(&typed_flag, flags.iter().map(String::as_str)).first() {
        Some(flag) => format!("did you mean --{flag}?"),
        None if flags.is_empty() => "the job has no parameters: omit it".to_owned(),
        None => {
            // A message is one line; the help lists all parameters.
            const LISTED: usize = 10;
            let more = if flags.len() > LISTED { ", …" } else { "" };
            let listed: Vec<String> = flags.iter().take(LISTED).map(|flag| format!("--{flag}")).collect();
            format!("its parameters are {}{more}", listed.join(", "))
        }
    };
    PlanFault::Unknown {
        typed: given.shown(ParamKind::String),
        job: format!("{package}/{}", job.name),
        name: quote(&given.name),
        hint,
    }
}

fn missing(param: &ParamManifest) -> PlanFault {
    let flag = format!("--{}", param.flag());
    let usage = match param.kind {
        ParamKind::Bool => format!("{flag} or --no-{}", param.flag()),
        kind => format!("{flag} {}", value::placeholder(kind)),
    };
    let mut summary = value::describe(param.into());
    let docs = fault::first_line(&param.docs);
    if !docs.is_empty() {
        summary = format!("{summary}. {docs}");
    }
    PlanFault::Missing { flag, usage, summary }
}
