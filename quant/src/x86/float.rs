//! Norms, activations' quantisation, gates, rotation and the cache's formats, over [`Simd`].
//!
//! Everything here takes any length: the last part of a vector goes through a masked load and store.
//!
//! Safety of every function: the lengths that the methods of `Kernels` check, and the conditions of [`super::simd`].

use super::simd::Simd;
use crate::act::{ActKind, record_parts, record_values};
use crate::kernels::{KvFormat, RopeKind, Unary};
use crate::scalar;
use core::arch::x86_64::*;
use half::f16;

/// Loads up to `LANES` elements of the `n` at `at`, from element `i`; zeros after the end.
#[inline(always)]
unsafe fn load<S: Simd>(at: *const f32, i: usize, n: usize) -> S::F {
    unsafe { if n - i >= S::LANES { S::load_f(at.add(i)) } else { S::load_part(at.add(i), n - i) } }
}

#[inline(always)]
unsafe fn store<S: Simd>(at: *mut f32, i: usize, n: usize, x: S::F) {
    unsafe { if n - i >= S::LANES { S::store_f(at.add(i), x) } else { S::store_part(at.add(i), n - i, x) } }
}

/// `e^x`, relative error below 2^-22; below -87.3 it answers 2^-126 (about 1e-38) instead of less, above 88.3 it answers
/// `e^88.3`. NaN stays NaN.
///
/// ```text
/// n = round(x · log2 e);  r = x - n · ln 2 (in two parts), |r| ≤ ln 2 / 2
/// e^x = 2^n · (1 + r + r² · p(r))
/// ```
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    unsafe {
        // min and max answer their second argument where one is NaN.
        let x = S::maxf(S::splat_f(-87.33), S::minf(S::splat_f(88.3), x));
        // Adding 1.5 · 2^23 rounds to an integer, which then lies in the low bits.
        let magic = S::splat_f(12_582_912.0);
        let shifted = S::fma(x, S::splat_f(core::f32::consts::LOG2_E), magic);
        let n = S::subf(shifted, magic);
        let r = S::fnma(n, S::splat_f(0.693_359_4), x);
        let r = S::fnma(n, S::splat_f(-2.121_944_4e-4), r);
        let mut p = S::splat_f(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
            p = S::fma(p, r, S::splat_f(c));
        }
        let y = S::addf(S::fma(p, S::mulf(r, r), r), S::splat_f(1.0));
        // 2^n by adding n to the exponent: n is in -126..=127 and y in 0.7..1.5.
        S::as_f(S::add(S::as_i(y), S::shl(S::as_i(shifted), 23)))
    }
}

/// `2^x` for `x` below 127, relative error below 2^-22; below -126 it may answer 2^-126 instead of less.
///
/// ```text
/// r = x - ⌊x⌋
/// 2^x = 2^⌊x⌋ · (1 + r · p(r))
/// ```
#[inline(always)]
pub(super) unsafe fn exp2<S: Simd>(x: S::F) -> S::F {
    unsafe {
        let r = S::fraction(x);
        // The polynomial of least relative error with p(0) = 1: 2^-23.5.
        let mut p = S::splat_f(1.867_13e-3);
        for c in [9.017_031e-3, 5.579_991_3e-2, 0.240_164_44, 0.693_151_3, 1.0] {
            p = S::fma(p, r, S::splat_f(c));
        }
        S::times_power(p, x)
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::F) -> S::F {
    unsafe {
        let one = S::splat_f(1.0);
        S::divf(one, S::addf(one, exp::<S>(S::subf(S::splat_f(0.0), x))))
    }
}

/// `tanh x`, absolute error below 2^-22.
#[inline(always)]
pub(super) unsafe fn tanh<S: Simd>(x: S::F) -> S::F {
    unsafe { S::fma(sigmoid::<S>(S::addf(x, x)), S::splat_f(2.0), S::splat_f(-1.0)) }
}

/// `erf x`, absolute error below 3e-7 (Abramowitz & Stegun 7.1.26).
#[inline(always)]
unsafe fn erf<S: Simd>(x: S::F) -> S::F {
    unsafe {
        let (one, zero, z) = (S::splat_f(1.0), S::splat_f(0.0), S::absf(x));
        let t = S::divf(one, S::fma(S::splat_f(0.327_591_1), z, one));
        let mut p = S::splat_f(1.061_405_4);
        for c in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
            p = S::fma(p, t, S::splat_f(c));
        }
        let y = S::fnma(S::mulf(p, t), exp::<S>(S::fnma(z, z, zero)), one);
        S::select_lt(x, zero, S::subf(zero, y), y)
    }
}

