//! Attention over a run of cached keys and values, a tile of slots at a time.
//!
//! A tile's keys are widened to f32 in scratch once for all queries, four slots side by side, then its values; queries go
//! four at a time (the heads that share a KV head, the tokens of a prompt). The maximum and the sum are brought up to date
//! once for each tile.

use super::cpu::{four, unrolled};
use super::float::{exp, load_f16, scale_at, tanh};
use crate::kernels::{AttendState, KvFormat, KvRun};
use core::arch::aarch64::*;

/// Slots of a tile; a multiple of 4.
const TILE: usize = 32;
/// Queries at once.
const QUERIES: usize = 4;
/// Slots whose keys are side by side: as many as a vector has lanes.
const SLOTS: usize = 4;

const fn up4(n: usize) -> usize {
    n.div_ceil(4) * 4
}

/// See [`crate::Kernels::attend_scratch`]: a tile of keys or values, and four queries padded to whole vectors.
pub(super) fn scratch(_: usize, key_dim: usize, value_dim: usize) -> usize {
    let (key, value) = (up4(key_dim), up4(value_dim));
    TILE * key + TILE * value + QUERIES * key
}

/// See [`crate::Kernels::attend`].
pub(super) unsafe fn attend(
    q: &[f32],
    run: &KvRun,
    visible: &[(u32, u32)],
    soft_cap: f32,
    state: &mut AttendState,
    scratch: &mut [f32],
) {
    let queries = visible.len();
    let (key_dim, value_dim) = (q.len() / queries, state.acc.len() / queries);
    let (key_width, value_width) = (up4(key_dim), up4(value_dim));
    let (keys, rest) = scratch.split_at_mut(TILE * key_width);
    let (values, rest) = rest.split_at_mut(TILE * value_width);
    let padded = &mut rest[..QUERIES * key_width];
    let (key_bytes, value_bytes) = (run.keys.len() / run.slots, run.values.len() / run.slots);
    let from = visible.iter().map(|v| v.0 as usize).min().unwrap_or(0);
    let to = visible.iter().map(|v| v.1 as usize).max().unwrap_or(0).min(run.slots);
    for first in (from..to).step_by(TILE) {
        let n = TILE.min(to - first);
        let of_keys = run.keys[first * key_bytes..][..n * key_bytes].chunks((SLOTS * key_bytes).max(1));
        for (from, to) in of_keys.zip(keys.chunks_exact_mut((SLOTS * key_width).max(1))) {
            widen(run.format, from, key_dim, padded);
            side_by_side(padded, to);
        }
        widen(run.format, &run.values[first * value_bytes..][..n * value_bytes], value_dim, values);
        // Weighed by zero, but not to be what is no number.
        values[n * value_width..up4(n) * value_width].fill(0.0);
        for i in (0..queries).step_by(QUERIES) {
            let many = QUERIES.min(queries - i);
            // What of the tile each query sees, counted from its start.
            let mut seen = [(0, 0); QUERIES];
            for (s, (from, to)) in seen.iter_mut().zip(&visible[i..i + many]) {
                *s = ((*from as usize).saturating_sub(first), (*to as usize).saturating_sub(first).min(n));
            }
            if seen.iter().all(|(from, to)| from >= to) {
                continue;
            }
            // What any of them sees, in whole vectors.
            let n = up4(seen.iter().map(|seen| seen.1).max().unwrap_or(0));
            let four = if many == QUERIES && key_dim == key_width {
                &q[i * key_dim..][..QUERIES * key_dim]
            } else {
                for (j, to) in padded.chunks_exact_mut(key_width).enumerate() {
                    let from = (i + j.min(many - 1)) * key_dim;
                    to[..key_dim].copy_from_slice(&q[from..from + key_dim]);
                    to[key_dim..].fill(0.0);
                }
                &*padded
            };
            let mut p = [[0.0f32; TILE]; QUERIES];
            logits(four, keys, key_width, n, &mut p);
            for (j, (p, seen)) in p.iter_mut().zip(seen).enumerate().take(many) {
                let acc = &mut state.acc[(i + j) * value_dim..][..value_dim];
                softmax(&mut p[..n], seen, soft_cap, &mut state.max[i + j], &mut state.sum[i + j], acc);
            }
            let acc = &mut state.acc[i * value_dim..(i + many) * value_dim];
            match many {
                1 => weigh::<1>(&p, values, value_width, n, acc),
                2 => weigh::<2>(&p, values, value_width, n, acc),
                3 => weigh::<3>(&p, values, value_width, n, acc),
                _ => weigh::<4>(&p, values, value_width, n, acc),
            }
        }
    }
}

