//! Checks the Dockerfiles of `xtask/dist` as far as that is possible without a container engine: what they copy is there or is built, both
//! agree on the directory of plugins, and the guide shows the same lines.

#![expect(clippy::expect_used, reason = "a panic fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the workspace").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).expect(path)
}

/// Returns the instructions of a Dockerfile, with continued lines joined, as keyword and arguments.
fn instructions(path: &str) -> Vec<(String, String)> {
    let text = read(path).replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    lines
        .map(|line| {
            let line = words(line);
            let (keyword, rest) = line.split_once(' ').expect("an instruction with arguments");
            (keyword.to_owned(), rest.to_owned())
        })
        .collect()
}

fn of<'a>(instructions: &'a [(String, String)], keyword: &str) -> Vec<&'a str> {
    instructions.iter().filter(|(name, _)| name == keyword).map(|(_, rest)| rest.as_str()).collect()
}

#[test]
fn the_image_is_built_with_the_toolchain_of_the_workspace_and_has_its_binary() {
    let image = instructions("xtask/dist/Dockerfile");
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = \"")).expect("a channel").trim_end_matches('"');
    let build = of(&image, "FROM")[0];
    let version = build.strip_prefix("rust:").and_then(|rest| rest.split_once('-')).expect("an image of rust").0;
    assert!(channel == version || channel.starts_with(&format!("{version}.")), "{channel}: {build}");
    assert!(build.ends_with(" AS build"), "{build}");

    let sources = of(&image, "WORKDIR")[0];
    let built = of(&image, "RUN")[0];
    for copied in of(&image, "COPY") {
        let words: Vec<&str> = copied.split(' ').collect();
        let [.., source, to] = words[..] else { panic!("{copied}") };
        match words.iter().find_map(|word| word.strip_prefix("--from=")) {
            // Copied from the context: the repository.
            None => assert!(workspace().join(source).exists(), "{copied}"),
            Some(stage) => {
                assert_eq!(stage, "build");
                let (profile, name) = source
                    .strip_prefix(&format!("{sources}/target/"))
                    .and_then(|rest| rest.split_once('/'))
                    .expect("a file of the target directory");
                assert!(built.contains(&format!("--profile {profile}")) && built.contains("-p lorchestra-cli"), "{built}");
                assert!(read("Cargo.toml").contains(&format!("[profile.{profile}]")), "{profile}");
                assert!(read("lorchestra-cli/Cargo.toml").contains(&format!("[[bin]]\nname = \"{name}\"")), "{name}");
                assert_eq!(of(&image, "ENTRYPOINT"), [format!("[\"{to}\"]")]);
            }
        }
    }
    assert!(read(".dockerignore").lines().any(|line| line == "**/target"), "the context would have every build");
}

#[test]
fn plugins_are_where_the_image_looks_and_nobody_but_root_can_change_them() {
    let image = instructions("xtask/dist/Dockerfile");
    let environment = of(&image, "ENV")[0];
    let directory =
        environment.split(' ').find_map(|pair| pair.strip_prefix("LORCHESTRA_PLUGIN_PATH=")).expect("the directory of plugins");
    // Before USER, so root owns it.
    let at = |keyword: &str, text: &str| image.iter().position(|(name, rest)| name == keyword && rest.contains(text));
    let created = at("RUN", &format!("mkdir -m 0755 {directory}"));
    assert!(created.is_some() && created < at("USER", ""), "{directory}");

    let derived = instructions("xtask/dist/plugins.Dockerfile");
    assert_eq!(of(&derived, "FROM"), ["lorchestra"]);
    assert_eq!(of(&derived, "COPY"), [format!("--chown=root:root --chmod=0644 plugins/*.so {directory}/")]);
    assert_eq!(of(&derived, "RUN"), [format!("lorchestra plugins check {directory}/*.so")]);
    let guide = read("docs/guides/install.md");
    for (keyword, rest) in &derived {
        assert!(guide.contains(&format!("\n{keyword} {rest}\n")), "the guide does not show: {keyword} {rest}");
    }
    for command in ["docker build -f xtask/dist/Dockerfile -t lorchestra .", "docker build -f xtask/dist/plugins.Dockerfile"] {
        assert!(guide.contains(command), "the guide does not show: {command}");
    }
}
