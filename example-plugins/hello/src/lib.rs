//! Job package `hello`: the smallest one.
use lorchestra_plugin_api::prelude::*;

plugin! { package = "hello", jobs = [greet] }

/// Say hello to somebody.
#[job]
pub fn greet(cx: &JobContext, #[param(default = "world")] name: String) -> JobResult {
    cx.emit("greeting.said", json!({ "to": name }))?;
    Ok(())
}
