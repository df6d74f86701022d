//! Reads `squeue --json`: the tasks of a group, in both forms that Slurm prints.
//!
//! | | Slurm 22 | Slurm 23 and later (data_parser v0.0.39 and later) |
//! | --- | --- | --- |
//! | `job_state` | a text | a text (23.02), or a list of the state and its flags: `["PENDING", "REQUEUED"]` |
//! | numbers | a number or null | `{"set": true, "infinite": false, "number": 7}`, or a number |
//!
//! Guarantees that a task that cannot be read is an error: a task that is left out would count as ended, and be submitted again.

use serde_json::Value;
use std::collections::BTreeSet;

/// States of a task that has ended. A task in any other state may still run.
const ENDED: [&str; 10] = [
    "COMPLETED",
    "CANCELLED",
    "FAILED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
    "OUT_OF_MEMORY",
    "LAUNCH_FAILED",
];
/// Reasons for which a task waits until someone changes the cluster or the task.
const NEVER: [&str; 12] = [
    "BadConstraints",
    "PartitionDown",
    "PartitionInactive",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "InvalidAccount",
    "InvalidQOS",
    "AccountNotAllowed",
    "QOSNotAllowed",
    "DependencyNeverSatisfied",
    "ReqNodeNotAvail",
    "NodeDown",
];

/// One record of the queue: a task that has started, or all tasks of an array that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueTask {
    /// The window of index 0 of its array.
    pub(super) offset: u32,
    /// The job id of its array.
    pub(super) array: u64,
    /// The indices of the tasks.
    pub(super) indices: BTreeSet<u32>,
    pub(super) state: TaskState,
    /// Maximum number of tasks of the array that run at once.
    pub(super) limit: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TaskState {
    Waiting,
    /// It waits until someone does something: why, and what to do.
    Held(String),
    Running,
    Ended,
}

/// Returns the tasks whose job name is `prefix` and an offset. The error is what is wrong with the text.
pub(super) fn read(text: &str, prefix: &str) -> Result<Vec<QueueTask>, String> {
    let answer: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let jobs = answer["jobs"].as_array().ok_or("it has no list of jobs")?;
    let offset = |job: &Value| job["name"].as_str()?.strip_prefix(prefix)?.parse::<u32>().ok();
    let mine = jobs.iter().filter_map(|job| Some((offset(job)?, job)));
    mine.map(|(offset, job)| task(offset, job).map_err(|what| format!("{what} of job {} cannot be read", job["job_id"])))
        .collect()
}

fn task(offset: u32, job: &Value) -> Result<QueueTask, &'static str> {
    let array = number(&job["array_job_id"]).ok_or("array_job_id")?;
    let state = state(job, array).ok_or("job_state")?;
    let waiting = job["array_task_string"].as_str().filter(|text| !text.is_empty());
    let indices = match (waiting, number(&job["array_task_id"])) {
        (Some(text), _) => indices(text).ok_or("array_task_string")?,
        (None, Some(index)) => BTreeSet::from([u32::try_from(index).map_err(|_| "array_task_id")?]),
        (None, None) if state == TaskState::Ended => BTreeSet::new(),
        (None, None) => return Err("array_task_id"),
    };
    Ok(QueueTask { offset, array, indices, state, limit: number(&job["array_max_tasks"]).filter(|limit| *limit > 0) })
}

