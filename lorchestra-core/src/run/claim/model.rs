//! The protocol of claims as a state machine, searched exhaustively: every order of steps of three runs of one window, with a crash between any
//! two steps, requests to the file server that arrive late, twice, or after their sender's death, and answers that are lost.
//!
//! A frozen run is one that takes no step for a while, which every search has: nothing in the model has a time limit.
//!
//! Runs are interchangeable, so a state is their sorted list.

use std::collections::{HashSet, VecDeque};

/// Maximum number of crashes of each run's process.
const CRASHES: u8 = 2;
/// Maximum number of requests of a run that are on their way.
const REQUESTS: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    /// The job works, or its events are being delivered.
    Working,
    /// `claiming` is on disk.
    Marked,
    /// The request to link was sent, and no answer has come.
    Sent,
    /// The answer has come, or is lost: next it reads the claim.
    Answered,
    /// The claim was read: whether it is this run's.
    Read(bool),
    Recorded(ModelEnd),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum ModelEnd {
    Completed,
    Superseded,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Node {
    step: Step,
    /// Its process is dead; recovery has not begun.
    dead: bool,
    /// Whether `claiming` exists.
    marked: bool,
    /// Whether the final record is on disk.
    has_final: bool,
    /// Whether the claim is its own.
    holds: bool,
    crashes: u8,
    /// Requests to link on their way, of this process or of one that has died.
    requests: u8,
}

/// The runs of one window.
type World = Vec<Node>;

fn is_claimed(world: &[Node]) -> bool {
    world.iter().any(|node| node.holds)
}

/// Which rule of the protocol is broken, to see that the search finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Recovery does not look for `claiming`: it closes the run as failed.
    NoMarker,
    /// The final record is not synced, and recovery closes a run without one as failed.
    NeedsFinalRecord,
    /// The answer to link(2) decides, instead of the claim.
    TrustsTheAnswer,
    /// An unknown answer counts as lost.
    GivesUp,
    /// The watching host records a run that the engine reports as successful, instead of the holder of the claim.
    RecordsTheReport,
}

fn successors(world: &World, broken: Broken) -> Vec<World> {
    let mut next = Vec::new();
    let claimed = is_claimed(world);
    for (at, node) in world.iter().enumerate() {
        let mut change = |change: &dyn Fn(&mut Node)| {
            let mut world = world.clone();
            change(&mut world[at]);
            world.sort_unstable();
            next.push(world);
        };
        // The server, at any time, also after the sender's death.
        if node.requests > 0 {
            change(&|node| {
                node.requests -= 1;
                node.holds |= !claimed;
                if broken == Broken::TrustsTheAnswer && node.step == Step::Sent && !node.dead {
                    node.step = Step::Read(!claimed);
                }
            });
        }
        if node.dead {
            // Recovery on the same node.
            change(&|node| {
                node.dead = false;
                let marked = match broken {
                    Broken::NoMarker => false,
                    Broken::NeedsFinalRecord => node.marked && node.has_final,
                    _ => node.marked,
                };
                node.step = if marked { Step::Marked } else { Step::Recorded(ModelEnd::Failed) };
            });
            continue;
        }
        match node.step {
            Step::Working => {
                change(&|node| {
                    node.has_final = true;
                    node.marked = true;
                    node.step = Step::Marked;
                });
                change(&|node| node.step = Step::Recorded(ModelEnd::Failed));
            }
            Step::Marked => {
                // As in `commit`: reads first, and asks only if no one has the claim. It may be taken in between.
                if claimed {
                    change(&|node| node.step = Step::Read(node.holds));
                }
                // Once, or repeated by the network.
                for copies in 1..=2 {
                    change(&|node| {
                        node.requests = (node.requests + copies).min(REQUESTS);
                        node.step = Step::Sent;
                    });
                }
            }
            // Waits for the answer; without one, it may time out.
            Step::Sent => change(&|node| node.step = Step::Answered),
            Step::Answered if claimed => change(&|node| node.step = Step::Read(node.holds)),
            Step::Answered if broken == Broken::GivesUp => change(&|node| node.step = Step::Recorded(ModelEnd::Failed)),
            // An error: the run stays open, and the next command tries again.
            Step::Answered => change(&|node| node.dead = true),
            Step::Read(own) => {
                let end = if own { ModelEnd::Completed } else { ModelEnd::Superseded };
                change(&|node| node.step = Step::Recorded(end));
            }
            Step::Recorded(_) => continue,
        }
        if node.crashes < CRASHES {
            change(&|node| {
                node.crashes += 1;
                node.dead = true;
            });
            // A power loss: the disk forgets what was not synced. That is the final record, as if step 2 had not synced it.
            change(&|node| {
                node.crashes += 1;
                node.dead = true;
                node.has_final = false;
            });
        }
    }
    next
}

/// Whether someone may have recorded a run as claimed: the watching host, a run that has lost, or a later attempt. They read the claim at any
/// time, as often as they like, and also after its holder is lost for ever. An old answer is that of a moment without a claim, and records
/// nothing. Neither condition ever ends, so what may have been recorded before is still in it.
fn may_be_claimed(node: &Node, broken: Broken) -> bool {
    if broken == Broken::RecordsTheReport { node.marked } else { node.holds }
}

/// What is wrong in a state.
fn fault(world: &[Node], broken: Broken) -> Option<&'static str> {
    let ended = |end: ModelEnd| world.iter().filter(|node| node.step == Step::Recorded(end)).count();
    let counts = |node: &&Node| may_be_claimed(node, broken) || node.step == Step::Recorded(ModelEnd::Completed);
    if world.iter().filter(counts).count() > 1 {
        return Some("two runs count");
    }
    for node in world {
        match node.step {
            Step::Recorded(ModelEnd::Completed) if !node.holds => return Some("completed without the claim"),
            Step::Recorded(ModelEnd::Failed | ModelEnd::Superseded) if node.holds => {
                return Some("the claim belongs to a run that is recorded as not completed: the window is lost");
            }
            Step::Recorded(ModelEnd::Failed | ModelEnd::Superseded) if may_be_claimed(node, broken) => {
                return Some("a loser counts");
            }
            _ => {}
        }
    }
    if ended(ModelEnd::Superseded) > 0 && !is_claimed(world) {
        return Some("superseded by no one");
    }
    None
}

/// Searches all states of a number of runs. Returns their number, and the first fault.
fn search(runs: usize, broken: Broken) -> (usize, Option<(&'static str, World)>) {
    let node = Node { step: Step::Working, dead: false, marked: false, has_final: false, holds: false, crashes: 0, requests: 0 };
    let first = vec![node; runs];
    let mut seen = HashSet::from([first.clone()]);
    let mut queue = VecDeque::from([first]);
    while let Some(world) = queue.pop_front() {
        if let Some(fault) = fault(&world, broken) {
            return (seen.len(), Some((fault, world)));
        }
        let next = successors(&world, broken);
        // No run is stuck: in a state without a successor, every run has an end.
        if next.is_empty() && !world.iter().all(|node| matches!(node.step, Step::Recorded(_))) {
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
    let (states, fault) = search(3, Broken::Nothing);
    assert!(fault.is_none(), "{fault:?}");
    assert!(states > 10_000, "only {states} states");
}

/// The search finds each rule that is broken.
#[test]
fn each_rule_is_needed() {
    let all = [Broken::NoMarker, Broken::NeedsFinalRecord, Broken::TrustsTheAnswer, Broken::GivesUp, Broken::RecordsTheReport];
    for broken in all {
        let (_, fault) = search(2, broken);
        assert!(fault.is_some(), "{broken:?} breaks nothing");
    }
}
