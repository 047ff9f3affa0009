//! How long at least one of many waited: the union of stretches of time.

/// How many nanoseconds of a window are covered by at least one of these stretches, from and to.
pub fn covered(mut stretches: Vec<(u64, u64)>, window: (u64, u64)) -> u64 {
    stretches.sort_unstable();
    let (mut sum, mut reached) = (0, window.0);
    for (from, to) in stretches {
        let (from, to) = (from.max(reached), to.min(window.1));
        if to > from {
            sum += to - from;
            reached = to;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_overlaps_counts_once_and_what_lies_outside_does_not() {
        assert_eq!(covered(vec![(5, 8), (0, 3), (2, 4), (6, 7)], (1, 100)), 3 + 3);
        assert_eq!(covered(vec![(0, 50), (90, 200)], (10, 100)), 40 + 10);
        assert_eq!(covered(vec![], (0, 9)), 0);
    }

    proptest! {
        #[test]
        fn it_is_what_counting_each_moment_gives(
            all in proptest::collection::vec((0_u64..60, 0_u64..60), 0..12),
            from in 0_u64..30, length in 0_u64..40,
        ) {
            let window = (from, from + length);
            let is_in = |at: &u64| all.iter().any(|(from, to)| (*from..*to).contains(at));
            let each = (window.0..window.1).filter(is_in).count() as u64;
            prop_assert_eq!(covered(all.clone(), window), each);
        }
    }
}