/// Widens whole slots of `dim` elements to rows of `up4(dim)` floats, zeros at the end.
fn widen(format: KvFormat, bytes: &[u8], dim: usize, out: &mut [f32]) {
    let Some(head_bytes) = format.head_bytes(dim).filter(|n| *n > 0) else { return };
    for (from, to) in bytes.chunks_exact(head_bytes).zip(out.chunks_exact_mut(up4(dim))) {
        match format {
            KvFormat::F32 => {
                to.fill(0.0);
                for (from, to) in from.as_chunks::<4>().0.iter().zip(to) {
                    *to = f32::from_le_bytes(*from);
                }
            }
            KvFormat::F16 => {
                let (whole, rest) = from.as_chunks::<8>();
                let (to, to_rest) = to.as_chunks_mut::<4>();
                for (from, to) in whole.iter().zip(&mut *to) {
                    // SAFETY: eight bytes, four floats.
                    unsafe { vst1q_f32(to.as_mut_ptr(), load_f16(from.as_ptr())) }
                }
                debug_assert!(to_rest.is_empty());
                if !rest.is_empty() {
                    let mut last = [0u8; 8];
                    last[..rest.len()].copy_from_slice(rest);
                    // SAFETY: eight bytes, four floats; a rest means one more group of four.
                    unsafe { vst1q_f32(to[whole.len()].as_mut_ptr(), load_f16(last.as_ptr())) }
                }
            }
            KvFormat::Q8_0 => {
                for (from, to) in from.as_chunks::<34>().0.iter().zip(to.as_chunks_mut::<32>().0) {
                    // SAFETY: thirty-four bytes, thirty-two floats.
                    unsafe {
                        let d = scale_at(from.as_ptr());
                        for i in 0..4 {
                            let x = vmovl_s8(vld1_s8(from.as_ptr().add(2 + 8 * i).cast()));
                            let low = vcvtq_f32_s32(vmovl_s16(vget_low_s16(x)));
                            let high = vcvtq_f32_s32(vmovl_high_s16(x));
                            vst1q_f32(to.as_mut_ptr().add(8 * i), vmulq_n_f32(low, d));
                            vst1q_f32(to.as_mut_ptr().add(8 * i + 4), vmulq_n_f32(high, d));
                        }
                    }
                }
            }
        }
    }
}

/// Four rows of keys to columns of four.
fn side_by_side(rows: &[f32], to: &mut [f32]) {
    let width = rows.len() / SLOTS;
    debug_assert!(width.is_multiple_of(4) && to.len() == rows.len());
    for c in (0..width).step_by(4) {
        // SAFETY: four rows of `width` floats, and as many places.
        unsafe {
            let x = four!(|I| vld1q_f32(rows.as_ptr().add(I * width + c)));
            vst4q_f32(to.as_mut_ptr().add(SLOTS * c), float32x4x4_t(x[0], x[1], x[2], x[3]));
        }
    }
}

/// `out[query][slot] = q · key` for `n` slots, a multiple of four; of slots that hold no key, anything.
fn logits(q: &[f32], keys: &[f32], width: usize, n: usize, out: &mut [[f32; TILE]; QUERIES]) {
    debug_assert!(q.len() == QUERIES * width && keys.len() == TILE * width && n <= TILE);
    let mut s = 0;
    while s < n {
        // SAFETY: slots s.. are inside the tile, as many as are asked for.
        s += unsafe {
            match n - s {
                16.. => logits_of::<4>(q, keys, width, s, out),
                8.. => logits_of::<2>(q, keys, width, s, out),
                _ => logits_of::<1>(q, keys, width, s, out),
            }
        };
    }
}

/// The logits of `N` fours of slots from `s` on; returns how many slots that is.
#[inline(always)]
unsafe fn logits_of<const N: usize>(
    q: &[f32],
    keys: &[f32],
    width: usize,
    s: usize,
    out: &mut [[f32; TILE]; QUERIES],
) -> usize {
    // SAFETY: four queries and the slots' keys, `width` (a multiple of 4) floats of each; the caller says that the slots
    // are inside the tile.
    unsafe {
        let (q, keys) = (q.as_ptr(), keys.as_ptr().add(s * width));
        let mut sums = [[vdupq_n_f32(0.0); QUERIES]; N];
        for c in (0..width).step_by(4) {
            let q = four!(|J| vld1q_f32(q.add(J * width + c)));
            unrolled!(|C| 0 1 2 3, {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let key = vld1q_f32(keys.add(SLOTS * (i * width + c + C)));
                    *sums = four!(|J| vfmaq_laneq_f32::<{ C as i32 }>(sums[J], key, q[J]));
                }
            });
        }
        for (i, sums) in sums.iter().enumerate() {
            for (sum, out) in sums.iter().zip(&mut *out) {
                vst1q_f32(out.as_mut_ptr().add(s + SLOTS * i), *sum);
            }
        }
    }
    SLOTS * N
}

