//! Parquet files as other programs read them: DuckDB and pyarrow, from the virtual environment of the BigQuery emulator.

use crate::built;
use lorchestra_test_setup::venv;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// What both readers make of some files.
#[derive(Debug)]
pub struct Tables {
    /// The rows of a query on the table `t`, by DuckDB.
    pub rows: Vec<Vec<Value>>,
    /// The types of the columns of each file, by pyarrow, in order of the file names.
    pub types: Vec<Value>,
}

const READER: &str = r#"
import glob, json, sys
import duckdb, pyarrow.parquet
pattern, query = sys.argv[1:]
files = sorted(glob.glob(pattern))
types = []
for name in files:
    table = pyarrow.parquet.read_table(name)
    table.validate(full=True)
    assert table.num_rows > 0, name
    types.append({field.name: str(field.type) for field in table.schema})
connection = duckdb.connect()
connection.execute(f"CREATE VIEW t AS SELECT * FROM read_parquet({files!r}, union_by_name = true)")
rows = [[None if value is None else value if isinstance(value, (bool, int, float)) else str(value) for value in row]
        for row in connection.execute(query).fetchall()]
print(json.dumps({"rows": rows, "types": types}))
"#;

/// Reads all files that match a pattern, and runs a query on them.
///
/// # Panics
/// If a file is incomplete or without rows, or the query fails.
#[must_use]
pub fn read(pattern: &Path, query: &str) -> Tables {
    let venv = venv::ensure(&built::target()).unwrap_or_else(|error| panic!("{error}"));
    let ran = Command::new(venv.join("bin/python")).args(["-c", READER]).arg(pattern).arg(query).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let read: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let rows = read["rows"].as_array().unwrap().iter().map(|row| row.as_array().unwrap().clone()).collect();
    Tables { rows, types: read["types"].as_array().unwrap().clone() }
}
