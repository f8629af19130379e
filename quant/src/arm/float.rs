//! The float path: norms, rotation, activation functions, quantising activations, storing keys and values.
//!
//! Baseline NEON. Sums run in four lanes of four accumulators, so their order differs from the scalar kernels';
//! integers and stored values are theirs exactly.

use super::cpu::{SCALE_PLACES, four};
use crate::act::{ActKind, record_parts};
use crate::kernels::{KvFormat, RopeKind, Unary};
use core::arch::aarch64::*;

/// Four f16 at `p`, widened.
#[inline(always)]
pub(super) unsafe fn load_f16(p: *const u8) -> float32x4_t {
    // SAFETY: the caller gives 8 readable bytes.
    unsafe { widen(vreinterpret_u16_u8(vld1_u8(p))) }
}

/// Four f16 widened to f32.
#[inline(always)]
pub(super) fn widen(x: uint16x4_t) -> float32x4_t {
    // SAFETY: baseline NEON.
    unsafe { vcvt_f32_f16(vreinterpret_f16_u16(x)) }
}

/// One little-endian f16 at `p`, as f32.
#[inline(always)]
pub(super) unsafe fn scale_at(p: *const u8) -> f32 {
    // SAFETY: the caller gives 2 readable bytes.
    unsafe { vgetq_lane_f32::<0>(widen(vdup_n_u16(p.cast::<u16>().read_unaligned()))) }
}

/// Four f16, `step` bytes apart, the first ones of blocks of that many bytes.
#[inline(always)]
pub(super) unsafe fn four_scales(p: *const u8, step: usize) -> float32x4_t {
    // SAFETY: the caller gives readable bytes at the four places; with 18 bytes to a block, the 64 of a load are inside
    // the four blocks' 72.
    unsafe {
        if step == 18 {
            return widen(vreinterpret_u16_u8(vqtbl4_u8(vld1q_u8_x4(p), vcreate_u8(SCALE_PLACES))));
        }
        f16_at(four!(|I| p.add(I * step)))
    }
}

/// Four f16, one from each address, widened.
#[inline(always)]
pub(super) unsafe fn f16_at(p: [*const u8; 4]) -> float32x4_t {
    // SAFETY: the caller gives 2 readable bytes at each.
    unsafe {
        let at = |i: usize| p[i].cast::<u16>();
        let d = vld1_lane_u16::<0>(at(0), vdup_n_u16(0));
        let d = vld1_lane_u16::<2>(at(2), vld1_lane_u16::<1>(at(1), d));
        widen(vld1_lane_u16::<3>(at(3), d))
    }
}

/// `e^x`: the nearest multiple of ln 2 is taken off in two parts, the rest is a polynomial of degree 6 (relative
/// error below 2 ulp). Below −87.33, where the result would be denormal, it is 0; above 88.37 it stays at 2.4e38.
#[inline(always)]
pub(super) fn exp(x: float32x4_t) -> float32x4_t {
    // SAFETY: baseline NEON.
    unsafe {
        let low = vdupq_n_f32(-87.33);
        let clamped = vminq_f32(vmaxq_f32(x, low), vdupq_n_f32(88.37));
        let n = vrndnq_f32(vmulq_n_f32(clamped, core::f32::consts::LOG2_E));
        // ln 2 = 0.693145752 (short enough that n times it is exact) + 1.42860677e-6.
        let r = vfmsq_n_f32(vfmsq_n_f32(clamped, n, 0.693_145_75), n, 1.428_606_8e-6);
        let mut p = vdupq_n_f32(1.0 / 720.0);
        for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = vfmaq_f32(vdupq_n_f32(c), p, r);
        }
        let power = vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)));
        let y = vmulq_f32(p, vreinterpretq_f32_s32(power));
        // A NaN is not below: it comes through the clamp and the polynomial.
        vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, low)))
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid_of(x: float32x4_t) -> float32x4_t {
    // SAFETY: baseline NEON.
    unsafe {
        let one = vdupq_n_f32(1.0);
        vdivq_f32(one, vaddq_f32(one, exp(vnegq_f32(x))))
    }
}

