//! Two tokens or more: rows are unpacked once to a panel of int8 in scratch, then multiplied by four tokens at a time
//! with sums held in registers.
//!
//! A panel covers `C::GROUPS · 4` rows and [`CHUNK`] columns, so that it stays in the first-level cache; wider rows
//! are done chunk by chunk, adding to the output. Rows and tokens beyond the tile's are the last one again, computed
//! and dropped.

use super::blocks::{Block32, Block256};
use super::cpu::{Blocks32, Bytes32, Cpu, by_lane, four, two};
use super::float::f16_at;
use crate::act::Acts;
use crate::share::OutTile;
use core::arch::aarch64::*;
use core::mem::MaybeUninit;

/// Columns of a panel.
const CHUNK: usize = 1024;
/// Rows of the largest panel.
pub(super) const ROWS: usize = 16;

/// What a panel of 32-element blocks holds for each of its rows.
#[repr(C, align(64))]
pub(super) struct Panel32 {
    /// In the order of [`Cpu::pack`]: `[block][group][4 rows × 32]`.
    q: [i8; ROWS * CHUNK],
    /// `[block][row]`, each [`Cpu::COPIES`] times.
    d: [f32; 2 * ROWS * CHUNK / 32],
    /// `[block][row]`.
    m: [f32; ROWS * CHUNK / 32],
}

/// What a panel of 256-element blocks holds for each of its rows.
#[repr(C, align(64))]
pub(super) struct Panel256 {
    /// In the order of [`Cpu::pack`]: `[block][32 elements][group][4 rows × 32]`.
    q: [i8; ROWS * CHUNK],
    /// `[block][sub-block][row]`, each [`Cpu::COPIES`] times.
    scales: [i32; 2 * ROWS * CHUNK / 16],
    /// `dmin · min`, `[block][sub-block][row]`.
    mins: [f32; ROWS * CHUNK / 16],
    /// `[block][row]`.
    d: [f32; ROWS * CHUNK / 256],
}

/// Bytes of scratch that either panel needs; a multiple of 64.
pub(super) const SCRATCH: usize =
    if size_of::<Panel32>() > size_of::<Panel256>() { size_of::<Panel32>() } else { size_of::<Panel256>() };

/// Where the tokens' records are. Tokens beyond the last one are the last one again.
struct Records {
    qs: *const i8,
    scales: *const f32,
    sums: *const i16,
    stride: usize,
    last: usize,
}

impl Records {
    fn of(acts: &Acts) -> Records {
        Records {
            qs: acts.qs(0).as_ptr(),
            scales: acts.scales(0).as_ptr(),
            sums: acts.sums(0).as_ptr(),
            stride: acts.kind.stride(acts.cols),
            last: acts.tokens - 1,
        }
    }

    /// `first` of each of the tokens `t..t + 4`, counted from `p` of token 0.
    #[inline(always)]
    unsafe fn four<T>(&self, p: *const T, t: usize, first: usize) -> [*const T; 4] {
        // SAFETY: the caller gives an element of a record; all records are alike, `stride` bytes apart.
        unsafe { four!(|I| p.byte_add((t + I).min(self.last) * self.stride).add(first)) }
    }

    /// The tokens' int8 from `first` on.
    #[inline(always)]
    unsafe fn qs(&self, t: usize, first: usize) -> [*const i8; 4] {
        // SAFETY: as for four.
        unsafe { self.four(self.qs, t, first) }
    }

    /// Their scales.
    #[inline(always)]
    unsafe fn scales(&self, t: usize, first: usize) -> [*const f32; 4] {
        // SAFETY: as for four.
        unsafe { self.four(self.scales, t, first) }
    }

    /// Their sums of 16.
    #[inline(always)]
    unsafe fn sums(&self, t: usize, first: usize) -> [*const i16; 4] {
        // SAFETY: as for four.
        unsafe { self.four(self.sums, t, first) }
    }
}

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

/// Four floats, one from each address.
#[inline(always)]
unsafe fn gather(p: [*const f32; 4]) -> float32x4_t {
    // SAFETY: the caller gives four readable floats.
    unsafe {
        let v = vld1q_lane_f32::<1>(p[1], vld1q_dup_f32(p[0]));
        vld1q_lane_f32::<3>(p[3], vld1q_lane_f32::<2>(p[2], v))
    }
}

