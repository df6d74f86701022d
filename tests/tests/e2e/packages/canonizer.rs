//! The package `canonizer`: both jobs on their samples, and the errors of each: missing or wrong input, a directory or disk that refuses
//! the results, a kill. Each error is one clear line, and the results of the previous run stay.

use insta::assert_snapshot;
use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::{Ended, Fixture, Sandbox, built, eventually, processes};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A job of the package, a sample for it, and its files.
struct Job {
    name: &'static str,
    sample: &'static str,
    results: &'static str,
    set_aside: &'static str,
    schema: &'static str,
    objects: usize,
}

const EMAIL: Job = Job {
    name: "canonicalize_email",
    sample: "gmail.jsonl",
    results: "email.jsonl",
    set_aside: "set_aside.jsonl",
    schema: "email.schema.json",
    objects: 2,
};
const MESSAGE: Job = Job {
    name: "canonicalize_message",
    sample: "slack.jsonl",
    results: "message.jsonl",
    set_aside: "message_set_aside.jsonl",
    schema: "message.schema.json",
    objects: 14,
};

impl Job {
    fn sample(&self) -> PathBuf {
        built::workspace().join("example-plugins/canonizer/sample").join(self.sample)
    }

    /// The command; `input` is relative to the sandbox or absolute.
    fn args(&self, input: &str) -> [String; 5] {
        ["run-job", "canonizer", self.name, "--input", input].map(str::to_owned)
    }

    fn run(&self, sandbox: &Sandbox, input: &str) -> Ended {
        sandbox.lorchestra(&self.args(input).each_ref().map(String::as_str))
    }

    /// A run with results.
    #[track_caller]
    fn is_run(&self, sandbox: &Sandbox) {
        self.run(sandbox, &self.sample().display().to_string()).exits(0);
        assert_eq!(self.left(sandbox).0.lines().count(), self.objects);
    }

    /// The results, and the names of all files in the data directory.
    fn left(&self, sandbox: &Sandbox) -> (String, Vec<String>) {
        let dir = sandbox.data().join("canonizer");
        let names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        (fs::read_to_string(dir.join(self.results)).unwrap(), names)
    }

    fn files(&self) -> Vec<String> {
        vec![format!(".{}.lock", self.name), self.results.into(), self.schema.into(), self.set_aside.into()]
    }
}

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Canonizer])
}

