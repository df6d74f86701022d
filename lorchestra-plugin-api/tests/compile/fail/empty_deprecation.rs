use lorchestra_plugin_api::prelude::*;

#[job(deprecated = "")]
fn count(_cx: &JobContext, n: u8) -> JobResult {
    let _ = n;
    Ok(())
}

fn main() {}
