//! A model with a few words for tests: `car` and `automobile` have the same vector.

use lorchestra_plugin_api::serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Words and their vectors.
pub(crate) const WORDS: [(&str, [f32; 4]); 8] = [
    ("[UNK]", [9.0, 9.0, 9.0, 9.0]),
    ("car", [1.0, 0.0, 0.0, 0.0]),
    ("automobile", [1.0, 0.0, 0.0, 0.0]),
    ("flower", [0.0, 1.0, 0.0, 0.0]),
    ("rose", [0.0, 1.0, 0.1, 0.0]),
    ("invoice", [0.0, 0.0, 0.0, 1.0]),
    ("the", [0.01, 0.01, 0.01, 0.01]),
    (".", [0.01, 0.01, 0.01, 0.01]),
];

/// A tokenizer of whole words, in the format of the tokenizers library.
pub(crate) fn tokenizer() -> Value {
    let vocabulary: Value = WORDS.iter().enumerate().map(|(id, (word, _))| ((*word).to_owned(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    })
}

/// A safetensors file: length of the header, header, numbers.
pub(crate) fn tensors(header: &Value, numbers: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), numbers].concat()
}

/// The table of [`WORDS`] as four-byte numbers, with this value added to the first number of each row.
pub(crate) fn table(added: f32) -> Vec<u8> {
    let numbers: Vec<u8> =
        WORDS.iter().flat_map(|(_, [a, rest @ ..])| [a + added].into_iter().chain(*rest)).flat_map(f32::to_le_bytes).collect();
    tensors(&json!({"embeddings": {"dtype": "F32", "shape": [WORDS.len(), 4], "data_offsets": [0, numbers.len()]}}), &numbers)
}

/// Writes the model to a directory.
pub(crate) fn write(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("model.safetensors"), table(0.0)).unwrap();
    fs::write(dir.join("tokenizer.json"), tokenizer().to_string()).unwrap();
}
