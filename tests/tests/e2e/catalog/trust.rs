//! Which libraries are trusted: no other user may be able to change or replace the file. A refused library is listed as a problem, makes
//! run-job exit with 126, and is fixed by the command in the hint; but no hint changes a directory that others use.

use lorchestra_test_setup::systemd;
use lorchestra_tests::sandbox::NOBODY;
use lorchestra_tests::{Ended, Fixture, Running, Sandbox, processes};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The package for all tests, in a sandbox of a user to whom permissions apply.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::unprivileged(&[Fixture::Misbehave]);
    for dir in sandbox.plugins().ancestors().take_while(|dir| dir.starts_with(sandbox.root())) {
        set_mode(dir, 0o755);
    }
    set_mode(&library(&sandbox), 0o644);
    sandbox
}

fn library(sandbox: &Sandbox) -> PathBuf {
    sandbox.plugins().join("libmisbehave.so")
}

const RUN: [&str; 3] = ["run-job", "misbehave", "noop"];

/// Every command that uses the package, and its result if the library is refused.
#[track_caller]
fn refused(sandbox: &Sandbox, global: &[&str], reason: &str) -> Ended {
    let with = |args: &[&str]| sandbox.lorchestra(&[global, args].concat());
    let listed = with(&["jobs", "list"]).exits(0);
    assert_eq!(listed.out(), "", "{}", listed.shown());
    assert!(listed.err().contains(&format!("({reason})\n  fix: ")), "{}", listed.shown());
    let json = with(&["jobs", "list", "--json"]).exits(0).json("lorchestra.jobs-list/1");
    assert_eq!((&json["packages"], &json["problems"][0]["reason"]), (&serde_json::json!([]), &reason.into()));
    with(&["jobs", "show", "misbehave", "noop"]).exits(126);
    with(&["run-job", "--dry-run", "misbehave", "noop"]).exits(126);
    assert!(with(&["plugins", "list"]).exits(0).out().contains(&format!(" {reason}: ")));
    let run = with(&RUN).exits(126);
    assert!(run.err().contains(reason), "{}", run.shown());
    assert!(sandbox.runs().is_empty(), "no run was recorded");
    run
}

/// The fix in the hint.
fn fix(ended: &Ended) -> String {
    let line = ended.err().lines().find_map(|line| line.trim().strip_prefix("fix: "));
    line.unwrap_or_else(|| panic!("no fix: {}", ended.shown())).to_owned()
}

