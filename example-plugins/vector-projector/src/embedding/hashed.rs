//! Vectors without a model: each [folded](crate::fold) word of a text, and each sequence of three characters in a word, is hashed to one
//! dimension.
//!
//! **Lexical, not semantic**: texts that share words, parts of words or misspelled words are similar; "car" and "automobile"
//! are not. This needs no network and no state between documents, and gives the same result on every machine.

use super::Vector;
use crate::fold::fold;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Number of dimensions.
const DIMENSION: usize = 512;
/// Changes when the same text gets another vector.
pub(super) const NAME: &str = "hashed-words-and-trigrams/2/512";
/// Three times the similarity that unrelated texts have by chance.
pub(super) const MIN_SIMILARITY: f64 = 0.15;
/// Maximum number of characters of a word that are used.
const WORD: usize = 40;

/// Returns the vector of weighted texts; all zeros if there are no words.
pub(super) fn vector(texts: &[(&str, f32)]) -> Vector {
    let mut features: HashMap<u64, f32, BuildHasherDefault<AsItIs>> = HashMap::default();
    let mut word: Vec<char> = Vec::with_capacity(WORD + 2);
    for (text, weight) in texts {
        // Pairs of characters are the words of Chinese, Japanese and Korean.
        let text = fold(text);
        for piece in text.split(|c: char| !c.is_alphanumeric()).filter(|piece| !piece.is_empty()) {
            word.clear();
            // The start and the end of a word count as characters.
            word.push('^');
            word.extend(piece.chars().take(WORD));
            word.push('$');
            // Short words occur in every text of a language.
            let weight = if word.len() <= 5 { weight * 0.3 } else { *weight };
            *features.entry(hash(&word)).or_default() += weight;
            let count = (word.len() - 2) as f32;
            for three in word.windows(3) {
                *features.entry(hash(three)).or_default() += 1.5 * weight / count.sqrt();
            }
        }
    }
    let mut sums = [0f32; DIMENSION];
    for (feature, weight) in features {
        // A word that occurs a hundred times means little more than one that occurs ten times.
        let value = weight.ln_1p();
        let place = usize::try_from(feature % DIMENSION as u64).unwrap_or(0);
        // With random signs, colliding hashes cancel out instead of adding up.
        sums[place] += if feature >> 63 == 0 { value } else { -value };
    }
    Vector::normalized(&sums)
}

/// FNV-1a with mixing: stable across versions, unlike the standard library's hash.
fn hash(characters: &[char]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &character in characters {
        hash = (hash ^ u64::from(u32::from(character))).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

/// The keys are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(text: &str) -> Vector {
        super::vector(&[(text, 1.0)])
    }

    #[test]
    fn shared_words_parts_and_misspellings_are_similar_and_synonyms_are_not() {
        let invoice = vector("Invoice for the kitchen renovation, payable until March");
        let near = |text: &str| invoice.nearness(&vector(text).bytes()).unwrap();
        assert!(near("kitchen invoice") > 0.3, "{}", near("kitchen invoice"));
        assert!(near("KITCHEN INVOICE") == near("kitchen invoice"));
        assert!(near("invioce kitchn") > 0.2, "{}", near("invioce kitchn"));
        assert!(near("holiday photographs") < 0.1, "{}", near("holiday photographs"));
        assert!(near("bill") < 0.1, "not semantic: {}", near("bill"));
    }

    #[test]
    fn vectors_never_change_between_versions() {
        let bytes = vector("Straße 12").bytes();
        let first: Vec<(usize, i8)> =
            bytes.iter().map(|n| n.cast_signed()).enumerate().filter(|(_, n)| *n != 0).take(4).collect();
        assert_eq!(first, FIRST, "if the result changes, change NAME");
        assert_eq!(super::vector(&[]).bytes(), [0; DIMENSION]);
    }

    const FIRST: [(usize, i8); 4] = [(48, -82), (64, -82), (72, -51), (105, 48)];
}
