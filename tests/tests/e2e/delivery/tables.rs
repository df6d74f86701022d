//! Tables and views in BigQuery: what `events setup` creates and replaces, tables that others created, and tables that are refused.

use lorchestra_tests::bigquery::fake::TableName;
use lorchestra_tests::bigquery::site::{BOTH, Site, Write};
use serde_json::json;

#[test]
fn setup_creates_what_is_missing_and_reports_it_first() {
    for write in BOTH {
        let site = Site::without_table(write);
        let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
        assert!(ended.err().contains("run lorchestra events setup to create the table"), "{}", ended.shown());
        let dry = site.sandbox.lorchestra(&["events", "setup", "--dry-run"]).exits(0);
        assert!(site.fake.table_resource(&site.table).is_none(), "nothing was created");
        let done = site.sandbox.lorchestra(&["events", "setup"]).exits(0);
        let steps =
            |out: &str| out.lines().filter(|line| line.contains("create")).map(|l| l.replace("would ", "")).collect::<Vec<_>>();
        assert_eq!(steps(dry.out()), steps(done.out()));
        let table = site.fake.table_resource(&site.table).unwrap();
        let fields = table["schema"]["fields"].as_array().unwrap();
        assert_eq!(fields.len(), 12);
        assert!(fields.iter().all(|field| field["description"].as_str().is_some_and(|text| text.len() > 10)), "{fields:?}");
        assert_eq!(table["timePartitioning"]["field"], "created_at");
        assert_eq!(table["clustering"]["fields"], json!(["event_type", "source"]));
        let once = TableName::parse("p1.lorchestra.events_once");
        assert_eq!(site.fake.table_resource(&once).is_some(), write == Write::InsertAll);
        assert!(site.delivered().len() == 1 && done.out().contains("and read it back"), "{}", done.shown());
        let again = site.sandbox.lorchestra(&["events", "setup", "--dry-run"]).exits(0);
        assert_eq!(again.out(), "p1.lorchestra.events needs no changes\n");
        assert_eq!(site.flushed(), 2);
    }
}

/// A view of an earlier version gets the current definition; one that a user has created is kept.
#[test]
fn setup_replaces_its_own_views_only() {
    let site = Site::new(Write::InsertAll);
    site.sandbox.lorchestra(&["events", "setup"]).exits(0);
    let views = ["once", "effective"].map(|name| TableName::parse(&format!("p1.lorchestra.events_{name}")));
    let made = views.each_ref().map(|view| site.fake.table_resource(view).unwrap());
    let query = |view: &TableName| site.fake.table_resource(view).unwrap()["view"]["query"].clone();
    let put = |view: &TableName, description: &serde_json::Value| {
        site.fake.drop_table(view);
        let old = json!({"query": "SELECT * FROM `p1.lorchestra.events`", "useLegacySql": false});
        site.fake.create_table(view, &json!({"view": old, "description": description}));
    };
    put(&views[0], &made[0]["description"]);
    put(&views[1], &json!("ours"));
    let kept = query(&views[1]);
    let dry = site.sandbox.lorchestra(&["events", "setup", "--dry-run"]).exits(0);
    assert_eq!(dry.out(), "would replace view p1.lorchestra.events_once (its definition has changed)\n");
    site.sandbox.lorchestra(&["events", "setup"]).exits(0);
    assert_eq!((query(&views[0]), query(&views[1])), (made[0]["view"]["query"].clone(), kept));
    put(&views[1], &made[1]["description"]);
    site.sandbox.lorchestra(&["events", "setup"]).exits(0);
    assert_eq!(query(&views[1]), made[1]["view"]["query"]);
    let again = site.sandbox.lorchestra(&["events", "setup", "--dry-run"]).exits(0);
    assert_eq!(again.out(), "p1.lorchestra.events needs no changes\n");
}

/// Eight columns, created_at as text: the table of the Python tool.
#[test]
fn the_python_tools_table_keeps_working() {
    for write in BOTH {
        let site = Site::without_table(write);
        site.fake.create_dataset("p1", "lorchestra");
        let names = ["event_id", "event_type", "source", "schema_ref", "created_at", "correlation_id", "subject_id"];
        let mut fields: Vec<_> = names.iter().map(|name| json!({"name": name, "type": "STRING"})).collect();
        fields.push(json!({"name": "payload", "type": "JSON"}));
        site.fake.create_table(&site.table, &json!({"schema": {"fields": fields}}));
        site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
        site.all_is_delivered(write, "eight columns");
        let row = &site.fake.rows(&site.table)[0].values;
        let created = row["created_at"].as_str().unwrap();
        assert!(created.ends_with('Z') && created.len() == 27, "{created}");
        assert!(!row.contains_key("run_id"));
        // Existing columns stay, missing ones are added.
        let done = site.sandbox.lorchestra(&["events", "setup"]).exits(0);
        assert!(done.out().contains("run_id, attempt, package, job"), "{}", done.shown());
        site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
        let rows = site.fake.rows(&site.table);
        assert_eq!(rows.last().unwrap().values["job"], "noop");
        let table = site.fake.table_resource(&site.table).unwrap();
        let created = table["schema"]["fields"].as_array().unwrap().iter().find(|f| f["name"] == "created_at").unwrap().clone();
        assert_eq!(created["type"], "STRING", "nothing is altered");
    }
}

/// Tables that cannot be written to are refused in one sentence that names the change to make; nothing is lost, and a suitable table gets
/// everything.
#[test]
fn unsuitable_tables_are_refused_in_one_sentence() {
    let fields = || lorchestra_tests::bigquery::fake::event_columns();
    let mut required = fields();
    required.as_array_mut().unwrap().push(json!({"name": "tenant", "type": "STRING", "mode": "REQUIRED"}));
    let mut subject = fields();
    subject.as_array_mut().unwrap().iter_mut().find(|field| field["name"] == "subject_id").unwrap()["mode"] = json!("REQUIRED");
    let mut loaded = fields();
    loaded.as_array_mut().unwrap().push(json!({"name": "loaded_at", "type": "TIMESTAMP"}));
    let partition = |by: &str| json!({"schema": {"fields": loaded}, "timePartitioning": {"type": "DAY", "field": by}, "requirePartitionFilter": true});
    let view = json!({"view": {"query": "SELECT 1 AS event_id", "useLegacySql": false}});
    for write in BOTH {
        for (resource, expected) in [
            (
                json!({"schema": {"fields": required}}),
                "column tenant is REQUIRED, but events have no value for it: make it NULLABLE",
            ),
            (
                json!({"schema": {"fields": subject}}),
                "column subject_id is REQUIRED, but some events have no value for it: make it NULLABLE",
            ),
            (view.clone(), "is a VIEW: name the table to write events to"),
            (partition("loaded_at"), "requires a partition filter on column loaded_at"),
        ] {
            let site = Site::without_table(write);
            site.fake.create_table(&site.table, &resource);
            let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
            assert_eq!(ended.err().lines().count(), 1, "{}", ended.shown());
            assert!(
                ended.err().contains(expected) && ended.err().contains("2 events are not in BigQuery yet"),
                "{}",
                ended.shown()
            );
            site.fake.drop_table(&site.table);
            site.fake.create_table(&site.table, &partition("created_at"));
            assert_eq!(site.flushed(), 2, "{write:?} {expected}");
            site.all_is_delivered(write, expected);
        }
    }
}
