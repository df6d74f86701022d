//! Jobs that use every feature of the plugin API: all parameter types, policies, secrets, progress, results.

mod beyond_events;

use beyond_events::{overdo, paths, produce, spread};
use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::tracing;
use std::io::Write;

plugin! { package = "kit", jobs = [kinds, policies, old, leak, optional_secret, advance, produce, overdo, spread, paths] }

/// Output format
#[derive(ParamEnum, Clone, Copy, Debug)]
enum Format {
    /// One object
    Json,
    /// One object per line
    NdJson,
}

/// Emits its parameters.
#[job]
fn kinds(
    cx: &JobContext,
    /// Interval
    #[param(default = "1h30m")]
    every: Duration,
    /// Output format
    #[param(default = "json")]
    format: Format,
    formats: Vec<Format>,
    /// Names
    names: Vec<String>,
    days: Vec<NaiveDate>,
    wait: Option<Duration>,
    #[param(deprecated = "use --names")] nickname: Option<String>,
) -> JobResult {
    let payload = json!({
        "every": every.as_secs(),
        "format": format!("{format:?}"),
        "formats": format!("{formats:?}"),
        "names": names,
        "days": days,
        "wait": wait.map(|wait| wait.as_millis() as u64),
        "nickname": nickname,
    });
    cx.emit("given", payload)?;
    Ok(())
}

/// Fails until the third attempt.
#[job(timeout = "30m", retries = 2, overlap = "skip")]
fn policies(cx: &JobContext) -> JobResult {
    match cx.attempt() {
        3 => Ok(()),
        attempt => Err(format!("attempt {attempt}"))?,
    }
}

/// Does nothing. Deprecated.
#[job(deprecated = "use kinds")]
fn old(_cx: &JobContext) -> JobResult {
    Ok(())
}

/// How a job leaks its secret.
#[derive(ParamEnum, Clone, Copy)]
enum Way {
    Print,
    /// In pieces of three bytes, each in a separate write
    Pieces,
    /// All but its last byte, at the very end of the output
    Begin,
    Emit,
    /// In each field of an event, and in a batch of events
    Fields,
    Error,
    Panic,
    Trace,
    /// Line by line
    Lines,
}

/// Leaks its secret.
#[job]
fn leak(cx: &JobContext, token: Secret, way: Way) -> JobResult {
    let text = token.expose();
    let mut out = std::io::stdout().lock();
    match way {
        Way::Print => writeln!(out, "the token is {text}, and {token} and {token:?}")?,
        Way::Pieces => {
            for piece in format!("<{text}|{text}>").as_bytes().chunks(3) {
                out.write_all(piece)?;
                out.flush()?;
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
        Way::Begin => {
            out.write_all(format!("ends with {}", &text[..text.len() - 1]).as_bytes())?;
            out.flush()?;
        }
        Way::Emit => {
            cx.emit("leaked", json!({"token": text, "nested": [{"a": format!("x{text}y")}]}))?;
            let mut key = lorchestra_plugin_api::serde_json::Map::new();
            key.insert(text.to_owned(), 1.into());
            cx.emit("leaked", key)?;
        }
        Way::Fields => {
            let event = || {
                Event::new(format!("type-{text}"), json!({"n": 1}))
                    .map(|event| event.schema_ref(text).subject_id(text).correlation_id(format!("c-{text}")))
            };
            cx.emit_with(event()?)?;
            cx.emit_all([event()?, event()?])?;
        }
        Way::Error => Err(format!("401 for token {text}"))?,
        Way::Panic => panic!("no luck with {text}"),
        Way::Trace => tracing::warn!(token = text, "tried {text}"),
        Way::Lines => {
            for line in text.lines() {
                writeln!(out, "line: {line}")?;
            }
        }
    }
    Ok(())
}

/// Emits the length of its secret.
#[job]
fn optional_secret(cx: &JobContext, api_token: Option<Secret>) -> JobResult {
    cx.emit("secret", json!({"length": api_token.map(|token| token.expose().len())}))?;
    Ok(())
}

/// Reports progress, waits for the marker file, and reports progress again.
#[job]
fn advance(cx: &JobContext, marker: PathBuf, #[param(default = 10)] total: u64, token: Option<Secret>) -> JobResult {
    let _kept = token;
    cx.progress(3, total);
    cx.emit("begun", json!({}))?;
    while !marker.exists() && !cx.is_cancelled() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    cx.progress(10, total);
    Ok(())
}
