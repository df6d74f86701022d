use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, #[param(default = "90")] every: Duration) -> JobResult {
    let _ = every;
    Ok(())
}

fn main() {}
