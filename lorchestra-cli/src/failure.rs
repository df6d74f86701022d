//! Errors as users see them: one sentence, hints, the exit code. The only place that maps errors of lorchestra-core to messages and codes.

use crate::argv::pair::pair;
use crate::exit::Code;
use crate::refusal::{self, Rejection};
use crate::show;
use lorchestra_core::host::limits::{self, RefusedOperation};
use lorchestra_core::host::rights::{self, Change, Kind, Target};
use lorchestra_core::host::state::StateError;
use lorchestra_core::outcome::Cause;
use lorchestra_core::packages::catalog::{Catalog, FileFault, Lookup, Problem};
use lorchestra_core::packages::install::InstallError;
use lorchestra_core::packages::lockfile::LockfileError;
use lorchestra_core::run::error::{Overlap, RunError};
use lorchestra_core::run::intake::IntakeError;
use lorchestra_core::run::launch::LaunchError;
use lorchestra_core::run::recovery::RecoveryError;
use lorchestra_core::store::{StoreError, short_id};
use lorchestra_core::text::chain;
use lorchestra_core::text::{path_text, shell};
use std::path::Path;

/// Maximum number of lines after the message, for eight lines in total.
const MAX_HINTS: usize = 7;

/// The command that makes room if the disk of the state directory is full, and what it deletes.
const PRUNE: &str =
    "or run lorchestra runs prune --keep 100: deletes older runs with their logs and artifacts, but no undelivered event";

/// A failed command.
#[derive(Debug, Clone)]
pub(crate) struct CommandError {
    pub(crate) code: Code,
    /// One sentence; printed after `error: ` unless `bare`.
    pub(crate) message: String,
    /// Whether the message has no prefix.
    pub(crate) bare: bool,
    /// The cause with which a run is recorded as refused, if the code does not determine it.
    pub(crate) refused: Option<Cause>,
    /// The reason that the first hint gives. A record has no hints, so it is added to the recorded message.
    pub(crate) reason: Option<String>,
    /// What to do, or where the command searched; one line each.
    pub(crate) hints: Vec<String>,
}

