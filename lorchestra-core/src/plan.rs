//! A run before it exists: typed parameters, the window in absolute time, the limits it runs under.
//!
//! Owns the step from what was typed to what will be run, [`resolve`]. It is given the job's manifest by the catalog's user,
//! the texts by the command line, and hands a [`RunSpec`] to [`crate::run::launch`] or to the printer of `--dry-run`. It touches
//! nothing: no clock, no environment, no file; now is a value. What it promises: each time is resolved once, so that the
//! plan that is printed is the plan that is run; a plan holds nothing its job's types do not take; and what is wrong with
//! a request is said all at once, one line each; and no secret is in it, only where each is to be found ([`source`]).
//!
//! [`time`], [`duration`] and [`size`] are the small languages, [`last`] the bookmark among the times, [`value`] is what each kind of
//! parameter takes; [`overlap`] and [`retries`] are what a run does when it cannot begin, or has failed.

pub mod duration;
pub mod last;
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
pub use spec::{Context, RequestedBy, RunSpec, SpecError};
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

/// Where an `until` comes from that nobody gave.
const START: &str = "not given: the start of the run";

/// What was asked for.
#[derive(Debug, Clone)]
pub struct PlanRequest<'a> {
    /// Package of the job.
    pub package: &'a str,
    /// Version of the package.
    pub version: &'a str,
    /// The job, as its library describes it.
    pub job: &'a JobManifest,
    /// What was typed, in its order.
    pub values: Vec<Given>,
    /// The instant that relative times count from.
    pub now: DateTime<Utc>,
    /// The bookmark that [`last::asked_by`] says is asked for, if there is one.
    pub bookmark: Option<DateTime<Utc>>,
    /// Timeout, retries and the rest ([`policy::limits`]).
    pub limits: RunLimits,
    /// Who asks, and in which context.
    pub context: Context,
}

/// One parameter's value as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The parameter's name, as in the manifest; `-` for `_` is understood.
    pub name: String,
    /// The value.
    pub text: String,
    /// What stood before the value, for messages: `--since`, or `--param since`.
    pub typed_as: String,
}

/// Makes the spec of a run from a request.
///
/// # Errors
/// All that is wrong with the request. The job was not touched.
pub fn resolve(request: PlanRequest<'_>) -> Result<RunSpec, PlanError> {
    let PlanRequest { package, version, job, values, now, bookmark, limits, context } = request;
    let now = time::to_micros(now);
    let mut faults = Vec::new();
    let mut given: BTreeMap<&str, Vec<&Given>> = BTreeMap::new();
    for value in &values {
        match find(job, &value.name) {
            Some(param) => given.entry(&param.name).or_default().push(value),
            None => faults.push(unknown(package, job, value)),
        }
    }
    let asked = last::asked_by(job, &values);
    let since_last = asked.is_some();
    let mark = JobBookmark { package, job: &job.name, account: asked.and_then(|asked| asked.account), at: bookmark };
    let mut params = Map::new();
    let mut secrets = BTreeMap::new();
    let mut ends = Ends::default();
    for param in &job.params {
        let typed = given.remove(param.name.as_str()).unwrap_or_default();
        if param.kind == ParamKind::Secret {
            match source_of(param, &typed, &mark) {
                Ok(source) => drop(secrets.insert(param.name.clone(), source)),
                Err(mut wrong) => faults.append(&mut wrong),
            }
            continue;
        }
        match settle(param, &typed, now, &mark) {
            Ok(Some(settled)) => {
                params.insert(param.name.clone(), settled.value.to_json());
                ends.see(param, Some(settled));
            }
            Ok(None) => ends.see(param, None),
            Err(mut wrong) => {
                ends.see(param, None);
                ends.broken |= is_end(param);
                faults.append(&mut wrong);
            }
        }
    }
    let window = ends.window(now, &mark).unwrap_or_else(|fault| {
        faults.push(fault);
        None
    });
    if !faults.is_empty() {
        return Err(PlanError { faults });
    }
    let account = spec::account(job, &params);
    let resolved = Resolved { params, secrets, account, window, since_last, at: now };
    Ok(RunSpec::new([package, &job.name, version], resolved, limits, context))
}

/// The parameter of that name; failing that, the one whose flag it is.
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
    /// In words, where it came from.
    origin: String,
    /// Whether it is the bookmark.
    is_bookmark: bool,
}

impl ResolvedValue {
    fn new(value: TypedValue, origin: impl Into<String>) -> Self {
        Self { value, origin: origin.into(), is_bookmark: false }
    }
}

/// The job, and its bookmark that may be asked for.
struct JobBookmark<'a> {
    package: &'a str,
    job: &'a str,
    account: Option<String>,
    at: Option<DateTime<Utc>>,
}

