//! Attention of one token's few queries: too few to be worth the turning of the keys.
//!
//! ```text
//! for each 1, 2 or 4 of the queries, for each tile of 64 slots:
//!     p[s][q] = Σ_d query[q][d] · key[s][d]          (LANES logits at a time, summed across lanes together)
//!     m = max(max[q], max_s p[s][q]);  shrink sum[q] and acc[q] by e^(max[q] - m)
//!     p[s][q] = e^(p[s][q] - m);  sum[q] += Σ_s p[s][q]
//!     acc[q] += Σ_s p[s][q] · value[s]               (accumulators stay in registers for the whole tile)
//! ```

use super::float::{exp, tanh};
use super::simd::Simd;
use crate::kernels::{AttendState, KvFormat, KvRun};
use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

/// Slots of a tile.
const SLOTS: usize = 64;

/// Slots that are asked for ahead: so many that memory has answered by then.
const AHEAD: usize = 128;

/// Most queries at once.
const MOST: usize = 4;

/// Floats of scratch: a tile's logits.
pub(super) const SCRATCH: usize = SLOTS * MOST;

/// Whether [`attend`] is for these shapes: whole vectors only.
pub(super) fn fits<S: Simd>(format: KvFormat, key_dim: usize, value_dim: usize) -> bool {
    format != KvFormat::F32 && key_dim.is_multiple_of(S::LANES) && value_dim.is_multiple_of(S::LANES)
}

/// What the elements from `d` on of a head's vector at `at` are multiplied with, up to the end of their block.
#[inline(always)]
unsafe fn scale<S: Simd, const Q8: bool>(at: *const u8, d: usize) -> S::F {
    // SAFETY: the caller says that the block is there.
    unsafe { if Q8 { S::splat_f16(at.add(d / 32 * 34)) } else { S::splat_f(1.0) } }
}

/// `LANES` elements from element `d` on. `LANES` divides a block of 32.
#[inline(always)]
unsafe fn cached<S: Simd, const Q8: bool>(at: *const u8, d: usize, scale: S::F) -> S::F {
    // SAFETY: the caller says that the elements are there.
    unsafe {
        if Q8 {
            S::mulf(S::load_i8(at.add(d / 32 * 34 + 2 + d % 32).cast()), scale)
        } else {
            S::load_f16(at.add(2 * d))
        }
    }
}

/// Asks for the vector that lies [`AHEAD`] slots behind the one at `at`: one at a time, since a burst of prefetches waits for
/// room among the outstanding misses.
#[inline(always)]
unsafe fn ask(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        // SAFETY: a prefetch never faults, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(AHEAD * bytes + line).cast()) }
    }
}

/// The queries, the first `Q` of which count, and where their results go.
struct Queries {
    from: [*const f32; MOST],
    acc: [*mut f32; MOST],
}

/// Logits `p[s][q]` of slots `0..n` at `keys`, and -∞ up to the next whole vector.
#[inline(always)]
unsafe fn logits<S: Simd, const Q: usize, const Q8: bool>(
    queries: &Queries,
    (keys, key_bytes, key_dim): (*const u8, usize, usize),
    n: usize,
    p: *mut f32,
) {
    let per = S::LANES / Q;
    let mut s = 0;
    while s < n {
        // SAFETY: slots beyond the last are the last one again; p has room for whole vectors.
        unsafe {
            let mut parts = [S::splat_f(0.0); 4];
            for (j, part) in parts.iter_mut().enumerate().take(S::LANES / 4) {
                // Four pairs of a slot and a query: 4 / Q slots.
                let mut sums = [S::splat_f(0.0); 4];
                for (slot, sums) in sums.chunks_exact_mut(Q).enumerate() {
                    let at = keys.add((s + j * 4 / Q + slot).min(n - 1) * key_bytes);
                    ask(at, key_bytes);
                    let mut d = 0;
                    while d < key_dim {
                        let scale = scale::<S, Q8>(at, d);
                        for _ in 0..if Q8 { 32 / S::LANES } else { 1 } {
                            let key = cached::<S, Q8>(at, d, scale);
                            for (sum, query) in sums.iter_mut().zip(queries.from) {
                                *sum = S::fma(S::load_f(query.add(d)), key, *sum);
                            }
                            d += S::LANES;
                        }
                    }
                }
                *part = S::sum_parts(sums);
            }
            S::store_f(p.add(s * Q), S::join_parts(parts));
        }
        s += per;
    }
    for i in n * Q..s * Q {
        // SAFETY: as above.
        unsafe { *p.add(i) = f32::NEG_INFINITY }
    }
}

