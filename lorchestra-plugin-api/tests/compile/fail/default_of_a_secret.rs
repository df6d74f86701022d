use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, #[param(default = "hunter22")] token: Secret) -> JobResult {
    let _ = token;
    Ok(())
}

fn main() {}