fn shell(command: &str) {
    let status = Command::new("/bin/sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

#[test]
fn a_library_that_others_may_write_runs_only_after_the_fix() {
    let sandbox = sandbox();
    let library = library(&sandbox);
    let all: Vec<&Path> = library.ancestors().take_while(|at| at.starts_with(sandbox.home())).collect();
    assert_eq!(all.len(), 6, "the file, its directory, and all above it in the home directory");
    let lorchestra = all[2];
    for at in all {
        let before = fs::metadata(at).unwrap().mode() & 0o777;
        for (more, command) in [(0o002, "chmod o-w"), (0o022, "chmod go-w")] {
            set_mode(at, before | more);
            let run = refused(&sandbox, &[], "not-trusted");
            if at.ends_with("lorchestra") || at.starts_with(lorchestra) {
                assert_eq!(fix(&run), format!("{command} {}", at.display()));
                shell(&fix(&run));
            } else {
                assert_elsewhere(&fix(&run), at);
                set_mode(at, before);
            }
        }
        assert_eq!(fs::metadata(at).unwrap().mode() & 0o777, before);
    }
    sandbox.lorchestra(&RUN).exits(0);
}

/// The fix for a directory that others use: it changes nothing there.
#[track_caller]
fn assert_elsewhere(fix: &str, at: &Path) {
    let expected = "move it to a directory that only this user and root can change (--plugin-dir, plugin_dirs in config.toml)";
    assert_eq!(fix, format!("{expected}; ls -ld {} shows this one", at.display()));
}

#[test]
fn the_messages_about_untrusted_libraries() {
    let sandbox = sandbox();
    set_mode(&sandbox.home(), 0o777);
    insta::assert_snapshot!(sandbox.lorchestra(&RUN).snapshot(&sandbox));
    set_mode(&sandbox.home(), 0o755);
    set_mode(&sandbox.plugins(), 0o757);
    insta::assert_snapshot!(sandbox.lorchestra(&["jobs", "list"]).snapshot(&sandbox));
}

/// Whether a directory is trusted does not depend on how it was named.
#[test]
fn the_same_rules_apply_however_a_directory_is_named() {
    let sandbox = sandbox();
    let other = sandbox.path("other");
    fs::rename(sandbox.plugins(), &other).unwrap();
    let dir = other.display().to_string();
    set_mode(&other, 0o777);
    refused(&sandbox, &["--plugin-dir", &dir], "not-trusted");
    let named = sandbox.lorchestra_with(&[("LORCHESTRA_PLUGIN_PATH", &dir)], &RUN).exits(126);
    assert!(named.err().contains("(not-trusted)"), "{}", named.shown());
    sandbox.configure(&format!("plugin_dirs = [{dir:?}]"));
    refused(&sandbox, &[], "not-trusted");
    set_mode(&other, 0o755);
    sandbox.lorchestra(&RUN).exits(0);
}

#[test]
fn libraries_of_another_user_are_not_run() {
    if !processes::is_root() {
        // Only root can change the owner of files.
        return;
    }
    let sandbox = sandbox();
    let library = library(&sandbox);
    for (at, hint) in [
        (library.clone(), format!("as root: chown {NOBODY} {}", library.display())),
        (sandbox.plugins(), format!("as root: chown {NOBODY} {}", sandbox.plugins().display())),
        (
            sandbox.home(),
            "run it as user 1, or move it to a directory that only this user and root can change (--plugin-dir, plugin_dirs in \
             config.toml)"
                .to_owned(),
        ),
    ] {
        chown(&at, Some(1), None).unwrap();
        let run = refused(&sandbox, &[], "not-trusted");
        assert!(run.err().contains("belongs to user 1, who could change what runs"), "{}", run.shown());
        assert_eq!(fix(&run), hint);
        // Root's files are trusted like one's own.
        chown(&at, Some(0), None).unwrap();
        assert!(sandbox.lorchestra(&["jobs", "list"]).exits(0).out().starts_with("misbehave:"), "{}", at.display());
        chown(&at, Some(NOBODY), None).unwrap();
    }
    sandbox.lorchestra(&RUN).exits(0);
    // Root does not run other users' libraries.
    let mut command = Command::new(lorchestra_tests::built::lorchestra());
    command.args(RUN).env_clear().env("HOME", sandbox.home());
    let ended = Running::start(command).wait().exits(126);
    assert!(ended.err().contains(&format!("belongs to user {NOBODY}, who could change what runs")), "{}", ended.shown());
}

/// Whether the group of this process's files has no other members, according to the two files.
fn has_own_group(path: &Path) -> bool {
    let meta = fs::metadata(path).unwrap();
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (passwd, group) = (read("/etc/passwd"), read("/etc/group"));
    let field = |line: &str, at: usize| line.split(':').nth(at).unwrap_or_default().to_owned();
    let born: Vec<_> = passwd.lines().filter(|line| field(line, 3) == meta.gid().to_string()).collect();
    let joined: String =
        group.lines().filter(|line| field(line, 2) == meta.gid().to_string()).map(|line| field(line, 3)).collect();
    born.len() == 1 && field(born[0], 2) == meta.uid().to_string() && joined.is_empty()
}

/// Distributions that create a group for each user set umask 002. Tests all cases: directories and a library created manually, and an
/// installed library.
#[test]
fn umask_002_works_out_of_the_box() {
    let sandbox = Sandbox::with(&[]);
    if !has_own_group(sandbox.root()) {
        return;
    }
    let built = Fixture::Misbehave.built().display().to_string();
    let lorchestra = lorchestra_tests::built::lorchestra().display().to_string();
    fs::remove_dir_all(sandbox.home()).unwrap();
    let by_hand = format!(
        "umask 002 && mkdir -p ~/.local/share/lorchestra/plugins && cp {built} ~/.local/share/lorchestra/plugins/ \
         && chmod 775 ~/.local/share/lorchestra/plugins/*.so && {lorchestra} run-job misbehave noop"
    );
    let installed = format!(
        "umask 002 && rm -rf ~ && mkdir ~ && {lorchestra} plugins install {built} && {lorchestra} run-job misbehave noop"
    );
    let unmasked = format!(
        "umask 000 && rm -rf ~ && mkdir -m 755 ~ && {lorchestra} plugins install {built} && {lorchestra} run-job misbehave noop"
    );
    for (script, mode) in [(by_hand, 0o775), (installed, 0o644), (unmasked, 0o644)] {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script]).env("HOME", sandbox.home()).env_remove("XDG_DATA_HOME").env_remove("XDG_STATE_HOME");
        let ended = Running::start(command).wait().exits(0);
        assert!(ended.plain_out().ends_with("✓ misbehave/noop completed (run [SHORT])\n"), "{}", ended.shown());
        assert_eq!(fs::metadata(library(&sandbox)).unwrap().mode() & 0o777, mode);
    }
}

