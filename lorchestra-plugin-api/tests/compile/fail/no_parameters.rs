use lorchestra_plugin_api::prelude::*;

#[job]
fn count() -> JobResult {
    Ok(())
}

fn main() {}
