use lorchestra_plugin_api::prelude::*;

#[job(overlap = "never")]
fn count(_cx: &JobContext, n: u8) -> JobResult {
    let _ = n;
    Ok(())
}

fn main() {}
