use lorchestra_plugin_api::prelude::*;

#[job]
fn count(_cx: &JobContext) {}

fn main() {}
