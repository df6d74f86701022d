use lorchestra_plugin_api::prelude::*;

#[job]
fn count<T>(_cx: &JobContext, at_least: Option<T>) -> JobResult {
    let _ = at_least;
    Ok(())
}

fn main() {}
