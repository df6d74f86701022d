//! `last` and `last:TIME`: the bookmark as a value, as a default, for which account, and when there is none.

use super::*;

/// Resolves the request with the bookmark at `at`.
fn since_last(job: &JobManifest, values: &[(&str, &str)], at: Option<&str>) -> Result<RunSpec, PlanError> {
    let asked = crate::plan::last::requested_bookmark(job, &request(job, values).values);
    assert!(asked.is_some(), "{values:?} asks for the bookmark");
    resolve(PlanRequest { bookmark: at.map(|at| at.parse().unwrap()), ..request(job, values) })
}

#[test]
fn last_is_the_bookmark_or_what_follows_it() {
    let job = window_job();
    let since = |values: &[(&str, &str)], at| since_last(&job, values, at).unwrap().params["since"].clone();
    let mark = Some("2024-03-01T10:00:00.123456Z");
    for text in ["last", "last:-30d", "last:2024-01-31", "last:now"] {
        assert_eq!(since(&[("since", text)], mark), "2024-03-01T10:00:00.123456Z", "{text}");
    }
    assert_eq!(since(&[("since", "last:-30d")], None), "2024-02-29T12:34:56.789012Z");
    assert_eq!(since(&[("=since", "last:2024-01-31")], None), "2024-01-31T00:00:00Z");
    let plan = since_last(&job, &[("since", "last")], mark).unwrap();
    assert_eq!(plan.window.unwrap().since.map(time::show).as_deref(), mark);
    // The bookmark moves while the run waits for another one.
    let later = plan.beginning_at("2024-03-02T00:00:00Z".parse().unwrap()).unwrap();
    assert_eq!(later.params["since"], "2024-03-02T00:00:00Z");
    assert_eq!(later.window, Some(Window { since: "2024-03-02T00:00:00Z".parse().ok(), until: plan.resolved_at }));
    assert_eq!(plan.beginning_at(plan.resolved_at), None);
    assert!(plan.since_last && !super::plan(&job, &[("since", "-7d")]).since_last);
    assert_eq!(crate::plan::last::requested_bookmark(&job, &request(&job, &[("since", "-7d"), ("until", "last")]).values), None);
}

#[test]
fn last_as_a_default() {
    let with = |name: &str| super::job(vec![param(name, "datetime", false, json!("last:-30d"), "")]);
    let job = with("since");
    value::check_default((&job.params[0]).into(), &job.params[0].default).unwrap();
    assert_eq!(since_last(&job, &[], Some("2024-03-01T00:00:00Z")).unwrap().params["since"], "2024-03-01T00:00:00Z");
    assert_eq!(since_last(&job, &[], None).unwrap().params["since"], "2024-02-29T12:34:56.789012Z");
    // With an explicit value the bookmark need not be looked up.
    assert_eq!(crate::plan::last::requested_bookmark(&job, &request(&job, &[("since", "-7d")]).values), None);
    assert_eq!(plan(&job, &[("since", "2024-01-31")]).params["since"], "2024-01-31T00:00:00Z");
    // For another parameter, or with an unreadable text after the colon, it is not a valid default.
    for (name, default) in [("from", "last:-30d"), ("since", "last:30d"), ("since", "last:last")] {
        let job = super::job(vec![param(name, "datetime", false, json!(default), "")]);
        assert!(value::check_default((&job.params[0]).into(), &job.params[0].default).is_err(), "{name} {default}");
        assert!(resolve(request(&job, &[])).unwrap_err().is_of_plugin(), "{name} {default}");
    }
}

#[test]
fn last_is_the_bookmark_of_the_resolved_account() {
    let account = |default: Value| {
        super::job(vec![
            param("since", "datetime", true, Value::Null, ""),
            param("account", "string", default.is_null(), default, ""),
        ])
    };
    let asked = |job: &JobManifest, values: &[(&str, &str)]| {
        crate::plan::last::requested_bookmark(job, &request(job, values).values).unwrap().account
    };
    let (none, main) = (account(Value::Null), account(json!("main")));
    assert_eq!(asked(&none, &[("since", "last")]), None);
    assert_eq!(asked(&none, &[("=account", "a"), ("since", "last")]).as_deref(), Some("a"));
    assert_eq!(asked(&main, &[("since", "last:-1d")]).as_deref(), Some("main"));
    assert_eq!(asked(&main, &[("since", "last"), ("account", "a")]).as_deref(), Some("a"));
}

#[test]
fn last_without_a_bookmark_names_the_account_and_the_fix() {
    let job =
        super::job(vec![param("since", "datetime", true, Value::Null, ""), param("account", "string", true, Value::Null, "")]);
    let line = |values: &[(&str, &str)]| since_last(&job, values, None).unwrap_err().to_string();
    assert_eq!(
        line(&[("since", "last")]),
        "--since \"last\": ingester/extract has no bookmark yet; use --since last:-30d to start there, or set one: \
         lorchestra bookmarks set ingester extract TIME"
    );
    assert_eq!(
        line(&[("since", "last"), ("account", "a@example.org")]),
        "--since \"last\": ingester/extract for account a@example.org has no bookmark yet; use --since last:-30d to start \
         there, or set one: lorchestra bookmarks set ingester extract --account a@example.org TIME"
    );
    assert!(line(&[("since", "last"), ("account", "a\nb")]).contains(r#"--account "a\nb" TIME"#));
    let by_default = super::job(vec![param("since", "datetime", false, json!("last"), "")]);
    let error = since_last(&by_default, &[], None).unwrap_err();
    assert!(error.to_string().starts_with("the default \"last\" of --since: ingester/extract has no bookmark yet"), "{error}");
    assert!(!error.is_of_plugin());
    // The text after the colon is checked even if it is not needed.
    let line = since_last(&job, &[("since", "last:7d")], Some("2024-03-01T00:00:00Z")).unwrap_err().to_string();
    assert_eq!(line, "--since \"last:7d\": after last: a time in the past begins with a minus; write -7d");
}

#[test]
fn a_bookmark_that_is_not_before_the_end_is_reported() {
    let job = window_job();
    let line = |values: &[(&str, &str)], at| since_last(&job, values, Some(at)).unwrap_err().to_string();
    assert_eq!(
        line(&[("since", "last")], "2024-03-30T12:34:56.789012Z"),
        "--since \"last\": the bookmark of ingester/extract is at 2024-03-30T12:34:56.789012Z, which is not before until \
         2024-03-30T12:34:56.789012Z (not given: the start of the run): there is nothing new, or the clock went back; \
         use lorchestra bookmarks set to move it"
    );
    let until = line(&[("since", "last:-30d"), ("until", "2024-01-31")], "2024-03-01T00:00:00Z");
    assert!(until.contains("until 2024-01-31T00:00:00Z (--until \"2024-01-31\"): the whole window is done"), "{until}");
    // Not the bookmark, so the usual message for an empty window.
    let line = since_last(&job, &[("since", "last:now")], None).unwrap_err().to_string();
    assert!(line.starts_with("the window is empty"), "{line}");
}
