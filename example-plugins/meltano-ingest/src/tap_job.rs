//! The job `run_tap`: its parameters. [`ingestion`] does the work.

use crate::checkpoint::Format;
use crate::ingestion::{self, Request};
use crate::tap::Call;
use lorchestra_plugin_api::prelude::*;

/// Run a Singer tap and store its records.
///
/// Calls `TAP [ARG…] --config CONFIG --catalog CATALOG --state STATE` and writes the records of each stream to
/// `<tap>/<account>/<stream>.jsonl` in the package's data directory, with the latest schema next to it. The job stores the tap's
/// last state and passes it to the tap in the next run, which continues from there.
///
/// A state is stored only after all records before it are on disk. Records after the last state are removed when the tap fails or
/// the run is killed. So the files contain no duplicates, unless the tap itself sends a record twice.
///
/// With `--format parquet` each stream becomes numbered Parquet files, whose columns follow its JSON Schema.
///
/// The tap's stderr goes to the run's log: `lorchestra runs logs RUN`.
// The archive has its own lock per tap and account. The host knows only accounts, and would not let two taps run at once.
#[job(overlap = "allow")]
pub fn run_tap(
    cx: &JobContext,
    /// Tap to run: a program on PATH, or a path
    tap: PathBuf,
    /// Additional argument for the tap (repeatable); write `--arg=--flag` for one that starts with a dash
    arg: Vec<String>,
    /// The tap's config, a JSON file; use mode 0600 if it contains secrets
    config: Option<PathBuf>,
    /// Catalog with the selected streams, as written by `discover`
    catalog: Option<PathBuf>,
    /// State to start from, instead of the stored one; also as `meltano state get` prints it
    state: Option<PathBuf>,
    /// File format of the records
    #[param(default = "jsonl")]
    format: Format,
    /// Account name; state and records are stored per tap and account [default: `default`]
    account: Option<String>,
    /// Directory name for the tap's data [default: the name of its program]
    name: Option<String>,
    /// Stop the tap when it prints nothing for this long (`0s`: no limit)
    #[param(default = "1h")]
    idle: Duration,
    /// Log the number of records by stream this often (`0s`: never)
    #[param(default = "1m")]
    progress: Duration,
) -> JobResult {
    let call = Call { program: tap, args: arg, config, catalog };
    let request = Request { call, name, account, state, format, idle, progress, data_dir: cx.data_dir()? };
    match ingestion::run(&request, cx) {
        Ok(()) => Ok(()),
        // Retrying would fail in the same way.
        Err(error) if error.is_permanent() => Err(error).permanent(),
        Err(error) => Err(error.into()),
    }
}
