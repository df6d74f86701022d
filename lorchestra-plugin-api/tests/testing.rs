//! `lorchestra_plugin_api::testing` from an author's side: results are recorded, what a run refuses is refused, and each
//! mistake in a test fails with a message.

#![expect(dead_code, reason = "no package lists these jobs")]

use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::testing::{self, TempDir};
use lorchestra_plugin_api::{serde_json, tracing};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[derive(Debug, ParamEnum)]
enum Format {
    Json,
    NdJson,
}

/// One parameter of each kind; emits them all.
#[job]
#[expect(clippy::too_many_arguments, reason = "all kinds")]
fn all_kinds(
    cx: &JobContext,
    text: String,
    #[param(default = 7)] byte: u8,
    #[param(default = 0.5)] share: f64,
    #[param(default = true)] switch: bool,
    at: Option<DateTime<Utc>>,
    day: Option<NaiveDate>,
    path: Option<PathBuf>,
    #[param(default = "1h30m")] limit: Duration,
    #[param(default = "nd-json")] format: Format,
    tags: Vec<String>,
    until: Option<DateTime<Utc>>,
) -> JobResult {
    let payload = json!({
        "text": text, "byte": byte, "share": share, "switch": switch, "at": at, "day": day, "path": path,
        "limit": limit.as_secs(), "format": format!("{format:?}"), "tags": tags, "until": until.is_some(),
    });
    cx.emit("seen", payload)?;
    Ok(())
}

#[test]
fn values_and_defaults_arrive_as_in_a_run() {
    let ran = testing::job::<all_kinds>().param("text", "x").run();
    ran.assert_ok();
    let defaults = json!({
        "text": "x", "byte": 7, "share": 0.5, "switch": true, "at": null, "day": null, "path": null,
        "limit": 5400, "format": "NdJson", "tags": [], "until": true,
    });
    assert_eq!(ran.event("seen").payload, defaults);

    let ran = testing::job::<all_kinds>()
        .param("text", "")
        .param("byte", 255)
        .param("share", 2)
        .param("switch", false)
        .param("at", "2024-01-31")
        .param("day", "2024-01-31")
        .param("path", PathBuf::from("/x"))
        .param("limit", Duration::from_secs(1))
        .param("format", "json")
        .param("tags", "a")
        .param("tags", ["b", "c"])
        .run();
    let given = json!({
        "text": "", "byte": 255, "share": 2.0, "switch": false, "at": "2024-01-31T00:00:00Z", "day": "2024-01-31", "path": "/x",
        "limit": 1, "format": "Json", "tags": ["a", "b", "c"], "until": true,
    });
    assert_eq!(ran.event("seen").payload, given);
}

/// Ends as requested, after emitting an event.
#[job]
fn ends(cx: &JobContext, how: String) -> JobResult {
    cx.emit("ended", json!({ "how": how }))?;
    match how.as_str() {
        "well" => Ok(()),
        "panics" => panic!("as requested"),
        "permanent" => Err("no such mailbox").permanent(),
        _ => Err("no network")?,
    }
}

/// The message of a panic in `work`.
fn panic_message<T>(work: impl FnOnce() -> T) -> String {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(_) => "no failure".to_owned(),
        Err(panic) => panic.downcast::<String>().map_or_else(|_| "no text".to_owned(), |text| *text),
    }
}

