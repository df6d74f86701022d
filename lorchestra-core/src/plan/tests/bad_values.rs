//! A table of refused values: each message names flag, value and fix, and most fixes are tried.

use super::*;

/// The typed text, a part of the expected message, and the proposed correction, which must be accepted (empty if the meaning is unclear).
const BAD: &[(&str, &str, &str, &str)] = &[
    // -- times
    ("datetime", "", "is empty", ""),
    ("datetime", "   ", "is empty", ""),
    ("datetime", " -7d", "spaces around it", "-7d"),
    ("datetime", "2024-01-31\n", "spaces around it", "2024-01-31"),
    ("datetime", "7d", "begins with a minus", "-7d"),
    ("datetime", "30min", "begins with a minus", "-30min"),
    ("datetime", "7 days ago", "the units are s min h d w mo y", "-7d"),
    ("datetime", "-7days", "the units are s min h d w mo y", "-7d"),
    ("datetime", "-7 d", "it contains a space", "-7d"),
    ("datetime", "-7D", "the units are s min h d w mo y", "-7d"),
    ("datetime", "-3Months", "the units are s min h d w mo y", "-3mo"),
    ("datetime", "-30m", "m may be minutes or months; write -30min or -30mo", "-30min"),
    ("datetime", "-1M", "m may be minutes or months; write -1min or -1mo", "-1mo"),
    ("datetime", "5m", "m may be minutes or months; write -5min or -5mo", "-5mo"),
    ("datetime", "-7", "its unit is missing", "-7d"),
    ("datetime", "-7x", "its unit is unknown; write one of s min h d w mo y, as in -7d", ""),
    ("datetime", "-7Tage", "its unit is unknown", ""),
    ("datetime", "-1.5h", "use one whole number with one unit; write -90min, for example", ""),
    ("datetime", "-1h30min", "use one whole number with one unit; write -90min, for example", ""),
    ("datetime", "-d", "is not a time; write 2024-01-31", ""),
    ("datetime", "-", "is not a time; write 2024-01-31", ""),
    ("datetime", "--7d", "is not a time; write 2024-01-31", ""),
    ("datetime", "+7d", "only times in the past", "2024-04-06T12:34:56.789012Z"),
    ("datetime", "tomorrow", "only times in the past", "2024-03-31"),
    ("datetime", "\u{2212}7d", "its minus is the character U+2212, use a plain -", "-7d"),
    ("datetime", "\u{2013}7d", "its minus is the character U+2013, use a plain -", "-7d"),
    ("datetime", "2024\u{2011}01\u{2011}31", "its minus is the character U+2011, use a plain -", "2024-01-31"),
    ("datetime", "-99999999999d", "outside the years 0001 to 9999", ""),
    ("datetime", "-99999999999999999999999999d", "outside the years 0001 to 9999", ""),
    ("datetime", "-18446744073709551615s", "outside the years 0001 to 9999", ""),
    ("datetime", "-9223372036854775s", "outside the years 0001 to 9999", ""),
    ("datetime", "-4294967295mo", "outside the years 0001 to 9999", ""),
    ("datetime", "-357913942y", "outside the years 0001 to 9999", ""),
    ("datetime", "-2024y", "outside the years 0001 to 9999", ""),
    ("datetime", "+9000y", "outside the years 0001 to 9999", ""),
    ("datetime", "0000-01-01", "outside the years 0001 to 9999", ""),
    ("datetime", "10000-01-01", "outside the years 0001 to 9999", ""),
    ("datetime", "+12024-01-01T00:00:00Z", "outside the years 0001 to 9999", ""),
    ("datetime", "0001-01-01T00:00:00+00:01", "outside the years 0001 to 9999", ""),
    ("datetime", "9999-12-31T23:59:59-00:01", "outside the years 0001 to 9999", ""),
    ("datetime", "99999999999999999", "microseconds since 1970 are not supported", "5138-11-16T09:46:39.999999Z"),
    ("datetime", "-2024-01-31", "a date does not begin with a minus", "2024-01-31"),
    ("datetime", "2024-1-5", "a date is year-month-day", "2024-01-05"),
    ("datetime", "2024-02-30", "the month has no day 30; write 2024-02-29", "2024-02-29"),
    ("datetime", "2023-02-29", "the month has no day 29; write 2023-02-28", "2023-02-28"),
    ("datetime", "2024-04-31T10:00:00Z", "the month has no day 31; write 2024-04-30", ""),
    ("datetime", "2024-04-00", "the month has no day 00; write 2024-04-01", ""),
    ("datetime", "2024-13-01", "there is no month 13", "2024-01-13"),
    ("datetime", "2024-00-01", "there is no month 00", ""),
    ("datetime", "2024-13-13", "there is no month 13: a date is year-month-day; write a month from 01 to 12", ""),
    ("datetime", "2024/01/31", "a date is year-month-day", "2024-01-31"),
    ("datetime", "31/01/2024", "a date is year-month-day", "2024-01-31"),
    ("datetime", "01/31/2024", "with four, two and two digits; write 2024-01-31", "2024-01-31"),
    ("datetime", "01/02/2024", "write 2024-02-01 or 2024-01-02", "2024-02-01"),
    ("datetime", "31.01.2024", "a date is year-month-day", "2024-01-31"),
    ("datetime", "1.2.2024", "a date is year-month-day", "2024-02-01"),
    ("datetime", "31.1.24", "its year does not have four digits; write year-month-day, as in 2024-01-31", ""),
    ("datetime", "30.02.2024", "the month has no day 30", "2024-02-29"),
    ("datetime", "20240131", "a date needs dashes", "2024-01-31"),
    ("datetime", "2024", "a year alone is not a time", "2024-01-01"),
    ("datetime", "2024-02", "a month alone is not a time", "2024-02-01"),
    ("datetime", "1706659200", "seconds since 1970 are not supported", "2024-01-31T00:00:00Z"),
    ("datetime", "1706659200.25", "seconds since 1970 are not supported", "2024-01-31T00:00:00.250Z"),
    ("datetime", "1706659200123", "milliseconds since 1970 are not supported", "2024-01-31T00:00:00.123Z"),
    ("datetime", "1706659200123456", "microseconds since 1970 are not supported", "2024-01-31T00:00:00.123456Z"),
    ("datetime", "1706659200123456789", "nanoseconds since 1970 are not supported", "2024-01-31T00:00:00.123456Z"),
    ("datetime", "17", "is not a time; write 2024-01-31", ""),
    (
        "datetime",
        "2024-01-31T10:00:00",
        "no offset from UTC; write 2024-01-31T10:00:00Z or 2024-01-31T10:00:00+01:00",
        "2024-01-31T10:00:00Z",
    ),
    (
        "datetime",
        "2024-01-31 10:00",
        "no offset from UTC; write 2024-01-31T10:00:00Z or 2024-01-31T10:00:00+01:00",
        "2024-01-31T10:00:00+01:00",
    ),
    ("datetime", "2024-01-31T10:00Z", "its seconds are missing", "2024-01-31T10:00:00Z"),
    ("datetime", "2024-01-31T10:00:00+0100", "an offset is Z or has the form +01:00", "2024-01-31T10:00:00+01:00"),
    ("datetime", "2024-01-31T10:00:00+01", "an offset is Z or has the form +01:00", "2024-01-31T10:00:00+01:00"),
    ("datetime", "2024-01-31 10:00:00 +0100", "an offset is Z or has the form +01:00", "2024-01-31T10:00:00+01:00"),
    ("datetime", "2024-01-31 10:00:00 UTC", "an offset is Z or has the form +01:00", "2024-01-31T10:00:00Z"),
    (
        "datetime",
        "2024-01-31T10:00:00+01:00[Europe/Berlin]",
        "an offset is Z or has the form +01:00",
        "2024-01-31T10:00:00+01:00",
    ),
    ("datetime", "2024-01-31T10:00:00 CET", "time zone names are not supported; write Z for UTC or an offset such as +01:00", ""),
    ("datetime", "2024-01-31T10:00:00[Europe/Berlin]", "time zone names are not supported", ""),
    ("datetime", "2024-01-31T10:00:00+99:00", "the offset does not exist; write one from -23:59 to +23:59", ""),
    ("datetime", "2024-01-31T10:00:00\u{2212}01:00", "use a plain -", "2024-01-31T10:00:00-01:00"),
    ("datetime", "2024-01-31T24:00:00Z", "the time of day does not exist; write hours from 00 to 23", ""),
    (
        "datetime",
        "2024-01-31T10:60:00Z",
        "the time of day does not exist; write hours from 00 to 23, minutes and seconds from 00 to 59",
        "",
    ),
    ("datetime", "2024-01-31T10:00:61Z", "the time of day does not exist", ""),
    ("datetime", "2024-01-31T10:00:60Z", "the time of day does not exist", ""),
    ("datetime", "2016-12-31T23:59:60+01:00", "the time of day does not exist", ""),
    ("datetime", "2024-01-31T10", "its time of day is incomplete; write hours, minutes and seconds, as in T10:00:00Z", ""),
    ("datetime", "2024-01-31T", "its time of day is incomplete", ""),
    ("datetime", "2024-01-31T1:00:00Z", "its time of day is incomplete", ""),
    ("datetime", "2024-01-31T10:00:00.Z", "its time of day is incomplete", ""),
    ("datetime", "Wed, 31 Jan 2024 10:00:00 +0100", "the date format of email is not supported", "2024-01-31T09:00:00Z"),
    ("datetime", "yesteday", "it is not a known word", "yesterday"),
    ("datetime", "NOW", "it is not a known word", "now"),
    ("datetime", "last", "means the job's bookmark, and only its `since` accepts it", ""),
    ("datetime", "last:-30d", "means the job's bookmark", ""),
    ("date", "last", "means the job's bookmark", ""),
    ("datetime", "last-30d", "is not a time; write 2024-01-31", ""),
    ("datetime", "2024-W05", "is not a time; write 2024-01-31", ""),
    ("datetime", "\u{664}d", "is not a time; write 2024-01-31", ""),
    ("datetime", "-7d\u{0}", "write", ""),
    // -- days
    ("date", "", "is empty", ""),
    ("date", "now", "a day is required, not a time", "today"),
    ("date", "Today", "it is not a known word", "today"),
    ("date", "2024-01-31T10:00:00Z", "only a day is expected, without a time", "2024-01-31"),
    ("date", "2024-02-30", "the month has no day 30", "2024-02-29"),
    ("date", "31.01.2024", "a date is year-month-day", "2024-01-31"),
    ("date", "1706659200", "seconds since 1970 are not supported", "2024-01-31"),
    ("date", "-12h", "a day accepts only the units d, w, mo and y; write -1d, for example", "-1d"),
    ("date", "-1m", "months are written mo", "-1mo"),
    ("date", "7d", "begins with a minus", "-7d"),
    ("date", "+1d", "only times in the past", "2024-03-31"),
    ("date", "-9999y", "outside the years 0001 to 9999", ""),
    ("date", "soon", "is not a day; write 2024-01-31", ""),
    // -- whole numbers
    ("u8", "", "is empty; write digits", ""),
    ("u8", "256", "outside the range of u8; write a number from 0 to 255", ""),
    ("u8", "-1", "outside the range of u8; write a number from 0 to 255", ""),
    ("i8", "128", "outside the range of i8; write a number from -128 to 127", ""),
    ("i8", "-129", "outside the range of i8; write a number from -128 to 127", ""),
    ("i16", "32768", "outside the range of i16; write a number from -32768 to 32767", ""),
    ("u16", "65536", "outside the range of u16; write a number from 0 to 65535", ""),
    ("i32", "2147483648", "write a number from -2147483648 to 2147483647", ""),
    ("u32", "4294967296", "write a number from 0 to 4294967295", ""),
    ("i64", "9223372036854775808", "write a number from -9223372036854775808 to 9223372036854775807", ""),
    ("u64", "18446744073709551616", "write a number from 0 to 18446744073709551615", ""),
    ("u64", "999999999999999999999999999999999999999999999", "outside the range of u64", ""),
    ("u32", "1_000", "digits and a plain - only", "1000"),
    ("u32", "1'000", "digits and a plain - only", "1000"),
    ("u32", " 5", "digits and a plain - only", "5"),
    ("i32", "\u{2212}5", "digits and a plain - only", "-5"),
    ("u8", "1_000", "outside the range of u8", ""),
    ("u32", "1,000", "is not a whole number from 0 to 4294967295; write digits only, such as 10", ""),
    ("u32", "5.0", "without a decimal point or exponent", "5"),
    ("u32", "1e3", "without a decimal point or exponent", "1000"),
    ("u32", "5.5", "is not a whole number", ""),
    ("i32", "0x10", "in decimal", "16"),
    ("i32", "-0x10", "in decimal", "-16"),
    ("u32", "10k", "is not a whole number", ""),
    ("u32", "five", "is not a whole number", ""),
    ("u32", "nan", "is not a whole number", ""),
    ("u32", "--5", "is not a whole number", ""),
    ("u32", "+", "is not a whole number", ""),
    ("u32", "\u{ff15}", "is not a whole number", ""),
    ("u32", "5\u{0}", "is not a whole number", ""),
    // -- numbers
    ("f64", "", "is empty; write a number, such as 1.5", ""),
    ("f64", "nan", "is not a finite number; write a number between", ""),
    ("f64", "inf", "is not a finite number", ""),
    ("f64", "-Infinity", "is not a finite number", ""),
    ("f64", "1e400", "is not a finite number", ""),
    ("f64", "1,5", "the decimal separator is a point", "1.5"),
    ("f64", "1,000", "is not a number; write digits with a point, such as 1.5", ""),
    ("f64", "1_000.5", "digits and a plain - only", "1000.5"),
    ("f64", "\u{2212}1.5", "digits and a plain - only", "-1.5"),
    ("f64", "1.5 ", "digits and a plain - only", "1.5"),
    ("f64", "1.2.3", "is not a number", ""),
    ("f64", "half", "is not a number", ""),
    // -- switches, texts, paths
    ("bool", "", "is empty; write true or false", ""),
    ("bool", "yes", "a switch is true or false", "true"),
    ("bool", "False", "a switch is true or false", "false"),
    ("bool", "0", "a switch is true or false", "false"),
    ("bool", "maybe", "is not a switch's value; write true or false", ""),
    ("string", "a\u{0}b", "contains a NUL character; remove it", ""),
    ("path", "", "is empty; write a path", ""),
    ("path", "a\u{0}b", "contains a NUL character", ""),
];

