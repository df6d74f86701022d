use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, #[param(default = "a")] names: Vec<String>) -> JobResult {
    let _ = names;
    Ok(())
}

fn main() {}