impl CommandError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), bare: false, refused: None, reason: None, hints: Vec::new() }
    }

    /// Adds a hint.
    pub(crate) fn hint(mut self, line: impl Into<String>) -> Self {
        if self.hints.len() < MAX_HINTS {
            self.hints.push(line.into());
        }
        self
    }

    /// Sets the cause for which a run is refused.
    pub(crate) fn refusing(self, cause: Cause) -> Self {
        Self { refused: Some(cause), ..self }
    }

    /// Returns the cause of a refused run. `None` if the refusal is not recorded: for mistakes in the command line (exit code 2), and for
    /// failures that prevent any record.
    pub(crate) fn refusal(&self) -> Option<Cause> {
        self.refused.or(match self.code {
            Code::Plugin => Some(Cause::Plugin),
            Code::Config | Code::Undelivered => Some(Cause::Config),
            // An unknown package or job. The caller decides whether it is a mistyped name.
            Code::Failed if self.bare => Some(Cause::Plugin),
            _ => None,
        })
    }

    /// Whether another line fits.
    pub(crate) fn has_room(&self) -> bool {
        self.hints.len() < MAX_HINTS
    }

    pub(crate) fn config(path: &Path, what: &str, hint: &str) -> Self {
        Self::new(Code::Config, format!("{}: {what}", path.display())).hint(hint)
    }

    /// An error of the system at `path`: the message, the directory or file that causes it, and the fix.
    pub(crate) fn refused(code: Code, message: &str, path: &Path, error: &std::io::Error) -> Self {
        match refusal::of(path, error) {
            Some(Rejection { what, hint }) => Self::new(code, format!("{message}: {what} ({error})")).hint(hint),
            None => Self::new(code, format!("{message}: {error}")),
        }
    }

    /// An output file that the user named, and that cannot be written.
    pub(crate) fn not_written(path: &Path, error: &std::io::Error) -> Self {
        let message = format!("cannot write {}", path_text(path));
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if error.kind() == std::io::ErrorKind::NotFound && !dir.exists() {
            let hint = format!("create it (mkdir -p {}), or choose another path", shell(dir));
            return Self::new(Code::NotWritable, format!("{message}: there is no directory {}", path_text(dir))).hint(hint);
        }
        let failure = Self::refused(Code::NotWritable, &message, path, error);
        if failure.hints.is_empty() { failure.hint("choose another path") } else { failure }
    }

    /// Replaces the advice to run `runs prune` in an error of that command.
    pub(crate) fn of_prune(mut self) -> Self {
        for hint in self.hints.iter_mut().filter(|hint| *hint == PRUNE) {
            "remove something else first: the store needs a little space to remove runs".clone_into(hint);
        }
        self
    }

    /// Names the command that makes room in the state directory, if the disk is full.
    fn prunable(self, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => self.hint(PRUNE),
            _ => self,
        }
    }

    /// A process or a thread that could not be started.
    pub(crate) fn not_started(doing: &str, error: &std::io::Error) -> Self {
        match limits::behind(error, RefusedOperation::Starting) {
            Some(limit) => {
                Self::new(Code::Config, format!("{doing}: {} ({error})", limit.what)).hint(limit.hint).refusing(Cause::Host)
            }
            None => Self::new(Code::Internal, format!("{doing}: {error}")).refusing(Cause::Host),
        }
    }

    /// Fails if this process may open too few files for a run, which could otherwise fail at any of them with a less clear error.
    pub(crate) fn unless_files_suffice() -> Result<(), Self> {
        limits::too_few_files()
            .map_or(Ok(()), |limit| Err(Self::new(Code::Config, limit.what).hint(limit.hint).refusing(Cause::Host)))
    }

    /// A package whose files all have problems.
    pub(crate) fn unusable(package: &str, problems: &[&Problem]) -> Self {
        let mut failure = Self::new(Code::Plugin, format!("package {package} cannot be used"));
        failure.reason = problems.first().map(|problem| format!("{}: {}", path_text(&problem.path), problem.detail));
        for problem in problems.iter().take(3) {
            for line in problem.to_string().lines() {
                failure = failure.hint(line.trim());
            }
        }
        failure
    }

    /// A library file that a user named.
    pub(crate) fn library(file: &Path, FileFault { detail, reason, fix, .. }: &FileFault) -> Self {
        Self::new(Code::Plugin, format!("{} cannot be used: {detail} ({})", path_text(file), reason.as_str()))
            .hint(format!("fix: {fix}"))
    }

    /// A library that has changed since it was listed a moment ago.
    pub(crate) fn replaced(path: &Path) -> Self {
        Self::new(Code::Plugin, format!("{} was replaced while the run was being prepared", path_text(path)))
            .hint("run the command again")
    }

    /// An unknown package or job, or a package that cannot be used.
    pub(crate) fn lookup(catalog: &Catalog, package: &str, job: Option<&str>, lookup: &Lookup<'_>) -> Self {
        match lookup {
            Lookup::Unusable(problems) => Self::unusable(package, problems),
            Lookup::Unknown { nearest } => {
                let message = match job {
                    Some(job) => format!("Unknown job: {package}/{job}"),
                    None => format!("Unknown package: {package}"),
                };
                let mut failure = Self { bare: true, ..Self::new(Code::Failed, message) };
                if !nearest.is_empty() {
                    failure =
                        failure.hint(format!("did you mean {}?", nearest.iter().take(3).cloned().collect::<Vec<_>>().join(", ")));
                }
                if job.is_none() && pair(package).is_some() {
                    failure = failure.hint(format!("for a job: lorchestra jobs show {package}"));
                }
                if job.is_some() {
                    return match catalog.find(package) {
                        Ok(found) => failure
                            .hint(format!("looked in {}", path_text(&found.path)))
                            .hint(format!("lorchestra jobs list {package}")),
                        // Known only from its runs.
                        Err(_) => failure.hint(format!("lorchestra status {package}")),
                    };
                }
                match catalog.problems.as_slice() {
                    [] => {}
                    [problem] => {
                        failure = failure.hint(format!("1 file cannot be used: {}: {}", path_text(&problem.path), problem.detail))
                    }
                    problems => {
                        failure = failure.hint(format!(
                            "{} cannot be used: lorchestra jobs list --json",
                            show::counted(problems.len(), "file")
                        ))
                    }
                }
                let (room, all) = (MAX_HINTS - failure.hints.len(), catalog.searched.len());
                let shown = if all > room { room - 1 } else { all };
                for searched in &catalog.searched[..shown] {
                    failure = failure.hint(show::looked_in(searched));
                }
                if shown < all {
                    failure = failure.hint(format!("and in {} more directories", all - shown));
                }
                failure
            }
        }
    }
}

