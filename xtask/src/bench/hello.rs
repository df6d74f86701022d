//! Measures how long an author's first build takes, and the size of the result: a clean build of `example-plugins/hello`, with the profile
//! that `lorchestra new` writes and with that of tests. Once each, since a minute's work is not noisy. Does not include downloads.

use super::Site;
use crate::{Result, cargo};
use std::time::Instant;

pub(super) fn run(site: &Site) -> Result<String> {
    let mut table = String::from("| profile | seconds | crates | library, kB |\n| --- | ---: | ---: | ---: |");
    for (profile, name) in [("dev", "debug"), ("shipped", "shipped")] {
        let target = site.sandbox.path().join("hello-target");
        let mut build = cargo::cargo("build")?;
        build.args(["-p", "hello", "--profile", profile, "--message-format", "json", "--quiet", "--target-dir"]).arg(&target);
        let start = Instant::now();
        let output = build.output()?;
        let took = start.elapsed().as_secs_f64();
        if !output.status.success() {
            return Err(format!(
                "{} failed ({})\n{}",
                cargo::line(&build),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
            .into());
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let packages: std::collections::BTreeSet<String> = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|message| message["package_id"].as_str().map(str::to_owned))
            .collect();
        let bytes = std::fs::metadata(target.join(name).join("libhello.so"))?.len();
        let what = if profile == "dev" { "dev" } else { "release, as `lorchestra new` writes it" };
        table.push_str(&format!("\n| {what} | {took:.0} | {} | {} |", packages.len(), bytes.div_ceil(1000)));
        std::fs::remove_dir_all(&target)?;
    }
    Ok(table)
}
