//! Tests of `async` jobs with their own runtime, also inside a test that has one.

#![expect(dead_code, reason = "no package lists these jobs")]

use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::testing;
use std::future::pending;

/// Waits for a future that never completes.
#[job]
async fn waits(cx: &JobContext, name: String) -> JobResult {
    cx.emit("waiting", json!({ "for": name }))?;
    tokio::time::sleep(Duration::from_millis(1)).await;
    cx.until_cancelled(pending::<()>()).await?;
    Ok(())
}

#[test]
fn an_async_job_is_cancelled_at_an_await() {
    let running = testing::job::<waits>().param("name", "rain").start();
    running.wait_for("waiting").cancel();
    let ran = running.wait();
    ran.assert_retryable("the run was cancelled");
    assert_eq!(ran.event("waiting").payload, json!({ "for": "rain" }));
    testing::job::<waits>().param("name", "rain").cancelled().run().assert_retryable("was cancelled");
}

#[test]
fn a_test_may_have_its_own_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        testing::job::<waits>().param("name", "rain").cancelled().run().assert_retryable("was cancelled");
    });
}
