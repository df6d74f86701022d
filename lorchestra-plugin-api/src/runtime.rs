//! Jobs that are `async`: a runtime of the plugin's own, on the job's thread.
//!
//! Owns the runtime of one call: a current-thread one, with timers and sockets. Nothing of it outlives the call: what was spawned and
//! not awaited is dropped with it, and a name look-up that hangs in the system is not waited for. Talks to the sink, through
//! [`JobContext::is_cancelled`].

use crate::context::JobContext;
use crate::error::JobError;
use std::fmt;
use std::future::Future;
use std::time::Duration;

/// Between two looks at whether the run was asked to end.
const LOOK: Duration = Duration::from_millis(20);

/// Runs an `async` job to its end. Called by the code that `#[job]` makes.
///
/// # Errors
/// The system has no resources for a runtime.
pub fn block_on<F: Future>(job: F) -> Result<F::Output, JobError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let output = runtime.block_on(job);
    runtime.shutdown_background();
    Ok(output)
}

/// The run was asked to end before the awaited thing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the run was asked to end")
    }
}

impl std::error::Error for Cancelled {}

impl JobContext {
    /// Ends when the run is asked to end (deadline, Ctrl-C, `runs stop`): for `tokio::select!`.
    pub async fn cancelled(&self) {
        while !self.is_cancelled() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Awaits `work`, or the request to end: whichever comes first. `work` is dropped where it stands when the run is asked to end.
    ///
    /// # Errors
    /// The run was asked to end. `cx.until_cancelled(request.send()).await??` ends the job.
    pub async fn until_cancelled<F: Future>(&self, work: F) -> Result<F::Output, Cancelled> {
        tokio::select! {
            // What is ready is taken: it was paid for.
            biased;
            output = work => Ok(output),
            () = self.cancelled() => Err(Cancelled),
        }
    }
}
