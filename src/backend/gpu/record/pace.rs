//! How much of a prompt goes into one submit, so that it takes about 50 ms on the device at hand.
//!
//! A GPU that works on one submit for long freezes the desktop of a machine that has no other, and Windows resets it
//! after 2 s. Small submits waste its time between them. What a device does in 50 ms differs by a factor of 1000
//! between the GPU of a small laptop and that of a data centre, so it is measured while prompts run.

use std::time::Duration;

/// Time that a submit should take: below 50 ms by as much as one differs from the next.
const WANTED: Duration = Duration::from_millis(40);
/// Multiply-adds of the first submit, before anything is measured: 50 ms at 20 GMAC/s, a weak integrated GPU.
const FIRST_MACS: f64 = 1e9;
/// Less saves nothing: a submit cannot be shorter than one layer of a few tokens.
const LEAST_MACS: f64 = 1e7;
/// 50 ms at 200 TMAC/s, above every GPU of today.
const MOST_MACS: f64 = 1e13;
/// How much more the next submit may be: what was measured may have been too small to tell.
const GROWTH: f64 = 2.0;
/// How much less: the first steps wait for drivers that compile kernels at their first use, which says nothing about
/// the next ones.
const SHRINKING: f64 = 4.0;

/// The size of submits, in multiply-adds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    macs: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { macs: FIRST_MACS }
    }
}

impl Pace {
    /// Multiply-adds of the next submit.
    pub fn submit_macs(self) -> u64 {
        self.macs as u64
    }

    /// Learns that work of `macs`, in whatever number of submits, took `time`.
    pub fn observe(&mut self, macs: u64, time: Duration) {
        if macs == 0 {
            return;
        }
        let fitting = macs as f64 * WANTED.as_secs_f64() / time.as_secs_f64().max(1e-6);
        self.macs = fitting.clamp(self.macs / SHRINKING, self.macs * GROWTH).clamp(LEAST_MACS, MOST_MACS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs steps on a device of `macs_per_s` that takes `overhead` for each submit; returns the time of each.
    fn run(pace: &mut Pace, macs_per_s: f64, overhead: Duration, steps: usize) -> Vec<Duration> {
        let step = |_| {
            let macs = pace.submit_macs();
            let time = overhead + Duration::from_secs_f64(macs as f64 / macs_per_s);
            pace.observe(macs, time);
            time
        };
        (0..steps).map(step).collect()
    }

    #[test]
    fn submits_come_to_take_40_ms_on_any_device() {
        // A weak integrated GPU, a laptop's, a data centre's.
        for macs_per_s in [5e9, 1e12, 1e14] {
            let mut pace = Pace::default();
            let times = run(&mut pace, macs_per_s, Duration::from_micros(200), 30);
            for time in &times[20..] {
                assert!(
                    (Duration::from_millis(35)..Duration::from_millis(50)).contains(time),
                    "{macs_per_s}: {time:?}"
                );
            }
        }
    }

    #[test]
    fn a_device_that_slows_down_gets_less_within_a_few_steps() {
        let mut pace = Pace::default();
        run(&mut pace, 1e12, Duration::ZERO, 30);
        let times = run(&mut pace, 1e11, Duration::ZERO, 4);
        assert!(times[0] > Duration::from_millis(300), "{times:?}");
        assert!(times[2..].iter().all(|&time| time < Duration::from_millis(50)), "{times:?}");
    }

    #[test]
    fn one_slow_step_is_forgotten() {
        let mut pace = Pace::default();
        run(&mut pace, 1e12, Duration::ZERO, 30);
        let usual = pace.submit_macs();
        // A driver compiles for three seconds.
        pace.observe(usual, Duration::from_secs(3));
        assert!(pace.submit_macs() >= usual / 4 - 1);
        run(&mut pace, 1e12, Duration::ZERO, 3);
        assert!(pace.submit_macs().abs_diff(usual) < usual / 100);
    }

    #[test]
    fn extremes_stay_in_bounds() {
        let mut pace = Pace::default();
        for _ in 0..50 {
            pace.observe(1, Duration::from_secs(100));
        }
        assert_eq!(pace.submit_macs(), 10_000_000);
        for _ in 0..50 {
            pace.observe(u64::MAX, Duration::ZERO);
        }
        assert_eq!(pace.submit_macs(), 10_000_000_000_000);
        let before = pace;
        pace.observe(0, Duration::from_secs(1));
        assert_eq!(pace, before, "nothing was done");
    }
}
