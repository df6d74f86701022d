//! Values of every kind, written and read back by the parquet crate.

use super::*;
use crate::layout::Widened;
use lorchestra_plugin_api::serde_json::json;
use parquet::file::reader::{FileReader, SerializedFileReader};

fn layout() -> Arc<Layout> {
    let schema = json!({"properties": {
        "at": {"type": "string", "format": "date-time"},
        "cents": {"type": "number", "multipleOf": 0.01},
        "day": {"type": ["null", "string"], "format": "date"},
        "more": {"type": "object"},
        "n": {"type": "integer"},
        "ok": {"type": "boolean"},
        "text": {"type": "string"},
        "x": {"type": "number"},
    }});
    Arc::new(Layout::of(&schema, &Widened::default()))
}

/// Writes the first `count` rows, and returns them as the reader prints them.
fn written(rows: &mut Rows, count: usize) -> Vec<String> {
    let mut writer = SerializedFileWriter::new(Vec::new(), rows.layout().parquet_type().unwrap(), Arc::default()).unwrap();
    rows.write(count, &mut writer).unwrap();
    let file = Bytes::from(writer.into_inner().unwrap());
    let reader = SerializedFileReader::new(file).unwrap();
    reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect()
}

#[test]
fn values_are_exact() {
    let mut rows = Rows::new(layout());
    rows.push(
        r#"{"n":-9223372036854775808,"x":0.1,"cents":-1234567890123456789012345678901234.56,"ok":true,"text":"a\u00e4\n","more":{"b": [1.10]},"at":"2024-02-29T23:59:59.123456+02:00","day":"1969-12-31"}"#,
    )
    .unwrap();
    rows.push(r#"{"text":null,"n":1e3,"n":2.0}"#).unwrap();
    rows.push("{}").unwrap();
    let null = "{at: null, cents: null, day: null, more: null, n: null, ok: null, text: null, x: null}";
    assert_eq!(
        written(&mut rows, 3),
        [
            "{at: 2024-02-29 21:59:59.123456 +00:00, cents: -1234567890123456789012345678901234.56, day: 1969-12-31, more: \"{\"b\": [1.10]}\", n: -9223372036854775808, ok: true, text: \"aä\n\", x: 0.1}",
            &null.replace("n: null", "n: 2"),
            null,
        ]
    );
    assert_eq!(rows.len(), 0);
}

#[test]
fn a_value_that_would_change_does_not_fit() {
    let mut rows = Rows::new(layout());
    rows.push(r#"{"n":1}"#).unwrap();
    for record in [
        r#"{"n":9223372036854775808}"#,
        r#"{"n":1.5}"#,
        r#"{"n":"1"}"#,
        r#"{"x":12345678901234567.1}"#,
        r#"{"x":"1"}"#,
        r#"{"cents":1.005}"#,
        r#"{"ok":1}"#,
        r#"{"text":1}"#,
        r#"{"text":"\ud83d"}"#,
        r#"{"at":"2024-01-01T00:00:00.1234567Z"}"#,
        r#"{"at":"2024-12-31T23:59:60Z"}"#,
        r#"{"at":"soon"}"#,
        r#"{"day":"2024-1-1"}"#,
        r#"{"day":"2024-02-30"}"#,
    ] {
        let misfit = rows.push(record).unwrap_err();
        let Misfit::Column(at) = misfit else { panic!("{record}: {misfit:?}") };
        assert!(record.starts_with(&format!("{{\"{}\":", rows.layout().columns[at].0)), "{record}: {at}");
    }
    assert_eq!(rows.push(r#"{"n":2,"other":{}}"#), Err(Misfit::Unlisted));
    assert_eq!(rows.push(r#"{"\ud83d":2}"#), Err(Misfit::NotText));
    rows.push(r#"{"n":2,"at":"2024-01-01 00:00:00"}"#).unwrap();
    let read = written(&mut rows, 2);
    assert!(
        read[0].contains("n: 1") && read[1].contains("at: 2024-01-01 00:00:00.000000 +00:00") && read[1].contains("n: 2"),
        "{read:?}"
    );
}

#[test]
fn unlisted_properties_and_columns_of_json_keep_the_text() {
    let schema = json!({"properties": {"n": {"type": "integer"}}});
    let mut rows = Rows::new(Arc::new(Layout::of(&schema, &Widened { json: ["n".to_owned()].into(), unlisted: true })));
    rows.push(r#"{"b\"":1.10,"n":"\ud83d","a": [ ]}"#).unwrap();
    rows.push(r#"{"n":12345678901234567890123456789012345678901234567890}"#).unwrap();
    // The extra column's name is not a property's.
    rows.push(r#"{"n":1,"_additional_properties":2}"#).unwrap();
    rows.push(r#"{"n":1,"_additional_properties":3}"#).unwrap();
    assert_eq!(
        written(&mut rows, 9),
        [
            r#"{n: ""\ud83d"", _additional_properties: "{"b\"":1.10,"a":[ ]}"}"#,
            r#"{n: "12345678901234567890123456789012345678901234567890", _additional_properties: null}"#,
            r#"{n: "1", _additional_properties: "{"_additional_properties":2}"}"#,
            r#"{n: "1", _additional_properties: "{"_additional_properties":3}"}"#,
        ]
    );
}

#[test]
fn rows_are_written_and_removed_from_either_end() {
    let mut rows = Rows::new(layout());
    let text = |n: u32| if n.is_multiple_of(3) { "null".to_owned() } else { format!("\"t{n}\"") };
    for n in 0..10 {
        rows.push(&format!(r#"{{"n":{n},"text":{},"cents":{n}.5}}"#, text(n))).unwrap();
    }
    rows.truncate(8);
    let numbers = |rows: &mut Rows, count| {
        let read = written(rows, count);
        let field = |row: &String, name: &str| row.split(name).nth(1).unwrap().split([',', '}']).next().unwrap().to_owned();
        read.iter().map(|row| [", n: ", ", text: ", "cents: "].map(|name| field(row, name)).join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&mut rows, 3), ["0 null 0.50", "1 \"t1\" 1.50", "2 \"t2\" 2.50"]);
    rows.push(r#"{"n":10,"text":"last","cents":1}"#).unwrap();
    let rest = numbers(&mut rows, 99);
    assert_eq!((rest.len(), &*rest[0], &*rest[1], &*rest[5]), (6, "3 null 3.50", "4 \"t4\" 4.50", "10 \"last\" 1.00"));
}

/// 3,000 columns of which each record has three: the rows need memory for what they have, and `bytes` counts it.
#[test]
fn a_wide_schema_needs_memory_for_the_values_that_are_there() {
    let properties: serde_json::Map<String, serde_json::Value> =
        (0..3000).map(|n| (format!("c{n}"), json!({"type": (["integer", "string"][n % 2])}))).collect();
    let layout = Arc::new(Layout::of(&json!({"properties": properties}), &Widened::default()));
    let mut rows = Rows::new(layout);
    let value = |row: u32, column: u32| if column.is_multiple_of(2) { row.to_string() } else { format!("\"t{row}\"") };
    let columns = |row: u32| [row * 7 % 3000, (row * 7 + 1) % 3000, (row * 11 + 2) % 3000];
    let count = 2000;
    for row in 0..count {
        let [a, b, c] = columns(row).map(|column| format!("\"c{column}\":{}", value(row, column)));
        rows.push(&format!("{{{a},{b},{c}}}")).unwrap();
    }
    let allocated: usize = rows.columns.iter().map(Column::allocated).sum();
    assert!(allocated < 1 << 20, "{allocated} bytes for {count} rows");
    // Vectors have at most twice the capacity that they need, and four values at least.
    assert!(rows.bytes() > allocated / 2 - 3000 * 4 * 16, "{} counted, {allocated} allocated", rows.bytes());
    rows.truncate(1500);
    rows.write(1000, &mut SerializedFileWriter::new(Vec::new(), rows.layout().parquet_type().unwrap(), Arc::default()).unwrap())
        .unwrap();
    let counted: usize = rows.columns.iter().map(Column::size).sum();
    assert_eq!((rows.len(), rows.bytes), (500, counted), "the size is exact after rows were removed from either end");
    let read = written(&mut rows, 2);
    for (row, text) in (1000..).zip(read) {
        for column in columns(row) {
            let wanted = format!("c{column}: {}", value(row, column));
            assert!(text.contains(&format!("{wanted},")) || text.contains(&format!("{wanted}}}")), "{wanted}");
        }
        assert_eq!(text.matches(": null").count(), 3000 - 3, "row {row}");
    }
    rows.truncate(0);
    assert_eq!((rows.bytes(), rows.columns.len()), (0, 0));
}

impl Column {
    /// Bytes that its vectors have allocated.
    fn allocated(&self) -> usize {
        let values = match &self.values {
            Values::Boolean(values) => values.capacity(),
            Values::Int32(values) => values.capacity() * 4,
            Values::Int64(values) => values.capacity() * 8,
            Values::Float(values) => values.capacity() * 8,
            Values::Decimal(values) => values.capacity() * 16,
            Values::Bytes(all, ends) => all.capacity() + ends.capacity() * 8,
        };
        size_of::<Self>() + self.rows.capacity() * 4 + values
    }

    /// The size of its values.
    fn size(&self) -> usize {
        let texts = if let Values::Bytes(all, _) = &self.values { all.len() } else { 0 };
        self.rows.len() * (4 + self.values.size()) + texts
    }
}
