use lorchestra_plugin_api::prelude::*;

#[job(timeout = "0s")]
fn count(_cx: &JobContext, n: u8) -> JobResult {
    let _ = n;
    Ok(())
}

fn main() {}