/// `tanh(x) = 2 · sigmoid(2x) − 1`, with the absolute error of a float near 1.
#[inline(always)]
pub(super) fn tanh(x: float32x4_t) -> float32x4_t {
    // SAFETY: baseline NEON.
    unsafe { vsubq_f32(vmulq_n_f32(sigmoid_of(vaddq_f32(x, x)), 2.0), vdupq_n_f32(1.0)) }
}

/// The error function by Abramowitz & Stegun 7.1.26: absolute error below 2e-7.
#[inline(always)]
fn erf(x: float32x4_t) -> float32x4_t {
    // SAFETY: baseline NEON.
    unsafe {
        let one = vdupq_n_f32(1.0);
        let z = vabsq_f32(x);
        let t = vdivq_f32(one, vfmaq_n_f32(one, z, 0.327_591_1));
        let mut p = vdupq_n_f32(1.061_405_4);
        for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
            p = vfmaq_f32(vdupq_n_f32(c), p, t);
        }
        let y = vfmsq_f32(one, vmulq_f32(p, t), exp(vnegq_f32(vmulq_f32(z, z))));
        vbslq_f32(vdupq_n_u32(1 << 31), x, y)
    }
}

#[inline(always)]
fn silu(x: float32x4_t) -> float32x4_t {
    // SAFETY: baseline NEON.
    unsafe { vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0), exp(vnegq_f32(x)))) }
}

/// The tanh form, by `0.5 · (1 + tanh(u)) = sigmoid(2u)`.
#[inline(always)]
fn gelu(x: float32x4_t) -> float32x4_t {
    // SAFETY: baseline NEON.
    unsafe {
        let cubic = vfmaq_n_f32(vdupq_n_f32(1.0), vmulq_f32(x, x), 0.044_715);
        let u2 = vmulq_f32(vmulq_n_f32(x, 2.0 * 0.797_884_6), cubic);
        vmulq_f32(x, sigmoid_of(u2))
    }
}

#[inline(always)]
fn gelu_erf(x: float32x4_t) -> float32x4_t {
    // SAFETY: baseline NEON.
    unsafe {
        let e = erf(vmulq_n_f32(x, core::f32::consts::FRAC_1_SQRT_2));
        vmulq_f32(vmulq_n_f32(x, 0.5), vaddq_f32(vdupq_n_f32(1.0), e))
    }
}

#[inline(always)]
fn relu2(x: float32x4_t) -> float32x4_t {
    // SAFETY: baseline NEON.
    unsafe {
        let p = vmaxq_f32(x, vdupq_n_f32(0.0));
        vmulq_f32(p, p)
    }
}

/// The first four elements of `x`, zeros where it is shorter.
#[inline(always)]
pub(super) fn load_part(x: &[f32]) -> float32x4_t {
    let mut four = [0.0f32; 4];
    let n = x.len().min(4);
    four[..n].copy_from_slice(&x[..n]);
    // SAFETY: four floats.
    unsafe { vld1q_f32(four.as_ptr()) }
}

/// Stores the first elements of `v`, as many as `x` has.
#[inline(always)]
pub(super) fn store_part(x: &mut [f32], v: float32x4_t) {
    let mut four = [0.0f32; 4];
    // SAFETY: four floats.
    unsafe { vst1q_f32(four.as_mut_ptr(), v) };
    let n = x.len().min(4);
    x[..n].copy_from_slice(&four[..n]);
}

/// `x = f(x, y)`, four at a time. `y` is as long as `x`.
#[inline(always)]
fn map(x: &mut [f32], y: &[f32], f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) {
    let (x4, x_rest) = x.as_chunks_mut::<4>();
    let (y4, y_rest) = y.as_chunks::<4>();
    for (x, y) in x4.iter_mut().zip(y4) {
        // SAFETY: both are four floats.
        unsafe { vst1q_f32(x.as_mut_ptr(), f(vld1q_f32(x.as_ptr()), vld1q_f32(y.as_ptr()))) }
    }
    if !x_rest.is_empty() {
        let v = f(load_part(x_rest), load_part(y_rest));
        store_part(x_rest, v);
    }
}

