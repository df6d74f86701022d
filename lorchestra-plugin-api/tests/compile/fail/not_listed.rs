#![deny(dead_code)]

use lorchestra_plugin_api::prelude::*;

plugin! { package = "greetings", jobs = [hello] }

/// Say hello.
#[job]
fn hello(cx: &JobContext) -> JobResult {
    cx.emit("hello", json!({}))?;
    Ok(())
}

/// Say goodbye.
#[job]
pub fn goodbye(cx: &JobContext) -> JobResult {
    cx.emit("goodbye", json!({}))?;
    Ok(())
}

fn main() {}
