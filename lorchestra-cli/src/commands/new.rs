//! `new`: creates a crate that builds, tests and runs unchanged, from the templates next to this file. Owns the rules for names, the
//! crate's dependencies, and that the crate appears completely or not at all. Talks to the file system, and to [`workspace`] about
//! workspaces above the crate.

mod workspace;

use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use clap::Args;
use lorchestra_core::text::{path_text, shell};
use lorchestra_plugin_api::manifest::is_name;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use workspace::Workspace;

/// The path of each file, and its template.
const FILES: [(&str, &str); 6] = [
    ("Cargo.toml", include_str!("new/manifest.txt")),
    ("README.md", include_str!("new/readme.txt")),
    (".gitignore", include_str!("new/gitignore.txt")),
    (".github/workflows/ci.yml", include_str!("new/ci.txt")),
    ("src/lib.rs", include_str!("new/lib.txt")),
    ("tests/jobs.rs", include_str!("new/tests.txt")),
];

/// `src/lib.rs` with an `async` job. Its tests are those of the other one.
const ASYNC_LIB: &str = include_str!("new/lib_async.txt");

/// Files for the top of a repository, which a member of a workspace does not get.
const OF_A_ROOT: [&str; 2] = [".github", ".gitignore"];

/// The end of the manifest, for a crate that is its own workspace and for a member.
const ROOT: &str = include_str!("new/root.txt");
const MEMBER: &str = include_str!("new/member.txt");

/// The top-level names of the crate, in the order in which they are moved to its directory: the one that makes it a crate comes last.
const TOP: [&str; 6] = ["src", "tests", ".github", ".gitignore", "README.md", "Cargo.toml"];

/// The crate that a job package depends on.
const API: &str = "lorchestra-plugin-api";

/// Names with another meaning for cargo or the compiler.
const TAKEN: [&str; 58] = [
    // Keywords, used and reserved.
    "abstract",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "struct",
    "super",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
    // Crates that always exist, and our own.
    "alloc",
    "core",
    "proc_macro",
    "std",
    "test",
    "lorchestra_plugin_api",
    "lorchestra_plugin_api_macros",
];