/// Takes a format's offset off.
#[inline(always)]
unsafe fn centred(q: Bytes32, offset: i32) -> Bytes32 {
    // SAFETY: baseline NEON.
    unsafe { two!(|I| if offset == 0 { q[I] } else { vsubq_s8(q[I], vdupq_n_s8(offset as i8)) }) }
}

/// Rows × tokens of the tile, for the formats of 32 elements. `scratch` is [`SCRATCH`] bytes aligned to 64.
pub(super) unsafe fn gemm_32<C: Cpu, B: Block32>(w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
    let blocks = acts.cols / 32;
    let row_bytes = blocks * B::BYTES;
    let (rows, tokens) = (out.rows().len(), out.tokens());
    let records = Records::of(acts);
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
                        (true, false) => multiply_32::<C, true, false>(panel, &records, t, first, n, &mut sums),
                        (true, true) => multiply_32::<C, true, true>(panel, &records, t, first, n, &mut sums),
                        (false, false) => multiply_32::<C, false, false>(panel, &records, t, first, n, &mut sums),
                        (false, true) => multiply_32::<C, false, true>(panel, &records, t, first, n, &mut sums),
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
            let (d, to) = (f16_at(blocks), panel.d.as_mut_ptr().add(4 * C::COPIES * at));
            if C::COPIES == 1 {
                vst1q_f32(to, d);
            } else {
                vst1q_f32_x2(to, float32x4x2_t(vzip1q_f32(d, d), vzip2q_f32(d, d)));
            }
            if let Some(m) = B::M {
                vst1q_f32(panel.m.as_mut_ptr().add(4 * at), f16_at(four!(|R| blocks[R].add(m))));
            }
        }
    }
}

/// The panel by four tokens. `M`: whether rows have an offset to be added.
#[inline(never)]
unsafe fn multiply_32<C: Cpu, const NARROW: bool, const M: bool>(
    panel: &Panel32,
    records: &Records,
    t: usize,
    first: usize,
    n: usize,
    out: &mut Sums,
) {
    // SAFETY: the panel holds `n` blocks, at least one, the tokens' records `first + n`.
    unsafe {
        let scales = records.scales(t, first);
        let mut d_a = MaybeUninit::<[f32; 8 * CHUNK / 32]>::uninit();
        copy_scales::<C>(scales, n, d_a.as_mut_ptr().cast());
        let (q, d) = (panel.q.as_ptr(), panel.d.as_ptr());
        let blocks = Blocks32 { q, d, a: records.qs(t, 32 * first), d_a: d_a.as_ptr().cast(), n };
        let mut sums = C::multiply_32::<NARROW>(blocks);
        if M {
            let a_sums = records.sums(t, 2 * first);
            let mut m = panel.m.as_ptr();
            for b in 0..n {
                let of = |i: usize| (i32::from(*a_sums[i].add(2 * b)) + i32::from(*a_sums[i].add(2 * b + 1))) as f32;
                let m_a = [of(0), of(1), of(2), of(3)];
                let m_a = vmulq_f32(gather(four!(|T| scales[T].add(b))), vld1q_f32(m_a.as_ptr()));
                for sums in &mut sums[..C::GROUPS] {
                    *sums = add_by_lane(*sums, vld1q_f32(m), m_a);
                    m = m.add(4);
                }
            }
        }
        out.put(t, C::GROUPS, &sums);
    }
}

/// Four tokens' scales of `n` blocks, side by side as [`Blocks32::d_a`] wants them.
#[inline(always)]
unsafe fn copy_scales<C: Cpu>(scales: [*const f32; 4], n: usize, to: *mut f32) {
    // SAFETY: the caller gives `n` scales of each token, and room for `n` times `4 · COPIES`.
    unsafe {
        let put = |b: usize, d: float32x4_t| {
            let to = to.add(4 * C::COPIES * b);
            if C::COPIES == 1 {
                return vst1q_f32(to, d);
            }
            let d = vreinterpretq_f64_f32(d);
            let (low, high) = (vreinterpretq_f32_f64(vzip1q_f64(d, d)), vreinterpretq_f32_f64(vzip2q_f64(d, d)));
            vst1q_f32_x2(to, float32x4x2_t(low, high));
        };
        let fours = n / 4 * 4;
        for b in (0..fours).step_by(4) {
            let d = four!(|T| vld1q_f32(scales[T].add(b)));
            let (even, odd) =
                ([vzip1q_f32(d[0], d[2]), vzip2q_f32(d[0], d[2])], [vzip1q_f32(d[1], d[3]), vzip2q_f32(d[1], d[3])]);
            put(b, vzip1q_f32(even[0], odd[0]));
            put(b + 1, vzip2q_f32(even[0], odd[0]));
            put(b + 2, vzip1q_f32(even[1], odd[1]));
            put(b + 3, vzip2q_f32(even[1], odd[1]));
        }
        for b in fours..n {
            put(b, gather(four!(|T| scales[T].add(b))));
        }
    }
}

