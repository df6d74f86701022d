use lorchestra_plugin_api::prelude::*;

#[derive(ParamEnum)]
struct Format;

fn main() {}
