use lorchestra_plugin_api::prelude::*;

#[derive(ParamEnum)]
enum Format {
    Json,
    #[param(name = "json")]
    Other,
}

fn main() {}
