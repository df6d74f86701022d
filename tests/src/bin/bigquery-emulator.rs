//! The real emulator as a separate process, for benches: prints its addresses, and serves until stdin closes.
//!
//!     bigquery-emulator DATASET.TABLE
#![expect(clippy::print_stdout, reason = "prints the address where it listens")]

use lorchestra_tests::bigquery::emulator::{self, Emulator};
use std::process::ExitCode;

fn main() -> ExitCode {
    let table = std::env::args().nth(1);
    let Some((dataset, table)) = table.as_deref().and_then(|table| table.split_once('.')) else {
        eprintln!("bigquery-emulator DATASET.TABLE");
        return ExitCode::from(2);
    };
    let emulator = Emulator::start(&emulator::ensure_venv());
    emulator.create_dataset(dataset);
    emulator.create_event_table(dataset, table);
    println!("REST={} GRPC={}", emulator.rest_endpoint(), emulator.grpc_endpoint());
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    ExitCode::SUCCESS
}
