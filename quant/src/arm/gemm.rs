//! Two tokens or more: rows are unpacked once to a panel of int8 in scratch, then multiplied by four tokens at a time
//! with sums held in registers.
//!
//! A panel covers `C::GROUPS · 4` rows and [`CHUNK`] columns, so that it stays in the first-level cache; wider rows
//! are done chunk by chunk, adding to the output. Rows and tokens beyond the tile's are the last one again, computed
//! and dropped.

use super::blocks::{Block32, Block256};
use super::cpu::{Bytes32, Cpu, four, two};
use super::float::scale_at;
use crate::act::Acts;
use crate::share::OutTile;
use core::arch::aarch64::*;

/// Columns of a panel.
const CHUNK: usize = 1024;
/// Rows of the largest panel.
pub(super) const ROWS: usize = 16;

/// What a panel of 32-element blocks holds for each of its rows.
#[repr(C, align(64))]
pub(super) struct Panel32 {
    /// In the order of [`Cpu::pack`]: `[block][group][4 rows × 32]`.
    q: [i8; ROWS * CHUNK],
    /// `[block][row]`.
    d: [f32; ROWS * CHUNK / 32],
    /// `[block][row]`.
    m: [f32; ROWS * CHUNK / 32],
}

/// What a panel of 256-element blocks holds for each of its rows.
#[repr(C, align(64))]
pub(super) struct Panel256 {
    /// In the order of [`Cpu::pack`]: `[block][32 elements][group][4 rows × 32]`.
    q: [i8; ROWS * CHUNK],
    /// `[block][sub-block][row]`.
    scales: [i32; ROWS * CHUNK / 16],
    /// `[block][sub-block][row]`.
    mins: [i16; ROWS * CHUNK / 16],
    /// `[block][row]`.
    d: [f32; ROWS * CHUNK / 256],
    /// `[block][row]`.
    dmin: [f32; ROWS * CHUNK / 256],
}

/// Bytes of scratch that either panel needs; a multiple of 64.
pub(super) const SCRATCH: usize =
    if size_of::<Panel32>() > size_of::<Panel256>() { size_of::<Panel32>() } else { size_of::<Panel256>() };

/// One tile of the output, to which each chunk is added.
struct Sums<'a, 'b> {
    out: &'a mut OutTile<'b>,
    first_row: usize,
    /// Whether an earlier chunk has been stored.
    add: bool,
}

impl Sums<'_, '_> {
    /// Stores or adds the groups' rows for tokens `t..t + 4`, as many as there are of either.
    #[inline(always)]
    fn put(&mut self, t: usize, groups: usize, sums: &[[float32x4_t; 4]; 4]) {
        for i in 0..4.min(self.out.tokens() - t) {
            let out = &mut self.out.row_mut(t + i)[self.first_row..];
            for (out, sums) in out.chunks_mut(4).zip(&sums[..groups]) {
                // SAFETY: reads and writes four floats, checked by first_chunk_mut.
                unsafe {
                    match out.first_chunk_mut::<4>() {
                        Some(out) => {
                            let v = if self.add { vaddq_f32(sums[i], vld1q_f32(out.as_ptr())) } else { sums[i] };
                            vst1q_f32(out.as_mut_ptr(), v);
                        }
                        None => put_part(out, sums[i], self.add),
                    }
                }
            }
        }
    }
}

/// Stores or adds the first elements of `v`, as many as `out` has.
#[cold]
fn put_part(out: &mut [f32], v: float32x4_t, add: bool) {
    // SAFETY: baseline NEON.
    let v = if add { unsafe { vaddq_f32(v, super::float::load_part(out)) } } else { v };
    super::float::store_part(out, v);
}

#[inline(always)]
unsafe fn load32(p: *const i8) -> Bytes32 {
    // SAFETY: the caller gives 32 readable bytes.
    unsafe { [vld1q_s8(p), vld1q_s8(p.add(16))] }
}

