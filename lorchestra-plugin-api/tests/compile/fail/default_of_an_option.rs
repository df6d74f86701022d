use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, #[param(default = 3)] at_least: Option<u8>) -> JobResult {
    let _ = at_least;
    Ok(())
}

plugin! { package = "words", jobs = [count] }

fn main() {}
