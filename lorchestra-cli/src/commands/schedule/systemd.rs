//! A systemd service and timer for each job, and one service that reports failures.
//!
//! Units of a user (the default) are hardened with what needs no privileges: system call filters. Units of the system manager also get a
//! read-only view of the file system.

use super::environment::Variable;
use super::{File, Scheduled};
use crate::exit::Code;
use crate::failure::CommandError;
use crate::settings::Settings;
use lorchestra_core::delivery::DestinationConfig;
use lorchestra_core::text::{quote, shell};
use std::path::Path;
use std::process::{Command, Stdio};

/// Every night at 03:15.
const NIGHTLY: &str = "*-*-* 03:15:00";
/// The unit that reports a failure.
const FAILED: &str = "lorchestra-failed@.service";

/// The manager for which units are written.
pub(super) struct Manager<'a> {
    /// Whether it is the manager of the system, not that of a user.
    pub(super) system: bool,
    /// The directory that the units are written to.
    pub(super) written_to: Option<&'a Path>,
    /// The path of lorchestra.
    pub(super) binary: &'a Path,
}

/// Fails for cron's syntax, and for what systemd does not read if it is installed: it only warns in its log, and such a timer never elapses.
pub(super) fn check(at: &str) -> Result<(), CommandError> {
    let fields = at.split_whitespace().count();
    // A number after @ is a time in seconds since 1970.
    let is_named = at.strip_prefix('@').is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
    if is_named || (fields >= 5 && !at.contains(':')) {
        return Err(CommandError::new(
            Code::Usage,
            format!("--at {} is in the syntax of cron, which systemd does not read", quote(at)),
        )
        .hint("write an OnCalendar= expression, for example '*-*-* 03:15:00' or 'Mon *-*-* 09:00'")
        .hint("run systemd-analyze calendar EXPRESSION to check one"));
    }
    // Where systemd is not installed, the units are for another machine.
    let judged = Command::new("systemd-analyze").args(["calendar", "--", at]).stdin(Stdio::null()).output();
    match judged {
        Ok(output) if !output.status.success() && contains(&output.stderr, "Failed to parse calendar") => {
            Err(CommandError::new(Code::Usage, format!("--at {} is not a time that systemd reads", quote(at))).hint(
                "write an OnCalendar= expression, for example '*-*-* 03:15:00' or 'Mon *-*-* 09:00' (see man 7 systemd.time)",
            ))
        }
        _ => Ok(()),
    }
}

fn contains(text: &[u8], part: &str) -> bool {
    String::from_utf8_lossy(text).contains(part)
}

/// Returns the units.
pub(super) fn files(
    jobs: &[Scheduled],
    at: Option<&str>,
    manager: &Manager<'_>,
    settings: &Settings,
    environment: &[Variable],
) -> Result<Vec<File>, CommandError> {
    let mut files = Vec::new();
    for job in jobs {
        let text = service(job, manager, settings, environment)?;
        files.push(File { name: format!("{}.service", job.name), text });
        files.push(File { name: format!("{}.timer", job.name), text: timer(job, at) });
    }
    files.push(File { name: FAILED.to_owned(), text: failed() });
    Ok(files)
}

/// Returns notes on how to install the units.
pub(super) fn notes(jobs: &[Scheduled], manager: &Manager<'_>, settings: &Settings) -> Vec<String> {
    let (flag, dir) = if manager.system { ("", "/etc/systemd/system") } else { ("--user ", "~/.config/systemd/user") };
    let timers: Vec<String> = jobs.iter().map(|job| format!("{}.timer", job.name)).collect();
    let expanded = match dir.strip_prefix("~/") {
        Some(below) => settings.home.join(below),
        None => dir.into(),
    };
    let first = match manager.written_to {
        None => format!("To install: add --dir {dir} to this command, then run"),
        Some(written) if std::fs::canonicalize(written).ok() == std::fs::canonicalize(&expanded).ok() => {
            "To start the timers, run".to_owned()
        }
        Some(written) => format!("To install: copy the files from {} to {dir}, then run", shell(written)),
    };
    let mut notes = vec![first, format!("  systemctl {flag}daemon-reload && systemctl {flag}enable --now {}", timers.join(" "))];
    if !manager.system {
        notes.push("Timers of a user stop at logout, unless you run: loginctl enable-linger".to_owned());
    }
    notes
}

fn service(
    job: &Scheduled,
    manager: &Manager<'_>,
    settings: &Settings,
    environment: &[Variable],
) -> Result<String, CommandError> {
    let Manager { system, binary, .. } = *manager;
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
    for variable in environment {
        text.push_str(&format!("Environment={}\n", assigned(variable)));
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
        let own = [&settings.state_dir, &settings.data_root];
        // Only directories that exist become writable. With +, this is outside of what restricts the unit.
        let user = settings.user();
        let made = own.iter().map(|dir| quoted(&dir.display().to_string())).collect::<Result<Vec<_>, _>>()?.join(" ");
        text.push_str(&format!(
            "ExecStartPre=+/usr/sbin/runuser -u {} -- /usr/bin/mkdir -p -m 0700 -- {made}\n",
            user.trim_start_matches("user ")
        ));
        let files = settings.destinations.iter().filter_map(|to| match to {
            DestinationConfig::Jsonl(files) => Some(&files.dir),
            _ => None,
        });
        let dirs: Vec<String> =
            own.into_iter().chain(files).map(|dir| quoted(&format!("-{}", dir.display()))).collect::<Result<_, _>>()?;
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

/// Quotes an assignment for Environment=, where `$` has no special meaning.
fn assigned(Variable { name, value, .. }: &Variable) -> String {
    let escaped = value.replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./+-@:,=%".contains(c);
    match escaped.chars().all(plain) {
        true => format!("{name}={escaped}"),
        false => format!("\"{name}={}\"", escaped.replace('\\', "\\\\").replace('"', "\\\"")),
    }
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
    fn the_syntax_of_cron_is_refused() {
        for at in ["15 3 * * *", "@daily", "*/5 * * * 1-5", "0 9 1 jan mon"] {
            assert!(check(at).is_err(), "{at}");
        }
        for at in ["*-*-* 03:15:00", "hourly", "Mon..Fri *-*-* 10:00 Europe/Berlin", "@1395716396"] {
            assert!(check(at).is_ok(), "{at}");
        }
    }

    #[test]
    fn a_variable_is_one_assignment_for_systemd() {
        let variable = |value: &str| assigned(&Variable { name: "X", value: value.to_owned(), is_local: false });
        assert_eq!(variable("/a:/b"), "X=/a:/b");
        assert_eq!(variable("50% of $HOME \"q\""), "\"X=50%% of $HOME \\\"q\\\"\"");
    }

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
