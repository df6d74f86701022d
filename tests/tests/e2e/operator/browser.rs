//! `report` in a real browser, headless Chromium: nothing on the console, something on the screen with 0 runs, 1 and many, light and dark, on a
//! wide screen and on a phone. The pictures stay in the target directory, to be looked at. `cargo xtask soak` has more runs
//! (LORCHESTRA_TEST_REPORTED).

use lorchestra_test_setup::chromium;
use lorchestra_tests::browser::{Browser, Screen, Shown};
use lorchestra_tests::{Fixture, Sandbox, built};
use std::fs;
use std::path::Path;

const WIDE: Screen = Screen { width: 1280, height: 1600, is_phone: false, is_dark: false };
const DARK: Screen = Screen { is_dark: true, ..WIDE };
/// The most common width of phones.
const PHONE: Screen = Screen { width: 390, height: 844, is_phone: true, is_dark: false };

/// Width of the screen, width of the contents, smallest text in px, and the background.
const MEASURE: &str = "(() => {
    const texts = [...document.body.querySelectorAll('p, td, th, h1, h2, b, a')].filter(e => e.innerText.trim());
    const sizes = texts.map(e => parseFloat(getComputedStyle(e).fontSize));
    return [innerWidth, document.documentElement.scrollWidth, Math.min(...sizes), getComputedStyle(document.body).backgroundColor];
})()";

#[expect(clippy::disallowed_methods, reason = "the environment sets the size of a soak")]
fn reported() -> u32 {
    std::env::var("LORCHESTRA_TEST_REPORTED").map_or(2000, |runs| runs.parse().unwrap())
}

#[test]
fn a_report_looks_right_in_chromium() {
    let root = chromium::ensure(&built::target()).unwrap();
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
    let count = reported();
    let apart = 20 * 86_400_000_000_i64 / i64::from(count);
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
        "started_at" => format!("t.started_at - i * {apart}"),
        "ended_at" => format!("t.ended_at - i * {apart} + i % 1000 * 1000000"),
        _ => format!("t.{name}"),
    };
    let values: Vec<String> = columns.iter().map(value).collect();
    db.execute_batch(&format!(
        "INSERT INTO runs ({}) WITH RECURSIVE series (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM series WHERE i < {count})
         SELECT {} FROM series CROSS JOIN (SELECT * FROM runs WHERE n = 1) t",
        columns.join(", "),
        values.join(", ")
    ))
    .unwrap();
    drop(db);
    let many = report("many");
    let mut browser = Browser::start(&chromium::headless(&root, &sandbox.path("profile")));
    let mut sizes = Vec::new();
    for (name, file) in [("none", &none), ("one", &one), ("many", &many)] {
        let mut show = |screen_name: &str, screen: Screen| {
            let shown = browser.show(Path::new(file), screen, MEASURE);
            fs::write(pictures.join(format!("{name}-{screen_name}.png")), &shown.picture).unwrap();
            assert!(shown.problems.is_empty(), "{name} {screen_name}: {:#?}", shown.problems);
            shown
        };
        let [wide, dark, phone] = [("wide", WIDE), ("dark", DARK), ("phone", PHONE)].map(|(name, screen)| show(name, screen));
        let background = |shown: &Shown| shown.value[3].as_str().unwrap().to_owned();
        assert_ne!(background(&wide), background(&dark), "{name}");
        assert_eq!(background(&wide), background(&phone), "{name}");
        // Tables scroll, and the page does not: it is as wide as the screen, and its text is not scaled down.
        let width = u64::from(PHONE.width);
        let [screen, contents, text] = [0, 1, 2].map(|at| phone.value[at].as_f64().unwrap());
        assert!(screen == width as f64 && contents <= screen && text >= 12.0, "{name}: {}", phone.value);
        sizes.push(wide.picture.len());
    }
    assert!(sizes[0] < sizes[2], "many runs show more than none: {sizes:?}");
    eprintln!("pictures: {}", pictures.display());
}
