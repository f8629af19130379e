//! Attention with a running maximum and sum (Milakov & Gimelshein 2018), in tiles of the cache.
//!
//! ```text
//! for each tile of SLOTS = 4 · LANES slots:
//!     k[d][s], v[s][d] = the tile's keys (turned) and values, as f32
//!     for each 16 queries that see any of it:
//!         p[q][s] = Σ_d query[q][d] · k[d][s]                            (product)
//!         m = max(max[q], max_s p[q][s]);  shrink sum[q] and acc[q] by e^(max[q] - m)
//!         p[q][s] = e^(p[q][s] - m), 0 where q does not see s;  sum[q] += Σ_s p[q][s]
//!         acc[q] += Σ_s p[q][s] · v[s]                                   (product)
//! ```

use super::attend_one as one;
use super::float::{exp, tanh};
use super::simd::{Rows, Simd};
use crate::kernels::{AttendState, KvFormat, KvRun};
use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// Queries whose weights of a tile are kept at once.
const QUERIES: usize = 16;

/// Queries up to which one token's go the way of [`one`].
const FEW: usize = 8;

/// Vectors of slots in a tile, and of columns in a product.
const WIDTH: usize = 4;

/// Floats of scratch: keys, values, weights, and one group of rows for a tile's end.
pub(super) fn scratch<S: Simd>(_queries: usize, key_dim: usize, value_dim: usize) -> usize {
    let slots = WIDTH * S::LANES;
    let values = value_dim.next_multiple_of(S::LANES);
    (key_dim * slots + slots * values + QUERIES * slots + S::LANES * key_dim).max(one::SCRATCH)
}

/// `c[i][j] = (add ? c[i][j] : 0) + Σ_k a[i][k] · b[k][j]` for `R` rows and `V` vectors of columns, the last of which has
/// `last` columns. Each element is summed in the order of k.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const V: usize>(
    (a, a_row): (*const f32, usize),
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    depth: usize,
    last: usize,
    add: bool,
) {
    // SAFETY: the caller's duty; partial vectors are loaded and stored by their part.
    unsafe {
        let mut sums = [[S::splat_f(0.0); V]; R];
        if add {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    let at = c.add(i * c_row + j * S::LANES);
                    *sum = if j + 1 < V || last == S::LANES { S::load_f(at) } else { S::load_part(at, last) };
                }
            }
        }
        for k in 0..depth {
            let mut part = [S::splat_f(0.0); V];
            for (j, part) in part.iter_mut().enumerate() {
                *part = S::load_f(b.add(k * b_row + j * S::LANES));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = S::splat_f(*a.add(i * a_row + k));
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum = S::fma(x, part, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let at = c.add(i * c_row + j * S::LANES);
                if j + 1 < V || last == S::LANES { S::store_f(at, *sum) } else { S::store_part(at, last, *sum) }
            }
        }
    }
}

/// The same for `rows` and `columns`; `b`'s rows are readable to a whole vector.
#[inline(always)]
unsafe fn product<S: Simd>(
    (a, a_row): (*const f32, usize),
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    (rows, depth, columns): (usize, usize, usize),
    add: bool,
) {
    // SAFETY: the caller's duty.
    unsafe {
        let mut i = 0;
        while i < rows {
            let a = (a.add(i * a_row), a_row);
            let left = rows - i;
            let n = if left >= 4 && S::LANES == 16 {
                4
            } else if left >= 2 {
                2
            } else {
                1
            };
            let mut j = 0;
            while j < columns {
                let (b, c) = ((b.add(j), b_row), (c.add(i * c_row + j), c_row));
                let left = columns - j;
                if left >= WIDTH * S::LANES {
                    match n {
                        4 => tile::<S, 4, WIDTH>(a, b, c, depth, S::LANES, add),
                        2 => tile::<S, 2, WIDTH>(a, b, c, depth, S::LANES, add),
                        _ => tile::<S, 1, WIDTH>(a, b, c, depth, S::LANES, add),
                    }
                    j += WIDTH * S::LANES;
                } else {
                    let last = left.min(S::LANES);
                    match n {
                        4 => tile::<S, 4, 1>(a, b, c, depth, last, add),
                        2 => tile::<S, 2, 1>(a, b, c, depth, last, add),
                        _ => tile::<S, 1, 1>(a, b, c, depth, last, add),
                    }
                    j += S::LANES;
                }
            }
            i += n;
        }
    }
}

