//! The `on_failure` command, as an observer of runs: a failure under cron must not go unnoticed. Executed by `/bin/sh -c` once for each
//! failed run, with one JSON object on stdin, after the outcome has been printed. All calls together have 30 s, and none can change the
//! outcome. `LORCHESTRA_ON_FAILURE` is set for it: a run that the command starts does not start the command again.

use crate::printer::Printer;
use lorchestra_core::host::signals::Signals;
use lorchestra_core::outcome::{Cause, Failure, Outcome};
use lorchestra_core::run::event::{Observer, RunEvent};
use lorchestra_core::run::recovery::{Closed, Recovered};
use lorchestra_core::store::Refusal;
use lorchestra_core::text;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time limit for all calls together.
const TIME_BOX: Duration = Duration::from_secs(30);
/// Maximum length of a text in the object, in characters.
const TEXT: usize = 2000;
/// Variable set in the environment of the command.
pub(crate) const RUNNING: &str = "LORCHESTRA_ON_FAILURE";

/// Failed runs to report.
#[derive(Debug)]
pub(crate) struct Notices<'a> {
    command: Option<&'a str>,
    reports: Vec<Value>,
}

impl<'a> Notices<'a> {
    /// Creates the observer for the configured command, if there is one.
    pub(crate) fn new(command: Option<&'a str>) -> Self {
        Self { command, reports: Vec::new() }
    }

    /// Adds a failed run.
    fn add(&mut self, run: &FailedRun<'_>, failure: &Failure) {
        // Its window is complete.
        if failure.cause == Cause::Superseded {
            return;
        }
        self.report(run, failure.cause, &failure.message, "logs");
    }

    /// `look` is the command that shows the details.
    fn report(&mut self, run: &FailedRun<'_>, cause: Cause, message: &str, look: &str) {
        let FailedRun { run_id, package, job, account, host } = *run;
        // No parameters and no payloads, which may be personal data.
        self.reports.push(json!({
            "schema": "lorchestra.failure/1",
            "run_id": run_id,
            "package": package,
            "job": job,
            "account": account.map(|account| text::shortened(account, TEXT)),
            "host": host,
            "cause": cause,
            "message": text::shortened(message, TEXT),
            "logs": format!("lorchestra runs {look} {run_id}"),
        }));
    }

    /// Adds failed runs that recovery closed.
    pub(crate) fn add_recovered(&mut self, closed: &Closed) {
        for Recovered { run, outcome } in &closed.recovered {
            if let Outcome::Failed(failure) = outcome {
                let account = run.account.as_deref();
                let run = FailedRun { run_id: &run.run_id, package: &run.package, job: &run.job, account, host: &run.host };
                self.add(&run, failure);
            }
        }
    }

    /// Notes a refused run.
    pub(crate) fn add_refused(&mut self, run_id: &str, refusal: &Refusal) {
        let Refusal { package, job, account, cause, message, .. } = refusal;
        let host = lorchestra_core::host::process::host();
        self.report(&FailedRun { run_id, package, job, account: account.as_deref(), host: &host }, *cause, message, "show");
    }

    /// Runs the command for each run. Its output goes to stderr; its errors become warnings. A signal that stops lorchestra also kills it.
    pub(crate) fn send(self, mut signals: Option<&mut Signals>, printer: &mut Printer) {
        let Some(command) = self.command else { return };
        if self.reports.is_empty() {
            return;
        }
        printer.flush();
        let deadline = Instant::now() + TIME_BOX;
        for report in &self.reports {
            match run(command, report, deadline, signals.as_deref_mut()) {
                Ok(()) => {}
                Err(HookError::Ended(why)) => printer.warning(format_args!("on_failure: {why}")),
                Err(HookError::Killed(why)) => {
                    // There would be no time for the others either.
                    printer.warning(format_args!("on_failure: {why}"));
                    return;
                }
            }
        }
    }
}

impl Observer for Notices<'_> {
    fn observe(&mut self, event: &RunEvent<'_>) {
        match event {
            RunEvent::Recovered(closed) => self.add_recovered(closed),
            RunEvent::Ended { run_id, spec, terminal, .. } => {
                if let Some(failure) = &terminal.failure {
                    let (account, host) = (spec.account.as_deref(), lorchestra_core::host::process::host());
                    self.add(&FailedRun { run_id, package: &spec.package, job: &spec.job, account, host: &host }, failure);
                }
            }
            RunEvent::Refused { run_id, refusal } => self.add_refused(run_id, refusal),
            _ => {}
        }
    }
}

/// The identity of a failed run.
struct FailedRun<'a> {
    run_id: &'a str,
    package: &'a str,
    job: &'a str,
    account: Option<&'a str>,
    host: &'a str,
}

enum HookError {
    Ended(String),
    Killed(String),
}

fn run(command: &str, report: &Value, deadline: Instant, mut signals: Option<&mut Signals>) -> Result<(), HookError> {
    let stderr = || Stdio::from(std::io::stderr());
    let ended = |what: &'static str| move |e: std::io::Error| HookError::Ended(format!("{what}: {e}"));
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env(RUNNING, "1")
        .stdin(Stdio::piped())
        .stdout(stderr())
        .stderr(stderr())
        .process_group(0)
        .spawn()
        .map_err(ended("cannot start /bin/sh"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let line = format!("{report}\n");
        // In a separate thread, because a command that does not read must not block us. It may also close its input early.
        let _ = std::thread::Builder::new().spawn(move || drop(stdin.write_all(line.as_bytes())));
    }
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        .map_err(|e| ended("cannot watch the command")(e.into()))?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(killed(child, format!("the command was killed: it did not finish within {} s", TIME_BOX.as_secs())));
        }
        let wait = lorchestra_core::host::clock::timespec(left);
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if let Some(signals) = &signals {
            fds.push(PollFd::new(&**signals, PollFlags::IN));
        }
        // May have ended without an event: check again.
        let _ = poll(&mut fds, Some(&wait));
        match child.try_wait().map_err(ended("cannot wait for the command"))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(HookError::Ended(format!("the command ended with {status}"))),
            None => {}
        }
        if signals.as_mut().is_some_and(|signals| !signals.endings().is_empty()) {
            return Err(killed(child, "the command was killed: lorchestra received a signal".into()));
        }
    }
}

fn killed(mut child: Child, why: String) -> HookError {
    let _ = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
    let _ = child.wait();
    HookError::Killed(why)
}
