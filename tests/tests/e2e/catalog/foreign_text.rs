//! Commands show texts from libraries, which anyone may have written: no invisible character, and none that controls a terminal, is
//! printed, and each text is limited to one line unless the user asked for all of it.

use lorchestra_tests::corrupt::rewritten;
use lorchestra_tests::{Ended, Fixture, Sandbox};
use serde_json::{Value, json};
use std::fs;
use unicode_general_category::GeneralCategory::{
    Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, Surrogate, Unassigned,
};
use unicode_general_category::get_general_category;

/// Uses a different implementation of the Unicode database than the code under test. It may be of a newer version, with more assigned
/// characters below the empty planes.
fn is_invisible(c: char) -> bool {
    if get_general_category(c) == Unassigned && c < '\u{40000}' {
        return matches!(u32::from(c) & 0xfffe, 0xfffe) || ('\u{fdd0}'..='\u{fdef}').contains(&c);
    }
    let unseen = [Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, Surrogate, Unassigned];
    unseen.contains(&get_general_category(c))
}

fn invisible() -> impl Iterator<Item = char> {
    (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|c| is_invisible(*c) && *c != '\n' && *c != '\t')
}

/// Characters used in known attacks.
fn known() -> String {
    let known: String = invisible().filter(|c| !matches!(get_general_category(*c), PrivateUse | Unassigned)).collect();
    assert!(
        known.chars().count() > 200
            && "\u{ad}\u{61c}\u{200b}\u{2028}\u{202e}\u{feff}\u{e0041}".chars().all(|c| known.contains(c))
    );
    known + "\u{e000}\u{10ffff}\u{40000}\u{e0fff}"
}

fn is_harmless(ended: &Ended) {
    for text in [ended.out(), ended.err()] {
        let bad = text.chars().find(|c| is_invisible(*c) && *c != '\n');
        assert_eq!(bad, None, "{}", ended.shown());
    }
}

fn install(sandbox: &Sandbox, fixture: Fixture, change: impl FnOnce(&mut Value)) -> String {
    let path = sandbox.install(fixture, "lib.so");
    let library = fs::read(fixture.built()).unwrap();
    fs::write(&path, rewritten(&library, change)).unwrap();
    path.display().to_string()
}

/// All commands that show texts of the package `kit`.
fn shown(sandbox: &Sandbox, path: &str) -> Vec<Ended> {
    let commands: [&[&str]; 11] = [
        &["jobs", "list"],
        &["jobs", "list", "kit"],
        &["jobs", "show", "kit", "kinds"],
        &["jobs", "show", "kit", "old"],
        &["plugins", "list"],
        &["plugins", "check", path],
        &["plugins", "lock"],
        &["run-job", "kit", "kinds", "--help"],
        &["run-job", "kit", "kinds", "--formats", "x"],
        &["run-job", "kit", "kinds", "--dry-run"],
        &["run-job", "kit", "kinds"],
    ];
    commands.iter().map(|args| sandbox.lorchestra(args)).collect()
}

/// Every text of a manifest.
fn each_text(value: &mut Value, change: &dyn Fn(&str, &mut String)) {
    fn walk(key: &str, value: &mut Value, change: &dyn Fn(&str, &mut String)) {
        match value {
            Value::String(text) => change(key, text),
            Value::Array(all) => all.iter_mut().for_each(|value| walk(key, value, change)),
            Value::Object(all) => all.iter_mut().for_each(|(key, value)| walk(key, value, change)),
            _ => {}
        }
    }
    walk("", value, change);
}

/// Keys whose texts the host parses, so that other values are refused.
const READ: [&str; 6] = ["name", "package", "kind", "timeout", "overlap", "default"];

#[test]
fn invisible_text_of_a_manifest_is_not_printed() {
    let sandbox = Sandbox::with(&[]);
    let known = known();
    let path = install(&sandbox, Fixture::Kit, |manifest| {
        each_text(manifest, &|key, text| match key {
            "version" => text.push_str("\u{202e}\u{ad}\u{e0041}\u{1b}[2J"),
            key if READ.contains(&key) => {}
            _ => *text = format!("a{known}{text}{known}"),
        });
    });
    for ended in shown(&sandbox, &path) {
        is_harmless(&ended);
    }
    // For keys that the host parses, the text is in the reason why the library cannot be used.
    for key in READ {
        let path = install(&sandbox, Fixture::Kit, |manifest| {
            each_text(manifest, &|at, text| {
                if at == key {
                    text.insert_str(1, &known)
                }
            });
        });
        for ended in shown(&sandbox, &path) {
            is_harmless(&ended);
        }
        let listed = sandbox.lorchestra(&["jobs", "list"]).exits(0);
        assert!(key == "default" || listed.err().contains("(bad-manifest)"), "{key}: {}", listed.shown());
    }
}