impl From<StateError> for CommandError {
    fn from(error: StateError) -> Self {
        let choose = "set state_dir in config.toml, or XDG_STATE_HOME, to a directory that this user owns on a local disk";
        let message = format!("the state directory {error}");
        match &error {
            StateError::Io { path, source } => {
                let code = if full_or_read_only(source) { Code::NotWritable } else { Code::Config };
                let failure = Self::refused(code, &message, path, source).prunable(source);
                let or = if failure.hints.is_empty() { "" } else { "or " };
                failure.hint(format!("{or}{choose}"))
            }
            StateError::NotWritable { path, source, .. } => {
                let failure = Self::refused(Code::NotWritable, &message, path, source).prunable(source);
                let or = if failure.hints.is_empty() { "" } else { "or " };
                failure.hint(format!("{or}{choose}"))
            }
            StateError::OtherUser { path, owner, user } => {
                let target = Target { path, owner: *owner, kind: Kind::Directory };
                let give = rights::command(target, Change::OwnerOfAll(*user), *user);
                let failure = match (rights::is_mapped(*owner), give) {
                    (false, _) => Self::new(Code::Config, format!("{message}: the owner is {}", rights::owner_text(*owner))),
                    (true, None) => Self::new(Code::Config, message).hint(format!("run the command as user {owner}")),
                    (true, Some(give)) => Self::new(Code::Config, message)
                        .hint(format!("run the command as user {owner}, or change the owner: {give}")),
                };
                let or = if failure.hints.is_empty() { "" } else { "or " };
                failure.hint(format!("{or}{choose}"))
            }
            StateError::NotADirectory { path } => {
                Self::new(Code::Config, message).hint(rights::move_away(path)).hint(format!("or {choose}"))
            }
            StateError::Network { .. } => Self::new(Code::Config, message).hint(choose),
        }
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        let message = format!("the store {}", chain(&error));
        match error {
            StoreError::Newer { .. } => {
                Self::new(Code::Config, message).hint("upgrade lorchestra, or use another state directory")
            }
            StoreError::Foreign { .. } => Self::new(Code::Config, message).hint("move the file away to start a new history"),
            StoreError::Damaged { path, .. } => {
                let path = shell(&path);
                Self::new(Code::Config, message)
                    .hint(format!("first back up the file with {path}-wal and -shm, while no lorchestra process runs"))
                    .hint(format!("then run sqlite3 {path} .recover to salvage most of it"))
                    .hint("or restore a backup (docs/guides/runbooks/restore-a-backup.md)")
                    .hint("or move all three files away to start a new history")
            }
            StoreError::NotWritable { path, is_full, .. } => {
                // SQLite does not say which of its files failed.
                let (at, typed) = (path.parent().unwrap_or(&path), shell(&path));
                let failure = Self::new(Code::NotWritable, message);
                let failure = match refusal::of_file(&path) {
                    Some(refusal) => failure.hint(refusal.hint),
                    None if is_full || refusal::is_full(at) => failure.hint(refusal::full(at).hint).hint(PRUNE),
                    None => {
                        failure.hint(format!("check {typed}, {typed}-wal and {typed}-shm, and the disk (dmesg shows its errors)"))
                    }
                };
                failure.hint("no emitted event is lost")
            }
            StoreError::Busy { .. } => Self::new(Code::NotWritable, message)
                .hint("find the process that has it open (lsof, fuser), then run the command again; no emitted event is lost"),
            StoreError::Io { path, source }
                if full_or_read_only(&source) || limits::behind(&source, RefusedOperation::Opening).is_some() =>
            {
                Self::refused(Code::NotWritable, &format!("the store {}", path.display()), &path, &source).prunable(&source)
            }
            StoreError::Io { .. } | StoreError::Sql { .. } => Self::new(Code::Internal, message),
        }
    }
}

impl From<IntakeError> for CommandError {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::Store(error) => error.into(),
            IntakeError::Panicked { .. } => {
                Self::new(Code::Internal, error.to_string()).hint("report this as a bug; no emitted event is lost")
            }
            IntakeError::Spool { ref path, ref source } => {
                Self::refused(Code::NotWritable, &error.to_string(), path, source).prunable(source)
            }
        }
    }
}

