//! A started command. Its output is read concurrently, so that a full pipe never blocks it, and it does not outlive the test.

use crate::ended::Ended;
use crate::{DEADLINE, processes};
use rustix::process::Signal;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A command that may still be running.
#[derive(Debug)]
pub struct Running {
    child: Child,
    args: Vec<String>,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Starts the command with an empty stdin.
    pub fn start(mut command: Command) -> Self {
        processes::hear_interrupts();
        let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        let stdout = child.stdout.take().map(|pipe| std::thread::spawn(move || all_of(pipe)));
        let stderr = child.stderr.take().map(|pipe| std::thread::spawn(move || all_of(pipe)));
        Self { child, args, stdout, stderr }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("waiting for a child").is_some()
    }

    /// Its children; for `run-job`, the worker.
    pub fn children(&self) -> Vec<u32> {
        processes::children(self.pid())
    }

    /// Waits for its end and checks the rules for all commands.
    ///
    /// # Panics
    /// If it does not end within [`DEADLINE`], or breaks a rule.
    pub fn wait(self) -> Ended {
        self.wait_within(DEADLINE)
    }

    /// Like [`wait`](Self::wait), for one of many processes that share the processors.
    ///
    /// # Panics
    /// If it does not end within that time, or breaks a rule.
    pub fn wait_within(mut self, limit: Duration) -> Ended {
        let until = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("waiting for a child") {
                break status;
            }
            if Instant::now() > until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!("`lorchestra {}` did not end within {limit:?}", self.args.join(" "));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let collect = |pipe: Option<JoinHandle<Vec<u8>>>| pipe.map(|p| p.join().expect("a reader ends")).unwrap_or_default();
        let (stdout, stderr) = (collect(self.stdout.take()), collect(self.stderr.take()));
        let ended = Ended { args: std::mem::take(&mut self.args), status, stdout, stderr };
        ended.check();
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn all_of(mut pipe: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    bytes
}