/// `k[d][s]` for `LANES` slots whose keys are at `rows`; `row` floats from one `d` to the next.
#[inline(always)]
unsafe fn turn<S: Simd>(format: KvFormat, rows: Rows, dim: usize, k: *mut f32, row: usize) {
    // SAFETY: the caller's duty; reads stay inside the keys.
    unsafe {
        match format {
            KvFormat::F32 => {
                for slot in 0..S::LANES {
                    for d in 0..dim {
                        let from = rows.at.add(slot * rows.stride + 4 * d);
                        *k.add(d * row + slot) = from.cast::<f32>().read_unaligned();
                    }
                }
            }
            KvFormat::F16 => {
                let mut d = 0;
                while d + 8 <= dim {
                    for (j, pair) in S::quads(rows.add(2 * d)).iter().enumerate() {
                        S::store_f(k.add((d + 2 * j) * row), S::low_half(*pair));
                        S::store_f(k.add((d + 2 * j + 1) * row), S::low_half(S::shr(*pair, 16)));
                    }
                    d += 8;
                }
                while d < dim {
                    S::store_f(k.add(d * row), S::halves(rows.add(2 * d)));
                    d += 1;
                }
            }
            KvFormat::Q8_0 => {
                for block in 0..dim / 32 {
                    let rows = rows.add(34 * block);
                    let scale = S::halves(rows);
                    for part in 0..2 {
                        for (j, four) in S::quads(rows.add(2 + 16 * part)).iter().enumerate() {
                            // Each signed byte is moved to the top of its lane, and is 2^24 times too large there.
                            let scale = S::mulf(scale, S::splat_f(1.0 / (1 << 24) as f32));
                            let top = S::splat(0xff00_0000u32 as i32);
                            for i in 0..4 {
                                let byte = S::and(S::shl(*four, 24 - 8 * i), top);
                                let d = 32 * block + 16 * part + 4 * j + i as usize;
                                S::store_f(k.add(d * row), S::mulf(S::to_f(byte), scale));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// One slot's value as f32; zeros up to the next whole vector.
#[inline(always)]
unsafe fn widen<S: Simd>(format: KvFormat, from: *const u8, dim: usize, v: *mut f32) {
    // SAFETY: the caller's duty; reads stay inside the value.
    unsafe {
        match format {
            KvFormat::F32 => {
                core::ptr::copy_nonoverlapping(from, v.cast::<u8>(), 4 * dim);
                for d in dim..dim.next_multiple_of(S::LANES) {
                    *v.add(d) = 0.0;
                }
            }
            KvFormat::F16 => {
                let mut d = 0;
                while d + S::LANES <= dim {
                    S::store_f(v.add(d), S::load_f16(from.add(2 * d)));
                    d += S::LANES;
                }
                if d < dim {
                    let mut last = [0u8; 32];
                    core::ptr::copy_nonoverlapping(from.add(2 * d), last.as_mut_ptr(), 2 * (dim - d));
                    S::store_f(v.add(d), S::load_f16(last.as_ptr()));
                }
            }
            KvFormat::Q8_0 => {
                for block in 0..dim / 32 {
                    let from = from.add(34 * block);
                    let scale = S::splat_f16(from);
                    for d in (0..32).step_by(S::LANES) {
                        let x = S::mulf(S::load_i8(from.add(2 + d).cast()), scale);
                        S::store_f(v.add(32 * block + d), x);
                    }
                }
            }
        }
    }
}

/// One query's weights of a tile: from logits to `e^(logit - max)`, with the state brought to the new maximum.
///
/// `seen` are the slots of the tile that the query sees: at least one.
#[inline(always)]
unsafe fn soften<S: Simd>(
    p: *mut f32,
    seen: (usize, usize),
    soft_cap: f32,
    max: &mut f32,
    sum: &mut f32,
    acc: &mut [f32],
) {
    // SAFETY: the caller's duty.
    unsafe {
        let slots = WIDTH * S::LANES;
        if soft_cap > 0.0 {
            let (cap, inverse) = (S::splat_f(soft_cap), S::splat_f(1.0 / soft_cap));
            for s in (0..slots).step_by(S::LANES) {
                let x = S::load_f(p.add(s));
                S::store_f(p.add(s), S::mulf(cap, tanh::<S>(S::mulf(x, inverse))));
            }
        }
        for s in (0..seen.0).chain(seen.1..slots) {
            *p.add(s) = f32::NEG_INFINITY;
        }
        let mut top = S::load_f(p);
        for s in (S::LANES..slots).step_by(S::LANES) {
            top = S::maxf(top, S::load_f(p.add(s)));
        }
        let top = S::max(top);
        if top > *max {
            // e^-inf must be 0, which `exp` does not give.
            let shrink = if *max == f32::NEG_INFINITY { 0.0 } else { S::first(exp::<S>(S::splat_f(*max - top))) };
            *max = top;
            *sum *= shrink;
            acc.iter_mut().for_each(|a| *a *= shrink);
        }
        let (less, lowest) = (S::splat_f(*max), S::splat_f(f32::MIN));
        let mut total = S::splat_f(0.0);
        for s in (0..slots).step_by(S::LANES) {
            let x = S::load_f(p.add(s));
            let weight = S::select_lt(x, lowest, S::splat_f(0.0), exp::<S>(S::subf(x, less)));
            S::store_f(p.add(s), weight);
            total = S::addf(total, weight);
        }
        *sum += S::sum(total);
    }
}

/// See [`crate::Kernels::attend`].
///
/// # Safety
/// The shapes that `Kernels::attend` checks; the conditions of [`super::simd`].
#[inline(always)]
pub(super) unsafe fn attend<S: Simd>(
    q: &[f32],
    run: &KvRun,
    visible: &[(u32, u32)],
    soft_cap: f32,
    state: &mut AttendState,
    scratch: &mut [f32],
) {
    let queries = visible.len();
    let (key_dim, value_dim) = (q.len() / queries, state.acc.len() / queries);
    let (key_bytes, value_bytes) = (run.keys.len() / run.slots, run.values.len() / run.slots);
    let slots = WIDTH * S::LANES;
    let value_row = value_dim.next_multiple_of(S::LANES);
    let seen = (visible[0].0 as usize, (visible[0].1 as usize).min(run.slots));
    if queries <= FEW && visible.iter().all(|v| *v == visible[0]) && one::fits::<S>(run.format, key_dim, value_dim) {
        // SAFETY: the caller's duty.
        return unsafe { one::attend::<S>(q, run, seen, (key_dim, value_dim), soft_cap, state, scratch) };
    }
    let (k, rest) = scratch.split_at_mut(key_dim * slots);
    let (v, rest) = rest.split_at_mut(slots * value_row);
    let (p, last) = rest.split_at_mut(QUERIES * slots);
    // What no query sees need not be read.
    let from = visible.iter().map(|v| v.0 as usize).min().unwrap_or(0);
    let to = visible.iter().map(|v| v.1 as usize).max().unwrap_or(0).min(run.slots);
    let mut first = from;
    while first < to {
        let n = slots.min(to - first);
        // SAFETY: slots first..first + n are inside the run; what lies after them in the tile is zero keys, and values that
        // no product reaches. Everything else is inside the scratch and the state, by their sizes.
        unsafe {
            for s in (0..n).step_by(S::LANES) {
                let at = run.keys.as_ptr().add((first + s) * key_bytes);
                let mut rows = Rows { at, stride: key_bytes };
                if n - s < S::LANES {
                    let whole = last.as_mut_ptr().cast::<u8>();
                    core::ptr::write_bytes(whole, 0, S::LANES * key_bytes);
                    core::ptr::copy_nonoverlapping(at, whole, (n - s) * key_bytes);
                    rows.at = whole;
                }
                for line in (0..S::LANES * key_bytes).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(slots * key_bytes + line).cast());
                }
                turn::<S>(run.format, rows, key_dim, k.as_mut_ptr().add(s), slots);
            }
            for s in 0..n {
                let at = run.values.as_ptr().add((first + s) * value_bytes);
                for line in (0..value_bytes).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(slots * value_bytes + line).cast());
                }
                widen::<S>(run.format, at, value_dim, v.as_mut_ptr().add(s * value_row));
            }
            // Lanes of the tile that hold no slots, so that their logits are finite until they are hidden.
            for d in 0..key_dim {
                for s in (n.next_multiple_of(S::LANES)..slots).step_by(S::LANES) {
                    S::store_f(k.as_mut_ptr().add(d * slots + s), S::splat_f(0.0));
                }
            }
            let mut i = 0;
            while i < queries {
                let seen = |i: usize| {
                    let (from, to) = (visible[i].0 as usize, visible[i].1 as usize);
                    (from.clamp(first, first + n) - first, to.clamp(first, first + n) - first)
                };
                let some = |i: usize| seen(i).0 < seen(i).1;
                if !some(i) {
                    i += 1;
                    continue;
                }
                let mut count = 1;
                while count < QUERIES && i + count < queries && some(i + count) {
                    count += 1;
                }
                let (query, weights) = ((q.as_ptr().add(i * key_dim), key_dim), (p.as_mut_ptr(), slots));
                product::<S>(query, (k.as_ptr(), slots), weights, (count, key_dim, slots), false);
                for j in 0..count {
                    let acc = &mut state.acc[(i + j) * value_dim..][..value_dim];
                    let (max, sum) = (&mut state.max[i + j], &mut state.sum[i + j]);
                    soften::<S>(p.as_mut_ptr().add(j * slots), seen(i + j), soft_cap, max, sum, acc);
                }
                let acc = (state.acc.as_mut_ptr().add(i * value_dim), value_dim);
                product::<S>((p.as_ptr(), slots), (v.as_ptr(), value_row), acc, (count, n, value_dim), true);
                i += count;
            }
        }
        first += n;
    }
}
