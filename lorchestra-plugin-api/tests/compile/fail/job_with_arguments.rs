use lorchestra_plugin_api::prelude::*;

#[job(name = "count")]
fn count(_cx: &JobContext) -> JobResult {
    Ok(())
}

fn main() {}
