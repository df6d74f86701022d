//! Commands that export from the store or remove from it: `events export`, `report`, `runs prune`. Also `jobs list` on a terminal.

use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::terminal::Terminal;
use lorchestra_tests::{Fixture, Running, Sandbox, eventually, parquet};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::process::Command;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave, Fixture::Kit])
}

#[test]
fn events_are_exported_as_lines_of_json_and_as_csv() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "3"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "confide", "--about", "anna, \"b\"", "--secret", "s", "--count", "1"]).exits(0);
    let listed = sandbox.lorchestra(&["events", "list", "--json", "--payload"]).exits(0);
    let exported = sandbox.lorchestra(&["events", "export", "--format", "jsonl"]).exits(0);
    assert_eq!(exported.out(), listed.out(), "one line for each event, as events list has it");
    let of_run = sandbox.lorchestra(&["events", "export", "--format", "jsonl", "--run", "last", "--type", "confided"]).exits(0);
    assert_eq!(of_run.out().lines().count(), 1);
    let csv = sandbox.lorchestra(&["events", "export", "--format", "csv", "-o", &sandbox.arg("events.csv")]).exits(0);
    assert!(csv.out().contains("events exported to"), "{}", csv.shown());
    let text = sandbox.read("events.csv");
    assert!(text.starts_with("event_id,event_type,source,"), "{text}");
    assert!(text.contains(",\"anna, \"\"b\"\"\",\"{\"\"n\"\":0,"), "{text}");
    assert_eq!(text.lines().count(), 1 + exported.out().lines().count());
    let mode = fs::metadata(sandbox.path("events.csv")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "it has payloads");
    sandbox.lorchestra(&["events", "export", "--format", "csv", "-o", "/nowhere/events.csv"]).exits(74);
    sandbox.lorchestra(&["events", "export"]).exits(2);
}

#[test]
fn events_are_exported_as_parquet() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "3"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "confide", "--about", "anna", "--secret", "s", "--count", "1"]).exits(0);
    let csv = sandbox.lorchestra(&["events", "export", "--format", "csv"]).exits(0);
    let exported = sandbox.lorchestra(&["events", "export", "--format", "parquet", "-o", "events.parquet"]).exits(0);
    let lines = csv.out().lines().count() - 1;
    assert_eq!(exported.out(), format!("✓ {lines} events exported to events.parquet\n"));
    let mode = fs::metadata(sandbox.path("events.parquet")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "it has payloads");
    let columns = csv
        .out()
        .lines()
        .next()
        .unwrap()
        .replace("created_at", "strftime(make_timestamp(epoch_us(created_at)), '%Y-%m-%dT%H:%M:%S.%fZ')");
    let tables = parquet::read(&sandbox.path("events.parquet"), &format!("SELECT {columns} FROM t"));
    let as_csv = |row: &Vec<Value>| {
        let quoted =
            |text: &str| if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into() };
        row.iter()
            .map(|value| quoted(value.as_str().unwrap_or(&if value.is_null() { String::new() } else { value.to_string() })))
            .collect::<Vec<String>>()
            .join(",")
    };
    let rows: Vec<String> = tables.rows.iter().map(as_csv).collect();
    assert_eq!(rows, csv.out().lines().skip(1).collect::<Vec<_>>());
    let types = &tables.types[0];
    assert_eq!((&types["created_at"], &types["attempt"]), (&"timestamp[us, tz=UTC]".into(), &"int32".into()), "{types}");
    // Not onto a terminal, and nothing half written.
    sandbox.lorchestra(&["events", "export", "--format", "parquet"]).exits(2);
    sandbox.lorchestra(&["events", "export", "--format", "parquet", "-o", "/nowhere/events.parquet"]).exits(74);
}

