//! Attention with a running maximum and sum (Milakov & Gimelshein 2018), in tiles of the cache. Queries lie across the lanes,
//! so that nothing is ever summed or compared across them, and keys are read as they are stored.
//!
//! ```text
//! turned[d][q] = query[q][d] · log2 e, once, for each GROUP of queries
//! for each tile of SLOTS slots:
//!     k[s][d], v[s][d] = the tile's keys and values, as f32
//!     for each group, over the slots that any of its queries sees:
//!         p[s][q] = 2^(Σ_d k[s][d] · turned[d][q] - less[q]), 0 where q does not see s
//!         if an exponent of q was above SLACK: shrink sum[q] and acc[q] to less[q] + the exponent, and p once more
//!         sum[q] += Σ_s p[s][q]
//!         acc[q] += Σ_s p[s][q] · v[s]
//! shrink sum[q] and acc[q] to the largest exponent
//! ```
//! So `less` is about the maximum, seldom moves, and a logit is a power of two before it has left its register.

use super::attend_one as one;
use super::float::{exp2, tanh};
use super::simd::{Simd, loads_stay};
use super::widen::widen_tile;
use crate::kernels::{AttendState, KvRun};
use core::f32::consts::LOG2_E;

/// Slots of a tile: its keys and values as f32 and what else a group works on stay in the first cache, or nearly.
const SLOTS: usize = 48;

/// Queries of a group: whole vectors, three at once, and whole ROWS.
const GROUP: usize = 48;

/// Rows of a product with values at once.
const ROWS: usize = 6;

/// Exponents up to which weights are left as they are, above 1.
const SLACK: f32 = 8.0;

/// Queries up to which one token's go the way of [`one`].
const FEW: usize = 8;

/// Floats of scratch: the turned queries with what is known of each, a tile's keys and values, a group's weights.
pub(super) fn scratch<S: Simd>(queries: usize, key_dim: usize, value_dim: usize) -> usize {
    let (key_row, value_row) = (key_dim.next_multiple_of(S::LANES), value_dim.next_multiple_of(S::LANES));
    let turned = (key_dim + 5) * queries.next_multiple_of(GROUP);
    (turned + SLOTS * (key_row + value_row + GROUP)).max(one::SCRATCH)
}

/// A matrix: where it begins, floats from row to row and from column to column.
#[derive(Clone, Copy)]
struct Matrix(*const f32, usize, usize);

/// `sums[i][j] += Σ_k a[i][k] · b[k][j]` for `V` vectors of columns, each element in the order of k. `b` has its columns side by
/// side.
#[inline(always)]
unsafe fn multiply<S: Simd, const R: usize, const V: usize>(
    sums: &mut [[S::F; V]; R],
    Matrix(mut a, a_row, a_column): Matrix,
    (mut b, b_row): (*const f32, usize),
    depth: usize,
) {
    macro_rules! step {
        () => {{
            let mut part = [S::splat_f(0.0); V];
            for (j, part) in part.iter_mut().enumerate() {
                *part = S::load_f(b.add(j * S::LANES));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = S::splat_f(*a.add(i * a_row));
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum = S::fma(x, part, *sum);
                }
            }
            (a, b) = (a.add(a_column), b.add(b_row));
            loads_stay();
        }};
    }
    // SAFETY: the caller's duty.
    unsafe {
        // Counting and addressing go through the ports of the multiplications: little of either.
        for _ in 0..depth / 4 {
            step!();
            step!();
            step!();
            step!();
        }
        for _ in 0..depth % 4 {
            step!();
        }
    }
}

