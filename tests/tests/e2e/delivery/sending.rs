//! From the store to BigQuery, with all faults in between, against a fake server that can be made to fail. `bigquery` has the real
//! emulator.

use lorchestra_tests::bigquery::fake::{Fault, Method, TableName};
use lorchestra_tests::bigquery::site::{BOTH, Site, Write, carrier};
use lorchestra_tests::{Ended, Running, eventually, processes};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;
use tonic::Code;

#[test]
fn a_run_delivers_its_events_with_all_columns() {
    for write in BOTH {
        let site = Site::new(write);
        let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "50", "--account", "me"]).exits(0);
        assert_eq!(ended.err(), "", "{write:?}: nothing to report");
        site.all_is_delivered(write, "after the run");
        let run = site.sandbox.run();
        let rows = site.fake.rows(&site.table);
        for (row, event) in rows.iter().zip(site.sandbox.events_of(run.id())) {
            for column in ["event_type", "source", "correlation_id", "run_id", "package", "job", "created_at"] {
                assert_eq!(row.values[column], event.0[column], "{write:?} {column}");
            }
            let payload: serde_json::Value = serde_json::from_str(row.values["payload"].as_str().unwrap()).unwrap();
            assert_eq!(payload, event.0["payload"]);
            assert_eq!(row.values["attempt"], json!(1), "{row:?}");
        }
        let shown = site.sandbox.lorchestra(&["runs", "show", run.id(), "--json"]).exits(0).json("lorchestra.runs-show/1");
        assert_eq!(shown["delivery"], json!({"bigquery": {"pending": 0, "failed": 0, "uncertain": 0}}));
        assert_eq!(site.flushed(), 0);
    }
}

/// A delay requested by the server is respected: if it wants half a minute, there are no two requests within two seconds.
#[test]
fn a_delay_requested_by_the_server_is_respected() {
    let site = Site::new(Write::InsertAll);
    site.fake.faults().forever(Method::InsertAll, Fault::Empty(429, Some(30)));
    let args = ["run-job", "--delivery-timeout", "2s", "misbehave", "noop"];
    let ended = site.sandbox.lorchestra(&args).exits(0);
    assert!(ended.err().contains("429"), "{}", ended.shown());
    assert_eq!(site.fake.requests(Method::InsertAll), 1);
}

/// Refused rows are resent only on request, once.
#[test]
fn refused_events_are_resent_on_request() {
    for write in BOTH {
        let site = Site::new(write);
        site.fake.faults().next(carrier(write), Fault::RowErrors(vec![1, 3]));
        site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "10"]).exits(0);
        assert_eq!((site.flushed(), site.delivered().len()), (0, 10), "{write:?}");
        // Refused again: they keep their state.
        site.fake.faults().forever(carrier(write), Fault::RowErrors(vec![0]));
        site.sandbox.lorchestra(&["events", "flush", "--resend-failed"]).exits(0);
        assert_eq!(site.sandbox.lorchestra(&["events", "list", "--failed"]).exits(0).out().lines().count(), 2, "{write:?}");
        site.fake.faults().clear(carrier(write));
        let again = site.sandbox.lorchestra(&["events", "flush", "--resend-failed"]).exits(0);
        assert_eq!(again.out(), "Delivered 2 events.\n", "{write:?}");
        assert_eq!(site.sandbox.lorchestra(&["events", "list", "--failed"]).exits(0).out(), "", "{write:?}");
        let (mut stored, mut delivered) = (site.stored(), site.delivered());
        stored.sort();
        delivered.sort();
        assert_eq!(delivered, stored, "{write:?}: each once");
    }
}

