//! The current time in the store's unit, and timeouts in the kernel's.

/// Returns the current time in microseconds since 1970.
pub fn now_micros() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

/// Converts a timeout for the kernel; infinite if it is longer than the kernel can count.
pub fn timespec(wait: std::time::Duration) -> rustix::time::Timespec {
    wait.try_into().unwrap_or(rustix::time::Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}
