//! Times, days and durations as people type them. The first eight bytes are the current time, the rest is the text.
#![no_main]

use chrono::{DateTime, Utc};
use libfuzzer_sys::fuzz_target;
use lorchestra_core::plan::duration::{self, DurationError};
use lorchestra_core::plan::time::{self, TimeError};

/// Seconds of the years 1 to 9999.
const YEARS: std::ops::Range<i64> = -62_135_596_800..253_402_300_800;

fuzz_target!(|data: &[u8]| {
    let Some((seconds, text)) = data.split_first_chunk::<8>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let seconds = YEARS.start + i64::from_le_bytes(*seconds).rem_euclid(YEARS.end - YEARS.start);
    let Some(now) = DateTime::<Utc>::from_timestamp(seconds, 0) else { return };
    match time::parse(text, now) {
        Ok(at) => {
            assert!(YEARS.contains(&at.timestamp()), "{text:?} is {at}");
            assert_eq!(at.timestamp_subsec_nanos() % 1000, 0);
            assert_eq!(time::parse(&time::show(at), now), Ok(at), "a formatted time is parsed as the same time");
        }
        Err(error) => {
            one_line(&error.to_string());
            proposals(&error).into_iter().for_each(|write| assert!(time::parse(write, now).is_ok(), "{text:?}: {error}"));
        }
    }
    match time::parse_date(text, now) {
        Ok(day) => assert_eq!(time::parse_date(&day.to_string(), now), Ok(day)),
        Err(error) => {
            one_line(&error.to_string());
            proposals(&error).into_iter().for_each(|write| assert!(time::parse_date(write, now).is_ok(), "{text:?}: {error}"));
        }
    }
    match duration::parse(text) {
        Ok(length) => {
            assert!(length <= duration::MAX);
            let shown = duration::show(length);
            assert_eq!(duration::parse(&shown), Ok(length), "{text:?} is shown as {shown}");
        }
        Err(error) => {
            one_line(&error.to_string());
            match &error {
                DurationError::Form { write, .. } => assert!(duration::parse(write).is_ok(), "{text:?}: {error}"),
                DurationError::NoUnit { seconds, minutes } => {
                    assert!(duration::parse(seconds).is_ok() && duration::parse(minutes).is_ok(), "{text:?}: {error}");
                }
                _ => {}
            }
        }
    }
});

/// The corrections that a message proposes.
fn proposals(error: &TimeError) -> Vec<&str> {
    match error {
        TimeError::Form { write, .. } => vec![write],
        TimeError::Ambiguous { first, second, .. } => vec![first, second],
        _ => vec![],
    }
}

fn one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains(char::is_control) && message.len() < 1000, "{message:?}");
}