/// Why no crate was created. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NewError {
    /// It is not a valid package name.
    #[error("{0:?} is not a valid package name: use [a-z][a-z0-9_-]*, at most 64 characters")]
    Name(String),
    /// The name has another meaning.
    #[error("a package cannot be named {0}: cargo or the compiler reserves that name")]
    Taken(String),
    /// Something already exists at the path.
    #[error("{path} already exists{what}", path = .0.display(), what = if .0.is_dir() { " and is not empty" } else { "" })]
    There(PathBuf),
    /// The parent directory does not exist.
    #[error("directory {path} does not exist", path = .0.display())]
    NoParent(PathBuf),
    /// The path does not contain the plugin API.
    #[error("{path} is not {API}: {why}", path = .path.display())]
    Api {
        /// The path as given.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The sources of this binary are not on this machine.
    #[error("the sources of {API} are not on this machine, and it is not in any registry")]
    NoSources,
    /// A system call failed.
    #[error("{path}", path = .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

impl From<NewError> for CommandError {
    fn from(error: NewError) -> Self {
        let message = error.to_string();
        match error {
            NewError::Name(_) => Self::new(Code::Usage, message).hint("for example: lorchestra new my_package"),
            NewError::Taken(name) => Self::new(Code::Usage, message).hint(format!("for example: lorchestra new {name}_jobs")),
            NewError::There(_) => Self::new(Code::Usage, message).hint("choose another directory with --dir DIR"),
            NewError::NoParent(path) => Self::new(Code::Usage, message).hint(format!("mkdir -p {}", shell(&path))),
            NewError::NoSources => Self::new(Code::Usage, message).hint("pass the directory of a lorchestra checkout: --api DIR"),
            NewError::Api { .. } => {
                Self::new(Code::Usage, message).hint("pass the directory of a lorchestra checkout, or omit --api")
            }
            NewError::Io { path, source } => Self::refused(Code::NotWritable, &message, &path, &source),
        }
    }
}

/// `new NAME`.
#[derive(Debug, Args)]
pub(crate) struct New {
    /// Package name: [a-z][a-z0-9_-]*, at most 64 characters
    name: String,
    /// Directory to create (may exist if empty) [default: NAME]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write an `async` job, which runs in a Tokio runtime
    #[arg(long = "async")]
    is_async: bool,
    /// Path of lorchestra-plugin-api, or of a checkout of lorchestra [default: the sources that this binary was built from]
    #[arg(long, value_name = "PATH")]
    api: Option<PathBuf>,
}

pub(super) fn run(command: &New, printer: &mut Printer) -> Result<Code, CommandError> {
    let name = &*command.name;
    check_name(name)?;
    let api = api_dir(command.api.as_deref())?;
    let dir = command.dir.as_deref().unwrap_or(Path::new(name));
    let real = real(dir)?;
    let above = workspace::above(&real);
    let member_of = above.as_ref().filter(|above| above.takes_in.is_some()).map(|above| &*above.root);
    let library = library(name, &real, member_of);
    let contents = Contents { name, api: &dependency(&api, command.is_async), library: &library, is_async: command.is_async };
    make(&contents, dir, member_of.is_some())?;
    printer.good(format_args!("created the job package {name} in {}", shell(dir)));
    if let Some(Workspace { root, takes_in }) = &above {
        let root = path_text(root);
        match takes_in {
            Some(entry) => printer.line(format_args!(
                "It is a member of the workspace in {root} (members: {entry:?}), and uses that workspace's profiles and target directory."
            )),
            None => printer.line(format_args!("It is its own workspace: the workspace in {root} does not list it as a member.")),
        }
    }
    // Only members share the workspace's dependencies.
    let member_of = above.filter(|above| above.takes_in.is_some());
    if let Some(workspace) = member_of
        && let Some(inner) = workspace.to_exclude(Path::new(&api))
    {
        let inner = path_text(&inner);
        printer.warning(format_args!(
            "{API} is in {inner}; cargo would treat it as part of that workspace and build neither: add exclude = [{}] to [workspace] in {}",
            toml::Value::from(inner.as_str()),
            path_text(&workspace.root.join("Cargo.toml")),
        ));
    }
    printer.line("Next:");
    for step in [
        format!("cd {}", shell(dir)),
        "cargo test".to_owned(),
        "lorchestra dev count_words --input README.md".to_owned(),
        "cargo build --release".to_owned(),
        format!("lorchestra plugins check {library}"),
        format!("lorchestra plugins install {library}"),
        format!("lorchestra jobs show {name} count_words"),
        format!("lorchestra run-job {name} count_words --input README.md"),
        "lorchestra events list --type words.counted --payload".to_owned(),
    ] {
        printer.line(format_args!("  {step}"));
    }
    Ok(Code::Success)
}

fn check_name(name: &str) -> Result<(), NewError> {
    if !is_name(name) {
        return Err(NewError::Name(name.to_owned()));
    }
    if TAKEN.contains(&&*crate_name(name)) {
        return Err(NewError::Taken(name.to_owned()));
    }
    Ok(())
}

/// The compiler's name for the crate of a package.
fn crate_name(package: &str) -> String {
    package.replace('-', "_")
}

/// Returns the crate to depend on: the given one, or that of the source tree from which this program was built.
fn api_dir(named: Option<&Path>) -> Result<String, NewError> {
    let own = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../lorchestra-plugin-api"));
    match named {
        Some(path) => api_crate(path),
        // Not by a version: no one owns the name in the public registry, and anyone could claim it there.
        None => api_crate(own).map_err(|_| NewError::NoSources),
    }
}

/// The value of `lorchestra-plugin-api =`.
fn dependency(api: &str, is_async: bool) -> String {
    let features = if is_async { ", features = [\"async\"]" } else { "" };
    format!("{{ path = {}{features} }}", toml::Value::from(api))
}

/// What is written into the templates.
struct Contents<'a> {
    name: &'a str,
    /// The value of the dependency on the plugin API.
    api: &'a str,
    /// Path of the library that a release build creates.
    library: &'a str,
    /// Whether the job is `async`.
    is_async: bool,
}

