use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, #[param(default = "-7m")] since: DateTime<Utc>) -> JobResult {
    let _ = since;
    Ok(())
}

plugin! { package = "words", jobs = [count] }

fn main() {}