#[test]
fn a_report_is_one_page_that_loads_nothing() {
    let sandbox = sandbox();
    let empty = sandbox.lorchestra(&["report"]).exits(0);
    assert!(empty.out().starts_with("<!DOCTYPE html>") && empty.out().contains("No runs in this period."), "{}", empty.shown());
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--account", "private-name"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "panic_now"]).exits(1);
    let written = sandbox.lorchestra(&["report", "--days", "7", "-o", &sandbox.arg("report.html")]).exits(0);
    assert!(written.out().starts_with("✓ report written to "), "{}", written.shown());
    for args in [&["report"][..], &["metrics"], &["events", "export", "--format", "csv"]] {
        let printed = sandbox.lorchestra(&[args, &["-o", "-"]].concat()).exits(0);
        assert!(printed.out().lines().count() > 1 && !sandbox.path("-").exists(), "{}", printed.shown());
    }
    let refused = sandbox.lorchestra(&["report", "-o", "/proc/self/x"]).exits(74);
    assert!(!refused.err().contains("immutable") && refused.err().contains("choose another path"), "{}", refused.shown());
    let page = sandbox.read("report.html");
    for part in
        ["misbehave/numbered", "50.0 %", "<svg", "panic", sandbox.runs()[0].short(), "Slowest runs", "Runs with most memory"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    for outside in ["http://", "https://", "<script", "private-name", "the answer"] {
        assert!(!page.contains(outside), "{outside}: {page}");
    }
}

/// `-o` replaces a regular file only: links stay, and devices, FIFOs and standard output are written to.
/// The error of an output that cannot be written names the path as the user wrote it, the reason, and what to do.
#[test]
fn an_output_that_cannot_be_written_is_named() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let days = ["--from", "2024-01-01", "--to", "2024-01-02", "--every", "1d", "--plan"];
    let backfill = [&["backfill", "misbehave", "windowed"][..], &days].concat();
    let commands: [&[&str]; 5] = [
        &backfill,
        &["report", "-o"],
        &["metrics", "-o"],
        &["events", "export", "--format", "jsonl", "-o"],
        &["events", "export", "--format", "parquet", "-o"],
    ];
    fs::write(sandbox.path("file"), "").unwrap();
    for command in commands {
        for (path, reason, hint) in [
            (
                "nodir/x",
                "cannot write nodir/x: there is no directory nodir",
                "create it (mkdir -p nodir), or choose another path",
            ),
            ("file/x", "cannot write file/x: file is not a directory", "choose a path other than file"),
            (".", "cannot write .: ", "choose another path"),
        ] {
            let ended = sandbox.lorchestra(&[command, &[path]].concat()).exits(74);
            assert!(ended.err().contains(reason) && ended.err().contains(hint), "{path}: {}", ended.shown());
            assert!(!ended.err().contains(".lorchestra-"), "{}", ended.shown());
        }
    }
    let read = sandbox.lorchestra(&["export", "nodir/x", "--k8s", "--image", "i"]).exits(2);
    let expected = ["error: the plan nodir/x cannot be read: No such file or directory", "backfill … --plan FILE"];
    assert!(expected.iter().all(|text| read.err().contains(text)), "{}", read.shown());
}

#[test]
fn an_output_file_may_be_a_link_a_fifo_a_device_or_standard_output() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "3"]).exits(0);
    let commands: [(&[&str], &str); 5] = [
        (&["report"], "</html>"),
        (&["metrics"], "lorchestra_build_info"),
        (&["events", "export", "--format", "csv"], "job.completed"),
        (&["events", "export", "--format", "jsonl"], "job.completed"),
        (&["events", "export", "--format", "parquet"], "PAR1"),
    ];
    for (n, (args, part)) in commands.into_iter().enumerate() {
        let path = |name: &str| sandbox.path(&format!("{n}-{name}"));
        let write = |name: &str| {
            let to = path(name).display().to_string();
            sandbox.lorchestra(&[args, &["-o", &to]].concat()).exits(0)
        };
        let has = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(part);
        let is_link = |name: &str| fs::symlink_metadata(path(name)).unwrap().is_symlink();
        // Links, never the machine's own /dev: a mistake would replace what they lead to.
        for (name, to) in [("link", "target"), ("null", "/dev/null"), ("stdout", "/proc/self/fd/1")] {
            let to = if to == "target" { path(to) } else { to.into() };
            symlink(to, path(name)).unwrap();
        }
        for text in [None, Some("old")] {
            text.iter().for_each(|text| fs::write(path("target"), text).unwrap());
            write("link");
            assert!(is_link("link") && has(&fs::read(path("target")).unwrap()), "{args:?}, over {text:?}");
        }
        let nothing = write("null");
        assert!(is_link("null") && nothing.out().is_empty(), "{args:?}: {}", nothing.shown());
        if part != "PAR1" {
            let shown = write("stdout");
            assert!(is_link("stdout") && has(shown.out().as_bytes()), "{args:?}: {}", shown.shown());
            assert!(!shown.out().contains('✓'), "only the data: {}", shown.shown());
        }
        let fifo = path("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read(fifo).unwrap()
        });
        write("fifo");
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo(), "{args:?}");
        assert!(has(&reader.join().unwrap()), "{args:?}");
        let directory = sandbox.lorchestra(&[args, &["-o", &sandbox.arg("home")]].concat()).exits(74);
        assert!(directory.err().contains("directory"), "{}", directory.shown());
    }
    let left = fs::read_dir(sandbox.root()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with('.')
    });
    assert_eq!(left.count(), 0, "no temporary file");
}

