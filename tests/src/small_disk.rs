//! File systems of a few hundred kilobytes, to be filled or made read-only: tmpfs, mounted in a separate mount namespace that ends with the
//! process that holds it. Needs no privileges if users may create user namespaces, otherwise those of root.

use crate::processes;
use crate::running::Running;
use crate::sandbox::Sandbox;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Set if this machine cannot mount them: such tests then print that and pass.
const WITHOUT: &str = "LORCHESTRA_TEST_WITHOUT_SMALL_DISKS";

/// The file systems of one test, and access to their namespace.
#[derive(Debug)]
pub struct SmallDisks {
    holder: Child,
    own_user: bool,
}

impl SmallDisks {
    /// Mounts a file system with this many KiB at each of these directories of the sandbox, in order, and creates the directories. Returns
    /// `None`, with a message on stderr, if this machine cannot and the variable says so.
    ///
    /// # Panics
    /// If this machine cannot and the variable is not set.
    pub fn mount(sandbox: &Sandbox, disks: &[(PathBuf, u32)]) -> Option<Self> {
        // First with a user namespace, which works without privileges.
        let refused = match Self::hold(sandbox, disks, true) {
            Ok(disks) => return Some(disks),
            Err(refused) => refused,
        };
        match Self::hold(sandbox, disks, false) {
            Ok(disks) => Some(disks),
            Err(also) => {
                let why = format!("no small disk can be had here: unshare -rm: {refused}; unshare -m: {also}");
                assert!(is_known(), "{why}\nThis test needs one. Allow user namespaces, or run it as root, or set {WITHOUT}=1.");
                eprintln!("NOT SHOWN: {why}");
                None
            }
        }
    }

    fn hold(sandbox: &Sandbox, disks: &[(PathBuf, u32)], own_user: bool) -> Result<Self, String> {
        let script = disks.iter().fold(String::new(), |script, (path, kib)| {
            let path = path.display();
            format!("{script}mkdir -p -m 700 '{path}' && mount -t tmpfs -o size={kib}k,mode=700 tmpfs '{path}' && ")
        });
        let wait = "sh -c 'echo ready && read _'";
        let script = if own_user && !processes::is_root() {
            // If this user is the only one in the namespace, files of root belong to no mapped user, and plugins below them are not
            // trusted: the path to the sandbox is recreated for this user.
            let (root, sandbox) = (sandbox.path("root").display().to_string(), sandbox.root().display().to_string());
            let top = sandbox.split('/').nth(1).unwrap_or_default();
            format!(
                "{script}mkdir '{root}' && mount -t tmpfs tmpfs '{root}' && for at in /*; do name=${{at#/}}; \
                 if [ \"$name\" = '{top}' ]; then :; elif [ -h \"$at\" ]; then cp -P \"$at\" '{root}'; \
                 elif [ -d \"$at\" ]; then mkdir \"{root}/$name\" && mount --rbind \"$at\" \"{root}/$name\"; fi; done && \
                 mkdir -p '{root}{sandbox}' && mount --rbind '{sandbox}' '{root}{sandbox}' && exec chroot '{root}' {wait}"
            )
        } else {
            format!("{script}exec {wait}")
        };
        let mut command = Command::new("unshare");
        command.arg(if own_user { "-rm" } else { "-m" }).args(["sh", "-c", &script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().map_err(|e| e.to_string())?;
        let mut line = String::new();
        let out = holder.stdout.take().ok_or("no standard output")?;
        BufReader::new(out).read_line(&mut line).map_err(|e| e.to_string())?;
        if line == "ready\n" {
            return Ok(Self { holder, own_user });
        }
        let output = holder.wait_with_output().map_err(|e| e.to_string())?;
        Err(format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// The command of a sandbox with these disks, not started.
    pub fn command(&self, sandbox: &Sandbox, args: &[&str]) -> Command {
        let plain = sandbox.command(args);
        let mut command = Command::new("nsenter");
        if self.own_user {
            command.args(["--user", "--preserve-credentials", "--root"]);
        }
        command.args(["--mount", "--target", &self.holder.id().to_string()]).arg(plain.get_program()).args(plain.get_args());
        command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// The command of a sandbox with these disks, executed by a shell that has run `script` with administrator rights in its namespaces, to
    /// restrict more of the host than disks.
    pub fn command_by(&self, sandbox: &Sandbox, script: &str, args: &[&str]) -> Command {
        let plain = self.command(sandbox, args);
        let (before, after): (Vec<_>, Vec<_>) = {
            let all: Vec<_> = plain.get_args().map(std::ffi::OsStr::to_owned).collect();
            let at = all.len() - args.len() - 1;
            (all[..at].to_vec(), all[at..].to_vec())
        };
        let mut command = Command::new(plain.get_program());
        command.args(before).args(["sh", "-c", &format!("{script}\nexec \"$0\" \"$@\"")]).args(after);
        command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// Starts the command with these disks.
    pub fn start(&self, sandbox: &Sandbox, args: &[&str]) -> Running {
        Running::start(self.command(sandbox, args))
    }

    /// A path on one of them, for this process.
    pub fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }

    /// Uses up all space on the disk of a directory, with this file.
    pub fn fill(&self, dir: &Path) -> PathBuf {
        let path = self.path(dir).join("ballast");
        let mut file = File::create(&path).expect("a file on the small disk");
        for size in [64 << 10, 4096, 512, 1] {
            while file.write(&vec![b'x'; size]).is_ok_and(|n| n > 0) {}
        }
        assert!(fs::metadata(&path).expect("the ballast").len() > 0, "the disk was full before");
        path
    }

    /// Makes the disk of a directory read-only, or writable again.
    pub fn remount(&self, dir: &Path, how: &str) {
        let mut command = Command::new("nsenter");
        if self.own_user {
            command.args(["--user", "--preserve-credentials", "--root"]);
        }
        command.args(["--mount", "--target", &self.holder.id().to_string()]);
        // Not with its current options: they include a uid of this user that does not exist in the namespace.
        command.args(["mount", "--options-mode", "ignore", "-o", &format!("remount,{how}"), "tmpfs"]).arg(dir);
        let output = command.output().expect("nsenter");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for SmallDisks {
    fn drop(&mut self) {
        // When its stdin closes, it ends; the disks disappear with the last process that uses them.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "the environment states what this machine has")]
fn is_known() -> bool {
    std::env::var_os(WITHOUT).is_some_and(|value| value == "1")
}
