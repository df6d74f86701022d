use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, dry: bool, no_dry: bool) -> JobResult {
    let _ = (dry, no_dry);
    Ok(())
}

fn main() {}
