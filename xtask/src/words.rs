//! `cargo xtask lint-words`: finds phrases that are hard to read, and misspelled words, in prose for people.
//!
//! Three files in `xtask/words` configure it: `phrases.txt` (phrases and their replacements), `paths.txt` (the files and directories to
//! check: Markdown as prose, Rust in its doc comments and string literals), and `allowed.txt` (exceptions). Spelling is checked in all
//! sources and documents ([`SPELLED`]), with the dictionary of the checker typos.

use crate::{Result, cargo};
use std::path::{Path, PathBuf};

/// A phrase to avoid, and its replacement.
struct Phrase {
    words: Vec<String>,
    instead: String,
}

/// A line that may contain a phrase.
struct Allowed {
    path: String,
    text: String,
    used: bool,
}

/// Where spelling is checked.
const SPELLED: [&str; 10] = [
    "README.md",
    "CHANGELOG.md",
    "docs",
    "example-plugins",
    "lorchestra-cli",
    "lorchestra-core",
    "lorchestra-plugin-api",
    "lorchestra-temporal",
    "tests",
    "xtask",
];

pub(crate) fn run() -> Result {
    let root = cargo::root()?;
    let phrases = lines(&root, "phrases.txt")?;
    let phrases: Vec<Phrase> = phrases.iter().map(|line| phrase(line)).collect::<Result<_>>()?;
    let mut allowed = lines(&root, "allowed.txt")?.iter().map(|line| allowance(line)).collect::<Result<Vec<_>>>()?;
    let mut found = 0;
    for path in files(&root, SPELLED.map(PathBuf::from).into())? {
        for (number, line) in prose(&root, &path)? {
            for (word, instead) in misspelled(&line) {
                found += 1;
                println!("{}:{number}: \"{word}\": {instead}", path.display());
            }
        }
    }
    for path in files(&root, lines(&root, "paths.txt")?.into_iter().map(PathBuf::from).collect())? {
        let name = path.display().to_string();
        for (number, line) in prose(&root, &path)? {
            for phrase in phrases.iter().filter(|phrase| has(&line, &phrase.words)) {
                if let Some(rule) = allowed.iter_mut().find(|rule| rule.path == name && line.contains(&rule.text)) {
                    rule.used = true;
                    continue;
                }
                found += 1;
                println!("{name}:{number}: \"{}\": {}", phrase.words.join(" "), phrase.instead);
            }
        }
    }
    for rule in allowed.iter().filter(|rule| !rule.used) {
        found += 1;
        println!("xtask/words/allowed.txt: {}: {}: no such line has a phrase: remove it", rule.path, rule.text);
    }
    if found == 0 { Ok(()) } else { Err(format!("{found} phrases to replace (xtask/words)").into()) }
}

/// Returns the lines of a list, without comments.
fn lines(root: &Path, file: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join("xtask/words").join(file)).map_err(|e| format!("xtask/words/{file}: {e}"))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect())
}

/// Parses `PHRASE => INSTEAD`.
fn phrase(line: &str) -> Result<Phrase> {
    let (words, instead) = line.split_once("=>").ok_or_else(|| format!("phrases.txt: {line}: write PHRASE => INSTEAD"))?;
    Ok(Phrase { words: words.split_whitespace().map(str::to_lowercase).collect(), instead: instead.trim().to_owned() })
}

/// Parses `PATH: TEXT OF THE LINE`.
fn allowance(line: &str) -> Result<Allowed> {
    let (path, text) = line.split_once(": ").ok_or_else(|| format!("allowed.txt: {line}: write PATH: PART OF THE LINE"))?;
    Ok(Allowed { path: path.to_owned(), text: text.to_owned(), used: false })
}

/// Returns the numbered prose lines of a file.
fn prose(root: &Path, path: &Path) -> Result<Vec<(usize, String)>> {
    let text = std::fs::read_to_string(root.join(path)).map_err(|e| format!("{}: {e}", path.display()))?;
    let rust = path.extension().is_some_and(|extension| extension == "rs");
    // Literals of tests are not for people, and some are misspelled on purpose.
    let is_test = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
    let counts = |line: &str| !is_test || line.starts_with("//");
    Ok(if rust { rust_prose(&text).into_iter().filter(|(_, line)| counts(line)).collect() } else { markdown_prose(&text) })
}