#[test]
fn assertions_distinguish_endings_and_print_the_actual_one() {
    let run = |how: &str| testing::job::<ends>().param("how", how).run();
    let (well, panics, permanent, retryable) = (run("well"), run("panics"), run("permanent"), run("again"));
    well.assert_ok().assert_types(&["ended"]);
    panics.assert_panicked("as requested");
    permanent.assert_permanent("no such mailbox");
    retryable.assert_retryable("no network");
    assert_eq!((well.error(), retryable.error().as_deref()), (None, Some("no network")));

    assert_eq!(
        panic_message(|| permanent.assert_ok().is_ok()),
        "ends should have returned Ok\n  it returned a permanent error: no such mailbox\n  events: ended"
    );
    assert!(
        panic_message(|| permanent.assert_retryable("no such").is_ok())
            .contains("a retryable error with \"no such\" in its message")
    );
    assert!(panic_message(|| retryable.assert_retryable("no disk").is_ok()).contains("a retryable error: no network"));
    assert!(panic_message(|| well.assert_panicked("").is_ok()).contains("it returned Ok"));
    assert!(panic_message(|| panics.assert_ok().is_ok()).contains("it panicked at lorchestra-plugin-api/tests/testing.rs:"));
    assert!(panic_message(|| well.event("other").payload.clone()).contains("emitted 0 events `other`, expected 1"));
    assert!(panic_message(|| well.assert_types(&["ended", "more"]).is_ok()).contains("event 2 is the end, expected `more`"));
}

/// Needs a window and a secret.
#[job]
fn windowed(
    cx: &JobContext,
    #[param(default = "last:-7d")] since: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
    token: Secret,
    how: Option<String>,
) -> JobResult {
    match how.as_deref() {
        Some("emits") => cx.emit("leak", json!({ "header": [token.expose()] }))?,
        Some("traces") => tracing::info!(token = token.expose(), "asking"),
        Some("fails") => Err(format!("refused: {}", token.expose()))?,
        _ => cx.set_bookmark(until.unwrap_or(since))?,
    }
    Ok(())
}

#[test]
fn secrets_windows_and_bookmarks() {
    let with_secret = || testing::job::<windowed>().secret("token", "hunter22").param("since", "2024-01-01");
    let ran = with_secret().param("until", "2024-02-01").run();
    ran.assert_ok().assert_keeps_secrets();
    // With a line break at the end, as in a file.
    let ran = testing::job::<windowed>().secret("token", "hunter22\n").param("since", "2024-01-01").param("how", "emits").run();
    assert_eq!(ran.event("leak").payload, json!({ "header": ["hunter22"] }));
    let ran = with_secret().param("until", "2024-02-01").run();
    assert_eq!(ran.bookmark(), Some("2024-02-01T00:00:00Z".parse().unwrap()));
    assert!(!format!("{ran:?}").contains("hunter22"));
    for (how, place) in [("emits", "in an event"), ("traces", "traced"), ("fails", "in its error")] {
        let ran = with_secret().param("how", how).run();
        let message = panic_message(|| ran.assert_keeps_secrets().is_ok());
        assert!(message.contains(place) && message.contains("`token`") && !message.contains("hunter22"), "{message}");
    }
}

#[test]
fn mistakes_in_a_test_fail_with_a_message() {
    let test = testing::job::<windowed>;
    for (message, mistake) in [
        (
            "windowed has no parameter `sinse`: its parameters are since, until, token, how",
            panic_message(|| test().param("sinse", "2024-01-01").attempt(1)),
        ),
        ("windowed has no parameter `tokn`", panic_message(|| test().secret("tokn", "x").attempt(1))),
        ("is a secret: use .secret(\"token\", …)", panic_message(|| test().param("token", "x").attempt(1))),
        ("`how` of windowed takes a string without NUL, not a secret", panic_message(|| test().secret("how", "x").attempt(1))),
        ("`how` is set twice", panic_message(|| test().param("how", "a").param("how", "b").attempt(1))),
        ("`since` of windowed takes an absolute time", panic_message(|| test().param("since", "-7d").attempt(1))),
        ("windowed requires the secret `token`", panic_message(|| test().param("since", "2024-01-01").run().is_ok())),
        (
            "the default \"last:-7d\" of `since` depends on the time",
            panic_message(|| test().secret("token", "hunter22").run().is_ok()),
        ),
        (
            "must be before `until`",
            panic_message(|| {
                test().secret("token", "hunter22").param("since", "2024-01-02").param("until", "2024-01-02").run().is_ok()
            }),
        ),
        (
            "must be before `until`",
            panic_message(|| test().secret("token", "hunter22").param("since", "3000-01-01").run().is_ok()),
        ),
        ("ends requires `how`", panic_message(|| testing::job::<ends>().run().is_ok())),
        // A run would refuse to start with the same reason.
        (
            "the secret `token` of windowed is shorter than 6 bytes: masking it would mask unrelated text",
            panic_message(|| test().secret("token", "short\n").attempt(1)),
        ),
        ("the secret `token` of windowed is empty", panic_message(|| test().secret("token", "").attempt(1))),
        (
            "the secret `token` of windowed is longer than 64 KiB",
            panic_message(|| test().secret("token", &"x".repeat(1 << 17)).attempt(1)),
        ),
        ("the secret `token` of windowed contains a NUL byte", panic_message(|| test().secret("token", "hunter\0").attempt(1))),
    ] {
        assert!(mistake.contains(message), "{mistake}");
        assert!(!mistake.contains("hunter"), "{mistake}");
    }
}