impl From<RecoveryError> for CommandError {
    fn from(error: RecoveryError) -> Self {
        let mut failure: Self = match error {
            RecoveryError::Store(error) => error.into(),
            RecoveryError::Intake(error) => error.into(),
            // A warning is one line, so it includes the hint.
            RecoveryError::Unknown { .. } => {
                Self::new(Code::Config, format!("{error}: move that store back, or remove the directory"))
            }
            RecoveryError::Undecided { .. } => Self::new(Code::NotWritable, format!("{error}: run lorchestra doctor")),
            RecoveryError::Together { .. } => Self::new(Code::NotWritable, error.to_string()),
            RecoveryError::Io { path, source } => {
                Self::refused(Code::NotWritable, &path.display().to_string(), &path, &source).prunable(&source)
            }
        };
        failure.message = format!("cannot recover earlier runs: {}", failure.message);
        failure
    }
}

/// Describes why a run could not be closed, for the end of a warning.
pub(crate) fn stuck(error: &RecoveryError) -> String {
    let hint = match error {
        RecoveryError::Unknown { .. } => ": move that store back, or remove the directory",
        RecoveryError::Undecided { .. } => ": run lorchestra doctor",
        _ => "",
    };
    format!("{}{hint}", chain(error))
}

impl From<LaunchError> for CommandError {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Unusable { package, problem } => Self::unusable(&package, &[&problem]),
            LaunchError::OtherLibrary { what, .. } => Self::new(Code::Plugin, error.to_string())
                .hint("install the library that the spec names (run lorchestra plugins list to see the installed ones)")
                .hint(match what {
                    "sha256" => {
                        "or, for run-job --spec, set \"sha256\" to null to run any build of that version; for run-window, write the plan again"
                    }
                    _ => "or create the spec again: lorchestra run-job … --dry-run --json, or the plan: backfill … --plan FILE",
                }),
            LaunchError::NoJob { ref path, .. } => Self::replaced(path),
            LaunchError::Spec(error) => {
                let failure = Self::new(Code::Usage, "the run spec does not fit the job");
                error.to_string().lines().take(MAX_HINTS).fold(failure, |failure, line| failure.hint(line.trim()))
            }
            LaunchError::Directory { ref path, .. } => Self::new(Code::Usage, chain(&error))
                .refusing(Cause::Config)
                .hint(format!("make {}, or set \"directory\" in the spec to another one, or to null", path_text(path))),
            LaunchError::Claim { ref path, ref source } => {
                let is_damaged = matches!(source.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof);
                let code = if is_damaged { Code::Config } else { Code::NotWritable };
                let failure = Self::refused(code, &error.to_string(), path, source);
                if is_damaged {
                    failure.hint("look at the file: it names the run that counts").hint(
                        "if no run of this window has completed on any host (lorchestra runs list --group), remove it, and resume the group",
                    )
                } else {
                    failure
                }
            }
            LaunchError::State(error) => error.into(),
            LaunchError::Recovery(error) => error.into(),
            LaunchError::Delivery(ref source) => Self::not_started(&error.to_string(), source),
            LaunchError::Run(error) => error.into(),
        }
    }
}

