//! `plugins check`: everything that an operator needs to know about a library before installing it. Prints its manifest, then loads it in a
//! separate worker.

use super::lock::Lock;
use crate::commands::jobs;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::wire::{CheckedJob, CheckedLibrary, GlibcObject, LoadObject, PluginsCheck, ProblemObject};
use lorchestra_core::packages::catalog::{Catalog, FileFault, Package, Reason};
use lorchestra_core::packages::changes::Changes;
use lorchestra_core::packages::library::Library;
use lorchestra_core::plan::duration;
use lorchestra_core::run::decision::Stop;
use lorchestra_core::run::supervisor::trial::{self, Verdict};
use lorchestra_core::text::{self, one_line, path_text, shortened};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Default time limit for loading.
const LIMIT: Duration = Duration::from_secs(10);

pub(super) fn run(
    file: &Path,
    timeout: Option<Duration>,
    as_json: bool,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<Code, CommandError> {
    CommandError::unless_files_suffice()?;
    // Loading runs code, so a library in an untrusted place is only read.
    let (library, problem) = match Library::open(file) {
        Ok(library) => (Ok(library), None),
        Err(fault) if matches!(fault.reason, Reason::NotTrusted | Reason::LinkOut) => (Library::named(file), Some(fault)),
        Err(fault) => (Err(fault), None),
    };
    let library = match library {
        Ok(library) => library,
        Err(fault) => {
            if as_json {
                printer.json(&checked(file, Some(&fault), false, None));
            }
            return Err(CommandError::library(file, &fault));
        }
    };
    let lock = Lock::read(settings, printer);
    let facts = LibraryFacts { library: &library, lock: lock.as_ref(), catalog: &Catalog::scan(&settings.plugin_dirs) };
    let verdict = match &problem {
        Some(_) => None,
        None => Some(
            trial::load(Path::new("/proc/self/exe"), &library, timeout.unwrap_or(LIMIT))
                .map_err(|e| CommandError::not_started("cannot start the process that loads it", &e))?,
        ),
    };
    let loaded = verdict.as_ref().map(describe);
    if as_json {
        let ok = problem.is_none() && matches!(verdict, Some(Verdict::Loaded { .. }));
        printer.json(&checked(file, problem.as_ref(), ok, Some(facts.object(verdict.as_ref()))));
    } else {
        let loads = match &loaded {
            Some(Ok(text) | Err(text)) => text.clone(),
            None => "not tried".to_owned(),
        };
        facts.print(file, &loads, printer);
    }
    match (problem, loaded) {
        (Some(fault), _) => Err(CommandError::library(file, &fault)),
        (_, Some(Err(text))) => Err(CommandError::new(Code::Plugin, format!("{} cannot be used: {text}", path_text(file)))
            .hint("every run of it would fail in the same way")),
        _ => Ok(Code::Success),
    }
}

/// Describes the result of loading.
fn describe(verdict: &Verdict) -> Result<String, String> {
    match verdict {
        Verdict::Loaded { took } => Ok(format!("in {:.1} ms", took.as_secs_f64() * 1e3)),
        Verdict::Refused(message) => Err(one_line(message)),
        Verdict::Died { how, printed } => {
            let said = printed.as_ref().map(|line| format!("; output: {}", shortened(&one_line(line), 200)));
            Err(format!("the process that loads it {how}{}", said.unwrap_or_default()))
        }
        Verdict::Late { limit, stopped } => Err(late(*limit, *stopped)),
    }
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    let ident = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    ident(a).is_ok_and(|a| ident(b).is_ok_and(|b| a == b))
}

fn late(limit: Duration, stopped: Option<Stop>) -> String {
    let stopped = stopped.map(|stop| format!(": {stop}")).unwrap_or_default();
    format!("it was still loading after {}{stopped}", duration::show(limit))
}

/// The properties of a library that are known without loading it.
struct LibraryFacts<'a> {
    library: &'a Library,
    lock: Option<&'a Lock>,
    catalog: &'a Catalog,
}