/// A job continues while the server is down and comes back, and does not prevent other processes from delivering.
#[test]
fn a_flush_delivers_during_a_job_that_found_the_server_down() {
    let site = Site::new(Write::Storage);
    site.fake.go_down();
    let running = site.sandbox.start(&["run-job", "misbehave", "wait", "--seconds", "100"]);
    eventually("the job has begun", || site.sandbox.runs().first().is_some_and(|run| run.state() == "running"));
    site.sandbox.lorchestra(&["events", "flush", "--timeout", "8s"]).exits(69);
    site.fake.come_up();
    eventually("a flush delivers", || {
        site.sandbox.lorchestra(&["events", "flush", "--timeout", "2s"]).code() == Some(0) && !site.delivered().is_empty()
    });
    running.signal(Signal::TERM);
    running.wait().exits(143);
}

/// A process that waits for another one to deliver has not contacted the server, so it must not open the circuit.
#[test]
fn waiting_for_another_deliverer_opens_no_circuit() {
    let site = Site::new(Write::Storage);
    site.sandbox.configure("");
    site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    site.configure(Write::Storage, "");
    site.fake.faults().forever(Method::AppendRows, Fault::Silent);
    let holder = site.sandbox.start(&["events", "flush", "--timeout", "50s"]);
    eventually("it holds the lock", || site.fake.requests(Method::AppendRows) > 0);
    let args = ["run-job", "--require-delivery", "--delivery-timeout", "1s", "misbehave", "noop"];
    let ended = site.sandbox.lorchestra(&args).exits(69);
    assert!(ended.err().contains("another process is still delivering"), "{}", ended.shown());
    holder.signal(Signal::INT);
    let holder = holder.wait().exits(130);
    assert!(holder.err().contains("nothing is lost"), "{}", holder.shown());
    site.fake.faults().clear(Method::AppendRows);
    site.fake.faults().release();
    let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert_eq!(ended.err(), "", "the next run delivers all");
    site.all_is_delivered(Write::Storage, "after the waiting");
}

/// A run that was stopped (Ctrl-Z) after it had delivered does not keep the events of others; one that was stopped while it delivers is
/// named.
#[test]
fn a_stopped_run_delays_no_delivery_of_others() {
    let site = Site::new(Write::Storage);
    let running = site.sandbox.start(&["run-job", "misbehave", "wait", "--seconds", "100"]);
    eventually("it has delivered", || !site.delivered().is_empty());
    eventually("it delivers nothing more", || site.flushed() == 0);
    running.signal(Signal::STOP);
    let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert_eq!(ended.err(), "");
    assert_eq!(site.sandbox.lorchestra(&["events", "list", "--pending"]).exits(0).out(), "");
    running.signal(Signal::CONT);
    running.signal(Signal::TERM);
    running.wait().exits(143);

    site.fake.faults().forever(Method::AppendRows, Fault::Silent);
    let before = site.fake.requests(Method::AppendRows);
    let running = site.sandbox.start(&["run-job", "misbehave", "wait", "--seconds", "100"]);
    eventually("it delivers", || site.fake.requests(Method::AppendRows) > before);
    running.signal(Signal::STOP);
    let hint = format!("process {} is delivering and is stopped: continue it with `kill -CONT {0}`, or end it", running.pid());
    let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert!(ended.err().contains(&hint), "{}", ended.shown());
    let ended = site.sandbox.lorchestra(&["events", "flush", "--timeout", "1s"]).exits(69);
    assert!(ended.err().contains(&hint), "{}", ended.shown());
    running.signal(Signal::KILL);
    running.wait();
    site.fake.faults().clear(Method::AppendRows);
    site.fake.faults().release();
    eventually("the next one delivers all", || site.flushed() == 0);
    site.all_is_delivered(Write::Storage, "after the stops");
}

