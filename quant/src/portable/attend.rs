//! Attention with a running maximum and sum (Milakov & Gimelshein 2018), a tile of slots at a time: the tile's keys
//! and values are widened to f32 once for all queries.

use super::float::{exp, tanh};
use super::matmul::dot_floats;
use super::{Floats, LANES, load, store, widen};
use crate::kernels::{AttendState, KvFormat, KvRun};
use core::simd::prelude::*;

/// Slots of a tile.
const TILE: usize = 32;

/// See [`crate::Kernels::attend_scratch`]: a tile of keys and one of values.
pub(super) fn scratch(_: usize, key_dim: usize, value_dim: usize) -> usize {
    TILE * (key_dim + value_dim)
}

/// See [`crate::Kernels::attend`].
pub(super) fn attend(
    q: &[f32],
    run: &KvRun,
    visible: &[(u32, u32)],
    soft_cap: f32,
    state: &mut AttendState,
    scratch: &mut [f32],
) {
    let queries = visible.len();
    let (key_dim, value_dim) = (q.len() / queries, state.acc.len() / queries);
    let (keys, values) = scratch.split_at_mut(TILE * key_dim);
    let (key_bytes, value_bytes) = (run.keys.len() / run.slots, run.values.len() / run.slots);
    let from = visible.iter().map(|v| v.0 as usize).min().unwrap_or(0);
    let to = visible.iter().map(|v| v.1 as usize).max().unwrap_or(0).min(run.slots);
    for first in (from..to).step_by(TILE) {
        let n = TILE.min(to - first);
        load_tile(run.format, &run.keys[first * key_bytes..][..n * key_bytes], &mut keys[..n * key_dim]);
        load_tile(run.format, &run.values[first * value_bytes..][..n * value_bytes], &mut values[..n * value_dim]);
        for (i, (from, to)) in visible.iter().enumerate() {
            let (from, to) = ((*from as usize).saturating_sub(first), (*to as usize).saturating_sub(first).min(n));
            if from >= to {
                continue;
            }
            let query = &q[i * key_dim..][..key_dim];
            let acc = &mut state.acc[i * value_dim..][..value_dim];
            let mut p = [f32::NEG_INFINITY; TILE];
            for (s, p) in p[..to].iter_mut().enumerate().skip(from) {
                *p = dot_floats(query, &keys[s * key_dim..][..key_dim]);
            }
            soften(&mut p, soft_cap, &mut state.max[i], &mut state.sum[i], acc);
            for (c, acc) in acc.chunks_mut(LANES).enumerate() {
                let mut sum = Floats::load_or_default(acc);
                for (s, p) in p[..to].iter().enumerate().skip(from) {
                    let value = &values[s * value_dim + c * LANES..][..acc.len()];
                    sum += Floats::load_or_default(value) * Floats::splat(*p);
                }
                store(acc, sum);
            }
        }
    }
}

/// Whole heads as f32, one after another. A head's elements and bytes are whole blocks of the format.
fn load_tile(format: KvFormat, bytes: &[u8], out: &mut [f32]) {
    match format {
        KvFormat::F32 => {
            for (b, out) in bytes.as_chunks::<4>().0.iter().zip(out) {
                *out = f32::from_le_bytes(*b);
            }
        }
        KvFormat::F16 => {
            for (b, out) in bytes.as_chunks::<2>().0.chunks(LANES).zip(out.chunks_mut(LANES)) {
                store(out, widen(load(b, u16::from_le_bytes)));
            }
        }
        KvFormat::Q8_0 => {
            for (b, out) in bytes.as_chunks::<34>().0.iter().zip(out.as_chunks_mut::<32>().0) {
                let d = widen(u16x8::splat(u16::from_le_bytes([b[0], b[1]])));
                for (b, out) in b[2..].as_chunks::<LANES>().0.iter().zip(out.chunks_mut(LANES)) {
                    store(out, u8x8::from_array(*b).cast::<i8>().cast::<f32>() * d);
                }
            }
        }
    }
}

/// Turns logits to `e^(logit - max)`, those of −∞ to zero, and brings `max`, `sum` and `acc` up to date. At least one
/// logit is finite.
fn soften(p: &mut [f32; TILE], soft_cap: f32, max: &mut f32, sum: &mut f32, acc: &mut [f32]) {
    let (hidden, zero) = (Floats::splat(f32::NEG_INFINITY), Floats::splat(0.0));
    let p = p.as_chunks_mut::<LANES>().0;
    let mut top = hidden;
    for p in p.iter_mut() {
        let mut x = Floats::from_array(*p);
        if soft_cap > 0.0 {
            let capped = tanh(x / Floats::splat(soft_cap)) * Floats::splat(soft_cap);
            x = x.simd_eq(hidden).select(hidden, capped);
            *p = x.to_array();
        }
        top = top.simd_max(x);
    }
    let top = top.reduce_max();
    if top > *max {
        // `exp` does not give 0 for −∞.
        let shrink = if *max == f32::NEG_INFINITY { 0.0 } else { exp(Floats::splat(*max - top))[0] };
        *max = top;
        *sum *= shrink;
        acc.iter_mut().for_each(|a| *a *= shrink);
    }
    let mut total = zero;
    for p in p {
        let x = Floats::from_array(*p);
        let weight = x.simd_eq(hidden).select(zero, exp(x - Floats::splat(*max)));
        *p = weight.to_array();
        total += weight;
    }
    *sum += total.reduce_sum();
}