/// `acc[q] += Σ_s p[s][q] · value[s]` for `V` vectors from element `d` on.
#[inline(always)]
unsafe fn mix<S: Simd, const Q: usize, const Q8: bool, const V: usize>(
    queries: &Queries,
    (values, value_bytes): (*const u8, usize),
    n: usize,
    p: *const f32,
    d: usize,
) {
    // SAFETY: the caller's duty: n slots of weights and values, V vectors of accumulators.
    unsafe {
        let mut sums = [[S::splat_f(0.0); V]; Q];
        for (sums, acc) in sums.iter_mut().zip(queries.acc) {
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = S::load_f(acc.add(d + v * S::LANES));
            }
        }
        for s in 0..n {
            let at = values.add(s * value_bytes);
            ask(at, value_bytes);
            let mut by = S::splat_f(1.0);
            for v in 0..V {
                let d = d + v * S::LANES;
                if v * S::LANES % 32 == 0 {
                    by = scale::<S, Q8>(at, d);
                }
                let value = cached::<S, Q8>(at, d, by);
                for (q, sums) in sums.iter_mut().enumerate() {
                    sums[v] = S::fma(S::splat_f(*p.add(s * Q + q)), value, sums[v]);
                }
            }
        }
        for (sums, acc) in sums.iter().zip(queries.acc) {
            for (v, sum) in sums.iter().enumerate() {
                S::store_f(acc.add(d + v * S::LANES), *sum);
            }
        }
    }
}

/// From logits to `e^(logit - max)`, with the state of the `Q` queries brought to the new maximum.
#[inline(always)]
unsafe fn soften<S: Simd, const Q: usize>(
    p: *mut f32,
    n: usize,
    soft_cap: f32,
    (max, sum, acc): (&mut [f32], &mut [f32], &mut [f32]),
) {
    let (floats, dim) = ((n * Q).next_multiple_of(S::LANES), acc.len() / Q);
    // SAFETY: p has that many floats.
    unsafe {
        if soft_cap > 0.0 {
            let (cap, inverse) = (S::splat_f(soft_cap), S::splat_f(1.0 / soft_cap));
            for i in (0..floats).step_by(S::LANES) {
                let x = S::mulf(cap, tanh::<S>(S::mulf(S::load_f(p.add(i)), inverse)));
                S::store_f(p.add(i), x);
            }
            // What is past the end was -∞.
            (n * Q..floats).for_each(|i| *p.add(i) = f32::NEG_INFINITY);
        }
        let mut top = S::load_f(p);
        for i in (S::LANES..floats).step_by(S::LANES) {
            top = S::maxf(top, S::load_f(p.add(i)));
        }
        // Lane i is of query i % Q.
        let mut lanes = [0f32; 16];
        S::store_f(lanes.as_mut_ptr(), top);
        for q in 0..Q {
            let top = (q..S::LANES).step_by(Q).fold(f32::NEG_INFINITY, |m, i| m.max(lanes[i]));
            if top > max[q] {
                // e^-∞ must be 0, which `exp` does not give.
                let shrink =
                    if max[q] == f32::NEG_INFINITY { 0.0 } else { S::first(exp::<S>(S::splat_f(max[q] - top))) };
                max[q] = top;
                sum[q] *= shrink;
                acc[q * dim..][..dim].iter_mut().for_each(|a| *a *= shrink);
            }
        }
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = max[i % Q];
        }
        let (less, lowest) = (S::load_f(lanes.as_ptr()), S::splat_f(f32::MIN));
        let mut total = S::splat_f(0.0);
        for i in (0..floats).step_by(S::LANES) {
            let x = S::load_f(p.add(i));
            let weight = S::select_lt(x, lowest, S::splat_f(0.0), exp::<S>(S::subf(x, less)));
            S::store_f(p.add(i), weight);
            total = S::addf(total, weight);
        }
        S::store_f(lanes.as_mut_ptr(), total);
        for (i, lane) in lanes[..S::LANES].iter().enumerate() {
            sum[i % Q] += lane;
        }
    }
}

