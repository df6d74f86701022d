use lorchestra_plugin_api::prelude::*;

fn count(_cx: &JobContext) -> JobResult {
    Ok(())
}

plugin! { package = "words", jobs = [count] }

fn main() {}
