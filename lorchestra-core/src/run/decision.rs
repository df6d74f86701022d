//! Decides how a run ended: a pure function of everything known at its end.
//!
//! The rules, in order: if the run was stopped, that is the cause, whatever the job managed to report; otherwise the final record decides,
//! never an exit code; without a final record, the way the worker died.

use crate::host::signals::signal_name;
use crate::outcome::{Cause, Failure, Outcome};
use crate::plan::size::show;
use crate::spool::record::Final;
use lorchestra_plugin_api::invoke::JobReturn;
use serde::{Deserialize, Serialize};

/// Why the supervisor stopped the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The time limit was reached.
    Timeout {
        /// The limit.
        after: std::time::Duration,
        /// The process of the job that was stopped by a signal at that moment.
        #[serde(default)]
        stopped: Option<Stop>,
    },
    /// The supervisor received a signal that stops the run.
    Cancelled {
        /// Its number.
        signal: i32,
    },
    /// The supervisor failed (a panic, or a system call that should not fail), and killed the job.
    SupervisorFault,
}

/// A process of a job that a signal has stopped (as SIGSTOP does).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The signal, if known.
    pub signal: Option<i32>,
    /// A process that the job started; `None` if it is the worker itself.
    pub process: Option<u32>,
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.process {
            Some(pid) => write!(f, "process {pid}, which it started, was stopped by ")?,
            None => write!(f, "it was stopped by ")?,
        }
        match self.signal {
            Some(signal) => f.write_str(&signal_name(signal))?,
            None => f.write_str("a signal")?,
        }
        f.write_str(" and not continued")
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Death {
    /// It exited.
    Exited(i32),
    /// A signal killed it.
    Killed {
        /// Whether it left a core dump.
        signal: i32,
        /// Whether it left a core.
        core: bool,
    },
    /// Not observed: the supervisor was already dead.
    Unknown,
    /// Not observed, and the spool, which might have shown it, is missing.
    SpoolMissing,
}

/// Everything known at the end of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Why the supervisor stopped it, if it did.
    pub ending: Option<Ending>,
    /// The final record.
    pub end: Option<Final>,
    /// Whether the job was called.
    pub entered: bool,
    /// How the worker died.
    pub death: Death,
    /// Number of complete spool records that could not be read.
    pub damaged: u64,
    /// The fault that the worker reported outside the spool: before it had one, or because its final record could not be written.
    pub fault: Option<WorkerFault>,
    /// Whether the attempt's log has content.
    pub printed: bool,
    /// The memory limit of the worker, if it had one.
    pub memory: Option<Memory>,
    /// The processor time limit in seconds, if the worker used it up.
    pub processor_limit: Option<u64>,
}

/// A memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The limit in bytes.
    pub max: u64,
    /// Whether the last output of the process reports a failed allocation.
    pub refused: bool,
}

/// A fault of the worker outside plugin code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFault {
    /// Whether the fault concerns the spool (a full disk), or lorchestra itself.
    pub spool: bool,
    /// One sentence.
    pub message: String,
}

/// Decides how the run ended.
pub fn decide(evidence: &Evidence) -> Outcome {
    let mut outcome = cause_of(evidence);
    if let Outcome::Failed(failure) = &mut outcome
        && evidence.damaged > 0
        // If the damage is the cause, the message already reports it.
        && !(failure.cause == Cause::Spool && matches!(evidence.end, Some(Final::Returned { .. })))
    {
        failure.message.push_str(&format!("; also, {}", damage(evidence.damaged)));
    }
    outcome
}

/// The outcome of a run that was cancelled after an attempt had failed and before the next one.
pub fn cancelled_between_attempts(signal: i32, attempt: u32, last: &Failure) -> Outcome {
    let next = attempt + 1;
    let message =
        format!("cancelled by {} before attempt {next}; attempt {attempt} had failed: {}", signal_name(signal), last.message);
    let result = format!("{}: {}", last.cause.as_str(), last.message);
    failed(Failure { job_result: Some(result), signal: Some(signal), ..failure(Cause::Cancelled, message) })
}

/// The outcome of a run whose next attempt could not be started.
pub fn not_begun(next: u32, last: &Failure, why: &str) -> Outcome {
    let message = format!("{}; cannot start attempt {next}: {why}", last.message);
    failed(Failure { message, ..last.clone() })
}

/// The outcome of a run whose supervisor died after an attempt had failed and before the next one.
pub fn supervisor_lost_between_attempts(attempt: u32, last: &Failure) -> Outcome {
    let message = format!("{}; its supervisor died before attempt {}", last.message, attempt + 1);
    failed(Failure { message, ..last.clone() })
}

