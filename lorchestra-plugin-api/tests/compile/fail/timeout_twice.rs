use lorchestra_plugin_api::prelude::*;

#[job(timeout = "1m", timeout = "2m")]
fn count(_cx: &JobContext, n: u8) -> JobResult {
    let _ = n;
    Ok(())
}

fn main() {}
