//! `run_tap --format parquet`: types and exact values as DuckDB and pyarrow read them, and what a kill leaves.

use super::*;
use lorchestra_tests::parquet;

/// Values that lose digits in floats, and a schema that changes on the way; read by DuckDB and pyarrow.
#[test]
fn parquet_files_have_the_types_of_the_schema_and_exact_values() {
    let taps = Taps::new();
    let first = json!({"properties": {
        "id": {"type": "integer"}, "paid": {"type": ["null", "boolean"]}, "price": {"type": "number", "multipleOf": 0.01},
        "rate": {"type": "number"}, "at": {"type": "string", "format": "date-time"}, "day": {"type": "string", "format": "date"},
        "name": {"type": "string"}, "tags": {"type": "array"},
    }});
    let mut second = first.clone();
    second["properties"]["note"] = json!({"type": "string"});
    let schema = |schema: &Value| json!({"type": "SCHEMA", "stream": "orders", "schema": schema, "key_properties": ["id"]});
    let record = |text: &str| format!(r#"{{"type":"RECORD","stream":"orders","record":{text}}}"#);
    let messages = [
        schema(&first).to_string(),
        record(
            r#"{"id":9007199254740993,"paid":true,"price":12345678901234567890.10,"rate":0.1,"at":"2024-02-29T12:00:00.000001+02:00","day":"2024-02-29","name":"ä","tags":[1.10]}"#,
        ),
        record(r#"{"id":2,"paid":null,"price":-0.01}"#),
        schema(&second).to_string(),
        record(r#"{"id":3,"note":"new","price":3}"#),
        record(r#"{"id":4,"rate":0.12345678901234567890,"more":{"a":1}}"#),
        json!({"type": "STATE", "value": 4}).to_string(),
    ];
    fs::write(taps.sandbox.path("lines"), messages.map(|line| line + "\n").concat()).unwrap();
    fs::write(taps.sandbox.path("shop.sh"), format!("cat '{}'", taps.sandbox.arg("lines"))).unwrap();
    let run = ["run-job", "meltano-ingest", "run_tap", "--tap", "sh", "--arg", &taps.sandbox.arg("shop.sh"), "--name", "shop"];
    taps.sandbox.lorchestra(&[&run[..], &["--format", "parquet"]].concat()).exits(0);
    assert_eq!(taps.payloads("tap.completed")[0]["set_aside"], json!({}));
    let files = taps.data("shop/default/orders.?????.parquet");
    assert_eq!(taps.payloads("tap.stream.completed")[0]["file"], files.display().to_string());
    let widened: Vec<Value> = taps.payloads("tap.column.widened").iter().map(|event| event["column"].clone()).collect();
    assert_eq!(widened, [json!("rate"), Value::Null]);
    let columns = "id, paid, price::varchar, rate, epoch_us(\"at\"), day, name, tags, note, _additional_properties";
    let tables = parquet::read(&files, &format!("SELECT {columns} FROM t ORDER BY id"));
    let at = 1_709_200_800_000_001_i64;
    let expected = json!([
        [9_007_199_254_740_993_i64, true, "12345678901234567890.10", "0.1", at, "2024-02-29", "ä", "[1.10]", null, null],
        [2, null, "-0.01", null, null, null, null, null, null, null],
        [3, null, "3.00", null, null, null, null, null, "new", null],
        [4, null, null, "0.12345678901234567890", null, null, null, null, null, "{\"more\":{\"a\":1}}"],
    ]);
    let mut rows = expected.as_array().unwrap().clone();
    rows.rotate_left(1);
    assert_eq!(json!(tables.rows), json!(rows), "{:?}", tables.types);
    let [first, second, last] = &tables.types[..] else { panic!("{:?}", tables.types) };
    let typed = json!({
        "id": "int64", "paid": "bool", "price": "decimal128(38, 2)", "rate": "double", "at": "timestamp[us, tz=UTC]",
        "day": "date32[day]", "name": "string",
    });
    for (column, expected) in typed.as_object().unwrap() {
        assert_eq!(first[column], *expected, "{column}: {first}");
    }
    assert_eq!((&first["note"], &second["note"], &second["rate"]), (&Value::Null, &json!("string"), &json!("double")));
    assert!(last["_additional_properties"].is_string() && last["rate"] != "double", "{last}");

    let other = taps.sandbox.lorchestra(&run).exits(1);
    assert!(
        other.err().contains("contains records as parquet, and --format is jsonl; use --format parquet"),
        "{}",
        other.shown()
    );
}

#[test]
fn a_killed_run_leaves_no_incomplete_parquet_file_and_the_next_completes_it() {
    let taps = Taps::new();
    let parts = taps.data("counter/default/numbers.*.parquet");
    let total = || parquet::read(&parts, "SELECT count(*), count(DISTINCT n), max(n) FROM t").rows[0].clone();
    let flags = ["--format", "parquet"];
    taps.sandbox.lorchestra(&strs(&taps.count(&[], &flags, &json!({"upto": 100})))).exits(0);
    // The tap fails, or the run is killed, while a file is written.
    let died = taps.count(&[], &flags, &json!({"upto": 300_000, "at": 150_005, "then": "die"}));
    taps.sandbox.lorchestra(&strs(&died)).exits(1);
    assert_eq!((total(), taps.state()), (vec![json!(150_000); 3], json!({"n": 150_000})));
    let marker = taps.sandbox.path("hangs");
    let hangs = json!({"upto": 300_000, "at": 290_005, "then": "hang", "marker": marker});
    let mut running = taps.sandbox.start(&strs(&taps.count(&[], &flags, &hangs)));
    let dir = taps.data("counter/default");
    let hidden =
        || fs::read_dir(&dir).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".unfinished"));
    eventually("the tap waits while a file is written", || marker.exists() && hidden());
    running.signal(Signal::KILL);
    eventually("the command has ended", || running.has_ended());
    assert_eq!((total(), taps.state()), (vec![json!(150_000); 3], json!({"n": 150_000})));
    taps.sandbox.lorchestra(&strs(&taps.count(&[], &flags, &json!({"upto": 300_000})))).exits(0);
    assert_eq!((total(), taps.state()), (vec![json!(300_000); 3], json!({"n": 300_000})));
    assert!(!hidden(), "and the file of the killed run is gone");
}
