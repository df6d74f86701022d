//! The fake BigQuery as a separate process, for benches, manual tests and tests of other workspaces: prints its addresses, and serves until it
//! is killed. Reads commands from stdin, one per line, and answers each with a line: `down` (from now on connections are refused), `up`, and
//! `rows FILE`, which writes the rows of all tables as JSON Lines.
//!
//!     fake-bigquery [--acknowledge-only] [--delay MS] [--rest-port N] [--grpc-port N] [--table PROJECT.DATASET.TABLE]...
#![expect(clippy::print_stdout, reason = "prints the address where it listens")]

use lorchestra_tests::bigquery::fake::{Fake, Fault, Method, Options, TableName};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    match read(std::env::args().skip(1)) {
        Ok(Asked { options, tables, delay }) => {
            let fake = Fake::start_with(options);
            if let Some(delay) = delay {
                fake.faults().forever(Method::AppendRows, Fault::Latency(delay));
                fake.faults().forever(Method::InsertAll, Fault::Delay(delay));
            }
            tables.iter().for_each(|table| fake.create_event_table(table));
            println!("REST={} GRPC={}", fake.rest_endpoint(), fake.grpc_endpoint());
            for line in std::io::stdin().lines().map_while(Result::ok) {
                match obey(&fake, &tables, line.trim()) {
                    Ok(()) => println!("done"),
                    Err(what) => println!("{what}"),
                }
            }
            loop {
                std::thread::park();
            }
        }
        Err(what) => {
            eprintln!("fake-bigquery: {what}");
            eprintln!(
                "fake-bigquery [--acknowledge-only] [--delay MS] [--rest-port N] [--grpc-port N] [--table PROJECT.DATASET.TABLE]..."
            );
            ExitCode::from(2)
        }
    }
}

fn obey(fake: &Fake, tables: &[TableName], line: &str) -> Result<(), String> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("down", "") => fake.go_down(),
        ("up", "") => fake.come_up(),
        ("rows", file) => {
            let rows = tables.iter().flat_map(|table| fake.rows(table));
            let lines: String = rows.map(|row| format!("{}\n", serde_json::Value::Object(row.values))).collect();
            std::fs::write(file, lines).map_err(|error| format!("{file}: {error}"))?;
        }
        _ => return Err(format!("what is {line}?")),
    }
    Ok(())
}

#[derive(Default)]
struct Asked {
    options: Options,
    tables: Vec<TableName>,
    /// The delay before each answer to rows.
    delay: Option<Duration>,
}

fn read(mut args: impl Iterator<Item = String>) -> Result<Asked, String> {
    let Asked { mut options, mut tables, mut delay } = Asked::default();
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value"));
        let port = |text: String| text.parse().map_err(|_| format!("{text} is not a port"));
        match flag.as_str() {
            "--acknowledge-only" => options.acknowledge_only = true,
            "--delay" => {
                let text = value()?;
                delay = Some(Duration::from_millis(text.parse().map_err(|_| format!("{text} is not a number of milliseconds"))?));
            }
            "--rest-port" => options.rest_port = port(value()?)?,
            "--grpc-port" => options.grpc_port = port(value()?)?,
            "--table" => {
                let table = value()?;
                if table.split('.').count() != 3 {
                    return Err(format!("{table} is not PROJECT.DATASET.TABLE"));
                }
                tables.push(TableName::parse(&table));
            }
            _ => return Err(format!("what is {flag}?")),
        }
    }
    Ok(Asked { options, tables, delay })
}
