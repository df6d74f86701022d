//! A static embedding model: a table with a vector for each token, and a tokenizer. The vector of a text is the mean of its
//! tokens' vectors, so the meaning of a word does not depend on its context, and neither a network nor a GPU is needed. The
//! model is loaded once.
//!
//! Supports the usual layouts: `model.safetensors` and `tokenizer.json` in one directory (model2vec, sentence-transformers),
//! or one file of each kind in it or in its subdirectories (wordllama's wheel).

use super::Vector;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use lorchestra_plugin_api::serde_json;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// Measured with wordllama's 256 dimensions on 33 queries for one of 21 mails each, nearly all without a common word: 29 of
/// the 33 right pairs exceed it, and 23 of the 660 other pairs, whose cosine is 0.00 ± 0.07.
pub(super) const MIN_SIMILARITY: f64 = 0.15;
/// Prefix of the name; changes when the same text gets another vector with the same model.
const METHOD: &str = "static/1";
/// Names of the table in common libraries.
const TABLES: [&str; 2] = ["embeddings", "embedding.weight"];
/// Maximum number of dimensions. No embedding has more.
const MAX_DIMENSIONS: usize = 8192;
/// Maximum size of a file in bytes, because it is read into memory.
const MAX_BYTES: u64 = 2 << 30;

const WHAT: &str = "set --model to a directory with model.safetensors and tokenizer.json of a static embedding model";

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    #[error("{}: no such directory; {WHAT}", .0.display())]
    Missing(PathBuf),
    #[error("{}: is not a directory; {WHAT}", .0.display())]
    NotADirectory(PathBuf),
    #[error("{}: reading failed; check that the user running the job may read it", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: has no {kind}; {WHAT}", .dir.display())]
    NoFile { dir: PathBuf, kind: &'static str },
    #[error("{}: several files could be its {wanted}: {}; {WHAT}", .dir.display(), .among.join(" or "))]
    ManyFiles { dir: PathBuf, wanted: &'static str, among: Vec<String> },
    #[error("{}: is larger than {} GiB, too large for a static embedding model; {WHAT}", .0.display(), MAX_BYTES >> 30)]
    Large(PathBuf),
    #[error("{}: is not a complete safetensors file ({reason}); copy it again", .path.display())]
    NotSafetensors { path: PathBuf, reason: String },
    #[error("{}: has no tensor `embeddings` or `embedding.weight`, but {tensors}; {WHAT}", .path.display())]
    NoTable { path: PathBuf, tensors: String },
    #[error("{}: has a tensor `{tensor}` for vocabulary quantization, which is not supported; save the model without it", .path.display())]
    Quantised { path: PathBuf, tensor: &'static str },
    #[error("{}: its embedding table has the shape {shape:?}, expected tokens × 1 to {MAX_DIMENSIONS}; {WHAT}", .path.display())]
    Shape { path: PathBuf, shape: Vec<usize> },
    #[error("{}: its embedding table has the type {dtype:?}, expected F32, F16, BF16 or I8; save the model with one of these", .path.display())]
    Number { path: PathBuf, dtype: Dtype },
    #[error("{}: is not a tokenizer file of the tokenizers library ({reason}); use the model's own tokenizer.json", .path.display())]
    NotATokenizer { path: PathBuf, reason: String },
    #[error(
        "{}: has a token {id}, but the table of {} has {rows} rows; use two files of the same model", .path.display(), .table.display()
    )]
    OtherVocabulary { path: PathBuf, table: PathBuf, id: u32, rows: usize },
    #[error("{}: its tokenizer failed ({reason}); use the model's own tokenizer.json", .dir.display())]
    Tokenize { dir: PathBuf, reason: String },
}

impl ModelError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        !matches!(self, Self::Read { source, .. } if source.kind() != io::ErrorKind::PermissionDenied)
    }
}

/// A model in memory.
pub(crate) struct Model {
    /// The real path of its directory.
    pub(super) dir: PathBuf,
    /// Hash of both files.
    pub(super) name: String,
    tokenizer: Tokenizer,
    /// The token for unknown words, which has no meaning.
    unknown: Option<u32>,
    table: Table,
}

