//! The protocol of claims as a state machine, searched exhaustively: every order of steps of three runs of one window, with a crash between any
//! two steps, requests to the file server that arrive late, twice, or after their sender's death, and answers that are lost.
//!
//! A frozen run is one that takes no step for a while, which every search has: nothing in the model has a time limit.

use std::collections::{HashSet, VecDeque};

/// Number of runs of the window.
const RUNS: usize = 3;
/// Maximum number of crashes of each run's process.
const CRASHES: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// The job works, or its events are being delivered.
    Working,
    /// `claiming` is on disk.
    Marked,
    /// The request to link was sent, and no answer has come.
    Sent,
    /// The answer has come, or is lost: next it reads the claim.
    Answered,
    /// The claim was read.
    Read(Option<usize>),
    Recorded(ModelEnd),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ModelEnd {
    Completed,
    Superseded,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Node {
    step: Step,
    /// Its process is dead; recovery has not begun.
    dead: bool,
    /// Whether `claiming` exists.
    marked: bool,
    crashes: u8,
    /// Requests to link on their way, up to two: the second is a repetition.
    requests: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    nodes: [Node; RUNS],
    claim: Option<usize>,
}

/// Which rule of the protocol is broken, to see that the search finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Recovery does not look for `claiming`: it closes the run as failed.
    NoMarker,
    /// The answer to link(2) decides, instead of the claim.
    TrustsTheAnswer,
    /// An unknown answer counts as lost.
    GivesUp,
}

fn successors(world: &World, broken: Broken) -> Vec<World> {
    let mut next = Vec::new();
    for (at, node) in world.nodes.iter().enumerate() {
        let mut change = |change: &dyn Fn(&mut World)| {
            let mut world = world.clone();
            change(&mut world);
            next.push(world);
        };
        let to = |step: Step| move |world: &mut World| world.nodes[at].step = step;
        // The server, at any time, also after the sender's death.
        if node.requests > 0 {
            change(&|world| {
                world.nodes[at].requests -= 1;
                let free = world.claim.is_none();
                world.claim = world.claim.or(Some(at));
                if broken == Broken::TrustsTheAnswer && world.nodes[at].step == Step::Sent && !world.nodes[at].dead {
                    world.nodes[at].step = Step::Read(if free { Some(at) } else { Some((at + 1) % RUNS) });
                }
            });
        }
        if node.dead {
            // Recovery on the same node.
            let marked = node.marked && broken != Broken::NoMarker;
            change(&|world| {
                let node = &mut world.nodes[at];
                node.dead = false;
                node.step = if marked { Step::Marked } else { Step::Recorded(ModelEnd::Failed) };
            });
            continue;
        }
        match node.step {
            Step::Working => {
                change(&|world| {
                    world.nodes[at].marked = true;
                    world.nodes[at].step = Step::Marked;
                });
                change(&to(Step::Recorded(ModelEnd::Failed)));
            }
            Step::Marked => {
                // As in `commit`: reads first, and asks only if no one has the claim.
                if world.claim.is_some() {
                    change(&to(Step::Read(world.claim)));
                }
                for copies in 1..=2 {
                    change(&|world| {
                        let node = &mut world.nodes[at];
                        node.requests = (node.requests + copies).min(3);
                        node.step = Step::Sent;
                    });
                }
            }
            // Waits for the answer; without one, it may time out.
            Step::Sent => change(&to(Step::Answered)),
            Step::Answered => match world.claim {
                Some(_) => change(&to(Step::Read(world.claim))),
                None if broken == Broken::GivesUp => change(&to(Step::Recorded(ModelEnd::Failed))),
                // An error: the run stays open, which is a crash for the model.
                None => change(&|world| world.nodes[at].dead = true),
            },
            Step::Read(owner) => {
                change(&to(Step::Recorded(if owner == Some(at) { ModelEnd::Completed } else { ModelEnd::Superseded })));
            }
            Step::Recorded(_) => continue,
        }
        if node.crashes < CRASHES {
            change(&|world| {
                world.nodes[at].crashes += 1;
                world.nodes[at].dead = true;
            });
        }
    }
    next
}

/// What is wrong in a state.
fn fault(world: &World) -> Option<&'static str> {
    let ended = |end: ModelEnd| world.nodes.iter().filter(|node| node.step == Step::Recorded(end)).count();
    if ended(ModelEnd::Completed) > 1 {
        return Some("two runs are completed");
    }
    if let Some(owner) = world.claim
        && let Step::Recorded(end) = world.nodes[owner].step
        && end != ModelEnd::Completed
    {
        return Some("the claim belongs to a run that is recorded as not completed: the window is lost");
    }
    if ended(ModelEnd::Superseded) > 0 && world.claim.is_none() {
        return Some("superseded by no one");
    }
    let completed = world.nodes.iter().position(|node| node.step == Step::Recorded(ModelEnd::Completed));
    if completed.is_some() && completed != world.claim {
        return Some("completed without the claim");
    }
    None
}

/// Searches all states. Returns their number, and the first fault.
fn search(broken: Broken) -> (usize, Option<(&'static str, World)>) {
    let node = Node { step: Step::Working, dead: false, marked: false, crashes: 0, requests: 0 };
    let first = World { nodes: [node; RUNS], claim: None };
    let mut seen = HashSet::from([first.clone()]);
    let mut queue = VecDeque::from([first]);
    while let Some(world) = queue.pop_front() {
        if let Some(fault) = fault(&world) {
            return (seen.len(), Some((fault, world)));
        }
        let next = successors(&world, broken);
        // No run is stuck: in a state without a successor, every run has an end.
        if next.is_empty() && !world.nodes.iter().all(|node| matches!(node.step, Step::Recorded(_))) {
            return (seen.len(), Some(("a run never ends", world)));
        }
        for world in next {
            if seen.insert(world.clone()) {
                queue.push_back(world);
            }
        }
    }
    (seen.len(), None)
}

#[test]
fn no_order_of_steps_breaks_the_protocol() {
    let (states, fault) = search(Broken::Nothing);
    assert!(fault.is_none(), "{fault:?}");
    assert!(states > 100_000, "only {states} states");
}

/// The search finds each rule that is broken.
#[test]
fn each_rule_is_needed() {
    for broken in [Broken::NoMarker, Broken::TrustsTheAnswer, Broken::GivesUp] {
        let (_, fault) = search(broken);
        assert!(fault.is_some(), "{broken:?} breaks nothing");
    }
}
