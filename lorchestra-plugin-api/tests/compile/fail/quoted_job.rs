use lorchestra_plugin_api::prelude::*;

plugin! { package = "words", jobs = ["count"] }

fn main() {}
