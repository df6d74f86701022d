//! A systemd service and timer for each job, and one service that reports failures.
//!
//! Units of a user (the default) are hardened with what needs no privileges: system call filters. Units of the system manager also get a
//! read-only view of the file system.

use super::{File, Scheduled};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::Settings;
use std::path::Path;

/// Every night at 03:15.
const NIGHTLY: &str = "*-*-* 03:15:00";
/// The unit that reports a failure.
const FAILED: &str = "lorchestra-failed@.service";

/// Returns the units, and notes on how to install them.
pub(super) fn files(
    jobs: &[Scheduled],
    at: Option<&str>,
    system: bool,
    settings: &Settings,
    binary: &Path,
) -> Result<(Vec<File>, Vec<String>), CommandError> {
    let mut files = Vec::new();
    for job in jobs {
        files.push(File { name: format!("{}.service", job.name), text: service(job, system, settings, binary)? });
        files.push(File { name: format!("{}.timer", job.name), text: timer(job, at) });
    }
    files.push(File { name: FAILED.to_owned(), text: failed() });
    let (flag, dir) = if system { ("", "/etc/systemd/system") } else { ("--user ", "~/.config/systemd/user") };
    let timers: Vec<String> = jobs.iter().map(|job| format!("{}.timer", job.name)).collect();
    let mut notes = vec![
        format!("To install: add --dir {dir} to this command, then run"),
        format!("  systemctl {flag}daemon-reload && systemctl {flag}enable --now {}", timers.join(" ")),
    ];
    if !system {
        notes.push("Timers of a user stop at logout, unless you run: loginctl enable-linger".to_owned());
    }
    Ok((files, notes))
}

fn service(job: &Scheduled, system: bool, settings: &Settings, binary: &Path) -> Result<String, CommandError> {
    let words: Result<Vec<String>, CommandError> =
        [binary.display().to_string()].iter().chain(&job.args).map(|word| quoted(word)).collect();
    let command = words?.join(" ");
    // The manager of a user does not know the target. Events wait in the store anyway.
    let network = if system { "Wants=network-online.target\nAfter=network-online.target\n" } else { "" };
    let mut text = format!(
        "[Unit]
Description=lorchestra: {}/{}
{network}OnFailure=lorchestra-failed@%n.service

[Service]
Type=oneshot
ExecStart={command}
# 75: another run of this job is running, which is not a failure of the unit.
SuccessExitStatus=75
# lorchestra forwards SIGTERM to the job, waits for its grace period, and delivers events. After that systemd kills what remains.
KillMode=mixed
TimeoutStopSec={}
",
        job.package,
        job.job,
        job.stop_within.as_secs()
    );
    if system {
        let user = settings.user();
        text.push_str(&format!("User={}\n", user.trim_start_matches("user ")));
    }
    for name in &job.credentials {
        let dir = if system { "/etc/credstore" } else { "%h/.config/credstore" };
        text.push_str(&format!("LoadCredential={name}:{dir}/{name}\n"));
    }
    for name in &job.variables {
        text.push_str(&format!(
            "# The job reads a secret from the variable {name}: prefer a credential, see docs/guides/secrets.md.\n"
        ));
    }
    text.push_str(HARDENING);
    if system {
        let dirs: Vec<String> = [&settings.state_dir, &settings.data_root]
            .iter()
            .map(|dir| quoted(&format!("-{}", dir.display())))
            .collect::<Result<_, _>>()?;
        text.push_str(&format!("{SYSTEM_HARDENING}ReadWritePaths={}\n", dirs.join(" ")));
    }
    Ok(text)
}

/// What the manager of a user can apply too. Network and AF_UNIX are for delivery, and for the worker.
const HARDENING: &str = "UMask=0077
NoNewPrivileges=yes
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
TasksMax=256
LimitNOFILE=4096
";

/// What needs the system manager. Not `ProcSubset=pid`: lorchestra reads the boot id.
const SYSTEM_HARDENING: &str = "CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
";

fn timer(job: &Scheduled, at: Option<&str>) -> String {
    format!(
        "[Unit]
Description=lorchestra: {}/{}, on a schedule

[Timer]
OnCalendar={}
# A time that passes while the machine is off is made up for at the next start.
Persistent=yes
RandomizedDelaySec=60

[Install]
WantedBy=timers.target
",
        job.package,
        job.job,
        at.unwrap_or(NIGHTLY)
    )
}

fn failed() -> String {
    "[Unit]
Description=Report the failure of %i

[Service]
Type=oneshot
# Replace this by what alerts you, for example a mail.
ExecStart=/bin/sh -c 'echo \"%i failed: run lorchestra status\" | systemd-cat -t lorchestra -p err'
"
    .to_owned()
}

/// Quotes a word for ExecStart=.
fn quoted(word: &str) -> Result<String, CommandError> {
    if word.chars().any(char::is_control) {
        return Err(CommandError::new(Code::Usage, format!("a unit cannot contain the control characters in {word:?}"))
            .hint("set this value in config.toml"));
    }
    let escaped = word.replace('%', "%%").replace('$', "$$");
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./+-@:,=%$".contains(c);
    Ok(if !word.is_empty() && escaped.chars().all(plain) {
        escaped
    } else {
        format!("\"{}\"", escaped.replace('\\', "\\\\").replace('"', "\\\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_word_for_systemd() {
        for (word, written) in [
            ("--since", "--since"),
            ("50%", "50%%"),
            ("a b", "\"a b\""),
            ("$HOME", "$$HOME"),
            ("\"\\", "\"\\\"\\\\\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(word).unwrap(), written);
        }
        assert!(quoted("a\nb").is_err());
    }
}
