use lorchestra_plugin_api::prelude::*;

#[derive(ParamEnum)]
enum Format {
    Json,
}

#[job]
fn count(_cx: &JobContext, #[param(default = "xml")] format: Format) -> JobResult {
    let _ = format;
    Ok(())
}

fn main() {}
