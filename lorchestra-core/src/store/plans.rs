//! Checks how SQLite executes every statement of the store: with an index, or as one of a short list of statements that may read
//! everything.
//!
//! The test calls every method of the store, and SQLite reports each statement. To ensure that none is missing, it compares them with the
//! sources: each string literal that begins like a statement must be part of one that was executed. Plans do not depend on the contents of
//! the tables, because the store never runs `ANALYZE`.

use super::tests::{Site, end, end_with, lines, new_run, parsed, results_line, site, spec, started};
use super::*;
use crate::outcome::Cause;
use crate::plan::{RunSpec, Window};
use proc_macro2::{TokenStream, TokenTree};
use rusqlite::trace::{TraceEvent, TraceEventCodes};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// Plan steps that are refused elsewhere: a part of the statement, the step, and why it is allowed.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("FROM outbox WHERE seen_at", "SCAN outbox", "it has a row for each destination"),
    ("SELECT destination FROM outbox ORDER BY", "SCAN outbox", "it has a row for each destination"),
    ("UPDATE outbox SET doubtful_to", "SCAN outbox", "it has a row for each destination"),
    ("INSERT INTO outbox", "SCAN e", "once for each destination; ends at the first event with a payload"),
    ("AND state = 'uncertain') b", "USE TEMP B-TREE FOR LAST TERM OF ORDER BY", "sorts one batch"),
    ("FROM bookmarks ORDER BY", "SCAN bookmarks", "prints all"),
    ("FROM losses ORDER BY", "SCAN losses", "there are hardly any"),
    ("FROM losses ORDER BY", "USE TEMP B-TREE FOR ORDER BY", "there are hardly any"),
    ("FROM events e CROSS JOIN runs", "SCAN e USING INDEX events_by_time", "prints all"),
    ("FROM runs ORDER BY n DESC LIMIT", "SCAN runs", "the newest ones; ends at the limit"),
    ("state = 'running' ORDER BY n", "SCAN runs USING INDEX runs_running", "those that run have an index of their own"),
    ("SELECT count(*) FROM (SELECT 1 FROM", "SCAN (subquery-", "counts up to the limit"),
    ("SELECT event_type, count(*) FROM events WHERE run =", "USE TEMP B-TREE FOR GROUP BY", "of one run"),
    ("SELECT event_type, count(*) FROM events WHERE run =", "USE TEMP B-TREE FOR ORDER BY", "types of one run"),
];

/// Statements that read only an index: the rows of a job lie far from each other, and `status` reads fifteen of each.
const COVERED: [&str; 3] = [
    "SELECT package, job, account_key, state, cause_key FROM runs",
    "SELECT started_at, n, ended_at FROM runs",
    "SELECT count(*) FROM (SELECT 1 FROM runs",
];

type SeenStatements = Arc<Mutex<BTreeSet<String>>>;

fn open(site: &Site, seen: &SeenStatements) -> Store {
    let mut store = Store::open(&site.state).unwrap();
    let seen = Arc::clone(seen);
    let note = move |event: TraceEvent<'_>| {
        if let TraceEvent::Stmt(statement, _) = event {
            seen.lock().unwrap().insert(normal(&statement.sql()));
        }
    };
    store.db.trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(note)).unwrap();
    store
}