impl Contents<'_> {
    fn of(&self, file: &str, template: &str, is_member: bool) -> String {
        let template = if self.is_async && file == "src/lib.rs" { ASYNC_LIB } else { template };
        template
            .replace("{{root}}", if is_member { MEMBER } else { ROOT })
            .replace("{{package}}", self.name)
            .replace("{{crate}}", &crate_name(self.name))
            .replace("{{library}}", self.library)
            .replace("{{api}}", self.api)
    }
}

/// Returns the absolute path of the plugin API, given its directory or that of a checkout.
fn api_crate(named: &Path) -> Result<String, NewError> {
    let wrong = |why: String| NewError::Api { path: named.to_owned(), why };
    let inner = named.join(API);
    let dir = if inner.join("Cargo.toml").exists() { &*inner } else { named };
    let manifest =
        fs::read_to_string(dir.join("Cargo.toml")).map_err(|e| wrong(format!("its Cargo.toml cannot be read ({e})")))?;
    let manifest: toml::Table = manifest.parse().map_err(|_| wrong("its Cargo.toml is not TOML".to_owned()))?;
    match manifest.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str) {
        Some(API) => {}
        Some(other) => return Err(wrong(format!("it is the crate {other}"))),
        None => return Err(wrong("it is not a crate".to_owned())),
    }
    let dir = dir.canonicalize().map_err(|e| wrong(e.to_string()))?;
    dir.into_os_string().into_string().map_err(|_| wrong("its path is not UTF-8, so Cargo.toml cannot contain it".to_owned()))
}

/// Returns the crate's real path: cargo searches for a workspace from there.
fn real(dir: &Path) -> Result<PathBuf, NewError> {
    let build_dir = build_dir(dir)?;
    let real = build_dir.canonicalize().map_err(|source| NewError::Io { path: build_dir.to_owned(), source })?;
    Ok(match dir.file_name() {
        Some(name) if build_dir != dir => real.join(name),
        _ => real,
    })
}

/// Returns the path of the library that `cargo build --release` creates, relative to the crate; `root` is the workspace of a member.
fn library(name: &str, real: &Path, root: Option<&Path>) -> String {
    let library = format!("target/release/lib{}.so", crate_name(name));
    match root.map(|root| (root, real.strip_prefix(root))) {
        None => library,
        Some((_, Ok(below))) => format!("{}{library}", "../".repeat(below.components().count())),
        Some((root, Err(_))) => shell(&root.join(library)),
    }
}

