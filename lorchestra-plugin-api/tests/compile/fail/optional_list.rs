use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, names: Option<Vec<String>>) -> JobResult {
    let _ = names;
    Ok(())
}

fn main() {}
