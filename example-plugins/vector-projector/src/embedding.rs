//! Embeddings: texts as vectors of fixed length. There are two methods: [`hashed`] words and parts of words, which need no
//! data and are similar if texts share words; and a [`model`] provided by the user, whose vectors are similar if texts have
//! similar meaning.
//!
//! Vectors of different methods or models cannot be compared. Therefore each method has a name, the index stores the name of
//! its method, and every user of the index checks it.

mod hashed;
mod model;
#[cfg(test)]
pub(crate) mod small_model;

use model::Model;
pub(crate) use model::ModelError;
use std::path::Path;

/// Number of bytes of a document's text used for its vector. More words would dilute each of them.
pub(crate) const BODY: usize = 16 << 10;
/// Value of `--model` for hashed words. A directory with this name is `./none`.
const NO_MODEL: &str = "none";

/// A method to compute vectors.
pub(crate) enum Embedding {
    Hashed,
    Model(Box<Model>),
}

/// Why a method cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmbeddingError {
    #[error(transparent)]
    Given(#[from] ModelError),
    #[error("cannot use the model of the index (--model none uses hashed words instead)")]
    OfIndex(#[source] ModelError),
}

impl EmbeddingError {
    /// Returns whether a retry would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        let (Self::Given(error) | Self::OfIndex(error)) = self;
        error.is_permanent()
    }
}

impl Embedding {
    /// Chooses the requested method, or the one of the index, or hashed words.
    pub(crate) fn load(given: Option<&Path>, of_index: Option<&Path>) -> Result<Self, EmbeddingError> {
        let model = |dir| Ok::<_, ModelError>(Self::Model(Box::new(Model::load(dir)?)));
        match (given, of_index) {
            (Some(given), _) if given == Path::new(NO_MODEL) => Ok(Self::Hashed),
            (Some(given), _) => model(given).map_err(EmbeddingError::Given),
            (None, Some(dir)) => model(dir).map_err(EmbeddingError::OfIndex),
            (None, None) => Ok(Self::Hashed),
        }
    }

    /// Returns the method's name, which changes whenever the same text may get another vector.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Hashed => hashed::NAME,
            Self::Model(model) => &model.name,
        }
    }

    /// Returns the directory of the model, if there is one.
    pub(crate) fn model(&self) -> Option<&Path> {
        match self {
            Self::Hashed => None,
            Self::Model(model) => Some(&model.dir),
        }
    }

    /// Returns the minimum cosine similarity of a hit.
    pub(crate) fn near(&self) -> f64 {
        match self {
            Self::Hashed => hashed::MIN_SIMILARITY,
            Self::Model(_) => model::MIN_SIMILARITY,
        }
    }

    /// Returns the vector of a document.
    pub(crate) fn of_document(&self, title: &str, people: &str, body: &str) -> Result<Vector, ModelError> {
        let body = &body[..body.floor_char_boundary(BODY)];
        match self {
            Self::Hashed => Ok(hashed::vector(&[(title, 3.0), (people, 0.5), (body, 1.0)])),
            // Without names and addresses: they have no meaning, and would make documents on the same topic less similar.
            Self::Model(model) => model.vector(&[(title, 2.0), (body, 1.0)]),
        }
    }

    /// Returns the vector of a query.
    pub(crate) fn of_query(&self, text: &str) -> Result<Vector, ModelError> {
        let text = &text[..text.floor_char_boundary(BODY)];
        match self {
            Self::Hashed => Ok(hashed::vector(&[(text, 1.0)])),
            Self::Model(model) => model.vector(&[(text, 1.0)]),
        }
    }
}

/// A vector with one byte per dimension. Only its direction matters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Vector {
    numbers: Vec<i8>,
    length: f32,
}

impl Vector {
    /// Normalizes numbers; all zeros if they have no direction.
    fn normalized(sums: &[f32]) -> Self {
        let largest = sums.iter().fold(0f32, |largest, sum| largest.max(sum.abs()));
        let has_direction = largest > 0.0 && sums.iter().all(|sum| sum.is_finite());
        // Between -127 and 127.
        let number = |sum: &f32| if has_direction { (sum / largest * 127.0).round() as i8 } else { 0 };
        let numbers: Vec<i8> = sums.iter().map(number).collect();
        let squares: i32 = numbers.iter().map(|&n| i32::from(n) * i32::from(n)).sum();
        Self { numbers, length: (squares as f32).sqrt() }
    }

    /// Returns the stored form.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.numbers.iter().map(|number| number.cast_unsigned()).collect()
    }

    /// Returns the cosine similarity to a stored vector, from -1 to 1; 0 if one of them is all zeros, `None` if the lengths
    /// differ.
    pub(crate) fn nearness(&self, stored: &[u8]) -> Option<f32> {
        if stored.len() != self.numbers.len() {
            return None;
        }
        let (mut dot, mut squares) = (0i32, 0i32);
        for (&own, &other) in self.numbers.iter().zip(stored) {
            let other = i32::from(other.cast_signed());
            dot += i32::from(own) * other;
            squares += other * other;
        }
        let lengths = self.length * (squares as f32).sqrt();
        Some(if lengths > 0.0 { dot as f32 / lengths } else { 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_direction_of_a_vector_is_kept() {
        let vector = Vector::normalized(&[1.0, -2.0, 0.0]);
        assert_eq!(vector.bytes(), [64, 129, 0]);
        assert_eq!(vector, Vector::normalized(&[10.0, -20.0, 0.0]));
        let near = |other: &[f32]| vector.nearness(&Vector::normalized(other).bytes());
        assert!((near(&[3.0, -6.0, 0.0]).unwrap() - 1.0).abs() < 1e-6);
        assert!((near(&[-3.0, 6.0, 0.0]).unwrap() + 1.0).abs() < 1e-6);
        assert_eq!((near(&[0.0, 0.0, 9.0]), near(&[0.0; 3]), near(&[1.0; 4])), (Some(0.0), Some(0.0), None));
        for broken in [f32::NAN, f32::INFINITY] {
            assert_eq!(Vector::normalized(&[1.0, broken]).bytes(), [0, 0]);
        }
    }
}
