use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, #[param(default = "ten")] at_least: u32) -> JobResult {
    let _ = at_least;
    Ok(())
}

plugin! { package = "words", jobs = [count] }

fn main() {}
