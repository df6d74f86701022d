//! Requests to a monitor, as healthchecks.io and its relatives expect them: `URL/start` when a run starts, `URL` when it succeeded,
//! `URL/fail` when it failed, each with `?rid=` and the id of the run. A failure has its cause as body, and nothing that a job wrote.
//!
//! Talks to no other service. URLs are secrets of a kind: no message repeats them.

use lorchestra_core::outcome::Cause;
use std::time::{Duration, Instant};

/// Time limit of a request, and of each of its attempts.
const LIMIT: Duration = Duration::from_secs(10);
const ATTEMPT: Duration = Duration::from_secs(4);
/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(500);

/// What a ping reports.
#[derive(Debug, Clone, Copy)]
pub(super) enum Signal {
    Start,
    Success,
    Failure(Cause),
}

/// A request to send.
#[derive(Debug)]
pub(super) struct Ping {
    pub(super) url: String,
    pub(super) signal: Signal,
    pub(super) run_id: String,
}

impl Ping {
    /// The address: the signal goes before the query that the URL may have.
    fn address(&self) -> String {
        let (base, query) = self.url.split_once('?').map_or((self.url.as_str(), None), |(base, query)| (base, Some(query)));
        let end = match self.signal {
            Signal::Start => "/start",
            Signal::Success => "",
            Signal::Failure(_) => "/fail",
        };
        let query = query.map(|query| format!("{query}&")).unwrap_or_default();
        format!("{}{end}?{query}rid={}", base.trim_end_matches('/'), self.run_id)
    }

    fn body(&self) -> &'static str {
        match self.signal {
            Signal::Failure(cause) => cause.as_str(),
            _ => "",
        }
    }
}

/// Sends all of them at the same time. Fails with a sentence about the first one that was not answered.
pub(super) fn send(pings: &[Ping]) -> Result<(), String> {
    if pings.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| format!("ping: {e}"))?;
    let client = reqwest::Client::builder()
        .timeout(ATTEMPT)
        .user_agent(concat!("lorchestra/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| format!("ping: no HTTP client: {}", e.without_url()))?;
    let sent = runtime.block_on(async {
        let mut requests = tokio::task::JoinSet::new();
        for ping in pings {
            let (client, address, body) = (client.clone(), ping.address(), ping.body());
            requests.spawn(async move { request(&client, &address, body).await });
        }
        let mut all = Ok(());
        while let Some(sent) = requests.join_next().await {
            let sent = sent.unwrap_or_else(|e| Err(e.to_string()));
            all = all.and(sent.map_err(|why| format!("ping: the monitor was not reached: {why}")));
        }
        all
    });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    sent
}

/// Sends a request until it is accepted. An answer that refuses it is final.
async fn request(client: &reqwest::Client, address: &str, body: &'static str) -> Result<(), String> {
    let until = Instant::now() + LIMIT;
    loop {
        let why = match client.post(address).body(body).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) if answer.status().is_client_error() => return Err(format!("it answered {}", answer.status())),
            Ok(answer) => format!("it answered {}", answer.status()),
            Err(error) => lorchestra_core::text::chain(&error.without_url()),
        };
        if Instant::now() + PAUSE + ATTEMPT > until {
            return Err(why);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_goes_before_the_query() {
        let address = |url: &str, signal| Ping { url: url.into(), signal, run_id: "1".into() }.address();
        assert_eq!(address("https://hc/a", Signal::Success), "https://hc/a?rid=1");
        assert_eq!(address("https://hc/a/", Signal::Start), "https://hc/a/start?rid=1");
        assert_eq!(address("https://hc/a?create=1", Signal::Failure(Cause::Timeout)), "https://hc/a/fail?create=1&rid=1");
    }
}