/// Returns the directory in which to build the crate: the target directory itself if it exists and is empty, since it may be someone's
/// working directory; otherwise its parent.
fn build_dir(dir: &Path) -> Result<&Path, NewError> {
    let build_dir = match dir.parent() {
        _ if is_empty(dir)? => dir,
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if build_dir.is_dir() { Ok(build_dir) } else { Err(NewError::NoParent(build_dir.to_owned())) }
}

/// The top-level name of a file in the crate.
fn top(file: &str) -> &str {
    file.split('/').next().unwrap_or(file)
}

/// Creates the crate in a temporary directory, and moves it to its path once it is complete.
fn make(contents: &Contents<'_>, dir: &Path, is_member: bool) -> Result<(), NewError> {
    let build_dir = build_dir(dir)?;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| NewError::Io { path, source }
    };
    // Removed at the end, with everything still in it.
    let building = tempfile::Builder::new().prefix(".lorchestra-new-").tempdir_in(build_dir);
    // Without the temporary name that failed.
    let building = building.map_err(|e| at(build_dir)(e.kind().into()))?;
    // The temporary directory is private; a crate has the user's default modes.
    let whole = building.path().join(contents.name);
    let left_out = |top: &str| is_member && OF_A_ROOT.contains(&top);
    for (file, template) in FILES.into_iter().filter(|(file, _)| !left_out(top(file))) {
        let path = whole.join(file);
        let text = contents.of(file, template, is_member);
        fs::create_dir_all(path.parent().unwrap_or(&whole)).map_err(at(dir))?;
        fs::write(&path, text).map_err(at(dir))?;
    }
    if build_dir != dir {
        return match fs::rename(&whole, dir) {
            Ok(()) => Ok(()),
            // Another process was faster.
            Err(_) if dir.symlink_metadata().is_ok() => Err(NewError::There(dir.to_owned())),
            Err(source) => Err(NewError::Io { path: dir.to_owned(), source }),
        };
    }
    for (n, top) in TOP.into_iter().enumerate().filter(|(_, top)| !left_out(top)) {
        if let Err(source) = fs::rename(whole.join(top), dir.join(top)) {
            for moved in TOP[..n].iter().filter(|top| !left_out(top)) {
                // Move it back to the directory that is removed.
                let _ = fs::rename(dir.join(moved), whole.join(moved));
            }
            return Err(NewError::Io { path: dir.join(top), source });
        }
    }
    Ok(())
}

/// Whether the directory exists and is empty; `false` if it does not exist.
fn is_empty(dir: &Path) -> Result<bool, NewError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(true),
            Some(_) => Err(NewError::There(dir.to_owned())),
        },
        Err(_) if dir.symlink_metadata().is_err() => Ok(false),
        // A file, or a dangling link.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::NotFound) => {
            Err(NewError::There(dir.to_owned()))
        }
        Err(source) => Err(NewError::Io { path: dir.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cargo_refuses_are_refused() {
        for bad in ["", "Words", "1st", "a b", "../x", "_x", "straße"] {
            assert!(matches!(check_name(bad), Err(NewError::Name(_))), "{bad}");
        }
        for taken in ["test", "fn", "proc-macro", "lorchestra-plugin-api", "gen"] {
            assert!(matches!(check_name(taken), Err(NewError::Taken(_))), "{taken}");
        }
        for good in ["words", "my-package", "my_package", "x", "tests", &"x".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn every_created_file_is_moved() {
        let mut tops: Vec<&str> = FILES.iter().map(|(file, _)| top(file)).collect();
        let mut moved = TOP.to_vec();
        tops.sort_unstable();
        moved.sort_unstable();
        assert_eq!(tops, moved);
    }

    /// The size limit is tested on such a library.
    #[test]
    fn the_release_profile_is_the_one_that_is_tested() {
        let profile = |text: &str, name: &str| {
            let manifest: toml::Table = text.parse().unwrap();
            let mut profile = manifest["profile"][name].as_table().unwrap().clone();
            profile.retain(|key, _| key != "inherits" && key != "package");
            profile
        };
        let workspace = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml")).unwrap();
        assert_eq!(profile(ROOT, "release"), profile(&workspace, "shipped"));
    }

    #[test]
    fn the_dependency_is_always_a_path() {
        let own = api_dir(None).unwrap();
        let written = dependency(&own, false);
        assert!(written.starts_with("{ path = \"/") && written.ends_with("/lorchestra-plugin-api\" }"), "{written}");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert_eq!(api_dir(Some(&root)).unwrap(), own);
        let core = api_dir(Some(&root.join("lorchestra-core"))).unwrap_err().to_string();
        assert!(core.ends_with("is not lorchestra-plugin-api: it is the crate lorchestra-core"), "{core}");
        assert!(api_dir(Some(Path::new("/no/such"))).is_err());
    }
}
