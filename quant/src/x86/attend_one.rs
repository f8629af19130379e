//! Attention of one token's few queries: too few to be worth the turning of the keys.
//!
//! ```text
//! for each 1, 2 or 4 of the queries, for each tile of 512 slots:
//!     p[s][q] = Σ_d query[q][d] · key[s][d]          (LANES logits at a time, summed across lanes together)
//!     m = max(max[q], max_s p[s][q]);  shrink sum[q] and acc[q] by e^(max[q] - m)
//!     p[s][q] = e^(p[s][q] - m);  sum[q] += Σ_s p[s][q]
//!     acc[q] += Σ_s p[s][q] · value[s]               (accumulators stay in registers for MIXED slots)
//! ```
//! A tile is read as streams side by side, see [`Tile`].

use super::ahead::ask_near;
use super::float::{exp, exp2, tanh};
use super::simd::Simd;
use crate::kernels::{AttendState, KvFormat, KvRun};

/// Slots of a tile.
const SLOTS: usize = 512;

/// Bytes that are asked for ahead of a slot: of its stream, and where that ends, of the stream that is read next.
const AHEAD: usize = 768;

/// Slots whose values are added up while the accumulators stay in registers: so few that what lies ahead is asked for evenly.
const MIXED: usize = 32;

/// Most queries at once.
const MOST: usize = 4;

/// Floats of scratch: a tile's logits.
pub(super) const SCRATCH: usize = SLOTS * MOST;

/// Streams of a tile: slots whose logits with `q` queries fill whole vectors.
const fn streams<S: Simd>(q: usize) -> usize {
    if S::LANES / q > 4 { S::LANES / q } else { 4 }
}

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

/// A tile's keys or values, of `bytes` each. They are taken in the order 0, L, 2L, …, 1, L + 1, …, as `streams` that each run
/// through a stretch of L of their own, because memory's prefetchers keep more pages on their way so; then those left over.
#[derive(Clone, Copy)]
struct Tile {
    at: *const u8,
    bytes: usize,
    slots: usize,
    streams: usize,
    /// What is read after it, in as many streams.
    next: *const u8,
}

impl Tile {
    /// The order's rounds of streams.
    fn rounds(&self) -> usize {
        self.slots.div_ceil(self.streams)
    }

    /// The order's length: whole rounds.
    fn len(&self) -> usize {
        self.rounds() * self.streams
    }

    /// The walk that begins with a round of whole streams, or the one after them.
    #[inline(always)]
    fn walk(&self, round: usize) -> Walk {
        let stretch = self.slots / self.streams * self.bytes;
        let mut offsets = [0; 16];
        offsets.iter_mut().enumerate().for_each(|(i, offset)| *offset = i * stretch);
        let mut walk = Walk { at: self.at.wrapping_add(round * self.bytes), offsets, ahead: AHEAD };
        if round > self.turn() {
            walk.ahead = self.ahead_of_turn();
        }
        walk
    }

    /// The round from which on what is asked for lies behind the streams' ends.
    #[inline(always)]
    fn turn(&self) -> usize {
        (self.slots / self.streams).saturating_sub(AHEAD / self.bytes)
    }

    /// From there to what is read next.
    #[inline(always)]
    fn ahead_of_turn(&self) -> usize {
        (self.next as usize).wrapping_sub(self.at as usize + self.turn() * self.bytes)
    }
}

/// A walk through a [`Tile`].
struct Walk {
    /// The round's first slot.
    at: *const u8,
    /// The slots of its round, from there.
    offsets: [usize; 16],
    /// What is asked for, from each.
    ahead: usize,
}

impl Walk {
    /// Before round `round`.
    #[inline(always)]
    fn enter(&mut self, tile: &Tile, round: usize) {
        if round == tile.turn() {
            self.ahead = tile.ahead_of_turn();
        }
        let each = tile.slots / tile.streams;
        if round == each {
            // Those left over, the last one again and again.
            let last = tile.slots - each * tile.streams - 1;
            self.at = tile.at.wrapping_add(each * tile.streams * tile.bytes);
            self.offsets.iter_mut().enumerate().for_each(|(i, offset)| *offset = i.min(last) * tile.bytes);
        }
    }

    /// After a round.
    #[inline(always)]
    fn leave(&mut self, tile: &Tile) {
        self.at = self.at.wrapping_add(tile.bytes);
    }

    /// The slot of stream `stream`; asks for `lines` lines ahead of its byte `from`.
    #[inline(always)]
    fn slot(&self, stream: usize, from: usize, lines: usize) -> *const u8 {
        let at = self.at.wrapping_add(self.offsets[stream]);
        for line in 0..lines {
            ask_near(at.wrapping_add(self.ahead).wrapping_add(from + 64 * line));
        }
        at
    }
}

/// The queries, the first `Q` of which count, and where their results go.
struct Queries {
    from: [*const f32; MOST],
    acc: [*mut f32; MOST],
}