/// See [`crate::Kernels::add_scaled`].
pub(super) fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
    // Product and sum rounded apart, as the scalar kernel does.
    // SAFETY: baseline NEON.
    map(x, y, |x, y| unsafe { vaddq_f32(x, vmulq_n_f32(y, scale)) })
}

/// See [`crate::Kernels::gated`].
pub(super) fn gated(f: Unary, gate: &mut [f32], up: &[f32]) {
    // SAFETY: baseline NEON.
    let mul = |a, b| unsafe { vmulq_f32(a, b) };
    match f {
        Unary::Silu => map(gate, up, |g, u| mul(silu(g), u)),
        Unary::Gelu => map(gate, up, |g, u| mul(gelu(g), u)),
        Unary::GeluErf => map(gate, up, |g, u| mul(gelu_erf(g), u)),
        Unary::Relu2 => map(gate, up, |g, u| mul(relu2(g), u)),
        Unary::Sigmoid => map(gate, up, |g, u| mul(sigmoid_of(g), u)),
    }
}

/// See [`crate::Kernels::unary`].
pub(super) fn unary(f: Unary, x: &mut [f32]) {
    let each = |x: &mut [f32], f: fn(float32x4_t) -> float32x4_t| {
        let (x4, rest) = x.as_chunks_mut::<4>();
        for x in x4 {
            // SAFETY: four floats.
            unsafe { vst1q_f32(x.as_mut_ptr(), f(vld1q_f32(x.as_ptr()))) }
        }
        if !rest.is_empty() {
            let v = f(load_part(rest));
            store_part(rest, v);
        }
    };
    match f {
        Unary::Silu => each(x, silu),
        Unary::Gelu => each(x, gelu),
        Unary::GeluErf => each(x, gelu_erf),
        Unary::Relu2 => each(x, relu2),
        Unary::Sigmoid => each(x, sigmoid_of),
    }
}

/// `Σ f(x)`, four at a time in four accumulators.
#[inline(always)]
fn sum_of(x: &[f32], f: impl Fn(float32x4_t) -> float32x4_t) -> f32 {
    let (x16, rest) = x.as_chunks::<16>();
    // SAFETY: reads stay inside the chunks.
    unsafe {
        let mut acc = [vdupq_n_f32(0.0); 4];
        for x in x16 {
            for (i, a) in acc.iter_mut().enumerate() {
                *a = vaddq_f32(*a, f(vld1q_f32(x.as_ptr().add(4 * i))));
            }
        }
        let mut total = vaddvq_f32(vaddq_f32(vaddq_f32(acc[0], acc[1]), vaddq_f32(acc[2], acc[3])));
        for x in rest {
            total += vgetq_lane_f32::<0>(f(vdupq_n_f32(*x)));
        }
        total
    }
}

