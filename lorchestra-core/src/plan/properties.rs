//! Properties that hold for every text and every request, tested on random ones.

use super::tests::{job, now, param, request};
use super::*;
use lorchestra_plugin_api::manifest::JobManifest;
use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;

/// Texts that are nearly times, durations or numbers, which purely random text hardly ever is.
fn almost() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "-",
        "+",
        "\u{2212}",
        " ",
        ":",
        ".",
        ",",
        "/",
        "_",
        "T",
        "t",
        "Z",
        "z",
        "[",
        "]",
        "0",
        "1",
        "7",
        "30",
        "31",
        "60",
        "99",
        "2024",
        "9999",
        "0000",
        "-01",
        "-31",
        "+01:00",
        "10:00:00",
        "18446744073709551615",
        "s",
        "m",
        "min",
        "h",
        "d",
        "w",
        "mo",
        "y",
        "days",
        "Months",
        "ms",
        "now",
        "today",
        "yesterday",
        "tomorrow",
        "last",
        "last:",
        " ago",
        "UTC",
        "e3",
        "0x",
        "inf",
        "ü",
        "\u{0}",
        "\n",
    ]);
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![3 => almost(), 1 => any::<String>()]
}

/// Instants from the year 1 to the year 9999.
fn instant() -> impl Strategy<Value = DateTime<Utc>> {
    (-62_135_596_800_i64..253_402_300_800, 0_u32..1_000_000_000).prop_map(|(s, ns)| DateTime::from_timestamp(s, ns).unwrap())
}

fn unit() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["s", "min", "h", "d", "w", "mo", "y"])
}

/// Times as a person would type them, mostly valid.
fn time_text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => (0_u32..100, unit()).prop_map(|(n, unit)| format!("-{n}{unit}")),
        2 => instant().prop_map(time::show),
        1 => any_text(),
    ]
}

/// The corrections that a message proposes.
fn proposals(error: &time::TimeError) -> Vec<&str> {
    match error {
        time::TimeError::Form { write, .. } => vec![write],
        time::TimeError::Ambiguous { first, second, .. } => vec![first, second],
        _ => vec![],
    }
}

fn windowed() -> JobManifest {
    job(vec![
        param("since", "datetime", false, json!("-7d"), ""),
        param("until", "datetime", true, Value::Null, ""),
        param("n", "i16", true, Value::Null, ""),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn times_never_panic_and_are_within_range(text in any_text(), now in instant()) {
        if let Ok(at) = time::parse(&text, now) {
            prop_assert_eq!(at.timestamp_subsec_nanos() % 1000, 0);
            // Parsing a formatted time gives the same time.
            prop_assert_eq!(time::parse(&time::show(at), now), Ok(at));
        }
        if let Ok(day) = time::parse_date(&text, now) {
            prop_assert_eq!(time::parse_date(&day.to_string(), now), Ok(day));
        }
    }

    #[test]
    fn corrections_are_accepted(text in any_text(), now in instant()) {
        if let Err(error) = time::parse(&text, now) {
            for write in proposals(&error) {
                prop_assert!(time::parse(write, now).is_ok(), "{text:?}: {error}");
            }
        }
        if let Err(error) = time::parse_date(&text, now) {
            for write in proposals(&error) {
                prop_assert!(time::parse_date(write, now).is_ok(), "{text:?}: {error}");
            }
        }
        match duration::parse(&text) {
            Err(duration::DurationError::Form { write, .. }) => prop_assert!(duration::parse(&write).is_ok(), "{text:?}: {write}"),
            Err(duration::DurationError::NoUnit { seconds, minutes }) => {
                prop_assert!(duration::parse(&seconds).is_ok(), "{text:?}: {seconds}");
                prop_assert!(duration::parse(&minutes).is_ok(), "{text:?}: {minutes}");
            }
            _ => {}
        }
    }

    #[test]
    fn a_formatted_duration_is_parsed_as_itself(milliseconds in 0..=duration::MAX.as_secs() * 1000) {
        let duration = Duration::from_millis(milliseconds);
        prop_assert_eq!(duration::parse(&duration::show(duration)), Ok(duration));
    }

    #[test]
    fn durations_are_bounded(text in any_text()) {
        if let Ok(duration) = duration::parse(&text) {
            prop_assert!(duration <= duration::MAX);
        }
    }

    #[test]
    fn a_longer_span_is_never_later(unit in unit(), a in 0_u32..3000, b in 0_u32..3000, now in instant()) {
        let (less, more) = (a.min(b), a.max(b));
        let back = |n: u32| time::parse(&format!("-{n}{unit}"), now);
        match (back(less), back(more)) {
            (Ok(later), Ok(earlier)) => prop_assert!(earlier <= later && later <= now),
            (Err(_), Ok(_)) => prop_assert!(false, "{more}{unit} reaches where {less}{unit} does not"),
            (_, Err(error)) => prop_assert_eq!(error, time::TimeError::Range),
        }
    }

    #[test]
    fn the_same_text_at_a_later_now_is_never_earlier(text in almost(), a in instant(), b in instant()) {
        if let (Ok(early), Ok(late)) = (time::parse(&text, a.min(b)), time::parse(&text, a.max(b))) {
            prop_assert!(early <= late, "{text:?}");
        }
    }

    #[test]
    fn an_instant_is_parsed_with_any_offset(at in instant(), minutes in -1439_i32..=1439) {
        let offset = chrono::FixedOffset::east_opt(minutes * 60).unwrap();
        let Some(local) = at.naive_utc().checked_add_offset(offset) else { return Ok(()) };
        prop_assume!((1..=9999).contains(&chrono::Datelike::year(&local)));
        let text = at.with_timezone(&offset).to_rfc3339();
        prop_assert_eq!(time::parse(&text, now()), Ok(time::to_micros(at)), "{}", text);
    }

    #[test]
    fn integers_are_parsed_as_in_rust(text in prop_oneof![almost(), "[+-]?[0-9]{1,6}"]) {
        let job = windowed();
        let ours = resolve(request(&job, &[("n", &text)])).ok().map(|plan| plan.params["n"].as_i64().unwrap());
        prop_assert_eq!(ours, text.parse::<i16>().ok().map(i64::from), "{:?}", text);
    }

    #[test]
    fn a_plan_never_has_an_empty_window_and_an_error_is_never_empty(
        since in prop::option::of(time_text()), until in prop::option::of(time_text()), name in any_text(), text in any_text(),
        with_name in any::<bool>(), bookmark in prop::option::of(instant()),
    ) {
        let job = windowed();
        let mut values = Vec::new();
        values.extend(since.as_deref().map(|text| ("since", text)));
        values.extend(until.as_deref().map(|text| ("until", text)));
        if with_name {
            values.push((&name, &text));
        }
        match resolve(PlanRequest { bookmark, ..request(&job, &values) }) {
            Ok(plan) => {
                let window = plan.window.unwrap();
                prop_assert!(window.since.unwrap() < window.until);
                // The job receives the same ends.
                prop_assert_eq!(&plan.params["since"], &json!(window.since.map(time::show)));
                prop_assert_eq!(&plan.params["until"], &json!(time::show(window.until)));
            }
            Err(error) => {
                prop_assert!(!error.faults.is_empty());
                for fault in &error.faults {
                    let line = fault.to_string();
                    prop_assert!(!line.is_empty() && !line.contains(char::is_control) && line.chars().count() < 500, "{line:?}");
                }
            }
        }
    }
}
