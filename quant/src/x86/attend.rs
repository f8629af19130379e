//! Attention with a running maximum and sum (Milakov & Gimelshein 2018), in tiles of the cache. Queries lie across the lanes,
//! so that nothing is ever summed or compared across them, and keys are read as they are stored.
//!
//! ```text
//! turned[d][q] = query[q][d], once, for each GROUP vectors of queries
//! for each tile of SLOTS slots:
//!     k[s][d], v[s][d] = the tile's keys and values, as f32
//!     for each such group, over the slots that any of them sees:
//!         p[s][q] = Σ_d k[s][d] · turned[d][q]                           (product)
//!         m = max(max[q], max_s p[s][q]);  shrink sum[q] and acc[q] by e^(max[q] - m)
//!         p[s][q] = e^(p[s][q] - m), 0 where q does not see s;  sum[q] += Σ_s p[s][q]
//!         acc[q] += Σ_s p[s][q] · v[s]                                   (product)
//! ```

use super::attend_one as one;
use super::float::{exp_below, tanh};
use super::simd::Simd;
use crate::kernels::{AttendState, KvFormat, KvRun};
use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// Slots of a tile: a tile's keys and values as f32 and the weights of a group of queries stay in the first two caches.
const SLOTS: usize = 48;

/// Rows of a product at once. With [`wide`] vectors of columns that is what the registers hold.
const ROWS: usize = 6;

/// Queries up to which one token's go the way of [`one`].
const FEW: usize = 8;

/// Vectors of columns of a product at once, and of queries in a group.
const fn wide<S: Simd>() -> usize {
    if S::LANES == 16 { 4 } else { 2 }
}

/// Floats of scratch: the turned queries with their maxima and sums, a tile's keys and values, a group's weights.
pub(super) fn scratch<S: Simd>(queries: usize, key_dim: usize, value_dim: usize) -> usize {
    let group = wide::<S>() * S::LANES;
    let (key_row, value_row) = (key_dim.next_multiple_of(S::LANES), value_dim.next_multiple_of(S::LANES));
    let turned = (key_dim + 2) * queries.next_multiple_of(group);
    (turned + SLOTS * (key_row + value_row + group)).max(one::SCRATCH)
}

/// A matrix: where it begins, floats from row to row and from column to column.
#[derive(Clone, Copy)]
struct Matrix(*const f32, usize, usize);

/// `c[i][j] = (add ? c[i][j] : 0) + Σ_k a[i][k] · b[k][j]` for `R` rows and `V` vectors of columns, the last of which has
/// `last` columns. `b` and `c` have their columns side by side. Each element is summed in the order of k.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const V: usize>(
    Matrix(a, a_row, a_column): Matrix,
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
                let x = S::splat_f(*a.add(i * a_row + k * a_column));
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
unsafe fn product<S: Simd, const V: usize>(
    Matrix(a, a_row, a_column): Matrix,
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    (rows, depth, columns): (usize, usize, usize),
    add: bool,
) {
    let mut j = 0;
    while j < columns {
        let left = columns - j;
        let full = left >= V * S::LANES;
        let last = if full { S::LANES } else { left.min(S::LANES) };
        let mut i = 0;
        while i < rows {
            // SAFETY: the caller's duty.
            unsafe {
                let a = Matrix(a.add(i * a_row), a_row, a_column);
                let (b, c) = ((b.add(j), b_row), (c.add(i * c_row + j), c_row));
                macro_rules! go {
                    ($rows:expr) => {{
                        if full {
                            tile::<S, $rows, V>(a, b, c, depth, last, add);
                        } else {
                            tile::<S, $rows, 1>(a, b, c, depth, last, add);
                        }
                        i += $rows;
                    }};
                }
                match rows - i {
                    0..2 => go!(1),
                    2..ROWS => go!(2),
                    _ => go!(ROWS),
                }
            }
        }
        j += if full { V * S::LANES } else { S::LANES };
    }
}

/// One slot's key or value as f32; zeros up to the next whole vector.
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

/// One vector of queries: their maxima and sums, the slots of the tile that they see, their weights (rows of `row` floats).
struct Lanes {
    max: *mut f32,
    sum: *mut f32,
    p: *mut f32,
    row: usize,
}