/// `out[i] = f(x[i], weight[i], bias[i])`; an empty weight is 1, an empty bias 0.
#[inline(always)]
fn normed(
    x: &[f32],
    weight: &[u8],
    bias: &[u8],
    out: &mut [f32],
    f: impl Fn(float32x4_t, float32x4_t, float32x4_t) -> float32x4_t,
) {
    let read = |bytes: &[u8], i: usize, default: f32| match bytes.get(4 * i..4 * i + 16) {
        // SAFETY: sixteen bytes.
        Some(b) => unsafe { vreinterpretq_f32_u8(vld1q_u8(b.as_ptr())) },
        None => {
            let mut four = [default; 4];
            for (j, v) in four.iter_mut().enumerate() {
                if let Some(b) = bytes.get(4 * (i + j)..4 * (i + j) + 4) {
                    *v = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            // SAFETY: four floats.
            unsafe { vld1q_f32(four.as_ptr()) }
        }
    };
    let (x4, whole) = (x.as_chunks::<4>().0, x.len() / 4);
    // SAFETY: sixteen bytes of each.
    let load = |bytes: &[u8; 16]| unsafe { vreinterpretq_f32_u8(vld1q_u8(bytes.as_ptr())) };
    let mut done = 0;
    if let (Some(weight), true) = (weight.as_chunks::<16>().0.get(..whole), bias.is_empty()) {
        for ((x, w), o) in x4.iter().zip(weight).zip(out.as_chunks_mut::<4>().0) {
            // SAFETY: both are four floats.
            unsafe { vst1q_f32(o.as_mut_ptr(), f(vld1q_f32(x.as_ptr()), load(w), vdupq_n_f32(0.0))) }
        }
        done = whole;
    }
    for (i, (x, o)) in x.chunks(4).zip(out.chunks_mut(4)).enumerate().skip(done) {
        let (w, b) = (read(weight, 4 * i, 1.0), read(bias, 4 * i, 0.0));
        match (x.first_chunk::<4>(), o.first_chunk_mut::<4>()) {
            // SAFETY: both are four floats.
            (Some(x), Some(o)) => unsafe { vst1q_f32(o.as_mut_ptr(), f(vld1q_f32(x.as_ptr()), w, b)) },
            _ => store_part(o, f(load_part(x), w, b)),
        }
    }
}

/// See [`crate::Kernels::rms_norm`].
pub(super) fn rms_norm(x: &[f32], weight: &[u8], eps: f32, out: &mut [f32]) {
    // SAFETY: baseline NEON.
    unsafe {
        let mean = sum_of(x, |v| vmulq_f32(v, v)) / x.len() as f32;
        let scale = 1.0 / libm::sqrtf(mean + eps);
        normed(x, weight, &[], out, |x, w, _| vmulq_f32(vmulq_n_f32(x, scale), w));
    }
}

/// See [`crate::Kernels::layer_norm`].
pub(super) fn layer_norm(x: &[f32], weight: &[u8], bias: &[u8], eps: f32, out: &mut [f32]) {
    // SAFETY: baseline NEON.
    unsafe {
        let n = x.len() as f32;
        let mean = vdupq_n_f32(sum_of(x, |v| v) / n);
        let centred = |v| vsubq_f32(v, mean);
        let var = sum_of(x, |v| vmulq_f32(centred(v), centred(v))) / n;
        let scale = 1.0 / libm::sqrtf(var + eps);
        normed(x, weight, bias, out, |x, w, b| vaddq_f32(vmulq_f32(vmulq_n_f32(centred(x), scale), w), b));
    }
}

/// See [`crate::Kernels::rope`].
pub(super) fn rope(kind: RopeKind, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    let whole = half / 4 * 4;
    // SAFETY: baseline NEON.
    let turn = |u, v, c, s| unsafe {
        (vsubq_f32(vmulq_f32(u, c), vmulq_f32(v, s)), vaddq_f32(vmulq_f32(u, s), vmulq_f32(v, c)))
    };
    let angles = cos.as_chunks::<4>().0.iter().zip(sin.as_chunks::<4>().0);
    match kind {
        RopeKind::Norm => {
            for (x, (c, s)) in x.as_chunks_mut::<8>().0.iter_mut().zip(angles) {
                // SAFETY: eight floats, and four each.
                unsafe {
                    let p = vld2q_f32(x.as_ptr());
                    let (u, v) = turn(p.0, p.1, vld1q_f32(c.as_ptr()), vld1q_f32(s.as_ptr()));
                    vst2q_f32(x.as_mut_ptr(), float32x4x2_t(u, v));
                }
            }
        }
        RopeKind::Neox => {
            let (low, high) = x.split_at_mut(half);
            let pairs = low.as_chunks_mut::<4>().0.iter_mut().zip(high.as_chunks_mut::<4>().0);
            for ((low, high), (c, s)) in pairs.zip(angles) {
                // SAFETY: four floats each.
                unsafe {
                    let (u, v) = (vld1q_f32(low.as_ptr()), vld1q_f32(high.as_ptr()));
                    let (u, v) = turn(u, v, vld1q_f32(c.as_ptr()), vld1q_f32(s.as_ptr()));
                    vst1q_f32(low.as_mut_ptr(), u);
                    vst1q_f32(high.as_mut_ptr(), v);
                }
            }
        }
    }
    for i in whole..half {
        let (a, b) = match kind {
            RopeKind::Norm => (2 * i, 2 * i + 1),
            RopeKind::Neox => (i, i + half),
        };
        let (u, v) = (x[a], x[b]);
        x[a] = u * cos[i] - v * sin[i];
        x[b] = u * sin[i] + v * cos[i];
    }
}

/// The largest magnitude of `x`, NaN left out.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let (x8, rest) = x.as_chunks::<8>();
    // SAFETY: eight floats a chunk.
    unsafe {
        let mut max = [vdupq_n_f32(0.0); 2];
        for x in x8 {
            for (i, m) in max.iter_mut().enumerate() {
                *m = vmaxnmq_f32(*m, vabsq_f32(vld1q_f32(x.as_ptr().add(4 * i))));
            }
        }
        rest.iter().fold(vmaxnmvq_f32(vmaxnmq_f32(max[0], max[1])), |m, v| m.max(libm::fabsf(*v)))
    }
}

/// `round-half-even(x · inverse)` of sixteen, saturated to i8 (NaN gives 0, as Rust's cast does).
#[inline(always)]
unsafe fn quantize16(x: *const f32, inverse: f32) -> int8x16_t {
    // SAFETY: the caller gives sixteen readable floats.
    unsafe {
        let four = |i: usize| vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x.add(4 * i)), inverse)));
        let (low, high) = (vcombine_s16(four(0), four(1)), vcombine_s16(four(2), four(3)));
        vcombine_s8(vqmovn_s16(low), vqmovn_s16(high))
    }
}

