//! `schedule print` and `schedule list`: what is printed is accepted by systemd and by Kubernetes' schemas, is in the docs, and is found
//! again when it is installed.

use lorchestra_test_setup::systemd;
use lorchestra_tests::{Fixture, Sandbox};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const FLAGS: [&str; 7] = ["--", "--timeout", "2h", "--source", "/srv/mail/takeout.mbox", "--since", "last:-2d"];
/// The destination without which a container cannot deliver events.
const TABLE: [(&str, &str); 2] = [("BQ_EVENTS_DATASET", "lorchestra"), ("BQ_EVENTS_TABLE", "events")];
const PRINT: [&str; 3] = ["schedule", "print", "ingester/extract_gmail"];

fn sandbox() -> Sandbox {
    Sandbox::with(&[Fixture::Ingester, Fixture::Misbehave])
}

fn print(sandbox: &Sandbox, target: &[&str]) -> String {
    let args = [&PRINT, target, &FLAGS].concat();
    sandbox.lorchestra(&args).exits(0).out().to_owned()
}

/// Checks the units of a directory as systemd does.
fn verify(dir: &Path, of_user: bool) -> Result<(), String> {
    let verified = systemd::verify(&lorchestra_tests::built::target(), dir, of_user).unwrap();
    let stderr = String::from_utf8_lossy(&verified.stderr).into_owned();
    let mut ours = stderr.lines().filter(|line| line.contains("lorchestra-") && !line.starts_with("Suspicious symlink"));
    if ours.next().is_none() && verified.status.success() { Ok(()) } else { Err(stderr) }
}

#[test]
fn systemd_accepts_the_units() {
    let sandbox = sandbox();
    for (dir, flags, of_user) in [("user", &["--systemd"][..], true), ("system", &["--systemd", "--system"], false)] {
        let dir = sandbox.arg(dir);
        let args = [&PRINT, flags, &["--dir", &dir], &FLAGS].concat();
        let written = sandbox.lorchestra(&args).exits(0);
        assert!(written.err().contains("daemon-reload") && !written.err().contains("add --dir"), "{}", written.shown());
        let service = fs::read_to_string(format!("{dir}/lorchestra-ingester-extract_gmail.service")).unwrap();
        for line in ["SuccessExitStatus=75", "OnFailure=lorchestra-failed@%n.service", "NoNewPrivileges=yes", "TimeoutStopSec=40"]
        {
            assert!(service.lines().any(|found| found == line), "{line}: {service}");
        }
        let timer = fs::read_to_string(format!("{dir}/lorchestra-ingester-extract_gmail.timer")).unwrap();
        assert!(timer.contains("\nPersistent=yes\n") && timer.contains("\nOnCalendar=*-*-* 03:15:00\n"), "{timer}");
        verify(Path::new(&dir), of_user).unwrap();
        // The same again changes nothing; other files are not overwritten.
        sandbox.lorchestra(&args).exits(0);
        let other = sandbox.lorchestra(&[&PRINT, flags, &["--dir", &dir, "--at", "hourly"], &FLAGS[..]].concat()).exits(1);
        assert!(other.err().contains("exists and differs"), "{}", other.shown());
        // Nor one that is not text, or not a file.
        let timer = Path::new(&dir).join("lorchestra-ingester-extract_gmail.timer");
        fs::write(&timer, b"\xff\xfe not UTF-8").unwrap();
        verify(Path::new(&dir), of_user).unwrap_err();
        let binary = sandbox.lorchestra(&args).exits(1);
        assert!(binary.err().contains("exists and differs"), "{}", binary.shown());
        assert_eq!(fs::read(&timer).unwrap(), b"\xff\xfe not UTF-8");
        fs::remove_file(&timer).unwrap();
        fs::create_dir(&timer).unwrap();
        sandbox.lorchestra(&args).exits(74);
    }
}

