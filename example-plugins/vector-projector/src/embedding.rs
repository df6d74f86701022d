//! A text as a vector of fixed length. Talks to nobody.
//!
//! **Lexical, not semantic**: the vector is made of the words and of the runs of three characters in them, each hashed to one place of
//! the vector. Texts that share words, parts of words or misspelt words are near to each other; "car" and "automobile" are not. That
//! needs no model, no network and no memory between documents, and is the same on every machine.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Numbers of a vector, a byte each.
pub(crate) const DIMENSION: usize = 512;
/// Changes when the same text becomes another vector: an index of another one is made anew.
pub(crate) const NAME: &str = "hashed-words-and-trigrams/1/512";
/// Characters of a word that are looked at.
const WORD: usize = 40;

/// A vector; its length says nothing, only its direction.
pub(crate) type Vector = [i8; DIMENSION];

/// Gathers texts of different weight into one vector.
#[derive(Default)]
pub(crate) struct Embedding {
    features: HashMap<u64, f32, BuildHasherDefault<AsItIs>>,
}

impl Embedding {
    /// Adds the words of a text.
    pub(crate) fn add(&mut self, text: &str, weight: f32) {
        let mut word: Vec<char> = Vec::with_capacity(WORD + 2);
        for piece in text.split(|c: char| !c.is_alphanumeric()).filter(|piece| !piece.is_empty()) {
            word.clear();
            // Where a word begins and ends is a character of it.
            word.push('^');
            word.extend(piece.chars().flat_map(char::to_lowercase).take(WORD));
            word.push('$');
            // The short ones are in every text of a language.
            let weight = if word.len() <= 5 { weight * 0.3 } else { weight };
            *self.features.entry(hash(&word)).or_default() += weight;
            let count = (word.len() - 2) as f32;
            for three in word.windows(3) {
                *self.features.entry(hash(three)).or_default() += 1.5 * weight / count.sqrt();
            }
        }
    }

    /// The vector of all that was added; all zeros where there was no word.
    pub(crate) fn finish(self) -> Vector {
        let mut sums = [0f32; DIMENSION];
        for (feature, weight) in self.features {
            // A word of a hundred times says little more than one of ten times.
            let value = weight.ln_1p();
            let place = usize::try_from(feature % DIMENSION as u64).unwrap_or(0);
            // What meets in one place does not add up.
            sums[place] += if feature >> 63 == 0 { value } else { -value };
        }
        let largest = sums.iter().fold(0f32, |largest, sum| largest.max(sum.abs()));
        let mut vector = [0; DIMENSION];
        if largest > 0.0 {
            for (number, sum) in vector.iter_mut().zip(sums) {
                // Between -127 and 127.
                *number = (sum / largest * 127.0).round() as i8;
            }
        }
        vector
    }
}

/// How near two vectors are: the cosine of their angle, from -1 to 1; 0 where one of them is all zeros.
pub(crate) fn cosine(a: &Vector, b: &Vector) -> f32 {
    let dot = |a: &Vector, b: &Vector| -> i32 { a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum() };
    let lengths = (dot(a, a) as f32).sqrt() * (dot(b, b) as f32).sqrt();
    if lengths > 0.0 { dot(a, b) as f32 / lengths } else { 0.0 }
}

/// FNV-1a, mixed: the same for ever, which the standard library's is not.
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
        let mut embedding = Embedding::default();
        embedding.add(text, 1.0);
        embedding.finish()
    }

    #[test]
    fn shared_words_parts_and_misspellings_are_near_and_meanings_are_not() {
        let invoice = vector("Invoice for the kitchen renovation, payable until March");
        let near = |text: &str| cosine(&vector(text), &invoice);
        assert!(near("kitchen invoice") > 0.3, "{}", near("kitchen invoice"));
        assert!(near("KITCHEN INVOICE") == near("kitchen invoice"));
        assert!(near("invioce kitchn") > 0.2, "{}", near("invioce kitchn"));
        assert!(near("holiday photographs") < 0.1, "{}", near("holiday photographs"));
        assert!(near("bill") < 0.1, "not semantic: {}", near("bill"));
    }

    #[test]
    fn it_is_the_same_for_ever() {
        let vector = vector("Straße 12");
        let first: Vec<(usize, i8)> = vector.into_iter().enumerate().filter(|(_, n)| *n != 0).take(4).collect();
        assert_eq!(first, FIRST, "another result needs another NAME");
        assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-6);
        assert_eq!(cosine(&vector, &[0; DIMENSION]), 0.0);
        assert_eq!(super::Embedding::default().finish(), [0; DIMENSION]);
    }

    const FIRST: [(usize, i8); 4] = [(48, -88), (72, -51), (105, 48), (128, -88)];
}
