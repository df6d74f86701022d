//! Everything an author may write, without unsafe of his own.
#![forbid(unsafe_code)]
#![deny(warnings)]

use lorchestra_plugin_api::prelude::*;

/// Output format.
#[derive(ParamEnum, Clone, Copy, Debug)]
pub enum Format {
    /// One object.
    Json,
    NdJson,
    #[param(name = "table")]
    Plain,
}

/// Counts.
///
/// The second paragraph.
#[job(timeout = "30m", retries = 2, overlap = "wait=5m", deprecated = "use count_all")]
pub fn count(
    cx: &JobContext,
    /// Which file.
    input: PathBuf,
    name: Option<String>,
    #[param(default = "nobody")] owner: String,
    #[param(default = -3)] small: i8,
    #[param(default = 10)] at_least: u64,
    #[param(default = 0.5)] ratio: f64,
    #[param(default = "1h30m")] every: Duration,
    #[param(default = "nd-json")] format: Format,
    formats: Vec<Format>,
    #[param(deprecated = "use --names")] nickname: Option<String>,
    names: Vec<String>,
    days: Vec<NaiveDate>,
    api_token: Secret,
    password: Option<Secret>,
    deep: bool,
    #[param(default = true)] wide: bool,
    #[param(default = "-7d")] horizon: DateTime<Utc>,
    #[param(default = "2024-01-31")] day: NaiveDate,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
) -> JobResult {
    let _ = (every, format, formats, nickname, names, days, api_token.expose(), password);
    cx.progress(1, 0);
    cx.set_bookmark(Utc::now())?;
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
