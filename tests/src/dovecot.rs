//! A real mail server: Dovecot, unpacked by `cargo xtask test` ([`lorchestra_test_setup::dovecot`]), one per test, with its own
//! configuration, certificate, mail and ports. It verifies XOAUTH2 tokens with a small server of ours, as it would with Google's.

mod tokens;

use crate::sandbox::NOBODY;
use crate::{DEADLINE, built, processes};
use lorchestra_test_setup::dovecot as setup;
use rcgen::{CertificateParams, KeyPair};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;
use tokens::Tokens;

/// The user with a mailbox.
pub const USER: &str = "anna@example.org";
/// The user's password.
pub const PASSWORD: &str = "kept \"secret\" \\ word";
/// The user's OAuth token.
pub const TOKEN: &str = "ya29.good-token";

/// A running server, stopped at the end of its test.
#[derive(Debug)]
pub struct Dovecot {
    dir: TempDir,
    master: Child,
    tls: u16,
    plain: u16,
    _tokens: Tokens,
}

impl Dovecot {
    /// Starts one with an empty mailbox of [`USER`].
    ///
    /// # Panics
    /// If it is not installed, or does not start.
    pub fn start() -> Self {
        let root = setup::ensure(&built::target()).unwrap_or_else(|error| panic!("{error}"));
        let dir = tempfile::Builder::new().prefix("lorchestra-dovecot-").tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        for name in ["run", "mail"] {
            fs::create_dir(at(name)).expect("a directory");
        }
        certificate(dir.path());
        let tokens = Tokens::start();
        fs::write(at("users"), format!("{USER}:{{PLAIN}}{PASSWORD}\n")).expect("a file of users");
        let url = format!("tokeninfo_url = http://127.0.0.1:{}/?access_token=\n", tokens.port());
        fs::write(at("oauth2"), format!("{url}introspection_mode = auth\nusername_attribute = email\n")).expect("a file");
        // Relative to the working directory of its processes; see packages.rs.
        symlink(root.join("usr/lib/dovecot/modules"), at("run/modules")).expect("a link");
        let (tls, plain) = (free_port(), free_port());
        fs::write(at("conf"), configuration(dir.path(), &root, tls, plain)).expect("a configuration");
        if processes::is_root() {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a directory of ours");
            chown(at("mail"), Some(NOBODY), Some(NOBODY)).expect("root may give files away");
        }
        let mut command = Command::new(root.join("usr/bin/doveconf"));
        command.args(["-f", "service=master", "-m", "master", "-p", "-c"]).arg(at("conf"));
        command.arg("-e").arg(root.join("usr/sbin/dovecot")).arg("-F");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LD_LIBRARY_PATH", setup::library_path(&root));
        command.stdin(Stdio::null()).stdout(fs::File::create(at("out")).expect("a file")).stderr(Stdio::null());
        let master = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut server = Self { dir, master, tls, plain, _tokens: tokens };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&mut self) {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.plain)) {
                let mut greeting = String::new();
                let mut lines = BufReader::new(stream);
                while lines.read_line(&mut greeting).is_ok_and(|n| n > 0) {
                    if greeting.contains(" ready.") {
                        return;
                    }
                }
            }
            let ended = self.master.try_wait().expect("waiting for a child");
            if ended.is_some() || Instant::now() > until {
                let out = fs::read_to_string(self.dir.path().join("out")).unwrap_or_default();
                panic!("Dovecot did not start: {ended:?}\n{out}{}", self.log());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// The port of IMAP over TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls
    }

    /// The port of IMAP without TLS, with STARTTLS.
    pub fn plain_port(&self) -> u16 {
        self.plain
    }

    /// The certificate, for clients that trust it.
    pub fn ca_file(&self) -> String {
        self.dir.path().join("cert.pem").display().to_string()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The number of ended sessions, and the bytes of messages sent in the last one.
    pub fn sessions(&self) -> (usize, u64) {
        let log = self.log();
        let ended: Vec<&str> = log.lines().filter_map(|line| line.split_once("body_bytes=")).map(|(_, bytes)| bytes).collect();
        (ended.len(), ended.last().and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0))
    }

    /// The Maildir of a folder, created if it is missing. The name is in the encoding of the protocol.
    pub fn folder(&self, name: &str) -> PathBuf {
        let home = self.dir.path().join("mail").join(USER);
        let path = if name == "INBOX" { home.clone() } else { home.join(format!(".{}", name.replace('/', "."))) };
        for name in ["cur", "new", "tmp"] {
            fs::create_dir_all(path.join(name)).expect("a directory");
        }
        path
    }

    /// Stores a message in a folder, with these flag letters.
    pub fn deliver(&self, folder: &str, n: usize, flags: &str, message: &[u8]) {
        let path = self.folder(folder).join("cur").join(format!("{}.M{n}P1.example:2,{flags}", 1_704_103_200 + n));
        fs::write(&path, message).expect("a message");
    }

    /// Gives the files to the server's user, after mail was stored directly.
    pub fn hand_over(&self) {
        if processes::is_root() {
            give(&self.dir.path().join("mail"));
        }
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        processes::signal(self.master.id(), Signal::TERM);
        let _ = self.master.wait();
    }
}

fn give(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give files away");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a directory").flatten() {
            give(&entry.path());
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

fn certificate(dir: &Path) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    let certificate = params.self_signed(&key).expect("a certificate");
    fs::write(dir.join("cert.pem"), certificate.pem()).expect("a certificate file");
    fs::write(dir.join("key.pem"), key.serialize_pem()).expect("a key file");
}

fn configuration(dir: &Path, root: &Path, tls: u16, plain: u16) -> String {
    let (dir, lib) = (dir.display(), root.join("usr/lib/dovecot"));
    let lib = lib.display();
    // If root starts it, its processes give up root's rights; otherwise they keep their user.
    let user = if processes::is_root() { "nobody".to_owned() } else { own_name(&["-un"]) };
    let group = if processes::is_root() { "nogroup".to_owned() } else { own_name(&["-gn"]) };
    format!(
        "base_dir = {dir}/run
state_dir = {dir}/run
libexec_dir = {lib}
login_plugin_dir = {lib}/modules/login
mail_plugin_dir = {lib}/modules
import_environment = LD_LIBRARY_PATH
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
protocols = imap
listen = 127.0.0.1
log_path = {dir}/log
ssl = yes
ssl_cert = <{dir}/cert.pem
ssl_key = <{dir}/key.pem
disable_plaintext_auth = no
auth_mechanisms = plain login xoauth2
auth_failure_delay = 0
mail_location = maildir:{dir}/mail/%u
service config {{
  executable = config -c {dir}/conf
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {plain}
  }}
  inet_listener imaps {{
    port = {tls}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
passdb {{
  driver = passwd-file
  mechanisms = plain login
  args = {dir}/users
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2
  args = {dir}/oauth2
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={dir}/mail/%u
}}
namespace inbox {{
  inbox = yes
  separator = /
  mailbox Trash {{
    special_use = \\Trash
  }}
}}
"
    )
}

fn own_name(args: &[&str]) -> String {
    let output = Command::new("id").args(args).output().expect("id");
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success() && !name.is_empty(), "Dovecot needs a user with a name in the passwd file: {output:?}");
    name
}
