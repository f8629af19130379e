//! Scalar kernels: fallback and oracle. The plainest code, never optimised.

use crate::act::{ActKind, Acts, record_parts, record_values};
use crate::kernels::{AttendState, Isa, KvFormat, KvRun, RopeKind, Table, Unary};
use crate::share::OutTile;
use crate::{Format, oracle};
use half::f16;

pub(crate) static TABLE: Table = Table {
    isa: Isa::Scalar,
    row_tile: 1,
    matmul_scratch,
    quantize_act,
    matmul,
    rms_norm,
    layer_norm,
    add_scaled,
    gated,
    unary,
    rope,
    store_kv,
    attend_scratch,
    attend,
};

/// See [`crate::Kernels::matmul_scratch`].
pub fn matmul_scratch(_: Format, cols: usize, _: usize) -> usize {
    (4 * cols).div_ceil(64) * 64
}

/// See [`crate::Kernels::attend_scratch`].
pub fn attend_scratch(_: usize, _: usize, _: usize) -> usize {
    0
}

/// What a value is multiplied with to bring `max` to 127; 0 where that is not finite, so that no quantised value is
/// ever -128.
pub fn inverse_scale(max: f32) -> f32 {
    let inverse = 127.0 / max;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// See [`crate::Kernels::quantize_act`].
pub fn quantize_act(kind: ActKind, x: &[f32], record: &mut [u8]) {
    if kind == ActKind::F32 {
        record_values(x.len(), record).copy_from_slice(x);
        return;
    }
    let (qs, scales, sums) = record_parts(kind, x.len(), record);
    for ((x, q), d) in x.chunks(kind.block()).zip(qs.chunks_mut(kind.block())).zip(scales) {
        let max = x.iter().fold(0.0f32, |m, v| m.max(libm::fabsf(*v)));
        *d = max / 127.0;
        for (x, q) in x.iter().zip(q) {
            *q = libm::rintf(x * inverse_scale(max)) as i8;
        }
    }
    for (q, s) in qs.chunks(16).zip(sums) {
        *s = q.iter().map(|v| *v as i16).sum();
    }
}

/// See [`crate::Kernels::matmul`]. The integer sums and the formula that joins them are those of [`crate::act`].
pub fn matmul(format: Format, w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
    let Some(row_bytes) = format.row_bytes(acts.cols) else { return };
    for (r, row) in w.chunks_exact(row_bytes).enumerate() {
        for t in 0..acts.tokens {
            let sum = match acts.kind {
                ActKind::F32 => dot_floats(format, row, acts.values(t), scratch),
                _ => dot_ints(format, row, acts, t),
            };
            out.set(t, r, sum);
        }
    }
}

fn dot_floats(format: Format, row: &[u8], x: &[f32], scratch: &mut [u8]) -> f32 {
    let w: &mut [f32] = bytemuck::cast_slice_mut(&mut scratch[..4 * x.len()]);
    oracle::dequantize(format, row, w);
    w.iter().zip(x).map(|(w, x)| w * x).sum()
}

fn dot_ints(format: Format, row: &[u8], acts: &Acts, t: usize) -> f32 {
    let mut sum = 0.0;
    let blocks = row.chunks_exact(format.block_bytes());
    for ((w, a), d_a) in blocks.zip(acts.qs(t).chunks(format.block_len())).zip(acts.scales(t)) {
        let w = oracle::unpack(format, w);
        let (isum, msum) = w.dot(a);
        sum += match acts.kind {
            ActKind::Q8K => d_a * (w.d * isum as f32 - w.min * msum as f32),
            _ => (w.d * d_a) * isum as f32 - (w.min * d_a) * msum as f32,
        };
    }
    sum
}

fn weight_at(weight: &[u8], i: usize, default: f32) -> f32 {
    match weight.get(4 * i..4 * i + 4) {
        Some(b) => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        None => default,
    }
}

/// See [`crate::Kernels::rms_norm`].
pub fn rms_norm(x: &[f32], weight: &[u8], eps: f32, out: &mut [f32]) {
    let mean = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
    let scale = 1.0 / libm::sqrtf(mean + eps);
    for (i, (x, o)) in x.iter().zip(out).enumerate() {
        *o = x * scale * weight_at(weight, i, 1.0);
    }
}

/// See [`crate::Kernels::layer_norm`].
pub fn layer_norm(x: &[f32], weight: &[u8], bias: &[u8], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let var = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
    let scale = 1.0 / libm::sqrtf(var + eps);
    for (i, (x, o)) in x.iter().zip(out).enumerate() {
        *o = (x - mean) * scale * weight_at(weight, i, 1.0) + weight_at(bias, i, 0.0);
    }
}

/// See [`crate::Kernels::add_scaled`].
pub fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y * scale;
    }
}

