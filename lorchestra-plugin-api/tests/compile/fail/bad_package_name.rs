use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext) -> JobResult {
    Ok(())
}

plugin! { package = "../Words", jobs = [count] }

fn main() {}