impl JobBookmark<'_> {
    /// A parameter of one value that was given each of these.
    fn repeated(&self, param: &ParamManifest, typed: Vec<String>) -> PlanFault {
        const LISTED: usize = 3;
        let job = fault::whose(self.package, self.job, None);
        let more = if typed.len() > LISTED { " and …" } else { "" };
        let shown = format!("{}{more}", typed[..typed.len().min(LISTED)].join(" and "));
        PlanFault::Repeated { flag: format!("--{}", param.flag()), times: typed.len(), typed: shown, job }
    }

    /// What `at` makes of it, which is [`last::Last::at`]'s answer.
    fn settled(&self, param: &ParamManifest, at: Option<DateTime<Utc>>, origin: String) -> Result<ResolvedValue, PlanFault> {
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

/// A parameter's value; `Ok(None)` where it is left to the job.
fn settle(
    param: &ParamManifest,
    typed: &[&Given],
    now: DateTime<Utc>,
    mark: &JobBookmark<'_>,
) -> Result<Option<ResolvedValue>, Vec<PlanFault>> {
    let flag = || format!("--{}", param.flag());
    if typed.is_empty() {
        if let Some(last) = value::default_last(&param.name, param.kind, &param.default) {
            let at = last.at(mark.at, now).map_err(|why| value::unfit(&param.default, why));
            let at = at.map_err(|reason| vec![PlanFault::Default { flag: flag(), reason }])?;
            let origin = format!("the default {} of {}", quote_json(&param.default), flag());
            return mark.settled(param, at, origin).map(Some).map_err(|fault| vec![fault]);
        }
        let default = value::default(param.into(), &param.default, now)
            .map_err(|reason| vec![PlanFault::Default { flag: flag(), reason }])?;
        return match default {
            Some(value) => Ok(Some(ResolvedValue::new(value, format!("the default {}", quote_json(&param.default))))),
            // The start of the run, passed on: the job and the window see the same end.
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
    let mut settled = None;
    let mut list = Vec::new();
    if typed.len() > 1 && !param.repeated {
        faults.push(mark.repeated(param, typed.iter().map(|given| given.shown(param.kind)).collect()));
    }
    for given in typed {
        let shown = given.shown(param.kind);
        let read = match last::read(&given.text).filter(|_| last::takes(&param.name, param.kind)) {
            Some(last) => match last.at(mark.at, now) {
                Ok(at) => mark.settled(param, at, shown),
                Err(reason) => Err(PlanFault::Value { typed: shown, reason }),
            },
            None => match value::parse(param.into(), &given.text, now) {
                Ok(value) => Ok(ResolvedValue::new(value, shown)),
                Err(reason) => Err(PlanFault::Value { typed: shown, reason }),
            },
        };
        match read {
            Ok(value) if param.repeated => list.push(value.value.to_json()),
            Ok(value) => settled = Some(value),
            Err(fault) => faults.push(fault),
        }
    }
    if param.repeated {
        settled = Some(ResolvedValue::new(TypedValue::Json(list.into()), "its values"));
    }
    if faults.is_empty() { Ok(settled) } else { Err(faults) }
}

/// Where a secret is to be found. What was typed is not repeated unless it is a source: it may be the secret itself.
fn source_of(param: &ParamManifest, typed: &[&Given], mark: &JobBookmark<'_>) -> Result<Source, Vec<PlanFault>> {
    let hidden = |given: &Given| format!("{} …", printable_flag(&given.typed_as));
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

/// Whether this is a parameter that bounds the window.
fn is_end(param: &ParamManifest) -> bool {
    param.kind == ParamKind::DateTime && (param.name == "since" || param.name == "until")
}

/// The ends of the window, as far as they are known.
#[derive(Debug, Default)]
struct Ends {
    /// The job has at least one.
    declared: bool,
    /// One of them has a fault of its own: nothing can be said of the window.
    broken: bool,
    since: Option<WindowEnd>,
    until: Option<WindowEnd>,
    /// `since` is the bookmark.
    from_bookmark: bool,
}

impl Ends {
    fn see(&mut self, param: &ParamManifest, value: Option<ResolvedValue>) {
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

impl Given {
    /// Flag and value, as they were typed.
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

/// What was typed before the value, as it is where that is harmless and short.
fn printable_flag(typed_as: &str) -> String {
    let quoted = quote(typed_as);
    if quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) == Some(typed_as) { typed_as.to_owned() } else { quoted }
}

fn unknown(package: &str, job: &JobManifest, given: &Given) -> PlanFault {
    let flags: Vec<String> = job.params.iter().map(ParamManifest::flag).collect();
    let typed_flag = given.name.replace('_', "-");
    let hint = match nearest(&typed_flag, flags.iter().map(String::as_str)).first() {
        Some(flag) => format!("did you mean --{flag}?"),
        None if flags.is_empty() => "it takes none: leave it out".to_owned(),
        None => {
            // A message is a line: who has more parameters than this looks at the help.
            const LISTED: usize = 10;
            let more = if flags.len() > LISTED { ", …" } else { "" };
            let listed: Vec<String> = flags.iter().take(LISTED).map(|flag| format!("--{flag}")).collect();
            format!("there are {}{more}", listed.join(", "))
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