/// The location of the panic is a line of the test, not of the library.
#[test]
fn a_mistake_is_reported_at_its_line_in_the_test() {
    thread_local! {
        static PLACE: std::cell::Cell<(String, u32)> = const { std::cell::Cell::new((String::new(), 0)) };
    }
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(|place| (place.file().to_owned(), place.line())).unwrap_or_default();
        PLACE.set(place);
        before(panic);
    }));
    let test = testing::job::<windowed>;
    let dir = TempDir::new();
    let running = testing::job::<pages>().param("pages", 1).start();
    let ran = testing::job::<pages>().param("pages", 1).run();
    let here = line!();
    panic_message(|| test().param("sinse", "2024-01-01").attempt(1));
    assert_eq!(PLACE.take(), (file!().to_owned(), here + 1));
    panic_message(|| test().secret("token", "short").attempt(1));
    assert_eq!(PLACE.take(), (file!().to_owned(), here + 3));
    panic_message(|| test().run().is_ok());
    assert_eq!(PLACE.take(), (file!().to_owned(), here + 5));
    panic_message(|| running.wait_for("other").cancel().wait_for("another"));
    assert_eq!(PLACE.take(), (file!().to_owned(), here + 7));
    panic_message(|| dir.read("nothing"));
    assert_eq!(PLACE.take(), (file!().to_owned(), here + 9));
    panic_message(|| ran.read("nothing"));
    assert_eq!(PLACE.take(), (file!().to_owned(), here + 11));
    running.wait().assert_ok();
}

/// Emits until it is cancelled.
#[job]
fn pages(cx: &JobContext, #[param(default = 1_000_000)] pages: u64) -> JobResult {
    for page in 0..pages {
        if cx.is_cancelled() {
            cx.flush()?;
            return Err(format!("cancelled at page {page}").into());
        }
        cx.emit("page.read", json!({ "page": page }))?;
        cx.progress(page + 1, pages);
    }
    Ok(())
}

#[test]
fn a_job_is_cancelled() {
    testing::job::<pages>().cancelled().run().assert_retryable("cancelled at page 0").assert_types(&[]);
    let ran = testing::job::<pages>().param("pages", 5).cancel_after_events(3).run();
    ran.assert_retryable("cancelled at page 3").assert_types(&["page.read"; 3]);
    assert_eq!((ran.progress(), ran.flushed()), (&[(1, 5), (2, 5), (3, 5)][..], 3));
    testing::job::<pages>().cancel_after_checks(2).run().assert_retryable("cancelled at page 2");
    assert_eq!(testing::job::<pages>().param("pages", 3).run().assert_ok().events_of("page.read").len(), 3);

    let running = testing::job::<pages>().start();
    running.wait_for("page.read").cancel();
    let ran = running.wait();
    ran.assert_retryable("cancelled at page");
    assert_eq!(ran.events().len(), ran.flushed());

    let running = testing::job::<pages>().param("pages", 1).start();
    let message = panic_message(|| running.wait_for("other").cancel().wait_for("x").cancel().wait_for("y"));
    assert!(message.contains("no event `other` was emitted before the job ended; emitted: page.read"), "{message}");
    running.wait().assert_ok();
}

