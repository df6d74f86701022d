//! Valid models in the usual layouts, and invalid ones.

use super::*;
use crate::embedding::small_model::{self, WORDS, table, tensors, tokenizer};
use lorchestra_plugin_api::serde_json::{Value, json};
use std::os::unix::fs::symlink;
use tempfile::TempDir;

fn written() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    small_model::write(dir.path());
    dir
}

fn near(model: &Model, a: &str, b: &str) -> f32 {
    let vector = |text| model.vector(&[(text, 1.0)]).unwrap();
    vector(a).nearness(&vector(b).bytes()).unwrap()
}

#[track_caller]
fn refused(dir: &Path, says: &[&str]) {
    let Err(error) = Model::load(dir) else { panic!("{} was taken", dir.display()) };
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 600, "{text}");
    for says in says {
        assert!(text.contains(says), "{text}");
    }
    assert!(error.is_permanent(), "{text}");
}

#[test]
fn a_text_is_the_mean_of_its_words() {
    let dir = written();
    let model = Model::load(dir.path()).unwrap();
    assert!(near(&model, "car", "The AUTOMOBILE.") > 0.99);
    assert!(near(&model, "car", "rose flower").abs() < 0.01);
    let half = near(&model, "car invoice", "car");
    assert!((half - 0.5f32.sqrt()).abs() < 0.01, "{half}");
    let mostly = model.vector(&[("car", 3.0), ("invoice", 1.0)]).unwrap();
    assert_eq!(mostly.bytes(), [127, 0, 0, 42]);
    for nothing in ["", "  ", "unheard of"] {
        assert_eq!(model.vector(&[(nothing, 1.0)]).unwrap().bytes(), [0; 4], "unknown words have a zero vector: {nothing:?}");
    }
}

#[test]
fn every_type_of_number_gives_the_same_direction() {
    let dir = written();
    let numbers = || WORDS.iter().flat_map(|(_, numbers)| *numbers);
    let types: [(&str, Vec<u8>); 4] = [
        ("F32", numbers().flat_map(f32::to_le_bytes).collect()),
        ("F16", numbers().flat_map(|n| f16::from_f32(n).to_le_bytes()).collect()),
        ("BF16", numbers().flat_map(|n| bf16::from_f32(n).to_le_bytes()).collect()),
        ("I8", numbers().map(|n| ((n * 10.0).round() as i8).cast_unsigned()).collect()),
    ];
    let mut names = Vec::new();
    for (dtype, bytes) in types {
        for name in TABLES {
            // Another tensor before the table, so that its offset is not zero.
            let header = json!({
                "a": {"dtype": "I8", "shape": [3], "data_offsets": [0, 3]},
                name: {"dtype": dtype, "shape": [WORDS.len(), 4], "data_offsets": [3, 3 + bytes.len()]},
            });
            fs::write(dir.path().join("model.safetensors"), tensors(&header, &[&[1, 2, 3], &bytes[..]].concat())).unwrap();
            let model = Model::load(dir.path()).unwrap();
            assert_eq!(model.vector(&[("car invoice invoice", 1.0)]).unwrap().bytes(), [64, 0, 0, 127], "{dtype} {name}");
            names.push(model.name);
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 8, "each has its own name: {names:?}");
}

#[test]
fn a_name_depends_on_the_contents_of_the_files_and_not_on_their_path() {
    let (one, two) = (written(), written());
    let name = |dir: &TempDir| Model::load(dir.path()).unwrap().name;
    assert_eq!(name(&one), name(&two));
    assert!(name(&one).starts_with("static/1/4/"), "{}", name(&one));
    fs::write(two.path().join("model.safetensors"), table(0.5)).unwrap();
    assert_ne!(name(&one), name(&two));
    small_model::write(two.path());
    fs::write(two.path().join("tokenizer.json"), tokenizer().to_string() + "\n").unwrap();
    assert_ne!(name(&one), name(&two));
}

#[test]
fn the_files_are_found_where_libraries_put_them() {
    for (weights, pieces) in [
        ("model.safetensors", "tokenizer.json"),
        ("words_256.safetensors", "words_tokenizer_config.json"),
        ("0_StaticEmbedding/model.safetensors", "0_StaticEmbedding/tokenizer.json"),
        ("weights/words_256.safetensors", "tokenizers/words_tokenizer.json"),
    ] {
        let (from, dir) = (written(), tempfile::tempdir().unwrap());
        for (from, to) in [(from.path().join("model.safetensors"), weights), (from.path().join("tokenizer.json"), pieces)] {
            let to = dir.path().join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::rename(from, to).unwrap();
        }
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        fs::write(dir.path().join(".hidden.safetensors"), "").unwrap();
        Model::load(dir.path()).unwrap_or_else(|error| panic!("{weights}: {error}"));
    }
    // The standard name takes precedence.
    let dir = written();
    fs::write(dir.path().join("tokenizer_config.json"), "{}").unwrap();
    fs::write(dir.path().join("other.safetensors"), "").unwrap();
    Model::load(dir.path()).unwrap();
    // Caches use symbolic links.
    let links = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "tokenizer.json"] {
        symlink(dir.path().join(name), links.path().join(name)).unwrap();
    }
    Model::load(links.path()).unwrap();
}

