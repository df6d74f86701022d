//! Every order in which the things that matter to an attempt can happen, against what the design says of each: who ends a run, and
//! that its end is the same whether its supervisor records it or, after that one's death, somebody else.

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

/// What can happen while a worker lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Signal(i32),
    /// A terminal that closes sends several.
    Together,
    /// Time passes, and the dispatcher looks.
    Moment,
    Second,
    Grace,
    Timeout,
    /// The worker writes its final record.
    Returns {
        ok: bool,
    },
    /// The intake has seen it.
    Seen,
}

const THINGS: [Thing; 11] = [
    Thing::Signal(SIGINT),
    Thing::Signal(SIGTERM),
    Thing::Signal(SIGHUP),
    Thing::Together,
    Thing::Moment,
    Thing::Second,
    Thing::Grace,
    Thing::Timeout,
    Thing::Returns { ok: true },
    Thing::Returns { ok: false },
    Thing::Seen,
];

/// How it goes on after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The worker dies, and its supervisor sees it.
    Worker(Death),
    /// The supervisor dies, and with it the worker.
    Supervisor,
    /// The supervisor dies after it has noted the worker's death and before it has recorded the end.
    Both(Death),
}

/// Sequences of at most so many things.
fn each_order(most: usize, each: &mut impl FnMut(&[Thing])) {
    fn longer(order: &mut Vec<Thing>, most: usize, each: &mut impl FnMut(&[Thing])) {
        each(order);
        if order.len() == most {
            return;
        }
        let returned = order.iter().any(|thing| matches!(thing, Thing::Returns { .. }));
        let seen = order.contains(&Thing::Seen);
        for thing in THINGS {
            match thing {
                // One final record, and it is seen once, and after it was written.
                Thing::Returns { .. } if returned => continue,
                Thing::Seen if seen || !returned => continue,
                _ => {}
            }
            order.push(thing);
            longer(order, most, each);
            order.pop();
        }
    }
    longer(&mut Vec::new(), most, each);
}

/// What was done, and when.
struct SimulatedAttempt {
    state: StopState,
    now: Duration,
    acts: Vec<(Duration, Action)>,
    noted: Option<Ending>,
    end: Option<Final>,
}

fn run(order: &[Thing], timeout: Option<Duration>) -> SimulatedAttempt {
    let start = Instant::now();
    let mut run = SimulatedAttempt {
        state: StopState::new(AttemptLimits { timeout, grace: GRACE }, start),
        now: Duration::ZERO,
        acts: Vec::new(),
        noted: None,
        end: None,
    };
    for thing in order {
        let mut done = None;
        match *thing {
            Thing::Signal(signal) => done = run.state.signals(&[signal], start + run.now),
            Thing::Together => done = run.state.signals(&[SIGTERM, SIGHUP], start + run.now),
            Thing::Moment => run.now += Duration::from_millis(10),
            Thing::Second => run.now += Duration::from_secs(1),
            Thing::Grace => run.now += GRACE,
            Thing::Timeout => run.now += TIMEOUT,
            Thing::Returns { ok } => {
                let error = JobReturn::Error { messages: vec!["no".into()], permanent: false };
                run.end =
                    Some(Final::Returned { returned: if ok { JobReturn::Ok } else { error }, max_rss_kib: None, bookmark: None });
            }
            Thing::Seen => run.state.final_seen(start + run.now),
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

/// The design's words: once TERM was sent, the cause is timeout or cancelled, whatever the final record says; after a final record
/// that was seen nobody is told to end any more; else the final record decides; else the manner of the death.
fn by_the_design(order: &[Thing], timeout: Option<Duration>, end: End) -> Option<Cause> {
    let mut now = Duration::ZERO;
    for thing in order {
        now += match thing {
            Thing::Seen => break,
            Thing::Signal(_) | Thing::Together => return Some(Cause::Cancelled),
            Thing::Moment => Duration::from_millis(10),
            Thing::Second => Duration::from_secs(1),
            Thing::Grace => GRACE,
            Thing::Timeout => TIMEOUT,
            Thing::Returns { .. } => Duration::ZERO,
        };
        if timeout.is_some_and(|timeout| now >= timeout) {
            return Some(Cause::Timeout);
        }
    }
    for thing in order {
        if let Thing::Returns { ok } = thing {
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
fn every_order_has_the_end_that_the_design_says() {
    let deaths = [Death::Exited(0), Death::Exited(7), Death::Killed { signal: 9, core: false }];
    let mut orders = 0;
    each_order(5, &mut |order| {
        for timeout in [None, Some(TIMEOUT)] {
            orders += 1;
            let run = run(order, timeout);
            for end in deaths.map(End::Worker).into_iter().chain(deaths.map(End::Both)).chain([End::Supervisor]) {
                let taken = || IngestState { entered: true, end: run.end.clone(), ..IngestState::default() };
                let seen = |death| note::NotedFacts { ending: run.noted, death, ..note::NotedFacts::default() };
                let outcome = match end {
                    End::Worker(death) => {
                        decide(&Evidence { ending: run.state.ending(), death, ..evidence(taken(), seen(None), false) })
                    }
                    End::Both(death) => decide(&evidence(taken(), seen(Some(death)), false)),
                    End::Supervisor => decide(&evidence(taken(), seen(None), false)),
                };
                assert_eq!(
                    cause(&outcome),
                    by_the_design(order, timeout, end),
                    "{order:?}, {timeout:?}, then {end:?}: {outcome:?}"
                );
            }
        }
    });
    assert!(orders > 100_000, "{orders}");
}

/// The job is told once; it is killed when its grace is over, or lingers, or somebody does not want to wait; and whoever asked for an
/// end is remembered: there is no other attempt then.
#[test]
fn every_order_leaves_the_job_its_grace() {
    each_order(5, &mut |order| {
        let run = run(order, Some(TIMEOUT));
        let tells: Vec<Duration> =
            run.acts.iter().filter(|(_, act)| matches!(act, Action::Terminate(_))).map(|(at, _)| *at).collect();
        assert!(tells.len() <= 1, "{order:?}: {:?}", run.acts);
        let seen = order.contains(&Thing::Seen);
        let asked = order.iter().filter(|thing| matches!(thing, Thing::Signal(_) | Thing::Together)).count();
        assert_eq!(run.state.stop_signal().is_some(), asked > 0, "{order:?}");
        for (at, _) in run.acts.iter().filter(|(_, act)| *act == Action::Kill) {
            let over = tells.iter().any(|stop_signal| *at >= *stop_signal + GRACE);
            // One to tell it (or its deadline), one that does not want to wait.
            let impatient = asked >= 2 || (asked == 1 && run.state.ending().is_some_and(|e| matches!(e, Ending::Timeout { .. })));
            assert!(over || seen || impatient, "{order:?}: {:?}", run.acts);
        }
        // Nobody waits for ever: whatever happened, there is a next thing to do by itself until the worker was killed.
        let killed = run.acts.iter().any(|(_, act)| *act == Action::Kill);
        assert!(run.state.next().is_some() || killed, "{order:?}");
    });
}

#[test]
fn one_wish_to_end_may_come_as_several_signals() {
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
