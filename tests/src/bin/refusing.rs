//! Executes a program for which the kernel refuses some system calls, as container runtimes and systemd's `SystemCallFilter=` do.
//!
//! ```text
//! refusing ERRNO NAME[,NAME…] PROGRAM [ARG…]
//! ```
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [errno, names, program, args @ ..] = &args[..] else {
        eprintln!("refusing ERRNO NAME[,NAME…] PROGRAM [ARG…]");
        return ExitCode::from(2);
    };
    let errno = errno.to_str().and_then(|errno| errno.parse().ok()).expect("a number");
    let rules = names.to_string_lossy().split(',').map(|name| (number(name), Vec::new())).collect();
    let machine = std::env::consts::ARCH.try_into().expect("a machine that seccomp knows");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), machine).expect("a filter");
    let filter: BpfProgram = filter.try_into().expect("a program");
    // Sets no_new_privs, so that no rights are needed.
    seccompiler::apply_filter(&filter).expect("a kernel with seccomp");
    let error = Command::new(program).args(args).exec();
    eprintln!("refusing: {}: {error}", program.display());
    ExitCode::from(127)
}

fn number(name: &str) -> i64 {
    match name {
        "memfd_create" => libc::SYS_memfd_create,
        "pidfd_open" => libc::SYS_pidfd_open,
        "pidfd_send_signal" => libc::SYS_pidfd_send_signal,
        "clone3" => libc::SYS_clone3,
        "close_range" => libc::SYS_close_range,
        "statx" => libc::SYS_statx,
        _ => panic!("{name}: add its number here"),
    }
}
