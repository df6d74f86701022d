//! The time of day in the unit that the store uses, and waiting times in the kernel's.

/// Microseconds since 1970, now.
pub fn now_micros() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

/// A time to wait, for the kernel; for ever, where it is longer than the kernel counts.
pub fn timespec(wait: std::time::Duration) -> rustix::time::Timespec {
    wait.try_into().unwrap_or(rustix::time::Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}
