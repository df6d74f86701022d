use lorchestra_plugin_api::prelude::*;

plugin! { "words", [count] }

fn main() {}
