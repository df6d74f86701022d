use lorchestra_plugin_api::prelude::*;

#[job]
async fn count(_cx: &JobContext) -> JobResult {
    Ok(())
}

fn main() {}
