//! What is wrong with a job is told once, and not at its place in the list as well.
use lorchestra_plugin_api::prelude::*;

plugin! { package = "words", jobs = [count, change, silent] }

#[job]
pub fn count(_cx: &JobContext, timeout: u32) -> JobResult {
    Ok(())
}

#[job]
pub fn change(cx: &mut JobContext) -> JobResult {
    Ok(())
}

#[job]
pub fn silent(_cx: &JobContext) {}

fn main() {}