fn damage(records: u64) -> String {
    format!(
        "{records} {} of the spool {} damaged on disk",
        if records == 1 { "record" } else { "records" },
        if records == 1 { "was" } else { "were" }
    )
}

fn cause_of(evidence: &Evidence) -> Outcome {
    let result = evidence.end.as_ref().map(result_text);
    if let Some(ending) = evidence.ending {
        let (cause, message, signal) = match ending {
            Ending::Timeout { after, stopped } => {
                let stopped = stopped.map(|stop| format!(": {stop}")).unwrap_or_default();
                (Cause::Timeout, format!("it did not finish within {}{stopped}", crate::plan::duration::show(after)), None)
            }
            Ending::Cancelled { signal } => (Cause::Cancelled, format!("cancelled by {}", signal_name(signal)), Some(signal)),
            Ending::SupervisorFault => {
                let message =
                    "lorchestra failed internally while supervising the job, and stopped it; this is not the job's fault";
                (Cause::Abandoned, message.into(), None)
            }
        };
        return failed(Failure { job_result: result, signal, ..failure(cause, message) });
    }
    match &evidence.end {
        Some(Final::Returned { returned, .. }) => match returned {
            _ if evidence.damaged > 0 => {
                failed(Failure { job_result: result, ..failure(Cause::Spool, damage(evidence.damaged)) })
            }
            JobReturn::Ok => Outcome::Completed,
            JobReturn::Error { messages, permanent } => {
                failed(Failure { permanent: *permanent, ..failure(Cause::Error, messages.join(": ")) })
            }
            JobReturn::Panic { message, location } if location.is_empty() => {
                failed(failure(Cause::Panic, format!("panicked: {message}")))
            }
            JobReturn::Panic { message, location } => failed(failure(Cause::Panic, format!("panicked at {location}: {message}"))),
            JobReturn::Refused { message } => failed(Failure { permanent: true, ..failure(Cause::Load, message.clone()) }),
        },
        Some(Final::NotLoaded { message }) => failed(Failure { permanent: true, ..failure(Cause::Load, message.clone()) }),
        Some(Final::SpoolFault { message }) => failed(failure(Cause::Spool, message.clone())),
        None => failed(without_final(evidence)),
    }
}

/// The exit code of a worker of lorchestra that failed, and could not report why.
const OWN_FAILURE: i32 = 70;

fn without_final(evidence: &Evidence) -> Failure {
    if let Some(fault) = &evidence.fault {
        let cause = if fault.spool { Cause::Spool } else { Cause::Load };
        return failure(cause, fault.message.clone());
    }
    let (cause, how, signal, exit_code) = match evidence.death {
        Death::Unknown => {
            let message = "supervisor and worker died before the job finished (killed, or the host went down)";
            return failure(Cause::Abandoned, message.into());
        }
        Death::SpoolMissing => {
            let message = "the supervisor died and the spool directory is missing, so the outcome is unknown";
            return failure(Cause::Abandoned, message.into());
        }
        Death::Exited(code) => {
            (Cause::Exit, format!("ended the process with exit code {code} instead of returning"), None, Some(code))
        }
        Death::Killed { signal, core } => {
            let core = if core { ", core dumped" } else { "" };
            let hint = match (signal, evidence.memory) {
                _ if [9, 24].contains(&signal) && evidence.processor_limit.is_some() => {
                    let limit = evidence.processor_limit.unwrap_or_default();
                    &*format!(": it used up its processor time limit of {limit} s (ulimit -t, or LimitCPU= in a systemd unit)")
                }
                (6, Some(Memory { max, refused: true })) => {
                    &*format!(": it exceeded its memory limit of {} (--memory-max)", show(max))
                }
                (6 | 11, Some(Memory { max, .. })) => {
                    let words = if evidence.printed { ": see the end of the log" } else { "" };
                    &*format!("; its memory limit is {} (--memory-max){words}", show(max))
                }
                (6, None) if evidence.printed => "; an abort or a stack overflow: see the end of the log",
                (6, None) => "; an abort or a stack overflow",
                (9, _) => "; unless someone sent the signal, the kernel ran out of memory (see dmesg)",
                (11, None) => "; an invalid memory access or a stack overflow",
                _ => "",
            };
            (Cause::Signal, format!("was killed by {}{core}{hint}", signal_name(signal)), Some(signal), None)
        }
    };
    if evidence.entered {
        Failure { signal, exit_code, ..failure(cause, format!("the job {how}")) }
    } else if exit_code == Some(OWN_FAILURE) {
        // lorchestra's own code for an internal error, and one that a library may use as well.
        let message = "the worker ended with exit code 70 before the job began: the plugin ended it while it was being loaded, or this \
                       host refuses something that lorchestra needs";
        Failure { exit_code, permanent: true, ..failure(Cause::Load, message.into()) }
    } else {
        Failure {
            signal,
            exit_code,
            permanent: true,
            ..failure(Cause::Load, format!("the plugin {how} while it was being loaded"))
        }
    }
}