/// Two tables are configured for one state directory, and another process was faster: required delivery detects that.
#[test]
fn required_delivery_means_the_configured_table() {
    let site = Site::new(Write::Storage);
    site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let other = TableName::parse("p1.lorchestra.other");
    site.fake.create_event_table(&other);
    site.fake.faults().forever(Method::AppendRows, Fault::Silent);
    let holder = site.sandbox.start(&["run-job", "misbehave", "numbered", "--count", "5"]);
    let before = site.fake.requests(Method::AppendRows);
    eventually("it holds the lock", || site.fake.requests(Method::AppendRows) > before);
    let args = ["run-job", "--require-delivery", "--delivery-timeout", "40s", "misbehave", "noop"];
    let waiting = {
        let mut command = site.sandbox.command(&args);
        command.env("BQ_EVENTS_TABLE", "other");
        Running::start(command)
    };
    eventually("the second has run", || {
        site.sandbox.runs().len() == 3 && site.sandbox.runs().iter().all(|run| run.state() == "completed")
    });
    site.fake.faults().clear(Method::AppendRows);
    site.fake.faults().release();
    holder.wait().exits(0);
    let ended = waiting.wait();
    if site.fake.rows(&other).is_empty() {
        assert_eq!(ended.code(), Some(69), "{}", ended.shown());
        assert!(ended.err().contains("to p1.lorchestra.events"), "{}", ended.shown());
    } else {
        // The holder's last check came before the second process's events, so these went to the configured table.
        assert_eq!(ended.code(), Some(0), "{}", ended.shown());
    }
}

/// Ctrl-C while credentials and table are checked: there is no run, and nothing to wait for.
#[test]
fn a_signal_before_the_run_ends_the_command_at_once() {
    let site = Site::new(Write::Storage);
    site.fake.faults().forever(Method::TablesGet, Fault::Silent);
    let running = site.sandbox.start(&["run-job", "--require-delivery", "--delivery-timeout", "50s", "misbehave", "noop"]);
    eventually("it asks", || site.fake.requests(Method::TablesGet) > 0);
    running.signal(Signal::INT);
    let ended = running.wait();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(ended.status.signal(), Some(2), "{}", ended.shown());
    site.fake.faults().release();
    assert!(site.sandbox.runs().is_empty());
}

#[test]
fn a_run_with_delivery_timeout_zero_does_not_wait() {
    let site = Site::new(Write::Storage);
    let ended = site.sandbox.lorchestra(&["run-job", "--delivery-timeout", "0s", "misbehave", "noop"]).exits(0);
    assert!(ended.err().contains("2 events are not in BigQuery yet"), "{}", ended.shown());
    assert_eq!(site.flushed(), 2);
}