impl LibraryFacts<'_> {
    fn installed(&self) -> Option<&Package> {
        self.catalog.find(&self.library.manifest().package).ok()
    }

    /// Describes what installing it would change.
    fn change(&self) -> String {
        let Some(installed) = self.installed() else { return "not installed".to_owned() };
        let path = path_text(&installed.path);
        // The file itself, which has already been read and may have a gigabyte.
        if is_same_file(&installed.path, self.library.path()) {
            return format!("the same bytes, {path}");
        }
        let old = match Library::open(&installed.path) {
            Ok(old) => old,
            Err(fault) => return format!("{path}, which cannot be used: {}", fault.detail),
        };
        if old.sha256() == self.library.sha256() {
            return format!("identical to {path}");
        }
        let changes = Changes::between(Some(old.manifest()), self.library.manifest());
        let names = |what: &str, names: Vec<&String>| match &*names {
            [] => String::new(),
            names => format!("; {what} {}", names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")),
        };
        format!(
            "{}, {path}{}{}{}",
            one_line(&old.manifest().version),
            names("adds", changes.added.iter().map(|(job, _)| job).collect()),
            names("removes", changes.removed.iter().map(|(job, _)| job).collect()),
            names("changes", changes.changed.iter().map(|change| &change.job).collect()),
        )
    }

    fn print(&self, file: &Path, loads: &str, printer: &mut Printer) {
        let manifest = self.library.manifest();
        printer.line(path_text(file));
        let mut line = |what: &str, text: String| {
            let what = if what.is_empty() { String::new() } else { format!("{what}:") };
            printer.line(format_args!("  {what:12}{text}"));
        };
        line("package", format!("{} {}", manifest.package, one_line(&manifest.version)));
        line("sha256", self.library.sha256().to_owned());
        if let Ok(size) = self.library.size() {
            line("size", format!("{:.1} MB", size as f64 / 1e6));
        }
        line("built", format!("{} for {}", one_line(&manifest.rustc), one_line(&manifest.target)));
        line("plugin ABI", manifest.abi.to_string());
        if let (Some(needed), Some(host)) = self.library.needed_glibc() {
            line("glibc", format!("{needed} or newer; this host has {host}"));
        }
        line("loads", loads.to_owned());
        line("installed", self.change());
        if let Some(lock) = self.lock {
            line("locked", lock.allows(self.library).map_or_else(|fault| format!("no: {}", fault.detail), |()| "yes".to_owned()));
        }
        for (n, job) in jobs::sorted(&manifest.jobs).into_iter().enumerate() {
            line(if n == 0 { "jobs" } else { "" }, format!("{}{}", job.name, text::signature(&job.signature)));
        }
    }

    fn object(&self, verdict: Option<&Verdict>) -> CheckedLibrary {
        let manifest = self.library.manifest();
        let (needed, host) = self.library.needed_glibc();
        let load = match verdict {
            None => LoadObject::NotTried,
            Some(Verdict::Loaded { took }) => LoadObject::Loaded { micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX) },
            Some(Verdict::Refused(message)) => LoadObject::Refused { detail: message.clone() },
            Some(Verdict::Died { how, printed }) => LoadObject::Died { detail: how.clone(), printed: printed.clone() },
            Some(Verdict::Late { limit, stopped }) => LoadObject::Late { detail: late(*limit, *stopped) },
        };
        CheckedLibrary {
            package: manifest.package.clone(),
            version: manifest.version.clone(),
            sha256: self.library.sha256().to_owned(),
            bytes: self.library.size().ok(),
            rustc: manifest.rustc.clone(),
            target: manifest.target.clone(),
            abi: manifest.abi,
            glibc: GlibcObject { needed, host },
            jobs: jobs::sorted(&manifest.jobs).into_iter().map(CheckedJob::of).collect(),
            load,
            installed: self.installed().map(|package| package.path.display().to_string()),
            locked: self.lock.map(|lock| lock.allows(self.library).is_ok()),
        }
    }
}

fn checked(file: &Path, problem: Option<&FileFault>, ok: bool, library: Option<CheckedLibrary>) -> PluginsCheck {
    PluginsCheck {
        schema: "lorchestra.plugins-check/1",
        ok,
        path: file.display().to_string(),
        problem: problem.map(|fault| ProblemObject::of(&fault.clone().at(file.to_owned()))),
        library,
    }
}
