//! A job before and while it is run: what it is given, the thread it runs on, and the request to end. What it did is [`Ran`].

use super::argument::{self, Argument, Given};
use super::dir::TempDir;
use super::or_panic;
use super::ran::Ran;
use super::recorder::{Cancel, Recorder};
use crate::abi::BoxedSink;
use crate::bridge;
use crate::def::{JobDef, ParamDef, ParamKind};
use crate::invoke::{Call, JobReturn, invoke};
use crate::job::Job;
use crate::limits;
use crate::secret::Secret;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::thread::JoinHandle;
use tracing::level_filters::LevelFilter;

/// The id of every run in tests.
const RUN_ID: &str = "00000000-0000-7000-8000-000000000000";

/// A job to be run: `testing::job::<my_job>()`.
pub fn job<J: Job>() -> Test {
    // `crate::module::my_job`
    let package = std::any::type_name::<J>().split("::").next().unwrap_or_default().to_owned();
    Test {
        job: &J::DEF,
        invoke: invoke::<J>,
        params: Map::new(),
        secrets: Vec::new(),
        package,
        attempt: 1,
        data: None,
        cancel: Cancel::default(),
    }
}

/// What a job is given in a test. Without a word more: no parameter but the defaults, the first attempt, an empty data directory.
#[derive(Debug)]
#[must_use = "the job is run by run()"]
pub struct Test {
    job: &'static JobDef,
    invoke: fn(&str, BoxedSink) -> String,
    params: Map<String, Value>,
    secrets: Vec<(&'static str, Secret)>,
    package: String,
    attempt: u32,
    data: Option<TempDir>,
    cancel: Cancel,
}

impl Test {
    /// Gives a parameter its value: numbers, `bool`, text, paths, times and durations of their own types, or as the text that is typed,
    /// as long as it is absolute (`"2024-01-31"`, `"1h30m"`). A list is given as one, or by several calls; an enum's value by its name.
    ///
    /// # Panics
    /// The job has no such parameter, or the value is none of its.
    #[track_caller]
    pub fn param(self, name: &str, value: impl Argument) -> Self {
        self.give(name, value.given())
    }

    /// Gives a parameter that is a [`Secret`] its text, less the line break at its end, as a run does.
    ///
    /// # Panics
    /// The job has no such parameter, it is not a secret, or no run would take the text for one: it has less than 6 bytes.
    #[track_caller]
    pub fn secret(mut self, name: &str, text: &str) -> Self {
        let mut text = text;
        // What else is wrong is told by what follows.
        if let Ok(param) = argument::find(self.job, name)
            && param.kind == ParamKind::Secret
        {
            text = or_panic(limits::secret(text).map_err(|why| format!("the secret `{name}` of {} {why}", self.job.name)));
            self.secrets.push((param.name, Secret::new(text)));
        }
        self.give(name, Given::Secret(Secret::new(text)))
    }

    #[track_caller]
    fn give(mut self, name: &str, given: Given) -> Self {
        let value = argument::find(self.job, name).and_then(|param| argument::crossing(self.job, param, given));
        let value = or_panic(value);
        match (self.params.get_mut(name), value) {
            (Some(Value::Array(there)), Value::Array(more)) => there.extend(more),
            (Some(_), _) => panic!("`{name}` is given twice"),
            (None, value) => {
                self.params.insert(name.to_owned(), value);
            }
        }
        self
    }

    /// Which attempt it is; without this the first.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// The parent of the packages' data directories, for what other packages left there (`dir.write("ingester/mail.jsonl", …)`) or
    /// an earlier run did. Without this it is a new one.
    pub fn data(mut self, dir: &TempDir) -> Self {
        self.data = Some(dir.clone());
        self
    }

    /// The package, which names the data directory. Without this it is the crate's name.
    pub fn package(mut self, name: &str) -> Self {
        name.clone_into(&mut self.package);
        self
    }

    /// The job is told to end before it begins.
    pub fn cancelled(self) -> Self {
        self.cancel_after_events(0)
    }

    /// The job is told to end once it has emitted so many events.
    pub fn cancel_after_events(mut self, events: usize) -> Self {
        self.cancel.after_events = Some(events);
        self
    }

    /// The job is told to end once it has looked so often whether it is: with 2, the third look says yes. For jobs that look in a loop.
    pub fn cancel_after_looks(mut self, looks: u64) -> Self {
        self.cancel.after_looks = Some(looks);
        self
    }

