use lorchestra_plugin_api::prelude::*;

#[job]
fn count(at_least: u32) -> JobResult {
    let _ = at_least;
    Ok(())
}

fn main() {}