/// Four floats, one from each address.
#[inline(always)]
unsafe fn gather(p: [*const f32; 4]) -> float32x4_t {
    // SAFETY: the caller gives four readable floats.
    unsafe {
        let v = vld1q_lane_f32::<1>(p[1], vld1q_dup_f32(p[0]));
        vld1q_lane_f32::<3>(p[3], vld1q_lane_f32::<2>(p[2], v))
    }
}

/// Each of a vector's lanes times `x`.
#[inline(always)]
unsafe fn by_lane(x: float32x4_t, lanes: float32x4_t) -> [float32x4_t; 4] {
    // SAFETY: baseline NEON.
    unsafe {
        [
            vmulq_laneq_f32::<0>(x, lanes),
            vmulq_laneq_f32::<1>(x, lanes),
            vmulq_laneq_f32::<2>(x, lanes),
            vmulq_laneq_f32::<3>(x, lanes),
        ]
    }
}

/// Takes a format's offset off.
#[inline(always)]
unsafe fn centred(q: Bytes32, offset: i32) -> Bytes32 {
    // SAFETY: baseline NEON.
    unsafe { two!(|I| vsubq_s8(q[I], vdupq_n_s8(offset as i8))) }
}

/// Rows × tokens of the tile, for the formats of 32 elements. `scratch` is [`SCRATCH`] bytes aligned to 64.
pub(super) unsafe fn gemm_32<C: Cpu, B: Block32>(w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
    let blocks = acts.cols / 32;
    let row_bytes = blocks * B::BYTES;
    let (rows, tokens) = (out.rows().len(), out.tokens());
    // SAFETY: SCRATCH bytes, aligned; any bytes are a panel. The rows are inside `w` (row < rows), the blocks inside
    // the row (first + n <= blocks), tokens inside acts.
    unsafe {
        let panel = &mut *scratch.as_mut_ptr().cast::<Panel32>();
        for first_row in (0..rows).step_by(4 * C::GROUPS) {
            let row = |r: usize| w.as_ptr().add((first_row + r).min(rows - 1) * row_bytes);
            for first in (0..blocks).step_by(CHUNK / 32) {
                let n = (blocks - first).min(CHUNK / 32);
                for g in 0..C::GROUPS {
                    let from = four!(|R| row(4 * g + R).add(first * B::BYTES));
                    pack_32::<C, B>(panel, g, from, n);
                }
                let mut sums = Sums { out: &mut *out, first_row, add: first > 0 };
                for t in (0..tokens).step_by(4) {
                    match (B::NARROW_PANEL, B::M.is_some()) {
                        (true, false) => multiply_32::<C, true, false>(panel, acts, t, first, n, &mut sums),
                        (true, true) => multiply_32::<C, true, true>(panel, acts, t, first, n, &mut sums),
                        (false, false) => multiply_32::<C, false, false>(panel, acts, t, first, n, &mut sums),
                        (false, true) => multiply_32::<C, false, true>(panel, acts, t, first, n, &mut sums),
                    }
                }
            }
        }
    }
}

/// Unpacks `n` blocks of four rows.
#[inline(always)]
unsafe fn pack_32<C: Cpu, B: Block32>(panel: &mut Panel32, g: usize, rows: [*const u8; 4], n: usize) {
    // SAFETY: the caller gives `n` blocks in each row; n <= CHUNK / 32 keeps the panel's places inside.
    unsafe {
        for b in 0..n {
            let at = b * C::GROUPS + g;
            let blocks = four!(|R| rows[R].add(b * B::BYTES));
            C::pack(four!(|R| centred(B::q(blocks[R]), B::OFFSET)), panel.q.as_mut_ptr().add(128 * at));
            for (r, p) in blocks.into_iter().enumerate() {
                panel.d[4 * at + r] = scale_at(p);
                if let Some(m) = B::M {
                    panel.m[4 * at + r] = scale_at(p.add(m));
                }
            }
        }
    }
}

