//! Temporal: a workflow for the group, by the program `lorchestra-temporal`, which is installed separately. It reads Temporal's own
//! environment (TEMPORAL_ADDRESS and others) and starts the windows again itself.

use super::files::GroupFiles;
use super::{Engine, Seen, Submission, failure, output};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::Settings;
use lorchestra_core::text::path_text;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

/// The task queue that `lorchestra-temporal worker` serves, unless `--engine-flag=--task-queue=…` names another.
const QUEUE: &str = "lorchestra";

/// The exit code of `lorchestra-temporal` if the server does not know the group.
const UNKNOWN: i32 = 66;

/// Returns the program: from LORCHESTRA_TEMPORAL, next to this one, or on PATH.
pub(super) fn program(settings: &Settings) -> Result<PathBuf, CommandError> {
    if let Some(named) = settings.variable("LORCHESTRA_TEMPORAL").filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("lorchestra-temporal"));
    let on_path = settings.variable("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&on_path).map(|dir| dir.join("lorchestra-temporal"));
    beside.into_iter().chain(dirs).find(|path| path.is_file()).ok_or_else(|| {
        CommandError::new(
            Code::Config,
            "--engine temporal needs the program lorchestra-temporal: install it next to lorchestra \
             (cargo install --path lorchestra-temporal), or set LORCHESTRA_TEMPORAL",
        )
    })
}

/// A state of a window, as `watch --json` prints it.
#[derive(Debug, Deserialize)]
struct WatchLine {
    index: u32,
    state: String,
    exit_code: Option<i32>,
}

/// The workflow of a group.
pub(super) struct Temporal<'a> {
    files: &'a GroupFiles<'a>,
    program: PathBuf,
    watch: Option<(Child, Receiver<WatchLine>)>,
    seen: BTreeMap<u32, Seen>,
    /// Whether the server does not know the group.
    is_unknown: bool,
}

impl<'a> Temporal<'a> {
    pub(super) fn open(files: &'a GroupFiles<'a>, settings: &Settings) -> Result<Self, CommandError> {
        Ok(Self { files, program: program(settings)?, watch: None, seen: BTreeMap::new(), is_unknown: false })
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(action).args(["--group", &self.files.group.group_id]);
        command
    }

    /// Flags of the engine that every subcommand accepts.
    fn connection(&self) -> impl Iterator<Item = &String> {
        self.files.engine.flags.iter().filter(|flag| flag.starts_with("--address=") || flag.starts_with("--namespace="))
    }

    fn start_watch(&self) -> Result<(Child, Receiver<WatchLine>), CommandError> {
        let failed = |error| CommandError::not_started("lorchestra-temporal watch", &error);
        let mut command = self.command("watch");
        command.arg("--json").args(["--parent", &std::process::id().to_string()]);
        command.args(self.connection()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::Builder::new()
                .name("temporal-watch".into())
                .spawn(move || {
                    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                        if let Ok(line) = serde_json::from_str(&line)
                            && sender.send(line).is_err()
                        {
                            break;
                        }
                    }
                })
                .map_err(failed)?;
        }
        Ok((child, lines))
    }

    fn see(&mut self, line: &WatchLine) {
        match state_of(line) {
            Some(seen) => drop(self.seen.insert(line.index, seen)),
            None => drop(self.seen.remove(&line.index)),
        }
    }

    fn stop_watch(&mut self) {
        if let Some((mut child, _)) = self.watch.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Temporal<'_> {
    fn drop(&mut self) {
        self.stop_watch();
    }
}

