//! Norms, gates, rotation, quantising activations, the cache's formats. Any length: the last part of a vector is
//! padded with zeros.

use super::{Floats, LANES, load, store};
use crate::act::{ActKind, record_parts};
use crate::kernels::{KvFormat, RopeKind, Unary};
use crate::scalar;
use core::simd::prelude::*;

/// Adding this rounds a small float to an integer, half to even, and leaves it in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// `e^x` to a relative error below 1e-6 in −87.33 to 88.3, and its value at these bounds outside; NaN stays NaN.
/// The nearest multiple of ln 2 is taken off in two parts, the rest is a polynomial (Cephes' `expf`).
#[inline(always)]
pub(super) fn exp(x: Floats) -> Floats {
    let x = x.simd_clamp(Floats::splat(-87.33), Floats::splat(88.3));
    let shifted = x * Floats::splat(core::f32::consts::LOG2_E) + Floats::splat(ROUNDER);
    let n = shifted - Floats::splat(ROUNDER);
    // 0.693359375 has ten bits: n times it is exact.
    let r = x - n * Floats::splat(0.693_359_4) + n * Floats::splat(2.121_944_4e-4);
    let mut p = Floats::splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        p = p * r + Floats::splat(c);
    }
    let y = p * r * r + r + Floats::splat(1.0);
    Floats::from_bits(y.to_bits() + (shifted.to_bits() << u32x8::splat(23)))
}

#[inline(always)]
fn sigmoid(x: Floats) -> Floats {
    Floats::splat(1.0) / (Floats::splat(1.0) + exp(-x))
}

#[inline(always)]
pub(super) fn tanh(x: Floats) -> Floats {
    sigmoid(x + x) * Floats::splat(2.0) - Floats::splat(1.0)
}

/// Abramowitz & Stegun 7.1.26: absolute error below 3e-7.
#[inline(always)]
fn erf(x: Floats) -> Floats {
    let (one, z) = (Floats::splat(1.0), x.abs());
    let t = one / (Floats::splat(0.327_591_1) * z + one);
    let mut p = Floats::splat(1.061_405_4);
    for c in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        p = p * t + Floats::splat(c);
    }
    (one - p * t * exp(-z * z)).copysign(x)
}

#[inline(always)]
fn apply(f: Unary, x: Floats) -> Floats {
    match f {
        Unary::Silu => x / (Floats::splat(1.0) + exp(-x)),
        // (1 + tanh u) / 2 is the sigmoid of 2u.
        Unary::Gelu => {
            let cubic = Floats::splat(0.044_715) * x * x + Floats::splat(1.0);
            x * sigmoid(Floats::splat(2.0 * 0.797_884_6) * x * cubic)
        }
        Unary::GeluErf => {
            Floats::splat(0.5) * x * (Floats::splat(1.0) + erf(x * Floats::splat(core::f32::consts::FRAC_1_SQRT_2)))
        }
        Unary::Relu2 => {
            let x = x.simd_max(Floats::splat(0.0));
            x * x
        }
        Unary::Sigmoid => sigmoid(x),
    }
}

/// `x = f(x, y)`; `y` is as long as `x`, or empty for zeros.
#[inline(always)]
fn map(x: &mut [f32], y: &[f32], f: impl Fn(Floats, Floats) -> Floats) {
    let mut y = y.chunks(LANES);
    for x in x.chunks_mut(LANES) {
        let v = f(Floats::load_or_default(x), Floats::load_or_default(y.next().unwrap_or(&[])));
        store(x, v);
    }
}

/// See [`crate::Kernels::unary`].
pub(super) fn unary(f: Unary, x: &mut [f32]) {
    map(x, &[], |x, _| apply(f, x));
}

/// See [`crate::Kernels::gated`].
pub(super) fn gated(f: Unary, gate: &mut [f32], up: &[f32]) {
    map(gate, up, |g, u| apply(f, g) * u);
}

/// See [`crate::Kernels::add_scaled`].
pub(super) fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
    map(x, y, |x, y| x + y * Floats::splat(scale));
}

/// `Σ f(x)` over the lanes; `f` sees zeros after the end.
#[inline(always)]
fn sum_of(x: &[f32], f: impl Fn(Floats) -> Floats) -> f32 {
    x.chunks(LANES).fold(Floats::splat(0.0), |sum, x| sum + f(Floats::load_or_default(x))).reduce_sum()
}

