//! Doing something again until it succeeds or its time is over.

use std::time::{Duration, Instant};

/// How long something is tried, and how often. The pauses double from the first to the longest.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    deadline: Instant,
    pause: Duration,
    longest: Duration,
}

impl Patience {
    /// For so long from now, with pauses from a millisecond to 50.
    pub fn of(limit: Duration) -> Self {
        let (pause, longest) = (Duration::from_millis(1), Duration::from_millis(50));
        Patience { deadline: Instant::now() + limit, pause, longest }
    }

    /// With pauses from the first to the longest.
    #[must_use]
    pub fn pausing(self, first: Duration, longest: Duration) -> Self {
        Patience { pause: first, longest, ..self }
    }

    /// Does the deed until it succeeds, fails for a reason that will not pass, or the time is over; returns what it
    /// ended with. It is done once at least, and once after the last pause.
    ///
    /// # Errors
    /// The last one of the deed.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use kld_core::retry::Patience;
    ///
    /// let mut tries = 0;
    /// let third = Patience::of(Duration::from_secs(1)).retry(
    ///     |error| *error == "busy",
    ///     || {
    ///         tries += 1;
    ///         if tries < 3 { Err("busy") } else { Ok(tries) }
    ///     },
    /// );
    /// assert_eq!(third, Ok(3));
    /// ```
    pub fn retry<T, E>(
        mut self,
        passes: impl Fn(&E) -> bool,
        mut deed: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            match deed() {
                Err(error) if Instant::now() < self.deadline && passes(&error) => {
                    std::thread::sleep(self.pause);
                }
                ended => return ended,
            }
            self.pause = (self.pause * 2).min(self.longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a deed that always fails with this error is done.
    fn tries(limit: Duration, error: &'static str) -> usize {
        let mut tries = 0;
        let deed = || -> Result<(), _> {
            tries += 1;
            Err(error)
        };
        assert_eq!(Patience::of(limit).retry(|error| *error == "busy", deed), Err(error));
        tries
    }

    #[test]
    fn what_will_not_pass_is_told_at_once() {
        assert_eq!(tries(Duration::from_secs(60), "missing"), 1);
    }

    #[test]
    fn what_may_pass_is_tried_until_the_time_is_over_and_then_told() {
        assert_eq!(tries(Duration::ZERO, "busy"), 1);
        assert!(tries(Duration::from_millis(10), "busy") > 1);
    }
}
