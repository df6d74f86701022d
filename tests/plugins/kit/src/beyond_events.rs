//! What a job leaves besides events, and how several threads use one context.

use lorchestra_plugin_api::prelude::*;
use std::time::Duration;

/// Leaves a result, an artifact, counters and progress, and fills its temporary directory. Writes the path of that to the marker.
#[job]
pub(crate) fn produce(
    cx: &JobContext,
    marker: PathBuf,
    artifact: PathBuf,
    /// `return`, `fail`, `fail_at_first`, `abort`, or `wait` (for ever)
    #[param(default = "return")]
    then: String,
    token: Option<Secret>,
) -> JobResult {
    let temp = cx.temp_dir()?;
    let locked = temp.join("below/locked");
    std::fs::create_dir_all(&locked)?;
    std::fs::write(locked.join("file"), "x")?;
    // A directory that its owner cannot change, as some archives contain.
    std::fs::set_permissions(&locked, std::os::unix::fs::PermissionsExt::from_mode(0o500))?;
    std::fs::write(&artifact, format!("of attempt {}", cx.attempt()))?;
    cx.artifact(&artifact)?;
    cx.input("file", "/srv/orders.csv")?;
    cx.output("bigquery", "shop.raw.orders")?;
    cx.count("rows.read", 3)?;
    cx.count("rows.read", 4)?;
    cx.progress(7, 9);
    cx.result(json!({ "attempt": cx.attempt(), "token": token.map(|token| token.expose().to_owned()) }))?;
    std::fs::write(&marker, temp.display().to_string())?;
    match &*then {
        "fail" => Err("failed after the result")?,
        "fail_at_first" if cx.attempt() == 1 => Err("not this time")?,
        "abort" => std::process::abort(),
        "wait" => loop {
            std::thread::sleep(Duration::from_millis(20));
        },
        _ => Ok(()),
    }
}

/// Exceeds the limits of results, and emits the errors.
#[job]
pub(crate) fn overdo(cx: &JobContext) -> JobResult {
    let errors = [
        cx.result(json!([1])),
        cx.result(json!({ "text": "x".repeat(70_000) })),
        cx.artifact("/no/such/file"),
        cx.count("Rows", 1),
    ];
    let errors: Vec<String> = errors.into_iter().filter_map(|result| result.err().map(|error| error.to_string())).collect();
    cx.emit("refused", json!({ "errors": errors }))?;
    Ok(())
}

/// Emits from several threads.
#[job]
pub(crate) fn spread(cx: &JobContext, #[param(default = 4)] threads: u64, #[param(default = 250)] each: u64) -> JobResult {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || -> JobResult {
                    for n in 0..each {
                        cx.emit("number", json!({ "thread": thread, "n": n }))?;
                        cx.count("numbers", 1)?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    })
}

/// Emits its paths.
#[job]
pub(crate) fn paths(
    cx: &JobContext,
    one: Option<PathBuf>,
    #[param(default = "~/mail")] standard: PathBuf,
    many: Vec<PathBuf>,
) -> JobResult {
    cx.emit("given", json!({ "one": one, "standard": standard, "many": many }))?;
    Ok(())
}