/// See [`crate::Kernels::quantize_act`].
pub(super) fn quantize_act(kind: ActKind, x: &[f32], record: &mut [u8]) {
    if kind == ActKind::F32 || !x.len().is_multiple_of(kind.block()) {
        return crate::scalar::quantize_act(kind, x, record);
    }
    let (qs, scales, sums) = record_parts(kind, x.len(), record);
    let n = kind.block();
    for (((x, q), s), d) in x.chunks_exact(n).zip(qs.chunks_exact_mut(n)).zip(sums.chunks_exact_mut(n / 16)).zip(scales)
    {
        let max = largest(x);
        *d = max / 127.0;
        let inverse = crate::scalar::inverse_scale(max);
        for ((x, q), s) in x.chunks_exact(16).zip(q.chunks_exact_mut(16)).zip(s) {
            // SAFETY: sixteen of each.
            unsafe {
                let v = quantize16(x.as_ptr(), inverse);
                vst1q_s8(q.as_mut_ptr(), v);
                *s = vaddlvq_s8(v);
            }
        }
    }
}

/// See [`crate::Kernels::store_kv`].
pub(super) fn store_kv(format: KvFormat, x: &[f32], out: &mut [u8]) {
    match format {
        KvFormat::F32 => crate::scalar::store_kv(format, x, out),
        KvFormat::F16 => {
            let (x4, rest) = x.as_chunks::<4>();
            let (o4, o_rest) = out.as_chunks_mut::<8>();
            for (x, o) in x4.iter().zip(o4) {
                // SAFETY: four floats, eight bytes.
                unsafe { vst1_u8(o.as_mut_ptr(), vreinterpret_u8_f16(vcvt_f16_f32(vld1q_f32(x.as_ptr())))) }
            }
            crate::scalar::store_kv(format, rest, o_rest);
        }
        KvFormat::Q8_0 => {
            for (x, o) in x.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<34>().0) {
                let max = largest(x);
                let inverse = crate::scalar::inverse_scale(max);
                // SAFETY: thirty-two floats; two bytes and thirty-two.
                unsafe {
                    let d = vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(max / 127.0)));
                    o.as_mut_ptr().cast::<u16>().write_unaligned(vget_lane_u16::<0>(d));
                    for i in [0, 16] {
                        vst1q_s8(o.as_mut_ptr().add(2 + i).cast(), quantize16(x.as_ptr().add(i), inverse));
                    }
                }
            }
        }
    }
}
