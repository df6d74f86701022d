//! Threads that convert the lines of a batch, in any order; the results are in the order of the lines.

use lorchestra_plugin_api::tracing;
use rayon::ThreadPool;
use rayon::prelude::*;

/// Maximum number of threads. Each reserves address space, which `--memory-max` limits.
const MAX_THREADS: usize = 8;
/// As much as a job's own thread has: mails nest.
const STACK: usize = 8 << 20;

/// The threads, or none if the system does not allow any.
pub(crate) struct Workers(Option<ThreadPool>);

impl Workers {
    /// Starts a thread for each processor.
    pub(crate) fn start() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        if threads == 1 {
            return Self(None);
        }
        let name = |n| format!("canonizer-{n}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).stack_size(STACK).thread_name(name).build();
        Self(
            pool.inspect_err(|error| tracing::warn!(error = %error, "could not start threads: converting on the current one"))
                .ok(),
        )
    }

    /// Applies a function to all items.
    pub(crate) fn map<I: Sync, T: Send>(&self, items: &[I], convert: impl Fn(&I) -> T + Sync) -> Vec<T> {
        match &self.0 {
            Some(pool) if items.len() > 1 => pool.install(|| items.par_iter().with_max_len(4).map(&convert).collect()),
            _ => items.iter().map(convert).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..100).collect();
        for workers in [Workers::start(), Workers(None)] {
            let doubled = workers.map(&items, |n| {
                // The first ones take the longest.
                std::thread::sleep(Duration::from_micros(500 - n * 5));
                n * 2
            });
            assert_eq!(doubled, items.iter().map(|n| n * 2).collect::<Vec<_>>());
        }
    }
}