fn apply(f: Unary, x: f32) -> f32 {
    match f {
        Unary::Silu => x / (1.0 + libm::expf(-x)),
        Unary::Gelu => 0.5 * x * (1.0 + libm::tanhf(0.797_884_6 * x * (1.0 + 0.044_715 * x * x))),
        Unary::GeluErf => 0.5 * x * (1.0 + libm::erff(x * core::f32::consts::FRAC_1_SQRT_2)),
        Unary::Relu2 => x.max(0.0) * x.max(0.0),
        Unary::Sigmoid => 1.0 / (1.0 + libm::expf(-x)),
    }
}

/// See [`crate::Kernels::gated`].
pub fn gated(f: Unary, gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = apply(f, *g) * u;
    }
}

/// See [`crate::Kernels::unary`].
pub fn unary(f: Unary, x: &mut [f32]) {
    for x in x {
        *x = apply(f, *x);
    }
}

/// See [`crate::Kernels::rope`].
pub fn rope(kind: RopeKind, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for (i, (c, s)) in cos.iter().zip(sin).enumerate() {
        let (a, b) = match kind {
            RopeKind::Norm => (2 * i, 2 * i + 1),
            RopeKind::Neox => (i, i + half),
        };
        let (u, v) = (x[a], x[b]);
        x[a] = u * c - v * s;
        x[b] = u * s + v * c;
    }
}

/// See [`crate::Kernels::store_kv`].
pub fn store_kv(format: KvFormat, x: &[f32], out: &mut [u8]) {
    match format {
        KvFormat::F32 => {
            for (x, o) in x.iter().zip(out.chunks_exact_mut(4)) {
                o.copy_from_slice(&x.to_le_bytes());
            }
        }
        KvFormat::F16 => {
            for (x, o) in x.iter().zip(out.chunks_exact_mut(2)) {
                o.copy_from_slice(&f16::from_f32(*x).to_le_bytes());
            }
        }
        KvFormat::Q8_0 => {
            for (x, o) in x.chunks_exact(32).zip(out.chunks_exact_mut(34)) {
                let max = x.iter().fold(0.0f32, |m, v| m.max(libm::fabsf(*v)));
                o[..2].copy_from_slice(&f16::from_f32(max / 127.0).to_le_bytes());
                for (x, o) in x.iter().zip(&mut o[2..]) {
                    *o = libm::rintf(x * inverse_scale(max)) as i8 as u8;
                }
            }
        }
    }
}

fn load_kv(format: KvFormat, bytes: &[u8], i: usize) -> f32 {
    let half_at = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
    match format {
        KvFormat::F32 => f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]),
        KvFormat::F16 => half_at(2 * i),
        KvFormat::Q8_0 => half_at(i / 32 * 34) * (bytes[i / 32 * 34 + 2 + i % 32] as i8) as f32,
    }
}

/// See [`crate::Kernels::attend`].
pub fn attend(
    q: &[f32],
    run: &KvRun,
    visible: &[(u32, u32)],
    soft_cap: f32,
    state: &mut AttendState,
    _scratch: &mut [f32],
) {
    let queries = visible.len();
    if queries == 0 || run.slots == 0 {
        return;
    }
    let (key_dim, value_dim) = (q.len() / queries, state.acc.len() / queries);
    let (key_bytes, value_bytes) = (run.keys.len() / run.slots, run.values.len() / run.slots);
    for (i, (from, to)) in visible.iter().enumerate() {
        let q = &q[i * key_dim..][..key_dim];
        let acc = &mut state.acc[i * value_dim..][..value_dim];
        for s in *from as usize..(*to as usize).min(run.slots) {
            let key = &run.keys[s * key_bytes..][..key_bytes];
            let value = &run.values[s * value_bytes..][..value_bytes];
            let mut logit = 0.0;
            for (d, q) in q.iter().enumerate() {
                logit += q * load_kv(run.format, key, d);
            }
            if soft_cap > 0.0 {
                logit = soft_cap * libm::tanhf(logit / soft_cap);
            }
            if logit > state.max[i] {
                let shrink = libm::expf(state.max[i] - logit);
                state.max[i] = logit;
                state.sum[i] *= shrink;
                acc.iter_mut().for_each(|a| *a *= shrink);
            }
            let p = libm::expf(logit - state.max[i]);
            state.sum[i] += p;
            for (d, a) in acc.iter_mut().enumerate() {
                *a += p * load_kv(run.format, value, d);
            }
        }
    }
}
