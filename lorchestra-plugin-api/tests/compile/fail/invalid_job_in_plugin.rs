//! An error in a job is reported once, and not also at its name in the list.
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
