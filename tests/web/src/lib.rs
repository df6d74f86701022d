//! A job that makes many concurrent HTTP requests, and stops between two of them when the run is cancelled.

use lorchestra_plugin_api::prelude::*;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

plugin! { package = "web", jobs = [fetch, linger] }

/// Maximum number of requests in flight.
const AT_ONCE: usize = 4;

/// Fetch pages
#[job]
async fn fetch(
    cx: &JobContext,
    /// URL of the server; the number of the request is appended
    url: String,
    /// Number of requests
    count: u64,
) -> JobResult {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut requests = JoinSet::new();
    for n in 0..count {
        let (client, room, url) = (client.clone(), Arc::clone(&room), format!("{url}/{n}"));
        requests.spawn(async move {
            let _place = room.acquire_owned().await;
            let text = client.get(url).send().await?.error_for_status()?.text().await?;
            Ok::<_, reqwest::Error>(text.len())
        });
    }
    let mut done = 0;
    while let Some(fetched) = cx.until_cancelled(requests.join_next()).await? {
        done += 1;
        cx.progress(done, count);
        cx.emit("page.fetched", json!({"bytes": fetched??}))?;
    }
    cx.emit("pages.fetched", json!({"count": done}))?;
    Ok(())
}

/// Ends while a blocking task of its runtime keeps running.
#[job]
async fn linger(cx: &JobContext) -> JobResult {
    let blocking = tokio::task::spawn_blocking(|| {
        loop {
            std::thread::park();
        }
    });
    drop(blocking);
    cx.emit("left", json!({}))?;
    Ok(())
}
