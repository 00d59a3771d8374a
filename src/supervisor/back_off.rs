//! How long to wait before a worker that ended is replaced.
//!
//! At once after a long life, so that one crash costs one request; ever longer while workers die
//! young, so that an application which crashes at every start costs no core.

use std::time::Duration;

/// A worker that served this long was sound.
const SOUND_AFTER: Duration = Duration::from_secs(10);
/// First wait after a young death.
const SHORTEST: Duration = Duration::from_millis(100);
/// Longest wait while workers die before they are READY.
const LONGEST: Duration = Duration::from_secs(10);
/// Longest wait while they die young but served: each of them may have died of one bad request, and
/// the pool is short of a worker meanwhile.
const LONGEST_SERVED: Duration = Duration::from_secs(1);

/// Waits of a pool.
#[derive(Debug, Default)]
pub struct BackOff {
    young_deaths: u32,
}

impl BackOff {
    /// The wait before the replacement of a worker that was READY for so long (`None`: never).
    pub fn after_death(&mut self, served: Option<Duration>) -> Duration {
        if served.is_some_and(|served| served >= SOUND_AFTER) {
            self.young_deaths = 0;
            return Duration::ZERO;
        }
        // A first young death after sound ones may be chance: one worker killed by hand, say.
        let wait = match self.young_deaths {
            0 => Duration::ZERO,
            deaths => {
                let longest = if served.is_some() { LONGEST_SERVED } else { LONGEST };
                longest.min(SHORTEST * 2u32.saturating_pow((deaths - 1).min(16)))
            }
        };
        self.young_deaths = self.young_deaths.saturating_add(1);
        wait
    }

    /// How many in a row were READY for less than [`SOUND_AFTER`], or never.
    pub fn young_deaths(&self) -> u32 {
        self.young_deaths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_fall_back() {
        let mut back_off = BackOff::default();
        let mut young = || back_off.after_death(Some(Duration::from_secs(1))).as_millis();
        assert_eq!([young(), young(), young(), young()], [0, 100, 200, 400]);
        for _ in 0..100 {
            young();
        }
        assert_eq!(young(), LONGEST_SERVED.as_millis());
        assert_eq!(back_off.after_death(None), LONGEST);
        assert_eq!(back_off.after_death(Some(SOUND_AFTER)), Duration::ZERO);
        assert_eq!(back_off.after_death(None), Duration::ZERO);
        assert_eq!(back_off.after_death(None), SHORTEST);
    }
}
