//! The result tables, and their location in docs/explanation/performance.md.

use crate::{Result, cargo};
use std::process::Command;

/// The results, and the machine.
pub(super) struct Report {
    machine: String,
    tables: Vec<(String, String)>,
}

impl Report {
    pub(super) fn new() -> Result<Self> {
        let cores = std::thread::available_parallelism()?;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        // Without the distribution's suffix.
        let kernel = kernel.trim().split(['-', '+']).next().unwrap_or_default();
        let rustc = Command::new("rustc").arg("--version").current_dir(cargo::root()?).output()?;
        let rustc = String::from_utf8_lossy(&rustc.stdout);
        let rustc = rustc.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let load = std::fs::read_to_string("/proc/loadavg")?;
        let load = load.split(' ').next().unwrap_or_default();
        let machine = format!("{cores} cores, Linux {kernel}, {rustc}; load average at the start {load}");
        Ok(Self { machine, tables: Vec::new() })
    }

    pub(super) fn machine(&self) -> &str {
        &self.machine
    }

    pub(super) fn add(&mut self, key: String, table: String) {
        self.tables.push((key, table));
    }

    /// Replaces the text between `<!-- bench:KEY -->` and `<!-- /bench:KEY -->`, for each table.
    pub(super) fn write(&self) -> Result {
        let path = cargo::root()?.join("docs/explanation/performance.md");
        let mut text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        for (key, table) in &self.tables {
            let (begin, end) = (format!("<!-- bench:{key} -->"), format!("<!-- /bench:{key} -->"));
            let missing = || format!("{} has no {begin} … {end}", path.display());
            let from = text.find(&begin).ok_or_else(missing)? + begin.len();
            let to = from + text[from..].find(&end).ok_or_else(missing)?;
            text.replace_range(from..to, &format!("\n`cargo xtask bench {key}` — {}.\n\n{table}\n", self.machine));
        }
        std::fs::write(&path, text)?;
        println!("\nwritten: {}", path.display());
        Ok(())
    }
}