impl Model {
    /// Loads the model of a directory.
    pub(super) fn load(dir: &Path) -> Result<Self, ModelError> {
        let dir = real(dir)?;
        let table_file = file(&dir, "model.safetensors", "model.safetensors, and no other *.safetensors", |name| {
            name.ends_with(".safetensors")
        })?;
        let tokenizer_file = file(&dir, "tokenizer.json", "tokenizer.json, and no other *tokenizer*.json", |name| {
            name.contains("tokenizer") && name.ends_with(".json")
        })?;
        let bytes = read(&table_file)?;
        let json = read(&tokenizer_file)?;
        let mut digest = Sha256::new();
        // Include the lengths, so that the boundary between the files matters.
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(&bytes);
        digest.update(&json);
        let table = Table::of(bytes, &table_file)?;
        let (tokenizer, unknown) = tokenizer(&json, &tokenizer_file)?;
        if let Some(id) = tokenizer.get_vocab(true).into_values().max().filter(|&id| id as usize >= table.rows) {
            return Err(ModelError::OtherVocabulary { path: tokenizer_file, table: table_file, id, rows: table.rows });
        }
        let mut name = format!("{METHOD}/{}/", table.dimension);
        // Half of the hash is enough to distinguish models.
        for byte in &digest.finalize()[..16] {
            let _ = write!(name, "{byte:02x}");
        }
        Ok(Self { dir, name, tokenizer, unknown, table })
    }

    /// Returns the vector of weighted texts: the mean of their tokens' vectors.
    pub(super) fn vector(&self, texts: &[(&str, f32)]) -> Result<Vector, ModelError> {
        let mut sums = vec![0f32; self.table.dimension];
        let mut row = Row::default();
        for (text, weight) in texts {
            let pieces = self.tokenizer.encode_fast(*text, false);
            let pieces =
                pieces.map_err(|error| ModelError::Tokenize { dir: self.dir.clone(), reason: short(&error.to_string()) })?;
            for &piece in pieces.get_ids().iter().filter(|piece| Some(**piece) != self.unknown) {
                for (sum, number) in sums.iter_mut().zip(self.table.row(piece, &mut row)) {
                    *sum += weight * number;
                }
            }
        }
        // The mean has the same direction as the sum.
        Ok(Vector::normalized(&sums))
    }
}

/// The vectors of all tokens, as in the file.
struct Table {
    bytes: Vec<u8>,
    /// The position of the numbers in the file.
    place: Range<usize>,
    dtype: Dtype,
    rows: usize,
    dimension: usize,
}

/// Buffer for a row.
#[derive(Default)]
struct Row {
    f16: Vec<f16>,
    bf16: Vec<bf16>,
    numbers: Vec<f32>,
}

impl Table {
    fn of(bytes: Vec<u8>, path: &Path) -> Result<Self, ModelError> {
        let path = || path.to_owned();
        let broken =
            |error: safetensors::SafeTensorError| ModelError::NotSafetensors { path: path(), reason: short(&error.to_string()) };
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let Some(table) = TABLES.iter().find_map(|name| metadata.info(name)) else {
            let mut names = metadata.offset_keys();
            let tensors = match names.len() {
                0 => "nothing".to_owned(),
                count => format!(
                    "`{}`{}",
                    short(&names.swap_remove(0)),
                    if count > 1 { format!(" and {} more", count - 1) } else { String::new() }
                ),
            };
            return Err(ModelError::NoTable { path: path(), tensors });
        };
        if let Some(tensor) = ["mapping", "weights"].into_iter().find(|name| metadata.info(name).is_some()) {
            return Err(ModelError::Quantised { path: path(), tensor });
        }
        let &[rows, dimension @ 1..=MAX_DIMENSIONS] = &table.shape[..] else {
            return Err(ModelError::Shape { path: path(), shape: table.shape.clone() });
        };
        if !matches!(table.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::I8) {
            return Err(ModelError::Number { path: path(), dtype: table.dtype });
        }
        // Offsets count from the end of the header, which follows its own length.
        let begin = size_of::<u64>() + header;
        let place = begin + table.data_offsets.0..begin + table.data_offsets.1;
        let dtype = table.dtype;
        Ok(Self { bytes, place, dtype, rows, dimension })
    }