#[test]
fn every_statement_is_answered_by_an_index() {
    let (site, seen) = (site(), SeenStatements::default());
    let mut store = open(&site, &seen);
    history(&mut store);
    prune(&site, &mut store, Vec::new());
    let mut outbox = Outbox::open(store, "there").unwrap();
    delivery(&mut outbox);
    outbox.store.doubt_deliveries().unwrap();
    outbox.store.record_loss(1).unwrap();
    outbox.store.losses().unwrap();
    outbox.doubt().unwrap();
    outbox.use_stream("t", "s").unwrap();
    assert!(outbox.is_open("t", "s").unwrap());
    outbox.close_stream("t", "s").unwrap();
    assert!(!outbox.is_open("t", "s").unwrap());
    prune(&site, &mut outbox.store, vec!["there".into()]);
    let fleet_site = super::tests::site();
    fleet(&mut open(&fleet_site, &seen));
    let forget_site = super::tests::site();
    forget(&forget_site, &mut open(&forget_site, &seen));
    let db = rusqlite::Connection::open(site.state.store()).unwrap();
    let seen: Vec<String> = seen.lock().unwrap().iter().filter(|sql| is_statement(sql)).cloned().collect();

    let missed: Vec<String> = in_sources().into_iter().filter(|text| !seen.iter().any(|sql| has_in_it(sql, text))).collect();
    assert!(missed.is_empty(), "statements that the walk does not run: {missed:#?}");

    let (mut refused, mut used) = (Vec::new(), BTreeSet::new());
    for sql in &seen {
        for step in plan(&db, sql) {
            match ALLOWED.iter().position(|(text, allowed, _)| sql.contains(text) && is_step(&step, allowed)) {
                Some(at) => drop(used.insert(at)),
                None if reads_all(&step) => refused.push((sql, step)),
                None => {}
            }
        }
    }
    assert!(refused.is_empty(), "statements that read whole tables: {refused:#?}");
    let unused: Vec<_> = ALLOWED.iter().enumerate().filter(|(at, _)| !used.contains(at)).collect();
    assert!(unused.is_empty(), "allowed for nothing: {unused:#?}");
    for text in COVERED {
        let those: Vec<&String> = seen.iter().filter(|sql| sql.contains(text)).collect();
        assert!(!those.is_empty(), "{text}");
        for sql in those {
            let steps = plan(&db, sql);
            assert!(steps.iter().any(|step| step.contains("COVERING INDEX runs_by_")), "{sql}: {steps:?}");
        }
    }
}