/// A configured proxy is used, and NO_PROXY exempts from it.
#[test]
fn the_proxy_of_the_environment_is_used() {
    let site = Site::new(Write::InsertAll);
    site.sandbox.configure(
        "[destinations.bigquery]\nproject = \"p1\"\ndataset = \"lorchestra\"\ntable = \"events\"\nwrite = \"insert-all\"\nendpoint = \"https://bigquery.invalid\"\n",
    );
    std::fs::write(site.sandbox.path("key.json"), site.fake.authorized_user().to_string()).unwrap();
    let key = site.sandbox.arg("key.json");
    // A port without a server.
    let proxy = format!("http://{}", std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let with = |no_proxy: &str| {
        let environment =
            [("GOOGLE_APPLICATION_CREDENTIALS", key.as_str()), ("HTTPS_PROXY", proxy.as_str()), ("NO_PROXY", no_proxy)];
        let args = ["run-job", "--delivery-timeout", "3s", "misbehave", "noop"];
        site.sandbox.lorchestra_with(&environment, &args).exits(0).err().to_owned()
    };
    let (through, past) = (with(""), with("bigquery.invalid"));
    assert!(through.contains("Connection refused"), "the proxy is not there: {through}");
    assert!(!past.contains("Connection refused"), "the host is not there: {past}");
}

/// A server that accepts the connection and never responds.
#[test]
fn a_silent_server_costs_at_most_the_timeout() {
    for write in BOTH {
        for fault in [Fault::Silent, Fault::CommitThenSilent] {
            let label = format!("{write:?} {fault:?}");
            let site = Site::new(write);
            site.fake.faults().forever(carrier(write), fault);
            let args = ["run-job", "--delivery-timeout", "1s", "misbehave", "numbered", "--count", "60"];
            let ended = site.sandbox.lorchestra(&args).exits(0);
            assert_eq!(ended.plain_out(), "✓ misbehave/numbered completed (run [SHORT])\n");
            assert!(ended.err().contains("62 events are not in BigQuery yet"), "{label}: {}", ended.shown());
            // The next run does not wait again: the circuit is open.
            let before = site.fake.requests(carrier(write));
            let ended = site.sandbox.lorchestra(&args).exits(0);
            assert!(ended.err().contains("124 events are not in BigQuery yet"), "{label}: {}", ended.shown());
            assert_eq!(site.fake.requests(carrier(write)), before, "{label}: left alone");
            site.fake.faults().clear(carrier(write));
            site.fake.faults().release();
            site.flushed();
            site.all_is_delivered(write, &label);
        }
    }
}

#[test]
fn a_network_that_is_down_for_a_whole_run_prints_one_line() {
    for write in BOTH {
        let site = Site::new(write);
        site.fake.go_down();
        let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "10"]).exits(0);
        assert_eq!(ended.plain_out(), "✓ misbehave/numbered completed (run [SHORT])\n");
        assert_eq!(ended.err().lines().count(), 1, "{}", ended.shown());
        assert!(ended.err().starts_with("warning: 12 events are not in BigQuery yet ("), "{}", ended.shown());
        assert!(ended.err().ends_with("): run lorchestra events flush\n"), "{}", ended.shown());
        let pending = site.sandbox.lorchestra(&["events", "list", "--pending", "--json"]).exits(0);
        assert_eq!(pending.json_lines("lorchestra.event/1").len(), 12);
        let quiet = site.sandbox.lorchestra(&["run-job", "-q", "misbehave", "noop"]).exits(0);
        assert_eq!((quiet.out(), quiet.err()), ("", ""), "the next run delivers it");
        let down = site.sandbox.lorchestra(&["events", "flush", "--timeout", "1s"]).exits(69);
        assert!(down.err().contains("14 events are not delivered yet; nothing is lost"), "{}", down.shown());
        site.fake.come_up();
        assert_eq!(site.flushed(), 14);
        assert_eq!(site.flushed(), 0);
        site.all_is_delivered(write, "after the flush");
    }
}

#[test]
fn rows_that_are_refused_are_set_aside_and_block_nothing() {
    for write in BOTH {
        let site = Site::new(write);
        site.fake.faults().next(carrier(write), Fault::RowErrors(vec![1, 3]));
        let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "10"]).exits(0);
        assert_eq!(ended.err(), "warning: BigQuery refused 2 events (see lorchestra events list --failed)\n", "{write:?}");
        let failed = site.sandbox.lorchestra(&["events", "list", "--failed", "--json"]).exits(0);
        let failed = failed.json_lines("lorchestra.event/1");
        assert_eq!(failed.len(), 2, "{write:?}");
        assert!(failed.iter().all(|event| event["delivery_error"].as_str().is_some_and(|why| !why.is_empty())), "{failed:?}");
        let delivered = site.delivered();
        assert_eq!(delivered.len(), 10, "{write:?}: all the others");
        assert!(failed.iter().all(|event| !delivered.iter().any(|id| event["event_id"] == **id)));
        assert_eq!(site.flushed(), 0, "{write:?}: not tried forever");
        let shown = site.sandbox.lorchestra(&["runs", "show", site.sandbox.run().id()]).exits(0);
        assert!(shown.out().contains("delivery   2 failed"), "{}", shown.shown());
    }
}