/// A line that the job accepts, different for each number.
fn line(job: &Job, n: usize) -> String {
    match job.name {
        "canonicalize_email" => {
            let payload = format!(r#"{{"mimeType":"text/plain","body":{{"size":12,"data":"aGVsbG8gd29ybGQK{:04}"}}}}"#, n % 1000);
            format!("{{\"id\":\"18c{n}\",\"payload\":{payload}}}\n")
        }
        _ => {
            let message = format!(r#"{{"ts":"{}.000100","text":"number {n}"}}"#, 1_704_100_000 + n);
            format!("{{\"account\":\"demo\",\"channel\":{{\"id\":\"C1\"}},\"message\":{message}}}\n")
        }
    }
}

#[test]
fn samples_become_objects_and_the_event_names_their_schema() {
    for job in [EMAIL, MESSAGE] {
        let sandbox = sandbox();
        job.is_run(&sandbox);
        let (results, names) = job.left(&sandbox);
        assert_eq!(names, job.files());
        let schema = fs::read_to_string(sandbox.data().join("canonizer").join(job.schema)).unwrap();
        let schema: Value = serde_json::from_str(&schema).unwrap();
        let events = sandbox.lorchestra(&["events", "list", "--json", "--type", "canonicalization.completed"]).exits(0);
        let [completed] = &events.json_lines("lorchestra.event/1")[..] else { panic!("{}", events.shown()) };
        assert_eq!(completed["schema_ref"], schema["$id"]);
        let required = schema["required"].as_array().unwrap();
        for object in results.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            assert!(required.iter().all(|name| object.get(name.as_str().unwrap()).is_some()), "{object}");
        }
        for name in names {
            let mode = fs::metadata(sandbox.data().join("canonizer").join(&name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        job.is_run(&sandbox);
        assert_eq!(job.left(&sandbox).0, results, "a second run gives the same results");
    }
}

#[test]
fn missing_or_wrong_input_is_reported_in_one_line() {
    let mut output = String::new();
    for job in [EMAIL, MESSAGE] {
        let sandbox = sandbox();
        job.is_run(&sandbox);
        let before = job.left(&sandbox);
        let put = |name: &str, bytes: &[u8]| fs::write(sandbox.path(name), bytes).unwrap();
        fs::create_dir(sandbox.path("empty")).unwrap();
        put("text.jsonl", b"To whom it may concern:\nthis is no JSON.\n");
        put("other.jsonl", b"{\"a\":1}\n[1,2]\n\"x\"\n");
        put("binary.jsonl", &[0, 255, 10, 254, 0, 10]);
        put("torn.jsonl", &line(&job, 1).as_bytes()[..30]);
        assert!(std::process::Command::new("mkfifo").arg(sandbox.path("pipe")).status().unwrap().success());
        let others = if job.name == EMAIL.name { MESSAGE.sample() } else { EMAIL.sample() };
        fs::copy(others, sandbox.path("others.jsonl")).unwrap();
        for input in [
            "missing.jsonl",
            "text.jsonl/x",
            "empty",
            "pipe",
            "text.jsonl",
            "other.jsonl",
            "binary.jsonl",
            "torn.jsonl",
            "others.jsonl",
        ] {
            let ended = job.run(&sandbox, &sandbox.arg(input)).exits(1);
            output.push_str(&format!("{} --input {input}\n{}\n", job.name, ended.snapshot(&sandbox)));
            assert_eq!(job.left(&sandbox), before, "{input}");
        }
        let ended = sandbox.lorchestra(&["run-job", "canonizer", job.name]).exits(1);
        output.push_str(&format!("{}\n{}\n", job.name, ended.snapshot(&sandbox)));
        assert_eq!(job.left(&sandbox), before, "nothing extracted");
    }
    assert_snapshot!(output);
}

#[test]
fn unreadable_input_is_reported() {
    let sandbox = Sandbox::unprivileged(&[Fixture::Canonizer]);
    for job in [EMAIL, MESSAGE] {
        let input = sandbox.path("input.jsonl");
        fs::write(&input, line(&job, 1)).unwrap();
        fs::set_permissions(&input, fs::Permissions::from_mode(0o000)).unwrap();
        let ended = job.run(&sandbox, &sandbox.arg("input.jsonl")).exits(1);
        assert!(
            ended.err().contains("input.jsonl: cannot open it; check that the user running the job may read it"),
            "{}",
            ended.shown()
        );
        assert!(ended.err().contains("Permission denied"), "{}", ended.shown());
        fs::remove_file(&input).unwrap();
    }
}

#[test]
fn a_full_disk_leaves_the_old_results_and_nothing_half_written() {
    for job in [EMAIL, MESSAGE] {
        let sandbox = sandbox();
        let data = sandbox.data().join("canonizer");
        let Some(disks) = SmallDisks::mount(&sandbox, &[(data.clone(), 512)]) else { return };
        let run = |input: &str| disks.start(&sandbox, &job.args(input).each_ref().map(String::as_str)).wait();
        let sample = job.sample().display().to_string();
        run(&sample).exits(0);
        let list = || {
            let dir = disks.path(&data);
            let entries = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap());
            let mut entries: Vec<_> = entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect();
            entries.sort();
            entries
        };
        let before = list();
        fs::write(sandbox.path("large.jsonl"), (0..2000).map(|n| line(&job, n)).collect::<String>()).unwrap();
        let ended = run(&sandbox.arg("large.jsonl")).exits(1);
        let message = format!("canonizer/{}: writing failed; the previous results are unchanged", job.results);
        assert!(ended.err().contains(&message) && ended.err().contains("No space left on device"), "{}", ended.shown());
        assert_eq!(list(), before);
        // Full to the last byte: not even the first file can be completed.
        let ballast = disks.fill(&data);
        let ended = run(&sample).exits(1);
        assert!(ended.err().contains("unchanged") && ended.err().contains("No space left on device"), "{}", ended.shown());
        fs::remove_file(ballast).unwrap();
        assert_eq!(list(), before);
        disks.remount(&data, "ro");
        let ended = run(&sample).exits(1);
        assert!(ended.err().contains("Read-only file system"), "{}", ended.shown());
        disks.remount(&data, "rw");
        assert_eq!(list(), before);
        run(&sample).exits(0);
        assert_eq!(list(), before);
    }
}

/// Killed while it writes, as the size of its temporary file shows.
#[test]
fn a_killed_run_leaves_the_old_results_and_the_next_removes_its_file() {
    for job in [EMAIL, MESSAGE] {
        let sandbox = sandbox();
        job.is_run(&sandbox);
        let before = job.left(&sandbox);
        fs::write(sandbox.path("large.jsonl"), (0..200_000).map(|n| line(&job, n)).collect::<String>()).unwrap();
        let running = sandbox.start(&job.args(&sandbox.arg("large.jsonl")).each_ref().map(String::as_str));
        let dir = sandbox.data().join("canonizer");
        let unfinished = format!(".{}.", job.results);
        let is_writing = || {
            let mut entries = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap());
            entries.any(|entry| {
                entry.file_name().to_string_lossy().starts_with(&unfinished) && entry.metadata().is_ok_and(|file| file.len() > 0)
            })
        };
        eventually("the job writes", is_writing);
        for worker in running.children() {
            processes::signal(worker, Signal::KILL);
        }
        running.wait().exits(1);
        let (results, names) = job.left(&sandbox);
        assert_eq!(results, before.0);
        assert!(names.iter().any(|name| name.ends_with(".unfinished")), "it was killed while it wrote: {names:?}");
        job.is_run(&sandbox);
        assert_eq!(job.left(&sandbox), before);
    }
}
