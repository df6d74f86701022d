//! Tests every order in which relevant events can happen to an attempt: who ends a run, and that its outcome is the same whether its
//! supervisor records it or, after the supervisor's death, another command.

use super::*;
use crate::outcome::{Cause, Outcome};
use crate::run::decision::{Death, Evidence, decide};
use crate::run::ending::evidence;
use crate::run::note;
use crate::spool::record::Final;
use crate::store::event::IngestState;
use lorchestra_plugin_api::invoke::JobReturn;
use signal_hook::consts::SIGHUP;

const TIMEOUT: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(10);

/// What can happen while a worker is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Signal(i32),
    /// Several signals at once, as from a closing terminal.
    Together,
    /// Time passes, and the dispatcher checks the clock.
    Moment,
    Second,
    Grace,
    Timeout,
    /// The worker writes its final record.
    Returns {
        ok: bool,
    },
    /// The intake thread has ingested it.
    Seen,
}

const INPUTS: [Input; 11] = [
    Input::Signal(SIGINT),
    Input::Signal(SIGTERM),
    Input::Signal(SIGHUP),
    Input::Together,
    Input::Moment,
    Input::Second,
    Input::Grace,
    Input::Timeout,
    Input::Returns { ok: true },
    Input::Returns { ok: false },
    Input::Seen,
];

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The worker dies, and its supervisor observes it.
    Worker(Death),
    /// The supervisor dies, and with it the worker.
    Supervisor,
    /// The supervisor dies after it has noted the worker's death, but before it has recorded the end.
    Both(Death),
}

/// Calls `each` with all sequences of at most `most` inputs.
fn each_order(most: usize, each: &mut impl FnMut(&[Input])) {
    fn longer(order: &mut Vec<Input>, most: usize, each: &mut impl FnMut(&[Input])) {
        each(order);
        if order.len() == most {
            return;
        }
        let returned = order.iter().any(|input| matches!(input, Input::Returns { .. }));
        let seen = order.contains(&Input::Seen);
        for input in INPUTS {
            match input {
                // There is one final record, and it is ingested once, after it was written.
                Input::Returns { .. } if returned => continue,
                Input::Seen if seen || !returned => continue,
                _ => {}
            }
            order.push(input);
            longer(order, most, each);
            order.pop();
        }
    }
    longer(&mut Vec::new(), most, each);
}

/// The actions, and when they were ingested.
struct SimulatedAttempt {
    state: StopState,
    now: Duration,
    acts: Vec<(Duration, Action)>,
    noted: Option<Ending>,
    end: Option<Final>,
}

fn run(order: &[Input], timeout: Option<Duration>) -> SimulatedAttempt {
    let start = Instant::now();
    let mut run = SimulatedAttempt {
        state: StopState::new(AttemptLimits { timeout, grace: GRACE }, start),
        now: Duration::ZERO,
        acts: Vec::new(),
        noted: None,
        end: None,
    };
    for input in order {
        let mut done = None;
        match *input {
            Input::Signal(signal) => done = run.state.signals(&[signal], start + run.now),
            Input::Together => done = run.state.signals(&[SIGTERM, SIGHUP], start + run.now),
            Input::Moment => run.now += Duration::from_millis(10),
            Input::Second => run.now += Duration::from_secs(1),
            Input::Grace => run.now += GRACE,
            Input::Timeout => run.now += TIMEOUT,
            Input::Returns { ok } => {
                let error = JobReturn::Error { messages: vec!["no".into()], permanent: false };
                run.end =
                    Some(Final::Returned { returned: if ok { JobReturn::Ok } else { error }, max_rss_kib: None, bookmark: None });
            }
            Input::Seen => run.state.final_seen(start + run.now),
        }
        let mut act = done.or_else(|| run.state.tick(start + run.now));
        while let Some(done) = act {
            if let Action::Terminate(ending) = done {
                run.noted = Some(ending);
            }
            run.acts.push((run.now, done));
            act = run.state.tick(start + run.now);
        }
    }
    run
}

/// The design: once SIGTERM was sent, the cause is timeout or cancelled, whatever the final record says; after an ingested final record the
/// job is no longer stopped; otherwise the final record decides, or else the way the worker died.
fn expected_cause(order: &[Input], timeout: Option<Duration>, end: End) -> Option<Cause> {
    let mut now = Duration::ZERO;
    for input in order {
        now += match input {
            Input::Seen => break,
            Input::Signal(_) | Input::Together => return Some(Cause::Cancelled),
            Input::Moment => Duration::from_millis(10),
            Input::Second => Duration::from_secs(1),
            Input::Grace => GRACE,
            Input::Timeout => TIMEOUT,
            Input::Returns { .. } => Duration::ZERO,
        };
        if timeout.is_some_and(|timeout| now >= timeout) {
            return Some(Cause::Timeout);
        }
    }
    for input in order {
        if let Input::Returns { ok } = input {
            return if *ok { None } else { Some(Cause::Error) };
        }
    }
    Some(match end {
        End::Worker(Death::Killed { .. }) | End::Both(Death::Killed { .. }) => Cause::Signal,
        End::Worker(_) | End::Both(_) => Cause::Exit,
        End::Supervisor => Cause::Abandoned,
    })
}