/// The stream is gone, the batch was sent, and the table cannot be read.
#[test]
fn an_unconfirmed_batch_is_uncertain_and_resent_only_on_request() {
    let site = Site::new(Write::Storage);
    let faults = site.fake.faults();
    faults.next(Method::AppendRows, Fault::CommitThenDrop);
    faults.next(Method::AppendRows, Fault::DropStream);
    faults.forever(Method::Query, Fault::Status(403, "accessDenied"));
    let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "10"]).exits(0);
    assert!(ended.err().contains("arrived (see lorchestra events list --uncertain)"), "{}", ended.shown());
    let listed = site.sandbox.lorchestra(&["events", "list", "--uncertain"]).exits(0);
    let uncertain = listed.out().lines().count();
    assert!(uncertain > 0 && listed.out().contains("403"), "{}", listed.shown());
    assert_eq!(site.flushed(), 0);
    let before = site.delivered().len();
    let again = site.sandbox.lorchestra(&["events", "flush", "--resend-uncertain"]).exits(0);
    assert_eq!(again.out(), format!("Delivered {uncertain} events.\n"));
    assert_eq!(site.delivered().len(), before + uncertain, "they are there twice now, as documented in the help");
    assert_eq!(site.sandbox.lorchestra(&["events", "list", "--uncertain"]).exits(0).out(), "");
}

/// A number below `bound`.
fn random(bound: u64) -> u64 {
    RandomState::new().build_hasher().finish() % bound
}

/// The deliverer is killed at any moment of a run or a flush.
#[test]
fn a_kill_during_delivery_loses_and_duplicates_nothing() {
    for round in 0..lorchestra_tests::rounds(20) {
        let write = BOTH[round as usize % 2];
        let label = format!("round {round}, {write:?}");
        let site = Site::new(write);
        // Some requests are slow, so that a kill finds them in flight; some are lost after their work was done. With a delay on each
        // answer, several batches are in flight on one stream.
        let pipelined = write == Write::Storage && round % 4 == 0;
        let count = if pipelined { "20000" } else { "2500" };
        for _ in 0..if pipelined { 0 } else { 30 } {
            let fault = match random(4) {
                0 => Fault::CommitThenDrop,
                1 => Fault::CloseHalfWay,
                _ => Fault::Delay(Duration::from_millis(random(40))),
            };
            site.fake.faults().next(carrier(write), fault);
        }
        if pipelined {
            site.fake.faults().forever(carrier(write), Fault::Latency(Duration::from_millis(50)));
        }
        for _ in 0..3 {
            let running: Running = if random(3) == 0 {
                site.sandbox.start(&["events", "flush"])
            } else {
                site.sandbox.start(&["run-job", "misbehave", "numbered", "--count", count, "--then", "return"])
            };
            let before = site.fake.requests(carrier(write));
            let enough = before + random(4);
            // Either requests arrive, or there is nothing to deliver.
            let until = std::time::Instant::now() + Duration::from_millis(100 + random(900));
            while site.fake.requests(carrier(write)) < enough && std::time::Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_micros(random(30_000)));
            let workers = running.children();
            running.signal(Signal::KILL);
            drop(running);
            eventually(&label, || workers.iter().all(|pid| !processes::is_alive(*pid)));
        }
        site.fake.faults().clear(carrier(write));
        site.sandbox.lorchestra(&["runs", "list"]).exits(0);
        site.flushed();
        assert_eq!(site.flushed(), 0, "{label}");
        if site.sandbox.state().join("lorchestra.db").exists() {
            site.all_is_delivered(write, &label);
        }
    }
}

#[test]
fn eight_processes_share_one_stream_to_a_table() {
    let site = Site::new(Write::Storage);
    let running: Vec<Running> = (0..8)
        .map(|i| {
            let account = format!("a{i}");
            site.sandbox.start(&["run-job", "misbehave", "numbered", "--count", "2000", "--account", &account])
        })
        .collect();
    for running in running {
        let ended = running.wait().exits(0);
        assert_eq!(ended.err(), "", "{}", ended.shown());
    }
    // No event was left between them: no flush is needed.
    assert_eq!(site.stored().len(), 8 * 2002);
    site.all_is_delivered(Write::Storage, "after the last of them");
    assert_eq!(site.fake.streams().len(), 1);
    assert_eq!(site.fake.peak_append_calls(), 1);
}

