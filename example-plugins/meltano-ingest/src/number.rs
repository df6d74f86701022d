//! JSON numbers as exact decimals, and whether a float can represent one without loss.

/// A number: `digits × 10^exponent`. The digits have no leading or trailing zeros; zero has none.
#[derive(Debug, PartialEq, Eq)]
struct Number {
    is_negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Number {
    /// Parses a JSON number, or the same notation in a text.
    fn parse(text: &str) -> Option<Self> {
        let (is_negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, power) = match rest.split_once(['e', 'E']) {
            Some((mantissa, power)) => (mantissa, power.parse::<i32>().ok()?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        if whole.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let mut exponent = i64::from(power) - i64::try_from(fraction.len()).ok()?;
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent += 1;
        }
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..zeros);
        if digits.is_empty() {
            return Some(Self { is_negative: false, digits, exponent: 0 });
        }
        Some(Self { is_negative, digits, exponent })
    }
}

/// Returns the number times `10^scale`, if that is an integer of at most `precision` digits.
pub(crate) fn scaled(text: &str, precision: u32, scale: u32) -> Option<i128> {
    let number = Number::parse(text)?;
    let zeros = usize::try_from(number.exponent + i64::from(scale)).ok()?;
    if number.digits.is_empty() {
        return Some(0);
    }
    if number.digits.len().saturating_add(zeros) > precision as usize {
        return None;
    }
    let digits = std::str::from_utf8(&number.digits).ok()?;
    // At most 38 digits, which an i128 can represent.
    let value = digits.parse::<i128>().ok()?.checked_mul(10_i128.checked_pow(u32::try_from(zeros).ok()?)?)?;
    Some(if number.is_negative { -value } else { value })
}

/// Returns the float, if the same decimal number can be printed from it.
pub(crate) fn exact_float(text: &str) -> Option<f64> {
    let float = text.parse::<f64>().ok().filter(|float| float.is_finite())?;
    // Any 15 digits survive.
    let is_short = text.len() <= 15 && !text.contains(['e', 'E']);
    (is_short || Number::parse(text) == Number::parse(&format!("{float:e}"))).then_some(float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_or_refused() {
        for (text, scale, value) in [
            ("0", 2, Some(0)),
            ("-0.00", 0, Some(0)),
            ("1.10", 2, Some(110)),
            ("1.10", 1, Some(11)),
            ("1.11", 1, None),
            ("-12.5e1", 0, Some(-125)),
            ("1e3", 0, Some(1000)),
            ("1E-2", 2, Some(1)),
            ("12345678901234567890123456789012345678", 0, Some(12_345_678_901_234_567_890_123_456_789_012_345_678)),
            ("123456789012345678901234567890123456789", 0, None),
            ("1e400", 0, None),
            ("1e99999999999", 0, None),
            ("x", 0, None),
            ("", 0, None),
            ("+1", 0, None),
        ] {
            assert_eq!(scaled(text, 38, scale), value, "{text} at scale {scale}");
        }
        assert_eq!(scaled("123.4", 3, 1), None, "four digits");
    }

    #[test]
    fn a_float_is_used_only_if_it_keeps_the_number() {
        for text in ["0", "0.1", "1.10", "-2.5", "1e22", "123456789.123456", "0.30000000000000004", "1.7976931348623157e308"] {
            assert!(exact_float(text).is_some(), "{text}");
        }
        for text in ["12345678901234567.1", "0.1000000000000000055", "9007199254740993", "1e400", "x", "NaN", "inf"] {
            assert!(exact_float(text).is_none(), "{text}");
        }
    }
}
