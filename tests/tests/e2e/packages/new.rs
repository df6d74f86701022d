//! `lorchestra new`: executes the steps that it prints, to the end, and checks that it never leaves a partial result.
//!
//! The only topic that runs cargo: offline, with the versions of the workspace's Cargo.lock, in a target directory that is kept.

use lorchestra_tests::{Sandbox, built};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A shell of a person who has never used lorchestra: an empty home, with cargo and lorchestra on the PATH.
struct Shell {
    sandbox: Sandbox,
    at: PathBuf,
}

impl Shell {
    fn new() -> Self {
        let sandbox = Sandbox::with(&[]);
        std::fs::create_dir(sandbox.path("empty-home")).unwrap();
        std::fs::create_dir(sandbox.path("work")).unwrap();
        let at = sandbox.path("work");
        Self { sandbox, at }
    }

    /// Runs a line and returns its output from both streams.
    #[track_caller]
    fn run(&mut self, line: &str) -> String {
        if let Some(dir) = line.strip_prefix("cd ") {
            self.at.push(dir);
            return String::new();
        }
        let output = self.command(line).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "`{line}` ended with {}\n{text}", output.status);
        text
    }

    fn command(&self, line: &str) -> Command {
        let cargo = Path::new(env!("CARGO")).parent().unwrap();
        let lorchestra = built::lorchestra();
        let path = [cargo, lorchestra.parent().unwrap(), Path::new("/usr/local/bin"), Path::new("/usr/bin"), Path::new("/bin")];
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).current_dir(&self.at).env_clear();
        shell.env("HOME", self.sandbox.path("empty-home")).env("PATH", std::env::join_paths(path).unwrap());
        shell.env("CARGO_NET_OFFLINE", "true").env("CARGO_TERM_COLOR", "never").envs(of_cargo());
        shell
    }
}

/// Where this machine's cargo keeps its registries, and which toolchain this is: an empty home has neither.
#[expect(clippy::disallowed_methods, reason = "the environment states what this machine has")]
fn of_cargo() -> Vec<(&'static str, OsString)> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let or_home = |name: &str, dir: &str| std::env::var_os(name).unwrap_or_else(|| home.join(dir).into_os_string());
    let mut variables = vec![("CARGO_HOME", or_home("CARGO_HOME", ".cargo")), ("RUSTUP_HOME", or_home("RUSTUP_HOME", ".rustup"))];
    variables.extend(std::env::var_os("RUSTUP_TOOLCHAIN").map(|toolchain| ("RUSTUP_TOOLCHAIN", toolchain)));
    variables
}

/// A target directory that is kept.
fn target() -> PathBuf {
    let target = built::lorchestra().ancestors().nth(2).unwrap().join("new-crate");
    std::fs::create_dir_all(&target).unwrap();
    target
}

/// The steps that `new` printed.
fn steps(printed: &str) -> Vec<&str> {
    printed.lines().filter_map(|line| line.strip_prefix("  ")).collect()
}

#[test]
fn the_printed_steps_lead_to_an_event() {
    let mut shell = Shell::new();
    let printed = shell.run("lorchestra new my-words");
    assert!(printed.starts_with("✓ created the job package my-words in my-words\nNext:\n  cd my-words\n"), "{printed}");
    let crate_dir = shell.at.join("my-words");
    // Versions that this machine has, and the artifacts of the previous build.
    std::fs::copy(built::workspace().join("Cargo.lock"), crate_dir.join("Cargo.lock")).unwrap();
    std::os::unix::fs::symlink(target(), crate_dir.join("target")).unwrap();

    let steps = steps(&printed);
    let mut outputs = steps.iter().map(|step| (*step, shell.run(step)));
    let mut next = |begins: &str| -> String {
        let (step, output) = outputs.next().unwrap_or_else(|| panic!("no step {begins}"));
        assert!(step.starts_with(begins), "{step} where {begins} should be");
        output
    };
    next("cd my-words");
    assert!(next("cargo test").contains("test result: ok. 3 passed"));
    let dev = next("lorchestra dev count_words --input README.md");
    assert!(dev.contains("✓ my-words/count_words completed (run ") && dev.contains("Finished `dev`"), "{dev}");
    assert!(next("cargo build --release").contains("Finished `release`"));
    let checked = next("lorchestra plugins check target/release/libmy_words.so");
    assert!(checked.contains("package:    my-words 0.1.0") && checked.contains("count_words(cx, input: PathBuf"), "{checked}");
    let installed = next("lorchestra plugins install target/release/libmy_words.so");
    assert!(installed.starts_with("✓ my-words 0.1.0 installed: "), "{installed}");
    let shown = next("lorchestra jobs show my-words count_words");
    assert!(shown.starts_with("my-words/count_words\n") && shown.contains("Count the words of a text file."), "{shown}");
    assert!(
        next("lorchestra run-job my-words count_words --input README.md").starts_with("✓ my-words/count_words completed (run ")
    );
    let words = std::fs::read_to_string(crate_dir.join("README.md")).unwrap().split_whitespace().count();
    let events = next("lorchestra events list --type words.counted --payload");
    // Of `dev` and of `run-job`.
    assert!(events.trim_end().ends_with(&format!("{{\"words\":{words}}}")) && events.lines().count() == 2, "{events}");
    assert!(outputs.next().is_none());
    drop(outputs);

    let readme = std::fs::read_to_string(crate_dir.join("README.md")).unwrap();
    for step in &steps[1..] {
        assert!(
            readme.lines().any(|line| line.split('#').next().is_some_and(|line| line.trim_end() == *step)),
            "{step}\n{readme}"
        );
    }
    shell.run("cargo fmt --check");
    shell.run("cargo clippy --all-targets -- -D warnings");
}

