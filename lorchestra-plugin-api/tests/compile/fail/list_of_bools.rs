use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, deep: Vec<bool>) -> JobResult {
    let _ = deep;
    Ok(())
}

fn main() {}
