//! The time of day, in the unit that the store uses.

/// Microseconds since 1970, now.
pub(crate) fn now_micros() -> i64 {
    chrono::Utc::now().timestamp_micros()
}