/// `dev` from the directory above, with flags of the job and of run-job; what it says if it cannot build; an `async` job.
#[test]
fn dev_builds_and_runs_an_async_job_and_explains_what_is_missing() {
    let mut shell = Shell::new();
    shell.run("lorchestra new fetcher --async");
    let crate_dir = shell.at.join("fetcher");
    std::fs::copy(built::workspace().join("Cargo.lock"), crate_dir.join("Cargo.lock")).unwrap();
    std::os::unix::fs::symlink(target(), crate_dir.join("target")).unwrap();
    let lib = std::fs::read_to_string(crate_dir.join("src/lib.rs")).unwrap();
    assert!(lib.contains("pub async fn count_words"), "{lib}");
    let ran = shell.run("lorchestra dev fetcher count_words --input fetcher/README.md --timeout 1m");
    assert!(ran.contains("✓ fetcher/count_words completed (run "), "{ran}");
    // Nothing is installed.
    assert!(!shell.run("lorchestra jobs list").contains("fetcher"));

    let fails = |line: &str, code: i32, says: &[&str]| {
        let output = shell.command(line).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}\n{text}");
        assert!(says.iter().all(|says| text.contains(says)), "{line}\n{text}");
    };
    fails("lorchestra dev fetcher count_wrods", 1, &["did you mean", "count_words"]);
    fails("lorchestra dev fetcher count_words", 2, &["--input"]);
    fails("lorchestra dev count_words", 2, &["is not the directory of a crate", "lorchestra dev DIR JOB"]);
    fails("lorchestra dev fetcher", 2, &["missing argument JOB"]);
    fails(
        "PATH=$(dirname $(command -v lorchestra)) && lorchestra dev fetcher count_words",
        1,
        &["cargo cannot be started", "rustup.rs"],
    );
    std::fs::write(crate_dir.join("src/lib.rs"), "no rust").unwrap();
    fails("lorchestra dev fetcher count_words", 1, &["error: fetcher cannot be built: cargo build failed"]);
    std::fs::write(crate_dir.join("src/lib.rs"), lib).unwrap();
    shell.at = crate_dir;
    assert!(shell.run("cargo test").contains("test result: ok. 3 passed"));
    shell.run("cargo fmt --check");
}

/// The packages of the workspace and its location, according to cargo.
#[track_caller]
fn metadata(shell: &mut Shell) -> (Vec<String>, String) {
    let text = shell.run("cargo metadata --no-deps --format-version 1 2>/dev/null");
    let metadata: serde_json::Value = serde_json::from_str(&text).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let mut names: Vec<String> = packages.map(|package| package["name"].as_str().unwrap().to_owned()).collect();
    names.sort_unstable();
    (names, metadata["workspace_root"].as_str().unwrap().to_owned())
}

/// A workspace `all` with a member `other`.
fn workspace(shell: &Shell) -> PathBuf {
    let root = shell.at.join("all");
    std::fs::create_dir_all(root.join("crates/other/src")).unwrap();
    let other = "[package]\nname = \"other\"\nedition = \"2024\"\n";
    std::fs::write(root.join("crates/other/Cargo.toml"), other).unwrap();
    std::fs::write(root.join("crates/other/src/lib.rs"), "").unwrap();
    std::fs::write(root.join("Cargo.toml"), "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\n").unwrap();
    root
}

