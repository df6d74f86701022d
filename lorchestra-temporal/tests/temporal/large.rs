//! Many windows, with everything killed in between: each is effective once.
//!
//! `LORCHESTRA_TEST_WINDOWS` sets their number: `cargo xtask soak temporal --windows 18250`.

use crate::harness::{Group, Node, Server, effective, signal, tree};
use std::time::{Duration, Instant};

#[test]
fn every_window_is_effective_once_while_everything_is_killed_and_frozen() {
    let windows: u32 = std::env::var("LORCHESTRA_TEST_WINDOWS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    // Two accounts.
    let days = windows.div_ceil(2);
    let mut server = Server::start();
    let nodes = [Node::new(), Node::new()];
    let group = Group::plan(&server, &nodes[0], days, &["--account", "anna", "--account", "bert"]);
    let begun = Instant::now();
    let history = (windows / 4).clamp(20, 1000).to_string();
    group.submit("large", &["--jobs", "6", "--windows-per-history", &history]);
    let mut first = nodes[0].worker(&server, "large", 3);
    let second = nodes[1].worker(&server, "large", 3);
    let mut disturbances = 0;
    while group.claims() < (days * 2) as usize {
        std::thread::sleep(Duration::from_secs(8));
        match disturbances % 4 {
            // A worker dies.
            0 => {
                first.kill();
                first = nodes[0].worker(&server, "large", 3);
            }
            // A node freezes for longer than the heartbeat timeout.
            1 => {
                let frozen = tree(second.id());
                frozen.iter().for_each(|pid| signal(*pid, "STOP"));
                std::thread::sleep(Duration::from_secs(9));
                frozen.iter().for_each(|pid| signal(*pid, "CONT"));
            }
            // The server dies.
            2 => {
                server.kill();
                std::thread::sleep(Duration::from_secs(1));
                server.restart();
            }
            // Only the worker freezes: its processes go on.
            _ => {
                second.signal("STOP");
                std::thread::sleep(Duration::from_secs(9));
                second.signal("CONT");
            }
        }
        disturbances += 1;
        assert!(begun.elapsed() < Duration::from_secs(60 + 2 * u64::from(windows)), "{} claims", group.claims());
    }
    let result = group.result(Duration::from_secs(120));
    println!("{windows} windows in {:.0?}, {disturbances} disturbances: {result}", begun.elapsed());
    let complete = result["completed"].as_u64().unwrap() + result["superseded"].as_u64().unwrap();
    assert_eq!(complete, u64::from(days * 2), "{result}");
    // What was frozen ends.
    let view = effective(&nodes);
    assert_eq!(view.len(), (days * 2) as usize, "no gap");
    assert!(view.values().all(|runs| *runs == 1), "no double: {view:?}");
    assert_eq!(group.claims(), (days * 2) as usize);
    assert!(disturbances >= 4, "{disturbances}: nothing was shown");
    let restarted = group.windows().iter().filter(|window| window["attempt"].as_u64() > Some(1)).count();
    assert!(restarted > 0, "no window was interrupted");
}
