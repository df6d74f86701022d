//! Divides windows into arrays of Slurm, and orders the arrays so that together they never run more tasks at once than allowed.
//!
//! Slurm limits the tasks of one array (`%N`), not those of several. So arrays are divided into *lanes*: an array starts when the one before
//! it in its lane has ended (`--dependency=afterany`), and the limits of the lanes add up to the limit of the group. Arrays that are
//! submitted while others are still in the queue, and might exceed the limit with them, continue the lane of the newest one.

use std::fmt::Write;

/// Maximum number of ranges in one array, so that its description stays far below Slurm's limits.
const RANGES: usize = 500;

/// What is in the queue already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queued {
    /// Number of windows that wait or run.
    pub(super) windows: usize,
    /// The newest array.
    pub(super) newest: u64,
    /// Its limit, if it has one.
    pub(super) limit: Option<u32>,
}

/// An array to submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewArray {
    /// The window of index 0.
    pub(super) offset: u32,
    /// Its indices, as Slurm reads them.
    pub(super) indices: String,
    /// Maximum number of its tasks that run at once.
    pub(super) limit: u32,
    /// The array that must have ended before it starts.
    pub(super) after: Option<After>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// One with this job id.
    Queued(u64),
    /// One of those to submit.
    New(usize),
}

/// Divides windows into arrays with indices below `size`, of which at most `parallel` tasks run at once.
pub(super) fn plan(places: &[u32], size: u32, parallel: u32, queued: Option<Queued>) -> Vec<NewArray> {
    let arrays = divide(places, size);
    let parallel = parallel.max(1);
    let chain = queued.filter(|queued| queued.windows + places.len() > usize::try_from(parallel).unwrap_or(usize::MAX));
    let (lanes, limit) = match chain {
        Some(queued) => (1, queued.limit.unwrap_or(parallel).min(parallel)),
        None => {
            // With others in the queue, all of these windows may run at once.
            let other = queued.map_or(0, |queued| u32::try_from(queued.windows).unwrap_or(u32::MAX));
            let free = parallel.saturating_sub(other).max(1);
            (free.min(u32::try_from(arrays.len()).unwrap_or(u32::MAX)).max(1), free)
        }
    };
    let lane_count = usize::try_from(lanes).unwrap_or(1);
    let of = |(n, (offset, indices)): (usize, (u32, String))| {
        let lane = u32::try_from(n % lane_count).unwrap_or(0);
        let after = match n.checked_sub(lane_count) {
            Some(before) => Some(After::New(before)),
            None => chain.map(|queued| After::Queued(queued.newest)),
        };
        NewArray { offset, indices, limit: limit / lanes + u32::from(lane < limit % lanes), after }
    };
    arrays.into_iter().enumerate().map(of).collect()
}

/// Divides windows into arrays with indices below `size`: the offset of each, and its indices.
fn divide(places: &[u32], size: u32) -> Vec<(u32, String)> {
    let size = size.max(1);
    let mut arrays: Vec<(u32, String, usize)> = Vec::new();
    let mut at = 0;
    while at < places.len() {
        let first = places[at];
        let offset = first - first % size;
        let mut last = first;
        while at + 1 < places.len() && places[at + 1] == last + 1 && last + 1 < offset + size {
            at += 1;
            last += 1;
        }
        at += 1;
        let range = match (first - offset, last - offset) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        match arrays.last_mut() {
            Some((of, text, ranges)) if *of == offset && *ranges < RANGES => {
                // Writing into a String cannot fail.
                let _ = write!(text, ",{range}");
                *ranges += 1;
            }
            _ => arrays.push((offset, range, 1)),
        }
    }
    arrays.into_iter().map(|(offset, text, _)| (offset, text)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::queue::indices;
    use super::*;
    use std::collections::BTreeSet;

    fn read(arrays: &[(u32, String)]) -> Vec<u32> {
        arrays.iter().flat_map(|(offset, text)| indices(text).unwrap().into_iter().map(move |i| i + offset)).collect()
    }

    #[test]
    fn windows_are_divided_into_arrays_and_read_back() {
        for (places, size, expected) in [
            (vec![], 10, vec![]),
            (vec![0], 10, vec![(0, "0")]),
            ((0..10).collect(), 10, vec![(0, "0-9")]),
            ((0..25).collect(), 10, vec![(0, "0-9"), (10, "0-9"), (20, "0-4")]),
            (vec![1, 2, 3, 7, 9, 10, 11, 30], 10, vec![(0, "1-3,7,9"), (10, "0-1"), (30, "0")]),
        ] {
            let made = divide(&places, size);
            assert_eq!(made, expected.into_iter().map(|(offset, text)| (offset, text.to_owned())).collect::<Vec<_>>());
            assert_eq!(read(&made), places);
        }
        let scattered: Vec<u32> = (0..5000).map(|n| n * 2).collect();
        let made = divide(&scattered, 20_001);
        assert_eq!(made.len(), 10);
        assert_eq!(read(&made).into_iter().collect::<BTreeSet<_>>(), scattered.into_iter().collect());
    }

    /// The largest number of tasks that may run at once: of arrays none of which waits for another one of them.
    fn most(arrays: &[NewArray], queued: Option<Queued>) -> u32 {
        // A lane is as wide as its widest array. The lane of the newest array in the queue is part of what runs already.
        let mut lanes: Vec<u32> = Vec::new();
        let mut of: Vec<Option<usize>> = Vec::new();
        for array in arrays {
            let lane = match array.after {
                None => {
                    lanes.push(0);
                    Some(lanes.len() - 1)
                }
                Some(After::New(before)) => of[before],
                Some(After::Queued(id)) => {
                    assert_eq!(id, queued.unwrap().newest);
                    assert!(array.limit <= queued.unwrap().limit.unwrap_or(u32::MAX), "wider than the lane that it continues");
                    None
                }
            };
            if let Some(lane) = lane {
                lanes[lane] = lanes[lane].max(array.limit);
            }
            of.push(lane);
        }
        lanes.iter().sum()
    }

    #[test]
    fn all_arrays_together_keep_the_limit() {
        for size in [1, 3, 10, 1000] {
            for parallel in [1, 2, 5, 7, 100] {
                let places: Vec<u32> = (0..95).collect();
                let made = plan(&places, size, parallel, None);
                assert!(made.iter().all(|array| array.limit >= 1));
                assert_eq!(most(&made, None), parallel, "size {size}, parallel {parallel}: {made:?}");
            }
        }
        assert_eq!(plan(&[], 10, 5, None), []);
    }

    #[test]
    fn arrays_that_do_not_fit_wait_for_those_in_the_queue() {
        let queued = |windows, limit| Some(Queued { windows, newest: 7, limit });
        let places: Vec<u32> = (0..4).collect();
        // All fit next to the others.
        let fitting = plan(&places, 2, 10, queued(6, Some(3)));
        assert!(fitting.iter().all(|array| array.after.is_none()), "{fitting:?}");
        assert_eq!(most(&fitting, queued(6, Some(3))), 4);
        let chained = plan(&places, 2, 10, queued(7, Some(3)));
        let after: Vec<Option<After>> = chained.iter().map(|array| array.after).collect();
        assert_eq!(after, [Some(After::Queued(7)), Some(After::New(0))]);
        assert_eq!((most(&chained, queued(7, Some(3))), chained[0].limit), (0, 3));
        assert_eq!(plan(&places, 2, 10, queued(7, None))[0].limit, 10);
    }
}
