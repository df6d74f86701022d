//! The result of a search: merging the two rankings, displaying hits, and the file of the last search. Uses
//! [`index`](crate::index).

use crate::embedding::Vector;
use crate::index::{Index, IndexError, Match};
use crate::query::Query;
use lorchestra_plugin_api::serde_json;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Minimum number of hits read from each ranking.
const LOOKED_AT: usize = 100;
/// Constant of reciprocal rank fusion: scores are sums of 1 / (60 + rank).
const DAMPED: f64 = 60.0;
/// Maximum length of a snippet in characters.
const SNIPPET: usize = 160;

/// Maximum number of characters of a snippet before the first word that was searched.
const BEFORE: usize = 40;

/// A hit. The order of the fields is their order in the line.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Hit {
    /// Rank, from 1.
    pub(crate) rank: usize,
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) date: Option<String>,
    pub(crate) from: String,
    pub(crate) title: String,
    pub(crate) snippet: String,
    /// Higher is better. Comparable only within one search.
    pub(crate) score: f64,
    /// Rank by words.
    pub(crate) text_rank: Option<usize>,
    /// Rank by vectors.
    pub(crate) vector_rank: Option<usize>,
}

/// Returns at most `limit` hits, best first: by words if requested, and by similarity if there is a query vector with a
/// minimum similarity.
pub(crate) fn find(
    index: &Index,
    query: &Query,
    is_by_words: bool,
    vector: Option<(&Vector, f64)>,
    limit: usize,
) -> Result<Vec<Hit>, IndexError> {
    let looked_at = limit.max(LOOKED_AT);
    let mut by_words = Vec::new();
    if is_by_words {
        by_words = index.by_words(&query.all(), looked_at)?;
        if by_words.len() < limit && query.len() > 1 {
            // Documents with some of the words come after those with all of them.
            let known: HashSet<i64> = by_words.iter().map(|found| found.document).collect();
            let some = index.by_words(&query.any(), looked_at)?;
            by_words.extend(some.into_iter().filter(|found| !known.contains(&found.document)));
        }
    }
    let by_vector = vector.map(|(vector, near)| index.by_vector(vector, looked_at, near)).transpose()?.unwrap_or_default();
    let best = match (is_by_words, vector) {
        (true, None) => by_words.clone(),
        (false, _) => by_vector.clone(),
        _ => both(&by_words, &by_vector),
    };
    let place = |ranking: &[Match], document: i64| Some(ranking.iter().position(|found| found.document == document)? + 1);
    let mut hits = Vec::new();
    for (at, found) in best.into_iter().take(limit).enumerate() {
        let shown = index.shown(found.document)?;
        let text_rank = place(&by_words, found.document);
        let snippet = match text_rank {
            Some(_) => snippet(query, &index.body(found.document)?),
            None => None,
        };
        hits.push(Hit {
            rank: at + 1,
            id: shown.id,
            kind: shown.kind,
            date: shown.date,
            from: one_line(&shown.sender),
            title: one_line(&shown.title),
            snippet: one_line(&snippet.filter(|snippet| !snippet.is_empty()).unwrap_or(shown.beginning)),
            score: found.score,
            text_rank,
            vector_rank: place(&by_vector, found.document),
        });
    }
    Ok(hits)
}

/// Returns the text from a few words before the first one that was searched; `None` if there is none.
fn snippet(query: &Query, body: &str) -> Option<String> {
    let at = query.position(body)?;
    let before = body[..at].char_indices().rev().take(BEFORE).last().map_or(at, |(start, _)| start);
    // From the start of a word on.
    let start = if before == 0 { 0 } else { body[before..at].find(char::is_whitespace).map_or(at, |blank| before + blank) };
    let end = body.floor_char_boundary(body.len().min(start + 4 * SNIPPET));
    let dots = if start == 0 { "" } else { "…" };
    Some(format!("{dots}{}", body[start..end].trim_start()))
}

/// Merges two rankings by rank. Of equal hits, those by words come first: the best hit by vectors may be similar only by chance.
fn both(by_words: &[Match], by_vector: &[Match]) -> Vec<Match> {
    let mut both: Vec<Match> = Vec::with_capacity(by_words.len() + by_vector.len());
    let mut places: HashMap<i64, usize> = HashMap::new();
    for ranking in [by_words, by_vector] {
        for (at, found) in ranking.iter().enumerate() {
            let place = *places.entry(found.document).or_insert_with(|| {
                both.push(Match { document: found.document, score: 0.0 });
                both.len() - 1
            });
            both[place].score += 1.0 / (DAMPED + at as f64 + 1.0);
        }
    }
    // The sort is stable.
    both.sort_by(|a, b| b.score.total_cmp(&a.score));
    both
}

/// Returns a text on one line, without control characters.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > SNIPPET * 4 {
            break;
        }
    }
    line.chars().take(SNIPPET).collect()
}

/// Prints hits for people.
pub(crate) fn print(hits: &[Hit], out: &mut impl Write) -> io::Result<()> {
    if hits.is_empty() {
        out.write_all(b"Nothing was found.\n")?;
    }
    for Hit { rank, id, date, from, title, snippet, score, .. } in hits {
        let day = date.as_deref().and_then(|date| date.get(..10)).unwrap_or("no date   ");
        writeln!(out, "{rank:>3}. {day}  {from}  {title}\n     {snippet}\n     score {score:.4}  {id}")?;
    }
    out.flush()
}

/// Returns the path of the last search's file.
pub(crate) fn last(data_dir: &Path) -> PathBuf {
    data_dir.join("search/last.jsonl")
}

/// Writes hits to a file (mode 0600) and creates its directory. The file is replaced atomically.
pub(crate) fn write(hits: &[Hit], path: &Path) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file = BufWriter::new(tempfile::Builder::new().prefix(".last.").tempfile_in(dir)?);
    for hit in hits {
        serde_json::to_writer(&mut file, hit)?;
        file.write_all(b"\n")?;
    }
    let file = file.into_inner().map_err(|e| e.into_error())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod labelled;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_hits_those_by_words_come_first() {
        let ranking = |documents: &[i64]| -> Vec<Match> {
            documents.iter().map(|document| Match { document: *document, score: 1.0 }).collect()
        };
        let order: Vec<i64> = both(&ranking(&[7, 9]), &ranking(&[3, 9, 1])).into_iter().map(|found| found.document).collect();
        assert_eq!(order, [9, 7, 3, 1]);
    }
}