#[test]
fn required_delivery_is_part_of_the_outcome() {
    let site = Site::new(Write::Storage);
    let args = ["run-job", "--require-delivery", "--delivery-timeout", "2s", "misbehave", "numbered", "--count", "5"];
    site.sandbox.lorchestra(&args).exits(0);
    site.fake.go_down();
    let ended = site.sandbox.lorchestra(&args).exits(69);
    assert_eq!(ended.plain_out(), "✓ misbehave/numbered completed (run [SHORT])\n");
    assert!(ended.err().contains("7 events are not in BigQuery yet"), "{}", ended.shown());
    assert_eq!(site.sandbox.runs()[0].state(), "completed", "the outcome of the run is unaffected");
    // The job's own failure is reported first.
    let ended =
        site.sandbox.lorchestra(&["run-job", "--require-delivery", "--delivery-timeout", "1s", "misbehave", "fail"]).exits(1);
    assert!(ended.err().contains("misbehave/fail failed"), "{}", ended.shown());
}

/// A permission that was just granted does not apply yet: `events flush` and required delivery wait for it within their time limit, and
/// print the reason.
#[test]
fn a_denial_that_passes_is_waited_for() {
    let site = Site::new(Write::Storage);
    site.fake.faults().forever(Method::AppendRows, Fault::Grpc(Code::PermissionDenied, "not yet", None));
    let ended = site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert!(ended.err().contains("not yet") && ended.err().lines().count() == 1, "{}", ended.shown());
    let denied = site.sandbox.lorchestra(&["events", "flush", "--timeout", "1s"]).exits(69);
    assert!(denied.err().contains("not yet"), "{}", denied.shown());
    site.fake.faults().clear(Method::AppendRows);
    site.fake.faults().times(4, Method::AppendRows, Fault::Grpc(Code::PermissionDenied, "not yet", None));
    let flushed = site.sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]).exits(0);
    assert!(flushed.err().contains("not yet: retrying until the time limit"), "{}", flushed.shown());
    site.fake.faults().times(2, Method::TablesGet, Fault::Status(403, "accessDenied"));
    let args = ["run-job", "--require-delivery", "--delivery-timeout", "30s", "misbehave", "noop"];
    site.sandbox.lorchestra(&args).exits(0);
    site.all_is_delivered(Write::Storage, "after the denials");
    site.fake.faults().forever(Method::TablesGet, Fault::Status(403, "accessDenied"));
    let args = ["run-job", "--require-delivery", "--delivery-timeout", "2s", "misbehave", "noop"];
    let ended = site.sandbox.lorchestra(&args).exits(69);
    assert!(ended.err().contains("the job was not started"), "{}", ended.shown());
}

/// A window is claimed only when its events are delivered.
#[test]
fn a_window_that_is_not_delivered_is_not_claimed() {
    let site = Site::new(Write::Storage);
    let (plan, claims) = (site.sandbox.arg("plan.jsonl"), site.sandbox.arg("claims"));
    std::fs::create_dir(&claims).unwrap();
    let range = ["--from", "2024-01-01", "--to", "2024-01-02", "--every", "1d"];
    site.sandbox.lorchestra(&[&["backfill", "misbehave", "windowed", "--plan", &plan][..], &range].concat()).exits(0);
    let window = ["run-window", "--plan", &plan, "--index", "0", "--claims", &claims];
    let with = |attempt, timeout| [&window[..], &["--attempt", attempt, "--delivery-timeout", timeout]].concat();
    site.sandbox.lorchestra(&["run-job", "--require-delivery", "misbehave", "noop"]).exits(0);
    site.fake.go_down();
    for _ in 0..2 {
        // The second time, the command finds the run of this attempt.
        site.sandbox.lorchestra(&with("1", "1s")).exits(69);
        assert_eq!(site.sandbox.runs()[0].cause(), "claim");
    }
    let running = site.sandbox.start(&with("2", "50s"));
    eventually("it waits for delivery", || {
        let run = site.sandbox.runs().remove(0);
        run.state() == "running" && site.sandbox.events_of(run.id()).iter().any(|event| event.event_type() == "window.seen")
    });
    running.signal(Signal::TERM);
    running.wait().exits(143);
    assert_eq!(site.sandbox.runs()[0].cause(), "cancelled");
    assert!(std::fs::read_dir(&claims).unwrap().next().is_none(), "nothing was claimed");
    // After the outage, it does not wait for the minute in which other commands do not ask BigQuery.
    site.fake.come_up();
    site.sandbox.lorchestra(&with("3", "20s")).exits(0);
    assert_eq!(site.sandbox.runs()[0].state(), "completed");
    site.all_is_delivered(Write::Storage, "after the outage");
}

