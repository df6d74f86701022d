//! The messages of a folder that were skipped because of their dates: ranges of UIDs, each with the earliest and the latest date
//! in it. Pure functions only.
//!
//! A range joins UIDs between which no other message exists, so that a folder of 200,000 old messages takes some kilobytes and
//! not a line for each. A run with a window that touches a range looks at its dates again.

use crate::window::{Verdict, Window};
use lorchestra_plugin_api::chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Maximum number of UIDs from the first to the last of a range that grows: the dates of all of them are read again together.
const MAX_SPAN: u32 = 1000;

/// Ranges by their first UID. They do not overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Left(BTreeMap<u32, Range>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Range {
    last: u32,
    /// Earliest and latest date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dates: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// Whether a message has no date.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    undated: bool,
}

impl Range {
    fn widen(&mut self, date: Option<DateTime<Utc>>) {
        match date {
            None => self.undated = true,
            Some(date) => {
                let (from, to) = self.dates.unwrap_or((date, date));
                self.dates = Some((from.min(date), to.max(date)));
            }
        }
    }
}

impl Left {
    /// Adds a message. `before` is the message before it in the folder, if that is known.
    pub(crate) fn insert(&mut self, uid: u32, date: Option<DateTime<Utc>>, before: Option<u32>) {
        if let Some((&first, range)) = self.0.range_mut(..=uid).next_back() {
            let follows = range.last.checked_add(1) == Some(uid) || before == Some(range.last);
            if uid <= range.last || follows && uid - first < MAX_SPAN {
                range.last = range.last.max(uid);
                range.widen(date);
                return;
            }
        }
        let mut range = Range { last: uid, dates: None, undated: false };
        range.widen(date);
        self.0.insert(uid, range);
    }

    /// Removes a message.
    pub(crate) fn remove(&mut self, uid: u32) {
        let Some((&first, range)) = self.0.range(..=uid).next_back() else { return };
        if uid > range.last {
            return;
        }
        let range = range.clone();
        self.0.remove(&first);
        if first < uid {
            self.0.insert(first, Range { last: uid - 1, ..range.clone() });
        }
        if uid < range.last {
            self.0.insert(uid + 1, range);
        }
    }

    /// Removes a range that no longer contains a message.
    pub(crate) fn remove_range(&mut self, first: u32) {
        self.0.remove(&first);
    }

    /// Returns first and last UID of the ranges that may contain messages inside of the window.
    pub(crate) fn touched_by(&self, window: &Window) -> Vec<(u32, u32)> {
        let is_touched = |range: &Range| {
            range.dates.is_some_and(|(from, to)| window.touches(from, to))
                || range.undated && window.judge(None) == Verdict::Inside
        };
        self.0.iter().filter(|(_, range)| is_touched(range)).map(|(first, range)| (*first, range.last)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(n: u32) -> Option<DateTime<Utc>> {
        Some(format!("2024-01-{n:02}T00:00:00Z").parse().unwrap())
    }

    fn shown(left: &Left) -> String {
        left.0.iter().map(|(first, range)| format!("{first}:{} ", range.last)).collect()
    }

    #[test]
    fn adjacent_ranges_are_merged_and_a_gap_only_if_it_is_empty() {
        let mut left = Left::default();
        for (uid, before) in [(3, None), (4, None), (7, Some(4)), (9, Some(8)), (10, Some(9)), (2, None)] {
            left.insert(uid, day(uid), before);
        }
        assert_eq!(shown(&left), "2:2 3:7 9:10 ");
        left.insert(5, day(20), None);
        assert_eq!(shown(&left), "2:2 3:7 9:10 ", "inserting the same message again changes nothing");
        left.remove(5);
        left.remove(9);
        left.remove(11);
        assert_eq!(shown(&left), "2:2 3:4 6:7 10:10 ");
    }

    #[test]
    fn a_window_selects_the_ranges_with_overlapping_dates() {
        let mut left = Left::default();
        for (uid, date) in [(1, day(1)), (2, day(9)), (4, day(20)), (6, None)] {
            left.insert(uid, date, None);
        }
        let touched = |since: Option<u32>, until: Option<u32>| {
            left.touched_by(&Window { since: since.and_then(day), until: until.and_then(day) })
        };
        assert_eq!(touched(None, None), [(1, 2), (4, 4), (6, 6)]);
        assert_eq!(touched(Some(5), Some(6)), [(1, 2)], "the messages in between are unknown");
        assert_eq!(touched(Some(10), Some(20)), []);
        assert_eq!(touched(Some(20), None), [(4, 4)]);
    }

    #[test]
    fn a_large_folder_is_stored_compactly() {
        let mut left = Left::default();
        for n in 0..100_000_u32 {
            left.insert(3 * n + 1, day(1 + n % 28), n.checked_sub(1).map(|n| 3 * n + 1));
        }
        let text = lorchestra_plugin_api::serde_json::to_string(&left).unwrap();
        assert!(text.len() < 30_000, "{} bytes", text.len());
        let back: Left = lorchestra_plugin_api::serde_json::from_str(&text).unwrap();
        assert_eq!(back, left);
    }
}