/// In a container, a file may be mounted on the path, in a directory that is read-only. Such a file is overwritten in place.
#[test]
fn a_file_that_cannot_be_replaced_is_overwritten() {
    let sandbox = Sandbox::with_binary(&[Fixture::Misbehave]);
    let Some(disks) = SmallDisks::mount(&sandbox, &[(sandbox.state(), 8000)]) else { return };
    disks.start(&sandbox, &["run-job", "-q", "misbehave", "noop"]).wait().exits(0);
    fs::create_dir(sandbox.path("shown")).unwrap();
    let (at, file) = (sandbox.arg("shown"), sandbox.arg("shown/report.html"));
    let mount = "mount --bind mounted shown/report.html";
    let read_only = format!("mount --bind shown shown && {mount} && mount -o remount,bind,ro shown");
    for mounts in [mount, &read_only] {
        fs::write(sandbox.path("mounted"), "old and longer than nothing").unwrap();
        fs::write(sandbox.path("shown/report.html"), "below").unwrap();
        let root = sandbox.root().display();
        let script = format!("exec unshare -m sh -c 'cd {root} && {mounts} && exec \"$0\" \"$@\"' \"$0\" \"$@\"");
        for args in
            [&["report", "-o", &file][..], &["metrics", "-o", &file], &["events", "export", "--format", "jsonl", "-o", &file]]
        {
            let written = Running::start(disks.command_by(&sandbox, &script, args)).wait().exits(0);
            let plain = disks.start(&sandbox, &args[..args.len() - 2]).wait().exits(0);
            let first = |text: &str| text.lines().next().unwrap_or_default().get(..20).unwrap_or_default().to_owned();
            assert_eq!(first(&sandbox.read("mounted")), first(plain.out()), "{mounts} {args:?}: {}", written.shown());
            assert!(sandbox.read("mounted").ends_with('\n') || args[0] == "report", "nothing of the old file is left");
            assert_eq!(sandbox.read("shown/report.html"), "below");
            assert_eq!(fs::read_dir(&at).unwrap().count(), 1, "no temporary file");
        }
    }
}

#[test]
fn an_open_descriptor_is_written_to_where_it_is_and_a_closed_pipe_is_no_error() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "-q", "misbehave", "noop"]).exits(0);
    let shell = |script: &str| {
        let command = format!("{script}\nexit $code");
        Running::start(sandbox.command_by(&command, &[])).wait().exits(0)
    };
    // The shell's position counts, for a number as for standard output.
    for (fd, device) in [("3", "/dev/fd/3"), ("3", "/proc/self/fd/3"), ("1", "/dev/stdout")] {
        let script = format!("exec {fd}>out; echo before >&{fd}; \"$0\" metrics -o {device}; code=$?; echo after >&{fd}");
        shell(&script);
        let text = sandbox.read("out");
        assert!(text.starts_with("before\n# HELP ") && text.ends_with("\nafter\n"), "{device}: {text}");
    }
    // A descriptor of lorchestra's own is not an output: the store has the number that the shell did not use.
    for number in 3..12 {
        let refused = sandbox.lorchestra(&["metrics", "-o", &format!("/dev/fd/{number}")]);
        assert!(refused.code() == Some(74) && refused.err().contains(&format!("/dev/fd/{number}")), "{}", refused.shown());
    }
    sandbox.lorchestra(&["status"]).exits(0);
    for command in ["report", "metrics", "events export --format csv", "events export --format jsonl"] {
        let script =
            format!("mkfifo pipe 2>/dev/null; : <pipe & {{ sleep 0.3; \"$0\" {command} -o /dev/fd/3; code=$?; }} 3>pipe");
        let ended = shell(&script);
        assert_eq!(ended.err(), "", "{command}: {}", ended.shown());
    }
}

