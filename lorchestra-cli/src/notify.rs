//! Hooks, as an observer of runs: a failure under cron must not go unnoticed. `on_start`, `on_success`, `on_failure` and `on_skip` are shell
//! commands, which get one JSON object on stdin ([`command`]); `ping` is a URL that a monitor expects to be requested ([`ping`]).
//!
//! A [`Recorder`] for a collector of OpenTelemetry is a hook too.
//!
//! No hook can change the outcome of a run or delay its start: what happens at the start runs in a thread, and everything else after the
//! outcome has been printed. Each hook has [`TIME_BOX`] for all of its calls, so none can use up the time of another: an alarm is raised
//! however long `on_start` hangs. Errors of hooks are warnings. `LORCHESTRA_HOOK` is set for commands: a run that one of them starts has
//! no hooks.

mod command;
mod ping;

use crate::config::JobConfig;
use crate::printer::Printer;
#[cfg(feature = "otel")]
use crate::telemetry::Recorder;
use crate::telemetry::Telemetry;
use crate::wire::HookInput;
use command::{HookError, StopRequest};
use lorchestra_core::host::signals::Signals;
use lorchestra_core::outcome::{Cause, Failure, Outcome};
use lorchestra_core::run::event::{Observer, RunEvent};
use lorchestra_core::run::recovery::{Closed, Recovered};
use lorchestra_core::store::{Refusal, Run};
use lorchestra_core::text;
use ping::{Ping, Signal};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Time limit for all calls of one hook by a command. A hook of the start has it from the start of its run.
const TIME_BOX: Duration = Duration::from_secs(30);
/// How long the hooks of the end wait for those of the start, so that a short run is reported in order.
const START_FIRST: Duration = Duration::from_secs(5);
/// The hooks of the end in the order in which they are called: alarms first.
const END: [Hook; 4] = [Hook::Failure, Hook::Stale, Hook::Success, Hook::Skip];
/// Interval between two checks for a signal while a hook of the start still runs.
const SIGNAL_CHECK: Duration = Duration::from_millis(100);
/// Maximum length of a text in the object, in characters.
const TEXT: usize = 2000;
/// Variable set in the environment of the commands.
pub(crate) const RUNNING: &str = "LORCHESTRA_HOOK";

/// How long to wait for the thread of a command that is killed.
const KILLED: Duration = Duration::from_secs(1);

/// What a hook reacts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Start,
    Success,
    /// A failed or refused run.
    Failure,
    Skip,
    /// A job without a success in time, which `status --notify` looks for.
    Stale,
}

impl Hook {
    pub(crate) const ALL: [Self; 5] = [Self::Start, Self::Success, Self::Failure, Self::Skip, Self::Stale];

    /// Its key in `config.toml`.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Start => "on_start",
            Self::Success => "on_success",
            Self::Failure => "on_failure",
            Self::Skip => "on_skip",
            Self::Stale => "on_stale",
        }
    }

    fn event(self) -> &'static str {
        self.key().trim_start_matches("on_")
    }
}

/// The configured commands and URLs.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    commands: [Option<String>; 5],
    /// The URL of each job that has one, by `package/job`.
    pings: BTreeMap<String, String>,
    telemetry: Option<Telemetry>,
}

impl Hooks {
    pub(crate) fn new(commands: [Option<String>; 5], jobs: &BTreeMap<String, JobConfig>) -> Self {
        let pings = jobs.iter().filter_map(|(job, config)| Some((job.clone(), config.ping.clone()?)));
        Self { commands, pings: pings.collect(), telemetry: None }
    }

    /// Only `on_failure`.
    pub(crate) fn on_failure(command: Option<String>) -> Self {
        Self { commands: [None, None, command, None, None], ..Self::default() }
    }

    /// Adds what goes to a collector.
    pub(crate) fn with_telemetry(self, telemetry: Option<Telemetry>) -> Self {
        Self { telemetry, ..self }
    }

    /// Whether runs become spans.
    pub(crate) fn exports_spans(&self) -> bool {
        self.telemetry.as_ref().is_some_and(|telemetry| telemetry.traces)
    }