/// `sums[i] + x · lanes[i]`.
#[inline(always)]
unsafe fn add_by_lane(sums: [float32x4_t; 4], x: float32x4_t, lanes: float32x4_t) -> [float32x4_t; 4] {
    // SAFETY: baseline NEON.
    unsafe {
        [
            vfmaq_laneq_f32::<0>(sums[0], x, lanes),
            vfmaq_laneq_f32::<1>(sums[1], x, lanes),
            vfmaq_laneq_f32::<2>(sums[2], x, lanes),
            vfmaq_laneq_f32::<3>(sums[3], x, lanes),
        ]
    }
}

/// Rows × tokens of the tile, for the formats of 256 elements. `scratch` is [`SCRATCH`] bytes aligned to 64.
pub(super) unsafe fn gemm_256<C: Cpu, B: Block256>(w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
    let blocks = acts.cols / 256;
    let row_bytes = blocks * B::BYTES;
    let (rows, tokens) = (out.rows().len(), out.tokens());
    let records = Records::of(acts);
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
                        (32, true, _) => multiply_256::<C, 32, true, true>(panel, &records, t, first, n, &mut sums),
                        (32, false, true) => {
                            multiply_256::<C, 32, false, true>(panel, &records, t, first, n, &mut sums)
                        }
                        (32, false, false) => {
                            multiply_256::<C, 32, false, false>(panel, &records, t, first, n, &mut sums)
                        }
                        (_, _, true) => multiply_256::<C, 16, true, true>(panel, &records, t, first, n, &mut sums),
                        (_, _, false) => multiply_256::<C, 16, true, false>(panel, &records, t, first, n, &mut sums),
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
                let rows = if C::DOT {
                    four!(|R| centred(B::wide(blocks[R], j), B::WIDE_OFFSET))
                } else {
                    four!(|R| centred(B::q(blocks[R], j), B::OFFSET))
                };
                C::pack(rows, to);
            }
            let heads = four!(|R| B::head(blocks[R]));
            let even = vzip1q_f32(heads[0].factors, heads[2].factors);
            let odd = vzip1q_f32(heads[1].factors, heads[3].factors);
            let (mut d, dmin) = (vzip1q_f32(even, odd), vzip2q_f32(even, odd));
            if C::DOT && B::WIDE_UNIT != 1.0 {
                d = vmulq_n_f32(d, B::WIDE_UNIT);
            }
            let by_sub = by_sub_block(four!(|R| heads[R].scales));
            for s in 0..subs {
                let to = panel.scales.as_mut_ptr().add(C::COPIES * ((b * subs + s) * width + 4 * g));
                let scales = sub_block(by_sub, s);
                if C::COPIES == 1 {
                    vst1q_s32(to, scales);
                } else {
                    vst1q_s32_x2(to, int32x4x2_t(vzip1q_s32(scales, scales), vzip2q_s32(scales, scales)));
                }
            }
            if B::MINS {
                let by_sub = by_sub_block(four!(|R| heads[R].mins));
                for s in 0..subs {
                    let to = panel.mins.as_mut_ptr().add((b * subs + s) * width + 4 * g);
                    vst1q_f32(to, vmulq_f32(dmin, vcvtq_f32_s32(sub_block(by_sub, s))));
                }
            }
            vst1q_f32(panel.d.as_mut_ptr().add(b * width + 4 * g), d);
        }
    }
}

/// Four rows' bytes transposed: `[sub-block][row]`.
#[inline(always)]
unsafe fn by_sub_block(rows: [int8x16_t; 4]) -> [int8x16_t; 4] {
    // SAFETY: baseline NEON.
    unsafe {
        let even = [vzip1q_s8(rows[0], rows[2]), vzip2q_s8(rows[0], rows[2])];
        let odd = [vzip1q_s8(rows[1], rows[3]), vzip2q_s8(rows[1], rows[3])];
        four!(|I| if I & 1 == 0 { vzip1q_s8(even[I / 2], odd[I / 2]) } else { vzip2q_s8(even[I / 2], odd[I / 2]) })
    }
}

