use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, timeout: u32, dry_run: bool) -> JobResult {
    let _ = (timeout, dry_run);
    Ok(())
}

fn main() {}
