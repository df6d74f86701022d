use lorchestra_plugin_api::prelude::*;

#[job]
fn count(cx: &JobContext, token: Secret) -> JobResult {
    cx.emit("done", json!({"token": token}))?;
    Ok(())
}

fn main() {}
