//! Rotary frequencies (RoPE, arXiv 2104.09864) and their stretching.

use crate::recipe::{Rope, RopeScaling};
use core::f64::consts::TAU;

impl Rope {
    /// The angle in radians by which pair `pair` of `dims / 2` turns from one position to the next.
    ///
    /// `factor` is the pair's divisor from the tensor that [`Rope::factors`] names, 1 if there is none. Computed in f64,
    /// so that angles at far positions keep their digits.
    pub fn frequency(&self, pair: u32, factor: f32) -> f64 {
        let plain = libm::pow(self.base as f64, -2.0 * pair as f64 / self.dims as f64) / factor as f64;
        match self.scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain / factor as f64,
            RopeScaling::Yarn { factor, original_ctx, beta_fast, beta_slow, ext_factor } => {
                // Pairs that turn often over the original context are left alone, those that turn seldom are
                // interpolated, those between are mixed (arXiv 2309.00071, section 3.2).
                let low = libm::floor(self.pair_turning(beta_fast, original_ctx)).max(0.0);
                let high = libm::ceil(self.pair_turning(beta_slow, original_ctx)).min(self.dims as f64 - 1.0);
                let ramp = ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                let alone = (1.0 - ramp) * ext_factor as f64;
                plain / factor as f64 * (1.0 - alone) + plain * alone
            }
        }
    }

    /// The pair, as a fraction, that makes so many turns over `ctx` positions.
    fn pair_turning(&self, turns: f32, ctx: u32) -> f64 {
        self.dims as f64 * libm::log(ctx as f64 / (turns as f64 * TAU)) / (2.0 * libm::log(self.base as f64))
    }
}

/// YaRN's correction of the rotated elements' magnitude for a stretch of the context (its equation 22, square root).
pub fn yarn_magnitude(factor: f32) -> f32 {
    if factor > 1.0 { 0.1 * libm::logf(factor) + 1.0 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::RopeKind;
    use crate::recipe::RopeFactors;

    fn rope(dims: u32, base: f32, scaling: RopeScaling) -> Rope {
        Rope { dims, kind: RopeKind::Norm, base, scaling, factors: RopeFactors::None, magnitude: 1.0 }
    }

    #[test]
    fn plain_and_linear_frequencies() {
        let plain = rope(64, 10000.0, RopeScaling::None);
        assert_eq!(plain.frequency(0, 1.0), 1.0);
        assert!((plain.frequency(16, 1.0) - 0.01).abs() < 1e-15);
        assert!((plain.frequency(16, 4.0) - 0.0025).abs() < 1e-15);
        let linear = rope(64, 10000.0, RopeScaling::Linear { factor: 8.0 });
        for pair in 0..32 {
            assert_eq!(linear.frequency(pair, 1.0), plain.frequency(pair, 1.0) / 8.0);
        }
    }

    /// Qwen2.5's long-context setting: 128 dimensions, base 1e6, factor 4 over 32768. The pairs where the mix starts
    /// and ends are the paper's formula by hand: 64·ln(32768/(2π·32))/ln(1e6) = 23.6 and 64·ln(32768/2π)/ln(1e6) = 39.6.
    #[test]
    fn yarn_leaves_fast_pairs_alone_and_interpolates_slow_ones() {
        let scaling = |ext_factor| {
            let (factor, original_ctx, beta_fast, beta_slow) = (4.0, 32768, 32.0, 1.0);
            RopeScaling::Yarn { factor, original_ctx, beta_fast, beta_slow, ext_factor }
        };
        let (yarn, plain) = (rope(128, 1e6, scaling(1.0)), rope(128, 1e6, RopeScaling::None));
        for pair in 0..64 {
            let ratio = yarn.frequency(pair, 1.0) / plain.frequency(pair, 1.0);
            let expected = match pair {
                0..=23 => 1.0,
                40.. => 0.25,
                _ => 1.0 - 0.75 * (pair - 23) as f64 / 17.0,
            };
            assert!((ratio - expected).abs() < 1e-12, "pair {pair}: {ratio}, expected {expected}");
            // Half of the way from interpolation to what full YaRN does.
            let half = rope(128, 1e6, scaling(0.5)).frequency(pair, 1.0) / plain.frequency(pair, 1.0);
            assert!((half - (0.25 + ratio) / 2.0).abs() < 1e-12, "pair {pair}: {half}");
        }
        assert!((yarn_magnitude(4.0) - 1.138_629_4).abs() < 1e-6);
        assert_eq!(yarn_magnitude(0.5), 1.0);
    }
}