/// The panel by four tokens. `M`: whether rows have an offset to be added.
#[inline(never)]
unsafe fn multiply_32<C: Cpu, const NARROW: bool, const M: bool>(
    panel: &Panel32,
    acts: &Acts,
    t: usize,
    first: usize,
    n: usize,
    out: &mut Sums,
) {
    let token = four!(|I| (t + I).min(acts.tokens - 1));
    // SAFETY: the panel holds `n` blocks, the tokens' records `first + n`.
    unsafe {
        let qs = four!(|T| acts.qs(token[T]).as_ptr().add(32 * first));
        let scales = four!(|T| acts.scales(token[T]).as_ptr().add(first));
        let a_sums = four!(|T| acts.sums(token[T]).as_ptr().add(2 * first));
        let mut sums = [[vdupq_n_f32(0.0); 4]; 4];
        let (mut q, mut d, mut m) = (panel.q.as_ptr(), panel.d.as_ptr(), panel.m.as_ptr());
        for b in 0..n {
            let a = C::arrange(four!(|T| load32(qs[T].add(32 * b))));
            let d_a = gather(four!(|T| scales[T].add(b)));
            let m_a = if M {
                let of = |i: usize| (i32::from(*a_sums[i].add(2 * b)) + i32::from(*a_sums[i].add(2 * b + 1))) as f32;
                vmulq_f32(d_a, vld1q_f32([of(0), of(1), of(2), of(3)].as_ptr()))
            } else {
                d_a
            };
            macro_rules! group {
                ($($g:literal)*) => { $(
                    sums[$g] = add_32::<C, NARROW, M>(
                        sums[$g], q.add(128 * $g), d.add(4 * $g), m.add(4 * $g), &a, d_a, m_a);
                )* };
            }
            group!(0 1);
            if C::GROUPS == 4 {
                group!(2 3);
            }
            (q, d, m) = (q.add(128 * C::GROUPS), d.add(4 * C::GROUPS), m.add(4 * C::GROUPS));
        }
        out.put(t, C::GROUPS, &sums);
    }
}

/// Adds one block of four rows by four tokens: `[token]`, rows in lanes.
#[inline(always)]
unsafe fn add_32<C: Cpu, const NARROW: bool, const M: bool>(
    sums: [float32x4_t; 4],
    q: *const i8,
    d: *const f32,
    m: *const f32,
    a: &C::Acts,
    d_a: float32x4_t,
    m_a: float32x4_t,
) -> [float32x4_t; 4] {
    // SAFETY: the caller gives the block's places in a panel.
    unsafe {
        let dots = C::tile_32::<NARROW>(q, a);
        let weights = by_lane(vld1q_f32(d), d_a);
        let sums = four!(|T| vfmaq_f32(sums[T], vcvtq_f32_s32(dots[T]), weights[T]));
        if !M {
            return sums;
        }
        let m = vld1q_f32(m);
        [
            vfmaq_laneq_f32::<0>(sums[0], m, m_a),
            vfmaq_laneq_f32::<1>(sums[1], m, m_a),
            vfmaq_laneq_f32::<2>(sums[2], m, m_a),
            vfmaq_laneq_f32::<3>(sums[3], m, m_a),
        ]
    }
}

