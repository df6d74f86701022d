use lorchestra_plugin_api::prelude::*;

const TEN: u32 = 10;

#[job]
fn count(_cx: &JobContext, #[param(default = TEN)] at_least: u32) -> JobResult {
    let _ = at_least;
    Ok(())
}

fn main() {}
