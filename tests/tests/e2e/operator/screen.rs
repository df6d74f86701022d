//! What a person sees: every command that only reads works with the network cut and the state directory read-only, also if it is a copy
//! without a WAL; tables fit a terminal of 80 columns and one of 200; no escape sequence with NO_COLOR or on a dumb terminal; the same
//! text in every locale, but for the forms of marks.

use lorchestra_tests::small_disk::SmallDisks;
use lorchestra_tests::terminal::Terminal;
use lorchestra_tests::{Fixture, Running, Sandbox, eventually};
use regex_lite::Regex;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};
use unicode_width::UnicodeWidthStr;

/// Commands that only read, and whether their tables fit the terminal.
const READING: [(&[&str], bool); 18] = [
    (&["status"], true),
    (&["runs", "list"], true),
    (&["runs", "show", "last"], false),
    (&["runs", "logs", "last"], false),
    (&["runs", "prune", "--dry-run", "--older-than", "1d"], true),
    (&["events", "list"], false),
    (&["events", "export", "--format", "csv"], false),
    (&["bookmarks", "show"], true),
    (&["backfill", "list"], true),
    (&["jobs", "list"], true),
    (&["jobs", "show", "misbehave", "typed"], false),
    (&["plugins", "list"], false),
    (&["schedule", "list"], true),
    (&["config", "show"], false),
    (&["doctor"], false),
    (&["metrics"], false),
    (&["report"], false),
    (&["schedule", "print", "misbehave/noop", "--cron"], false),
];

/// Those whose tables also fit 40 columns, with whole names.
const NARROW: [&[&str]; 2] = [&["status"], &["runs", "list"]];

/// A history with a success, a failure and accounts, and a destination that cannot be reached.
fn sandbox() -> (Sandbox, Option<SmallDisks>) {
    let sandbox = Sandbox::with_binary(&[Fixture::Misbehave]);
    sandbox.configure(
        "[destinations.bigquery]\nproject = \"p1\"\ndataset = \"lorchestra\"\ntable = \"events\"\n\
         [job.\"misbehave/print\"]\nexpect_every = \"1d\"\n",
    );
    let disks = SmallDisks::mount(&sandbox, &[(sandbox.state(), 8000)]);
    (sandbox, disks)
}

fn fill(run: &dyn Fn(&[&str], i32)) {
    let args = ["run-job", "-q", "--delivery-timeout", "0s", "misbehave"];
    run(&[&args[..], &["print", "--lines", "3"]].concat(), 0);
    run(&[&args[..], &["numbered", "--account", "anna@a-rather-long-domain.example.org", "--then", "fail"]].concat(), 1);
    run(&[&args[..], &["windowed", "--until", "2024-02-01"]].concat(), 0);
    run(&[&args[..], &["numbered", "--account", "日本語"]].concat(), 0);
}

#[test]
fn reading_needs_neither_the_network_nor_a_writable_state() {
    let (sandbox, Some(disks)) = sandbox() else { return };
    fill(&|args, code| drop(disks.start(&sandbox, args).wait().exits(code)));
    for with_wal in [true, false] {
        if !with_wal {
            disks.remount(&sandbox.state(), "rw");
            // As in a backup: the database alone. SQLite would follow the path into the other namespace, so it gets a copy.
            let store = disks.path(&sandbox.state()).join("lorchestra.db");
            let copy = sandbox.path("copy.db");
            fs::copy(&store, &copy).unwrap();
            fs::copy(store.with_extension("db-wal"), copy.with_extension("db-wal")).unwrap();
            let db = rusqlite::Connection::open(&copy).unwrap();
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            drop(db);
            fs::copy(&copy, &store).unwrap();
            ["db-wal", "db-shm"].iter().for_each(|end| fs::remove_file(store.with_extension(end)).unwrap());
        }
        disks.remount(&sandbox.state(), "ro");
        for (args, _) in READING {
            let begun = Instant::now();
            let cut = disks.command_by(&sandbox, "exec unshare --net \"$0\" \"$@\"", args);
            let ended = Running::start(cut).wait();
            let wanted = if ["status", "doctor"].contains(&args[0]) { 1 } else { 0 };
            let ended = ended.exits(wanted);
            assert!(!ended.err().contains("error:"), "{}", ended.shown());
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}: {}", begun.elapsed(), ended.shown());
        }
        // What it prints is the history.
        let listed = Running::start(disks.command(&sandbox, &["runs", "list", "--json"])).wait().exits(0);
        assert_eq!(listed.json_lines("lorchestra.run/1").len(), 4);
    }
}

/// What follows the output on a terminal.
const END: &str = "end of the output";

/// The output on a terminal of this width.
fn shown(sandbox: &Sandbox, columns: u16, environment: &[(&str, &str)], args: &[&str]) -> String {
    let terminal = Terminal::with_columns(columns);
    let mut command = sandbox.command(args);
    command.env("TERM", "xterm").envs(environment.iter().copied());
    command.stdin(std::process::Stdio::null()).stdout(terminal.stdio()).stderr(terminal.stdio());
    command.status().unwrap();
    // The kernel passes it on a little later, in order.
    assert!(Command::new("echo").arg(END).stdout(terminal.stdio()).status().unwrap().success());
    eventually("all of the output", || terminal.shown().contains(END));
    terminal.shown().replace("\r\n", "\n").split(END).next().unwrap_or_default().to_owned()
}