fn cause(outcome: &Outcome) -> Option<Cause> {
    match outcome {
        Outcome::Completed => None,
        Outcome::Failed(failure) => Some(failure.cause),
    }
}

#[test]
fn every_order_has_the_outcome_of_the_design() {
    let deaths = [Death::Exited(0), Death::Exited(7), Death::Killed { signal: 9, core: false }];
    let mut orders = 0;
    each_order(5, &mut |order| {
        for timeout in [None, Some(TIMEOUT)] {
            orders += 1;
            let run = run(order, timeout);
            for end in deaths.map(End::Worker).into_iter().chain(deaths.map(End::Both)).chain([End::Supervisor]) {
                let ingested = || IngestState { entered: true, end: run.end.clone(), ..IngestState::default() };
                let seen = |death| note::NotedFacts { ending: run.noted, death, ..note::NotedFacts::default() };
                let outcome = match end {
                    End::Worker(death) => {
                        decide(&Evidence { ending: run.state.ending(), death, ..evidence(ingested(), seen(None), false) })
                    }
                    End::Both(death) => decide(&evidence(ingested(), seen(Some(death)), false)),
                    End::Supervisor => decide(&evidence(ingested(), seen(None), false)),
                };
                assert_eq!(
                    cause(&outcome),
                    expected_cause(order, timeout, end),
                    "{order:?}, {timeout:?}, then {end:?}: {outcome:?}"
                );
            }
        }
    });
    assert!(orders > 100_000, "{orders}");
}

/// The job gets SIGTERM once. It is killed when its grace period is over, when it lingers after its final record, or when a person insists.
/// A signal that asked to stop is remembered, so there is no further attempt.
#[test]
fn every_order_leaves_the_job_its_grace_period() {
    each_order(5, &mut |order| {
        let run = run(order, Some(TIMEOUT));
        let tells: Vec<Duration> =
            run.acts.iter().filter(|(_, act)| matches!(act, Action::Terminate(_))).map(|(at, _)| *at).collect();
        assert!(tells.len() <= 1, "{order:?}: {:?}", run.acts);
        let seen = order.contains(&Input::Seen);
        let asked = order.iter().filter(|input| matches!(input, Input::Signal(_) | Input::Together)).count();
        assert_eq!(run.state.stop_signal().is_some(), asked > 0, "{order:?}");
        for (at, _) in run.acts.iter().filter(|(_, act)| *act == Action::Kill) {
            let over = tells.iter().any(|stop_signal| *at >= *stop_signal + GRACE);
            // The first signal (or the deadline) stops the job, the second one kills it.
            let impatient = asked >= 2 || (asked == 1 && run.state.ending().is_some_and(|e| matches!(e, Ending::Timeout { .. })));
            assert!(over || seen || impatient, "{order:?}: {:?}", run.acts);
        }
        // The dispatcher never waits forever: until the worker is killed, some action is due.
        let killed = run.acts.iter().any(|(_, act)| *act == Action::Kill);
        assert!(run.state.next().is_some() || killed, "{order:?}");
    });
}

#[test]
fn several_signals_at_once_are_one_request_to_stop() {
    let (soon, later) = (Duration::from_millis(10), Duration::from_secs(2));
    for (first, second, since, kills) in [
        (Some(SIGINT), SIGINT, soon, true),
        (Some(SIGINT), SIGTERM, soon, false),
        (Some(SIGTERM), SIGINT, soon, false),
        (Some(SIGHUP), SIGTERM, soon, false),
        (Some(SIGTERM), SIGTERM, later, true),
        (Some(SIGTERM), SIGINT, later, true),
        (Some(SIGTERM), SIGHUP, later, false),
        (None, SIGINT, soon, true),
        (None, SIGTERM, soon, false),
        (None, SIGTERM, later, true),
    ] {
        let start = Instant::now();
        let mut state = StopState::new(AttemptLimits { timeout: Some(TIMEOUT), grace: GRACE }, start);
        let stop_signal = match first {
            Some(signal) => state.signals(&[signal], start + TIMEOUT),
            None => state.tick(start + TIMEOUT),
        };
        assert!(matches!(stop_signal, Some(Action::Terminate(_))));
        assert_eq!(state.signals(&[second], start + TIMEOUT + since), None);
        let killed = state.tick(start + TIMEOUT + since) == Some(Action::Kill);
        assert_eq!(killed, kills, "{first:?}, then {second} after {since:?}");
    }
}