/// Returns the misspelled words of a line, and their corrections. Words with a digit, an underscore or an inner capital are names.
fn misspelled(line: &str) -> impl Iterator<Item = (&str, String)> {
    let words = line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '\'');
    let plain = |word: &&str| word.len() > 3 && word.chars().skip(1).all(|c| c.is_ascii_lowercase());
    words.filter(plain).filter_map(|word| {
        let corrections = typos_dict::WORD.find(&unicase::UniCase::new(word))?;
        Some((word, corrections.join(", ")))
    })
}

/// Returns the Markdown and Rust files among these paths and below them, without build output.
fn files(root: &Path, mut open: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        let full = root.join(&path);
        if path.ends_with("target") {
            continue;
        }
        if full.is_dir() {
            for entry in std::fs::read_dir(&full)? {
                open.push(path.join(entry?.file_name()));
            }
        } else if !full.exists() {
            return Err(format!("xtask/words/paths.txt: {} does not exist", path.display()).into());
        } else if path.extension().is_some_and(|extension| extension == "md" || extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a line contains these words in a row, ignoring case.
fn has(line: &str, words: &[String]) -> bool {
    let lower = line.to_lowercase();
    let all: Vec<&str> =
        lower.split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '-' || c == '_')).filter(|w| !w.is_empty()).collect();
    all.windows(words.len()).any(|window| window.iter().zip(words).all(|(a, b)| a == b))
}

/// Returns the lines outside code blocks, without `code`.
fn markdown_prose(text: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut prose = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if !fence && !fenced && !line.starts_with("    ") {
            // Every second piece between backquotes is code.
            prose.push((index + 1, line.split('`').step_by(2).collect::<Vec<_>>().join(" ` ")));
        }
    }
    prose
}

/// Returns doc comments and string literals, up to the tests.
fn rust_prose(text: &str) -> Vec<(usize, String)> {
    let mut prose = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("#[cfg(test)]") {
            break;
        }
        if trimmed.starts_with("///") || trimmed.starts_with("//!") {
            prose.push((index + 1, trimmed.split('`').step_by(2).collect::<Vec<_>>().join(" ` ")));
        } else if !trimmed.starts_with("//") {
            let literals = trimmed.split('"').skip(1).step_by(2).collect::<Vec<_>>().join(" ; ");
            prose.push((index + 1, literals));
        }
    }
    prose
}

#[cfg(test)]
mod tests {
    use super::{has, markdown_prose, misspelled, phrase, rust_prose};

    fn found(line: &str, what: &str) -> bool {
        has(line, &phrase(&format!("{what} => x")).unwrap().words)
    }

    #[test]
    fn a_misspelled_word_is_found_and_a_name_is_not() {
        let found: Vec<_> = misspelled("Teh adress is recieved by `recieve_all`, wiht Recieved").map(|(word, _)| word).collect();
        assert_eq!(found, ["adress", "recieved", "wiht", "Recieved"]);
    }

    #[test]
    fn a_phrase_is_whole_words_in_a_row() {
        assert!(found("It is Told, so often.", "told") && found("It is Told, so often.", "so often"));
        assert!(!found("untold", "told") && !found("so very often", "so often"));
    }

    #[test]
    fn code_is_not_checked() {
        let lines = markdown_prose("say `told` here\n```\ntold\n```\n");
        assert!(lines.iter().all(|(_, line)| !found(line, "told")) && lines.len() == 1);
        let lines = rust_prose("let told = \"left\"; // told\n/// hint\n#[cfg(test)]\n/// told\n");
        assert!(lines.iter().all(|(_, line)| !found(line, "told")));
        assert!(found(&lines[0].1, "left") && found(&lines[1].1, "hint"));
    }
}