/// Rows × tokens of the tile, for the formats of 256 elements. `scratch` is [`SCRATCH`] bytes aligned to 64.
pub(super) unsafe fn gemm_256<C: Cpu, B: Block256>(w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
    let blocks = acts.cols / 256;
    let row_bytes = blocks * B::BYTES;
    let (rows, tokens) = (out.rows().len(), out.tokens());
    // SAFETY: as in gemm_32.
    unsafe {
        let panel = &mut *scratch.as_mut_ptr().cast::<Panel256>();
        for first_row in (0..rows).step_by(4 * C::GROUPS) {
            let row = |r: usize| w.as_ptr().add((first_row + r).min(rows - 1) * row_bytes);
            for first in (0..blocks).step_by(CHUNK / 256) {
                let n = (blocks - first).min(CHUNK / 256);
                for g in 0..C::GROUPS {
                    let from = four!(|R| row(4 * g + R).add(first * B::BYTES));
                    pack_256::<C, B>(panel, g, from, n);
                }
                let mut sums = Sums { out: &mut *out, first_row, add: first > 0 };
                for t in (0..tokens).step_by(4) {
                    match (B::SUB, B::NARROW_PANEL, B::MINS) {
                        (32, true, _) => multiply_256::<C, 32, true, true>(panel, acts, t, first, n, &mut sums),
                        (32, false, true) => multiply_256::<C, 32, false, true>(panel, acts, t, first, n, &mut sums),
                        (32, false, false) => multiply_256::<C, 32, false, false>(panel, acts, t, first, n, &mut sums),
                        (_, _, true) => multiply_256::<C, 16, true, true>(panel, acts, t, first, n, &mut sums),
                        (_, _, false) => multiply_256::<C, 16, true, false>(panel, acts, t, first, n, &mut sums),
                    }
                }
            }
        }
    }
}

/// Unpacks `n` blocks of four rows.
#[inline(always)]
unsafe fn pack_256<C: Cpu, B: Block256>(panel: &mut Panel256, g: usize, rows: [*const u8; 4], n: usize) {
    let width = 4 * C::GROUPS;
    let subs = 256 / B::SUB;
    // SAFETY: the caller gives `n` blocks in each row; n <= CHUNK / 256 keeps the panel's places inside.
    unsafe {
        for b in 0..n {
            let blocks = four!(|R| rows[R].add(b * B::BYTES));
            for j in 0..8 {
                let to = panel.q.as_mut_ptr().add(128 * ((8 * b + j) * C::GROUPS + g));
                C::pack(four!(|R| centred(B::q(blocks[R], j), B::OFFSET)), to);
            }
            for (r, p) in blocks.into_iter().enumerate() {
                let head = B::head(p);
                let (mut scales, mut mins) = ([0i8; 16], [0i8; 16]);
                vst1q_s8(scales.as_mut_ptr(), head.scales);
                vst1q_s8(mins.as_mut_ptr(), head.mins);
                for s in 0..subs {
                    let at = (b * subs + s) * width + 4 * g + r;
                    panel.scales[at] = i32::from(scales[s]);
                    panel.mins[at] = i16::from(mins[s]);
                }
                panel.d[b * width + 4 * g + r] = head.d;
                panel.dmin[b * width + 4 * g + r] = head.dmin;
            }
        }
    }
}

