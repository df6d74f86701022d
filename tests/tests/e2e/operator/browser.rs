//! `report` in a real browser, headless Chromium: no error on the console, something on the screen with 0 runs, 1 and many, light and dark,
//! on a wide screen and on a phone. The pictures stay in the target directory, to be looked at. Only where `cargo xtask soak` has set
//! Chromium up.

use lorchestra_test_setup::chromium;
use lorchestra_tests::{Fixture, Sandbox, built};
use std::fs;

#[test]
fn a_report_looks_right_in_chromium() {
    let Some(root) = chromium::found(&built::target()) else {
        eprintln!("NOT SHOWN: Chromium is not set up; cargo xtask soak does that");
        return;
    };
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let pictures = built::target().join("tmp/report");
    fs::create_dir_all(&pictures).unwrap();
    let report = |name: &str| {
        let file = sandbox.arg(&format!("{name}.html"));
        sandbox.lorchestra(&["report", "-o", &file]).exits(0);
        file
    };
    let none = report("none");
    sandbox.lorchestra(&["run-job", "-q", "misbehave", "noop"]).exits(0);
    let one = report("one");
    // The same run again and again, over twenty days and two hundred jobs, every twentieth of them failed.
    let db = rusqlite::Connection::open(sandbox.state().join("lorchestra.db")).unwrap();
    let columns: Vec<String> = db
        .prepare("SELECT name FROM pragma_table_info('runs')")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    let value = |name: &String| match name.as_str() {
        "n" => "i + 1".to_owned(),
        "run_id" => "printf('019b7a3d-0000-7000-8000-%012x', i)".to_owned(),
        "job" => "'job_' || (i % 200)".to_owned(),
        "state" => "CASE WHEN i % 20 = 0 THEN 'failed' ELSE t.state END".to_owned(),
        "cause" | "cause_key" => "CASE WHEN i % 20 = 0 THEN 'timeout' ELSE '' END".to_owned(),
        "started_at" => "t.started_at - i * 17280000".to_owned(),
        "ended_at" => "t.ended_at - i * 17280000 + i % 1000 * 1000000".to_owned(),
        _ => format!("t.{name}"),
    };
    let values: Vec<String> = columns.iter().map(value).collect();
    db.execute_batch(&format!(
        "INSERT INTO runs ({}) WITH RECURSIVE series (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM series WHERE i < 100000)
         SELECT {} FROM series CROSS JOIN (SELECT * FROM runs WHERE n = 1) t",
        columns.join(", "),
        values.join(", ")
    ))
    .unwrap();
    drop(db);
    let many = report("many");
    let mut sizes = Vec::new();
    for (name, file) in [("none", &none), ("one", &one), ("many", &many)] {
        for (screen, size, dark) in [("light", "1280,1600", false), ("dark", "1280,1600", true), ("phone", "500,1000", false)] {
            let picture = pictures.join(format!("{name}-{screen}.png"));
            let mut browser = chromium::screenshot(&root, &sandbox.path("profile"));
            browser.arg(format!("--window-size={size}")).arg(format!("--screenshot={}", picture.display()));
            browser.args(dark.then_some("--force-dark-mode")).arg(format!("file://{file}"));
            let output = browser.output().unwrap();
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && !log.contains(":CONSOLE"), "{name} {screen}: {log}");
            sizes.push((name, screen, fs::read(&picture).unwrap()));
        }
    }
    for pair in sizes.chunks(3) {
        assert!(pair[0].2 != pair[1].2, "{}: dark is like light", pair[0].0);
    }
    assert!(sizes[0].2.len() < sizes[6].2.len(), "many runs show more than none");
    eprintln!("pictures: {}", pictures.display());
}
