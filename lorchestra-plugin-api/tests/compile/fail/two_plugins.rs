use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext) -> JobResult {
    Ok(())
}

plugin! { package = "words", jobs = [count] }
plugin! { package = "more_words", jobs = [count] }

fn main() {}
