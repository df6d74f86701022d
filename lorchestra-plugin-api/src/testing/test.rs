//! [`Test`] and [`RunningTest`]: setting up a job, starting it on a thread, cancelling it. The result is a [`TestRun`].

use super::argument::{self, Argument, ArgumentValue};
use super::dir::TempDir;
use super::or_panic;
use super::recorder::{Cancel, Recorder};
use super::test_run::TestRun;
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

/// The run id in tests.
const RUN_ID: &str = "00000000-0000-7000-8000-000000000000";

/// Creates a test of a job: `testing::job::<my_job>()`.
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

/// A job with its parameters and surroundings. Initially: parameters at their defaults, first attempt, empty data directory.
#[derive(Debug)]
#[must_use = "call run() to run the job"]
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
    /// Sets a parameter. Pass a value of its Rust type, or the text that a caller would type, if it is absolute (`"2024-01-31"`,
    /// `"1h30m"`). Pass a list as a whole or in several calls, and an enum's value by its name.
    ///
    /// # Panics
    /// Panics if the job has no such parameter, or if the parameter does not accept the value.
    #[track_caller]
    pub fn param(self, name: &str, value: impl Argument) -> Self {
        self.give(name, value.into_value())
    }

    /// Sets a parameter of type [`Secret`]. One trailing line break is removed, as in a run.
    ///
    /// # Panics
    /// Panics if the job has no such parameter, if it is not a secret, or if the text is not a valid secret (shorter than 6 bytes).
    #[track_caller]
    pub fn secret(mut self, name: &str, text: &str) -> Self {
        let mut text = text;
        // `give` below reports all other mistakes.
        if let Ok(param) = argument::find(self.job, name)
            && param.kind == ParamKind::Secret
        {
            text = or_panic(limits::secret(text).map_err(|why| format!("the secret `{name}` of {} {why}", self.job.name)));
            self.secrets.push((param.name, Secret::new(text)));
        }
        self.give(name, ArgumentValue::Secret(Secret::new(text)))
    }

    #[track_caller]
    fn give(mut self, name: &str, given: ArgumentValue) -> Self {
        let value = argument::find(self.job, name).and_then(|param| argument::to_json(self.job, param, given));
        let value = or_panic(value);
        match (self.params.get_mut(name), value) {
            (Some(Value::Array(there)), Value::Array(more)) => there.extend(more),
            (Some(_), _) => panic!("`{name}` is set twice"),
            (None, value) => {
                self.params.insert(name.to_owned(), value);
            }
        }
        self
    }

    /// Sets the number of the attempt. The default is 1.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Sets the parent of all packages' data directories, so that the job finds files of another package
    /// (`dir.write("ingester/mail.jsonl", …)`) or of an earlier run. The default is a new, empty directory.
    pub fn data(mut self, dir: &TempDir) -> Self {
        self.data = Some(dir.clone());
        self
    }

    /// Sets the package name, which is the name of the data directory. The default is the crate's name.
    pub fn package(mut self, name: &str) -> Self {
        name.clone_into(&mut self.package);
        self
    }

    /// Cancels the job before it starts.
    pub fn cancelled(self) -> Self {
        self.cancel_after_events(0)
    }

    /// Cancels the job after it has emitted `events` events.
    pub fn cancel_after_events(mut self, events: usize) -> Self {
        self.cancel.after_events = Some(events);
        self
    }

    /// Cancels the job after `checks` calls of [`is_cancelled`](crate::JobContext::is_cancelled): with 2, the third call returns `true`.
    pub fn cancel_after_checks(mut self, checks: u64) -> Self {
        self.cancel.after_checks = Some(checks);
        self
    }

    /// Runs the job to its end.
    ///
    /// # Panics
    /// Panics if a required parameter is not set, or if `since` is not before `until`.
    #[track_caller]
    pub fn run(self) -> TestRun {
        self.start().wait()
    }

    /// Starts the job on a thread of its own.
    ///
    /// # Panics
    /// Same as [`run`](Self::run).
    #[track_caller]
    pub fn start(self) -> RunningTest {
        let Self { job: def, invoke, mut params, secrets, package, attempt, data, cancel } = self;
        or_panic(fill_defaults(def, &mut params));
        let data = data.unwrap_or_else(TempDir::new);
        let temp = TempDir::new();
        let call = Call {
            run_id: RUN_ID.to_owned(),
            attempt,
            package: package.clone(),
            data_root: data.path().to_owned(),
            temp_dir: temp.path().join("temp"),
            // Set per thread below: a process-wide subscriber could be set only once, by the first test.
            trace_level: "off".to_owned(),
            params,
        };
        let call = serde_json::to_string(&call).unwrap_or_else(|e| panic!("cannot serialize the call: {e}"));
        let has_since = def.params.iter().any(|param| is_time(param) && param.name == "since");
        let recorder = Recorder::new(cancel, has_since);
        let thread_recorder = recorder.clone();
        let thread = std::thread::Builder::new().name(def.name.to_owned()).spawn(move || {
            let subscriber = bridge::subscriber(&Arc::new(thread_recorder.boxed()), LevelFilter::TRACE);
            let returned = tracing::subscriber::with_default(subscriber, || invoke(&call, thread_recorder.boxed()));
            thread_recorder.end();
            returned
        });
        let thread = thread.unwrap_or_else(|e| panic!("cannot start a thread for {}: {e}", def.name));
        RunningTest { job: def.name, recorder, thread, secrets, data, temp, package }
    }
}

