//! Generates the JSON Schemas in docs/reference/schemas from the built binary, which has them from its types.

use crate::Result;
use std::path::Path;
use std::process::Command;

/// Where they are, relative to the workspace's root.
pub(super) const DIR: &str = "docs/reference/schemas";

/// Returns the path and the text of each schema.
pub(super) fn files(lorchestra: &Path) -> Result<Vec<(String, String)>> {
    let names = print(lorchestra, &["schemas"])?;
    names.lines().map(|name| Ok((format!("{DIR}/{name}.json"), print(lorchestra, &["schemas", name])?))).collect()
}

/// Adds an error for each file that is not generated any more.
pub(super) fn check_others(root: &Path, generated: &[(String, String)], errors: &mut Vec<String>) -> Result {
    for entry in std::fs::read_dir(root.join(DIR))? {
        let path = format!("{DIR}/{}", entry?.file_name().to_string_lossy());
        if !generated.iter().any(|(known, _)| *known == path) {
            errors.push(format!("{path}: there is no such schema: remove the file"));
        }
    }
    Ok(())
}

fn print(lorchestra: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(lorchestra).args(args).env_clear().env("HOME", "/nonexistent").output()?;
    if !output.status.success() {
        return Err(format!("lorchestra {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
