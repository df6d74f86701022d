//! `config.toml`: job parameters, and messages about mistakes in the terms of the file. Printed values can be used as input.

use lorchestra_tests::{Fixture, Sandbox};
use std::fs;
use std::path::Path;

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Misbehave, Fixture::Kit])
}

#[test]
fn parameters_are_configured_and_a_flag_wins() {
    let sandbox = sandbox();
    sandbox.configure("[job.\"misbehave/numbered\".params]\ncount = 3\naccount = \"anna\"\n");
    let params = |flags: &[&str]| {
        sandbox.lorchestra(&[&["run-job", "misbehave", "numbered"], flags].concat()).exits(0);
        let shown = sandbox.lorchestra(&["runs", "show", "last", "--json"]).exits(0).json("lorchestra.runs-show/1");
        (shown["spec"]["params"]["count"].as_u64().unwrap(), shown["account"].as_str().map(str::to_owned))
    };
    assert_eq!(params(&[]), (3, Some("anna".into())));
    assert_eq!(params(&["--count", "5"]), (5, Some("anna".into())));
    assert_eq!(params(&["--param", "account=bert"]), (3, Some("bert".into())));
    for (config, what, hint) in [
        ("cuont = 3", "has no such parameter", "did you mean count?"),
        ("count = \"many\"", "config.toml: params.count =", "--help"),
        ("count = { n = 3 }", "is a table", "write a string"),
    ] {
        sandbox.configure(&format!("[job.\"misbehave/numbered\".params]\n{config}\n"));
        let refused = sandbox.lorchestra(&["run-job", "misbehave", "numbered"]);
        assert_eq!(refused.code(), Some(78), "{}", refused.shown());
        assert!(refused.err().contains(what) && refused.err().contains(hint), "{}", refused.shown());
        let run = sandbox.all_runs().remove(0);
        assert_eq!((run.state(), run.cause()), ("refused", "config"), "{config}");
        assert!(sandbox.lorchestra(&["doctor"]).out().contains(what), "{config}");
    }
    sandbox.configure("[job.\"kit/optional_secret\".params]\napi_token = \"hunter22\"\n");
    let refused = sandbox.lorchestra(&["run-job", "kit", "optional_secret"]).exits(78);
    assert!(refused.err().contains(".secrets]") && !refused.err().contains("hunter22"), "{}", refused.shown());
}

#[test]
fn a_mistake_is_described_with_the_names_used_in_the_file() {
    let sandbox = sandbox();
    for (config, what) in [
        ("retention = \"30d\"", "line 1: retention is string \"30d\", but must be a table: [name], with keys below it"),
        ("[retention]\nlogs = \"soon\"", "line 2: logs is not a duration; write numbers with the units"),
        ("locked = \"yes\"", "line 1: locked is string \"yes\", but must be true or false"),
        ("lokced = true", "unknown key `lokced`"),
    ] {
        sandbox.configure(config);
        let refused = sandbox.lorchestra(&["jobs", "list"]).exits(78);
        assert!(refused.err().contains(what), "{config}: {}", refused.shown());
        assert!(!refused.err().contains("docs/") && !refused.err().contains("struct"), "{}", refused.shown());
    }
}

