//! Measures how well `search` finds words of languages that are written without blanks, or with endings at the words, and how large the
//! index is: the pairs of characters of vector-projector next to tokenizers of FTS5, `trigram` and `unicode61`, with the same texts.
//!
//! Our side runs both jobs; the other side is `languages.py`. What is found does not depend on the machine.

use super::Site;
use crate::{Result, cargo, plugins};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

mod labelled;

/// Number of generated documents for each language, for the size of the index.
const DOCUMENTS: u32 = 10_000;
const TRIAL_DOCUMENTS: u32 = 100;
/// Number of words of a generated document.
const WORDS: u32 = 150;
const TOKENIZERS: [&str; 2] = ["trigram", "unicode61"];

/// A language with labelled mails, and the characters of its generated words.
struct Language {
    name: &'static str,
    /// Texts by the number of the mail.
    mails: &'static [&'static str],
    /// Words, each with the numbers of the mails that contain it as a word.
    queries: &'static [(&'static str, &'static [usize])],
    /// First character and number of characters.
    alphabet: (u32, u32),
    /// Endings of words, for languages that have them.
    endings: &'static [&'static str],
    blank: &'static str,
}

pub(super) fn run(site: &Site) -> Result<String> {
    plugins::install(&site.target.join("libvector_projector.so"), &site.sandbox.plugins())?;
    let mut found = String::from(
        "Words in a labelled set of short mails: how many of the mails with a word are found (recall), and how many others, in which \
         the characters of the word belong to different words.\n\n\
         | language | mails | words | `search`: found | wrong | trigram: found | wrong | unicode61: found | wrong |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    );
    let documents = if site.is_trial { TRIAL_DOCUMENTS } else { DOCUMENTS };
    let mut sizes = format!(
        "\n\n{documents} generated mails of {WORDS} words for each language. The index is the full-text part only: no texts, no vectors.\n\n\
         | language | text: characters | bytes | pairs of characters: bytes of index | trigram | unicode61 |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |"
    );
    for language in &labelled::LANGUAGES {
        found.push_str(&recall(site, language)?);
        sizes.push_str(&size(site, language, documents)?);
    }
    Ok(found + &sizes)
}

/// Returns the row of a language: what each way finds.
fn recall(site: &Site, language: &Language) -> Result<String> {
    let texts = language.mails.iter().map(|text| (*text).to_owned());
    let index = index(site, texts)?;
    let queries: Vec<&str> = language.queries.iter().map(|(query, _)| *query).collect();
    let mut ways = Vec::new();
    let mut ours = Vec::new();
    for query in &queries {
        let search = ["run-job", "-q", "vector-projector", "search", "--mode", "text", "--limit", "100", "--query", query];
        cargo::run(site.sandbox.lorchestra(&search).stdin(Stdio::null()))?;
        let hits = std::fs::read_to_string(index.with_file_name("search").join("last.jsonl"))?;
        let ids = hits.lines().map(|hit| Ok(serde_json::from_str::<Value>(hit)?["id"].clone())).collect::<Result<Vec<_>>>();
        ours.push(Value::from(ids?));
    }
    ways.push(Value::from(ours));
    let theirs = measure(site, &index, &queries)?;
    ways.extend(TOKENIZERS.iter().map(|tokenizer| theirs["found"][tokenizer].clone()));
    let wanted: usize = language.queries.iter().map(|(_, wanted)| wanted.len()).sum();
    let mut row = format!("\n| {} | {} | {} |", language.name, language.mails.len(), queries.len());
    for way in &ways {
        let (mut right, mut wrong) = (0, 0);
        for ((query, wanted), ids) in language.queries.iter().zip(way.as_array().into_iter().flatten()) {
            let ids = ids.as_array().ok_or_else(|| format!("no hits of {query}"))?;
            let wanted: BTreeSet<String> = wanted.iter().map(|number| format!("m{number}")).collect();
            let hits: BTreeSet<String> = ids.iter().filter_map(|id| Some(id.as_str()?.to_owned())).collect();
            right += wanted.intersection(&hits).count();
            wrong += hits.difference(&wanted).count();
        }
        row.push_str(&format!(" {:.0} % ({right} of {wanted}) | {wrong} |", right as f64 / wanted as f64 * 100.0));
    }
    Ok(row)
}

/// Returns the row of a language: bytes of the index for each document.
fn size(site: &Site, language: &Language, documents: u32) -> Result<String> {
    let mut random = 1u64;
    let texts = (0..documents).map(|_| generated(language, &mut random));
    let index = index(site, texts)?;
    let measured = measure(site, &index, &[])?;
    let each = |value: &Value| value.as_f64().map(|all| all / f64::from(documents)).ok_or("a size is missing");
    let mut row = format!("\n| {} | {:.0} | {:.0} |", language.name, each(&measured["characters"])?, each(&measured["bytes"])?);
    let ours = each(&measured["index"]["ours"])?;
    row.push_str(&format!(" {ours:.0} |"));
    for tokenizer in TOKENIZERS {
        let theirs = each(&measured["index"][tokenizer])?;
        row.push_str(&format!(" {theirs:.0} ({:.2}×) |", theirs / ours));
    }
    Ok(row)
}

/// Indexes mails with these texts from scratch. Returns the path of the index.
fn index(site: &Site, texts: impl Iterator<Item = String>) -> Result<PathBuf> {
    let data = site.sandbox.home().join(".local/share/lorchestra/data");
    let (input, index) = (data.join("canonizer"), data.join("vector-projector"));
    std::fs::create_dir_all(&input)?;
    if index.exists() {
        std::fs::remove_dir_all(&index)?;
    }
    let mut out = BufWriter::new(File::create(input.join("email.jsonl"))?);
    for (n, text) in texts.enumerate() {
        let email = json!({
            "id": format!("m{n}"), "subject": format!("{n}"), "sentAt": "2024-01-01T10:00:00Z",
            "textBody": [{"partId": "1", "type": "text/plain"}], "bodyValues": {"1": {"value": text}},
        });
        writeln!(out, "{email}")?;
    }
    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_data()?;
    cargo::run(site.sandbox.lorchestra(&["run-job", "-q", "vector-projector", "index_documents"]).stdin(Stdio::null()))?;
    Ok(index.join("index.db"))
}

/// Returns what the tokenizers of FTS5 find of the same texts, and the sizes of all indexes.
fn measure(site: &Site, index: &Path, queries: &[&str]) -> Result<Value> {
    let script = cargo::root()?.join("xtask/src/bench/languages.py");
    let mut command = site.sandbox.command(Path::new("python3"));
    let output = command.arg(script).arg(index).arg(json!(queries).to_string()).args(TOKENIZERS).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Returns a text of words of one to three characters, few of which are frequent, as in any language.
fn generated(language: &Language, random: &mut u64) -> String {
    let mut next = |below: u32| {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((*random >> 33) % u64::from(below)).unwrap_or_default()
    };
    let (first, count) = language.alphabet;
    let mut text = String::new();
    for n in 1..=WORDS {
        // The product of two uniform numbers makes few words frequent.
        let word = u64::from(next(12_000)) * u64::from(next(12_000)) / 12_000;
        // Each word has its characters, of which some are in many words.
        let mut rest = word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16;
        for _ in 0..=word % 3 {
            let (a, b) = (rest % u64::from(count), rest / u64::from(count) % u64::from(count));
            let offset = u32::try_from(a * b / u64::from(count)).unwrap_or_default();
            text.extend(char::from_u32(first + offset));
            rest /= u64::from(count);
        }
        if !language.endings.is_empty() {
            text.push_str(language.endings[next(u32::try_from(language.endings.len()).unwrap_or(1)) as usize]);
        }
        text.push_str(if n % 12 == 0 { "。" } else { language.blank });
    }
    text
}
