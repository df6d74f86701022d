//! Secrets: where they are found, the errors if they are missing, and that nothing lorchestra captures contains them.

use lorchestra_tests::{Ended, Fixture, Sandbox};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// With characters that JSON and terminals write differently.
const TOKEN: &str = "xoxb-\"quo\\ted\"-ü-4711";

fn kit() -> Sandbox {
    Sandbox::with(&[Fixture::Kit])
}

fn put(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The length of the secret that `kit/optional_secret` received.
#[track_caller]
fn length(sandbox: &Sandbox, environment: &[(&str, &str)], flags: &[&str]) -> Option<u64> {
    let args: Vec<&str> = ["run-job", "kit", "optional_secret"].iter().chain(flags).copied().collect();
    sandbox.lorchestra_with(environment, &args).exits(0);
    let events = sandbox.whole_events_of(&sandbox.runs()[0]);
    events.iter().find(|event| event.event_type() == "secret").expect("it said so").payload()["length"].as_u64()
}

#[test]
fn a_secret_is_found_at_its_source() {
    let sandbox = kit();
    let file = sandbox.path("token");
    put(&file, "0123456789\n", 0o600);
    let credentials = sandbox.path("credentials");
    fs::create_dir(&credentials).unwrap();
    put(&credentials.join("kit.api_token"), "0123456", 0o400);
    put(&credentials.join("other"), "01234567\r\n", 0o400);
    let dir = credentials.display().to_string();
    let of_file = format!("file:{}", file.display());
    let usual = ("LORCHESTRA_SECRET_KIT_API_TOKEN", "012345678901");

    assert_eq!(length(&sandbox, &[], &[]), None);
    assert_eq!(length(&sandbox, &[("A", "012345678")], &["--api-token", "env:A"]), Some(9));
    assert_eq!(length(&sandbox, &[], &["--api-token", &of_file]), Some(10), "without the newline at its end");
    assert_eq!(length(&sandbox, &[], &["--param", &format!("api_token={of_file}")]), Some(10));
    assert_eq!(length(&sandbox, &[("CREDENTIALS_DIRECTORY", &dir)], &["--api-token", "credential:other"]), Some(8));
    assert_eq!(length(&sandbox, &[usual], &[]), Some(12));
    assert_eq!(length(&sandbox, &[usual, ("CREDENTIALS_DIRECTORY", &dir)], &[]), Some(7), "the unit's credential comes first");
    sandbox.configure(&format!("[job.\"kit/optional_secret\".secrets]\napi_token = \"{of_file}\"\n"));
    assert_eq!(length(&sandbox, &[usual], &[]), Some(10), "the configuration takes precedence over the defaults");
    assert_eq!(length(&sandbox, &[("A", "012345678")], &["--api-token", "env:A"]), Some(9), "and a flag over the configuration");
}

#[test]
fn a_missing_secret_is_reported_before_anything_starts() {
    let sandbox = kit();
    let path = |name: &str| format!("file:{}", sandbox.arg(name));
    put(&sandbox.path("open"), "0123456789", 0o644);
    put(&sandbox.path("short"), "12345", 0o600);
    put(&sandbox.path("empty"), "\n", 0o600);
    put(&sandbox.path("long"), &"x".repeat((64 << 10) + 1), 0o600);
    fs::write(sandbox.path("bytes"), b"\xff\xfe0123456789").unwrap();
    fs::set_permissions(sandbox.path("bytes"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(sandbox.path("dir")).unwrap();
    let mut said = String::new();
    for source in [
        "env:NOT_SET".to_owned(),
        path("nowhere"),
        path("open"),
        path("short"),
        path("empty"),
        path("long"),
        path("bytes"),
        path("dir"),
        "credential:token".to_owned(),
        "credential:../shadow".to_owned(),
        "hunter22".to_owned(),
    ] {
        let ended = sandbox.lorchestra(&["run-job", "kit", "leak", "--way", "print", "--token", &source]).exits(2);
        assert!(!ended.err().contains("hunter22"), "{}", ended.shown());
        said.push_str(&format!("== {}\n{}", source.replace(&sandbox.arg(""), "[ROOT]/"), ended.snapshot(&sandbox)));
    }
    let ended = sandbox.lorchestra(&["run-job", "kit", "leak", "--way", "print"]).exits(2);
    said.push_str(&format!("== (none)\n{}", ended.snapshot(&sandbox)));
    insta::assert_snapshot!("not_there", said);
    assert!(sandbox.runs().is_empty());
}

#[test]
fn a_path_in_config_is_relative_to_its_directory_or_home() {
    let sandbox = kit();
    let config = sandbox.home().join(".config/lorchestra");
    fs::create_dir_all(config.join("secrets")).unwrap();
    put(&config.join("secrets/token"), "0123456", 0o600);
    put(&sandbox.home().join("token"), "01234567", 0o600);
    put(&sandbox.path("absolute"), "012345678", 0o600);
    let absolute = format!("file:{}", sandbox.arg("absolute"));
    for (source, found) in [("file:secrets/token", 7), ("file:./secrets/token", 7), ("file:~/token", 8), (&*absolute, 9)] {
        sandbox.configure(&format!("[job.\"kit/optional_secret\".secrets]\napi_token = \"{source}\"\n"));
        assert_eq!(length(&sandbox, &[], &[]), Some(found), "{source}");
    }
    // A plan contains sources, not secrets.
    sandbox.configure("[job.\"kit/optional_secret\".secrets]\napi_token = \"file:secrets/token\"\n");
    let dry = sandbox.lorchestra(&["run-job", "--dry-run", "kit", "optional_secret"]).exits(0);
    let place = format!("(secret from file:{})", config.join("secrets/token").display());
    assert!(dry.out().contains(&place), "{}", dry.shown());
    // A typed path is relative to the working directory; no shell expands ~ after `file:`.
    assert_eq!(length(&sandbox, &[], &["--api-token", "file:~/token"]), Some(8));
    let mut command = sandbox.command(&["run-job", "kit", "optional_secret", "--api-token", "file:token"]);
    let ended = lorchestra_tests::Running::start({
        command.current_dir(sandbox.home());
        command
    });
    ended.wait().exits(0);
    let events = sandbox.whole_events_of(&sandbox.runs()[0]);
    assert!(events.iter().any(|event| event.payload()["length"] == 8));
}

/// Names the file and the key, because no flag was typed.
#[test]
fn errors_in_config_are_reported_as_such() {
    let sandbox = kit();
    put(&sandbox.home().join("open"), "0123456789", 0o644);
    put(&sandbox.home().join("short"), "12345", 0o600);
    let mut said = String::new();
    for line in [
        "token = \"env:NOT_SET\"",
        "token = \"file:nowhere\"",
        "token = \"file:~/open\"",
        "token = \"file:~/short\"",
        "token = \"credential:token\"",
        "token = \"hunter22\"",
        "tokn = \"env:A\"",
    ] {
        sandbox.configure(&format!("[job.\"kit/leak\".secrets]\n{line}\n"));
        let ended = sandbox.lorchestra(&["run-job", "kit", "leak", "--way", "print"]).exits(78);
        assert!(!ended.err().contains("hunter22"), "{}", ended.shown());
        said.push_str(&format!("== {}\n{}", line.replace("hunter22", "(a secret)"), ended.snapshot(&sandbox)));
    }
    insta::assert_snapshot!("wrong_in_config", said);
    // A flag overrides a source that is missing, but not an invalid configuration.
    let with_flag = |code| {
        let args = ["run-job", "--dry-run", "kit", "leak", "--way", "print", "--token", "env:A"];
        sandbox.lorchestra_with(&[("A", TOKEN)], &args).exits(code);
    };
    sandbox.configure("[job.\"kit/leak\".secrets]\ntoken = \"env:NOT_SET\"\n");
    with_flag(0);
    sandbox.configure("[job.\"kit/leak\".secrets]\ntokn = \"env:A\"\n");
    with_flag(78);
    assert!(sandbox.runs().is_empty());
}

#[test]
fn a_plan_shows_the_source_and_not_the_secret() {
    let sandbox = kit();
    let args = ["run-job", "--dry-run", "kit", "leak", "--way", "print", "--token", "env:A"];
    let ended = sandbox.lorchestra_with(&[("A", TOKEN)], &args).exits(0);
    assert!(ended.out().contains("  token = (secret from env:A)\n") && !ended.out().contains("4711"), "{}", ended.shown());
    let missing = sandbox.lorchestra(&args).exits(2);
    assert!(missing.err().contains("the environment variable A is not set"), "{}", missing.shown());
}

/// Every file that lorchestra keeps, and all its output.
#[track_caller]
fn nothing_has_it(sandbox: &Sandbox, ended: &Ended, secrets: &[&str]) {
    fn walk(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            if entry.path().is_dir() { walk(&entry.path(), files) } else { files.push(entry.path()) }
        }
    }
    let mut files = Vec::new();
    walk(&sandbox.home(), &mut files);
    assert!(files.iter().any(|file| file.ends_with("lorchestra.db")));
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    for secret in secrets {
        assert!(!has(&ended.stdout, secret) && !has(&ended.stderr, secret), "{secret}: {}", ended.shown());
        for file in files.iter().filter(|file| file.extension().is_none_or(|extension| extension != "so")) {
            assert!(!has(&fs::read(file).unwrap(), secret), "{secret} is in {}", file.display());
        }
    }
}

#[test]
fn a_secret_is_masked_everywhere() {
    let json = serde_json::to_string(TOKEN).unwrap();
    for way in ["print", "pieces", "begin", "emit", "fields", "error", "panic", "trace"] {
        let sandbox = kit();
        let code = if matches!(way, "error" | "panic") { 1 } else { 0 };
        let ended =
            sandbox.lorchestra_with(&[("A", TOKEN)], &["run-job", "kit", "leak", "--way", way, "--token", "env:A"]).exits(code);
        let run = sandbox.run();
        let logs = sandbox.lorchestra(&["runs", "logs", run.id()]).exits(0);
        let trace = sandbox.lorchestra(&["runs", "logs", "--trace", run.id()]).exits(0);
        let events = format!("{:?}", sandbox.whole_events_of(&run));
        let said = format!("{}\n{}\n{}\n{events}\n{}", ended.shown(), logs.out(), trace.out(), run.message());
        match way {
            "print" => assert_eq!(logs.out(), "the token is ***, and *** and Secret(***)\n"),
            "pieces" => assert_eq!(logs.out(), "<***|***>"),
            // A text that only might become a secret is the job's own.
            "begin" => assert_eq!(logs.out(), format!("ends with {}", &TOKEN[..TOKEN.len() - 1])),
            "error" => assert!(run.message().contains("401 for token ***"), "{said}"),
            "panic" => assert!(run.message().contains("no luck with ***") && logs.out().contains("no luck with ***"), "{said}"),
            "trace" => assert!(trace.out().contains("tried ***") && trace.out().contains(r#""token":"***""#), "{said}"),
            "emit" => assert!(events.contains("x***y") && events.contains(r#""***": Number(1)"#), "{said}"),
            _ => assert!(events.matches("type-***").count() == 3 && events.contains("c-***"), "{said}"),
        }
        nothing_has_it(&sandbox, &ended, &[TOKEN, &json[1..json.len() - 1]]);
    }
}

#[test]
fn a_key_of_several_lines_is_masked_line_by_line() {
    let sandbox = kit();
    let key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----\n";
    put(&sandbox.path("key"), key, 0o600);
    let source = format!("file:{}", sandbox.arg("key"));
    let ended = sandbox.lorchestra(&["run-job", "kit", "leak", "--way", "lines", "--token", &source]).exits(0);
    let logs = sandbox.lorchestra(&["runs", "logs", sandbox.run().id()]).exits(0);
    assert_eq!(logs.out(), "line: ***\n".repeat(4));
    fs::remove_file(sandbox.path("key")).unwrap();
    nothing_has_it(&sandbox, &ended, &key.lines().collect::<Vec<_>>());
}

/// Other users may read a process's arguments, and its title.
#[test]
fn a_secret_is_in_no_argument() {
    let sandbox = kit();
    let marker = sandbox.arg("go");
    let mut command = sandbox.command(&["run-job", "kit", "advance", "--marker", &marker]);
    let running = lorchestra_tests::Running::start({
        command.env("LORCHESTRA_SECRET_KIT_TOKEN", TOKEN);
        command
    });
    lorchestra_tests::eventually("the job has its secret", || {
        sandbox.lorchestra(&["events", "list", "--type", "begun"]).out().contains("begun")
    });
    let line = |pid: u32| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap()).into_owned();
    let workers: Vec<String> = running.children().into_iter().map(line).collect();
    assert!(workers.len() == 1 && workers[0].contains("kit/advance") && !workers[0].contains("4711"), "{workers:?}");
    fs::write(sandbox.path("go"), "").unwrap();
    running.wait().exits(0);
}
