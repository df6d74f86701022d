use lorchestra_plugin_api::prelude::*;

plugin! { package = "words", jobs = [] }

fn main() {}
