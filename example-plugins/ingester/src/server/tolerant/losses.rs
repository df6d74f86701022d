//! [`Losses`]: what of the server's responses could not be parsed. Shared by the stream, which records it, and the reader, which reports it.

use super::tokens::{Token, outside_literals, tokens};
use package_support::charset;
use std::cell::RefCell;
use std::rc::Rc;

/// Maximum length of a line about a folder that is shown, in characters.
const SHOWN: usize = 200;

/// Items without which a message is not found or has no text.
const REQUIRED: [&[u8]; 3] = [b"UID ", b"BODY[", b"RFC822.SIZE "];

/// What could not be parsed, for the reader: the client passes on only the rest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Losses(Rc<RefCell<Lost>>);

/// What could not be parsed since the last call of [`Losses::take`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Lines about folders without a name, as far as they can be shown.
    pub(crate) folders: Vec<String>,
    /// Number of responses about messages that have lost required items.
    pub(crate) messages: usize,
}

impl Losses {
    pub(crate) fn take(&self) -> Lost {
        self.0.take()
    }

    /// Compares a response with the rewritten one.
    pub(super) fn note(&self, answer: &[u8], strict: &[u8]) {
        let words = tokens(answer);
        let is_atom = |n: usize, word: &[u8]| matches!(words.get(n), Some(Token::Atom(atom)) if atom.eq_ignore_ascii_case(word));
        if !is_atom(0, b"*") {
            return;
        }
        let mut lost = self.0.borrow_mut();
        if is_atom(1, b"LIST") && strict.is_empty() {
            let line = charset::guess(answer.trim_ascii());
            lost.folders.push(line.chars().map(|c| if c.is_control() { '?' } else { c }).take(SHOWN).collect());
        }
        if is_atom(2, b"FETCH") {
            let (given, kept) = (outside_literals(answer).to_ascii_uppercase(), outside_literals(strict).to_ascii_uppercase());
            let mentions = |text: &[u8], word: &[u8]| text.windows(word.len()).any(|window| window == word);
            lost.messages += usize::from(REQUIRED.iter().any(|word| mentions(&given, word) && !mentions(&kept, word)));
        }
    }
}