#[test]
fn an_invalid_model_directory_is_an_error() {
    let dir = written();
    let hint = "set --model to a directory with model.safetensors and tokenizer.json";
    refused(&dir.path().join("no"), &["no: no such directory", hint]);
    refused(&dir.path().join("tokenizer.json"), &["tokenizer.json: is not a directory", hint]);
    refused(&dir.path().join("tokenizer.json/x"), &["x: is not a directory", hint]);
    let empty = tempfile::tempdir().unwrap();
    refused(empty.path(), &["has no model.safetensors, and no other *.safetensors", hint]);
    fs::write(empty.path().join("a.safetensors"), table(0.0)).unwrap();
    refused(empty.path(), &["has no tokenizer.json", hint]);
    fs::write(empty.path().join("b.safetensors"), table(0.0)).unwrap();
    refused(empty.path(), &["several files could be its model.safetensors: a.safetensors or b.safetensors;", hint]);
    let large = written();
    fs::File::options().write(true).open(large.path().join("model.safetensors")).unwrap().set_len(MAX_BYTES + 1).unwrap();
    refused(large.path(), &["model.safetensors: is larger than 2 GiB", hint]);
}

#[test]
fn an_invalid_table_is_an_error() {
    let dir = written();
    let whole = table(0.0);
    let cut: Vec<Vec<u8>> = [0, 4, 8, 60, whole.len() - 1].iter().map(|&at| whole[..at].to_vec()).collect();
    let not = [b"<!DOCTYPE html>".repeat(10), [&whole[..], b"x"].concat(), vec![0; 100], u64::MAX.to_le_bytes().repeat(9)];
    for bytes in cut.iter().chain(&not) {
        fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        refused(dir.path(), &["model.safetensors: is not a complete safetensors file (", "copy it again"]);
    }
    let one = |name: &str, dtype: &str, shape: Value, bytes: usize| {
        tensors(&json!({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, bytes]}}), &vec![0; bytes])
    };
    let layer = |n: u32| (format!("layer.{n}"), json!({"dtype": "I8", "shape": [1], "data_offsets": [n, n + 1]}));
    let beside = |name: &str| {
        let table = json!({"dtype": "I8", "shape": [8, 1], "data_offsets": [0, 8]});
        tensors(&json!({"embeddings": table, name: {"dtype": "I8", "shape": [8], "data_offsets": [8, 16]}}), &[0; 16])
    };
    for (bytes, says) in [
        (tensors(&json!({}), &[]), "has no tensor `embeddings` or `embedding.weight`, but nothing; set --model"),
        (tensors(&(0..3).map(layer).collect(), &[0; 3]), "but `layer.0` and 2 more; set --model"),
        (one("embeddings", "F32", json!([32]), 128), "its embedding table has the shape [32], expected tokens × 1 to 8192"),
        (one("embeddings", "F32", json!([8, 2, 2]), 128), "its embedding table has the shape [8, 2, 2]"),
        (one("embeddings", "I8", json!([8, 0]), 0), "its embedding table has the shape [8, 0]"),
        (one("embeddings", "I8", json!([1, 8193]), 8193), "its embedding table has the shape [1, 8193]"),
        (
            one("embeddings", "F64", json!([8, 2]), 128),
            "has the type F64, expected F32, F16, BF16 or I8; save the model with one",
        ),
        (beside("mapping"), "has a tensor `mapping` for vocabulary quantization, which is not supported; save the model without"),
        (beside("weights"), "has a tensor `weights` for vocabulary quantization"),
    ] {
        fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        refused(dir.path(), &["model.safetensors: ", says]);
    }
}

#[test]
fn an_invalid_or_foreign_tokenizer_is_an_error() {
    let dir = written();
    let path = dir.path().join("tokenizer.json");
    let without = |key: &str| {
        let mut tokenizer = tokenizer();
        tokenizer.as_object_mut().unwrap().remove(key);
        tokenizer.to_string()
    };
    for text in [
        "",
        "no json\n\u{1b}[31m",
        "{}",
        "{\"model_max_length\": 512}",
        "\u{0}",
        &without("model"),
        &tokenizer().to_string()[..200],
    ] {
        fs::write(&path, text).unwrap();
        refused(
            dir.path(),
            &["tokenizer.json: is not a tokenizer file of the tokenizers library (", "use the model's own tokenizer.json"],
        );
    }
    let mut larger = tokenizer();
    larger["model"]["vocab"]["one more"] = json!(WORDS.len());
    fs::write(&path, larger.to_string()).unwrap();
    refused(
        dir.path(),
        &["tokenizer.json: has a token 8, but the table of", "model.safetensors has 8 rows; use two files of the same model"],
    );

    // Without a token for unknown words, it fails on the first unknown word.
    let mut without = tokenizer();
    without["model"]["unk_token"] = json!("?");
    fs::write(&path, without.to_string()).unwrap();
    let model = Model::load(dir.path()).unwrap();
    let error = model.vector(&[("zebra", 1.0)]).unwrap_err().to_string();
    assert!(error.contains("its tokenizer failed ("), "{error}");
}