/// What a process with several windows has found out about its destinations counts for each: it asks, and waits for an answer, only once.
#[test]
fn the_windows_of_a_process_whose_destination_denies_access_are_refused_together() {
    let site = Site::new(Write::Storage);
    let (plan, claims) = (site.sandbox.arg("plan.jsonl"), site.sandbox.arg("claims"));
    std::fs::create_dir(&claims).unwrap();
    let range = ["--from", "2024-01-01", "--to", "2024-01-04", "--every", "1d"];
    site.sandbox.lorchestra(&[&["backfill", "misbehave", "windowed", "--plan", &plan][..], &range].concat()).exits(0);
    let window = ["run-window", "--plan", &plan, "--indexes", "0,1,2", "--claims", &claims];
    let with = |attempt, timeout| [&window[..], &["--attempt", attempt, "--delivery-timeout", timeout]].concat();
    let denied = Fault::Status(403, "accessDenied");
    // One answer a second: another wait would find that access is allowed.
    site.fake.faults().times(3, Method::TablesGet, denied.clone());
    let ended = site.sandbox.lorchestra(&with("1", "2500ms")).exits(0);
    let reports = ended.json_lines("lorchestra.window-report/1");
    let codes: Vec<u64> = reports.iter().map(|report| report["exit_code"].as_u64().unwrap()).collect();
    assert_eq!(codes, [69; 3], "{}", ended.shown());
    assert_eq!(ended.err().matches("error: ").count(), 3, "{}", ended.shown());
    assert!(site.sandbox.runs().is_empty(), "nothing was started");
    // A signal while it waits: no window is refused.
    let refused = site.sandbox.all_runs().len();
    assert_eq!(refused, 3);
    site.fake.faults().clear(Method::TablesGet);
    site.fake.faults().forever(Method::TablesGet, denied);
    let before = site.fake.requests(Method::TablesGet);
    let running = site.sandbox.start(&with("2", "3s"));
    eventually("it asks", || site.fake.requests(Method::TablesGet) > before);
    running.signal(Signal::TERM);
    let stopped = running.wait().exits(143);
    assert_eq!((stopped.out(), stopped.err()), ("", "error: stopped by SIGTERM: 3 windows not started\n"));
    assert_eq!(site.sandbox.all_runs().len(), refused);
}