#[test]
fn screens_fit_and_respect_the_terminal() {
    let (sandbox, _) = sandbox();
    fill(&|args, code| drop(sandbox.lorchestra(args).exits(code)));
    let escape = Regex::new("\x1b\\[[0-9;?]*[A-Za-z]").unwrap();
    let mut coloured = 0;
    for (args, fits) in READING {
        for columns in [80, 200] {
            let text = shown(&sandbox, columns, &[], args);
            let plain = escape.replace_all(&text, "").into_owned();
            assert!(!plain.contains('\x1b') && !plain.trim().is_empty(), "{args:?}: {text:?}");
            coloured += usize::from(plain != text);
            let widest = plain.lines().map(UnicodeWidthStr::width).max().unwrap_or(0);
            assert!(!fits || widest <= usize::from(columns), "{args:?} has {widest} columns of {columns}:\n{plain}");
        }
        if NARROW.contains(&args) {
            let text = shown(&sandbox, 40, &[("NO_COLOR", "1")], args);
            for line in text.lines() {
                assert!(line.width() <= 40, "{args:?}: {line:?} in\n{text}");
            }
            for name in ["misbehave/print", "misbehave/numbered", "misbehave/windowed", "日本語"] {
                assert!(text.contains(name), "{args:?}: {name} in\n{text}");
            }
        }
        for environment in [[("NO_COLOR", "1")], [("TERM", "dumb")]] {
            let text = shown(&sandbox, 80, &environment, args);
            assert!(!text.contains('\x1b'), "{environment:?} {args:?}: {text:?}");
        }
        if !["metrics", "doctor"].contains(&args[0]) {
            let [c, utf8] = ["C", "C.UTF-8"].map(|locale| shown(&sandbox, 80, &[("LC_ALL", locale), ("NO_COLOR", "1")], args));
            // Ages, and the time of a report.
            let time = Regex::new(r"\b\d+(\.\d+)?s\b|\b\d{4}-\d\d-\d\dT[\d:]+Z").unwrap();
            let utf8 = time.replace_all(&utf8, "N").replace("→", "->").replace('–', "-").replace('…', "...");
            let c = time.replace_all(&c, "N").replace('~', "...");
            assert_eq!(c, utf8.replace('~', "..."), "{args:?}");
        }
    }
    assert!(coloured >= 4, "{coloured} screens have colour");
}

/// tmux shows other characters as `_` in a C locale.
#[test]
fn marks_are_ascii_on_a_terminal_without_utf8() {
    let (sandbox, _) = sandbox();
    fill(&|args, code| drop(sandbox.lorchestra(args).exits(code)));
    let run = ["run-job", "--delivery-timeout", "0s", "misbehave", "noop"];
    for locale in [[("LC_ALL", "C"), ("NO_COLOR", "1")], [("LANG", ""), ("NO_COLOR", "1")]] {
        let text = shown(&sandbox, 80, &locale, &run);
        assert!(text.starts_with("ok misbehave/noop completed"), "{locale:?}: {text:?}");
        let text = shown(&sandbox, 80, &locale, &["run-job", "--delivery-timeout", "0s", "misbehave", "fail"]);
        assert!(text.contains("x misbehave/fail failed"), "{locale:?}: {text:?}");
        let text = shown(&sandbox, 80, &locale, &["doctor"]);
        assert!(text.is_ascii() && text.contains("ok store: "), "{locale:?}: {text:?}");
        // An account is not a mark.
        assert!(shown(&sandbox, 80, &locale, &["status"]).contains("日本語"), "{locale:?}");
        let text = shown(&sandbox, 80, &locale, &["run-job", "--help"]);
        assert!(text.is_ascii(), "{locale:?}: {text:?}");
    }
    let text = shown(&sandbox, 80, &[("LANG", "en_US.UTF-8"), ("NO_COLOR", "1")], &run);
    assert!(text.starts_with("✓ misbehave/noop completed"), "{text:?}");
    assert!(sandbox.lorchestra(&run).exits(0).out().starts_with("✓ "), "a pipe has no locale");
}

/// Tables are aligned by the cells of a terminal: three characters of Japanese take six.
#[test]
fn wide_characters_do_not_shift_columns() {
    let (sandbox, _) = sandbox();
    fill(&|args, code| drop(sandbox.lorchestra(args).exits(code)));
    for account in ["日本語", "anna"] {
        let date = "2024-02-03";
        sandbox.lorchestra(&["bookmarks", "set", "misbehave", "windowed", date, "--account", account]).exits(0);
    }
    // Cells before a text that the line of each of these names has.
    let aligned = |args: &[&str], names: [&str; 2], text: &str, code: i32| {
        let table = sandbox.lorchestra(args).exits(code);
        let cells = names.map(|name| {
            let line = table.out().lines().find(|line| line.contains(name)).unwrap_or_default();
            line.rsplit_once(text).map(|(before, _)| before.width())
        });
        assert!(cells[0].is_some() && cells[0] == cells[1], "{args:?}: {cells:?}\n{}", table.out());
    };
    aligned(&["status"], ["日本語", "misbehave/print"], "s  ", 1);
    aligned(&["bookmarks", "show"], ["日本語", "anna"], "2024-02-03", 0);
}