#[test]
fn old_runs_are_removed_at_once_and_only_counted_in_a_dry_run() {
    let sandbox = sandbox();
    let none = sandbox.lorchestra(&["runs", "prune"]).exits(0);
    assert!(none.err().starts_with("No runs yet"), "{}", none.shown());
    for _ in 0..3 {
        sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    }
    let young = sandbox.lorchestra(&["runs", "prune", "--dry-run"]).exits(0);
    assert_eq!(young.out(), "would remove 0 runs and the logs of 0\n");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    // The newest event is kept, and with it its run.
    let counted = sandbox.lorchestra(&["runs", "prune", "--older-than", "1s", "--dry-run"]).exits(0);
    assert_eq!(counted.out(), "would remove 2 runs and the logs of 3\n");
    assert_eq!(sandbox.runs().len(), 3, "nothing was removed");
    let pruned = sandbox.lorchestra(&["runs", "prune", "--older-than", "1s"]).exits(0);
    assert!(pruned.out().starts_with("✓ removed 2 runs and the logs of 3\n"), "{}", pruned.shown());
    assert_eq!(sandbox.runs().len(), 1);
    // Events that a destination has not received are kept.
    sandbox.configure(&format!("[destinations.jsonl]\ndir = \"{}\"", sandbox.arg("nowhere")));
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let kept = sandbox.lorchestra(&["runs", "prune", "--older-than", "1s"]).exits(0);
    assert!(kept.err().contains("with undelivered events stay"), "{}", kept.shown());
    assert_eq!(sandbox.runs().len(), 3);
}

#[test]
fn runs_are_removed_by_number_and_by_size() {
    let sandbox = sandbox();
    // The only success of this job stays.
    sandbox.lorchestra(&["run-job", "-q", "misbehave", "noop"]).exits(0);
    for _ in 0..5 {
        sandbox.lorchestra(&["run-job", "-q", "misbehave", "print", "--lines", "20000"]).exits(0);
    }
    let all = sandbox.runs();
    let counted = sandbox.lorchestra(&["runs", "prune", "--keep", "4", "--dry-run"]).exits(0);
    assert!(counted.out().starts_with("would remove 1 run "), "{}", counted.shown());
    sandbox.lorchestra(&["runs", "prune", "--keep", "4"]).exits(0);
    let ids = |runs: &[lorchestra_tests::Run]| runs.iter().map(|run| run.id().to_owned()).collect::<Vec<_>>();
    let kept = [&ids(&all[..4])[..], &ids(&all[5..])].concat();
    assert_eq!(ids(&sandbox.runs()), kept, "the newest four, and the success of another job");
    assert_eq!(sandbox.lorchestra(&["runs", "prune", "--keep", "4"]).exits(0).out(), "nothing to remove\n");
    let counted = sandbox.lorchestra(&["runs", "prune", "--max-size", "1200K", "--dry-run"]).exits(0);
    assert!(counted.out().starts_with("would remove about ") && sandbox.runs().len() == 5, "{}", counted.shown());
    let pruned = sandbox.lorchestra(&["runs", "prune", "--max-size", "1200K"]).exits(0);
    let rest = sandbox.runs();
    let newest = rest.len() - 1;
    let expected = [&ids(&all[..newest])[..], &ids(&all[5..])].concat();
    assert!((1..4).contains(&newest) && ids(&rest) == expected, "{}", pruned.shown());
    sandbox.lorchestra(&["runs", "prune", "--max-size", "1G"]).exits(0);
    assert_eq!(sandbox.runs().len(), rest.len(), "small enough");
    sandbox.lorchestra(&["runs", "prune", "--keep", "1", "--older-than", "1d"]).exits(2);
}

