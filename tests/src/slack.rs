//! A Slack in the test's own process: the methods of its Web API that `extract_slack` calls, with pages of configurable size and faults on
//! demand. Strict where Slack is: the token, missing parameters, foreign cursors.

mod http;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard};

/// The valid token.
pub const TOKEN: &str = "xoxb-good-token";

/// What to send instead of an answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// 429 with this `Retry-After`.
    Limited(u64),
    /// This JSON with status 200: `{"ok": false, …}`.
    Answer(Value),
    /// The first half of the correct answer.
    Truncated,
    /// This status with an HTML page.
    Status(u16),
    /// Nothing, for as long as the caller waits.
    Silent,
}

/// A running server, which ends with the test's process.
#[derive(Debug)]
pub struct Slack {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// The contents of a workspace.
#[derive(Debug)]
pub struct State {
    /// Objects of `users.list`.
    pub users: Vec<Value>,
    /// Objects of `conversations.list`.
    pub channels: Vec<Value>,
    /// Messages and replies of each channel, oldest first.
    pub messages: BTreeMap<String, Vec<Value>>,
    /// Maximum number of items on a page.
    pub page: usize,
    /// For a method: the number of correct answers before the fault, and the number of faults.
    pub faults: Vec<(&'static str, usize, usize, Fault)>,
    /// Methods and their parameters, in the order of the calls.
    pub calls: Vec<(String, BTreeMap<String, String>)>,
}

impl Slack {
    /// Starts one with two users and no messages.
    ///
    /// # Panics
    /// If there is no port.
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State {
            users: vec![
                json!({"id": "U1", "name": "anna", "profile": {"display_name": "Anna"}}),
                json!({"id": "U2", "name": "berta", "profile": {"display_name": "", "real_name": "Berta"}}),
            ],
            channels: Vec::new(),
            messages: BTreeMap::new(),
            page: 200,
            faults: Vec::new(),
            calls: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || http::serve(&stream, &shared));
            }
        });
        Self { port, state }
    }

    /// The value for `--base-url`.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/api", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its contents, to read and change.
    ///
    /// # Panics
    /// If a thread panicked while answering.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no answer panicked")
    }

    /// Parameters of all calls of a method so far.
    pub fn calls(&self, method: &str) -> Vec<BTreeMap<String, String>> {
        self.state().calls.iter().filter(|(name, _)| name == method).map(|(_, params)| params.clone()).collect()
    }

    /// Forgets the calls so far.
    pub fn forget(&self) {
        self.state().calls.clear();
    }
}

impl State {
    /// Adds a channel with the app as a member.
    pub fn channel(&mut self, id: &str, name: &str) {
        self.channels.push(json!({"id": id, "name": name, "is_channel": true, "is_member": true}));
        self.messages.insert(id.to_owned(), Vec::new());
    }

    /// Adds a message to a channel.
    ///
    /// # Panics
    /// If there is no such channel.
    pub fn say(&mut self, channel: &str, ts: &str, thread_ts: Option<&str>, text: &str) {
        let mut message = json!({"type": "message", "user": "U1", "ts": ts, "text": text});
        if let Some(thread_ts) = thread_ts {
            message["thread_ts"] = thread_ts.into();
        }
        let messages = self.messages.get_mut(channel).expect("a channel");
        messages.push(message);
        messages.sort_by_key(ts_of);
    }

    /// The fault of this call, if any.
    fn fault(&mut self, method: &str) -> Option<Fault> {
        let fault = self.faults.iter_mut().find(|(name, _, times, _)| *name == method && *times > 0)?;
        if fault.1 > 0 {
            fault.1 -= 1;
            return None;
        }
        fault.2 -= 1;
        Some(fault.3.clone())
    }

    fn answer(&mut self, method: &str, params: &BTreeMap<String, String>, token: &str) -> Value {
        if token != TOKEN {
            return json!({"ok": false, "error": "invalid_auth"});
        }
        match method {
            "auth.test" => json!({"ok": true, "team_id": "T1", "team": "example"}),
            "users.list" => self.page_of(self.users.clone(), "members", params),
            "conversations.list" => self.page_of(self.channels.clone(), "channels", params),
            "conversations.history" | "conversations.replies" => {
                let Some(posted) = params.get("channel").and_then(|channel| self.messages.get(channel)) else {
                    return json!({"ok": false, "error": "channel_not_found"});
                };
                let messages = if method == "conversations.history" {
                    history(posted, params)
                } else {
                    let Some(ts) = params.get("ts") else { return json!({"ok": false, "error": "invalid_arguments"}) };
                    posted.iter().filter(|m| m["ts"] == **ts || m["thread_ts"] == **ts).cloned().collect()
                };
                self.page_of(messages, "messages", params)
            }
            _ => json!({"ok": false, "error": "unknown_method"}),
        }
    }

    fn page_of(&self, items: Vec<Value>, list: &str, params: &BTreeMap<String, String>) -> Value {
        let limit = params.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(100).min(self.page);
        let start = match params.get("cursor").map(|cursor| cursor.strip_prefix("next:").and_then(|n| n.parse().ok())) {
            None => 0,
            Some(Some(start)) => start,
            Some(None) => return json!({"ok": false, "error": "invalid_cursor"}),
        };
        let end = items.len().min(start + limit);
        let cursor = if end < items.len() { format!("next:{end}") } else { String::new() };
        json!({
            "ok": true,
            list: items[start.min(end)..end],
            "has_more": end < items.len(),
            "response_metadata": {"next_cursor": cursor},
        })
    }
}

/// Messages other than replies between two times, newest first, with a summary of their threads.
fn history(posted: &[Value], params: &BTreeMap<String, String>) -> Vec<Value> {
    let bound =
        |name: &str| params.get(name).map_or(if name == "oldest" { 0.0 } else { f64::MAX }, |ts| ts.parse().expect("a ts"));
    let (oldest, latest) = (bound("oldest"), bound("latest"));
    let mut messages: Vec<Value> = posted
        .iter()
        .filter(|message| message["thread_ts"].is_null() || message["thread_ts"] == message["ts"])
        .filter(|message| {
            let ts: f64 = ts_of(message).parse().expect("a ts");
            oldest < ts && ts < latest
        })
        .cloned()
        .collect();
    for message in &mut messages {
        let answers: Vec<&Value> =
            posted.iter().filter(|m| m["thread_ts"] == message["ts"] && m["ts"] != message["ts"]).collect();
        if let Some(last) = answers.last() {
            message["thread_ts"] = message["ts"].clone();
            message["reply_count"] = answers.len().into();
            message["latest_reply"] = last["ts"].clone();
        }
    }
    messages.reverse();
    messages
}

fn ts_of(message: &Value) -> String {
    message["ts"].as_str().expect("a ts").to_owned()
}