fn state(job: &Value, array: u64) -> Option<TaskState> {
    let states: Vec<&str> = match &job["job_state"] {
        Value::String(state) => vec![state],
        Value::Array(states) => states.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is = |names: &[&str]| states.iter().any(|state| names.contains(state));
    let reason = job["state_reason"].as_str().unwrap_or_default();
    let description = job["state_description"].as_str().unwrap_or_default();
    Some(match () {
        () if states.is_empty() => return None,
        () if is(&["REQUEUE_HOLD", "SPECIAL_EXIT"]) => TaskState::Held(held("held after it was requeued", array)),
        () if is(&["COMPLETING"]) => TaskState::Running,
        () if is(&["PENDING"]) => waiting(reason, description, array),
        () if is(&ENDED) => TaskState::Ended,
        () => TaskState::Running,
    })
}

/// Returns the state of a task that waits for a reason of Slurm, which has a text of its own for some of them.
fn waiting(reason: &str, description: &str, array: u64) -> TaskState {
    let text = if description.is_empty() { reason } else { description };
    let is_held = [reason, description].iter().any(|text| text.to_ascii_lowercase().contains("held"));
    if is_held {
        return TaskState::Held(held(text, array));
    }
    if NEVER.iter().any(|never| reason.starts_with(never)) {
        return TaskState::Held(format!(
            "{text}: no node can start it now; see scontrol show job {array}, and wait for the partition or the node, or cancel the group \
             and start another one with other flags (--engine-flag)"
        ));
    }
    TaskState::Waiting
}

fn held(text: &str, array: u64) -> String {
    let who = if text.contains("Admin") { "let an administrator run" } else { "run" };
    format!("{text}: Slurm holds it; {who} scontrol release {array}, after the cause is fixed")
}

/// Reads a number in either form.
fn number(value: &Value) -> Option<u64> {
    let is_set = value["set"].as_bool() == Some(true) && value["infinite"].as_bool() != Some(true);
    value.as_u64().or_else(|| value["number"].as_u64().filter(|_| is_set))
}

/// Reads the indices of waiting tasks: `0-4,7,10-20:5%3`.
pub(super) fn indices(text: &str) -> Option<BTreeSet<u32>> {
    let text = text.split('%').next().unwrap_or_default().trim_matches(['[', ']']);
    let mut found = BTreeSet::new();
    for part in text.split(',') {
        let (range, step) = part.split_once(':').unwrap_or((part, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last, step) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?, step.parse::<usize>().ok()?);
        found.extend((first..=last).step_by(step.max(1)));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tasks(jobs: Value) -> Vec<(u64, Vec<u32>, TaskState, Option<u64>)> {
        let read = read(&json!({ "jobs": jobs }).to_string(), "lorchestra-g+").unwrap();
        read.into_iter().map(|task| (task.array, task.indices.into_iter().collect(), task.state, task.limit)).collect()
    }

    fn new(number: u64) -> Value {
        json!({ "set": true, "infinite": false, "number": number })
    }

    /// As Slurm 22.05 prints it, and as 23.02, 23.11 and 24.05 do.
    #[test]
    fn every_form_is_read() {
        let unset = json!({ "set": false, "infinite": false, "number": 0 });
        let old = json!([
            { "name": "lorchestra-g+0", "job_id": 7, "job_state": "PENDING", "array_job_id": 7, "array_task_id": null,
              "array_task_string": "3-5,9%4", "array_max_tasks": 4, "state_reason": "JobArrayTaskLimit", "state_description": "" },
            { "name": "lorchestra-g+0", "job_id": 8, "job_state": "RUNNING", "array_job_id": 7, "array_task_id": 1,
              "array_task_string": "", "array_max_tasks": 4, "state_reason": "None", "state_description": "" },
            { "name": "lorchestra-g+0", "job_id": 9, "job_state": "COMPLETING", "array_job_id": 7, "array_task_id": 2,
              "array_task_string": "", "array_max_tasks": 4 },
            { "name": "lorchestra-g+0", "job_id": 10, "job_state": "COMPLETED", "array_job_id": 7, "array_task_id": 0,
              "array_task_string": "", "array_max_tasks": 4 },
            { "name": "another", "job_id": 11, "job_state": "PENDING", "array_job_id": 0, "array_task_id": null },
        ]);
        let later = |state: &dyn Fn(&[&str]) -> Value| {
            json!([
                { "name": "lorchestra-g+0", "job_id": 7, "job_state": state(&["PENDING"]), "array_job_id": new(7), "array_task_id": unset,
                  "array_task_string": "3-5,9%4", "array_max_tasks": new(4), "state_reason": "JobArrayTaskLimit" },
                { "name": "lorchestra-g+0", "job_id": 8, "job_state": state(&["RUNNING"]), "array_job_id": new(7), "array_task_id": new(1),
                  "array_task_string": "", "array_max_tasks": new(4), "state_reason": "None" },
                { "name": "lorchestra-g+0", "job_id": 9, "job_state": state(&["COMPLETING", "COMPLETED"]), "array_job_id": new(7),
                  "array_task_id": new(2), "array_task_string": "", "array_max_tasks": new(4) },
                { "name": "lorchestra-g+0", "job_id": 10, "job_state": state(&["COMPLETED"]), "array_job_id": new(7),
                  "array_task_id": new(0), "array_task_string": "", "array_max_tasks": new(4) },
                { "name": "another", "job_id": 11, "job_state": state(&["PENDING"]), "array_job_id": new(0), "array_task_id": unset },
            ])
        };
        let expected = [
            (7, vec![3, 4, 5, 9], TaskState::Waiting, Some(4)),
            (7, vec![1], TaskState::Running, Some(4)),
            (7, vec![2], TaskState::Running, Some(4)),
            (7, vec![0], TaskState::Ended, Some(4)),
        ];
        assert_eq!(tasks(old), expected);
        assert_eq!(tasks(later(&|states| json!(states[0]))), expected, "23.02");
        assert_eq!(tasks(later(&|states| json!(states))), expected, "23.11 and later");
    }

    #[test]
    fn a_task_that_waits_for_someone_says_for_whom() {
        let of = |state: Value, reason: &str, description: &str| {
            let job = json!({ "name": "lorchestra-g+0", "job_state": state, "array_job_id": new(7), "array_task_id": new(1),
                "state_reason": reason, "state_description": description });
            tasks(json!([job])).remove(0).2
        };
        for (state, reason, description, expected) in [
            (json!("PENDING"), "JobHeldUser", "", "JobHeldUser: Slurm holds it; run scontrol release 7"),
            (json!(["PENDING"]), "JobHeldAdmin", "", "JobHeldAdmin: Slurm holds it; let an administrator run scontrol release 7"),
            (json!(["PENDING"]), "JobHeldUser", "launch failed requeued held", "launch failed requeued held: Slurm holds it"),
            (json!("REQUEUE_HOLD"), "", "", "scontrol release 7"),
            (json!(["PENDING", "SPECIAL_EXIT"]), "", "", "scontrol release 7"),
            (json!("PENDING"), "BadConstraints", "", "BadConstraints: no node can start it now; see scontrol show job 7"),
            (json!("PENDING"), "PartitionDown", "", "PartitionDown: "),
            (json!("PENDING"), "ReqNodeNotAvail, UnavailableNodes:n1", "", "UnavailableNodes:n1: no node"),
        ] {
            let TaskState::Held(text) = of(state, reason, description) else { panic!("{reason} is not held") };
            assert!(text.contains(expected), "{text}");
        }
        for reason in ["Resources", "Priority", "BeginTime", "Dependency", "JobArrayTaskLimit", "None"] {
            assert_eq!(of(json!(["PENDING"]), reason, ""), TaskState::Waiting, "{reason}");
        }
    }

    #[test]
    fn a_form_that_is_not_known_is_an_error() {
        let job = |key: &str, value: Value| {
            let mut job = json!({ "name": "lorchestra-g+0", "job_id": 7, "job_state": ["PENDING"], "array_job_id": new(7),
                "array_task_string": "1-2" });
            job[key] = value;
            json!({ "jobs": [job] }).to_string()
        };
        for (text, message) in [
            ("slurm_load_jobs error".to_owned(), "it is not JSON"),
            ("{}".to_owned(), "no list of jobs"),
            (job("job_state", json!(7)), "job_state of job 7"),
            (job("job_state", json!([])), "job_state of job 7"),
            (job("array_job_id", json!("7")), "array_job_id of job 7"),
            (job("array_task_string", json!("")), "array_task_id of job 7"),
            // As cut without SLURM_BITSTR_LEN.
            (job("array_task_string", json!("1-4,7,...")), "array_task_string of job 7"),
        ] {
            let error = read(&text, "lorchestra-g+").unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn the_indices_of_waiting_tasks_are_read() {
        for (text, expected) in
            [("3", vec![3]), ("3-5%2", vec![3, 4, 5]), ("[0-1,4]%7", vec![0, 1, 4]), ("0-10:5", vec![0, 5, 10])]
        {
            assert_eq!(indices(text).unwrap().into_iter().collect::<Vec<_>>(), expected, "{text}");
        }
        for text in ["", "a-b,2", "1,...", "1-"] {
            assert_eq!(indices(text), None, "{text}");
        }
    }
}