#[test]
fn bad_values() {
    let job = all_kinds();
    for (name, text, says, hint) in BAD {
        let line = fault(&job, &[(name, text)]);
        let value = quote(text);
        assert!(line.starts_with(&format!("--{name} {value}: ")), "flag and value: {line}");
        assert!(line.contains(says), "reason {says:?} of {text:?}: {line}");
        assert!(line.contains("write ") || line.contains("remove it"), "a hint: {line}");
        if !hint.is_empty() {
            assert!(line.contains(&format!(" {hint}")), "hint {hint:?} of {text:?}: {line}");
            plan(&job, &[(name, hint)]);
        }
        let by_param = fault(&job, &[(&format!("={name}"), text)]);
        assert!(by_param.starts_with(&format!("--param {name}={value}: ")), "{by_param}");
    }
}

#[test]
fn unambiguous_dates_have_one_correction() {
    assert!(fault(&all_kinds(), &[("datetime", "02/02/2024")]).ends_with("; write 2024-02-02"));
    assert!(fault(&all_kinds(), &[("datetime", "1.2.2024")]).ends_with("; write 2024-02-01"));
}

#[test]
fn long_values_are_cut_and_not_examined_further() {
    // The second needs one correction for each space.
    let spaced = format!("-7{}d", " ".repeat(1_000_000));
    let zeros = "0".repeat(300);
    let long = [
        ("datetime", "9".repeat(100_000)),
        ("datetime", spaced),
        ("date", "-7d ".repeat(10_000)),
        ("u32", "x".repeat(100_000)),
        // Would be a number without the sign in it.
        ("u64", format!("-{zeros}_{zeros}")),
        ("f64", format!("{zeros}_{zeros}")),
        ("f64", format!("{zeros}{zeros},5")),
    ];
    for (name, text) in long {
        let line = fault(&all_kinds(), &[(name, &text)]);
        assert!(line.chars().count() < 250 && line.contains("\"…: "), "{line}");
    }
}