/// The panel by four tokens, for sub-blocks of `SUB`. Every format of 16-element sub-blocks is narrow in a panel.
#[inline(never)]
unsafe fn multiply_256<C: Cpu, const SUB: usize, const NARROW: bool, const MINS: bool>(
    panel: &Panel256,
    acts: &Acts,
    t: usize,
    first: usize,
    n: usize,
    out: &mut Sums,
) {
    let token = four!(|I| (t + I).min(acts.tokens - 1));
    let subs = 256 / SUB;
    // SAFETY: the panel holds `n` blocks, the tokens' records `first + n`.
    unsafe {
        let qs = four!(|T| acts.qs(token[T]).as_ptr().add(256 * first));
        let scales = four!(|T| acts.scales(token[T]).as_ptr().add(first));
        let a_sums = four!(|T| acts.sums(token[T]).as_ptr().add(16 * first));
        let mut sums = [[vdupq_n_f32(0.0); 4]; 4];
        for b in 0..n {
            let mut isums = [[vdupq_n_s32(0); 4]; 4];
            let mut q = panel.q.as_ptr().add(128 * 8 * b * C::GROUPS);
            let mut scale = panel.scales.as_ptr().add(4 * C::GROUPS * subs * b);
            for j in 0..8 {
                let a = C::arrange(four!(|T| load32(qs[T].add(256 * b + 32 * j))));
                macro_rules! group {
                    ($($g:literal)*) => { $(
                        isums[$g] = add_256::<C, SUB, NARROW>(isums[$g], q.add(128 * $g), scale.add(4 * $g), &a);
                    )* };
                }
                group!(0 1);
                if C::GROUPS == 4 {
                    group!(2 3);
                }
                (q, scale) = (q.add(128 * C::GROUPS), scale.add(4 * C::GROUPS));
                if SUB == 16 {
                    scale = scale.add(4 * C::GROUPS);
                }
            }
            let d_a = gather(four!(|T| scales[T].add(b)));
            for g in 0..C::GROUPS {
                let at = 4 * (b * C::GROUPS + g);
                let weights = by_lane(vld1q_f32(panel.d.as_ptr().add(at)), d_a);
                for i in 0..4 {
                    sums[g][i] = vfmaq_f32(sums[g][i], vcvtq_f32_s32(isums[g][i]), weights[i]);
                }
                if MINS {
                    let mins = panel.mins.as_ptr().add(4 * C::GROUPS * subs * b + 4 * g);
                    let weights = by_lane(vld1q_f32(panel.dmin.as_ptr().add(at)), d_a);
                    for i in 0..4 {
                        let msum = min_sum::<C, SUB>(mins, a_sums[i].add(16 * b));
                        sums[g][i] = vfmsq_f32(sums[g][i], vcvtq_f32_s32(msum), weights[i]);
                    }
                }
            }
        }
        out.put(t, C::GROUPS, &sums);
    }
}

/// Adds 32 elements of four rows by four tokens, scaled: `[token]`, rows in lanes.
#[inline(always)]
unsafe fn add_256<C: Cpu, const SUB: usize, const NARROW: bool>(
    isums: [int32x4_t; 4],
    q: *const i8,
    scale: *const i32,
    a: &C::Acts,
) -> [int32x4_t; 4] {
    // SAFETY: the caller gives the elements' places in a panel.
    unsafe {
        let first = vld1q_s32(scale);
        if SUB == 32 {
            let dots = C::tile_32::<NARROW>(q, a);
            return four!(|T| vmlaq_s32(isums[T], dots[T], first));
        }
        let second = vld1q_s32(scale.add(4 * C::GROUPS));
        let dots = C::tile_16::<NARROW>(q, a);
        four!(|T| vmlaq_s32(vmlaq_s32(isums[T], dots[0][T], first), dots[1][T], second))
    }
}

/// `Σ_s mins[s] · (sum of the activations of sub-block s)` of four rows in lanes.
#[inline(always)]
unsafe fn min_sum<C: Cpu, const SUB: usize>(mins: *const i16, a_sums: *const i16) -> int32x4_t {
    // SAFETY: the caller gives a block's minima and its sixteen sums.
    unsafe {
        let (low, high) = (vld1q_s16(a_sums), vld1q_s16(a_sums.add(8)));
        macro_rules! eight {
            ($sum:expr, $first:expr, $a:expr, $($lane:literal)*) => {{
                let mut sum = $sum;
                $(sum = vmlal_laneq_s16::<$lane>(sum, vld1_s16(mins.add(4 * C::GROUPS * ($first + $lane))), $a);)*
                sum
            }};
            ($sum:expr, $first:expr, $a:expr) => { eight!($sum, $first, $a, 0 1 2 3 4 5 6 7) };
        }
        let zero = vdupq_n_s32(0);
        // The sum of 32 activations fits an i16: 32 · 128.
        if SUB == 32 { eight!(zero, 0, vpaddq_s16(low, high)) } else { eight!(eight!(zero, 0, low), 8, high) }
    }
}