    /// Returns the vector of a token; empty if it has none.
    fn row<'a>(&self, piece: u32, row: &'a mut Row) -> &'a [f32] {
        let length = self.dimension * self.dtype.bitsize() / 8;
        let at = self.place.start + piece as usize * length;
        row.numbers.clear();
        // The numbers in a file may be unaligned.
        let Some(bytes) = self.bytes[..self.place.end].get(at..at + length) else { return &[] };
        let pairs = || bytes.as_chunks::<2>().0.iter();
        match self.dtype {
            Dtype::F16 => {
                row.f16.clear();
                row.f16.extend(pairs().map(|&pair| f16::from_le_bytes(pair)));
                row.numbers.resize(self.dimension, 0.0);
                row.f16.convert_to_f32_slice(&mut row.numbers);
            }
            Dtype::BF16 => {
                row.bf16.clear();
                row.bf16.extend(pairs().map(|&pair| bf16::from_le_bytes(pair)));
                row.numbers.resize(self.dimension, 0.0);
                row.bf16.convert_to_f32_slice(&mut row.numbers);
            }
            Dtype::I8 => row.numbers.extend(bytes.iter().map(|&byte| f32::from(byte.cast_signed()))),
            _ => row.numbers.extend(bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four))),
        }
        &row.numbers
    }
}

/// Settings that `Tokenizer`'s interface does not provide for every kind of model.
#[derive(Deserialize)]
struct TokenizerFile {
    model: TokenizerModel,
}

#[derive(Deserialize)]
struct TokenizerModel {
    unk_token: Option<String>,
    unk_id: Option<u32>,
}

fn tokenizer(json: &[u8], path: &Path) -> Result<(Tokenizer, Option<u32>), ModelError> {
    let broken = |reason: String| ModelError::NotATokenizer { path: path.to_owned(), reason: short(&reason) };
    let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| broken(error.to_string()))?;
    // Padding and truncation are for batches; here each text is processed alone and completely.
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| broken(error.to_string()))?;
    let file: TokenizerFile = serde_json::from_slice(json).map_err(|error| broken(error.to_string()))?;
    let unknown = file.model.unk_id.or_else(|| tokenizer.token_to_id(file.model.unk_token.as_deref()?));
    Ok((tokenizer, unknown))
}

fn real(dir: &Path) -> Result<PathBuf, ModelError> {
    let real = fs::canonicalize(dir).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ModelError::Missing(dir.to_owned()),
        io::ErrorKind::NotADirectory => ModelError::NotADirectory(dir.to_owned()),
        _ => ModelError::Read { path: dir.to_owned(), source },
    })?;
    if real.is_dir() { Ok(real) } else { Err(ModelError::NotADirectory(dir.to_owned())) }
}

/// Returns the file with this name, or the only file of its kind: in the directory, or otherwise in its subdirectories.
fn file(dir: &Path, exact: &'static str, kind: &'static str, fits: impl Fn(&str) -> bool) -> Result<PathBuf, ModelError> {
    let (own, below) = entries(dir)?;
    let mut lower = Vec::new();
    for dir in &below {
        // An unreadable subdirectory may be unrelated to the model.
        lower.extend(entries(dir).map(|(files, _)| files).unwrap_or_default());
    }
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for files in [own, lower] {
        for is_it in [&(|name: &str| name == exact) as &dyn Fn(&str) -> bool, &fits] {
            let mut found: Vec<PathBuf> = files.iter().filter(|path| is_it(&name(path))).cloned().collect();
            if found.len() > 1 {
                let among =
                    found.iter().take(2).map(|path| path.strip_prefix(dir).unwrap_or(path).display().to_string()).collect();
                return Err(ModelError::ManyFiles { dir: dir.to_owned(), wanted: exact, among });
            }
            if let Some(found) = found.pop() {
                return Ok(found);
            }
        }
    }
    Err(ModelError::NoFile { dir: dir.to_owned(), kind })
}

/// Lists files and directories by name, without hidden ones.
fn entries(dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ModelError> {
    let failed = |source| ModelError::Read { path: dir.to_owned(), source };
    let mut files = Vec::new();
    let mut directories = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // Caches use symbolic links. Other types are not opened, because a pipe would block.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => files.push(path),
            Ok(metadata) if metadata.is_dir() => directories.push(path),
            _ => {}
        }
    }
    files.sort();
    directories.sort();
    Ok((files, directories))
}

fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    let failed = |source| ModelError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(ModelError::Large(path.to_owned()));
    }
    fs::read(path).map_err(failed)
}

/// Returns the start of an untrusted text, on one line.
fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(120).collect()
}

#[cfg(test)]
mod tests;