fn plan(db: &Connection, sql: &str) -> Vec<String> {
    let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let bound = statement.parameter_count();
    let values = std::iter::repeat_n(rusqlite::types::Null, bound);
    statement.query_map(rusqlite::params_from_iter(values), |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// The number of a subquery depends on what was planned before it.
fn is_step(step: &str, allowed: &str) -> bool {
    step == allowed || allowed.ends_with('-') && step.starts_with(allowed)
}

fn reads_all(step: &str) -> bool {
    step.starts_with("SCAN") && step != "SCAN CONSTANT ROW" || step.contains("TEMP B-TREE") || step.contains("AUTOMATIC")
}

/// Deleting a row searches for rows that refer to it, which no plan shows.
#[test]
fn references_to_a_row_are_found_by_an_index() {
    let site = site();
    let store = Store::open(&site.state).unwrap();
    let sql = "SELECT t.name, f.\"from\" FROM sqlite_schema t JOIN pragma_foreign_key_list(t.name) f WHERE t.type = 'table'";
    let mut statement = store.db.prepare(sql).unwrap();
    let references = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let references: Vec<(String, String)> = references.collect::<Result<_, _>>().unwrap();
    assert!(references.len() >= 2, "{references:?}");
    for (table, column) in references {
        let steps = plan(&store.db, &format!("SELECT 1 FROM {table} WHERE {column} = ?1"));
        assert!(steps.iter().all(|step| step.starts_with("SEARCH")), "{table}.{column}: {steps:?}");
    }
}

/// Runs, attempts, events, bookmarks and retention.
fn history(store: &mut Store) {
    let window = Some(Window { since: None, until: chrono::DateTime::from_timestamp_micros(9).unwrap() });
    let windowed = |run_id| NewRun { keeps_bookmark: true, spec: RunSpec { window, ..spec() }, ..new_run(run_id) };
    for run_id in ["r1", "r2", "r3"] {
        store.begin_run(&windowed(run_id), &started()).unwrap();
    }
    // More than retention examines in one call.
    for n in 0..60 {
        store.skip_run(&new_run(&format!("skipped-{n}")), &started()).unwrap();
    }
    let refusal = Refusal {
        package: "pkg".into(),
        job: "job".into(),
        account: None,
        spec: None,
        cause: Cause::Plugin,
        message: "no".into(),
        exit_code: 126,
        requested_run_id: None,
        requested_by: crate::plan::RequestedBy::CommandLine,
        group: None,
    };
    let process = &crate::host::process::Identity { pid: 1, start: 2, boot_id: "boot".into() };
    let at = refusal::RefusedAt { run_id: "refused", at: 1, host: "host", process, lorchestra_version: "0" };
    store.refuse_run(&refusal, &at).unwrap();
    let over = AttemptEnd { attempt: 1, cause: Cause::Error, message: "no".into(), ended_at: 1, results: Default::default() };
    store.end_attempt("r1", &over).unwrap();
    store.begin_attempt("r1", 2, 1, 8).unwrap();
    let mut lines = lines(3);
    lines.push(results_line());
    let mut ingested = store.ingested("r1", 1).unwrap();
    store
        .ingest(
            "r1",
            1,
            Portion { records: &parsed(&lines), after: ingested.cursor, end: crate::spool::Cursor::default(), damaged: 0 },
            &mut ingested,
        )
        .unwrap();
    store.end_run("r1", &RunEnd { results: ingested.results.clone(), ..end() }).unwrap();
    assert_eq!(store.artifacts("r1").unwrap(), ingested.results.artifacts);
    store.end_runs(&[("r2", &end())]).unwrap();
    for running in [false, true] {
        for limit in [None, Some(1)] {
            store.runs(&RunFilter { running, limit }).unwrap();
        }
    }
    for name in ["unknown", "last", "pkg/job"] {
        drop(store.find_run(name).unwrap());
    }
    store.run("r1").unwrap().unwrap();
    store.health(&RunQuery::default()).unwrap();
    store.uncovered(&RunQuery::default()).unwrap();
    for key in store.keys(&RunQuery::default()).unwrap() {
        store.points(&key, &RunQuery::default(), drop).unwrap();
    }
    store.attempts("r1").unwrap();
    store.terminal("r1").unwrap();
    store.first_event("r1").unwrap().unwrap();
    store.held_by("r1").unwrap();
    store.event_counts("r1").unwrap();
    store.has_run_of("pkg", None).unwrap();
    store.has_run_of("pkg", Some("job")).unwrap();
    for run_id in [None, Some("r1".to_owned())] {
        for event_type in [None, Some("t".to_owned())] {
            for since in [None, Some(0)] {
                for state in [None, Some(Undelivered::Pending), Some(Undelivered::Refused), Some(Undelivered::Uncertain)] {
                    let delivery = state.map(|state| (state, "there".to_owned()));
                    let filter = EventFilter { run_id: run_id.clone(), event_type: event_type.clone(), since, delivery };
                    store.events(&filter, |_| Ok::<(), ()>(())).unwrap().unwrap();
                }
            }
        }
    }
    let key = bookmark::Key { package: "pkg", job: "job", account: None };
    store.set_bookmark(key, 7, 1).unwrap();
    store.bookmark(key).unwrap();
    for (package, job) in [(None, None), (Some("pkg"), None), (Some("pkg"), Some("job"))] {
        store.bookmarks(package, job).unwrap();
    }
    store.reset_bookmark(key).unwrap();
    store.begin_run(&new_run("r4"), &started()).unwrap();
    groups(store);
}

/// Groups and their members.
fn groups(store: &mut Store) {
    let settings = group::GroupSettings {
        parallel: 1,
        newest_first: false,
        max_failures: None,
        keep_going: true,
        moves_bookmark: Some((0, 9)),
        engine: None,
        file: None,
    };
    let member = group::NewMember { stage: 0, label: "one".into(), spec: spec().to_json() };
    let new = group::NewGroup {
        group_id: "0193a000-0000-7000-8000-00000000abcd".into(),
        kind: "backfill".into(),
        name: "pkg/job".into(),
        created_at: 1,
        settings,
        members: vec![member],
    };
    store.create_group(&new).unwrap();
    store.groups("backfill", 1).unwrap();
    let found = store.find_group("backfill", "last").unwrap().unwrap();
    store.find_group("backfill", "0000abcd").unwrap().unwrap();
    store.group_counts(found.n).unwrap();
    store.group_failures(found.n).unwrap();
    let member = store.member(found.n, 0).unwrap().unwrap();
    store.member_spec(found.n, 0).unwrap().unwrap();
    store.members(found.n, group::MemberState::Pending, 1).unwrap();
    store.member_specs(found.n).unwrap();
    let failed = group::SettledMember { place: 0, state: group::MemberState::Failed, run_id: None, claimed_on: None };
    store.settle_members(found.n, &[failed]).unwrap();
    let holder = ClaimHolder { run_id: "elsewhere".into(), host: "node".into() };
    store.record_claimed(&holder, &spec()).unwrap();
    store.refuse_member(&member.run_id).unwrap();
    store.cancel_group(found.n, 1).unwrap();
    store.is_cancelled(found.n).unwrap();
    let library = group::PinnedLibrary { package: "pkg".into(), version: "2".into(), sha256: "ff".into() };
    let found = store.find_group("backfill", "last").unwrap().unwrap();
    store.resume_group(&found, &[library]).unwrap();
    let failed = store.selected_members(found.n, group::Selection::ALL).unwrap();
    store.start_attempts(&found, &failed).unwrap();
    store.withdraw_attempts(&found, &failed).unwrap();
    store.start_attempts(&found, &failed).unwrap();
    store.move_group_bookmarks(&found, 1).unwrap();
    // Fails, and is completed by another run.
    let member = store.member(found.n, 0).unwrap().unwrap();
    store.begin_run(&NewRun { started_at: 2, ..new_run(&member.run_id) }, &started()).unwrap();
    store.begin_run(&NewRun { started_at: 3, ..new_run("later") }, &started()).unwrap();
    store.end_run(&member.run_id, &end_with(Some(Cause::Error))).unwrap();
    store.end_run("later", &end()).unwrap();
    assert_eq!(store.members_completed_elsewhere(found.n).unwrap().len(), 1);
    // Retention keeps a group with a pending member.
    let member = store.member(found.n, 0).unwrap().unwrap();
    store.refuse_member(&member.run_id).unwrap();
    let query = RunQuery { group: Some("nightly".into()), ..RunQuery::default() };
    store.find_runs(&query, 1).unwrap();
}

/// The runs of other hosts, in a store of their own.
fn fleet(store: &mut Store) {
    let event = |event_type: &str| super::fleet::FleetEvent {
        run_id: "of-another-host".into(),
        event_type: event_type.into(),
        source: "pkg/job".into(),
        at: 5,
        payload: serde_json::json!({"attempt": 1, "duration_ms": 1}),
    };
    store.fill(&[event("job.started"), event("job.completed")]).unwrap();
}

/// The outbox.
fn delivery(store: &mut Outbox) {
    let (to, stream) = ("p.d.t", "s");
    store.use_stream(to, stream).unwrap();
    store.stream(to, 0).unwrap();
    let rows = store.pending_rows(0, 100, usize::MAX).unwrap();
    let numbers: Vec<i64> = rows.iter().map(|row| row.n).collect();
    let batch = |at: usize| NewBatch {
        target: to.into(),
        stream: Some(stream.into()),
        length: 1,
        first: numbers[at],
        last: numbers[at],
        rows: 1,
    };
    // Delivered, refused, suspect, already in the table, with an unknown result.
    let frozen = store.advance(None, Some(&batch(0))).unwrap();
    let frozen = store.advance(frozen.as_ref(), Some(&batch(1))).unwrap().unwrap();
    store.rows_of(&frozen).unwrap();
    store.frozen_batch().unwrap().unwrap();
    let settled = [
        (numbers[1], RowDisposition::Refused("no".into())),
        (numbers[2], RowDisposition::Suspect("no".into())),
        (numbers[3], RowDisposition::Present),
    ];
    store.release(&frozen, &settled, 10, "no").unwrap();
    // Two at once, of which the first is taken back, so its stream is left.
    let first = store.advance(None, Some(&batch(4))).unwrap().unwrap();
    let second = store.advance(None, Some(&batch(5))).unwrap().unwrap();
    store.release(&first, &[], 10, "no").unwrap();
    store.give_up(&second, "silence").unwrap();
    store.send_again(&second, &NewBatch { stream: None, ..batch(5) }).unwrap();
    let again = store.frozen_batch().unwrap().unwrap();
    store.advance(Some(&again), None).unwrap();
    store.use_stream(to, stream).unwrap();
    // With an individually settled event in the middle.
    let wide = NewBatch { last: numbers[8], rows: 3, length: 3, ..batch(6) };
    let frozen = store.advance(None, Some(&wide)).unwrap().unwrap();
    store.release(&frozen, &[(numbers[7], RowDisposition::Present)], 10, "no").unwrap();
    let frozen = store.advance(None, Some(&NewBatch { rows: 2, length: 2, ..wide })).unwrap().unwrap();
    store.give_up(&frozen, "silence").unwrap();
    let uncertain = store.uncertain_batches().unwrap();
    store.row(numbers[0]).unwrap().unwrap();
    let again = |first: i64| NewBatch { target: to.into(), stream: None, length: 0, first, last: first, rows: 1 };
    store.send_again(&uncertain[0], &again(uncertain[0].first)).unwrap();
    let frozen = store.frozen_batch().unwrap().unwrap();
    store.release(&frozen, &[], 10, "no").unwrap();
    let suspect = store.suspect(0).unwrap().unwrap();
    store.suspects(0, 10).unwrap();
    store.refusals(0).unwrap();
    store.last_suspect().unwrap();
    store.send_set_aside_again(Was::Suspect, &[suspect], &again(suspect)).unwrap();
    let frozen = store.frozen_batch().unwrap().unwrap();
    store.release(&frozen, &[], 10, "no").unwrap();
    store.refused_event(0).unwrap().unwrap();
    for run_id in [None, Some("r1")] {
        store.has_pending(run_id).unwrap();
        store.store.backlog("there", run_id).unwrap();
        store.store.pending("there").unwrap();
    }
    store.store.pending_jobs("there").unwrap();
    store.store.set_aside("there").unwrap();
    assert!(store.store.last_configured("there").unwrap().is_some());
    store.store.unsent_of("there", "r1").unwrap();
    store.has_unsent().unwrap();
    store.pass_settled().unwrap();
    store.delivered_into().unwrap();
    assert_eq!(store.doubtful_to().unwrap(), 0);
    store.settle_present(&[]).unwrap();
    store.set_circuit(None).unwrap();
    store.circuit("route", 0, std::time::Duration::ZERO).unwrap();
    store.leave_stream(to).unwrap();
}

/// Retention: first of payloads and logs, then of runs.
fn prune(site: &Site, store: &mut Store, destinations: Vec<String>) {
    let later = end().ended_at + 1_000_000;
    let (now, never) = (Duration::ZERO, Duration::from_secs(u64::from(u32::MAX)));
    for runs in [never, now] {
        let retention = retention::Retention { logs: now, payloads: now, runs, destinations: destinations.clone() };
        store.prunable(&site.state, &retention, later).unwrap();
        store.end_beyond(1).unwrap();
        store.ended_runs().unwrap();
        store.prune(&site.state, &retention, later).unwrap();
    }
}

/// The run with the newest event is marked, and removed once there is a newer one.
fn forget(site: &Site, store: &mut Store) {
    let (later, retention) = (end().ended_at + 1_000_000, retention::Retention::default());
    store.begin_run(&new_run("r1"), &started()).unwrap();
    store.end_run("r1", &end()).unwrap();
    let forgotten = store.forget(&site.state, &RunQuery::default(), (&retention, later), false).unwrap().unwrap();
    assert!(forgotten.is_last_marked);
    store.begin_run(&new_run("r2"), &started()).unwrap();
    store.prune(&site.state, &retention, later).unwrap();
    assert_eq!(store.run("r1").unwrap(), None);
}

/// Normalizes white space, because sources break lines differently.
fn normal(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a text is a statement, or a clause that is inserted into one.
fn is_statement(text: &str) -> bool {
    let verbs = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "REPLACE ", "WITH "];
    let clauses = ["WHERE ", "ORDER BY ", "EXISTS ", "NOT EXISTS "];
    verbs.iter().chain(&clauses).any(|verb| text.starts_with(verb))
}

/// Whether the parts of a text between the `{}` of a format occur in a statement, in order.
fn has_in_it(sql: &str, text: &str) -> bool {
    let mut rest = sql;
    text.split('{').map(|part| part.split_once('}').map_or(part, |(_, part)| part)).all(|part| match rest.find(part.trim()) {
        Some(at) => {
            rest = &rest[at + part.trim().len()..];
            true
        }
        None => false,
    })
}

/// Returns the string literals in the store's sources, except in tests, that begin like a statement.
fn in_sources() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut texts = BTreeSet::new();
    let mut folders = vec![root.join("store")];
    let mut files = vec![root.join("store.rs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    // The schema's own query runs on any database, whose tables may belong to another program.
    let others = ["tests.rs", "properties.rs", "plans.rs", "schema.rs"];
    for path in files.iter().filter(|path| !others.iter().any(|name| path.ends_with(name))) {
        let source = std::fs::read_to_string(path).unwrap();
        literals(source.parse().unwrap(), &mut texts);
    }
    texts.iter().map(|text| normal(text)).filter(|text| is_statement(text)).collect()
}

fn literals(tokens: TokenStream, texts: &mut BTreeSet<String>) {
    let mut before = String::new();
    for token in tokens {
        match token {
            TokenTree::Group(_) if before == "tests" => {}
            TokenTree::Group(group) => literals(group.stream(), texts),
            TokenTree::Literal(literal) => {
                if let syn::Lit::Str(text) = syn::Lit::new(literal) {
                    texts.insert(text.value());
                }
            }
            TokenTree::Ident(ref name) => before = name.to_string(),
            TokenTree::Punct(_) => before.clear(),
        }
    }
}
