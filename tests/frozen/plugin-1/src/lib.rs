//! A plugin of ABI revision 1 that uses all of what a plugin could use then.

use lorchestra_plugin_api::prelude::*;
use lorchestra_plugin_api::tracing;

plugin! { package = "frozen-1", jobs = [everything, fail, panic_now, wait] }

/// Uses each method of its context.
#[job]
fn everything(
    cx: &JobContext,
    /// Any text.
    text: Option<String>,
    #[param(default = 500)] number: u32,
    #[param(default = "-7d")] since: DateTime<Utc>,
    account: Option<String>,
    dry: bool,
) -> JobResult {
    let span = tracing::info_span!("frozen", revision = 1);
    let _entered = span.enter();
    tracing::info!(number, "traced");
    cx.emit("one", json!({"text": text, "number": number, "since": since, "account": account, "dry": dry}))?;
    cx.emit_with(Event::new("with", json!({}))?.schema_ref("schema").correlation_id("correlation").subject_id("subject"))?;
    let many = cx.emit_all((0..300).filter_map(|n| Event::new("many", json!({"n": n})).ok()))?;
    cx.flush()?;
    std::fs::write(cx.data_dir()?.join("left"), "by revision 1")?;
    cx.emit("told", json!({"many": many, "run_id": cx.run_id(), "attempt": cx.attempt(), "cancelled": cx.is_cancelled()}))?;
    Ok(())
}

/// Returns an error that is not worth a retry.
#[job]
fn fail(_cx: &JobContext) -> JobResult {
    Err("revision 1 gives up").permanent()
}

/// Panics.
#[job]
fn panic_now(_cx: &JobContext) -> JobResult {
    panic!("revision 1 panics");
}

/// Waits until it is cancelled.
#[job]
fn wait(cx: &JobContext, marker: PathBuf) -> JobResult {
    std::fs::write(marker, std::process::id().to_string())?;
    while !cx.is_cancelled() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(())
}