#[test]
fn a_crate_below_a_workspace_that_does_not_list_it_is_its_own_workspace() {
    let mut shell = Shell::new();
    let root = workspace(&shell).canonicalize().unwrap();
    shell.run("cd all");
    let printed = shell.run("lorchestra new words --dir 'with a space'");
    let expected = format!("It is its own workspace: the workspace in {} does not list it as a member.\n", root.display());
    assert!(printed.contains(&expected), "{printed}");
    assert_eq!(metadata(&mut shell).0, ["other"]);
    shell.run("cd with a space");
    let own = root.join("with a space").display().to_string();
    assert_eq!(metadata(&mut shell), (vec!["words".to_owned()], own));
    // An empty directory is used unchanged.
    shell.run("mkdir empty && cd empty && lorchestra new words --dir . && cargo metadata --no-deps --format-version 1");
}

/// Conversely both would break: a workspace root cannot be a member.
#[test]
fn a_crate_that_a_workspace_lists_is_a_member() {
    let mut shell = Shell::new();
    let root = workspace(&shell);
    std::fs::copy(built::workspace().join("Cargo.lock"), root.join("Cargo.lock")).unwrap();
    std::os::unix::fs::symlink(target(), root.join("target")).unwrap();
    // By another name of the directory, too.
    std::os::unix::fs::symlink(&root, shell.at.join("link")).unwrap();
    let printed = shell.run("lorchestra new my-words --dir link/crates/my-words");
    let root = root.canonicalize().unwrap();
    let expected = format!("It is a member of the workspace in {} (members: \"crates/*\"), ", root.display());
    assert!(printed.contains(&expected), "{printed}");

    let all = (["my-words", "other"].map(str::to_owned).to_vec(), root.display().to_string());
    shell.run("cd all");
    assert_eq!(metadata(&mut shell), all);
    let built_all = shell.run("cargo build --workspace");
    shell.run("cd crates/my-words");
    assert_eq!(metadata(&mut shell), all);
    let built_one = shell.run("cargo build");
    // Such as a warning about a profile that is not the workspace's.
    assert!(!built_all.contains("warning") && !built_one.contains("warning"), "{built_all}{built_one}");
    let checks = steps(&printed).into_iter().find(|step| step.contains("plugins check")).unwrap().to_owned();
    assert_eq!(checks, "lorchestra plugins check ../../target/release/libmy_words.so");
    let checked = shell.run(&checks.replace("release", "debug"));
    assert!(checked.contains("package:    my-words 0.1.0"), "{checked}");
    assert!(std::fs::read_to_string(shell.at.join("README.md")).unwrap().contains(&checks));
    let mut files = names(&shell.at);
    files.sort_unstable();
    let files: Vec<_> = files.iter().map(|file| file.strip_prefix(&shell.at).unwrap().to_str().unwrap()).collect();
    assert_eq!(files, ["Cargo.toml", "README.md", "src", "src/lib.rs", "tests", "tests/jobs.rs"]);
    // Into an empty directory as well.
    shell.run("mkdir ../empty && lorchestra new again --dir ../empty && cargo metadata --no-deps --format-version 1");
}

/// All names below a directory.
fn names(dir: &Path) -> Vec<PathBuf> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            names.extend(self::names(&entry));
        }
        names.push(entry);
    }
    names
}

#[test]
fn an_impossible_crate_is_refused_and_leaves_nothing() {
    let sandbox = Sandbox::unprivileged(&[]);
    let work = sandbox.path("work");
    std::fs::create_dir_all(work.join("full")).unwrap();
    std::fs::write(work.join("full/mine.txt"), "mine").unwrap();
    std::fs::write(work.join("file"), "mine").unwrap();
    std::fs::create_dir(work.join("read-only")).unwrap();
    for (dir, mode) in [(work.clone(), 0o777), (work.join("read-only"), 0o555)] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(mode)).unwrap();
    }
    let before = names(&work);
    for (args, code, expected) in [
        (&["Words"][..], 2, "\"Words\" is not a valid package name"),
        (&["test"], 2, "a package cannot be named test"),
        (&["fn"], 2, "lorchestra new fn_jobs"),
        (&["full"], 2, "full already exists and is not empty"),
        (&["file"], 2, "file already exists\n"),
        (&["x", "--dir", "no/such/x"], 2, "mkdir -p no/such"),
        (&["x", "--api", "full"], 2, "full is not lorchestra-plugin-api"),
        (&["x", "--dir", "read-only/x"], 74, "read-only"),
        (&["x", "--dir", "read-only"], 74, "read-only: this user may not write to read-only"),
        (&["x", "--dir", "file/x"], 2, "directory file does not exist"),
    ] {
        let mut command = sandbox.command(&[&["new"], args].concat());
        let ended = lorchestra_tests::Running::start({
            command.current_dir(&work);
            command
        })
        .wait()
        .exits(code);
        assert!(ended.err().contains(expected), "{}", ended.shown());
        assert_eq!(names(&work), before, "{args:?}");
    }
}