/// `Q` queries over slots `from..to`; `state` is theirs: maxima, sums, outputs.
#[inline(always)]
unsafe fn some<S: Simd, const Q: usize, const Q8: bool>(
    q: &[f32],
    run: &KvRun,
    (from, to): (usize, usize),
    (key_dim, value_dim): (usize, usize),
    soft_cap: f32,
    (max, sum, acc): (&mut [f32], &mut [f32], &mut [f32]),
    p: *mut f32,
) {
    let (key_bytes, value_bytes) = (run.keys.len() / run.slots, run.values.len() / run.slots);
    let wide = if S::LANES == 16 { 4 } else { 2 };
    let mut queries = Queries { from: [q.as_ptr(); MOST], acc: [acc.as_mut_ptr(); MOST] };
    for i in 0..Q {
        queries.from[i] = q[i * key_dim..].as_ptr();
    }
    let mut s = from;
    while s < to {
        let n = SLOTS.min(to - s);
        // SAFETY: slots s..s + n are inside the run, vectors of the queries inside them by their sizes, which `fits` has
        // found to be whole vectors.
        unsafe {
            let (keys, values) = (run.keys.as_ptr().add(s * key_bytes), run.values.as_ptr().add(s * value_bytes));
            logits::<S, Q, Q8>(&queries, (keys, key_bytes, key_dim), n, p);
            soften::<S, Q>(p, n, soft_cap, (&mut *max, &mut *sum, &mut *acc));
            for i in 0..Q {
                queries.acc[i] = acc[i * value_dim..].as_mut_ptr();
            }
            let values = (values, value_bytes);
            let mut d = 0;
            while d < value_dim {
                if value_dim - d >= wide * S::LANES {
                    if S::LANES == 16 {
                        mix::<S, Q, Q8, 4>(&queries, values, n, p, d);
                    } else {
                        mix::<S, Q, Q8, 2>(&queries, values, n, p, d);
                    }
                    d += wide * S::LANES;
                } else {
                    mix::<S, Q, Q8, 1>(&queries, values, n, p, d);
                    d += S::LANES;
                }
            }
        }
        s += n;
    }
}

/// Queries that all see slots `from..to` of the run. `p` is the scratch.
///
/// # Safety
/// As for `Kernels::attend`, and [`fits`]; the conditions of [`super::simd`].
#[inline(always)]
pub(super) unsafe fn attend<S: Simd>(
    q: &[f32],
    run: &KvRun,
    seen: (usize, usize),
    dims: (usize, usize),
    soft_cap: f32,
    state: &mut AttendState,
    p: &mut [f32],
) {
    let count = q.len() / dims.0;
    let p = p.as_mut_ptr();
    let mut i = 0;
    while i < count {
        macro_rules! go {
            ($n:literal) => {{
                let q = &q[i * dims.0..][..$n * dims.0];
                let acc = &mut state.acc[i * dims.1..][..$n * dims.1];
                let state = (&mut state.max[i..][..$n], &mut state.sum[i..][..$n], acc);
                // SAFETY: the caller's duty.
                unsafe {
                    match run.format {
                        KvFormat::Q8_0 => some::<S, $n, true>(q, run, seen, dims, soft_cap, state, p),
                        _ => some::<S, $n, false>(q, run, seen, dims, soft_cap, state, p),
                    }
                }
                i += $n;
            }};
        }
        match count - i {
            1 => go!(1),
            2 | 3 => go!(2),
            _ => go!(4),
        }
    }
}
