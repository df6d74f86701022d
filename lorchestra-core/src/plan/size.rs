//! Memory sizes as people write them: `512M`, `2G`. Owns parsing and formatting ([`parse`], [`show`]); pure.
//!
//! One whole number and one unit of `K M G T`, each 1024 times the previous one; `KiB` and so on are accepted too. A number alone is
//! refused: it could mean bytes or mebibytes.

/// The minimum memory in which a plugin can be loaded.
pub const LEAST: u64 = 16 << 20;

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// Parses a size in bytes.
///
/// # Errors
/// What is wrong and what to write instead.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let mut letters = unit.chars();
    let unit = letters.next().map(|letter| letter.to_ascii_uppercase());
    let shift = UNITS.iter().find(|(letter, _)| unit == Some(*letter)).map(|(_, shift)| *shift);
    match (number.parse::<u64>(), shift, letters.as_str()) {
        (Ok(_), None, "") if unit.is_none() => Err(format!("its unit is missing; write {text}M or {text}G")),
        (Ok(number), Some(shift), "" | "iB" | "ib") => number.checked_mul(1 << shift).ok_or_else(|| "is too large".into()),
        _ => Err("is not a size; write a whole number and K, M, G or T, such as 512M or 2G".into()),
    }
}

/// Formats a size in the largest unit that gives a whole number.
pub fn show(bytes: u64) -> String {
    match UNITS.iter().find(|(_, shift)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift)) {
        Some((letter, shift)) => format!("{}{letter}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formatted_sizes_can_be_parsed() {
        for (text, bytes) in [("512M", 512 << 20), ("2G", 2 << 30), ("1023K", 1023 << 10), ("3T", 3 << 40)] {
            assert_eq!((parse(text), show(bytes)), (Ok(bytes), text.to_owned()));
        }
        assert_eq!(parse("2gib"), Ok(2 << 30));
        assert_eq!(show(5), "5 bytes");
    }

    #[test]
    fn invalid_sizes_are_refused_with_a_correction() {
        for (text, hint) in [
            ("512", "512M or 512G"),
            ("", "not a size"),
            ("M", "not a size"),
            ("1.5G", "not a size"),
            ("-1M", "not a size"),
            ("1MB", "not a size"),
            ("1 M", "not a size"),
            ("99999999999T", "is too large"),
            ("99999999999999999999999M", "not a size"),
        ] {
            let reported = parse(text).unwrap_err();
            assert!(reported.contains(hint), "{text}: {reported}");
        }
    }
}
