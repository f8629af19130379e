//! Two tokens or more: rows are unpacked once to a panel of int8 in scratch, then multiplied by four tokens at a time
//! with sums held in registers.
//!
//! A panel covers `C::GROUPS · 4` rows and [`CHUNK`] columns, so that it stays in the first-level cache; wider rows
//! are done chunk by chunk, adding to the output. Rows and tokens beyond the tile's are the last one again, computed
//! and dropped.

use super::blocks::{Block32, Block256};
use super::cpu::{Blocks32, Bytes32, Cpu, four, two, unrolled};
use super::float::f16_at;
use super::mins;
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
    /// The minima, without the dot product: `[block][sub-block][row]`.
    mins: [f32; ROWS * CHUNK / 16],
    /// With it: `[block][group][4 sub-blocks][row][sub-block]`; of 16 sub-blocks, eight may be anything.
    int_mins: [i8; ROWS * CHUNK / 16],
    /// `[block][row]`.
    d: [f32; ROWS * CHUNK / 256],
    /// Likewise.
    dmin: [f32; ROWS * CHUNK / 256],
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
    unsafe fn put<C: Cpu>(&mut self, t: usize, sums: &[[float32x4_t; 4]; 4]) {
        let (rows, tokens) = (self.out.rows().len() - self.first_row, self.out.tokens() - t);
        // SAFETY: token t + T and `rows` rows from the first are inside the tile.
        unsafe {
            unrolled!(|T| 0 1 2 3, {
                if T < tokens {
                    let mut out = self.out.row_ptr(t + T).add(self.first_row);
                    if rows >= 4 * C::GROUPS {
                        for group in &sums[..C::GROUPS] {
                            let v = if self.add { vaddq_f32(group[T], vld1q_f32(out)) } else { group[T] };
                            vst1q_f32(out, v);
                            out = out.add(4);
                        }
                    } else {
                        put_part(core::slice::from_raw_parts_mut(out, rows), four!(|I| sums[I][T]), self.add);
                    }
                }
            });
        }
    }
}

