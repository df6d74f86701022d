//! Kill rounds on a second emulator, `local-bigquery`, which loses all streams when it is restarted. It needs Python 3.13, which the project
//! does not: `cargo xtask soak` sets it up on machines that have one; elsewhere, this test has nothing to do, and says so.

use lorchestra_test_setup::venv;
use lorchestra_tests::bigquery::emulator::Emulator;
use lorchestra_tests::{Fixture, Sandbox, built, eventually, processes};
use rustix::process::Signal;
use std::time::Duration;

/// In each round, the deliverer is killed, or the server is killed and restarted, or both, with rows in flight.
#[test]
fn kills_and_restarts_of_a_second_emulator_lose_and_duplicate_nothing() {
    let Some(venv) = venv::second_emulator(&built::target()) else {
        println!("skipped: `cargo xtask soak` sets up local-bigquery, with Python 3.13");
        return;
    };
    let mut emulator = Emulator::start_second(&venv);
    let dataset = emulator.own_dataset();
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    sandbox.configure(&format!(
        "[destinations.bigquery]\nproject = \"{}\"\ndataset = \"{dataset}\"\ntable = \"events\"\nendpoint = \"{}\"\n\
         storage_endpoint = \"{}\"\n",
        emulator.project(),
        emulator.rest_endpoint(),
        emulator.grpc_endpoint(),
    ));
    let ended = sandbox.lorchestra(&["events", "setup"]).exits(0);
    assert!(ended.out().contains("and read it back"), "{}", ended.shown());
    for round in 0..lorchestra_tests::rounds(20) {
        let running = sandbox.start(&[
            "run-job",
            "--delivery-timeout",
            "20s",
            "misbehave",
            "numbered",
            "--count",
            "3000",
            "--then",
            "return",
        ]);
        std::thread::sleep(Duration::from_millis(u64::from(200 + 130 * (round % 9))));
        if round % 3 != 1 {
            let workers = running.children();
            running.signal(Signal::KILL);
            eventually("its worker is gone", || workers.iter().all(|pid| !processes::is_alive(*pid)));
        }
        if round % 3 != 0 {
            emulator.restart(&venv);
        }
        running.wait();
        sandbox.lorchestra(&["runs", "list"]).exits(0);
        sandbox.lorchestra(&["events", "flush", "--timeout", "50s"]).exits(0);
        for which in ["--failed", "--uncertain"] {
            let listed = sandbox.lorchestra(&["events", "list", which]).exits(0);
            assert_eq!(listed.out(), "", "round {round}");
        }
        let sql = format!(
            "SELECT COUNT(*) AS n, COUNT(DISTINCT event_id) AS d FROM `{dataset}.events` WHERE event_type <> 'lorchestra.probe'"
        );
        let row = &emulator.rows(&sql)[0];
        let stored = sandbox.lorchestra(&["events", "list", "--json"]).exits(0).json_lines("lorchestra.event/1").len() as u64;
        assert_eq!(
            (row["n"].as_u64(), row["d"].as_u64()),
            (Some(stored), Some(stored)),
            "round {round}: rows, distinct rows, events"
        );
    }
}