/// Emits invalid events, and returns the error messages.
#[job]
fn refused(cx: &JobContext) -> JobResult {
    let deep = serde_json::from_str::<serde_json::Value>(&format!("{}1{}", "[".repeat(110), "]".repeat(110)))?;
    let reasons = [
        cx.emit("", json!({})),
        cx.emit("job.completed", json!({})),
        cx.emit("t", json!([])),
        cx.emit("t", json!({ "a": deep })),
        cx.emit("t", json!({ "a": "x".repeat(1 << 20) })),
        cx.set_bookmark(DateTime::UNIX_EPOCH),
    ];
    let reasons: Vec<String> = reasons.into_iter().filter_map(|result| Some(result.err()?.to_string())).collect();
    let all = [Event::new("t", json!({}))?, Event::new("t", json!(1))?, Event::new("t", json!({}))?];
    match cx.emit_all(all) {
        Err(taken) if reasons.len() == 6 => Err(format!("{}; {taken}", reasons.join("; ")))?,
        _ => Ok(()),
    }
}

#[test]
fn tests_refuse_what_a_run_refuses() {
    let ran = testing::job::<refused>().run();
    ran.assert_types(&["t"]);
    for reason in [
        "an event needs a type",
        "is reserved for lorchestra",
        "is not a JSON object",
        "nested deeper than 100 levels",
        "at most 1048576",
        "no run would start at it",
        "after 1 recorded events",
    ] {
        ran.assert_retryable(reason);
    }
}

/// Reads a file of another package, and writes one.
#[job]
fn copies(cx: &JobContext) -> JobResult {
    let text = std::fs::read_to_string(cx.package_data_dir("other")?.join("in.txt")).permanent()?;
    std::fs::write(cx.data_dir()?.join("out.txt"), format!("{text} {} {}", cx.attempt(), cx.run_id().len()))?;
    let event = Event::new("copied", json!({}))?.schema_ref("s/1").subject_id("anna").correlation_id("c");
    cx.emit_with(event)?;
    let _span = tracing::info_span!("copying", package = "other").entered();
    tracing::debug!(bytes = text.len(), "copied");
    Ok(())
}

#[test]
fn data_directories_envelopes_and_traces() {
    testing::job::<copies>().run().assert_permanent("No such file");
    let dir = TempDir::new();
    dir.write("other/in.txt", "text");
    let ran = testing::job::<copies>().data(&dir).attempt(2).package("mine").run();
    ran.assert_ok();
    assert_eq!((ran.read("out.txt").as_str(), dir.read("mine/out.txt").as_str()), ("text 2 36", "text 2 36"));
    // The default package name is the name of the crate.
    assert_eq!(testing::job::<copies>().data(&dir).run().data_dir(), dir.path().join("testing"));
    let event = ran.event("copied");
    let envelope = [&event.schema_ref, &event.subject_id, &event.correlation_id].map(|text| text.as_deref().unwrap());
    assert_eq!(envelope, ["s/1", "anna", "c"]);
    let [trace] = ran.traces() else { panic!("{:?}", ran.traces()) };
    assert_eq!(
        (&trace["message"], &trace["level"], &trace["fields"]),
        (&json!("copied"), &json!("DEBUG"), &json!({ "bytes": 4 }))
    );
    assert_eq!(trace["spans"], json!([{ "name": "copying", "fields": { "package": "other" } }]));
}

/// Two tests at once in one process: each has its own events and traces.
#[test]
fn concurrent_tests_do_not_mix() {
    let dir = TempDir::new();
    dir.write("other/in.txt", "text");
    std::thread::scope(|scope| {
        for n in 0..4 {
            let dir = &dir;
            scope.spawn(move || {
                for _ in 0..20 {
                    let ran = testing::job::<copies>().data(dir).package(&format!("p{n}")).run();
                    assert_eq!((ran.events().len(), ran.traces().len()), (1, 1));
                }
            });
        }
    });
}
