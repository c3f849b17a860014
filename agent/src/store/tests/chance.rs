//! How far counts are from what chance gives.

/// Pearson's chi-squared of counts against what was expected of them, as a number of standard deviations from what chance gives
/// (Wilson and Hilferty 1931: its cube root is close to normal).
pub(crate) fn deviation(cells: impl ExactSizeIterator<Item = (u32, f64)>) -> f64 {
    let freedom = cells.len() as f64 - 1.0;
    let squares = cells.map(|(count, expected)| {
        assert!(expected >= 5.0, "too few for the statistic");
        (f64::from(count) - expected).powi(2) / expected
    });
    let chance = 2.0 / (9.0 * freedom);
    ((squares.sum::<f64>() / freedom).cbrt() - (1.0 - chance)) / chance.sqrt()
}

/// Chance passes this once in thirty thousand tries; the seeds are fixed, so a passing test stays so.
pub(crate) const DEVIATION_MAX: f64 = 4.0;

pub(crate) fn counts(cells: usize, seen: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut counts = vec![0; cells];
    seen.for_each(|cell| counts[cell] += 1);
    counts
}
