use lorchestra_plugin_api::prelude::*;

#[job(retries = "2")]
fn count(_cx: &JobContext, n: u8) -> JobResult {
    let _ = n;
    Ok(())
}

fn main() {}
