//! Exponential backoff with jitter for deliveries and jobs, never shorter than the server asked for.

use std::time::Duration;

/// The delays between retries of one operation.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts at `first` and doubles up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Number of consecutive failures so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Resets the delay after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the delay after another failure: between 50 % and 100 % of the nominal delay, so that clients that failed
    /// together do not retry together; but at least `asked`.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let whole = self.first.saturating_mul(1 << self.failures.min(20)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let jittered = whole / 2 + (whole / 2).mul_f64(fastrand::f64());
        asked.map_or(jittered, |asked| jittered.max(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_their_bounds() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for whole in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.next(None).as_millis();
            assert!((whole / 2..=whole).contains(&wait), "{wait} of {whole}");
        }
        assert_eq!(backoff.failures(), 6);
        backoff.reset();
        assert!(backoff.next(None) <= Duration::from_millis(100));
    }

    #[test]
    fn the_server_may_ask_for_more() {
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_secs(1));
        assert_eq!(backoff.next(Some(Duration::from_secs(30))), Duration::from_secs(30));
    }
}
