use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, input: u32, input: u32) -> JobResult {
    let _ = input;
    Ok(())
}

fn main() {}
