//! The job `run_tap`: its parameters, and nothing else. [`ingestion`] does the work.

use crate::ingestion::{self, Request};
use crate::tap::Call;
use lorchestra_plugin_api::prelude::*;

/// Run a Singer tap and keep what it sends.
///
/// Calls `TAP [ARG…] --config CONFIG --catalog CATALOG --state STATE` and writes the records of each stream to
/// `<tap>/<account>/<stream>.jsonl` in the package's data directory, its last schema beside them. The tap's last state is kept and
/// handed back to it the next time: it goes on where it ended.
///
/// A state is kept only when all records before it are on the disk; what comes behind the last one is taken away again when the tap
/// fails or the run is killed. So nothing is there twice that the tap does not send twice.
///
/// What the tap writes on its standard error is in the run's log: `lorchestra runs logs RUN`.
// Who excludes whom is the archive's business: a run of another tap may go on beside, and the host does not know taps.
#[job(overlap = "allow")]
pub fn run_tap(
    cx: &JobContext,
    /// The tap: a program on PATH, or a path.
    tap: PathBuf,
    /// An argument for the tap, before those of this job; repeat it for more. `--arg=--flag` for one that begins with a dash.
    arg: Vec<String>,
    /// The tap's config, a JSON file. It holds secrets: mode 0600.
    config: Option<PathBuf>,
    /// The catalog that says which streams to take, as `discover` writes it.
    catalog: Option<PathBuf>,
    /// A state to begin from, instead of the one that is kept.
    state: Option<PathBuf>,
    /// Whose data it is: state and records are kept for each tap and account. Without it: `default`.
    account: Option<String>,
    /// What the tap is called where its data is kept. Without it: the name of its program.
    name: Option<String>,
    /// End a tap that neither sends nor says anything for so long; `0s` for no limit.
    #[param(default = "1h")]
    idle: Duration,
) -> JobResult {
    let request =
        Request { call: Call { program: tap, args: arg, config, catalog }, name, account, state, idle, data_dir: cx.data_dir()? };
    match ingestion::run(&request, cx) {
        Ok(()) => Ok(()),
        // What would fail again is not worth a retry.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}