/// All controls and marks, and a few of each range of private and unassigned characters. (The tests of `text` cover all.)
#[test]
fn invisible_characters_of_documentation_are_not_printed() {
    let sandbox = Sandbox::with(&[]);
    let text: String = known().chars().chain(invisible().step_by(97)).collect();
    let docs = format!("Beginning.\n\n{text}\n\nEnd.");
    let path = install(&sandbox, Fixture::Kit, |manifest| manifest[1]["jobs"][0]["docs"] = json!(docs));
    let show = sandbox.lorchestra(&["jobs", "show", "kit", "kinds"]).exits(0);
    assert!(show.out().contains("Beginning.") && show.out().contains("End."), "{}", show.shown());
    is_harmless(&show);
    is_harmless(&sandbox.lorchestra(&["run-job", "kit", "kinds", "--help"]).exits(0));
    is_harmless(&sandbox.lorchestra(&["plugins", "check", &path]));
}

#[test]
fn invisible_text_of_events_and_messages_is_not_printed() {
    let sandbox = Sandbox::with(&[Fixture::Hostile, Fixture::Misbehave]);
    let marker = sandbox.arg("marker");
    is_harmless(&sandbox.lorchestra(&["run-job", "hostile", "emit_raw", "--what", "invisible", "--marker", &marker]).exits(0));
    // An argument cannot contain NUL.
    let message = known().replace('\0', "");
    is_harmless(&sandbox.lorchestra(&["run-job", "misbehave", "fail_with", "--message", &format!("no{message}x")]).exits(1));
    let list = sandbox.lorchestra(&["events", "list", "--payload"]).exits(0);
    assert!(list.out().contains("invisible"), "{}", list.shown());
    is_harmless(&list);
    is_harmless(&sandbox.lorchestra(&["runs", "list"]).exits(0));
    for run in sandbox.runs() {
        is_harmless(&sandbox.lorchestra(&["runs", "show", run.id()]).exits(0));
    }
    // Text that the user typed is printed in an escaped form.
    for args in [["jobs", "list", &message], ["runs", "show", &message], ["run-job", "misbehave", &message]] {
        is_harmless(&sandbox.lorchestra(&args));
    }
}

/// A text of a megabyte at each place of a manifest in turn, and the same for names.
#[test]
fn texts_of_a_manifest_do_not_make_messages_long() {
    const ALLOWED: usize = 3000;
    let sandbox = Sandbox::with(&[Fixture::Kit]);
    let long = "x".repeat(150_000);
    let usual: Vec<usize> = shown(&sandbox, &sandbox.install(Fixture::Kit, "lib.so").display().to_string())
        .iter()
        .map(|ended| ended.out().len() + ended.err().len())
        .collect();
    fs::remove_file(sandbox.plugins().join("lib.so")).unwrap();
    let places = [
        "/0/package",
        "/0/version",
        "/1/rustc",
        "/1/target",
        "/0/jobs/0/name",
        "/1/jobs/0/signature",
        "/1/jobs/0/file",
        "/0/jobs/0/timeout",
        "/0/jobs/0/overlap",
        "/0/jobs/0/deprecated",
        "/1/jobs/0/line",
        "/0/jobs/0/params/0/name",
        "/0/jobs/0/params/0/kind",
        "/1/jobs/0/params/0/rust_type",
        "/0/jobs/0/params/0/default",
        "/0/jobs/0/params/0/deprecated",
        "/0/jobs/0/params/1/values/0/name",
        "/0/jobs/0/params/1/values/0/docs",
        "/0/jobs/0/params/1/default",
        "/0/abi",
        "/0/jobs",
    ];
    for place in places {
        let path = install(&sandbox, Fixture::Kit, |manifest| {
            if let Some(value) = manifest.pointer_mut(place) {
                *value = json!(long);
            } else {
                let (object, key) = place.rsplit_once('/').unwrap();
                manifest.pointer_mut(object).unwrap()[key] = json!(long);
            }
        });
        for (ended, usual) in shown(&sandbox, &path).iter().zip(&usual) {
            let len = ended.out().len() + ended.err().len();
            assert!(len <= usual + ALLOWED, "{place}: {len} bytes, {usual} usually: {:.2000}", ended.shown());
        }
    }
}