/// Logits `p[s][q]` of a tile's keys in its order, and -∞ past its end.
#[inline(always)]
unsafe fn logits<S: Simd, const Q: usize, const Q8: bool>(queries: &Queries, keys: Tile, key_dim: usize, p: *mut f32) {
    let (parts, per) = (S::LANES / 4, S::LANES / Q);
    let lines = (keys.bytes / 64).max(1);
    let mut walk = keys.walk(0);
    for round in 0..keys.rounds() {
        walk.enter(&keys, round);
        let first = round * keys.streams;
        for stream in (0..streams::<S>(Q)).step_by(per) {
            // SAFETY: Tile gives slots inside the tile; p has room for its order.
            unsafe {
                // Four pairs of a slot and a query, the slots in order, for each of up to four parts.
                let mut sums = [[S::splat_f(0.0); 4]; 4];
                let mut at = [keys.at; 16];
                for (i, at) in at.iter_mut().enumerate().take(per) {
                    *at = walk.slot(stream + i, 0, lines);
                }
                let mut d = 0;
                while d < key_dim {
                    let mut scales = [S::splat_f(1.0); 16];
                    for (scale_of, at) in scales.iter_mut().zip(at).take(if Q8 { per } else { 0 }) {
                        *scale_of = scale::<S, Q8>(at, d);
                    }
                    for _ in 0..if Q8 { 32 / S::LANES } else { 1 } {
                        let mut query = [S::splat_f(0.0); Q];
                        for (query, from) in query.iter_mut().zip(queries.from) {
                            *query = S::load_f(from.add(d));
                        }
                        for i in 0..per {
                            let key = cached::<S, Q8>(at[i], d, scales[i]);
                            for (q, query) in query.iter().enumerate() {
                                let pair = i * Q + q;
                                sums[pair / 4][pair % 4] = S::fma(*query, key, sums[pair / 4][pair % 4]);
                            }
                        }
                        d += S::LANES;
                    }
                }
                let mut part = [S::splat_f(0.0); 4];
                for (part, sums) in part.iter_mut().zip(sums).take(parts) {
                    *part = S::sum_parts(sums);
                }
                S::store_f(p.add((first + stream) * Q), S::join_parts(part));
            }
        }
        walk.leave(&keys);
    }
    for i in keys.slots * Q..keys.len() * Q {
        // SAFETY: as above.
        unsafe { *p.add(i) = f32::NEG_INFINITY }
    }
}

/// `acc[q] += Σ_s p[s][q] · value[s]` for `V` vectors from element `d` on and the part `range` of the tile's order: whole
/// rounds.
#[inline(always)]
unsafe fn mix<S: Simd, const Q: usize, const Q8: bool, const V: usize>(
    queries: &Queries,
    values: Tile,
    range: core::ops::Range<usize>,
    p: *const f32,
    d: usize,
) {
    // SAFETY: the caller's duty: weights for the tile's order, V vectors of accumulators.
    unsafe {
        let mut sums = [[S::splat_f(0.0); V]; Q];
        for (sums, acc) in sums.iter_mut().zip(queries.acc) {
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = S::load_f(acc.add(d + v * S::LANES));
            }
        }
        // Those of these elements, each once.
        let part = V * S::LANES;
        let (from, width) = if Q8 { (d / 32 * 34, part * 34 / 32) } else { (d * 2, part * 2) };
        let lines = if width < 64 { usize::from(d.is_multiple_of(32)) } else { width / 64 };
        let mut walk = values.walk(range.start);
        for round in range {
            walk.enter(&values, round);
            for stream in 0..streams::<S>(Q) {
                let at = walk.slot(stream, from, lines);
                let p = p.add((round * values.streams + stream) * Q);
                let mut by = S::splat_f(1.0);
                for v in 0..V {
                    let d = d + v * S::LANES;
                    if v * S::LANES % 32 == 0 {
                        by = scale::<S, Q8>(at, d);
                    }
                    let value = cached::<S, Q8>(at, d, by);
                    for (q, sums) in sums.iter_mut().enumerate() {
                        sums[v] = S::fma(S::splat_f(*p.add(q)), value, sums[v]);
                    }
                }
            }
            walk.leave(&values);
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
    let (floats, dim) = (n.next_multiple_of(streams::<S>(Q)) * Q, acc.len() / Q);
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
        let log2_e = S::splat_f(core::f32::consts::LOG2_E);
        let (less, lowest) = (S::load_f(lanes.as_ptr()), S::splat_f(f32::MIN));
        let mut total = S::splat_f(0.0);
        for i in (0..floats).step_by(S::LANES) {
            let x = S::load_f(p.add(i));
            let weight = S::select_lt(x, lowest, S::splat_f(0.0), exp2::<S>(S::mulf(S::subf(x, less), log2_e)));
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
            let (key, value) = (run.keys.as_ptr().add(s * key_bytes), run.values.as_ptr().add(s * value_bytes));
            let streams = streams::<S>(Q);
            let keys = Tile { at: key, bytes: key_bytes, slots: n, streams, next: value };
            let next = key.wrapping_add(n * key_bytes);
            let values = Tile { at: value, bytes: value_bytes, slots: n, streams, next };
            logits::<S, Q, Q8>(&queries, keys, key_dim, p);
            soften::<S, Q>(p, n, soft_cap, (&mut *max, &mut *sum, &mut *acc));
            for i in 0..Q {
                queries.acc[i] = acc[i * value_dim..].as_mut_ptr();
            }
            for first in (0..values.rounds()).step_by(MIXED / values.streams) {
                let range = first..(first + MIXED / values.streams).min(values.rounds());
                let mut d = 0;
                while d < value_dim {
                    if value_dim - d >= wide * S::LANES {
                        if S::LANES == 16 {
                            mix::<S, Q, Q8, 4>(&queries, values, range.clone(), p, d);
                        } else {
                            mix::<S, Q, Q8, 2>(&queries, values, range.clone(), p, d);
                        }
                        d += wide * S::LANES;
                    } else {
                        mix::<S, Q, Q8, 1>(&queries, values, range.clone(), p, d);
                        d += S::LANES;
                    }
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
