//! `async` jobs under test: on a runtime of their own, also inside of a test that has one.

use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::testing;
use std::future::pending;

/// Waits for what never comes.
#[job]
async fn waits(cx: &JobContext, name: String) -> JobResult {
    cx.emit("waiting", json!({ "for": name }))?;
    tokio::time::sleep(Duration::from_millis(1)).await;
    cx.until_cancelled(pending::<()>()).await?;
    Ok(())
}

#[test]
fn an_async_job_is_cancelled_where_it_waits() {
    let running = testing::job::<waits>().param("name", "rain").start();
    running.wait_for("waiting").cancel();
    let ran = running.wait();
    ran.assert_retryable("the run was asked to end");
    assert_eq!(ran.event("waiting").payload, json!({ "for": "rain" }));
    testing::job::<waits>().param("name", "rain").cancelled().run().assert_retryable("asked to end");
}

#[test]
fn a_test_may_have_a_runtime_of_its_own() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        testing::job::<waits>().param("name", "rain").cancelled().run().assert_retryable("asked to end");
    });
}
