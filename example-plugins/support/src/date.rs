//! Parsing of date fields in mail.

use chrono::{DateTime, FixedOffset, Month, NaiveDate, Timelike, Weekday};
use mail_parser::parsers::MessageStream;

/// Parses the value of a date field, with its time zone.
///
/// Tries RFC 5322 first, then common variants (some of which mail-parser misreads), then mail-parser, which accepts many more.
/// Never accepts invalid days such as February 31.
pub fn parse(value: &[u8]) -> Option<DateTime<FixedOffset>> {
    let text = std::str::from_utf8(value).ok();
    if let Some(Ok(date)) = text.map(|text| DateTime::parse_from_rfc2822(text.trim())) {
        // Fractions are dropped, because chrono represents a leap second as a fraction and formats it as `:60`.
        return date.with_nanosecond(0);
    }
    text.and_then(loose).or_else(|| by_mail_parser(value))
}

fn by_mail_parser(value: &[u8]) -> Option<DateTime<FixedOffset>> {
    let value = [value, &b"\n"[..]].concat();
    let parsed = MessageStream::new(&value).parse_date();
    let date = parsed.as_datetime()?;
    if !(1..=9999).contains(&date.year) {
        return None;
    }
    let seconds = i32::from(date.tz_hour) * 3600 + i32::from(date.tz_minute) * 60;
    let zone = FixedOffset::east_opt(if date.tz_before_gmt { -seconds } else { seconds })?;
    NaiveDate::from_ymd_opt(date.year.into(), date.month.into(), date.day.into())?
        .and_hms_opt(date.hour.into(), date.minute.into(), date.second.into())?
        .and_local_timezone(zone)
        .single()
}

/// Converts common variants to RFC 5322: without a time zone, with full names, or in the order of C's `asctime`.
fn loose(text: &str) -> Option<DateTime<FixedOffset>> {
    let is_month = |word: &str| word.parse::<Month>().is_ok();
    let mut words: Vec<&str> =
        text.split(|c: char| c.is_ascii_whitespace() || c == ',').filter(|word| !word.is_empty()).collect();
    if words.first().is_some_and(|word| word.parse::<Weekday>().is_ok()) {
        words.remove(0);
    }
    let is_zone = |word: &str| word.starts_with(['+', '-']) || word.bytes().all(|b| b.is_ascii_alphabetic());
    let (day, month, year, time, zone) = match words[..] {
        [day, month, year, time] if is_month(month) => (day, month, year, time, "+0000"),
        [day, month, year, time, zone] if is_month(month) => (day, month, year, time, zone),
        [month, day, time, year] if is_month(month) => (day, month, year, time, "+0000"),
        [month, day, time, zone, year] if is_month(month) && is_zone(zone) => (day, month, year, time, zone),
        [month, day, time, year, zone] if is_month(month) => (day, month, year, time, zone),
        _ => return None,
    };
    // Names of months are ASCII here.
    DateTime::parse_from_rfc2822(&format!("{day} {} {year} {time} {zone}", &month[..3])).ok()?.with_nanosecond(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_kept() {
        let date = |text: &str| parse(text.as_bytes()).map(|date| date.to_rfc3339());
        for (text, expected) in [
            ("Mon, 1 Jan 2024 12:00:00 +0200", Some("2024-01-01T12:00:00+02:00")),
            ("Fri, 1 Jan 2024 12:00:00 -0330", Some("2024-01-01T12:00:00-03:30")),
            ("2 Feb 24 08:15 EST", Some("2024-02-02T08:15:00-05:00")),
            ("Mon, 1 Jan 2024 12:00:00 UT", Some("2024-01-01T12:00:00+00:00")),
            ("Thu, 29 Feb 2024 23:59:60 +0000 (leap)", Some("2024-02-29T23:59:59+00:00")),
            ("Mon, 1 Jan 2024 12:00:00 +0000 (CET) with more", Some("2024-01-01T12:00:00+00:00")),
            ("Mon, 01 Jan 2024 10:00:00", Some("2024-01-01T10:00:00+00:00")),
            ("Monday, 1 January 2024 10:00:00 -0330", Some("2024-01-01T10:00:00-03:30")),
            ("Mon Jan  1 10:00:00 2024", Some("2024-01-01T10:00:00+00:00")),
            ("Mon Jan  1 10:00:00 2024 +0200", Some("2024-01-01T10:00:00+02:00")),
            ("Mon Jan  1 10:00:00 EST 2024", Some("2024-01-01T10:00:00-05:00")),
            ("Sat Feb 31 10:00:00 2024", None),
            ("Mon Jan  1 10:00:00", None),
            ("Janus, 1 Jane 2024 10:00:00", None),
            ("Sat, 31 Feb 2024 12:00:00 +0000", None),
            ("Thu, 32 Foo 2024 99:99:99 +9999", None),
            ("-----", None),
            ("", None),
        ] {
            assert_eq!(date(text).as_deref(), expected, "{text}");
        }
    }
}
