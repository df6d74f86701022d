//! Secrets of a run, and the mask that removes them from captured text.
//!
//! [`Secrets`] carries the values from the command line, which found them, to the order for the worker; nothing prints or records them.
//! `Mask` replaces each of them by `***` in text, in JSON and in a byte stream. The supervisor masks what the job prints; the worker masks
//! events, the trace and the job's error message before they reach the disk.
//!
//! [`lorchestra_plugin_api::mask`] decides which forms of a secret are masked, for packages and the host alike. Other forms that a job
//! makes of a secret (base64, half of it) are not found, as docs/guides/secrets.md states.

use aho_corasick::{AhoCorasick, MatchKind};
use lorchestra_plugin_api::limits::{self, SecretError};
use lorchestra_plugin_api::mask::{self, STARS};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// The secrets of one run, by parameter.
#[derive(Clone, Default)]
pub struct Secrets {
    values: BTreeMap<String, Zeroizing<String>>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Secrets {
    /// Adds the value of a parameter. Drops one line break at the end, because files end with one.
    ///
    /// # Errors
    /// If the text cannot be a secret.
    pub fn insert(&mut self, param: &str, text: Zeroizing<String>) -> Result<(), SecretError> {
        let value = limits::secret(&text)?;
        self.values.insert(param.to_owned(), Zeroizing::new(value.to_owned()));
        Ok(())
    }

    /// The names of the parameters that have a secret.
    pub(crate) fn names(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }

    /// Adds the secrets to the parameters sent to the worker.
    pub(crate) fn add_to(&self, params: &mut Map<String, Value>) {
        params.extend(self.values.iter().map(|(name, value)| (name.clone(), Value::String(value.to_string()))));
    }

    /// Returns the mask for these secrets; `None` if there are none.
    pub(crate) fn mask(&self) -> Option<Mask> {
        Mask::of(self.values.values().map(|value| value.as_str()))
    }
}

/// Replaces secrets by `***`.
#[derive(Clone)]
pub(crate) struct Mask {
    automaton: AhoCorasick,
    /// The texts to mask, longest first; none is empty.
    forms: Vec<Zeroizing<String>>,
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mask").finish_non_exhaustive()
    }
}

impl Mask {
    pub(crate) fn of<'a>(values: impl Iterator<Item = &'a str>) -> Option<Self> {
        let forms = mask::forms(values);
        // Fails only for gigabytes of patterns. Then nothing would be masked, so nothing is run.
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(forms.iter().map(|form| form.as_bytes()))
            .ok()
            .filter(|_| !forms.is_empty())?;
        Some(Self { automaton, forms })
    }

    /// Returns the text without secrets.
    pub(crate) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.automaton.is_match(text) {
            Cow::Owned(self.automaton.replace_all(text, &vec![STARS; self.forms.len()]))
        } else {
            Cow::Borrowed(text)
        }
    }

    /// Returns the JSON without secrets in its strings, keys and numbers; borrows it if there are none. Masks invalid JSON as bytes.
    pub(crate) fn json<'a>(&self, json: &'a [u8]) -> Cow<'a, [u8]> {
        // If there are no escapes, text appears in JSON unchanged.
        if !self.automaton.is_match(json) && !json.contains(&b'\\') {
            return Cow::Borrowed(json);
        }
        match serde_json::from_slice::<Value>(json) {
            Ok(mut value) => {
                if self.value(&mut value) {
                    Cow::Owned(value.to_string().into_bytes())
                } else {
                    Cow::Borrowed(json)
                }
            }
            Err(_) => Cow::Owned(self.bytes(json)),
        }
    }

    /// Masks a value in place. Returns whether it contained a secret.
    fn value(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => {
                let masked = match self.text(text) {
                    Cow::Owned(masked) => masked,
                    Cow::Borrowed(_) => return false,
                };
                *text = masked;
                true
            }
            Value::Number(number) if self.automaton.is_match(&number.to_string()) => {
                *value = STARS.into();
                true
            }
            Value::Array(values) => values.iter_mut().fold(false, |any, value| self.value(value) | any),
            Value::Object(map) => {
                let mut any = map.values_mut().fold(false, |any, value| self.value(value) | any);
                if map.keys().any(|key| self.automaton.is_match(key)) {
                    *map = std::mem::take(map).into_iter().map(|(key, value)| (self.text(&key).into_owned(), value)).collect();
                    any = true;
                }
                any
            }
            _ => false,
        }
    }

    fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        self.automaton.replace_all_bytes(bytes, &vec![STARS; self.forms.len()])
    }

    /// Length of the longest suffix of `bytes` that may be the beginning of a secret.
    fn begun(&self, bytes: &[u8]) -> usize {
        // Form by form: of a key with thousands of lines nearly all forms are short.
        let begun_of = |form: &str| {
            let most = bytes.len().min(form.len() - 1);
            (1..=most).rev().find(|&n| form.as_bytes().starts_with(&bytes[bytes.len() - n..])).unwrap_or(0)
        };
        self.forms.iter().map(|form| begun_of(form)).max().unwrap_or(0)
    }
}

