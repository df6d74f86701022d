//! A headless browser, controlled by its DevTools protocol: JSON messages, each with a zero byte at its end, in two pipes. So one process
//! shows many pages, on screens of any size: the window of a headless Chromium has at least 500 px, and a phone has fewer.

use crate::DEADLINE;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// Message of the browser about a page, of which a report has none.
const PROBLEMS: [&str; 3] = ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"];

/// What a page is shown on.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// Width in CSS pixels.
    pub width: u32,
    /// Height in CSS pixels.
    pub height: u32,
    /// Whether it is that of a phone, which obeys the page's `viewport`: without one, pages are 980 px wide.
    pub is_phone: bool,
    /// Whether its user prefers dark colours.
    pub is_dark: bool,
}

/// A page on a screen.
#[derive(Debug)]
pub struct Shown {
    /// A picture of it (PNG).
    pub picture: Vec<u8>,
    /// Everything on the console: errors of scripts, styles and resources.
    pub problems: Vec<Value>,
    /// The result of the expression.
    pub value: Value,
}

/// A running browser with one page.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    /// Of the page.
    session: Value,
    last: u64,
    /// Messages that are not answers.
    events: Vec<Value>,
}

impl Browser {
    /// Starts a browser. The command is that of a headless Chromium.
    ///
    /// # Panics
    /// If it does not start or does not answer.
    pub fn start(chromium: &Command) -> Self {
        // Chromium reads from descriptor 3 and writes to 4.
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" --remote-debugging-pipe 3<&0 4>&1 </dev/null >/dev/null"]);
        shell.arg(chromium.get_program()).args(chromium.get_args());
        shell.envs(chromium.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a shell");
        let to = child.stdin.take().expect("its input");
        let mut answers = BufReader::new(child.stdout.take().expect("its output"));
        let (send, from) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while answers.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                let value = serde_json::from_slice(message.strip_suffix(&[0]).unwrap_or(&message)).unwrap_or_default();
                if send.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self { child, to, from, session: Value::Null, last: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attached = browser.call("Target.attachToTarget", &json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Shows a file, waits until it is loaded, and evaluates an expression in it.
    ///
    /// # Panics
    /// If the browser does not.
    pub fn show(&mut self, file: &Path, screen: Screen, expression: &str) -> Shown {
        let Screen { width, height, is_phone, is_dark } = screen;
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": if is_phone { 2 } else { 1 }, "mobile": is_phone});
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if is_dark { "dark" } else { "light" };
        self.call("Emulation.setEmulatedMedia", &json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}));
        self.events.clear();
        let gone = self.call("Page.navigate", &json!({"url": format!("file://{}", file.display())}));
        assert_eq!(gone["errorText"], Value::Null, "{gone}");
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.receive();
            self.events.push(event);
        }
        let evaluated = self.call("Runtime.evaluate", &json!({"expression": expression, "returnByValue": true}));
        assert_eq!(evaluated["exceptionDetails"], Value::Null, "{evaluated}");
        let captured = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        let picture = BASE64_STANDARD.decode(captured["data"].as_str().expect("a picture")).expect("base64");
        let is_problem = |event: &&Value| PROBLEMS.iter().any(|problem| event["method"] == *problem);
        let problems = self.events.iter().filter(is_problem).cloned().collect();
        Shown { picture, problems, value: evaluated["result"]["value"].clone() }
    }

    /// Calls a method and returns its result.
    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("the browser reads");
        loop {
            let mut answer = self.receive();
            if answer["id"] == self.last {
                assert_eq!(answer["error"], Value::Null, "{method}");
                return answer["result"].take();
            }
            self.events.push(answer);
        }
    }

    fn receive(&self) -> Value {
        self.from.recv_timeout(DEADLINE).expect("a message of the browser")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