/// With other members in the group, it is not private.
#[test]
fn a_group_with_other_members_may_not_write() {
    if !processes::is_root() {
        return;
    }
    // NOBODY's group has other members on most systems, and is not NOBODY's own on the rest: a shared group, or another user's, does not
    // count.
    let sandbox = sandbox();
    let library = library(&sandbox);
    for at in [library.clone(), sandbox.plugins(), sandbox.home()] {
        chown(&at, None, Some(1)).unwrap();
        let before = fs::metadata(&at).unwrap().mode() & 0o777;
        set_mode(&at, before | 0o020);
        let run = refused(&sandbox, &[], "not-trusted");
        assert!(run.err().contains("any member of group daemon may "), "{}", run.shown());
        if at == sandbox.home() {
            assert_elsewhere(&fix(&run), &at);
            set_mode(&at, before);
        } else {
            assert_eq!(fix(&run), format!("chmod g-w {}", at.display()));
            shell(&fix(&run));
        }
    }
    sandbox.lorchestra(&RUN).exits(0);
}

#[test]
fn links_must_not_leave_the_directory() {
    let sandbox = sandbox();
    let library = library(&sandbox);
    let outside = sandbox.path("outside.so");
    fs::rename(&library, &outside).unwrap();
    symlink(&outside, &library).unwrap();
    let run = refused(&sandbox, &[], "link-out");
    assert!(run.err().contains(&format!("it is a symbolic link to {}, outside", outside.display())), "{}", run.shown());
    // The fix copies it.
    let command = fix(&run);
    assert!(command.starts_with(&format!("run lorchestra plugins install {}", outside.display())), "{command}");
    sandbox.lorchestra(&["plugins", "install", &outside.display().to_string()]).exits(0);
    assert!(!library.is_symlink());
    sandbox.lorchestra(&RUN).exits(0);
    // A link to a file in its directory, and a link to the directory, do not leave it.
    let versions = sandbox.plugins().join("1.0");
    fs::create_dir(&versions).unwrap();
    fs::rename(&library, versions.join("libmisbehave.so")).unwrap();
    symlink("1.0/libmisbehave.so", &library).unwrap();
    sandbox.lorchestra(&RUN).exits(0);
    fs::rename(sandbox.plugins(), sandbox.path("elsewhere")).unwrap();
    symlink(sandbox.path("elsewhere"), sandbox.plugins()).unwrap();
    sandbox.lorchestra(&RUN).exits(0);
    // A user who may write to the link's target can change what runs.
    set_mode(&sandbox.path("elsewhere"), 0o777);
    let run = refused_alone(&sandbox);
    assert_elsewhere(&fix(&run), &sandbox.path("elsewhere"));
}

fn refused_alone(sandbox: &Sandbox) -> Ended {
    sandbox.lorchestra(&RUN).exits(126)
}

/// `/tmp` is world-writable, but only the owner can move a file in it. A plugin directory must not be like that.
#[test]
fn a_sticky_parent_protects_its_contents() {
    let sandbox = sandbox();
    set_mode(&sandbox.home(), 0o1777);
    sandbox.lorchestra(&RUN).exits(0);
    set_mode(&sandbox.plugins(), 0o1777);
    let run = refused_alone(&sandbox);
    assert!(run.err().contains("any user may put files into its directory"), "{}", run.shown());
}

/// A file that others could have written does not count as a duplicate of a good one, nor does it hide it.
#[test]
fn untrusted_files_do_not_conflict_with_trusted_ones() {
    let sandbox = sandbox();
    let other = sandbox.install(Fixture::Misbehave, "aaa.so");
    set_mode(&other, 0o666);
    fs::hard_link(&other, sandbox.plugins().join("aab.so")).unwrap();
    let listed = sandbox.lorchestra(&["jobs", "list"]).exits(0);
    assert!(listed.out().starts_with("misbehave:\n"), "{}", listed.shown());
    assert_eq!(listed.err().matches("(not-trusted)").count(), 2, "{}", listed.shown());
    sandbox.lorchestra(&RUN).exits(0);
}

/// The units of docs/guides/sandbox.md, as parsed by systemd.
#[test]
fn the_units_in_the_docs_are_valid() {
    let page = fs::read_to_string(lorchestra_tests::built::workspace().join("docs/guides/sandbox.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut units = 0;
    for (name, text) in page.split("`/etc/systemd/system/").skip(1).filter_map(|rest| rest.split_once("`:\n\n```ini\n")) {
        let unit = text.split("```").next().unwrap();
        // A program that exists.
        fs::write(dir.path().join(name), unit.replace("/usr/local/bin/lorchestra", "/bin/true")).unwrap();
        units += 1;
    }
    assert_eq!(units, 2);
    let verified = systemd::verify(&lorchestra_tests::built::target(), dir.path(), false).unwrap();
    let errors = String::from_utf8_lossy(&verified.stderr);
    let ours: Vec<&str> = errors.lines().filter(|line| line.contains("lorchestra-extract")).collect();
    assert!(ours.is_empty() && verified.status.success(), "{errors}");
}
