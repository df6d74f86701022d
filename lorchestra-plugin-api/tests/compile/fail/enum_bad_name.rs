use lorchestra_plugin_api::prelude::*;

#[derive(ParamEnum)]
enum Format {
    #[param(name = "ND JSON")]
    Json,
}

fn main() {}