impl From<RunError> for CommandError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Overlap(overlap) => {
                let Overlap { package, job, account, holder, waited } = *overlap;
                let of = account.map(|account| format!(" for account {}", show::account(&account))).unwrap_or_default();
                let state = match waited {
                    Some(waited) => format!("is still running{of} after waiting {}", show::elapsed(waited)),
                    None => format!("is already running{of}"),
                };
                let failure = Self::new(Code::Overlap, format!("{package}/{job} {state}")).refusing(Cause::Overlap);
                match holder {
                    Some(run) => failure.hint(format!("run lorchestra runs stop {} to stop it", short_id(&run))),
                    None => failure.hint("run lorchestra runs list --running to see what is running"),
                }
            }
            RunError::AllDone { .. } => {
                // Not a usage error: another run was faster.
                Self::new(Code::Overlap, format!("{error}; there is nothing left to do, and no run was recorded"))
                    .hint("lorchestra bookmarks show")
            }
            RunError::Running { ref run_id } => Self::new(Code::Overlap, format!("{error}; nothing was started"))
                .hint(format!("run lorchestra runs stop {} to stop it", short_id(run_id))),
            RunError::OtherJob { .. } => {
                Self::new(Code::Usage, format!("{error}, not of this job and account")).hint("use another --run-id")
            }
            RunError::Interrupted { signal } => Self::new(Code::Interrupted(signal), error.to_string()),
            RunError::GroupCancelled { .. } => Self::new(Code::Failed, format!("{error}; nothing was started"))
                .hint("run lorchestra backfill resume, or run-group --rerun-failed, to run what is missing"),
            RunError::ClosedElsewhere { ref run_id } => Self::new(Code::Internal, error.to_string())
                .hint(format!("run lorchestra runs show {} to see its record", short_id(run_id)))
                .hint("do not share a state directory between hosts or containers that cannot see each other's processes"),
            RunError::Changed { .. } => Self::new(Code::Plugin, error.to_string()).hint("run it again"),
            RunError::State(error) => error.into(),
            RunError::Store(error) => error.into(),
            RunError::Recovery(error) => error.into(),
            RunError::Process { doing, ref source } if doing.starts_with("starting") || doing.starts_with("reading") => {
                Self::not_started(doing, source)
            }
            RunError::Process { doing, ref source } => Self::new(Code::Internal, format!("{doing}: {source}")),
            RunError::NotClaimed { ref path, ref source, .. } => {
                Self::refused(Code::NotWritable, &error.to_string(), path, source)
                    .prunable(source)
                    .hint("the next run-job, runs or events command decides whether the run counts")
            }
            RunError::NotRecorded { run_id, source } => {
                let mut failure: Self = (*source).into();
                failure.message = format!("cannot record the end of run {run_id}: {}", failure.message);
                failure.hint("it is kept in the spool; the next run-job, runs or events command records it")
            }
        }
    }
}

impl From<LockfileError> for CommandError {
    fn from(error: LockfileError) -> Self {
        let message = chain(&error);
        match error {
            LockfileError::Unusable { fault, .. } => Self::new(Code::Config, message).hint(fault.fix),
            LockfileError::Malformed { .. } => {
                Self::new(Code::Config, message).hint("run lorchestra plugins lock to create it again")
            }
            LockfileError::Io { path, source } => {
                let code = if full_or_read_only(&source) { Code::NotWritable } else { Code::Config };
                Self::refused(code, &path_text(&path), &path, &source)
            }
        }
    }
}

impl CommandError {
    /// Describes why a plugin directory was not changed for `package`.
    pub(crate) fn not_installed(package: &str, error: InstallError) -> Self {
        match error {
            InstallError::NotTrusted { dir, fault } => {
                Self::new(Code::Plugin, format!("libraries in {} would not run: {}", path_text(&dir), fault.detail))
                    .hint(fault.fix)
            }
            InstallError::Taken { path, package: other } => Self::new(
                Code::Plugin,
                format!("{} contains the package {other}, which {package} would replace", path_text(&path)),
            )
            .hint(format!("give it another name: mv {} {}", shell(&path), shell(&path.with_file_name(format!("{other}.so")))))
            .hint(format!("or: lorchestra plugins remove {other}")),
            InstallError::Elsewhere { path } => {
                let dir = path.parent().unwrap_or(&path);
                Self::new(Code::Plugin, format!("another directory has the package {package}: {}", path_text(&path)))
                    .hint(format!("to replace it there: lorchestra --plugin-dir {} plugins install …", shell(dir)))
                    .hint(format!("or: lorchestra plugins remove {package}"))
            }
            InstallError::Several { paths } => paths.iter().take(MAX_HINTS).fold(
                Self::new(
                    Code::Plugin,
                    format!("{} files contain the package {package}: remove those you do not want", paths.len()),
                ),
                |failure, path| failure.hint(format!("rm {}", shell(path))),
            ),
            InstallError::Unknown => Self { bare: true, ..Self::new(Code::Failed, format!("Unknown package: {package}")) },
            InstallError::Io { path, source } => Self::refused(Code::NotWritable, &path_text(&path), &path, &source),
        }
    }
}

fn full_or_read_only(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::PermissionDenied
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge
    )
}
