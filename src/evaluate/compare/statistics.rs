//! Mean, standard deviation and paired t over seeds.

use serde::Serialize;

/// Over some values; the deviation is that of a sample (n − 1), 0 of a single value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    pub mean: f64,
    pub sd: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Spread {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n.max(1.0);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Spread { mean, sd: if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 } }
    }
}

/// t of the paired differences `left − right`, with n − 1 degrees of freedom (Student, 1908); None of
/// fewer than two pairs, or where all differences are equal.
pub fn paired_t(left: &[f64], right: &[f64]) -> Option<f64> {
    let differences: Vec<f64> = left.iter().zip(right).map(|(left, right)| left - right).collect();
    let Spread { mean, sd } = Spread::of(&differences);
    (differences.len() > 1 && sd > 0.0).then(|| mean / (sd / (differences.len() as f64).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn textbook_values() {
        let spread = Spread::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!((spread.mean, (spread.sd * 1e6).round() / 1e6), (5.0, 2.138090));
        // Differences 1, 2, 3: mean 2, deviation 1.
        let t = paired_t(&[2.0, 4.0, 6.0], &[1.0, 2.0, 3.0]).expect("three pairs");
        assert!((t - 2.0 * 3.0_f64.sqrt()).abs() < 1e-12, "{t}");
        assert_eq!(paired_t(&[1.0], &[0.0]), None);
        assert_eq!(paired_t(&[1.0, 2.0], &[0.0, 1.0]), None);
    }
}