/// `out = (x − less) · scale · weight + bias`.
#[inline(always)]
fn normed(x: &[f32], less: f32, scale: f32, weight: &[u8], bias: &[u8], out: &mut [f32]) {
    let floats = |bytes: &[u8], i: usize| load(&bytes.as_chunks::<4>().0[i * LANES..], f32::from_le_bytes);
    for (i, (x, out)) in x.chunks(LANES).zip(out.chunks_mut(LANES)).enumerate() {
        let mut y = (Floats::load_or_default(x) - Floats::splat(less)) * Floats::splat(scale);
        if !weight.is_empty() {
            y *= floats(weight, i);
        }
        if !bias.is_empty() {
            y += floats(bias, i);
        }
        store(out, y);
    }
}

/// See [`crate::Kernels::rms_norm`].
pub(super) fn rms_norm(x: &[f32], weight: &[u8], eps: f32, out: &mut [f32]) {
    let mean = sum_of(x, |x| x * x) / x.len() as f32;
    normed(x, 0.0, 1.0 / libm::sqrtf(mean + eps), weight, &[], out);
}

/// See [`crate::Kernels::layer_norm`].
pub(super) fn layer_norm(x: &[f32], weight: &[u8], bias: &[u8], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum_of(x, |x| x) / n;
    let squares = |x| (x - Floats::splat(mean)) * (x - Floats::splat(mean));
    // The zeros after the end each add mean².
    let past = (x.len().next_multiple_of(LANES) - x.len()) as f32;
    let var = (sum_of(x, squares) - past * mean * mean).max(0.0) / n;
    normed(x, mean, 1.0 / libm::sqrtf(var + eps), weight, bias, out);
}

/// See [`crate::Kernels::rope`]. The compiler makes vectors of these loops.
pub(super) fn rope(kind: RopeKind, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    if kind == RopeKind::Norm {
        return scalar::rope(kind, x, cos, sin);
    }
    let (low, high) = x.split_at_mut(cos.len());
    let angles = cos.chunks(LANES).zip(sin.chunks(LANES));
    for ((u, v), (c, s)) in low.chunks_mut(LANES).zip(high.chunks_mut(LANES)).zip(angles) {
        let (c, s) = (Floats::load_or_default(c), Floats::load_or_default(s));
        // The high half may go on behind the angles.
        let v = &mut v[..u.len()];
        let (a, b) = (Floats::load_or_default(u), Floats::load_or_default(v));
        store(u, a * c - b * s);
        store(v, a * s + b * c);
    }
}

/// The largest |x|, NaN left out. `x` is a multiple of eight long.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let x = x.as_chunks::<LANES>().0;
    x.iter().fold(Floats::splat(0.0), |m, x| m.simd_max(Floats::from_array(*x).abs())).reduce_max()
}

/// `round-half-even(x · inverse)`, where that is below 128 in size or NaN, which gives 0. A multiple of eight long.
#[inline(always)]
fn to_bytes(x: &[f32], inverse: f32, q: &mut [i8]) {
    for (x, q) in x.as_chunks::<LANES>().0.iter().zip(q.as_chunks_mut::<LANES>().0) {
        let x = Floats::from_array(*x) * Floats::splat(inverse);
        let rounded = (x + Floats::splat(ROUNDER)).to_bits() & x.simd_eq(x).to_simd().cast::<u32>();
        *q = rounded.cast::<i8>().to_array();
    }
}

/// See [`crate::Kernels::quantize_act`].
pub(super) fn quantize_act(kind: ActKind, x: &[f32], record: &mut [u8]) {
    if kind == ActKind::F32 || !x.len().is_multiple_of(kind.block()) {
        return scalar::quantize_act(kind, x, record);
    }
    let (qs, scales, sums) = record_parts(kind, x.len(), record);
    let n = kind.block();
    for ((x, q), d) in x.chunks_exact(n).zip(qs.chunks_exact_mut(n)).zip(scales) {
        let max = largest(x);
        *d = max / 127.0;
        to_bytes(x, scalar::inverse_scale(max), q);
    }
    for (q, s) in qs.as_chunks::<16>().0.iter().zip(sums) {
        *s = i8x16::from_array(*q).cast::<i16>().reduce_sum();
    }
}

/// See [`crate::Kernels::store_kv`].
pub(super) fn store_kv(format: KvFormat, x: &[f32], out: &mut [u8]) {
    if format != KvFormat::Q8_0 {
        return scalar::store_kv(format, x, out);
    }
    for (x, o) in x.chunks_exact(32).zip(out.chunks_exact_mut(34)) {
        let max = largest(x);
        let (d, q) = o.split_at_mut(2);
        d.copy_from_slice(&half::f16::from_f32(max / 127.0).to_le_bytes());
        to_bytes(x, scalar::inverse_scale(max), bytemuck::cast_slice_mut(q));
    }
}