/// Sets the parameters that the test did not set.
fn fill_defaults(job: &JobDef, params: &mut Map<String, Value>) -> Result<(), String> {
    let now = Utc::now();
    for param in job.params.iter().filter(|param| !params.contains_key(param.name)).collect::<Vec<_>>() {
        if let Some(value) = argument::default_value(job, param, now)? {
            params.insert(param.name.to_owned(), value);
        }
    }
    let end = |name: &str| -> Option<DateTime<Utc>> {
        job.params.iter().find(|param| param.name == name && is_time(param))?;
        params.get(name)?.as_str()?.parse().ok()
    };
    match (end("since"), end("until")) {
        (Some(since), until) if since >= until.unwrap_or(now) => Err(format!(
            "`since` ({since}) must be before `until` ({}): lorchestra would refuse to start this run",
            until.unwrap_or(now)
        )),
        _ => Ok(()),
    }
}

fn is_time(param: &ParamDef) -> bool {
    param.kind == ParamKind::DateTime && !param.repeated
}

/// A job that is running.
#[must_use = "call wait() to get the result"]
pub struct RunningTest {
    job: &'static str,
    recorder: Recorder,
    thread: JoinHandle<String>,
    secrets: Vec<(&'static str, Secret)>,
    data: TempDir,
    /// Removed when the job has ended, as by lorchestra.
    temp: TempDir,
    package: String,
}

impl RunningTest {
    /// Waits until the job has emitted an event of this type.
    ///
    /// # Panics
    /// Panics if the job ends without emitting one, or after one minute.
    #[track_caller]
    pub fn wait_for(&self, event_type: &str) -> &Self {
        or_panic(self.recorder.wait_for(event_type).map_err(|why| format!("{}: {why}", self.job)));
        self
    }

    /// Cancels the job, as Ctrl-C, a time limit or `runs stop` would. Unlike in a run, nothing kills it after the grace period.
    pub fn cancel(&self) -> &Self {
        self.recorder.cancel();
        self
    }

    /// Waits until the job has ended.
    ///
    /// # Panics
    /// Panics if the job was not called, which is a bug in this crate.
    #[track_caller]
    pub fn wait(self) -> TestRun {
        let Self { job, recorder, thread, secrets, data, temp, package } = self;
        let returned = thread.join().unwrap_or_else(|_| panic!("the thread of {job} panicked outside of the job"));
        drop(temp);
        let end: JobReturn =
            serde_json::from_str(&returned).unwrap_or_else(|e| panic!("{job} returned invalid JSON {returned:?}: {e}"));
        if let JobReturn::Refused { message } = &end {
            panic!("{job} was not called: {message}");
        }
        TestRun { job, end, recorded: recorder.take(), secrets, data, package }
    }
}

impl std::fmt::Debug for RunningTest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningTest").field("job", &self.job).finish_non_exhaustive()
    }
}
