use lorchestra_plugin_api::prelude::*;

#[job]
#[expect(non_snake_case)]
fn Count(_cx: &JobContext) -> JobResult {
    Ok(())
}

fn main() {}
