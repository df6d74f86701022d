//! A program that a job runs: why it cannot be started, its end, and stopping it.
//!
//! The process is in the job's process group, so it ends with the run. To stop it earlier, the job sends SIGTERM, and SIGKILL
//! some seconds later.

use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Time between SIGTERM and SIGKILL. Shorter than a run's grace period.
const GRACE: Duration = Duration::from_secs(5);

/// Why a program cannot be started.
#[derive(Debug)]
pub enum StartError {
    /// No directory of PATH contains it.
    NotOnPath(PathBuf),
    /// There is no such file.
    Missing(PathBuf),
    /// The interpreter in its first line is missing.
    NoInterpreter {
        /// The script.
        program: PathBuf,
        /// The interpreter in its first line.
        interpreter: String,
    },
    /// Its first line has a Windows line ending.
    CarriageReturn(PathBuf),
    /// Its dynamic loader is missing.
    NoLoader(PathBuf),
    /// The system refuses to run it.
    NotRunnable {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOnPath(program) => write!(f, "there is no program {} on PATH", program.display()),
            Self::Missing(program) => write!(f, "{}: no such program", program.display()),
            Self::NoInterpreter { program, interpreter } => write!(
                f,
                "{}: the interpreter in its first line does not exist: {interpreter}; install it, or fix the line",
                program.display()
            ),
            Self::CarriageReturn(program) => write!(
                f,
                "{}: its first line ends with a carriage return (Windows line endings), so its interpreter is not found; \
                 run dos2unix on it",
                program.display()
            ),
            Self::NoLoader(program) => {
                write!(f, "{}: it is a program for another system: its loader does not exist here", program.display())
            }
            Self::NotRunnable { program, .. } => write!(
                f,
                "{}: cannot run it; check that it is a program, and that the user running the job may execute it",
                program.display()
            ),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::NotRunnable { source, .. } = self { Some(source) } else { None }
    }
}

impl StartError {
    /// Returns why the program was not found: the system reports the same error if its interpreter is missing.
    fn not_found(program: &Path) -> Self {
        let named = program.components().count() == 1;
        #[expect(clippy::disallowed_methods, reason = "the system searches PATH for the program")]
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = || std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
        let file = if named { on_path() } else { Some(program.to_owned()).filter(|file| file.is_file()) };
        let Some(found) = file else {
            let program = program.to_owned();
            return if named { Self::NotOnPath(program) } else { Self::Missing(program) };
        };
        let mut first = Vec::new();
        // As much as the kernel reads of it.
        let read = std::fs::File::open(&found).map(|file| BufReader::new(file).take(255).read_until(b'\n', &mut first));
        let text = String::from_utf8_lossy(&first);
        match text.strip_prefix("#!").map(|line| line.trim_end_matches('\n')) {
            Some(line) if line.ends_with('\r') => Self::CarriageReturn(found),
            Some(line) => {
                let interpreter = line.split_whitespace().next().unwrap_or_default().replace(char::is_control, "?");
                Self::NoInterpreter { program: found, interpreter }
            }
            None if read.is_ok() => Self::NoLoader(found),
            None => Self::Missing(found),
        }
    }
}

/// A process that was started. It is killed if this is dropped before its end.
#[derive(Debug)]
pub struct ChildProcess {
    child: Child,
    ended: Option<ExitStatus>,
}

impl ChildProcess {
    /// Starts a program.
    pub fn start(command: &mut Command) -> Result<Self, StartError> {
        let child = command.spawn().map_err(|source| {
            let program = Path::new(command.get_program());
            match source.kind() {
                io::ErrorKind::NotFound => StartError::not_found(program),
                _ => StartError::NotRunnable { program: program.to_owned(), source },
            }
        })?;
        Ok(Self { child, ended: None })
    }

    /// Takes the reading end of its stdout, if that is a pipe.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Takes the reading end of its stderr, if that is a pipe.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Returns the exit status if the process has ended.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Sends SIGTERM, unless the process has ended.
    pub fn terminate(&mut self) -> io::Result<()> {
        if self.ended()?.is_none()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // The process has not been waited for, so its id is still its own.
            let _ = kill_process(pid, Signal::TERM);
        }
        Ok(())
    }

    /// Stops the process with SIGTERM, then SIGKILL if necessary.
    pub fn stop(&mut self) -> io::Result<ExitStatus> {
        let until = Instant::now() + GRACE;
        self.terminate()?;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > until {
                self.child.kill()?;
            }
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        if !matches!(self.ended(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    #[test]
    fn a_program_that_cannot_be_started_has_its_reason() {
        let start = |program: &str| ChildProcess::start(&mut Command::new(program)).err();
        assert!(matches!(start("no-such-program-anywhere"), Some(StartError::NotOnPath(_))));
        assert!(matches!(start("/no/such/program"), Some(StartError::Missing(_))));
        assert!(matches!(start("/etc/passwd"), Some(StartError::NotRunnable { .. })));
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed() {
        let script = "trap '' TERM; echo; exec sleep 100";
        let mut process = ChildProcess::start(Command::new("sh").args(["-c", script]).stdout(Stdio::piped())).unwrap();
        let mut first = [0];
        process.stdout().unwrap().read_exact(&mut first).unwrap();
        assert!(!process.stop().unwrap().success());
    }
}