    /// Returns the command of a hook.
    pub(crate) fn command(&self, hook: Hook) -> Option<&str> {
        self.commands[hook as usize].as_deref()
    }
}

/// Hooks that are due.
#[derive(Debug)]
pub(crate) struct Notices<'a> {
    hooks: &'a Hooks,
    reports: Vec<(Hook, HookInput)>,
    pings: Vec<Ping>,
    /// The results of hooks that run already.
    begun: Vec<Receiver<Option<String>>>,
    /// Set to kill the commands that run already.
    stop: Arc<AtomicBool>,
    #[cfg(feature = "otel")]
    recorder: Option<Recorder>,
}

/// The run that a hook is about.
struct About<'a> {
    run_id: &'a str,
    package: &'a str,
    job: &'a str,
    account: Option<&'a str>,
    host: &'a str,
}

impl<'a> Notices<'a> {
    /// Creates the observer.
    pub(crate) fn new(hooks: &'a Hooks) -> Self {
        Self {
            hooks,
            reports: Vec::new(),
            pings: Vec::new(),
            begun: Vec::new(),
            stop: Arc::default(),
            #[cfg(feature = "otel")]
            recorder: hooks.telemetry.clone().map(Recorder::new),
        }
    }

    /// Adds the end of a run. `look` is the command that shows the details of a failure.
    fn ended(&mut self, about: &About<'_>, failure: Option<(Cause, &str)>, look: &str) {
        // Its window is complete: another run has done it.
        if failure.is_some_and(|(cause, _)| cause == Cause::Superseded) {
            return;
        }
        let hook = if failure.is_some() { Hook::Failure } else { Hook::Success };
        let input = HookInput {
            cause: failure.map(|(cause, _)| cause),
            message: failure.map(|(_, message)| text::shortened(message, TEXT)),
            logs: Some(format!("lorchestra runs {look} {}", about.run_id)),
            ..object(hook, about)
        };
        self.report(hook, input);
        let signal = failure.map_or(Signal::Success, |(cause, _)| Signal::Failure(cause));
        self.pings.extend(self.ping(about, signal));
    }

    fn ping(&self, about: &About<'_>, signal: Signal) -> Option<Ping> {
        let url = self.hooks.pings.get(&format!("{}/{}", about.package, about.job))?;
        Some(Ping { url: url.clone(), signal, run_id: about.run_id.to_owned() })
    }

    fn report(&mut self, hook: Hook, object: HookInput) {
        if self.hooks.command(hook).is_some() {
            self.reports.push((hook, object));
        }
    }

    /// Runs what is due at the start of a run, without waiting for it.
    fn started(&mut self, about: &About<'_>) {
        let mut begin = |name: &str, work: Box<dyn FnOnce() -> Option<String> + Send>| {
            let (send, result) = channel();
            // Not in this thread's name: the supervisor waits for its own children only.
            if std::thread::Builder::new().name(name.to_owned()).spawn(move || drop(send.send(work()))).is_ok() {
                self.begun.push(result);
            }
        };
        if let Some(command) = self.hooks.command(Hook::Start).map(str::to_owned) {
            let object = object(Hook::Start, about);
            let stop = Arc::clone(&self.stop);
            let work = move || {
                let result = command::run(&command, Hook::Start, &object, Instant::now() + TIME_BOX, StopRequest::Flag(&stop));
                result.err().map(|error| format!("on_start: {}", why(&error, 1)))
            };
            begin("lorchestra-start-hook", Box::new(work));
        }
        let ping = self.hooks.pings.get(&format!("{}/{}", about.package, about.job)).cloned();
        if let Some(url) = ping {
            let ping = Ping { url, signal: Signal::Start, run_id: about.run_id.to_owned() };
            begin("lorchestra-ping", Box::new(move || ping::send(&[ping]).err()));
        }
    }

    /// Adds the runs that recovery closed.
    pub(crate) fn add_recovered(&mut self, closed: &Closed) {
        self.observe(&RunEvent::Recovered(closed));
    }

