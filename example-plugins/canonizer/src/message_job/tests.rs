//! Runs with many lines: latest versions, names, and invalid lines.

use super::*;
use crate::canonicalization::tests::{Sandbox, some};
use lorchestra_plugin_api::serde_json::Value;
use lorchestra_plugin_api::testing::{self, Test};

fn sandbox() -> Sandbox {
    Sandbox::of(&MESSAGE, "slack")
}

fn job(sandbox: &Sandbox) -> Test {
    testing::job::<canonicalize_message>().data(&sandbox.dir)
}

fn line(channel: &str, ts: &str, more: Value) -> String {
    let mut message = json!({"type": "message", "ts": ts, "text": "x"});
    message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"sha256": "k", "account": "demo", "channel": {"id": channel, "name": channel}, "message": message}).to_string() + "\n"
}

const TS: &str = "1704100000.000200";

fn texts(sandbox: &Sandbox) -> Vec<String> {
    sandbox.lines(MESSAGE.results).iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_newest_line_of_a_message_is_used() {
    let edited = |ts: &str, text: &str| line("C1", TS, json!({"text": text, "edited": {"ts": ts}}));
    let (old, new) = (edited("1704100060.000000", "old"), edited("1704100120.000000", "new"));
    let (plain, again) = (line("C1", TS, json!({"text": "plain"})), line("C1", TS, json!({"text": "again"})));
    let elsewhere = line("C2", TS, json!({"text": "elsewhere"}));
    for (files, expected) in [
        (vec![[&plain[..], &old, &new].concat()], vec!["new"]),
        (vec![[&new[..], &old, &plain].concat()], vec!["new"]),
        (vec![old.clone(), new.clone(), plain.clone()], vec!["new"]),
        // Of equal versions, the last: reactions change nothing else.
        (vec![[&plain[..], &again].concat()], vec!["again"]),
        (vec![[&plain[..], &elsewhere].concat()], vec!["plain", "elsewhere"]),
        (vec![line("C1", TS, json!({"subtype": "tombstone"})), new.clone()], vec![""]),
    ] {
        let sandbox = sandbox();
        let lines: usize = files.iter().map(|file| file.lines().count()).sum();
        for (i, file) in files.iter().enumerate() {
            sandbox.put(&format!("{i}.jsonl"), file);
        }
        let (_, counts) = sandbox.completed(job(&sandbox));
        assert_eq!(texts(&sandbox), expected, "{files:?}");
        assert_eq!(some(&counts, &["written", "duplicates"]), [expected.len() as u64, (lines - expected.len()) as u64]);
    }
}

#[test]
fn names_on_later_lines_apply_to_earlier_ones() {
    let sandbox = sandbox();
    let named = |account: &str, name: &str| {
        let message = json!({"ts": "1704100060.000000", "user": "U1", "text": "<@U1>"});
        json!({"account": account, "channel": {"id": "C1", "name": "general"}, "user": {"id": "U1", "name": name}, "message": message})
            .to_string()
            + "\n"
    };
    let first = line("C2", TS, json!({"text": "<@U1> in <#C1>, <@U2>"}));
    sandbox.put("a.jsonl", [first, named("demo", "Anna"), named("other", "Ben")].concat());
    let _ = sandbox.completed(job(&sandbox));
    assert_eq!(texts(&sandbox), ["@Anna in #general, @U2", "@Anna", "@Ben"]);
}

#[test]
fn unreadable_lines_are_reported_and_kept_and_the_rest_is_processed() {
    let sandbox = sandbox();
    let good = line("C1", TS, json!({}));
    let mail = "{\"sha256\":\"12\",\"raw\":\"Subject: confidential\"}\n";
    sandbox.put("a.jsonl", ["not json\n", mail, &good, "{}\n", &good[..20]].concat());
    let (ran, counts) = sandbox.completed(job(&sandbox));
    assert_eq!(some(&counts, &["read", "written"]), [5, 1]);
    let rows = sandbox.lines(MESSAGE.set_aside);
    let reasons: Vec<_> = rows.iter().map(|row| row["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["not_json", "not_a_record", "not_a_record", "torn"]);
    assert!(!format!("{ran:?}").contains("confidential"), "no content in events and traces");
}

#[test]
fn an_incomplete_run_keeps_the_previous_results() {
    let sandbox = sandbox();
    sandbox.put("a.jsonl", [line("C1", TS, json!({})), line("C2", TS, json!({}))].concat());
    job(&sandbox).run().assert_ok();
    let before = sandbox.read(MESSAGE.results);
    sandbox.put("a.jsonl", line("C3", TS, json!({})));
    // Before and during the first pass, and during the second.
    for checks in [0, 1, 2] {
        let ran = job(&sandbox).cancel_after_checks(checks).run();
        ran.assert_retryable("cancelled after");
        assert_eq!(sandbox.read(MESSAGE.results), before);
        assert_eq!(std::fs::read_dir(ran.data_dir()).unwrap().count(), 4, "no unfinished file is left");
    }
    sandbox.put("a.jsonl", "{\"sha256\":\"12\"}\n");
    let text = "none of the lines is a message of Slack (not_a_record: 1); the previous results are unchanged. Set \
                --input to the output of ingester/extract_slack";
    job(&sandbox).run().assert_permanent(text);
    assert_eq!(sandbox.read(MESSAGE.results), before);
}

/// A job whose input file changes between the two passes.
#[expect(dead_code, reason = "no package lists this job")]
mod changing {
    use super::*;

    #[job]
    pub(super) fn change_while_reading(cx: &JobContext, input: PathBuf, after: String) -> JobResult {
        struct Changing(MessageConverter, String);
        impl Converter for Changing {
            fn kind(&self) -> &'static Kind {
                &MESSAGE
            }

            fn canonicalize(mut self, files: &[PathBuf], run: &mut Canonicalization<'_>) -> Result<(), CanonicalizationError> {
                self.0.survey(files, run)?;
                std::fs::write(&files[0], &self.1).unwrap();
                self.0.write(files, run)
            }
        }
        let request = Request { input: Some(input), default_input: PathBuf::new(), data_dir: cx.data_dir()? };
        Ok(canonicalization::run(&request, Changing(MessageConverter::default(), after), cx)?)
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let two = [line("C1", TS, json!({})), line("C2", TS, json!({}))].concat();
    let more = [two.clone(), line("C3", TS, json!({}))].concat();
    for (after, is_changed) in [("", true), (&two[..10], true), ("1\n2\n", true), (&more[..], false)] {
        let sandbox = sandbox();
        let input = sandbox.put("a.jsonl", &two);
        let job = testing::job::<changing::change_while_reading>().data(&sandbox.dir).param("input", input).param("after", after);
        if is_changed {
            job.run().assert_retryable("a.jsonl: was modified while it was being read; the previous results are unchanged");
        } else {
            let (_, counts) = sandbox.completed(job);
            assert_eq!(counts["written"], 2, "added lines are read by the next run");
        }
    }
}