#[inline(always)]
unsafe fn apply<S: Simd>(f: Unary, x: S::F) -> S::F {
    unsafe {
        match f {
            Unary::Silu => S::mulf(x, sigmoid::<S>(x)),
            // (1 + tanh u) / 2 is the sigmoid of 2u.
            Unary::Gelu => {
                let cube =
                    S::fma(S::mulf(x, x), S::splat_f(2.0 * 0.797_884_6 * 0.044_715), S::splat_f(2.0 * 0.797_884_6));
                S::mulf(x, sigmoid::<S>(S::mulf(x, cube)))
            }
            Unary::GeluErf => {
                let e = erf::<S>(S::mulf(x, S::splat_f(core::f32::consts::FRAC_1_SQRT_2)));
                S::mulf(S::mulf(S::splat_f(0.5), x), S::addf(e, S::splat_f(1.0)))
            }
            Unary::Relu2 => {
                let x = S::maxf(S::splat_f(0.0), x);
                S::mulf(x, x)
            }
            Unary::Sigmoid => sigmoid::<S>(x),
        }
    }
}

/// See [`crate::Kernels::unary`].
#[inline(always)]
pub(super) unsafe fn unary<S: Simd>(f: Unary, x: &mut [f32]) {
    let (n, at) = (x.len(), x.as_mut_ptr());
    for i in (0..n).step_by(S::LANES) {
        unsafe { store::<S>(at, i, n, apply::<S>(f, load::<S>(at, i, n))) }
    }
}

/// See [`crate::Kernels::gated`].
#[inline(always)]
pub(super) unsafe fn gated<S: Simd>(f: Unary, gate: &mut [f32], up: &[f32]) {
    let (n, at, up) = (gate.len(), gate.as_mut_ptr(), up.as_ptr());
    for i in (0..n).step_by(S::LANES) {
        unsafe { store::<S>(at, i, n, S::mulf(apply::<S>(f, load::<S>(at, i, n)), load::<S>(up, i, n))) }
    }
}

/// See [`crate::Kernels::add_scaled`].
#[inline(always)]
pub(super) unsafe fn add_scaled<S: Simd>(x: &mut [f32], y: &[f32], scale: f32) {
    let (n, at, y) = (x.len(), x.as_mut_ptr(), y.as_ptr());
    for i in (0..n).step_by(S::LANES) {
        // Not fused: the same rounding as the oracle's.
        unsafe {
            let product = S::mulf(load::<S>(y, i, n), S::splat_f(scale));
            store::<S>(at, i, n, S::addf(load::<S>(at, i, n), product))
        }
    }
}

/// `Σ (x - less)²` over `LANES` partial sums; the zeros after the end of a last part each add `less²`.
#[inline(always)]
unsafe fn squares<S: Simd>(x: &[f32], less: f32) -> f32 {
    let (n, at) = (x.len(), x.as_ptr());
    unsafe {
        let less = S::splat_f(less);
        let mut sums = [S::splat_f(0.0); 4];
        for (k, i) in (0..n).step_by(S::LANES).enumerate() {
            let x = S::subf(load::<S>(at, i, n), less);
            sums[k % 4] = S::fma(x, x, sums[k % 4]);
        }
        S::sum(S::addf(S::addf(sums[0], sums[1]), S::addf(sums[2], sums[3])))
    }
}

/// `Σ x` over `LANES` partial sums.
#[inline(always)]
unsafe fn total<S: Simd>(x: &[f32]) -> f32 {
    let (n, at) = (x.len(), x.as_ptr());
    unsafe {
        let mut sum = S::splat_f(0.0);
        for i in (0..n).step_by(S::LANES) {
            sum = S::addf(sum, load::<S>(at, i, n));
        }
        S::sum(sum)
    }
}

/// See [`crate::Kernels::rms_norm`].
#[inline(always)]
pub(super) unsafe fn rms_norm<S: Simd>(x: &[f32], weight: &[u8], eps: f32, out: &mut [f32]) {
    let n = x.len();
    unsafe {
        let mean = squares::<S>(x, 0.0) / n as f32;
        let scale = S::splat_f(1.0 / libm::sqrtf(mean + eps));
        let (at, to, w) = (x.as_ptr(), out.as_mut_ptr(), weight.as_ptr().cast::<f32>());
        for i in (0..n).step_by(S::LANES) {
            let mut y = S::mulf(load::<S>(at, i, n), scale);
            if !weight.is_empty() {
                y = S::mulf(y, load::<S>(w, i, n));
            }
            store::<S>(to, i, n, y);
        }
    }
}

/// See [`crate::Kernels::layer_norm`].
#[inline(always)]
pub(super) unsafe fn layer_norm<S: Simd>(x: &[f32], weight: &[u8], bias: &[u8], eps: f32, out: &mut [f32]) {
    let n = x.len();
    unsafe {
        let mean = total::<S>(x) / n as f32;
        let less = S::splat_f(mean);
        let past = (n.div_ceil(S::LANES) * S::LANES - n) as f32;
        let squares = squares::<S>(x, mean) - past * mean * mean;
        let scale = S::splat_f(1.0 / libm::sqrtf((squares / n as f32).max(0.0) + eps));
        let (at, to) = (x.as_ptr(), out.as_mut_ptr());
        let (w, b) = (weight.as_ptr().cast::<f32>(), bias.as_ptr().cast::<f32>());
        for i in (0..n).step_by(S::LANES) {
            let mut y = S::mulf(S::subf(load::<S>(at, i, n), less), scale);
            if !weight.is_empty() {
                y = S::mulf(y, load::<S>(w, i, n));
            }
            if !bias.is_empty() {
                y = S::addf(y, load::<S>(b, i, n));
            }
            store::<S>(to, i, n, y);
        }
    }
}

