//! A real Slurm cluster: slurmctld, munge, and three nodes on this host, unpacked by `cargo xtask test` ([`lorchestra_test_setup::slurm`]).
//! Each daemon can be killed, frozen and started again. Short timeouts: a node that does not answer is down after some seconds.

pub mod site;

use crate::{DEADLINE, built, processes};
use lorchestra_test_setup::slurm as setup;
use rustix::process::Signal;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Number of nodes.
pub const NODES: usize = 3;

/// A running cluster, stopped at the end of its test.
#[derive(Debug)]
pub struct Slurm {
    dir: TempDir,
    root: PathBuf,
    munge: Child,
    controller: Child,
    nodes: Vec<Child>,
}

impl Slurm {
    /// Starts one, with idle nodes `n0`, `n1` and `n2`. An array may have up to `array` tasks.
    ///
    /// # Panics
    /// If it is not installed, or does not start.
    pub fn start(array: u32) -> Self {
        let root = setup::ensure(&built::target()).unwrap_or_else(|error| panic!("{error}"));
        let dir = tempfile::Builder::new().prefix("lorchestra-slurm-").tempdir().expect("a temporary directory");
        for name in ["munge", "state", "log"] {
            fs::create_dir(dir.path().join(name)).expect("a directory");
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o700)).expect("a directory of ours");
        }
        let key: Vec<u8> = (0..128).flat_map(|_| std::process::id().to_le_bytes()).collect();
        let key_file = dir.path().join("munge/key");
        fs::write(&key_file, key).expect("a key");
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).expect("a file of ours");
        fs::write(dir.path().join("slurm.conf"), configuration(dir.path(), &root, array)).expect("a configuration");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut munged = daemon(&root, dir.path(), "munged");
        munged.args(["--foreground", "--force", "--num-threads=2"]);
        for (flag, name) in
            [("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("seed-file", "seed"), ("log-file", "log")]
        {
            munged.arg(format!("--{flag}={}", at(&format!("munge/{name}"))));
        }
        let munge = spawn(munged);
        wait("munge has a socket", || dir.path().join("munge/socket").exists());
        let controller = spawn(controller(&root, dir.path()));
        let nodes = (0..NODES).map(|n| spawn(node(&root, dir.path(), n))).collect();
        let cluster = Self { dir, root, munge, controller, nodes };
        wait("all nodes are idle", || cluster.node_states().iter().filter(|state| *state == "idle").count() == NODES);
        cluster
    }

    /// The variables with which Slurm's commands find this cluster.
    pub fn environment(&self) -> Vec<(String, String)> {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.root.join("usr/bin").display());
        vec![
            ("PATH".into(), path),
            ("SLURM_CONF".into(), self.dir.path().join("slurm.conf").display().to_string()),
            ("LD_LIBRARY_PATH".into(), setup::library_path(&self.root)),
        ]
    }

    /// Runs one of Slurm's commands.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn command(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new(self.root.join("usr/bin").join(program));
        command.args(args).env_clear().envs(self.environment());
        command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    /// The state of each node, in order.
    pub fn node_states(&self) -> Vec<String> {
        let output = self.command("sinfo", &["--Node", "--noheader", "--format=%t"]);
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
    }

    /// Kills the daemon of a node. Its tasks live on.
    pub fn kill_node(&mut self, n: usize) {
        let _ = self.nodes[n].kill();
        let _ = self.nodes[n].wait();
    }

    /// Starts the daemon of a node again.
    pub fn start_node(&mut self, n: usize) {
        self.kill_node(n);
        self.nodes[n] = spawn(node(&self.root, self.dir.path(), n));
    }

    /// Freezes the daemon of a node, or lets it continue.
    pub fn freeze_node(&self, n: usize, frozen: bool) {
        processes::signal(self.nodes[n].id(), if frozen { Signal::STOP } else { Signal::CONT });
    }

    /// Stops the controller and starts it again. (After SIGKILL, it may start tasks again on the node on which they run, which drains that
    /// node and holds the tasks until an administrator releases them.)
    pub fn restart_controller(&mut self) {
        processes::signal(self.controller.id(), Signal::TERM);
        let _ = self.controller.wait();
        self.controller = spawn(controller(&self.root, self.dir.path()));
    }

    /// What the daemons have logged.
    pub fn log(&self) -> String {
        let entries = fs::read_dir(self.dir.path().join("log")).into_iter().flatten().flatten();
        entries
            .map(|entry| format!("{:?}:\n{}\n", entry.file_name(), fs::read_to_string(entry.path()).unwrap_or_default()))
            .collect()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        self.command("scancel", &["--full", "--signal=KILL", "--state=RUNNING"]);
        // A daemon of a step outlives its node's daemon: it is found by the configuration that it carries.
        let configuration = format!("SLURM_CONF={}", self.dir.path().join("slurm.conf").display());
        for child in self.nodes.iter_mut().chain([&mut self.controller, &mut self.munge]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        processes::carrying(&configuration).into_iter().for_each(processes::kill);
    }
}

