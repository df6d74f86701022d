use lorchestra_plugin_api::prelude::*;

#[job(timeout = "30 minutes")]
fn count(_cx: &JobContext, n: u8) -> JobResult {
    let _ = n;
    Ok(())
}

fn main() {}
