//! Everything an author may write, without unsafe of his own.
#![forbid(unsafe_code)]
#![deny(warnings)]

use lorchestra_plugin_api::prelude::*;

/// Counts.
///
/// The second paragraph.
#[job]
pub fn count(
    cx: &JobContext,
    /// Which file.
    input: PathBuf,
    name: Option<String>,
    #[param(default = "nobody")] owner: String,
    #[param(default = -3)] small: i8,
    #[param(default = 10)] at_least: u64,
    #[param(default = 0.5)] ratio: f64,
    deep: bool,
    #[param(default = true)] wide: bool,
    #[param(default = "-7d")] horizon: DateTime<Utc>,
    #[param(default = "2024-01-31")] day: NaiveDate,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
) -> JobResult {
    let _ = (input, name, owner, small, at_least, ratio, deep, wide, horizon, day, since, until);
    cx.emit("counted", json!({"n": 1}))?;
    if cx.is_cancelled() {
        Err("cancelled").permanent()?;
    }
    Ok(())
}

/// A job may return any error.
#[job]
fn r#match(_cx: &JobContext) -> Result<(), std::io::Error> {
    std::fs::metadata("/")?;
    Ok(())
}

mod inner {
    use lorchestra_plugin_api::prelude::*;

    #[job]
    pub(crate) fn elsewhere(_cx: &JobContext, r#type: Option<String>) -> JobResult {
        let _ = r#type;
        Ok(())
    }
}

plugin! {
    package = "words-2_x",
    jobs = [count, r#match, inner::elsewhere],
}

fn main() {}