    /// Runs the job to its end.
    ///
    /// # Panics
    /// A parameter without a default has no value, or `since` does not lie before `until`.
    #[track_caller]
    pub fn run(self) -> Ran {
        self.start().wait()
    }

    /// Starts the job on a thread of its own.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    #[track_caller]
    pub fn start(self) -> Running {
        let Self { job: def, invoke, mut params, secrets, package, attempt, data, cancel } = self;
        or_panic(fill(def, &mut params));
        let data = data.unwrap_or_else(TempDir::new);
        let call = Call {
            run_id: RUN_ID.to_owned(),
            attempt,
            package: package.clone(),
            data_root: data.path().to_owned(),
            // Not to the process's subscriber: that would be the first test's, for good.
            trace_level: "off".to_owned(),
            params,
        };
        let call = serde_json::to_string(&call).unwrap_or_else(|e| panic!("the call cannot be written: {e}"));
        let has_since = def.params.iter().any(|param| is_time(param) && param.name == "since");
        let recorder = Recorder::new(cancel, has_since);
        let of_thread = recorder.clone();
        let thread = std::thread::Builder::new().name(def.name.to_owned()).spawn(move || {
            let subscriber = bridge::subscriber(&Arc::new(of_thread.boxed()), LevelFilter::TRACE);
            let returned = tracing::subscriber::with_default(subscriber, || invoke(&call, of_thread.boxed()));
            of_thread.end();
            returned
        });
        let thread = thread.unwrap_or_else(|e| panic!("no thread for {}: {e}", def.name));
        Running { job: def.name, recorder, thread, secrets, data, package }
    }
}

/// Gives the parameters without a value theirs.
fn fill(job: &JobDef, params: &mut Map<String, Value>) -> Result<(), String> {
    let now = Utc::now();
    for param in job.params.iter().filter(|param| !params.contains_key(param.name)).collect::<Vec<_>>() {
        if let Some(value) = argument::unsaid(job, param, now)? {
            params.insert(param.name.to_owned(), value);
        }
    }
    let end = |name: &str| -> Option<DateTime<Utc>> {
        job.params.iter().find(|param| param.name == name && is_time(param))?;
        params.get(name)?.as_str()?.parse().ok()
    };
    match (end("since"), end("until")) {
        (Some(since), until) if since >= until.unwrap_or(now) => Err(format!(
            "`since` ({since}) must lie before `until` ({}): lorchestra does not start such a run",
            until.unwrap_or(now)
        )),
        _ => Ok(()),
    }
}

fn is_time(param: &ParamDef) -> bool {
    param.kind == ParamKind::DateTime && !param.repeated
}

/// A job that is running.
#[must_use = "what the job did is known after wait()"]
pub struct Running {
    job: &'static str,
    recorder: Recorder,
    thread: JoinHandle<String>,
    secrets: Vec<(&'static str, Secret)>,
    data: TempDir,
    package: String,
}

impl Running {
    /// Waits until the job has emitted an event of that type, a minute at most.
    ///
    /// # Panics
    /// It has not, or has ended without.
    #[track_caller]
    pub fn wait_for(&self, event_type: &str) -> &Self {
        or_panic(self.recorder.wait_for(event_type).map_err(|why| format!("{}: {why}", self.job)));
        self
    }

    /// Tells the job to end, as Ctrl-C, a deadline or `runs stop` do. Nothing kills it here.
    pub fn cancel(&self) -> &Self {
        self.recorder.cancel();
        self
    }

    /// Waits for the job's end.
    ///
    /// # Panics
    /// The job's answer cannot be read: a fault of this library.
    #[track_caller]
    pub fn wait(self) -> Ran {
        let Self { job, recorder, thread, secrets, data, package } = self;
        let returned = thread.join().unwrap_or_else(|_| panic!("the thread of {job} panicked outside of the job"));
        let end: JobReturn = serde_json::from_str(&returned).unwrap_or_else(|e| panic!("{job} answered with {returned:?}: {e}"));
        if let JobReturn::Refused { message } = &end {
            panic!("{job} was not entered: {message}");
        }
        Ran { job, end, kept: recorder.take(), secrets, data, package }
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("job", &self.job).finish_non_exhaustive()
    }
}
