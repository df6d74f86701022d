//! Runs and events, as printed by `runs list --json` and `events list --json --payload`.

use crate::sandbox::Sandbox;
use serde_json::Value;
use std::collections::HashSet;

/// The short id of a run, from its full id.
#[must_use]
pub fn short_id(id: &str) -> &str {
    &id[id.len() - 8..]
}

/// A run.
#[derive(Debug, Clone)]
pub struct Run(pub Value);

impl Run {
    /// Its id.
    pub fn id(&self) -> &str {
        self.0["run_id"].as_str().expect("a run has an id")
    }

    /// Its short id.
    pub fn short(&self) -> &str {
        self.0["short_id"].as_str().expect("a run has a short id")
    }

    /// `running`, `completed`, `failed`.
    pub fn state(&self) -> &str {
        self.0["state"].as_str().expect("a run has a state")
    }

    /// Why it failed; empty if it did not.
    pub fn cause(&self) -> &str {
        self.0["cause"].as_str().unwrap_or_default()
    }

    /// The message about its failure.
    pub fn message(&self) -> &str {
        self.0["message"].as_str().unwrap_or_default()
    }
}

/// An event.
#[derive(Debug, Clone)]
pub struct Event(pub Value);

impl Event {
    /// Its type.
    pub fn event_type(&self) -> &str {
        self.0["event_type"].as_str().expect("an event has a type")
    }

    /// Its payload.
    pub fn payload(&self) -> &Value {
        &self.0["payload"]
    }

    /// Whether it ends a run.
    pub fn is_terminal(&self) -> bool {
        matches!(self.event_type(), "job.completed" | "job.failed" | "job.skipped" | "job.refused" | "job.superseded")
    }
}

impl Sandbox {
    /// All runs that started or were skipped, newest first, without refused and claimed runs.
    #[track_caller]
    pub fn runs(&self) -> Vec<Run> {
        let mut runs = self.all_runs();
        runs.retain(|run| !matches!(run.state(), "refused" | "claimed"));
        runs
    }

    /// All runs, newest first.
    #[track_caller]
    pub fn all_runs(&self) -> Vec<Run> {
        let listed = self.lorchestra(&["runs", "list", "--limit", "100000", "--json"]).exits(0);
        listed.json_lines("lorchestra.run/1").into_iter().map(Run).collect()
    }

    /// The only run.
    #[track_caller]
    pub fn run(&self) -> Run {
        let mut runs = self.runs();
        assert_eq!(runs.len(), 1, "one run: {runs:?}");
        runs.remove(0)
    }

    /// All events of a run, oldest first.
    #[track_caller]
    pub fn events_of(&self, run_id: &str) -> Vec<Event> {
        let listed = self.lorchestra(&["events", "list", "--run", run_id, "--json", "--payload"]).exits(0);
        listed.json_lines("lorchestra.event/1").into_iter().map(Event).collect()
    }

    /// The events of a run, after checking the properties of every ended run: `job.started` comes first (unless it was skipped or refused), there is
    /// one terminal event, which is the last and agrees with the run, and no id occurs twice.
    #[track_caller]
    pub fn whole_events_of(&self, run: &Run) -> Vec<Event> {
        let events = self.events_of(run.id());
        let ids: HashSet<&str> = events.iter().filter_map(|event| event.0["event_id"].as_str()).collect();
        assert_eq!(ids.len(), events.len(), "an event_id twice in {}", run.id());
        if !matches!(run.state(), "skipped" | "refused") {
            assert_eq!(events.first().map(Event::event_type), Some("job.started"), "{run:?}");
        }
        let ends: Vec<&Event> = events.iter().filter(|event| event.is_terminal()).collect();
        assert_eq!(ends.len(), 1, "one terminal event: {ends:?}");
        assert!(events.last().is_some_and(Event::is_terminal), "the terminal event is the last: {run:?}");
        let expected = format!("job.{}", run.state());
        assert_eq!(ends[0].event_type(), expected, "the terminal event agrees with the run: {run:?}");
        assert_eq!(ends[0].payload()["cause"].as_str().unwrap_or_default(), run.cause());
        events
    }

    /// The numbers that `misbehave/numbered` or `burst` emitted in a run, in order.
    #[track_caller]
    pub fn numbers_of(&self, run: &Run) -> Vec<u64> {
        let events = self.whole_events_of(run);
        let numbers = events.iter().filter(|event| event.event_type() == "number");
        numbers.map(|event| event.payload()["n"].as_u64().expect("a number")).collect()
    }
}