/// `c[i][j] += Σ_k a[i][k] · b[k][j]` for `R` rows and `V` vectors of columns, the last of which has `last` columns.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const V: usize>(
    Matrix(a, a_row, a_column): Matrix,
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    depth: usize,
    last: usize,
) {
    // SAFETY: the caller's duty; partial vectors are loaded and stored by their part.
    unsafe {
        let mut sums = [[S::splat_f(0.0); V]; R];
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                let at = c.add(i * c_row + j * S::LANES);
                *sum = if j + 1 < V || last == S::LANES { S::load_f(at) } else { S::load_part(at, last) };
            }
        }
        multiply::<S, R, V>(&mut sums, Matrix(a, a_row, a_column), (b, b_row), depth);
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
                            tile::<S, $rows, V>(a, b, c, depth, last);
                        } else {
                            tile::<S, $rows, 1>(a, b, c, depth, last);
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

/// A tile's keys as f32: rows of `row` floats of which `dim` count, whole multiples of those that are multiplied at once.
#[derive(Clone, Copy)]
struct Keys {
    at: *const f32,
    row: usize,
    dim: usize,
    slots: usize,
    /// The first one's slot in the run.
    first: usize,
}

/// Queries side by side: `turned`, their weights `p` (both in rows of [`GROUP`]), and what is known of each. Logits are in powers
/// of two.
#[derive(Clone, Copy)]
struct Queries {
    turned: *const f32,
    p: *mut f32,
    /// What is taken from the logits, -∞ if nothing was seen yet.
    less: *mut f32,
    /// The largest logit.
    top: *mut f32,
    /// The sum of the weights.
    sum: *mut f32,
    /// The slots that they see, from and to before, as i32.
    seen: [*const f32; 2],
}

impl Queries {
    /// From query `i` on.
    #[inline(always)]
    unsafe fn from(self, i: usize) -> Queries {
        // SAFETY: the caller's duty.
        unsafe {
            Queries {
                turned: self.turned.add(i),
                p: self.p.add(i),
                less: self.less.add(i),
                top: self.top.add(i),
                sum: self.sum.add(i),
                seen: [self.seen[0].add(i), self.seen[1].add(i)],
            }
        }
    }

    /// What vector `j` of them sees, as slots of the tile.
    #[inline(always)]
    unsafe fn seen<S: Simd>(&self, j: usize, keys: &Keys) -> [S::F; 2] {
        // SAFETY: the caller's duty.
        self.seen
            .map(|at| unsafe { S::to_f(S::add(S::load(at.add(j * S::LANES).cast()), S::splat(-(keys.first as i32)))) })
    }

    /// Whether `count` of them see any of the keys, and all of them.
    #[inline(always)]
    unsafe fn see<S: Simd>(&self, count: usize, keys: &Keys) -> (bool, bool) {
        let (mut any, mut all) = (false, true);
        // SAFETY: the caller's duty.
        unsafe {
            let (start, end) = (S::splat_f(0.0), S::splat_f(keys.slots as f32));
            for j in 0..count.div_ceil(S::LANES) {
                let [from, to] = self.seen::<S>(j, keys);
                any |= S::any_lt(S::maxf(from, start), S::minf(to, end));
                all &= !(S::any_lt(start, from) || S::any_lt(to, end));
            }
        }
        (any, all)
    }
}

/// `p[s][q] = 2^(logit - less)` for `V` vectors of queries, `R` slots at once. Answers the largest exponent of each query, and
/// the sum of its weights. `seen` tells what they see, if not all.
#[inline(always)]
unsafe fn weigh<S: Simd, const R: usize, const V: usize>(
    keys: &Keys,
    of: &Queries,
    less: [S::F; V],
    seen: Option<[[S::F; 2]; V]>,
    soft_cap: f32,
) -> [[S::F; V]; 2] {
    // SAFETY: the caller's duty.
    unsafe {
        let (zero, hidden) = (S::splat_f(0.0), S::splat_f(f32::NEG_INFINITY));
        let (mut tops, mut totals) = ([hidden; V], [zero; V]);
        let mut start = [zero; V];
        if soft_cap <= 0.0 {
            start = less.map(|less| S::subf(zero, less));
        }
        for first in (0..keys.slots).step_by(R) {
            let mut x = [start; R];
            let k = Matrix(keys.at.add(first * keys.row), keys.row, 1);
            multiply::<S, R, V>(&mut x, k, (of.turned, GROUP), keys.dim);
            for (i, x) in x.into_iter().enumerate() {
                for (j, mut x) in x.into_iter().enumerate() {
                    if soft_cap > 0.0 {
                        let cap = soft_cap * LOG2_E;
                        let capped = tanh::<S>(S::mulf(x, S::splat_f(1.0 / cap)));
                        x = S::subf(S::mulf(S::splat_f(cap), capped), less[j]);
                    }
                    let mut weight = exp2::<S>(x);
                    if let Some(seen) = seen {
                        let ([from, to], slot) = (seen[j], S::splat_f((first + i) as f32));
                        let shown = |x, other| S::select_lt(slot, from, other, S::select_lt(slot, to, x, other));
                        (x, weight) = (shown(x, hidden), shown(weight, zero));
                    }
                    tops[j] = S::maxf(tops[j], x);
                    totals[j] = S::addf(totals[j], weight);
                    S::store_f(of.p.add((first + i) * GROUP + j * S::LANES), weight);
                }
            }
        }
        [tops, totals]
    }
}

/// Weights of `V` vectors of queries, of which the first queries have outputs `acc` of `dim` floats each.
#[inline(always)]
unsafe fn soften<S: Simd, const R: usize, const V: usize>(
    keys: &Keys,
    of: &Queries,
    all: bool,
    soft_cap: f32,
    (acc, dim): (&mut [f32], usize),
) {
    // SAFETY: the caller's duty.
    unsafe {
        let (zero, lowest) = (S::splat_f(0.0), S::splat_f(f32::MIN));
        let mut seen = None;
        if !all {
            let mut bounds = [[zero; 2]; V];
            for (j, bounds) in bounds.iter_mut().enumerate() {
                *bounds = of.seen::<S>(j, keys);
            }
            seen = Some(bounds);
        }
        for again in [false, true] {
            let (mut old, mut less) = ([zero; V], [zero; V]);
            for j in 0..V {
                old[j] = S::load_f(of.less.add(j * S::LANES));
                less[j] = S::select_lt(old[j], lowest, zero, old[j]);
            }
            let [tops, totals] = weigh::<S, R, V>(keys, of, less, seen, soft_cap);
            let mut high = false;
            for j in 0..V {
                let limit = S::select_lt(old[j], lowest, old[j], S::splat_f(SLACK));
                high |= S::any_lt(limit, tops[j]);
            }
            if again || !high {
                for j in 0..V {
                    let (top, sum) = (of.top.add(j * S::LANES), of.sum.add(j * S::LANES));
                    S::store_f(top, S::maxf(S::load_f(top), S::addf(less[j], tops[j])));
                    S::store_f(sum, S::addf(S::load_f(sum), totals[j]));
                }
                return;
            }
            // Each query by its own exponents only, whatever the others'.
            for j in 0..V {
                let at = j * S::LANES;
                let limit = S::select_lt(old[j], lowest, old[j], S::splat_f(SLACK));
                let new = S::select_lt(limit, tops[j], S::addf(less[j], tops[j]), old[j]);
                let shrink = S::select_lt(old[j], lowest, zero, exp2::<S>(S::subf(old[j], new)));
                S::store_f(of.less.add(at), new);
                S::store_f(of.sum.add(at), S::mulf(S::load_f(of.sum.add(at)), shrink));
                let mut by = [0.0; 16];
                S::store_f(by.as_mut_ptr(), shrink);
                for (acc, by) in acc.chunks_exact_mut(dim).skip(at).zip(by).take(S::LANES) {
                    acc.iter_mut().for_each(|a| *a *= by);
                }
            }
        }
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
            many::<S, 8, 3, 4>(q, run, visible, (key_dim, value_dim), soft_cap, state, scratch);
        } else {
            many::<S, 6, 2, 2>(q, run, visible, (key_dim, value_dim), soft_cap, state, scratch);
        }
    }
}