/// A run that stays only because `status` shows it keeps no logs.
#[test]
fn logs_of_runs_that_stay_are_removed_and_counted() {
    let sandbox = sandbox();
    sandbox.lorchestra(&["run-job", "-q", "misbehave", "print", "--lines", "20000"]).exits(0);
    let counted = sandbox.lorchestra(&["runs", "prune", "--max-size", "100K", "--dry-run"]).exits(0);
    assert!(counted.out().starts_with("would remove about 0 of 1 run and the logs of 1 ("), "{}", counted.shown());
    assert!(counted.out().ends_with(" of them logs)\n"), "{}", counted.shown());
    let pruned = sandbox.lorchestra(&["runs", "prune", "--keep", "0"]).exits(0);
    assert_eq!(pruned.out(), "✓ removed 0 runs and the logs of 1\n");
    assert_eq!(sandbox.runs().len(), 1);
}

#[test]
fn jobs_are_listed_with_summaries_on_a_terminal_and_names_only_on_a_pipe() {
    let sandbox = sandbox();
    let piped = sandbox.lorchestra(&["jobs", "list", "kit"]).exits(0);
    assert!(piped.out().contains("\n  kinds\n") && !piped.out().contains("Emits its"), "{}", piped.shown());
    let shown = |args: &[&str]| {
        let terminal = Terminal::open();
        assert!(sandbox.command(args).stdout(terminal.stdio()).status().unwrap().success());
        eventually("it is shown", || terminal.shown().contains("kinds"));
        terminal.shown().replace('\r', "")
    };
    let listed = shown(&["jobs", "list", "kit"]);
    assert!(listed.contains("  kinds ") && listed.contains("Emits its parameters."), "{listed}");
    assert!(listed.lines().all(|line| line.chars().count() <= 80), "{listed}");
    assert_eq!(shown(&["jobs", "list", "kit", "--names"]), piped.out());
}

#[test]
fn settings_are_shown_with_their_origins() {
    let sandbox = sandbox();
    sandbox.configure("[retention]\nlogs = \"7d\"\n[job.\"misbehave/noop\"]\ntimeout = \"1h\"\n");
    let shown = sandbox.lorchestra(&["config", "show", "--origin"]).exits(0);
    assert!(shown.out().contains("retention.logs = 7d  (") && shown.out().contains("config.toml)"), "{}", shown.shown());
    assert!(shown.out().contains("retention.runs = 365d  (default)"), "{}", shown.shown());
    let json = sandbox.lorchestra(&["config", "show", "--json"]).exits(0).json("lorchestra.config/1");
    let origin = |key: &str| -> Value {
        json["settings"].as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap()["origin"].clone()
    };
    assert_eq!(origin("locked"), "default");
    assert!(origin("retention.logs").as_str().unwrap().ends_with("config.toml"));
    assert!(shown.out().contains("job.\"misbehave/noop\".timeout = 1h  ("), "{}", shown.shown());
    // With another configuration file. A missing file is an error, not an empty configuration.
    fs::write(sandbox.path("other.toml"), "locked = true\n").unwrap();
    let other = sandbox.lorchestra(&["--config", "other.toml", "config", "show"]).exits(0);
    assert!(other.out().contains("locked = true"), "{}", other.shown());
    let missing = sandbox.lorchestra(&["runs", "list", "--config", "/nowhere.toml"]).exits(78);
    assert!(missing.err().starts_with("error: /nowhere.toml does not exist\n"), "{}", missing.shown());
    sandbox.lorchestra(&["--config", "other.toml", "run-job", "misbehave", "noop"]).exits(78);
    // Works even if nothing can be read.
    sandbox.configure("= =");
    let keys = sandbox.lorchestra(&["config", "keys"]).exits(0);
    assert!(keys.out().contains("retention.logs") && keys.out().contains("expect_every"), "{}", keys.shown());
}