fn daemon(root: &Path, dir: &Path, name: &str) -> Command {
    let mut command = Command::new(root.join("usr/sbin").join(name));
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LD_LIBRARY_PATH", setup::library_path(root));
    command.env("SLURM_CONF", dir.join("slurm.conf"));
    command
}

fn controller(root: &Path, dir: &Path) -> Command {
    let mut command = daemon(root, dir, "slurmctld-wlm");
    command.args(["-D", "-f"]).arg(dir.join("slurm.conf"));
    command
}

fn node(root: &Path, dir: &Path, n: usize) -> Command {
    let mut command = daemon(root, dir, "slurmd-wlm");
    command.args(["-D", "-N", &format!("n{n}"), "-f"]).arg(dir.join("slurm.conf"));
    command.arg("-d").arg(root.join("usr/sbin/slurmstepd-wlm"));
    command
}

fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < until, "Slurm: not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Free ports: of the controller and of each node.
fn ports() -> Vec<u16> {
    // All are bound at once, so that they differ.
    let listeners: Vec<_> = (0..=NODES).map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a free port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("a port").port()).collect()
}

fn configuration(dir: &Path, root: &Path, array: u32) -> String {
    let dir = dir.display();
    let (plugins, ports) = (setup::plugins(root), ports());
    let name = rustix::system::uname();
    let host = name.nodename().to_string_lossy();
    let host = host.split('.').next().unwrap_or("localhost");
    let user = String::from_utf8(Command::new("id").arg("-un").output().expect("id").stdout).expect("a name");
    let user = user.trim();
    let mut text = format!(
        "ClusterName=test\n\
         SlurmctldHost={host}(127.0.0.1)\n\
         SlurmctldPort={port}\n\
         AuthType=auth/munge\n\
         # A requeued task waits for as long as a credential is valid.\n\
         AuthInfo=socket={dir}/munge/socket,cred_expire=5\n\
         CredType=cred/munge\n\
         SlurmUser={user}\n\
         SlurmdUser={user}\n\
         StateSaveLocation={dir}/state\n\
         SlurmctldPidFile={dir}/slurmctld.pid\n\
         SlurmctldLogFile={dir}/log/slurmctld\n\
         SlurmdPidFile={dir}/slurmd-%n.pid\n\
         SlurmdSpoolDir={dir}/spool-%n\n\
         SlurmdLogFile={dir}/log/slurmd-%n\n\
         PluginDir={plugins}\n\
         ProctrackType=proctrack/pgid\n\
         TaskPlugin=task/none\n\
         SwitchType=switch/none\n\
         MpiDefault=none\n\
         JobAcctGatherType=jobacct_gather/none\n\
         AccountingStorageType=accounting_storage/none\n\
         SelectType=select/cons_tres\n\
         SelectTypeParameters=CR_CPU\n\
         ReturnToService=2\n\
         SlurmdTimeout=3\n\
         KillWait=20\n\
         MessageTimeout=2\n\
         MinJobAge=2\n\
         MaxArraySize={array}\n\
         MaxJobCount=50000\n\
         SlurmdParameters=config_overrides\n\
         SchedulerParameters=sched_min_interval=50000,bf_interval=2,batch_sched_delay=0,defer\n",
        port = ports[0],
        plugins = plugins.display(),
    );
    for n in 0..NODES {
        text += &format!("NodeName=n{n} NodeHostname={host} NodeAddr=127.0.0.1 Port={} CPUs=4\n", ports[n + 1]);
    }
    text + &format!("PartitionName=test Nodes=n[0-{}] Default=YES State=UP\n", NODES - 1)
}