/// [`attend`] for any queries: `R` slots and `C` vectors of queries at once in products with keys, `V` vectors at once in those
/// with values. That is what the registers hold.
#[inline(always)]
unsafe fn many<S: Simd, const R: usize, const C: usize, const V: usize>(
    q: &[f32],
    run: &KvRun,
    visible: &[(u32, u32)],
    (key_dim, value_dim): (usize, usize),
    soft_cap: f32,
    state: &mut AttendState,
    scratch: &mut [f32],
) {
    let queries = visible.len();
    let across = queries.next_multiple_of(GROUP);
    let (key_bytes, value_bytes) = (run.keys.len() / run.slots, run.values.len() / run.slots);
    let (key_row, value_row) = (key_dim.next_multiple_of(S::LANES), value_dim.next_multiple_of(S::LANES));
    let (turned, rest) = scratch.split_at_mut(key_dim * across);
    let (less, rest) = rest.split_at_mut(across);
    let (top, rest) = rest.split_at_mut(across);
    let (from, rest) = rest.split_at_mut(across);
    let (to, rest) = rest.split_at_mut(across);
    let (sum, rest) = rest.split_at_mut(across);
    let (k, rest) = rest.split_at_mut(SLOTS * key_row);
    let (v, p) = rest.split_at_mut(SLOTS * value_row);

    for (turned, q) in turned.chunks_exact_mut(key_dim * GROUP).zip(q.chunks(key_dim * GROUP)) {
        for (d, row) in turned.chunks_exact_mut(GROUP).enumerate() {
            row[q.len() / key_dim..].fill(0.0);
            row.iter_mut().zip(q.chunks_exact(key_dim)).for_each(|(x, q)| *x = q[d] * LOG2_E);
        }
    }
    less.fill(f32::NEG_INFINITY);
    less.iter_mut().zip(&*state.max).take(queries).for_each(|(less, max)| *less = max * LOG2_E);
    top.copy_from_slice(less);
    sum.fill(0.0);
    sum[..queries].copy_from_slice(&state.sum[..queries]);
    // What pads a group sees everything, and so is no reason to look closer.
    from.fill(f32::from_bits(0));
    to.fill(f32::from_bits(i32::MAX as u32));
    for ((from, to), v) in from.iter_mut().zip(&mut *to).zip(visible) {
        let bound = |slot: u32| f32::from_bits(slot.min(run.slots as u32).min(i32::MAX as u32));
        (*from, *to) = (bound(v.0), bound(v.1));
    }

    // What no query sees need not be read. Tiles begin at multiples of SLOTS, whatever the other queries see.
    let mut first = visible.iter().map(|v| v.0 as usize).min().unwrap_or(0) / SLOTS * SLOTS;
    let end = visible.iter().map(|v| v.1 as usize).max().unwrap_or(0).min(run.slots);
    while first < end {
        let n = SLOTS.min(end - first);
        // SAFETY: slots first..first + n are inside the run. Everything else is inside the scratch and the state, by
        // their sizes; SLOTS and GROUP are whole multiples of what is done at once.
        unsafe {
            widen_tile::<S>(run.format, run.keys.as_ptr().add(first * key_bytes), n, key_dim, k.as_mut_ptr());
            widen_tile::<S>(run.format, run.values.as_ptr().add(first * value_bytes), n, value_dim, v.as_mut_ptr());
            let keys = Keys { at: k.as_ptr(), row: key_row, dim: key_dim, slots: n.next_multiple_of(R), first };
            for i in (0..queries).step_by(GROUP) {
                let count = GROUP.min(queries - i);
                let of = Queries {
                    turned: turned.as_ptr().add(i * key_dim),
                    p: p.as_mut_ptr(),
                    less: less.as_mut_ptr().add(i),
                    top: top.as_mut_ptr().add(i),
                    sum: sum.as_mut_ptr().add(i),
                    seen: [from.as_ptr().add(i), to.as_ptr().add(i)],
                };
                let (any, all) = of.see::<S>(count, &keys);
                if !any {
                    continue;
                }
                let acc = &mut state.acc[i * value_dim..][..count * value_dim];
                let mut j = 0;
                while j < count {
                    macro_rules! go {
                        ($vectors:literal) => {{
                            let acc = (&mut acc[j * value_dim..], value_dim);
                            soften::<S, R, $vectors>(&keys, &of.from(j), all, soft_cap, acc);
                            j += $vectors * S::LANES;
                        }};
                    }
                    match (count - j).div_ceil(S::LANES).min(C) {
                        1 => go!(1),
                        2 => go!(2),
                        _ => go!(3),
                    }
                }
                let (weights, values) = (Matrix(p.as_ptr(), 1, GROUP), (v.as_ptr(), value_row));
                product::<S, V>(weights, values, (acc.as_mut_ptr(), value_dim), (count, n, value_dim));
            }
        }
        first += n;
    }
    // Whoever has seen nothing of this run is left as it was, to the bit.
    for i in (0..queries).filter(|i| visible[*i].0 < visible[*i].1.min(run.slots as u32)) {
        let shrink = if less[i] > f32::MIN { libm::exp2f(less[i] - top[i]) } else { 1.0 };
        state.max[i] = top[i] / LOG2_E;
        state.sum[i] = sum[i] * shrink;
        state.acc[i * value_dim..][..value_dim].iter_mut().for_each(|a| *a *= shrink);
    }
}