/// Masks a stream, including secrets that are split over several chunks.
#[derive(Debug)]
pub(crate) struct MaskedStream {
    mask: Mask,
    /// The end of the stream so far, which may be the beginning of a secret.
    held: Vec<u8>,
}

impl MaskedStream {
    pub(crate) fn new(mask: Mask) -> Self {
        Self { mask, held: Vec::new() }
    }

    /// Appends `bytes` and returns the output that can be passed on.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let keep = self.mask.begun(&self.held);
        let pass = self.held.len() - keep;
        // Do not cut in two a complete secret that continues as the beginning of a longer one.
        let pass = self
            .mask
            .automaton
            .find_iter(&self.held)
            .find(|found| found.start() < pass && found.end() > pass)
            .map_or(pass, |found| found.start());
        let rest = self.held.split_off(pass);
        let passed = std::mem::replace(&mut self.held, rest);
        self.mask.bytes(&passed)
    }

    /// Returns the remaining output at the end of the stream.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        self.mask.bytes(&held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mask(values: &[&str]) -> Mask {
        Mask::of(values.iter().copied()).unwrap()
    }

    #[test]
    fn only_text_that_can_be_masked_is_a_secret() {
        let insert = |text: &str| Secrets::default().insert("token", Zeroizing::new(text.to_owned()));
        for (text, result) in [
            ("", Err(SecretError::Empty)),
            ("\n", Err(SecretError::Empty)),
            ("12345", Err(SecretError::Short)),
            ("12345\n", Err(SecretError::Short)),
            ("123456", Ok(())),
            ("123456\r\n", Ok(())),
            ("12345\0", Err(SecretError::Nul)),
        ] {
            assert_eq!(insert(text), result, "{text:?}");
        }
        assert_eq!(insert(&"x".repeat(limits::MAX_SECRET + 1)), Err(SecretError::Long));
        let mut secrets = Secrets::default();
        secrets.insert("token", Zeroizing::new("hunter22\n".into())).unwrap();
        assert!(!format!("{secrets:?}").contains("hunter"));
        let mut params = Map::new();
        secrets.add_to(&mut params);
        assert_eq!(params["token"], "hunter22");
    }

    #[test]
    fn a_text_is_masked_completely() {
        let mask = mask(&["hunter22", "hunter22-longer", "-----BEGIN KEY\nabcdefgh\nijkl\n"]);
        for (text, masked) in [
            ("nothing", "nothing"),
            ("hunter22", "***"),
            ("a hunter22-longer b hunter22 c", "a *** b *** c"),
            ("line abcdefgh of the key", "line *** of the key"),
            ("ijkl is too short to be one", "ijkl is too short to be one"),
        ] {
            assert_eq!(mask.text(text), masked);
        }
    }

    #[test]
    fn json_stays_json() {
        let mask = mask(&["12345678", "say \"hé\"", "{\"a\":1}"]);
        for (json, masked) in [
            (r#"{"n":1, "s":"x"}"#, r#"{"n":1, "s":"x"}"#),
            (r#"{"n":12345678}"#, r#"{"n":"***"}"#),
            (r#"{"t":"say \"hé\"!"}"#, r#"{"t":"***!"}"#),
            (r#"{"t":"say \"h\u00e9\"!","u":[["\u0031234567\u0038"]]}"#, r#"{"t":"***!","u":[["***"]]}"#),
            (r#"{"12345678":{"a":1}}"#, r#"{"***":{"a":1}}"#),
            ("not json 12345678", "not json ***"),
        ] {
            assert_eq!(String::from_utf8_lossy(&mask.json(json.as_bytes())), masked, "{json}");
        }
    }

    proptest! {
        /// The stream passes on what masking the whole text would give, however it is split.
        #[test]
        fn a_stream_is_masked_as_a_whole(
            words in proptest::collection::vec(prop_oneof!["[ab]{0,9}", Just("abababab".to_owned()), Just("abababab-abab".to_owned())], 0..12),
            cuts in proptest::collection::vec(1_usize..7, 1..40),
        ) {
            let mask = mask(&["abababab", "abababab-abab"]);
            let text = words.concat();
            let mut stream = MaskedStream::new(mask.clone());
            let (mut out, mut rest) = (Vec::new(), text.as_bytes());
            for cut in cuts {
                let (piece, more) = rest.split_at(cut.min(rest.len()));
                out.extend(stream.push(piece));
                rest = more;
            }
            out.extend(stream.push(rest));
            out.extend(stream.finish());
            prop_assert_eq!(String::from_utf8(out).unwrap(), mask.text(&text).into_owned());
        }
    }
}