    fn recovered(&mut self, closed: &Closed) {
        for Recovered { run, outcome } in &closed.recovered {
            let failure = match outcome {
                Outcome::Failed(Failure { cause, message, .. }) => Some((*cause, message.as_str())),
                Outcome::Completed => None,
            };
            self.ended(&About::of(run), failure, "logs");
        }
    }

    /// Adds a refused run.
    pub(crate) fn add_refused(&mut self, run_id: &str, refusal: &Refusal) {
        self.observe(&RunEvent::Refused { run_id, refusal });
    }

    fn refused(&mut self, run_id: &str, refusal: &Refusal) {
        let Refusal { package, job, account, cause, message, .. } = refusal;
        let host = lorchestra_core::host::process::host();
        let about = About { run_id, package, job, account: account.as_deref(), host: &host };
        self.ended(&about, Some((*cause, message)), "show");
    }

    /// Adds a job that is stale, with its last success.
    pub(crate) fn add_stale(&mut self, [package, job]: [&str; 2], account: Option<&str>, last_success: Option<&str>) {
        let host = lorchestra_core::host::process::host();
        let stale = object(Hook::Stale, &About { run_id: "", package, job, account, host: &host });
        let logs = Some(format!("lorchestra runs list --job {package}/{job}"));
        self.report(Hook::Stale, HookInput { run_id: None, last_success: last_success.map(str::to_owned), logs, ..stale });
    }

    /// Sends what a collector gets: last, because a person or a monitor may wait for the others.
    #[cfg(feature = "otel")]
    fn send_telemetry(&mut self, printer: &mut Printer) {
        if let Some(recorder) = self.recorder.take().filter(Recorder::has_runs) {
            printer.flush();
            if let Err(error) = recorder.send() {
                printer.warning(error);
            }
        }
    }

    /// Runs what is due. Output of commands goes to stderr; errors become warnings. A signal that stops lorchestra also kills the commands.
    pub(crate) fn send(mut self, signals: Option<&mut Signals>, printer: &mut Printer) {
        if !(self.reports.is_empty() && self.pings.is_empty() && self.begun.is_empty()) {
            printer.flush();
            self.call_hooks(signals, printer);
        }
        #[cfg(feature = "otel")]
        self.send_telemetry(printer);
    }