/// A process with several windows reports each when it is claimed, and again if its last event is not delivered.
#[test]
fn a_claimed_window_whose_last_event_is_not_delivered_is_reported_again() {
    let site = Site::new(Write::Storage);
    let (plan, claims, go) = (site.sandbox.arg("plan.jsonl"), site.sandbox.arg("claims"), site.sandbox.arg("go"));
    std::fs::create_dir(&claims).unwrap();
    let range = ["--from", "2024-01-01", "--to", "2024-01-02", "--every", "1d", "--go", &go];
    site.sandbox.lorchestra(&[&["backfill", "misbehave", "windowed", "--plan", &plan][..], &range].concat()).exits(0);
    let window = ["run-window", "--plan", &plan, "--indexes", "0", "--claims", &claims];
    let with = |attempt, timeout| [&window[..], &["--attempt", attempt, "--delivery-timeout", timeout]].concat();
    let ends = |ended: &Ended| -> Vec<(u64, Option<String>)> {
        let end = |line: &Value| (line["exit_code"].as_u64().unwrap(), line["state"].as_str().map(str::to_owned));
        ended.json_lines("lorchestra.window-report/1").iter().map(end).collect()
    };
    let running = site.sandbox.start(&with("1", "2s"));
    eventually("what the job has emitted is delivered", || {
        site.fake.rows(&site.table).iter().any(|row| row.values["event_type"] == "window.seen")
    });
    // The table has the row before the answer arrives. Without the answer, the window would not be claimed, and would fail.
    eventually("its delivery is confirmed", || {
        let shown = site.sandbox.lorchestra(&["runs", "show", "last", "--json"]).exits(0).json("lorchestra.runs-show/1");
        shown["delivery"]["bigquery"] == json!({"pending": 0, "failed": 0, "uncertain": 0})
    });
    site.fake.go_down();
    std::fs::write(&go, "").unwrap();
    let completed = Some("completed".to_owned());
    assert_eq!(ends(&running.wait().exits(0)), [(0, completed.clone()), (69, completed)]);
    // The next attempt of the engine finds the claim, and delivers the event.
    site.fake.come_up();
    assert_eq!(ends(&site.sandbox.lorchestra(&with("2", "20s")).exits(0)), [(0, None)]);
    assert_eq!(site.sandbox.runs().len(), 1);
    site.all_is_delivered(Write::Storage, "after the outage");
}

/// Ctrl-C while the last events are in flight ends the waiting; the job had already ended.
#[test]
fn a_signal_while_draining_ends_the_draining_and_not_the_outcome() {
    let site = Site::new(Write::Storage);
    site.fake.faults().forever(Method::AppendRows, Fault::Silent);
    let running = site.sandbox.start(&["run-job", "--delivery-timeout", "50s", "misbehave", "noop"]);
    eventually("it has ended", || site.sandbox.runs().first().is_some_and(|run| run.state() == "completed"));
    eventually("it drains", || site.fake.requests(Method::AppendRows) > 0);
    // The job's lock is free for its next run in the meantime.
    site.sandbox.lorchestra(&["run-job", "--delivery-timeout", "1s", "misbehave", "noop"]).exits(0);
    running.signal(Signal::INT);
    let ended = running.wait().exits(0);
    assert!(ended.err().contains("(interrupted): run lorchestra events flush"), "{}", ended.shown());
    site.fake.faults().clear(Method::AppendRows);
    site.fake.faults().release();
    site.flushed();
    site.all_is_delivered(Write::Storage, "after the signal");
}

#[test]
fn events_from_before_bigquery_was_configured_are_delivered_too() {
    let site = Site::new(Write::Storage);
    site.sandbox.configure("");
    site.sandbox.lorchestra(&["run-job", "misbehave", "numbered", "--count", "5"]).exits(0);
    let ended = site.sandbox.lorchestra(&["events", "flush"]).exits(78);
    assert!(ended.err().contains("BQ_EVENTS_DATASET"), "{}", ended.shown());
    site.configure(Write::Storage, "");
    site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    assert_eq!(site.delivered().len(), 9);
    site.all_is_delivered(Write::Storage, "with the first run that had a table");
}

/// A stream that is idle for a year, or a table that is created again, in the middle of delivery.
#[test]
fn a_table_that_was_created_again_gets_later_events() {
    let site = Site::new(Write::Storage);
    site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    site.fake.recreate_table(&site.table);
    site.sandbox.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let stored = site.stored();
    assert_eq!(site.delivered(), stored[2..], "the first two were deleted with the previous table");
    assert_eq!(site.fake.streams().len(), 2);
}
