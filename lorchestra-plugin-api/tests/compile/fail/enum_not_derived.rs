use lorchestra_plugin_api::prelude::*;

enum Format {
    Json,
}

#[job]
fn count(_cx: &JobContext, format: Format) -> JobResult {
    let _ = format;
    Ok(())
}

fn main() {}