    fn call_hooks(&mut self, mut signals: Option<&mut Signals>, printer: &mut Printer) {
        let until = Instant::now() + START_FIRST;
        let mut late = Vec::new();
        for begun in self.begun.drain(..) {
            match begun.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(error) => error.into_iter().for_each(|error| printer.warning(error)),
                Err(RecvTimeoutError::Timeout) => late.push(begun),
                Err(RecvTimeoutError::Disconnected) => {}
            }
        }
        // After a crash there may be thousands of runs of one job: its monitor needs the last end only.
        let urls: Vec<String> = self.pings.iter().map(|ping| ping.url.clone()).collect();
        let mut pings = std::mem::take(&mut self.pings);
        let mut n = 0;
        pings.retain(|ping| {
            n += 1;
            !urls[n..].contains(&ping.url)
        });
        // First, because monitors measure the time.
        if let Err(error) = ping::send(&pings) {
            printer.warning(error);
        }
        if self.call_commands(signals.as_deref_mut(), printer).is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.wait_for(&late, signals, printer);
    }

    /// Runs the commands of the end. Fails if a signal stopped them.
    fn call_commands(&self, mut signals: Option<&mut Signals>, printer: &mut Printer) -> Result<(), ()> {
        for hook in END {
            let Some(command) = self.hooks.command(hook) else { continue };
            let reports: Vec<&HookInput> = self.reports.iter().filter(|(of, _)| *of == hook).map(|(_, report)| report).collect();
            let deadline = Instant::now() + TIME_BOX;
            for (n, report) in reports.iter().enumerate() {
                let Err(error) = command::run(command, hook, report, deadline, StopRequest::Signals(signals.as_deref_mut()))
                else {
                    continue;
                };
                printer.warning(format_args!("{}: {}", hook.key(), why(&error, n + 1)));
                match error {
                    HookError::Ended(_) => {}
                    HookError::Interrupted => return Err(()),
                    HookError::TimedOut => {
                        let left = reports.len() - n - 1;
                        if left > 0 {
                            let runs = crate::show::counted(left, "more run");
                            printer.warning(format_args!("{} was not called for {runs}", hook.key()));
                        }
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for hooks of the start, which end at their own deadline. A signal kills their commands.
    fn wait_for(&self, late: &[Receiver<Option<String>>], mut signals: Option<&mut Signals>, printer: &mut Printer) {
        let is_stopped = self.stop.load(Ordering::Relaxed);
        let mut until = Instant::now() + if is_stopped { KILLED } else { TIME_BOX };
        for begun in late {
            loop {
                match begun.recv_timeout(SIGNAL_CHECK) {
                    Ok(error) => error.into_iter().for_each(|error| printer.warning(error)),
                    Err(RecvTimeoutError::Timeout) if Instant::now() < until => {
                        if signals.as_mut().is_some_and(|signals| !signals.endings().is_empty()) {
                            self.stop.store(true, Ordering::Relaxed);
                            until = until.min(Instant::now() + KILLED);
                        }
                        continue;
                    }
                    Err(_) => {}
                }
                break;
            }
        }
    }
}

/// Why the `n`th call of a hook failed.
fn why(error: &HookError, n: usize) -> String {
    match error {
        HookError::Ended(why) => why.clone(),
        HookError::Interrupted => "the command was killed: lorchestra received a signal".to_owned(),
        HookError::TimedOut if n == 1 => {
            format!("the command was killed: it did not finish within {} s", TIME_BOX.as_secs())
        }
        HookError::TimedOut => {
            format!("the command was killed: {n} calls of it did not finish within {} s", TIME_BOX.as_secs())
        }
    }
}

impl<'a> About<'a> {
    fn of(run: &'a Run) -> Self {
        Self { run_id: &run.run_id, package: &run.package, job: &run.job, account: run.account.as_deref(), host: &run.host }
    }
}

/// No parameters and no payloads, which may be personal data.
fn object(hook: Hook, about: &About<'_>) -> HookInput {
    let About { run_id, package, job, account, host } = *about;
    HookInput {
        schema: "lorchestra.hook/1",
        event: hook.event(),
        package: package.to_owned(),
        job: job.to_owned(),
        account: account.map(|account| text::shortened(account, TEXT)),
        host: host.to_owned(),
        run_id: Some(run_id.to_owned()),
        cause: None,
        message: None,
        held_by: None,
        last_success: None,
        logs: None,
    }
}

impl Observer for Notices<'_> {
    fn observe(&mut self, event: &RunEvent<'_>) {
        #[cfg(feature = "otel")]
        if let Some(recorder) = &mut self.recorder {
            recorder.observe(event);
        }
        let host = lorchestra_core::host::process::host;
        match event {
            RunEvent::Recovered(closed) => self.recovered(closed),
            RunEvent::Started { run_id, spec } => {
                let (account, host) = (spec.account.as_deref(), host());
                self.started(&About { run_id, package: &spec.package, job: &spec.job, account, host: &host });
            }
            RunEvent::Ended { run_id, spec, terminal, .. } => {
                let (account, host) = (spec.account.as_deref(), host());
                let failure = terminal.failure.as_ref().map(|failure| (failure.cause, failure.message.as_str()));
                self.ended(&About { run_id, package: &spec.package, job: &spec.job, account, host: &host }, failure, "logs");
            }
            RunEvent::Skipped { run_id, spec, held_by } => {
                let (account, host) = (spec.account.as_deref(), host());
                let about = About { run_id, package: &spec.package, job: &spec.job, account, host: &host };
                let (held_by, logs) = (held_by.map(str::to_owned), Some(format!("lorchestra runs show {run_id}")));
                self.report(Hook::Skip, HookInput { held_by, logs, ..object(Hook::Skip, &about) });
            }
            RunEvent::Refused { run_id, refusal } => self.refused(run_id, refusal),
            _ => {}
        }
    }
}
