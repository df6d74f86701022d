//! The window of a run: `since` and `until`.

use super::*;

#[test]
fn window_ends_at_the_start_of_the_run() {
    let job = window_job();
    let plan = plan(&job, &[("since", "-7d")]);
    let window = plan.window.unwrap();
    assert_eq!(window.until, plan.resolved_at);
    assert_eq!(time::show(plan.resolved_at), "2024-03-30T12:34:56.789012Z");
    assert_eq!(time::show(window.since.unwrap()), "2024-03-23T12:34:56.789012Z");
    assert_eq!(plan.params["until"], "2024-03-30T12:34:56.789012Z", "passed on");
    let all = super::tests::plan(&job, &[]);
    assert_eq!(all.window, Some(Window { since: None, until: plan.resolved_at }));
    assert!(!all.params.contains_key("since"));
}

#[test]
fn window_exists_only_where_the_job_has_one() {
    let null = || Value::Null;
    let cases = [
        (vec![], false),
        (vec![param("account", "string", true, null(), "")], false),
        (vec![param("since", "string", true, null(), "")], false),
        (vec![param("until", "date", true, null(), "")], false),
        (vec![param("since", "datetime", true, null(), "")], true),
        (vec![param("until", "datetime", true, null(), "")], true),
    ];
    for (params, exists) in cases {
        let job = job(params.clone());
        let plan = plan(&job, &[]);
        assert_eq!(plan.window.is_some(), exists, "{params:?}");
        // Only the job's own `until` parameter is filled in.
        let passed_on = exists && params[0]["name"] == "until";
        assert_eq!(plan.params.contains_key("until"), passed_on, "{params:?}");
    }
    let only_since = job(vec![param("since", "datetime", true, null(), "")]);
    let line = fault(&only_since, &[("since", "2030-01-01")]);
    assert!(line.contains("until 2024-03-30T12:34:56.789012Z (not given: the start of the run); use an earlier since"), "{line}");
}

#[test]
fn window_that_is_empty_names_both_ends_and_their_origins() {
    let typed = window_job();
    assert_eq!(
        fault(&typed, &[("since", "-1d"), ("=until", "-7d")]),
        "the window is empty: since 2024-03-29T12:34:56.789012Z (--since \"-1d\") is not before until \
         2024-03-23T12:34:56.789012Z (--param until=\"-7d\"); use an earlier since or a later until"
    );
    assert!(fault(&typed, &[("since", "2024-01-31"), ("until", "2024-01-31T01:00:00+01:00")]).contains("is empty"), "equal ends");
    assert!(fault(&typed, &[("since", "now")]).contains("(not given: the start of the run)"));
    let default =
        job(vec![param("since", "datetime", false, json!("-7d"), ""), param("until", "datetime", false, json!("yesterday"), "")]);
    assert!(plan(&default, &[]).window.unwrap().since.is_some());
    let line = fault(&default, &[("until", "2020-01-01")]);
    assert!(line.contains("since 2024-03-23T12:34:56.789012Z (the default \"-7d\")"), "{line}");
    assert!(line.contains("until 2020-01-01T00:00:00Z (--until \"2020-01-01\")"), "{line}");
}

#[test]
fn window_is_not_checked_if_one_end_is_invalid() {
    let job = window_job();
    assert!(fault(&job, &[("since", "2030-01-01"), ("until", "7d")]).starts_with("--until \"7d\": "));
    assert!(fault(&job, &[("since", "7d")]).starts_with("--since \"7d\": "));
    let twice = faults(&job, &[("until", "-2d"), ("until", "-1d"), ("since", "now")]);
    assert!(twice.len() == 1 && twice[0].contains("2 times"), "{twice:?}");
    let required = super::tests::job(vec![
        param("since", "datetime", true, Value::Null, ""),
        param("until", "datetime", false, Value::Null, "The end."),
    ]);
    assert_eq!(fault(&required, &[("since", "2030-01-01")]), "--until is missing; add --until TIME: a time. The end.");
}

#[test]
fn a_clock_out_of_range_is_reported() {
    let job = window_job();
    let mut request = request(&job, &[]);
    request.now = DateTime::from_timestamp(300_000_000_000, 0).unwrap();
    let line = resolve(request).unwrap_err().to_string();
    assert!(line.starts_with("until (not given: the start of the run): is outside the years 0001 to 9999"), "{line}");
}