/// From logits of slots `slots` to `e^(logit - max)`, and 0 where a lane does not see the slot: lane `i` sees those from
/// `seen[i].0` to before `seen[i].1`. Maxima and sums are brought to the new maximum. Answers what the outputs must be
/// multiplied with, if that is not 1 everywhere.
#[inline(always)]
unsafe fn soften<S: Simd>(
    lanes: &Lanes,
    slots: core::ops::Range<usize>,
    seen: &[(usize, usize)],
    soft_cap: f32,
) -> Option<S::F> {
    let whole = seen.len() == S::LANES && seen.iter().all(|v| v.0 <= slots.start && v.1 >= slots.end);
    let (mut from, mut to) = ([0.0f32; 16], [0.0f32; 16]);
    for (i, v) in seen.iter().enumerate() {
        (from[i], to[i]) = (v.0 as f32, v.1 as f32);
    }
    // SAFETY: the caller's duty: a vector at each of the pointers, and in each row of p.
    unsafe {
        let (from, to) = (S::load_f(from.as_ptr()), S::load_f(to.as_ptr()));
        let (zero, lowest) = (S::splat_f(0.0), S::splat_f(f32::MIN));
        let old = S::load_f(lanes.max);
        let mut top = old;
        for s in slots.clone() {
            let at = lanes.p.add(s * lanes.row);
            let mut x = S::load_f(at);
            if soft_cap > 0.0 {
                x = S::mulf(S::splat_f(soft_cap), tanh::<S>(S::mulf(x, S::splat_f(1.0 / soft_cap))));
            }
            if !whole {
                let (hidden, slot) = (S::splat_f(f32::NEG_INFINITY), S::splat_f(s as f32));
                x = S::select_lt(slot, from, hidden, S::select_lt(slot, to, x, hidden));
            }
            if soft_cap > 0.0 || !whole {
                S::store_f(at, x);
            }
            top = S::maxf(top, x);
        }
        // What has not seen anything yet keeps -∞, from which nothing may be taken away.
        let less = S::select_lt(top, lowest, zero, top);
        let mut totals = [zero; 2];
        for s in slots {
            let at = lanes.p.add(s * lanes.row);
            let x = S::load_f(at);
            let mut weight = exp_below::<S>(S::subf(x, less));
            if !whole {
                weight = S::select_lt(x, lowest, zero, weight);
            }
            S::store_f(at, weight);
            totals[s % 2] = S::addf(totals[s % 2], weight);
        }
        let total = S::addf(totals[0], totals[1]);
        if !S::any_lt(old, top) {
            S::store_f(lanes.sum, S::addf(S::load_f(lanes.sum), total));
            return None;
        }
        let shrink = S::select_lt(old, lowest, zero, exp_below::<S>(S::subf(old, less)));
        S::store_f(lanes.max, top);
        S::store_f(lanes.sum, S::fma(S::load_f(lanes.sum), shrink, total));
        Some(shrink)
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
    let seen = (visible[0].0 as usize, (visible[0].1 as usize).min(run.slots));
    if queries <= FEW && visible.iter().all(|v| *v == visible[0]) && one::fits::<S>(run.format, key_dim, value_dim) {
        // SAFETY: the caller's duty.
        return unsafe { one::attend::<S>(q, run, seen, (key_dim, value_dim), soft_cap, state, scratch) };
    }
    // SAFETY: the caller's duty.
    unsafe {
        if S::LANES == 16 {
            many::<S, 4>(q, run, visible, (key_dim, value_dim), soft_cap, state, scratch);
        } else {
            many::<S, 2>(q, run, visible, (key_dim, value_dim), soft_cap, state, scratch);
        }
    }
}

/// [`attend`] for any queries; `V` is [`wide`].
#[inline(always)]
unsafe fn many<S: Simd, const V: usize>(
    q: &[f32],
    run: &KvRun,
    visible: &[(u32, u32)],
    (key_dim, value_dim): (usize, usize),
    soft_cap: f32,
    state: &mut AttendState,
    scratch: &mut [f32],
) {
    let queries = visible.len();
    let group = V * S::LANES;
    let across = queries.next_multiple_of(group);
    let (key_bytes, value_bytes) = (run.keys.len() / run.slots, run.values.len() / run.slots);
    let (key_row, value_row) = (key_dim.next_multiple_of(S::LANES), value_dim.next_multiple_of(S::LANES));
    let (turned, rest) = scratch.split_at_mut(key_dim * across);
    let (max, rest) = rest.split_at_mut(across);
    let (sum, rest) = rest.split_at_mut(across);
    let (k, rest) = rest.split_at_mut(SLOTS * key_row);
    let (v, p) = rest.split_at_mut(SLOTS * value_row);

    for (turned, q) in turned.chunks_exact_mut(key_dim * group).zip(q.chunks(key_dim * group)) {
        for (d, row) in turned.chunks_exact_mut(group).enumerate() {
            row[q.len() / key_dim..].fill(0.0);
            row.iter_mut().zip(q.chunks_exact(key_dim)).for_each(|(x, q)| *x = q[d]);
        }
    }
    max.fill(f32::NEG_INFINITY);
    max[..queries].copy_from_slice(&state.max[..queries]);
    sum.fill(0.0);
    sum[..queries].copy_from_slice(&state.sum[..queries]);

    // What no query sees need not be read. Tiles begin at multiples of SLOTS, whatever the other queries see.
    let mut first = visible.iter().map(|v| v.0 as usize).min().unwrap_or(0) / SLOTS * SLOTS;
    let end = visible.iter().map(|v| v.1 as usize).max().unwrap_or(0).min(run.slots);
    while first < end {
        let n = SLOTS.min(end - first);
        // SAFETY: slots first..first + n are inside the run. Everything else is inside the scratch and the state, by
        // their sizes.
        unsafe {
            for s in 0..n {
                let (key, value) = ((first + s) * key_bytes, (first + s) * value_bytes);
                let (key, value) = (run.keys.as_ptr().add(key), run.values.as_ptr().add(value));
                for line in (0..key_bytes).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(key.wrapping_add(SLOTS * key_bytes + line).cast());
                }
                for line in (0..value_bytes).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(value.wrapping_add(SLOTS * value_bytes + line).cast());
                }
                widen::<S>(run.format, key, key_dim, k.as_mut_ptr().add(s * key_row));
                widen::<S>(run.format, value, value_dim, v.as_mut_ptr().add(s * value_row));
            }
            for i in (0..queries).step_by(group) {
                let count = group.min(queries - i);
                let mut seen = [(0, 0); 64];
                for (seen, v) in seen.iter_mut().zip(&visible[i..i + count]) {
                    let inside = |s: u32| (s as usize).clamp(first, first + n) - first;
                    *seen = (inside(v.0), inside(v.1));
                }
                let seen = &seen[..count];
                let some = || seen.iter().filter(|v| v.0 < v.1);
                let from = some().map(|v| v.0).min().unwrap_or(0);
                let to = some().map(|v| v.1).max().unwrap_or(0);
                if from == to {
                    continue;
                }
                let keys = Matrix(k.as_ptr().add(from * key_row), key_row, 1);
                let logits = (p.as_mut_ptr().add(from * group), group);
                let columns = count.next_multiple_of(S::LANES);
                let turned = (turned.as_ptr().add(i * key_dim), group);
                product::<S, V>(keys, turned, logits, (to - from, key_dim, columns), false);
                for (j, seen) in seen.chunks(S::LANES).enumerate() {
                    let at = j * S::LANES;
                    let lanes = Lanes {
                        max: max.as_mut_ptr().add(i + at),
                        sum: sum.as_mut_ptr().add(i + at),
                        p: p.as_mut_ptr().add(at),
                        row: group,
                    };
                    let Some(shrink) = soften::<S>(&lanes, from..to, seen, soft_cap) else { continue };
                    let mut by = [0.0; 16];
                    S::store_f(by.as_mut_ptr(), shrink);
                    let acc = state.acc[(i + at) * value_dim..].chunks_exact_mut(value_dim).zip(by).take(seen.len());
                    acc.for_each(|(acc, by)| acc.iter_mut().for_each(|a| *a *= by));
                }
                let weights = Matrix(p.as_ptr().add(from * group), 1, group);
                let values = (v.as_ptr().add(from * value_row), value_row);
                let acc = (state.acc.as_mut_ptr().add(i * value_dim), value_dim);
                product::<S, V>(weights, values, acc, (count, to - from, value_dim), true);
            }
        }
        first += n;
    }
    state.max[..queries].copy_from_slice(&max[..queries]);
    state.sum[..queries].copy_from_slice(&sum[..queries]);
}
