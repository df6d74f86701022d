//! What `cargo xtask dist` makes, here of the dev build: the Debian package is installed into a clean root, run there, upgraded, removed
//! and purged; the archive is installed below a prefix, over a binary in use, and removed. Plugins, configuration and history are kept.

use lorchestra_tests::{Ended, Fixture, Running, Sandbox, built, eventually, processes};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Packages of the dev build with the Debian revisions 1 and 2, made once.
fn made() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        // Not a temporary directory: what is static is never dropped, and so never removed.
        let dir = built::target().join("tmp/dist");
        let _ = fs::remove_dir_all(&dir);
        for (revision, out, only) in [("1", "first", None), ("1", "again", Some("deb")), ("2", "second", Some("deb"))] {
            let mut xtask = Command::new(built::lorchestra().with_file_name("xtask"));
            xtask.args(["dist", "--profile", "dev", "--revision", revision, "--out"]).arg(dir.join(out));
            xtask.args(only.map(|kind| format!("--only={kind}")));
            let output = xtask.output().expect("xtask, which cargo xtask test builds");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
        }
        dir
    })
}

/// The only file with this end in a directory.
fn file(dir: &str, end: &str) -> Option<PathBuf> {
    let mut entries = fs::read_dir(made().join(dir)).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.to_string_lossy().ends_with(end))
}

fn files_below(dir: &Path) -> Vec<String> {
    let output = Command::new("find").arg(dir).args(["-type", "f"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[track_caller]
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {}: {text}", output.status);
    text
}

/// A root with a shell and its C library, in which dpkg knows the libraries that this machine has.
struct Root {
    /// Removes it at the end.
    _sandbox: Sandbox,
    path: PathBuf,
}

impl Root {
    fn new() -> Self {
        let sandbox = Sandbox::with(&[]);
        let path = sandbox.path("clean");
        for dir in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "proc", "tmp", "home"] {
            fs::create_dir_all(path.join(dir)).unwrap();
        }
        let root = Self { _sandbox: sandbox, path };
        for program in ["/bin/sh", "/bin/rm"] {
            root.copy(Path::new(program), program);
            for library in done(Command::new("ldd").arg(program)).split_whitespace().filter(|word| word.starts_with('/')) {
                root.copy(Path::new(library), library);
            }
        }
        for library in done(Command::new("ldd").arg(built::lorchestra())).split_whitespace().filter(|word| word.starts_with('/'))
        {
            root.copy(Path::new(library), library);
        }
        let mut status = String::new();
        for package in ["libc6", "libgcc-s1"] {
            let version = done(Command::new("dpkg-query").args(["--show", "--showformat", "${Version}", package]));
            status.push_str(&format!(
                "Package: {package}\nStatus: install ok installed\nMaintainer: x <x@localhost>\nArchitecture: amd64\nVersion: {version}\nDescription: x\n\n"
            ));
        }
        let architecture = done(Command::new("dpkg").arg("--print-architecture"));
        fs::write(root.path.join("var/lib/dpkg/status"), status.replace("amd64", architecture.trim())).unwrap();
        root.copy(&Fixture::Misbehave.built(), "/home/.local/share/lorchestra/plugins/libmisbehave.so");
        root
    }

    fn copy(&self, from: &Path, to: &str) {
        let to = self.path.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        assert!(Command::new("cp").arg("-L").arg(from).arg(&to).status().unwrap().success());
    }

    /// A command with the rights of root, at least over these files.
    fn as_root(program: &str) -> Command {
        if processes::is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", program]);
        command
    }

    #[track_caller]
    fn dpkg(&self, args: &[&str]) -> String {
        let mut dpkg = Self::as_root("dpkg");
        dpkg.arg("--root").arg(&self.path).args(["--log=/dev/null", "--force-unsafe-io", "--path-include=*"]).args(args);
        done(dpkg.env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin").env("LC_ALL", "C"))
    }

    /// Runs the installed lorchestra in the root.
    fn lorchestra(&self, args: &[&str]) -> Ended {
        let at = self.path.display();
        let inner = format!("mount --rbind /proc {at}/proc; exec chroot {at} /usr/bin/lorchestra \"$@\"");
        let mut command = Self::as_root("unshare");
        command.args(["--mount", "sh", "-c", &inner, "-"]).args(args).current_dir("/");
        command.env_clear().env("HOME", "/home").env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        Running::start(command).wait()
    }
}

#[test]
fn the_debian_package_is_installed_upgraded_and_removed_with_history_kept() {
    let (Some(first), Some(again), Some(second)) = (file("first", ".deb"), file("again", ".deb"), file("second", ".deb")) else {
        eprintln!("NOT SHOWN: there is no dpkg-deb, so no package was made");
        return;
    };
    assert!(fs::read(&first).unwrap() == fs::read(again).unwrap(), "the same sources give the same package");
    // A container may allow no mounts, and a host no namespaces of users.
    if !Root::as_root("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("NOT SHOWN: no mount namespace can be made here, so no root to install into");
        return;
    }
    let root = Root::new();
    let history = root.path.join("home/.local/state/lorchestra/lorchestra.db");
    let of_system = root.path.join("var/lib/lorchestra/state");

    root.dpkg(&["--install", first.to_str().unwrap()]);
    assert_eq!(root.lorchestra(&["--version"]).exits(0).out(), "lorchestra 0.1.0\n");
    root.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    for path in [
        "man/man1/lorchestra-runs-list.1.gz",
        "bash-completion/completions/lorchestra",
        "doc/lorchestra/copyright",
        "doc/lorchestra/examples/lorchestra-extract.timer",
    ] {
        assert!(root.path.join("usr/share").join(path).is_file(), "{path}");
    }
    let service = fs::read_to_string(root.path.join("usr/share/doc/lorchestra/examples/lorchestra-extract.service")).unwrap();
    assert!(service.contains("\nExecStart=/usr/bin/lorchestra run-job"), "{service}");
    // As systemd-tmpfiles would, which this root lacks.
    fs::create_dir_all(&of_system).unwrap();

    root.dpkg(&["--install", second.to_str().unwrap()]);
    assert!(root.dpkg(&["--status", "lorchestra"]).contains("\nVersion: 0.1.0-2\n"));
    root.lorchestra(&["run-job", "misbehave", "noop"]).exits(0);
    let runs = root.lorchestra(&["runs", "list", "--json"]).exits(0).json_lines("lorchestra.run/1");
    assert_eq!(runs.len(), 2, "the run before the upgrade and the one after it");

    root.dpkg(&["--remove", "lorchestra"]);
    assert!(!root.path.join("usr/bin/lorchestra").exists() && !root.path.join("usr/share/man").exists());
    assert!(history.exists() && of_system.exists(), "remove keeps the history");
    root.dpkg(&["--purge", "lorchestra"]);
    assert!(history.exists() && !of_system.exists(), "purge deletes the history of the system user, not that of people");
    let left = files_below(&root.path.join("usr"));
    assert!(left.iter().all(|path| !path.contains("lorchestra")), "{left:?}");
}

#[test]
fn systemd_creates_the_user_of_the_package() {
    let root = Sandbox::with(&[]);
    fs::create_dir(root.path("etc")).unwrap();
    let config = built::workspace().join("xtask/dist/sysusers.conf");
    let root_flag = format!("--root={}", root.root().display());
    match Command::new("systemd-sysusers").arg(root_flag).arg(config).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let passwd = root.read("etc/passwd");
            assert!(passwd.starts_with("lorchestra:") && passwd.contains(":/var/lib/lorchestra:/usr/sbin/nologin"), "{passwd}");
        }
        Err(error) => eprintln!("NOT SHOWN: systemd-sysusers: {error}"),
    }
}