/// Turns logits (whole vectors of them) to `e^(logit - max)` inside `seen`, zero outside, and brings `max`, `sum` and
/// `acc` up to date.
fn softmax(p: &mut [f32], seen: (usize, usize), soft_cap: f32, max: &mut f32, sum: &mut f32, acc: &mut [f32]) {
    if seen.0 >= seen.1 {
        p.fill(0.0);
        return;
    }
    let all = seen.0 == 0 && seen.1 >= p.len();
    // SAFETY: every address is inside the tile or `acc`.
    unsafe {
        let mut top = vdupq_n_f32(f32::NEG_INFINITY);
        let (from, to) = (vdupq_n_u32(seen.0 as u32), vdupq_n_u32(seen.1 as u32));
        let mut at = vld1q_u32([0, 1, 2, 3].as_ptr());
        for four in p.as_chunks_mut::<4>().0 {
            let mut x = vld1q_f32(four.as_ptr());
            if soft_cap > 0.0 {
                x = vmulq_n_f32(tanh(vdivq_f32(x, vdupq_n_f32(soft_cap))), soft_cap);
            }
            if !all {
                let inside = vandq_u32(vcgeq_u32(at, from), vcltq_u32(at, to));
                x = vbslq_f32(inside, x, vdupq_n_f32(f32::NEG_INFINITY));
                at = vaddq_u32(at, vdupq_n_u32(4));
            }
            vst1q_f32(four.as_mut_ptr(), x);
            top = vmaxnmq_f32(top, x);
        }
        let top = vmaxnmvq_f32(top);
        if top > *max {
            let shrink = vgetq_lane_f32::<0>(exp(vdupq_n_f32(*max - top)));
            *max = top;
            *sum *= shrink;
            for a in acc.iter_mut() {
                *a *= shrink;
            }
        }
        let max = vdupq_n_f32(*max);
        let mut total = vdupq_n_f32(0.0);
        for four in p.as_chunks_mut::<4>().0 {
            let x = exp(vsubq_f32(vld1q_f32(four.as_ptr()), max));
            total = vaddq_f32(total, x);
            vst1q_f32(four.as_mut_ptr(), x);
        }
        *sum += vaddvq_f32(total);
    }
}

/// `acc[query] += Σ_slot p[query][slot] · value[slot]` for `Q` queries and `n` slots, a multiple of four.
fn weigh<const Q: usize>(p: &[[f32; TILE]; QUERIES], values: &[f32], width: usize, n: usize, acc: &mut [f32]) {
    let dim = acc.len() / Q;
    if dim == 0 {
        return;
    }
    debug_assert!(values.len() == TILE * width && n <= TILE && dim <= width);
    let whole = dim / 16 * 16;
    // SAFETY: c + 16 <= dim <= width; slots below TILE, queries below Q.
    unsafe {
        for c in (0..whole).step_by(16) {
            let at = |j: usize, i: usize| j * dim + c + 4 * i;
            let mut sums = [[vdupq_n_f32(0.0); 4]; Q];
            for (j, sums) in sums.iter_mut().enumerate() {
                *sums = [0, 1, 2, 3].map(|i| vld1q_f32(acc.as_ptr().add(at(j, i))));
            }
            for s in (0..n).step_by(4) {
                let mut four = [vdupq_n_f32(0.0); Q];
                for (four, p) in four.iter_mut().zip(p) {
                    *four = vld1q_f32(p.as_ptr().add(s));
                }
                unrolled!(|S| 0 1 2 3, {
                    let v = four!(|I| vld1q_f32(values.as_ptr().add((s + S) * width + c + 4 * I)));
                    for (p, sums) in four.iter().zip(&mut sums) {
                        *sums = four!(|I| vfmaq_laneq_f32::<{ S as i32 }>(sums[I], v[I], *p));
                    }
                });
            }
            for (j, sums) in sums.iter().enumerate() {
                for (i, sum) in sums.iter().enumerate() {
                    vst1q_f32(acc.as_mut_ptr().add(at(j, i)), *sum);
                }
            }
        }
    }
    for (p, acc) in p.iter().zip(acc.chunks_exact_mut(dim)) {
        for (s, p) in p.iter().enumerate().take(n) {
            for (c, a) in acc.iter_mut().enumerate().skip(whole) {
                *a += p * values[s * width + c];
            }
        }
    }
}
