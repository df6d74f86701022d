//! An exception of a Python job, as bridge.py reports it: classes and places, without texts.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Maximum length of a name that is passed on, in bytes.
const MAX_NAME: usize = 200;

/// An exception, followed by its causes.
#[derive(Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Chain(Vec<Raised>);

#[derive(Debug, Deserialize, Serialize)]
struct Raised {
    class: String,
    /// Outermost first, as in a traceback.
    frames: Vec<Frame>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Frame {
    file: String,
    line: Option<u64>,
    function: String,
}

impl Chain {
    /// Cuts names to a length that fits a message. Python allows any text as the name of a class.
    pub(crate) fn bounded(mut self) -> Self {
        let bound = |name: &mut String| {
            if name.len() > MAX_NAME || name.contains(char::is_control) {
                *name = name.chars().map(|c| if c.is_control() { '?' } else { c }).take(MAX_NAME / 4).collect();
            }
        };
        for raised in &mut self.0 {
            bound(&mut raised.class);
            for frame in &mut raised.frames {
                bound(&mut frame.file);
                bound(&mut frame.function);
            }
        }
        self
    }
}

/// `ValueError (my_package/jobs.py:12 in extract), caused by KeyError (…)`
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Raised { class, frames }) in self.0.iter().take(3).enumerate() {
            if n > 0 {
                f.write_str(", caused by ")?;
            }
            f.write_str(class)?;
            if let Some(Frame { file, line, function }) = frames.last() {
                match line {
                    Some(line) => write!(f, " ({file}:{line} in {function})")?,
                    None => write!(f, " ({file} in {function})")?,
                }
            }
        }
        Ok(())
    }
}
