//! Finds numbers in a payload that readers cannot represent. Pure; works on the text of valid JSON, because payloads are forwarded as
//! text. JSON has no limit for numbers, but BigQuery and nearly every other reader use 64-bit integers and IEEE doubles.

/// Number of digits from which a number without an exponent may overflow a double. The largest double has 309.
const LONG: usize = 300;
/// Step of the search for a long run of digits. At least two steps fall into a run of [`LONG`].
const STRIDE: usize = LONG / 2;
/// Significant digits that distinguish every double from its neighbours.
const DIGITS: usize = 17;

/// Returns the first number that is infinite as a double, such as `1e400`.
pub(super) fn overflowing(json: &[u8]) -> Option<&str> {
    if !may_overflow(json) {
        return None;
    }
    numbers(json).find(|number| number.parse::<f64>().is_ok_and(f64::is_infinite))
}

/// Returns the first number that is neither a 64-bit integer nor a decimal that round-trips through a double.
pub(super) fn inexact(json: &[u8]) -> Option<&str> {
    numbers(json).find(|number| !is_exact(number))
}

/// Returns whether anything, even inside a string, looks like an exponent or a very long number. A fast filter that runs for every event;
/// most payloads have neither.
fn may_overflow(json: &[u8]) -> bool {
    // Blocks of 255, so that a u8 can hold the count and the compiler can use SIMD.
    let next = json.get(1..).unwrap_or_default();
    let exponents =
        |(a, b): (&[u8], &[u8])| a.iter().zip(b).map(|(a, b)| u8::from(a.is_ascii_digit() & (b | 0x20 == b'e'))).sum::<u8>() > 0;
    let is_long = || {
        let digit = |at: usize| json[at].is_ascii_digit();
        (STRIDE..json.len()).step_by(STRIDE).any(|at| digit(at) && json[at - STRIDE..at].iter().all(u8::is_ascii_digit))
    };
    json.chunks(255).zip(next.chunks(255)).any(exponents) || (json.len() > LONG && is_long())
}

/// Returns the numbers of valid JSON as text.
fn numbers(json: &[u8]) -> impl Iterator<Item = &str> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(byte) = json.get(at) {
            match byte {
                b'"' => at = end_of_text(json, at + 1),
                b'-' | b'0'..=b'9' => {
                    let rest = &json[at..];
                    let is_part = |b: &u8| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                    let len = rest.iter().position(|b| !is_part(b)).unwrap_or(rest.len());
                    at += len;
                    return Some(std::str::from_utf8(&rest[..len]).unwrap_or_default());
                }
                _ => at += 1,
            }
        }
        None
    })
}

/// Returns the index after the closing quote of a string whose first byte is at `at`.
fn end_of_text(json: &[u8], mut at: usize) -> usize {
    while let Some(byte) = json.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

fn is_exact(number: &str) -> bool {
    if number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok() {
        return true;
    }
    // An integer beyond 64 bits is refused even if a double can represent it: readers return it as `1e20`, or with other digits.
    let whole = !number.contains(['.', 'e', 'E']);
    let Ok(double) = number.parse::<f64>() else { return false };
    let written = decimal(number);
    // Compare with the double rounded to the same number of digits. Its shortest form would not do: of two equally short forms,
    // serializers choose different ones.
    let places = written.0.len().saturating_sub(1);
    !whole && double.is_finite() && places < DIGITS && written == decimal(&format!("{double:.places$e}"))
}

/// Digits without leading and trailing zeros, and the power of ten of the last digit. The sign is dropped: a double always keeps it.
fn decimal(number: &str) -> (String, i64) {
    let number = number.trim_start_matches('-');
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let kept = digits.trim_end_matches('0');
    let power = exponent.parse::<i64>().unwrap_or(i64::MAX / 2) - fraction.len() as i64 + (digits.len() - kept.len()) as i64;
    match kept.trim_start_matches('0') {
        "" => (String::new(), 0),
        kept => (kept.to_owned(), power),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_object(number: &str) -> String {
        format!(r#"{{"a":"1e999 \" 1e999","b":[{number}],"1e999":null}}"#)
    }

    #[test]
    fn overflowing_numbers_are_found_and_strings_are_ignored() {
        let long = "9".repeat(310);
        for bad in ["1e400", "-1E+309", "17976931348623159e292", &long, &format!("-{long}.5"), &format!("{}e9", "1".repeat(301))]
        {
            assert_eq!(overflowing(in_object(bad).as_bytes()), Some(bad));
        }
        let fits = "9".repeat(308);
        for good in ["1e308", "-1.7976931348623157e308", "1e-400", "0e999", "12", &fits, "0.1"] {
            assert_eq!(overflowing(in_object(good).as_bytes()), None, "{good}");
        }
        // At any position, with as much text before it as allowed.
        for before in 0..700 {
            let json = format!(r#"{{"a":"{}","b":{long}}}"#, "x".repeat(before));
            assert_eq!(overflowing(json.as_bytes()), Some(&*long), "{before}");
            let json = format!(r#"{{"a":"{}","b":1e400}}"#, "x".repeat(before));
            assert_eq!(overflowing(json.as_bytes()), Some("1e400"), "{before}");
        }
    }

    #[test]
    fn numbers_that_fit_in_64_bits_are_exact() {
        for good in [
            "0",
            "-0",
            "-0.0",
            "1.50",
            "0.1",
            "1e3",
            "1E-7",
            "120e-1",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615",
            "1.7976931348623157e308",
            "5e-324",
            "0.30000000000000004",
            "123456789012345.6",
            "0e999",
        ] {
            assert_eq!(inexact(in_object(good).as_bytes()), None, "{good}");
        }
        for bad in [
            "18446744073709551616",
            "-9223372036854775809",
            "100000000000000000000",
            "0.1000000000000000055",
            "1e400",
            "1e-400",
            "3.14159265358979323846",
            "123456789012345678.5",
            "1.0000000000000000001",
        ] {
            assert_eq!(inexact(in_object(bad).as_bytes()), Some(bad));
        }
    }

    /// What Rust writes of a double is read back as the same one.
    #[test]
    fn every_double_that_was_written_is_exact() {
        let mut bits = 1u64;
        for _ in 0..20_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let double = f64::from_bits(bits);
            if double.is_finite() {
                let json = serde_json::to_string(&serde_json::json!({"x": double})).unwrap();
                assert_eq!((overflowing(json.as_bytes()), inexact(json.as_bytes())), (None, None), "{json}");
            }
        }
    }
}