fn failed(mut failure: Failure) -> Outcome {
    // The text may come from a job or a plugin, and terminals show it.
    failure.message = crate::text::printable(&failure.message);
    if failure.message.trim().is_empty() {
        failure.message = "no reason given".into();
    }
    Outcome::Failed(failure)
}

fn failure(cause: Cause, message: String) -> Failure {
    Failure { cause, message, permanent: false, job_result: None, signal: None, exit_code: None }
}

fn result_text(end: &Final) -> String {
    match end {
        Final::Returned { returned: JobReturn::Ok, .. } => "ok".into(),
        Final::Returned { returned: JobReturn::Error { messages, .. }, .. } => format!("error: {}", messages.join(": ")),
        Final::Returned { returned: JobReturn::Panic { message, .. }, .. } => format!("panic: {message}"),
        Final::Returned { returned: JobReturn::Refused { message }, .. } | Final::NotLoaded { message } => {
            format!("load: {message}")
        }
        Final::SpoolFault { message } => format!("spool: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn returned(returned: JobReturn) -> Option<Final> {
        Some(Final::Returned { returned, max_rss_kib: None, bookmark: None })
    }

    fn evidence() -> Evidence {
        Evidence {
            ending: None,
            end: None,
            entered: true,
            death: Death::Exited(0),
            damaged: 0,
            fault: None,
            printed: false,
            memory: None,
            processor_limit: None,
        }
    }

    fn cause(evidence: &Evidence) -> Option<Cause> {
        match decide(evidence) {
            Outcome::Completed => None,
            Outcome::Failed(failure) => Some(failure.cause),
        }
    }

    #[test]
    fn success_is_the_final_record_whatever_the_exit() {
        for death in [Death::Exited(0), Death::Exited(7), Death::Killed { signal: 11, core: true }, Death::Unknown] {
            assert_eq!(cause(&Evidence { end: returned(JobReturn::Ok), death, ..evidence() }), None, "{death:?}");
        }
    }

    #[test]
    fn exit_code_zero_is_not_success() {
        assert_eq!(cause(&evidence()), Some(Cause::Exit));
    }

    #[test]
    fn a_stop_by_the_supervisor_is_always_the_cause() {
        let ends = [None, returned(JobReturn::Ok), returned(JobReturn::Panic { message: "x".into(), location: String::new() })];
        for end in ends {
            for death in [Death::Exited(0), Death::Killed { signal: 9, core: false }] {
                let timeout = Evidence {
                    ending: Some(Ending::Timeout { after: Duration::from_secs(1), stopped: None }),
                    end: end.clone(),
                    death,
                    ..evidence()
                };
                assert_eq!(cause(&timeout), Some(Cause::Timeout));
                let Outcome::Failed(failure) = decide(&timeout) else { unreachable!() };
                assert_eq!(failure.job_result.is_some(), end.is_some());
                let cancelled = Evidence { ending: Some(Ending::Cancelled { signal: 2 }), ..timeout };
                assert_eq!(cause(&cancelled), Some(Cause::Cancelled));
            }
        }
    }

    #[test]
    fn a_death_before_the_job_was_called_is_a_failure_to_load() {
        for death in [Death::Exited(0), Death::Exited(3), Death::Killed { signal: 11, core: false }] {
            assert_eq!(cause(&Evidence { entered: false, death, ..evidence() }), Some(Cause::Load));
        }
    }

    #[test]
    fn an_unobserved_death_is_abandoned_unless_there_is_a_final_record() {
        let unseen = Evidence { death: Death::Unknown, ..evidence() };
        assert_eq!(cause(&unseen), Some(Cause::Abandoned));
        assert_eq!(cause(&Evidence { entered: false, ..unseen.clone() }), Some(Cause::Abandoned));
        let error = JobReturn::Error { messages: vec!["no".into()], permanent: true };
        assert_eq!(cause(&Evidence { end: returned(error), ..unseen }), Some(Cause::Error));
    }

    #[test]
    fn without_a_spool_the_outcome_is_not_guessed() {
        let lost = Evidence { death: Death::SpoolMissing, ..evidence() };
        let Outcome::Failed(failure) = decide(&lost) else { unreachable!() };
        assert_eq!(failure.cause, Cause::Abandoned);
        assert!(failure.message.contains("spool directory is missing"), "{}", failure.message);
        // A final record that was ingested before still counts.
        assert_eq!(cause(&Evidence { end: returned(JobReturn::Ok), ..lost }), None);
    }

    #[test]
    fn the_message_points_to_a_log_that_has_content() {
        for printed in [false, true] {
            let death = Death::Killed { signal: 6, core: false };
            let Outcome::Failed(failure) = decide(&Evidence { death, printed, ..evidence() }) else { unreachable!() };
            assert_eq!(failure.message.contains("end of the log"), printed, "{}", failure.message);
        }
    }

    #[test]
    fn a_run_with_lost_records_fails() {
        assert_eq!(cause(&Evidence { end: returned(JobReturn::Ok), damaged: 2, ..evidence() }), Some(Cause::Spool));
        assert_eq!(cause(&Evidence { end: Some(Final::SpoolFault { message: "x".into() }), ..evidence() }), Some(Cause::Spool));
    }

    #[test]
    fn damage_is_reported_with_any_other_cause() {
        let Outcome::Failed(failure) = decide(&Evidence { damaged: 1, ..evidence() }) else { unreachable!() };
        assert_eq!(failure.cause, Cause::Exit);
        assert!(failure.message.ends_with("; also, 1 record of the spool was damaged on disk"), "{}", failure.message);
    }

    #[test]
    fn messages_cannot_control_a_terminal() {
        let error = JobReturn::Error { messages: vec!["\u{1b}[2Jgone".into()], permanent: false };
        let Outcome::Failed(failure) = decide(&Evidence { end: returned(error), ..evidence() }) else { unreachable!() };
        assert_eq!(failure.message, "[2Jgone");
    }

    /// Calls `each` with every combination of evidence.
    fn each_evidence(mut each: impl FnMut(&Evidence)) {
        let error = |permanent| JobReturn::Error { messages: vec!["outer".into(), "inner".into()], permanent };
        let text = || "text".to_owned();
        let ends = [
            None,
            returned(JobReturn::Ok),
            returned(error(false)),
            returned(error(true)),
            returned(JobReturn::Panic { message: text(), location: "a.rs:1".into() }),
            returned(JobReturn::Panic { message: text(), location: String::new() }),
            returned(JobReturn::Refused { message: text() }),
            Some(Final::NotLoaded { message: text() }),
            Some(Final::SpoolFault { message: text() }),
        ];
        let endings = [None, Some(Ending::Timeout { after: Duration::from_secs(5), stopped: None })]
            .into_iter()
            .chain([1, 2, 15].map(|signal| Some(Ending::Cancelled { signal })))
            .chain([Some(Ending::SupervisorFault)]);
        let killed = |signal| Death::Killed { signal, core: signal == 6 };
        let deaths = [
            Death::Exited(0),
            Death::Exited(7),
            killed(6),
            killed(9),
            killed(11),
            killed(15),
            killed(34),
            Death::Unknown,
            Death::SpoolMissing,
        ];
        let memory = |refused| Some(Memory { max: 64 << 20, refused });
        let fault = |spool| Some(WorkerFault { spool, message: text() });
        for ending in endings {
            for end in &ends {
                for death in deaths {
                    for entered in [false, true] {
                        for damaged in 0..=2 {
                            for fault in [None, fault(false), fault(true)] {
                                for memory in [None, memory(false), memory(true)] {
                                    for printed in [false, true] {
                                        let (end, fault) = (end.clone(), fault.clone());
                                        each(&Evidence {
                                            ending,
                                            end,
                                            entered,
                                            death,
                                            damaged,
                                            fault,
                                            printed,
                                            memory,
                                            processor_limit: None,
                                        });
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Checks each rule of the design separately, over every combination of evidence.
    #[test]
    fn every_outcome_follows_from_the_evidence() {
        let mut seen = std::collections::HashSet::new();
        each_evidence(|evidence| {
            let outcome = decide(evidence);
            let Evidence { ending, end, entered, death, damaged, fault, .. } = evidence;
            let ok = matches!(end, Some(Final::Returned { returned: JobReturn::Ok, .. }));
            // A run is completed if and only if the job returned success, the supervisor did not stop it, and nothing was lost.
            assert_eq!(outcome == Outcome::Completed, ok && ending.is_none() && *damaged == 0, "{evidence:?}");
            let Outcome::Failed(failure) = outcome else { return };
            seen.insert(failure.cause);
            let by_death = ending.is_none() && end.is_none() && fault.is_none();
            let cause = match (ending, end) {
                (Some(Ending::Timeout { .. }), _) => Cause::Timeout,
                (Some(Ending::Cancelled { .. }), _) => Cause::Cancelled,
                (Some(Ending::SupervisorFault), _) => Cause::Abandoned,
                (None, Some(Final::SpoolFault { .. })) => Cause::Spool,
                (None, Some(Final::NotLoaded { .. })) => Cause::Load,
                (None, Some(Final::Returned { .. })) if *damaged > 0 => Cause::Spool,
                (None, Some(Final::Returned { returned: JobReturn::Panic { .. }, .. })) => Cause::Panic,
                (None, Some(Final::Returned { returned: JobReturn::Refused { .. }, .. })) => Cause::Load,
                (None, Some(Final::Returned { .. })) => Cause::Error,
                (None, None) => match (fault, death) {
                    (Some(fault), _) => {
                        if fault.spool {
                            Cause::Spool
                        } else {
                            Cause::Load
                        }
                    }
                    (None, Death::Unknown | Death::SpoolMissing) => Cause::Abandoned,
                    (None, _) if !entered => Cause::Load,
                    (None, Death::Killed { .. }) => Cause::Signal,
                    (None, Death::Exited(_)) => Cause::Exit,
                },
            };
            assert_eq!(failure.cause, cause, "{evidence:?}");
            // Signal and exit code are set only if they are the cause.
            let (signal, code) = match death {
                Death::Killed { signal, .. } if by_death => (Some(*signal), None),
                Death::Exited(code) if by_death => (None, Some(*code)),
                _ => (None, None),
            };
            let signal = if let Some(Ending::Cancelled { signal }) = ending { Some(*signal) } else { signal };
            assert_eq!((failure.signal, failure.exit_code), (signal, code), "{evidence:?}");
            // The job's own result is kept if it differs from the run's outcome.
            let overruled = ending.is_some() || (*damaged > 0 && matches!(end, Some(Final::Returned { .. })));
            assert_eq!(failure.job_result.is_some(), end.is_some() && overruled, "{evidence:?}");
            assert!(!failure.permanent || matches!(cause, Cause::Error | Cause::Load), "{evidence:?}");
            assert_eq!(failure.message.contains("damaged on disk"), *damaged > 0, "{evidence:?}: {}", failure.message);
            assert!(!failure.message.is_empty());
            // After a final record, or once the run was stopped, nothing else matters.
            if end.is_some() || ending.is_some() {
                let bare = Evidence {
                    death: Death::Exited(0),
                    entered: true,
                    fault: None,
                    printed: false,
                    memory: None,
                    processor_limit: None,
                    ..evidence.clone()
                };
                assert_eq!(decide(&bare), Outcome::Failed(failure.clone()), "{evidence:?}");
            }
            // A memory limit is mentioned where it may be the reason, and decides nothing.
            let Outcome::Failed(free) = decide(&Evidence { memory: None, ..evidence.clone() }) else { unreachable!() };
            let may_be = by_death && matches!(death, Death::Killed { signal: 6 | 11, .. }) && evidence.memory.is_some();
            assert_eq!(failure.message.contains("--memory-max"), may_be, "{evidence:?}");
            assert_eq!(Failure { message: String::new(), ..free }, Failure { message: String::new(), ..failure });
        });
        assert_eq!(seen.len(), 9, "every cause occurs: {seen:?}");
    }

    #[test]
    fn a_stop_between_attempts_reports_the_last_failure() {
        let Outcome::Failed(last) = decide(&Evidence { death: Death::Exited(3), ..evidence() }) else { unreachable!() };
        let Outcome::Failed(reported) = cancelled_between_attempts(15, 2, &last) else { unreachable!() };
        assert_eq!((reported.cause, reported.signal, reported.exit_code), (Cause::Cancelled, Some(15), None));
        assert!(
            reported.message.starts_with("cancelled by SIGTERM before attempt 3; attempt 2 had failed: "),
            "{}",
            reported.message
        );
        assert!(reported.job_result.is_some_and(|result| result.starts_with("exit: ")));
        let Outcome::Failed(died) = supervisor_lost_between_attempts(2, &last) else { unreachable!() };
        assert_eq!((died.cause, died.exit_code), (Cause::Exit, Some(3)));
        assert!(died.message.ends_with("; its supervisor died before attempt 3"), "{}", died.message);
    }
}