impl Engine for Temporal<'_> {
    fn resubmits(&self) -> bool {
        false
    }

    fn submit(
        &mut self,
        submission: &Submission,
        _is_cancelled: &mut dyn FnMut() -> Result<bool, CommandError>,
    ) -> Result<(), CommandError> {
        let executable = crate::commands::executable()?;
        let windows = self.files.dir.join("submitted");
        let text: String = submission.places.iter().map(|place| format!("{place}\n")).collect();
        std::fs::write(&windows, text)
            .map_err(|error| CommandError::refused(Code::NotWritable, &path_text(&windows), &windows, &error))?;
        let mut submit = self.command("submit");
        submit.arg("--plan").arg(self.files.plan()).arg("--claims").arg(self.files.claims());
        submit.arg("--windows").arg(windows).arg("--lorchestra").arg(executable);
        // If this process is killed, nothing is submitted after that: `backfill cancel` would not see it.
        submit.arg("--parent").arg(std::process::id().to_string());
        submit.arg("--jobs").arg(self.files.group.settings.parallel.to_string());
        // For run-window: this command reads in the results why a window is not complete.
        let results = format!("--results={}", self.files.results().display());
        for flag in self.files.engine.window_flags.iter().chain([&results]) {
            submit.arg(format!("--window-flag={flag}"));
        }
        let flags = &self.files.engine.flags;
        if !flags.iter().any(|flag| flag.starts_with("--task-queue")) {
            submit.args(["--task-queue", QUEUE]);
        }
        output(submit.args(flags))?;
        self.stop_watch();
        self.seen.clear();
        self.is_unknown = false;
        Ok(())
    }

    fn look(&mut self) -> Result<BTreeMap<u32, Seen>, CommandError> {
        if self.watch.is_none() {
            // Once, so that an unreachable server is reported with its reason.
            let text = self.command("watch").args(["--json", "--once"]).args(self.connection()).output();
            let text = text.map_err(|error| CommandError::not_started("lorchestra-temporal watch", &error))?;
            self.is_unknown = text.status.code() == Some(UNKNOWN);
            // 1: the group has ended, and some windows have not completed.
            if !matches!(text.status.code(), Some(0 | 1 | UNKNOWN)) {
                return Err(failure("lorchestra-temporal watch", &text));
            }
            // What was seen before may be of a server that has lost it.
            self.seen.clear();
            if self.is_unknown {
                return Ok(BTreeMap::new());
            }
            for line in String::from_utf8_lossy(&text.stdout).lines() {
                if let Ok(line) = serde_json::from_str::<WatchLine>(line) {
                    self.see(&line);
                }
            }
            self.watch = Some(self.start_watch()?);
        }
        loop {
            match self.watch.as_ref().map(|(_, lines)| lines.try_recv()) {
                Some(Ok(line)) => self.see(&line),
                Some(Err(TryRecvError::Disconnected)) => {
                    // The group has ended, or the server is unreachable: the next call finds out.
                    self.stop_watch();
                    break;
                }
                _ => break,
            }
        }
        Ok(self.seen.clone())
    }

    fn has_lost_group(&self) -> bool {
        self.is_unknown
    }

    /// Cancelling a workflow also ends the windows that run. That is why `--max-failures` is refused for this engine.
    fn cancel(&mut self, _only_waiting: bool) -> Result<(), CommandError> {
        let mut cancel = self.command("cancel");
        let cancelled = cancel.args(self.connection()).output();
        let cancelled = cancelled.map_err(|error| CommandError::not_started("lorchestra-temporal cancel", &error))?;
        // There is nothing to cancel if it was never submitted, or was lost.
        if cancelled.status.success() || cancelled.status.code() == Some(UNKNOWN) {
            return Ok(());
        }
        Err(failure("lorchestra-temporal cancel", &cancelled))
    }
}

/// Returns what is known about a window; `None` if it was not submitted.
fn state_of(line: &WatchLine) -> Option<Seen> {
    match line.state.as_str() {
        "queued" => Some(Seen::Waiting),
        "running" => Some(Seen::Running),
        "completed" | "superseded" => Some(Seen::Complete),
        "omitted" => None,
        _ => Some(Seen::Ended(line.exit_code)),
    }
}
