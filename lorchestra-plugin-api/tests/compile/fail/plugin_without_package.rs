use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext) -> JobResult {
    Ok(())
}

plugin! { jobs = [count] }

fn main() {}