/// See [`crate::Kernels::rope`]. Plain loops, which the compiler turns into vectors; nothing is fused, so the result is
/// the oracle's to the bit.
#[inline(always)]
pub(super) unsafe fn rope<S: Simd>(kind: RopeKind, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let turn = |u: &mut f32, v: &mut f32, c: f32, s: f32| (*u, *v) = (*u * c - *v * s, *u * s + *v * c);
    match kind {
        RopeKind::Norm => {
            for ((pair, c), s) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
                let [u, v] = pair else { continue };
                turn(u, v, *c, *s);
            }
        }
        RopeKind::Neox => {
            let (low, high) = x.split_at_mut(cos.len());
            for (((u, v), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                turn(u, v, *c, *s);
            }
        }
    }
}

/// The largest |x| of `n` elements, a multiple of `LANES`. NaN counts as 0.
#[inline(always)]
unsafe fn largest<S: Simd>(x: *const f32, n: usize) -> f32 {
    unsafe {
        let mut max = S::splat_f(0.0);
        for i in (0..n).step_by(S::LANES) {
            // max answers its second argument where one is NaN.
            max = S::maxf(S::absf(S::load_f(x.add(i))), max);
        }
        S::max(max)
    }
}

/// `q = round-half-even(x · inverse)` as bytes.
#[inline(always)]
unsafe fn to_bytes<S: Simd>(x: *const f32, n: usize, inverse: f32, q: *mut i8) {
    unsafe {
        for i in (0..n).step_by(S::LANES) {
            // |x · inverse| < 127.5, or NaN, whose conversion has a zero low byte.
            S::store_i8(q.add(i), S::to_i(S::mulf(S::load_f(x.add(i)), S::splat_f(inverse))));
        }
    }
}

/// See [`crate::Kernels::quantize_act`]: the oracle's integers and scales exactly.
#[inline(always)]
pub(super) unsafe fn quantize_act<S: Simd>(kind: ActKind, x: &[f32], record: &mut [u8]) {
    if kind == ActKind::F32 {
        return record_values(x.len(), record).copy_from_slice(x);
    }
    if !x.len().is_multiple_of(kind.block()) {
        return scalar::quantize_act(kind, x, record);
    }
    let (qs, scales, sums) = record_parts(kind, x.len(), record);
    let n = kind.block();
    for ((x, q), d) in x.chunks_exact(n).zip(qs.chunks_exact_mut(n)).zip(scales) {
        unsafe {
            let max = largest::<S>(x.as_ptr(), n);
            *d = max / 127.0;
            to_bytes::<S>(x.as_ptr(), n, scalar::inverse_scale(max), q.as_mut_ptr());
        }
    }
    for (q, s) in qs.chunks_exact(16).zip(sums) {
        // The bytes plus 128 each, summed by eights; then 16 · 128 less.
        unsafe {
            let q = _mm_xor_si128(_mm_loadu_si128(q.as_ptr().cast()), _mm_set1_epi8(-128));
            let sums = _mm_sad_epu8(q, _mm_setzero_si128());
            let sum = _mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums));
            *s = (_mm_cvtsi128_si32(sum) - 16 * 128) as i16;
        }
    }
}

/// See [`crate::Kernels::store_kv`]: the oracle's bytes exactly.
#[inline(always)]
pub(super) unsafe fn store_kv<S: Simd>(format: KvFormat, x: &[f32], out: &mut [u8]) {
    unsafe {
        match format {
            KvFormat::F32 => scalar::store_kv(format, x, out),
            KvFormat::F16 => {
                let whole = x.len() / S::LANES * S::LANES;
                for i in (0..whole).step_by(S::LANES) {
                    S::store_f16(out.as_mut_ptr().add(2 * i), S::load_f(x.as_ptr().add(i)));
                }
                scalar::store_kv(format, &x[whole..], &mut out[2 * whole..]);
            }
            KvFormat::Q8_0 => {
                for (x, o) in x.chunks_exact(32).zip(out.chunks_exact_mut(34)) {
                    let max = largest::<S>(x.as_ptr(), 32);
                    o[..2].copy_from_slice(&f16::from_f32(max / 127.0).to_le_bytes());
                    to_bytes::<S>(x.as_ptr(), 32, scalar::inverse_scale(max), o[2..].as_mut_ptr().cast());
                }
            }
        }
    }
}
