//! Support for `async` jobs: a Tokio runtime inside the plugin, on the job's thread.
//!
//! Each call gets a current-thread runtime with timers and sockets. It ends with the call: spawned tasks that were not awaited are
//! dropped, and a blocking name lookup is not waited for. Cancellation is read from the sink through
//! [`JobContext::is_cancelled`].

use crate::context::JobContext;
use crate::error::JobError;
use std::fmt;
use std::future::Future;
use std::time::Duration;

/// Interval between two checks for cancellation.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Runs an `async` job to completion. Called by code that `#[job]` generates.
///
/// # Errors
/// Fails if the system has no resources for a runtime.
pub fn block_on<F: Future>(job: F) -> Result<F::Output, JobError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let output = runtime.block_on(job);
    runtime.shutdown_background();
    Ok(output)
}

/// The run was cancelled before the awaited future completed. Returned by [`JobContext::until_cancelled`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the run was cancelled")
    }
}

impl std::error::Error for Cancelled {}

impl JobContext {
    /// Completes when the run is cancelled (time limit, Ctrl-C, `runs stop`). Meant for `tokio::select!`.
    pub async fn cancelled(&self) {
        while !self.is_cancelled() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Awaits `work` until it completes or the run is cancelled, whichever comes first. On cancellation `work` is dropped.
    ///
    /// # Errors
    /// Returns [`Cancelled`] if the run was cancelled first. `cx.until_cancelled(request.send()).await??` then ends the job with
    /// an error.
    pub async fn until_cancelled<F: Future>(&self, work: F) -> Result<F::Output, Cancelled> {
        tokio::select! {
            // If both are ready, keep the result: the work is already done.
            biased;
            output = work => Ok(output),
            () = self.cancelled() => Err(Cancelled),
        }
    }
}
