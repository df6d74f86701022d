//! The checksum of an event, because SQLite has none for the pages of a database.
//!
//! Computed when an event is inserted, compared when it is read for delivery or display. Covers what the job and lorchestra wrote, but not
//! the run it belongs to. Retention removes the checksum together with the payload.

use rusqlite::Row;

/// Replaces the checksum of an event whose payload was removed. Not NULL, because a row of zeros has NULL.
const NONE: i64 = -1;

/// The parts of an event that the checksum covers, in order.
pub(super) struct Covered<'a> {
    pub(super) event_id: &'a str,
    pub(super) event_type: &'a str,
    pub(super) created_at: i64,
    pub(super) rest: [Option<&'a str>; 4],
}

impl Covered<'_> {
    pub(super) fn sum(&self) -> u32 {
        let mut sum = crc32c::crc32c(&self.created_at.to_le_bytes());
        for part in [Some(self.event_id), Some(self.event_type)].into_iter().chain(self.rest) {
            // The length separates adjacent parts, and distinguishes a missing part from an empty one.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            sum = crc32c::crc32c_append(sum, &length.to_le_bytes());
            sum = crc32c::crc32c_append(sum, part.unwrap_or_default().as_bytes());
        }
        sum
    }

    /// Whether a row's column `checksum` matches the event, or is [`NONE`].
    pub(super) fn matches(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        let stored: i64 = row.get("checksum")?;
        Ok(stored == NONE || stored == i64::from(self.sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_and_every_boundary_changes_the_checksum() {
        let of = |event_id, event_type, created_at, rest| Covered { event_id, event_type, created_at, rest }.sum();
        let rest = [None, Some("c"), None, Some("{}")];
        let sums = [
            of("a", "b", 1, rest),
            of("x", "b", 1, rest),
            of("a", "x", 1, rest),
            of("a", "b", 2, rest),
            of("ab", "", 1, rest),
            of("a", "b", 1, [Some("c"), None, None, Some("{}")]),
            of("a", "b", 1, [Some(""), Some("c"), None, Some("{}")]),
            of("a", "b", 1, [None, Some("c"), None, Some("{ }")]),
        ];
        let distinct: std::collections::HashSet<u32> = sums.into_iter().collect();
        assert_eq!(distinct.len(), sums.len());
    }
}
