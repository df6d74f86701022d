use lorchestra_plugin_api::prelude::*;

#[derive(ParamEnum)]
enum Format {
    Json,
    Other(String),
}

fn main() {}
