use lorchestra_plugin_api::prelude::*;

#[job]
async fn count(_cx: &JobContext, timeout: u32, #[param(default = TEN)] at_least: u32) {
    let _ = (timeout, at_least);
}

fn main() {}