/// Stores or adds as many of the rows as `out` has.
#[cold]
fn put_part(out: &mut [f32], sums: [float32x4_t; 4], add: bool) {
    for (out, v) in out.chunks_mut(4).zip(sums) {
        // SAFETY: baseline NEON.
        let v = if add { unsafe { vaddq_f32(v, super::float::load_part(out)) } } else { v };
        super::float::store_part(out, v);
    }
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
            let to = panel.q.as_mut_ptr().add(128 * at);
            let (mut d, d_to) = (f16_at(blocks), panel.d.as_mut_ptr().add(4 * C::COPIES * at));
            if C::DOT {
                C::pack(four!(|R| centred(B::wide(blocks[R]), B::WIDE_OFFSET)), to);
                if B::WIDE_UNIT != 1.0 {
                    d = vmulq_n_f32(d, B::WIDE_UNIT);
                }
            } else {
                C::pack(four!(|R| centred(B::q(blocks[R]), B::OFFSET)), to);
            }
            if C::COPIES == 1 {
                vst1q_f32(d_to, d);
            } else {
                vst1q_f32_x2(d_to, float32x4x2_t(vzip1q_f32(d, d), vzip2q_f32(d, d)));
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
        out.put::<C>(t, &sums);
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
            let to = to.add(4 * C::COPIES * b);
            if C::COPIES == 1 {
                vst4q_f32(to, float32x4x4_t(d[0], d[1], d[2], d[3]));
            } else {
                for (i, pairs) in [vzip1q_f32, vzip2q_f32].into_iter().enumerate() {
                    let [low, high] = two!(|I| vreinterpretq_f64_f32(pairs(d[2 * I], d[2 * I + 1])));
                    vst4q_f64(to.add(16 * i).cast(), float64x2x4_t(low, low, high, high));
                }
            }
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
            unrolled!(|J| 0 1 2 3 4 5 6 7, {
                let rows = if C::DOT {
                    four!(|R| centred(B::wide(blocks[R], J), B::WIDE_OFFSET))
                } else {
                    four!(|R| centred(B::q(blocks[R], J), B::OFFSET))
                };
                C::pack(rows, panel.q.as_mut_ptr().add(128 * ((8 * b + J) * C::GROUPS + g)));
            });
            let heads = four!(|R| B::head(blocks[R]));
            let even = vzip1q_f32(heads[0].factors, heads[2].factors);
            let odd = vzip1q_f32(heads[1].factors, heads[3].factors);
            let (mut d, dmin) = (vzip1q_f32(even, odd), vzip2q_f32(even, odd));
            if C::DOT && B::WIDE_UNIT != 1.0 {
                d = vmulq_n_f32(d, B::WIDE_UNIT);
            }
            let by_sub = by_sub_block(four!(|R| heads[R].scales));
            unrolled!(|S| 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15, {
                if S < subs {
                    let to = panel.scales.as_mut_ptr().add(C::COPIES * ((b * subs + S) * width + 4 * g));
                    let scales = sub_block(by_sub, S);
                    if C::COPIES == 1 {
                        vst1q_s32(to, scales);
                    } else {
                        vst1q_s32_x2(to, int32x4x2_t(vzip1q_s32(scales, scales), vzip2q_s32(scales, scales)));
                    }
                }
            });
            if B::MINS && C::DOT {
                let mins = four!(|R| vreinterpretq_s32_s8(heads[R].mins));
                let to = panel.int_mins.as_mut_ptr().add(64 * (b * C::GROUPS + g));
                vst4q_s32(to.cast(), int32x4x4_t(mins[0], mins[1], mins[2], mins[3]));
            } else if B::MINS {
                let by_sub = by_sub_block(four!(|R| heads[R].mins));
                for s in 0..subs {
                    let to = panel.mins.as_mut_ptr().add((b * subs + s) * width + 4 * g);
                    vst1q_f32(to, vcvtq_f32_s32(sub_block(by_sub, s)));
                }
            }
            vst1q_f32(panel.dmin.as_mut_ptr().add(b * width + 4 * g), dmin);
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
        let none = (vdupq_n_s8(0), vdupq_n_f32(0.0));
        let mut sums = [[none.1; 4]; 4];
        for b in 0..n {
            let q = panel.q.as_ptr().add(32 * 8 * b * width);
            let scale = panel.scales.as_ptr().add(C::COPIES * width * subs * b);
            let isums = C::multiply_256::<SUB, NARROW>(q, scale, four!(|T| qs[T].add(256 * b)));
            let d_a = gather(four!(|T| scales[T].add(b)));
            // For one of the two ways to multiply minima.
            let split =
                four!(|T| if MINS && C::DOT { mins::split_sums::<SUB>(a_sums[T].add(16 * b)) } else { [none.0; 2] });
            let whole =
                four!(|T| if MINS && !C::DOT { mins::sub_sums::<SUB>(a_sums[T].add(16 * b)) } else { [none.1; 4] });
            unrolled!(|G| 0 1 2 3, {
                if G < C::GROUPS {
                    let at = width * b + 4 * G;
                    let d = vld1q_f32(panel.d.as_ptr().add(at));
                    let mut x = four!(|T| vmulq_f32(vcvtq_f32_s32(isums[G][T]), d));
                    if MINS {
                        let msums = if C::DOT {
                            let msums = mins::by_dot::<SUB>(panel.int_mins.as_ptr().add(16 * at), &split);
                            four!(|T| vcvtq_f32_s32(msums[T]))
                        } else {
                            mins::by_floats::<SUB>(panel.mins.as_ptr().add(width * subs * b + 4 * G), width, &whole)
                        };
                        let dmin = vld1q_f32(panel.dmin.as_ptr().add(at));
                        x = four!(|T| vfmsq_f32(x[T], msums[T], dmin));
                    }
                    sums[G] = four!(|T| vfmaq_laneq_f32::<{ T as i32 }>(sums[G][T], x[T], d_a));
                }
            });
        }
        out.put::<C>(t, &sums);
    }
}