#[test]
fn the_archive_is_installed_over_a_binary_in_use_and_removed() {
    let sandbox = Sandbox::with(&[Fixture::Misbehave]);
    let archive = file("first", ".tar.gz").unwrap();
    done(Command::new("tar").arg("--extract").arg("--file").arg(archive).arg("--directory").arg(sandbox.root()));
    let prefix = sandbox.path("opt/local");
    let install = |args: &[&str]| {
        let mut script = Command::new("sh");
        script.arg(sandbox.path(&format!("lorchestra-0.1.0-{}-linux/install.sh", std::env::consts::ARCH)));
        script.args(args).arg("--prefix").arg(&prefix).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", sandbox.home());
        script.output().unwrap()
    };
    let first = install(&[]);
    let text = String::from_utf8_lossy(&first.stdout);
    assert!(first.status.success() && text.contains("lorchestra 0.1.0\n") && text.contains("/bin to PATH"), "{first:?}");
    let run = |args: &[&str]| {
        let mut command = sandbox.command(args);
        let environment: Vec<_> =
            command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        command = Command::new(prefix.join("bin/lorchestra"));
        command.args(args).env_clear().envs(environment).current_dir(sandbox.root());
        Running::start(command)
    };
    let marker = sandbox.arg("marker");
    let running = run(&["run-job", "misbehave", "wait_for_file", "--marker", &marker, "--file", &sandbox.arg("go")]);
    eventually("the job is entered", || sandbox.read("marker").ends_with('\n'));
    let before = files_below(&prefix);
    assert!(install(&[]).status.success());
    assert_eq!(files_below(&prefix).len(), before.len(), "nothing is left of the first installation");
    fs::write(sandbox.path("go"), "").unwrap();
    running.wait().exits(0);
    run(&["runs", "list"]).wait().exits(0);

    assert!(install(&["--uninstall"]).status.success());
    assert_eq!(files_below(&prefix), <[String; 0]>::default());
    assert_eq!(sandbox.run().state(), "completed", "the history is kept");
    let again = install(&["--uninstall"]);
    assert!(
        !again.status.success() && String::from_utf8_lossy(&again.stderr).contains("nothing was installed there"),
        "{again:?}"
    );
}