/// Arguments with every special character reach the job unchanged.
#[test]
fn a_printed_command_runs_with_the_same_arguments() {
    let sandbox = sandbox();
    let text = "50% of $HOME: \"it's\" \\ done";
    let command = format!("printf %s {} > told", "\"$0\"");
    let file = sandbox.path("told");
    let shell = format!("printf '%s' {} > {}", quote(text), file.display());
    drop(command);
    let print = |target: &str| {
        let args = ["schedule", "print", "misbehave/shell", target, "--", "--command", &shell];
        sandbox.lorchestra(&args).exits(0).out().to_owned()
    };
    // What cron passes to /bin/sh: the line after the five fields, with \% as %.
    let line = print("--cron");
    let line = line.trim().strip_prefix("15 3 * * *  ").unwrap().replace("\\%", "%");
    let status = sandbox.command_by("", &[]).get_envs().fold(Command::new("/bin/sh"), |mut sh, (name, value)| {
        sh.env(name, value.unwrap_or_default());
        sh
    });
    let mut status = status;
    assert!(status.args(["-c", &line]).env("HOME", sandbox.home()).status().unwrap().success(), "{line}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    let unit = print("--systemd");
    let exec = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let word = exec.split_once("--command ").unwrap().1;
    let unquoted = word.trim_matches('"').replace("\\\"", "\"").replace("\\\\", "\\").replace("$$", "$").replace("%%", "%");
    assert_eq!(unquoted, shell);
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[test]
fn kubernetes_accepts_the_cron_job() {
    let sandbox = sandbox();
    let yaml = print(&sandbox, &["--k8s", "--image", "registry.example.org/lorchestra:1"]);
    let target = lorchestra_tests::built::target();
    let venv = lorchestra_test_setup::venv::ensure_formats(&target).unwrap();
    let file = sandbox.path("cronjob.yaml");
    fs::write(&file, &yaml).unwrap();
    let validate = |file: &Path| {
        let mut command = Command::new(venv.join("bin/kubernetes-validate"));
        command.args(["--strict", "-k", "1.34.1"]).arg(file).output().unwrap()
    };
    let valid = validate(&file);
    assert!(valid.status.success(), "{}{}", String::from_utf8_lossy(&valid.stdout), String::from_utf8_lossy(&valid.stderr));
    fs::write(&file, yaml.replace(", status: \"True\"", "")).unwrap();
    assert!(!validate(&file).status.success(), "the validator misses a condition without a status");
    for line in ["concurrencyPolicy: Forbid", "backoffLimit: 0", "values: [2, 78, 126]", "terminationGracePeriodSeconds: 40"] {
        assert!(yaml.contains(line), "{line}: {yaml}");
    }
}

fn plan(sandbox: &Sandbox, to: &str) -> String {
    let plan = sandbox.arg("plan.jsonl");
    let args = ["backfill", "misbehave", "windowed", "--from", "2024-01-01", "--to", to, "--every", "1d", "--plan", &plan];
    sandbox.lorchestra(&args).exits(0);
    plan
}

/// The windows of a plan as an Indexed Job: with the plan in a ConfigMap, and with a plan that is too large for one.
#[test]
fn kubernetes_accepts_the_windows_of_a_plan() {
    let sandbox = sandbox();
    let target = lorchestra_tests::built::target();
    let venv = lorchestra_test_setup::venv::ensure_formats(&target).unwrap();
    for (to, days, has_plan) in [("2024-12-31", 365, true), ("2028-01-01", 1461, false)] {
        let plan = plan(&sandbox, to);
        let flags =
            ["--image", "registry.example.org/lorchestra:1", "-j", "20", "--service-account", "w@p.iam.gserviceaccount.com"];
        let exported = sandbox.lorchestra_with(&TABLE, &[&["export", &plan, "--k8s"][..], &flags].concat()).exits(0);
        let yaml = exported.out();
        assert_eq!(yaml.contains("kind: ConfigMap"), has_plan);
        assert_eq!(exported.err().contains("Copy the plan there"), !has_plan, "{}", exported.err());
        let documents: Vec<&str> = yaml.split("\n---\n").collect();
        assert_eq!(documents.len(), if has_plan { 3 } else { 2 });
        for (n, document) in documents.iter().enumerate() {
            let file = sandbox.path(&format!("{n}.yaml"));
            fs::write(&file, document).unwrap();
            let mut validate = Command::new(venv.join("bin/kubernetes-validate"));
            let valid = validate.args(["--strict", "-k", "1.34.1"]).arg(&file).output().unwrap();
            assert!(
                valid.status.success(),
                "{}{}",
                String::from_utf8_lossy(&valid.stdout),
                String::from_utf8_lossy(&valid.stderr)
            );
        }
        for line in [
            "completionMode: Indexed",
            &format!("completions: {days}"),
            "parallelism: 20",
            "values: [2, 78, 126]",
            "action: FailIndex",
            r#""--index-from","JOB_COMPLETION_INDEX","--attempt-from","POD_NAME""#,
            "iam.gke.io/gcp-service-account",
        ] {
            assert!(yaml.contains(line), "{line}: {yaml}");
        }
    }
}

/// The printed arguments run a window, with the variables that the platform sets.
#[test]
fn the_exported_arguments_run_a_window() {
    let sandbox = sandbox();
    let plan = plan(&sandbox, "2024-01-03");
    let shared = sandbox.arg("shared");
    let flags = ["--image", "lorchestra:1", "--cloud-run", "--nfs", "10.0.0.2:/x"];
    let yaml = sandbox.lorchestra_with(&TABLE, &[&["export", &plan][..], &flags].concat()).exits(0);
    let args = yaml.out().lines().find_map(|line| line.trim().strip_prefix("args: ")).unwrap();
    let args: Vec<String> = serde_json::from_str(args).unwrap();
    let group = args[5].split('/').nth(2).unwrap().to_owned();
    fs::create_dir_all(format!("{shared}/{group}")).unwrap();
    fs::copy(&plan, format!("{shared}/{group}/plan.jsonl")).unwrap();
    let args: Vec<String> = args.iter().map(|word| word.replace("/shared", &shared)).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--no-require-delivery"]).collect();
    let task = [("CLOUD_RUN_TASK_INDEX", "1"), ("CLOUD_RUN_EXECUTION", "lorchestra-x7"), ("CLOUD_RUN_TASK_ATTEMPT", "0")];
    sandbox.lorchestra_with(&task, &args).exits(0);
    assert_eq!(sandbox.run().0["since"], "2024-01-02T00:00:00.000000Z");
    assert!(Path::new(&format!("{shared}/{group}/1")).exists());
    let missing = sandbox.lorchestra(&args).exits(2);
    assert!(missing.err().contains("CLOUD_RUN_TASK_INDEX: the variable is not set"), "{}", missing.shown());
}

/// There is no schema of Cloud Run that works offline: the structure is checked against its documentation.
#[test]
fn a_cloud_run_job_requires_delivery_and_one_task() {
    let args = [&PRINT, &["--cloud-run", "--image", "europe-docker.pkg.dev/p/r/lorchestra:1"][..], &FLAGS].concat();
    let printed = sandbox().lorchestra_with(&TABLE, &args).exits(0);
    let yaml = printed.out();
    for line in [
        "apiVersion: run.googleapis.com/v1\nkind: Job\n",
        "      parallelism: 1\n      taskCount: 1\n      template:\n        spec:\n",
        "          maxRetries: 0\n          timeoutSeconds: \"7240\"\n",
        r#"args: ["run-job","--require-delivery","-q","--requested-by","schedule","ingester","extract_gmail","--timeout","2h""#,
    ] {
        assert!(yaml.contains(line), "{line}: {yaml}");
    }
}

#[test]
fn credentials_of_a_job_are_loaded() {
    let sandbox = Sandbox::with(&[Fixture::Kit]);
    sandbox.configure("[job.\"kit/advance\".secrets]\ntoken = \"credential:kit-token\"\n");
    let args = ["schedule", "print", "kit/advance", "--systemd", "--", "--marker", "/tmp/marker"];
    let unit = sandbox.lorchestra(&args).exits(0);
    assert!(unit.out().contains("\nLoadCredential=kit-token:%h/.config/credstore/kit-token\n"), "{}", unit.shown());
}

#[test]
fn mistakes_are_reported_before_anything_is_installed() {
    let sandbox = sandbox();
    let cases: [(&[&str], i32, &str); 15] = [
        (&["schedule", "print", "ingester/extract_gmail"], 2, "required"),
        (&["schedule", "print", "ingester/extract_gmial", "--cron"], 1, "extract_gmail"),
        (&["schedule", "print", "extract_gmail", "--cron"], 2, "does not name a job"),
        (&["schedule", "print", "ingester/extract_gmail", "--k8s"], 2, "--image"),
        (&["schedule", "print", "ingester/extract_gmail", "--cron", "--at", "03:15"], 2, "has 1 fields"),
        (&["schedule", "print", "ingester/extract_gmail", "--cron", "--at", "61 3 * * *"], 2, "from 0 to 59"),
        (
            &["schedule", "print", "ingester/extract_gmail", "--cron", "--system"],
            2,
            "--system has no effect with --cron: it is for --systemd",
        ),
        (
            &["schedule", "print", "ingester/extract_gmail", "--k8s", "--image", "x", "--system"],
            2,
            "--system has no effect with --k8s",
        ),
        (
            &["schedule", "print", "ingester/extract_gmail", "--cron", "--image", "x"],
            2,
            "--image has no effect with --cron: it is for --k8s",
        ),
        (&["schedule", "print", "ingester/extract_gmail", "--systemd", "--image", "x"], 2, "omit --image"),
        (&["schedule", "print", "ingester/extract_gmail", "--cron", "--dir", "x"], 2, "--dir"),
        (&["schedule", "print", "ingester/extract_gmail", "--cron", "--", "--source", "takeout.mbox"], 2, "is a relative path"),
        (&["schedule", "print", "ingester/extract_gmail", "--systemd", "--at", "15 3 * * *"], 2, "'*-*-* 03:15:00'"),
        (&["schedule", "print", "ingester/extract_gmail", "--cron", "--", "--sauce", "/x"], 2, "--sauce"),
        (&["schedule", "print", "ingester/extract_gmail", "--cron", "--", "--source", "/x", "--since", "soon"], 2, "soon"),
    ];
    for (args, code, part) in cases {
        let refused = sandbox.lorchestra(args).exits(code);
        assert!(refused.err().contains(part) && refused.out().is_empty(), "{}", refused.shown());
    }
    // If systemd is not installed, the unit is for another machine.
    let args = ["schedule", "print", "ingester/extract_gmail", "--systemd", "--at", "garbage"];
    if std::process::Command::new("systemd-analyze").arg("--version").output().is_ok() {
        let refused = sandbox.lorchestra(&args).exits(2);
        assert!(refused.err().contains("is not a time that systemd reads"), "{}", refused.shown());
    }
    let path = sandbox.arg("no-programs");
    sandbox.lorchestra_with(&[("PATH", &path)], &[&args[..], &["--", "--source", "/x"]].concat()).exits(0);
}

#[test]
fn what_is_installed_is_listed_with_its_problems() {
    let sandbox = sandbox();
    let none = sandbox.lorchestra(&["schedule", "list"]).exits(0);
    assert!(none.err().starts_with("Nothing on this machine runs a job"), "{}", none.shown());

    let dir = sandbox.home().join(".config/systemd/user");
    let args = [&PRINT, &["--systemd", "--dir", dir.to_str().unwrap()][..], &FLAGS].concat();
    sandbox.lorchestra(&args).exits(0);
    // A cron of which only `crontab -l` exists.
    let bin = sandbox.path("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("crontab"), "#!/bin/sh\ncat \"$HOME/crontab\"\n").unwrap();
    fs::set_permissions(bin.join("crontab"), fs::Permissions::from_mode(0o755)).unwrap();
    let line = print(&sandbox, &["--cron"]);
    let gone = "# a comment\nMAILTO=ops\n@daily /opt/gone/lorchestra run-job --retries 3 nobody nothing\n0 5 * * * lorchestra run-job misbehave noop\n";
    fs::write(sandbox.home().join("crontab"), format!("{gone}{line}")).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let listed = sandbox.lorchestra_with(&[("PATH", &path)], &["schedule", "list", "--json"]).exits(0);
    let entries = listed.json_lines("lorchestra.schedule/1");
    let found: Vec<(&str, &str, &str, usize)> = entries
        .iter()
        .map(|e| {
            let text = |key: &str| e[key].as_str().unwrap();
            (text("kind"), text("when"), text("job"), e["problems"].as_array().unwrap().len())
        })
        .collect();
    let expected = [
        ("systemd", "*-*-* 03:15:00", "extract_gmail", 1),
        ("cron", "@daily", "nothing", 2),
        ("cron", "0 5 * * *", "noop", 1),
        ("cron", "15 3 * * *", "extract_gmail", 0),
    ];
    assert_eq!(found, expected, "{}", listed.shown());
    assert!(
        entries[0]["problems"][0]
            .as_str()
            .unwrap()
            .contains("systemctl --user enable --now lorchestra-ingester-extract_gmail.timer")
    );
    let wants = dir.join("timers.target.wants");
    fs::create_dir(&wants).unwrap();
    let timer = "lorchestra-ingester-extract_gmail.timer";
    std::os::unix::fs::symlink(dir.join(timer), wants.join(timer)).unwrap();
    let shown = sandbox.lorchestra_with(&[("PATH", &path)], &["schedule", "list"]).exits(0);
    assert!(
        !shown.out().contains("not enabled") && shown.out().contains("/opt/gone/lorchestra does not exist"),
        "{}",
        shown.shown()
    );
    // What is installed does not depend on plugins that may run.
    sandbox.configure("locked = true\n");
    let unread = sandbox.lorchestra_with(&[("PATH", &path)], &["schedule", "list"]).exits(0);
    assert!(unread.out().contains("misbehave/noop") && unread.out().contains("/opt/gone"), "{}", unread.shown());
    assert!(unread.err().contains("warning: whether these jobs can run is not known: ") && unread.err().contains("plugins.lock"));
}

/// However a line is written: it is listed if it runs a job, and with the time at which it does.
#[test]
fn every_installed_command_that_runs_jobs_is_listed() {
    let sandbox = sandbox();
    let binary = lorchestra_tests::built::lorchestra().display().to_string();
    let dir = sandbox.home().join(".config/systemd/user");
    fs::create_dir_all(&dir).unwrap();
    let group = sandbox.arg("group.toml");
    let spec = sandbox.lorchestra(&["run-job", "misbehave", "noop", "--dry-run", "--json"]).exits(0);
    fs::write(sandbox.path("spec.json"), spec.out()).unwrap();
    fs::write(
        dir.join("night.service"),
        format!("[Service]\nExecStart=-{binary} run-job -q misbehave/noop\nExecStart=@{binary} me run-job misbehave print\n"),
    )
    .unwrap();
    fs::write(dir.join("often.timer"), "[Timer]\nUnit=night.service\nOnBootSec=5min\nOnUnitActiveSec=1h\n").unwrap();
    let bin = sandbox.path("bin");
    fs::create_dir(&bin).unwrap();
    let crontab = |script: &str| {
        fs::write(bin.join("crontab"), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(bin.join("crontab"), fs::Permissions::from_mode(0o755)).unwrap();
    };
    crontab("cat \"$HOME/crontab\"");
    let lines = format!(
        "1 * * * * {binary} run-job misbehave/noop >> /tmp/x 2>&1; {binary} run-job misbehave print && true\n\
         2 * * * * {binary} run-group {group}\n\
         3 * * * * {binary} run-job --spec {}\n\
         4 * * * * flock /tmp/l -c '{binary} backfill misbehave/windowed --from 2024-01-01 --every 1d'\n",
        sandbox.arg("spec.json")
    );
    fs::write(sandbox.home().join("crontab"), lines).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let list = |args: &[&str]| sandbox.lorchestra_with(&[("PATH", &path)], &[&["schedule", "list"], args].concat()).exits(0);
    let listed = list(&["--json"]);
    let entries = listed.json_lines("lorchestra.schedule/1");
    let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap_or("-").to_owned();
    let found: Vec<[String; 3]> = entries.iter().map(|entry| ["when", "command", "job"].map(|key| text(entry, key))).collect();
    let often = "OnBootSec=5min, OnUnitActiveSec=1h";
    assert_eq!(
        found,
        [
            [often, "run-job", "noop"],
            [often, "run-job", "print"],
            ["1 * * * *", "run-job", "noop"],
            ["1 * * * *", "run-job", "print"],
            ["2 * * * *", "run-group", "-"],
            ["3 * * * *", "run-job", "noop"],
            ["4 * * * *", "backfill", "windowed"],
        ],
        "{}",
        listed.shown()
    );
    assert_eq!(entries[4]["problems"][0], format!("{group} does not exist"));
    let shown = list(&[]);
    assert!(
        shown.out().contains("  run-group /") && shown.out().contains("  backfill misbehave/windowed  "),
        "{}",
        shown.shown()
    );
    // A crontab that cannot be read is not an empty one.
    crontab("echo 'crontab: you are not allowed to use this program' >&2; exit 1");
    assert!(list(&[]).err().contains("crontab -l failed: crontab: you are not allowed"));
    crontab("echo 'no crontab for anna' >&2; exit 1");
    assert_eq!(list(&[]).err(), "");
}

/// A scheduler starts a command without the variables of a shell.
#[test]
fn variables_that_change_the_settings_become_part_of_the_schedule() {
    let sandbox = sandbox();
    let (state, plugins) = (sandbox.arg("my lorchestra"), sandbox.arg("more"));
    let environment = [
        ("XDG_STATE_HOME", &*state),
        ("LORCHESTRA_PLUGIN_PATH", "more"),
        ("BQ_EVENTS_PROJECT", "50%"),
        ("HTTPS_PROXY", "http://anna:secret@proxy"),
    ];
    let print = |target: &[&str]| {
        let printed = sandbox.lorchestra_with(&environment, &[&PRINT, target, &FLAGS].concat()).exits(0);
        assert!(printed.err().contains("HTTPS_PROXY is left out") && !printed.out().contains("secret"), "{}", printed.shown());
        printed
    };
    let unit = print(&["--systemd"]);
    for line in [
        format!("Environment=\"XDG_STATE_HOME={state}\""),
        format!("Environment=LORCHESTRA_PLUGIN_PATH={plugins}"),
        "Environment=BQ_EVENTS_PROJECT=50%%".to_owned(),
    ] {
        assert!(unit.out().lines().any(|found| found == line), "{line}: {}", unit.shown());
    }
    let line = print(&["--cron"]);
    let expected = format!("15 3 * * *  XDG_STATE_HOME='{state}' LORCHESTRA_PLUGIN_PATH={plugins} BQ_EVENTS_PROJECT='50\\%' /");
    assert!(line.out().starts_with(&expected), "{expected}: {}", line.shown());
    let yaml = print(&["--k8s", "--image", "lorchestra:1"]);
    assert!(yaml.out().contains("- name: BQ_EVENTS_PROJECT\n                  value: \"50%\"\n"), "{}", yaml.shown());
    assert!(!yaml.out().contains("XDG_STATE_HOME"), "{}", yaml.shown());
    assert!(yaml.err().contains("paths are of this machine: XDG_STATE_HOME, LORCHESTRA_PLUGIN_PATH"), "{}", yaml.shown());
    // The line is found again, although the value of a variable ends in the name of the binary.
    let bin = sandbox.path("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("crontab"), "#!/bin/sh\ncat \"$HOME/crontab\"\n").unwrap();
    fs::set_permissions(bin.join("crontab"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(sandbox.home().join("crontab"), line.out()).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let listed = sandbox.lorchestra_with(&[("PATH", &path)], &["schedule", "list", "--json"]).exits(0);
    assert_eq!(listed.json_lines("lorchestra.schedule/1")[0]["problems"].as_array().unwrap().len(), 0, "{}", listed.shown());
}

/// The pages show what the command prints.
#[test]
fn the_units_in_the_guide_are_the_output_of_the_command() {
    let sandbox = sandbox();
    let page = fs::read_to_string(lorchestra_tests::built::workspace().join("docs/guides/scheduling.md")).unwrap();
    let binary = lorchestra_tests::built::lorchestra();
    for (target, fence) in [(&["--cron"][..], "cron"), (&["--systemd"], "ini")] {
        let printed = print(&sandbox, target).replace(binary.to_str().unwrap(), "/home/anna/.cargo/bin/lorchestra");
        assert!(page.contains(&format!("```{fence}\n{printed}```")), "docs/guides/scheduling.md is not up to date:\n{printed}");
    }
}
