use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::testing;

#[job]
fn hello(_cx: &JobContext, at: DateTime<Utc>) -> JobResult {
    let _ = at;
    Ok(())
}

fn main() {
    testing::job::<hello>().param("at", std::time::SystemTime::now()).run().assert_ok();
}
