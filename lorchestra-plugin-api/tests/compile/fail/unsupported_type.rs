use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext, sizes: std::collections::HashMap<String, u32>) -> JobResult {
    let _ = sizes;
    Ok(())
}

plugin! { package = "words", jobs = [count] }

fn main() {}