/// An operator reads the history to find out what the mistake has stopped.
#[test]
fn a_mistake_does_not_hide_the_history() {
    let sandbox = sandbox();
    let state = sandbox.arg("state");
    let configured = format!("state_dir = {state:?}\n");
    sandbox.configure(&configured);
    sandbox.lorchestra(&["run-job", "misbehave", "print"]).exits(0);
    sandbox.configure(&format!("{configured}[retention]\nlogs = \"soon\"\n"));
    sandbox.lorchestra(&["run-job", "misbehave", "print"]).exits(78);
    let exported = sandbox.arg("events.jsonl");
    let reads: [(&[&str], i32, &str); 12] = [
        (&["runs", "list"], 0, "refused"),
        (&["runs", "show", "misbehave/print"], 0, "state      refused"),
        (&["runs", "logs", "last"], 0, ""),
        (&["events", "list"], 0, "job.refused"),
        (&["events", "export", "--format", "jsonl", "-o", &exported], 0, ""),
        (&["report"], 0, "<html"),
        (&["metrics"], 78, "lorchestra_job_healthy{package=\"misbehave\",job=\"print\",account=\"\"} 0"),
        (&["schedule", "list"], 0, ""),
        (&["status"], 1, "failing"),
        (&["bookmarks", "show"], 0, ""),
        (&["backfill", "list"], 0, ""),
        (&["doctor"], 1, "✗ configuration: "),
    ];
    let mistake = format!("{}: line 3: logs is not a duration", sandbox.home().join(".config/lorchestra/config.toml").display());
    for (args, code, shown) in reads {
        let ended = sandbox.lorchestra(args).exits(code);
        assert!(ended.out().contains(shown), "{}", ended.shown());
        let warned = ended.err().lines().next().is_some_and(|line| {
            line.starts_with("warning: ") && line.contains(&mistake) && line.contains("lorchestra config keys")
        });
        assert!(warned || args == ["doctor"] && ended.out().contains(&mistake), "{}", ended.shown());
    }
    assert!(sandbox.read("events.jsonl").contains("job.refused"), "the export is complete");
    assert!(sandbox.lorchestra(&["doctor"]).out().contains("✓ store: "), "the other checks are made");
    // No run can start, so monitoring must not see a healthy host.
    fs::remove_dir_all(&state).unwrap();
    sandbox.lorchestra(&["status"]).exits(78);
    for args in
        [&["jobs", "list"][..], &["runs", "prune"], &["runs", "prune", "--dry-run"], &["events", "flush"], &["config", "show"]]
    {
        sandbox.lorchestra(args).exits(78);
    }
    // Where the history is cannot be known.
    for wrong in ["state_dir = 7\n", "state_dri = \"/x\"\n", "[retention]\nstate_dir = \"/x\"\n", "state_dir = \"x\"\n"] {
        sandbox.configure(wrong);
        sandbox.lorchestra(&["runs", "list"]).exits(78);
    }
}

/// The file need not even be text, or a file.
#[test]
fn a_file_that_cannot_be_read_does_not_hide_the_history() {
    let sandbox = sandbox();
    let (state, alarm) = (sandbox.arg("state"), sandbox.arg("alarm"));
    sandbox.configure(&format!("state_dir = {state:?}\n"));
    sandbox.lorchestra(&["run-job", "misbehave", "print"]).exits(0);
    let path = sandbox.home().join(".config/lorchestra/config.toml");
    let latin1 = format!("# f\u{fc}r den Betrieb\nstate_dir = {state:?}\non_failure = \"echo ALARM > {alarm}\"\n");
    fs::write(&path, latin1.chars().map(|c| u8::try_from(c).unwrap()).collect::<Vec<u8>>()).unwrap();
    for (args, code, shown) in [
        (&["run-job", "misbehave", "print"][..], 78, ""),
        (&["runs", "list"], 0, "misbehave/print"),
        (&["runs", "show", "last"], 0, "state      refused"),
        (&["status"], 1, "misbehave/print"),
        (&["metrics"], 78, "lorchestra_job_healthy"),
        (&["schedule", "list"], 0, ""),
        (&["doctor"], 1, "✓ store: "),
    ] {
        let ended = sandbox.lorchestra(args).exits(code);
        assert!(ended.out().contains(shown), "{}", ended.shown());
        let text = [ended.err(), ended.out()].concat();
        assert!(text.contains("config.toml: line 1: it is not UTF-8") && text.contains("save the file as UTF-8"), "{text}");
    }
    assert_eq!(sandbox.read("alarm"), "ALARM\n", "on_failure was called for the refused run");
    // Where the file cannot be read, the history is looked for in the default place.
    fs::create_dir_all(sandbox.state().parent().unwrap()).unwrap();
    fs::rename(sandbox.path("state"), sandbox.state()).unwrap();
    fs::write(sandbox.path("large"), vec![b' '; (1 << 20) + 1]).unwrap();
    let kinds: [fn(&Path, &Sandbox); 4] = [
        |path, _| fs::create_dir(path).unwrap(),
        |path, _| std::os::unix::fs::symlink("/nowhere/config.toml", path).unwrap(),
        |path, sandbox| std::os::unix::fs::symlink(sandbox.path("large"), path).unwrap(),
        |path, _| rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR).unwrap(),
    ];
    for make in kinds {
        let _ = fs::remove_dir(&path);
        let _ = fs::remove_file(&path);
        make(&path, &sandbox);
        let listed = sandbox.lorchestra(&["runs", "list"]).exits(0);
        assert!(listed.out().contains("misbehave/print") && listed.err().starts_with("warning: "), "{}", listed.shown());
        let doctor = sandbox.lorchestra(&["doctor"]).exits(1);
        assert!(
            doctor.out().contains("✓ store: ") && doctor.err().contains("destinations were not checked"),
            "{}",
            doctor.shown()
        );
    }
    let listed = sandbox.lorchestra(&["runs", "list"]).exits(0);
    assert!(listed.err().contains(&format!("reads the history in {}", sandbox.state().display())), "{}", listed.shown());
}

