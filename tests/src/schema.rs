//! Validates results of packages against the JSON Schema next to their sources.

use serde_json::Value;
use std::fs;
use std::path::Path;

/// Checks each line of a file of JSON lines against a schema (draft 2020-12, with formats), and returns their number.
///
/// # Panics
/// With the first line that is not valid, and why.
pub fn check_lines(lines: &Path, schema: &Path) -> usize {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let schema: Value = serde_json::from_str(&read(schema)).expect("a schema is JSON");
    let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema).expect("a valid schema");
    let text = read(lines);
    for (number, line) in text.lines().enumerate() {
        let value: Value = serde_json::from_str(line).expect("a line is JSON");
        if let Some(error) = validator.iter_errors(&value).next() {
            panic!("{}, line {}: {error} at {}", lines.display(), number + 1, error.instance_path());
        }
    }
    text.lines().count()
}
