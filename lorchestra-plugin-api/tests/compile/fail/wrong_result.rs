use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext) -> u32 {
    7
}

plugin! { package = "words", jobs = [count] }

fn main() {}