/// What does not need the history does not need to know where it is.
#[test]
fn schedules_are_listed_and_doctor_says_what_it_skipped_whatever_the_state_directory_is() {
    let sandbox = sandbox();
    sandbox.configure("state_dir = 7\n");
    let listed = sandbox.lorchestra(&["schedule", "list"]).exits(0);
    assert!(listed.err().contains("state_dir is integer `7`"), "{}", listed.shown());
    let doctor = sandbox.lorchestra(&["doctor"]).exits(1);
    let note = "The host, the history, plugins, secrets and destinations were not checked: fix the configuration first.";
    assert!(doctor.err().contains(note), "{}", doctor.shown());
}

/// A truncated file does not state its package; its file name does.
#[test]
fn a_truncated_library_is_a_plugin_that_cannot_be_used() {
    let sandbox = sandbox();
    let library = sandbox.plugins().join("libmisbehave.so");
    let bytes = fs::read(&library).unwrap();
    fs::write(&library, &bytes[..bytes.len() / 2]).unwrap();
    for args in [&["run-job", "misbehave", "noop"][..], &["jobs", "show", "misbehave", "noop"], &["jobs", "list", "misbehave"]] {
        let refused = sandbox.lorchestra(args).exits(126);
        assert!(refused.err().starts_with("error: package misbehave cannot be used\n"), "{}", refused.shown());
        assert!(refused.err().contains("fix: ") || refused.err().contains("copy"), "{}", refused.shown());
    }
    sandbox.lorchestra(&["run-job", "misbehav", "noop"]).exits(1);
}

#[test]
fn a_printed_duration_is_accepted_as_input() {
    let sandbox = sandbox();
    let plan = |value: &str| {
        let args = ["run-job", "kit", "kinds", "--dry-run", "--json", "--every", value];
        sandbox.lorchestra(&args)
    };
    let (with_unit, bare) = (plan("90s").exits(0), plan("90").exits(0));
    let params = |ended: &lorchestra_tests::Ended| ended.json("lorchestra.run-spec/1")["params"].clone();
    assert_eq!(params(&with_unit)["every"], 90);
    assert_eq!(params(&bare)["every"], 90);
    assert_eq!(params(&plan("1.5").exits(0))["every"], 1.5);
    plan("1.5m").exits(2);
}