/// Sub-block `s` of them, widened.
#[inline(always)]
unsafe fn sub_block(by_sub: [int8x16_t; 4], s: usize) -> int32x4_t {
    // SAFETY: baseline NEON; s < 16.
    unsafe {
        let four = by_sub[s / 4];
        let two = if s % 4 < 2 { vmovl_s8(vget_low_s8(four)) } else { vmovl_high_s8(four) };
        if s.is_multiple_of(2) { vmovl_s16(vget_low_s16(two)) } else { vmovl_high_s16(two) }
    }
}

/// The panel by four tokens, for sub-blocks of `SUB`. Every format of 16-element sub-blocks is narrow in a panel.
#[inline(never)]
unsafe fn multiply_256<C: Cpu, const SUB: usize, const NARROW: bool, const MINS: bool>(
    panel: &Panel256,
    records: &Records,
    t: usize,
    first: usize,
    n: usize,
    out: &mut Sums,
) {
    let subs = 256 / SUB;
    let width = 4 * C::GROUPS;
    // SAFETY: the panel holds `n` blocks, the tokens' records `first + n`.
    unsafe {
        let (qs, scales) = (records.qs(t, 256 * first), records.scales(t, first));
        let a_sums = records.sums(t, 16 * first);
        let mut sums = [[vdupq_n_f32(0.0); 4]; 4];
        for b in 0..n {
            let q = panel.q.as_ptr().add(32 * 8 * b * width);
            let scale = panel.scales.as_ptr().add(C::COPIES * width * subs * b);
            let isums = C::multiply_256::<SUB, NARROW>(q, scale, four!(|T| qs[T].add(256 * b)));
            let d_a = gather(four!(|T| scales[T].add(b)));
            for (g, sums) in sums.iter_mut().enumerate().take(C::GROUPS) {
                let weights = by_lane(vld1q_f32(panel.d.as_ptr().add(width * b + 4 * g)), d_a);
                *sums = four!(|T| vfmaq_f32(sums[T], vcvtq_f32_s32(isums[g][T]), weights[T]));
            }
            if MINS {
                let mins = panel.mins.as_ptr().add(width * subs * b);
                let a_sums = four!(|T| sub_sums::<SUB>(a_sums[T].add(16 * b), *scales[T].add(b)));
                for (g, sums) in sums.iter_mut().enumerate().take(C::GROUPS) {
                    for s in (0..subs).step_by(4) {
                        let mins = four!(|S| vld1q_f32(mins.add(width * (s + S) + 4 * g)));
                        *sums = four!(|T| less_mins(sums[T], mins, a_sums[T][s / 4]));
                    }
                }
            }
        }
        out.put(t, C::GROUPS, &sums);
    }
}

/// The sums of a super-block's activations over each of its sub-blocks, times their scale.
#[inline(always)]
unsafe fn sub_sums<const SUB: usize>(sums: *const i16, scale: f32) -> [float32x4_t; 4] {
    // SAFETY: the caller gives sixteen sums.
    unsafe {
        let (low, high) = (vld1q_s16(sums), vld1q_s16(sums.add(8)));
        let four = |x| vmulq_n_f32(vcvtq_f32_s32(x), scale);
        if SUB == 32 {
            let (low, high) = (four(vpaddlq_s16(low)), four(vpaddlq_s16(high)));
            return [low, high, low, high];
        }
        [
            four(vmovl_s16(vget_low_s16(low))),
            four(vmovl_high_s16(low)),
            four(vmovl_s16(vget_low_s16(high))),
            four(vmovl_high_s16(high)),
        ]
    }
}

/// `sum − Σ_s mins[s] · a_sums[s]`.
#[inline(always)]
unsafe fn less_mins(sum: float32x4_t, mins: [float32x4_t; 4], a_sums: float32x4_t) -> float32x4_t {
    // SAFETY: baseline NEON.
    unsafe {
        let sum = vfmsq_laneq_f32::<0>(sum, mins[0], a_sums);
        let sum = vfmsq_laneq_f32::<1>(sum, mins[1], a_sums);
        let sum = vfmsq_laneq_f32::<2>(sum, mins[2], a_sums);
        vfmsq_laneq_f32::<3>(sum, mins[3], a_sums)
    }
}
