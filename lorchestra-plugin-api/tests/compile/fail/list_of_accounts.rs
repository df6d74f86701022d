use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, account: Vec<String>) -> JobResult {
    let _ = account;
    Ok(())
}

fn main() {}