/// One line for each key, with the one source of its value.
#[test]
fn each_key_is_shown_with_its_origin() {
    let sandbox = sandbox();
    let files = sandbox.arg("events");
    sandbox.configure(&format!(
        "[destinations.bigquery]\nproject = \"p1\"\ndataset = \"lorchestra\"\ntable = \"events\"\nendpoint = \"http://me:hunter22@proxy\"\n\
         [destinations.jsonl]\ndir = {files:?}\nrotate = \"never\"\n[destinations.openlineage]\nurl = \"http://marquez:5000\"\n\
         [job.\"kit/advance\"]\ntimeout = \"1h\"\nretry_on = [\"error\", \"timeout\"]\nexpect_every = \"1d\"\n\
         ping = \"https://hc-ping.com/hunter22\"\n[job.\"kit/advance\".params]\ntotal = 5\n\
         [job.\"kit/advance\".secrets]\ntoken = \"env:KIT_TOKEN\"\n"
    ));
    let file = sandbox.home().join(".config/lorchestra/config.toml").display().to_string();
    let state = sandbox.arg("state");
    let environment = [
        ("BQ_EVENTS_TABLE", "other"),
        ("GOOGLE_CLOUD_PROJECT", "ambient"),
        ("KIT_TOKEN", "hunter22"),
        ("OPENLINEAGE_API_KEY", "hunter22"),
        ("XDG_STATE_HOME", &*state),
        // Counts as not set.
        ("XDG_DATA_HOME", "relative"),
    ];
    let shown = sandbox.lorchestra_with(&environment, &["config", "show", "--origin"]).exits(0);
    let data = sandbox.home().join(".local/share/lorchestra/data");
    for line in [
        format!("state_dir = {state}/lorchestra  (XDG_STATE_HOME)"),
        format!("data_dir = {}  (default)", data.display()),
        "destinations.bigquery.table = other  (BQ_EVENTS_TABLE)".to_owned(),
        format!("destinations.bigquery.dataset = lorchestra  ({file})"),
        format!("destinations.bigquery.project = p1  ({file})"),
        "destinations.bigquery.location = none  (default)".to_owned(),
        "destinations.bigquery.write = storage-write  (default)".to_owned(),
        format!("destinations.bigquery.endpoint = http://…@proxy  ({file})"),
        format!("destinations.jsonl.dir = {files}  ({file})"),
        "destinations.jsonl.rotate_size = 64M  (default)".to_owned(),
        format!("destinations.jsonl.rotate = never  ({file})"),
        format!("destinations.openlineage.url = http://marquez:5000/api/v1/lineage  ({file})"),
        "destinations.openlineage.namespace = lorchestra  (default)".to_owned(),
        format!("job.\"kit/advance\".timeout = 1h  ({file})"),
        format!("job.\"kit/advance\".retry_on = error, timeout  ({file})"),
        format!("job.\"kit/advance\".expect_every = 1d  ({file})"),
        format!("job.\"kit/advance\".ping = https://hc-ping.com/…  ({file})"),
        format!("job.\"kit/advance\".params.total = 5  ({file})"),
        format!("job.\"kit/advance\".secrets.token = env:KIT_TOKEN  ({file})"),
    ] {
        assert!(shown.out().lines().any(|found| found == line), "{line}: {}", shown.shown());
    }
    assert!(!shown.out().contains("hunter22"), "{}", shown.shown());
    // Events for an emulator: the variable decides address and method.
    sandbox.configure("");
    let environment = [
        ("BQ_EVENTS_DATASET", "d"),
        ("EVENTS_BQ_TABLE", "t"),
        ("BIGQUERY_EMULATOR_HOST", "localhost:9050"),
        ("XDG_STATE_HOME", "x"),
    ];
    let shown = sandbox.lorchestra_with(&environment, &["config", "show", "--origin"]).exits(0);
    for line in [
        format!("state_dir = {}  (default)", sandbox.state().display()),
        "destinations.bigquery.table = t  (EVENTS_BQ_TABLE)".to_owned(),
        "destinations.bigquery.endpoint = localhost:9050  (BIGQUERY_EMULATOR_HOST)".to_owned(),
        "destinations.bigquery.write = insert-all  (BIGQUERY_EMULATOR_HOST)".to_owned(),
    ] {
        assert!(shown.out().lines().any(|found| found == line), "{line}: {}", shown.shown());
    }
}

/// A file given with `--config` has its own lock file next to it.
#[test]
fn the_lock_file_is_next_to_the_configuration_file() {
    let sandbox = sandbox();
    fs::create_dir(sandbox.path("etc")).unwrap();
    fs::write(sandbox.path("etc/other.toml"), "locked = true\n").unwrap();
    let config = sandbox.arg("etc/other.toml");
    let run = ["--config", &config, "run-job", "misbehave", "print"];
    let refused = sandbox.lorchestra(&run).exits(78);
    let lock = sandbox.path("etc/plugins.lock");
    assert!(refused.err().contains(&format!("{} does not exist", lock.display())), "{}", refused.shown());
    // That of the default file does not count.
    sandbox.lorchestra(&["plugins", "lock"]).exits(0);
    assert!(sandbox.home().join(".config/lorchestra/plugins.lock").exists() && !lock.exists());
    sandbox.lorchestra(&run).exits(78);
    sandbox.lorchestra(&["--config", &config, "plugins", "lock"]).exits(0);
    assert!(lock.exists());
    sandbox.lorchestra(&run).exits(0);
}
