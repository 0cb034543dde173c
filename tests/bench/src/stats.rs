//! Medians and their uncertainty. Pure. Never: a clock or a measurement.

/// A median with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interval {
    /// Lower end.
    pub low: f64,
    /// The median.
    pub mid: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// A number without uncertainty.
    pub(crate) const fn exact(n: f64) -> Self {
        Self { low: n, mid: n, high: n }
    }
}

/// Times the samples are drawn anew.
const DRAWS: usize = 2000;

/// The middle of the values, the lower one of two; NaN of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// The median and its 95 % interval by bootstrap: medians of samples drawn anew with replacement.
pub(crate) fn bootstrap(samples: &[f64]) -> Interval {
    let mut chance = Chance::new(samples.len() as u64);
    let mut medians: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let drawn: Vec<f64> = samples.iter().map(|_| samples[chance.below(samples.len())]).collect();
            median(&drawn)
        })
        .collect();
    medians.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| medians.get((share * DRAWS as f64) as usize).copied().unwrap_or(f64::NAN);
    Interval { low: at(0.025), mid: median(samples), high: at(0.975) }
}

/// Numbers by chance, the same in every run (xorshift64, Marsaglia 2003).
pub(crate) struct Chance(u64);

impl Chance {
    /// Starts from a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2) + 0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `end`, 0 if that is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % (end.max(1) as u64)) as usize
    }

    /// Shuffles.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median_and_narrows() {
        let mut chance = Chance::new(7);
        let mut draw =
            |n: usize| -> Vec<f64> { (0..n).map(|_| 1.0 + chance.below(1000) as f64 / 1e4).collect() };
        let (few, many) = (bootstrap(&draw(20)), bootstrap(&draw(2000)));
        for interval in [few, many] {
            assert!(interval.low <= interval.mid && interval.mid <= interval.high, "{interval:?}");
            assert!((1.0..1.1).contains(&interval.mid));
        }
        assert!(many.high - many.low < few.high - few.low);
        assert!(median(&[]).is_nan() && median(&[3.0, 1.0, 2.0]) == 2.0);
    }

    #[test]
    fn a_shuffle_keeps_all_and_changes_the_order() {
        let mut items: Vec<u32> = (0..50).collect();
        Chance::new(1).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
