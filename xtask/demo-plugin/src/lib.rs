//! Job package `shop`, which `cargo xtask demo` runs: a job that continues where its last success ended, one that fails at first, and
//! one that crashes. It depends on nothing but the plugin API, so that the demo is quick to build.
#![forbid(unsafe_code)]

use lorchestra_plugin_api::prelude::*;

plugin! { package = "shop", jobs = [import_orders, sync_stock, print_labels] }

/// Import the orders of a time range.
#[job]
pub fn import_orders(
    cx: &JobContext,
    #[param(default = "last:-7d")] since: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
) -> JobResult {
    cx.emit("orders.imported", json!({ "from": since, "to": until }))?;
    Ok(())
}

/// Copy the stock from the warehouse. The warehouse does not answer the first time.
#[job(retries = 3)]
pub fn sync_stock(cx: &JobContext) -> JobResult {
    if cx.attempt() == 1 {
        return Err("warehouse.example: connection reset".into());
    }
    cx.emit("stock.copied", json!({ "articles": 1200 }))?;
    Ok(())
}

/// Print address labels. The printer's driver aborts the process after two labels.
#[job]
pub fn print_labels(cx: &JobContext) -> JobResult {
    for label in 1..=3 {
        if label == 3 {
            std::process::abort();
        }
        cx.emit("label.printed", json!({ "label": label }))?;
    }
    Ok(())
}
