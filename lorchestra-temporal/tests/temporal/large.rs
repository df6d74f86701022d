//! Many windows, with everything killed, frozen or cut off in between: each is effective once.
//!
//! `LORCHESTRA_TEST_WINDOWS` sets their number: `cargo xtask soak temporal --windows 18250`. The disturbances are spread over the windows.

use crate::harness::{Group, Node, Server, Warehouse, effective, signal, tree, within};
use std::time::{Duration, Instant};

/// Number of windows between two disturbances of a soak.
const BETWEEN: u32 = 450;

#[test]
fn every_window_is_effective_once_while_everything_is_killed_and_frozen() {
    let windows: u32 = std::env::var("LORCHESTRA_TEST_WINDOWS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    // Two accounts.
    let days = windows.div_ceil(2);
    let windows = days * 2;
    let mut server = Server::start();
    let mut warehouse = Warehouse::start();
    let nodes = [Node::new(), Node::new()];
    nodes.iter().for_each(|node| node.deliver_to(&warehouse));
    let group = Group::plan(&server, &nodes[0], days, &["--account", "anna", "--account", "bert"]);
    let begun = Instant::now();
    let history = (windows / 20).clamp(10, 1000).to_string();
    group.submit("large", &["--jobs", "6", "--starts-per-history", &history]);
    let mut first = nodes[0].worker(&server, "large", 3);
    let second = nodes[1].worker(&server, "large", 3);
    let disturbances = (windows / BETWEEN).max(5);
    for n in 0..disturbances {
        // The first one while the first windows run.
        let wanted = (windows / disturbances * n) as usize;
        let patience = Duration::from_secs(120 + u64::from(windows));
        within(patience, &format!("{wanted} windows"), || {
            std::thread::sleep(Duration::from_millis(if windows > 1000 { 500 } else { 0 }));
            group.claims() >= wanted
        });
        match n % 5 {
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
            3 => {
                second.signal("STOP");
                std::thread::sleep(Duration::from_secs(9));
                second.signal("CONT");
            }
            // The network to BigQuery is cut. Nothing is claimed: no window can be delivered.
            _ => {
                warehouse.network(false);
                std::thread::sleep(Duration::from_secs(6));
                let claims = group.claims();
                std::thread::sleep(Duration::from_secs(1));
                assert_eq!(group.claims(), claims, "windows were claimed without delivery");
                warehouse.network(true);
            }
        }
        println!("{:.0?}: disturbance {} of {disturbances}, {} claims", begun.elapsed(), n + 1, group.claims());
    }
    within(Duration::from_secs(120 + u64::from(windows)), "all windows have a claim", || {
        std::thread::sleep(Duration::from_millis(200));
        group.claims() == windows as usize
    });
    let result = group.result(Duration::from_secs(120));
    let took = begun.elapsed();
    println!(
        "{windows} windows in {took:.0?} ({:.1}/s), {disturbances} disturbances: {result}",
        f64::from(windows) / took.as_secs_f64()
    );
    let complete = result["completed"].as_u64().unwrap() + result["superseded"].as_u64().unwrap();
    assert_eq!(complete, u64::from(windows), "{result}");
    // In the files of both nodes, and in BigQuery. What was frozen ends, and the last event of each run is delivered after its claim.
    let mut view = effective(&nodes);
    let mut table = warehouse.effective();
    within(Duration::from_secs(30), "all is delivered", || {
        if view.len() < windows as usize || table.len() < windows as usize {
            nodes.iter().for_each(|node| drop(node.lorchestra(&["events", "flush", "--timeout", "20s"])));
            (view, table) = (effective(&nodes), warehouse.effective());
        }
        view.len() == windows as usize && table.len() == windows as usize
    });
    assert!(view.values().all(|runs| *runs == 1), "no double: {view:?}");
    assert!(table.values().all(|runs| *runs == 1), "no double in BigQuery: {table:?}");
    let restarted = group.windows().iter().filter(|window| window["attempt"].as_u64() > Some(1)).count();
    assert!(restarted > 0, "no window was interrupted");
}
