//! First values, a function of seed and parameter name alone.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use xxhash_rust::xxh3::xxh3_64;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Initial {
    Normal { std: f64 },
    Constant(f64),
}

/// Every parameter has its own stream of the generator: adding a field or an expert leaves the
/// others as they were. Drawn in 64 bits, so that precision and device do not change the draw.
pub(crate) fn draw(seed: u64, name: &str, elements: usize, initial: Initial) -> Vec<f64> {
    match initial {
        Initial::Constant(value) => vec![value; elements],
        Initial::Normal { std } => {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(xxh3_64(name.as_bytes()));
            let normal = |_| std * Distribution::<f64>::sample(&StandardNormal, &mut rng);
            (0..elements).map(normal).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_values_depend_on_seed_and_name_alone_and_have_the_stated_spread() {
        let initial = Initial::Normal { std: 0.05 };
        let values = draw(1, "embeddings.user.weight", 40_000, initial);
        assert_eq!(values[..10], draw(1, "embeddings.user.weight", 10, initial));
        assert_ne!(values[0], draw(2, "embeddings.user.weight", 1, initial)[0]);
        assert_ne!(values[0], draw(1, "embeddings.video.weight", 1, initial)[0]);
        let variance = values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
        // Relative standard error of the variance of 40,000 draws is 0.7 %.
        assert!((variance / 0.0025 - 1.0).abs() < 0.04, "variance {variance}");
    }
}
