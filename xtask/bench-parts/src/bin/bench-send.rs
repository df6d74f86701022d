//! Sends events from memory to a table, as the delivery thread sends those of the store, and prints the time: `bench-send
//! storage-write|pipelined|insert-all REST GRPC PROJECT.DATASET.TABLE EVENTS`. `pipelined` has as many batches in flight as the delivery
//! thread, the others one.
//!
//! Measures encoding, sending, and waiting for each answer, with an open connection and existing rows.
#![expect(clippy::print_stdout, reason = "this is what the program is for")]

use bench_parts::events;
use lorchestra_core::delivery::bigquery::{BigQuery, BigQueryConfig, CredentialSources, WriteMethod};
use lorchestra_core::delivery::{BatchTarget, Destination, Landed, Row, Slot};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::collections::VecDeque;
use std::error::Error;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [write, rest, grpc, table, count] = args.as_slice() else {
        return Err("usage: bench-send storage-write|pipelined|insert-all REST GRPC TABLE EVENTS".into());
    };
    let pipelined = write == "pipelined";
    let write = match write.as_str() {
        "storage-write" | "pipelined" => WriteMethod::StorageWrite,
        "insert-all" => WriteMethod::InsertAll,
        other => return Err(format!("what is {other}?").into()),
    };
    let [project, dataset, table] = table.split('.').collect::<Vec<_>>()[..] else {
        return Err(format!("{table} is not PROJECT.DATASET.TABLE").into());
    };
    let table = BigQuery::new(BigQueryConfig {
        project: Some(project.to_owned()),
        dataset: dataset.to_owned(),
        table: table.to_owned(),
        location: None,
        write,
        endpoint: Some(rest.clone()),
        storage_endpoint: Some(grpc.clone()),
        credentials: CredentialSources::default(),
        proxy: None,
        no_proxy: None,
        timeout: Duration::from_secs(60),
    })?;
    let rows: Vec<Row> = (0..count.parse()?).map(events::row).collect();
    // The same kind of runtime as the delivery thread's.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(send(table, &rows, pipelined))
}

async fn send(mut table: BigQuery, rows: &[Row], pipelined: bool) -> Result<(), Box<dyn Error>> {
    table.connect().await?;
    let stream = if table.uses_streams() { Some(table.create_stream().await?) } else { None };
    let size = table.policy().rows;
    // The first batch opens the connection.
    let warm: Vec<Row> = (u64::from(u32::MAX)..).take(size).map(events::row).collect();
    let mut sent = 0;
    append(&mut table, stream.as_deref(), &mut sent, &warm).await?;
    let (start, used) = (Instant::now(), processor());
    match stream.as_deref().filter(|_| pipelined) {
        Some(stream) => pipeline(&mut table, stream, sent, rows.chunks(size)).await?,
        None => {
            for batch in rows.chunks(size) {
                append(&mut table, stream.as_deref(), &mut sent, batch).await?;
            }
        }
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), processor() - used);
    println!("{}", json!({"rows": rows.len(), "seconds": seconds, "cpu_seconds": cpu}));
    Ok(())
}

async fn append(table: &mut BigQuery, stream: Option<&str>, sent: &mut i64, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let length = table.length(rows);
    let place = stream.map_or(BatchTarget::Anywhere, |stream| BatchTarget::Stream(Slot { stream, offset: *sent, length }));
    if table.append(place, rows).await? != Landed::Now {
        return Err("the stream was not empty".into());
    }
    *sent += length;
    Ok(())
}

/// In the same way as the delivery thread.
async fn pipeline<'a>(
    table: &mut BigQuery,
    stream: &str,
    mut sent: i64,
    batches: impl Iterator<Item = &'a [Row]>,
) -> Result<(), Box<dyn Error>> {
    let mut on_their_way = VecDeque::new();
    let mut batches = batches.peekable();
    while batches.peek().is_some() || !on_their_way.is_empty() {
        while on_their_way.len() < table.depth()
            && let Some(batch) = batches.next()
        {
            let length = table.length(batch);
            table.send(Slot { stream, offset: sent, length }, batch).await?;
            sent += length;
            on_their_way.push_back(batch);
        }
        if let Some(batch) = on_their_way.pop_front()
            && table.answer(batch).await? != Landed::Now
        {
            return Err("the stream was not empty".into());
        }
    }
    Ok(())
}

/// CPU seconds of all threads of this process.
fn processor() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}
