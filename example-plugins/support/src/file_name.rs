//! Names of any length as names of files. Talks to no one.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// Between the beginning of a name and its checksum. No name has it: `%` is written as `%25`, and what follows a `%` is hexadecimal.
const MARK: &str = "%sha256-";

/// A name that was written with `%XX` for what no file name may have, `escaped`, in at most `max` bytes: whole where it fits, else its
/// beginning and the sha256 of `name`. So two names never share a file, and one name always has the same.
#[must_use]
pub fn cut(escaped: String, name: &str, max: usize) -> String {
    if escaped.len() <= max {
        return escaped;
    }
    let digest = Sha256::digest(name);
    let mut end = max.saturating_sub(MARK.len() + 2 * digest.len());
    // Not within a character or an escape.
    end = escaped.floor_char_boundary(end);
    if let Some(at) = escaped[..end].rfind('%').filter(|at| at + 3 > end) {
        end = at;
    }
    let mut cut = format!("{}{MARK}", &escaped[..end]);
    for byte in digest {
        // Writing to a String cannot fail.
        let _ = write!(cut, "{byte:02x}");
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_unchanged_and_long_ones_stay_distinct() {
        assert_eq!(cut("a".repeat(200), "a", 200), "a".repeat(200));
        for before in 0..5 {
            let escaped = "x".repeat(before) + &"%41".repeat(100);
            let one = cut(escaped.clone(), "one", 200);
            assert!(one.len() <= 200 && one.len() > 190, "{one}");
            let (start, sum) = one.split_once(MARK).unwrap();
            assert!(escaped.starts_with(start) && !start.ends_with('%') && !start.ends_with("%4") && sum.len() == 64, "{one}");
            assert_ne!(one, cut(escaped, "other", 200));
        }
    }
}
