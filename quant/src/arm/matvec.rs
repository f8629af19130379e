//! One token: a row's blocks are unpacked in registers, four at a time, straight from the file's bytes.

use super::blocks::{Block32, Block256};
use super::cpu::{Bytes32, Cpu, Offsets, four, load32};
use super::dotrows::{self, SPREAD, rows_of_q4_k, spread};
use super::float::four_scales;
use super::widening;
use crate::act::Acts;
use crate::share::OutTile;
use core::arch::aarch64::*;

/// One token's record.
#[derive(Clone, Copy)]
struct Token {
    qs: *const i8,
    scales: *const f32,
    sums: *const i16,
}

/// Bytes of scratch that [`matvec_32`] needs: sixteen for each block, or what [`spread`] writes.
pub(super) fn scratch(cols: usize) -> usize {
    (cols / 2).div_ceil(64).max(cols.div_ceil(128) * SPREAD / 64) * 64
}

/// Matrix times one token, for the formats of 32 elements. `scratch` is [`scratch`] bytes aligned to 64.
pub(super) unsafe fn matvec_32<C: Cpu, B: Block32>(w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
    let blocks = acts.cols / 32;
    let row_bytes = blocks * B::BYTES;
    let token = Token { qs: acts.qs(0).as_ptr(), scales: acts.scales(0).as_ptr(), sums: acts.sums(0).as_ptr() };
    let starts: *mut i32 = scratch.as_mut_ptr().cast();
    let spreads = C::DOT && B::BYTES == 34 && out.rows().len() >= 4;
    if spreads {
        // SAFETY: `blocks` blocks of activations, and room for them.
        unsafe { spread(token.qs, blocks / 4, scratch.as_mut_ptr().cast()) }
    }
    if B::PLAIN_NIBBLES {
        // SAFETY: `blocks` times two sums, and room for as many times sixteen bytes.
        unsafe {
            for b in 0..blocks {
                let sum = i32::from(*token.sums.add(2 * b)) + i32::from(*token.sums.add(2 * b + 1));
                vst1q_s32(starts.add(4 * b), vsetq_lane_s32::<0>(-B::OFFSET * sum, vdupq_n_s32(0)));
            }
        }
    }
    let out = out.row_mut(0);
    let (mut p, mut done) = (w.as_ptr(), 0);
    macro_rules! by_rows {
        ($rows:literal) => {
            while let Some(some) = out[done..].first_chunk_mut::<$rows>() {
                // SAFETY: `w` holds `blocks` whole blocks for each row of `out`, the record as many activations.
                unsafe {
                    *some = rows_32::<C, B, $rows>(p, row_bytes, token, starts, blocks);
                    p = p.add($rows * row_bytes);
                }
                done += $rows;
            }
        };
    }
    // The others are unpacked by the compiler's code, which needs more registers.
    if C::DOT && B::PLAIN_NIBBLES {
        by_rows!(8);
    }
    by_rows!(4);
    by_rows!(1);
}

/// `R` rows by one token. The four lanes of a sum are the blocks 0, 1, 2, 3 modulo 4, so that a row's result is the
/// same whatever `R` is.
#[inline(always)]
unsafe fn rows_32<C: Cpu, B: Block32, const R: usize>(
    w: *const u8,
    row_bytes: usize,
    token: Token,
    starts: *const i32,
    blocks: usize,
) -> [f32; R] {
    // SAFETY: every address is inside the `R` rows of `blocks` blocks, the token's record or `starts`; behind the first of
    // four rows is the second, at least four blocks.
    unsafe {
        let mut rows = [w; R];
        for (r, p) in rows.iter_mut().enumerate() {
            *p = w.add(r * row_bytes);
        }
        let mut sums = [vdupq_n_f32(0.0); R];
        let mut done = 0;
        if R == 4 && blocks >= 4 && (B::BYTES == 34 || B::PLAIN_NIBBLES && !C::DOT) {
            let (rows_4, n) = (four!(|I| rows[I % R]), blocks / 4);
            let four = match (C::DOT, B::PLAIN_NIBBLES) {
                (true, _) => dotrows::rows_of_q8_0(rows_4, starts.cast(), token.scales, n),
                (false, true) => widening::rows_of_q4_0(rows_4, row_bytes, token.qs, token.scales, token.sums, n),
                (false, false) => widening::rows_of_q8_0(rows_4, row_bytes, token.qs, token.scales, n),
            };
            sums.copy_from_slice(&four[..R]);
            done = n;
            for p in &mut rows {
                *p = p.add(4 * done * B::BYTES);
            }
        }
        for i in done..blocks / 4 {
            let a = four!(|K| load32(token.qs.add(128 * i + 32 * K)));
            let d_a = vld1q_f32(token.scales.add(4 * i));
            let a_sums = vpaddlq_s16(vld1q_s16(token.sums.add(8 * i)));
            let offsets = Offsets { minus: vmulq_n_s32(a_sums, B::OFFSET), starts: starts.add(16 * i) };
            for (p, sum) in rows.iter_mut().zip(&mut sums) {
                if B::PLAIN_NIBBLES {
                    *sum = C::add_nibble_blocks(*sum, p, &a, &offsets, d_a);
                    continue;
                }
                let q = four!(|K| B::q(p.add(K * B::BYTES)));
                let m = |at| four_scales(p.add(at), B::BYTES);
                *sum = add_blocks::<C, B>(*sum, q, a, m(0), B::M.map(m), d_a, a_sums);
                *p = p.add(4 * B::BYTES);
            }
        }
        let rest = blocks % 4;
        if rest > 0 {
            // Blocks that are not there have zero elements and scales.
            let none = [vdupq_n_s8(0); 2];
            let first = blocks - rest;
            let (mut a, mut d_a, mut a_sums) = ([none; 4], [0.0; 4], [0; 4]);
            for k in 0..rest {
                a[k] = load32(token.qs.add(32 * (first + k)));
                d_a[k] = *token.scales.add(first + k);
                a_sums[k] =
                    i32::from(*token.sums.add(2 * (first + k))) + i32::from(*token.sums.add(2 * (first + k) + 1));
            }
            let (d_a, a_sums) = (vld1q_f32(d_a.as_ptr()), vld1q_s32(a_sums.as_ptr()));
            for (row, sum) in rows.into_iter().zip(&mut sums) {
                let (mut q, mut d, mut m) = ([none; 4], [0.0; 4], [0.0; 4]);
                for k in 0..rest {
                    let p = row.add(k * B::BYTES);
                    q[k] = B::q(p);
                    d[k] = super::float::scale_at(p);
                    if let Some(at) = B::M {
                        m[k] = super::float::scale_at(p.add(at));
                    }
                }
                let m = B::M.map(|_| vld1q_f32(m.as_ptr()));
                *sum = add_blocks::<C, B>(*sum, q, a, vld1q_f32(d.as_ptr()), m, d_a, a_sums);
            }
        }
        let mut out = [0.0; R];
        for (out, s) in out.iter_mut().zip(sums) {
            *out = vaddvq_f32(s);
        }
        out
    }
}

/// Adds four blocks' products, a block in each lane.
#[inline(always)]
unsafe fn add_blocks<C: Cpu, B: Block32>(
    sum: float32x4_t,
    q: [Bytes32; 4],
    a: [Bytes32; 4],
    d: float32x4_t,
    m: Option<float32x4_t>,
    d_a: float32x4_t,
    a_sums: int32x4_t,
) -> float32x4_t {
    // SAFETY: a value of C's table is proof of the CPU.
    unsafe {
        let mut isum = if B::NARROW { C::dots_32::<true>(q, a) } else { C::dots_32::<false>(q, a) };
        if B::OFFSET != 0 {
            isum = vsubq_s32(isum, vmulq_n_s32(a_sums, B::OFFSET));
        }
        let sum = vfmaq_f32(sum, vcvtq_f32_s32(isum), vmulq_f32(d, d_a));
        match m {
            Some(m) => vfmaq_f32(sum, vcvtq_f32_s32(a_sums), vmulq_f32(m, d_a)),
            None => sum,
        }
    }
}

/// Matrix times one token, for the formats of 256 elements.
pub(super) unsafe fn matvec_256<C: Cpu, B: Block256>(w: &[u8], acts: &Acts, out: &mut OutTile, _: &mut [u8]) {
    let blocks = acts.cols / 256;
    let row_bytes = blocks * B::BYTES;
    let token = Token { qs: acts.qs(0).as_ptr(), scales: acts.scales(0).as_ptr(), sums: acts.sums(0).as_ptr() };
    let out = out.row_mut(0);
    let (fours, out) =
        if C::DOT && B::BYTES == 144 && blocks > 0 { out.as_chunks_mut::<4>() } else { (&mut [][..], out) };
    // Without the dot product the registers hold no more than one row's sums.
    let (pairs, rest) = if C::DOT { out.as_chunks_mut::<2>() } else { (&mut [][..], out) };
    // SAFETY: `w` holds `blocks` whole blocks for each row of `out`, the record as many activations.
    unsafe {
        let mut p = w.as_ptr();
        for out in fours {
            let sums = rows_of_q4_k(four!(|R| p.add(R * row_bytes)), token.qs, token.scales, token.sums, blocks);
            vst1q_f32(out.as_mut_ptr(), sums);
            p = p.add(4 * row_bytes);
        }
        for out in pairs {
            *out = rows_256::<C, B, 2>([p, p.add(row_bytes)], token, blocks);
            p = p.add(2 * row_bytes);
        }
        for out in rest {
            [*out] = rows_256::<C, B, 1>([p], token, blocks);
            p = p.add(row_bytes);
        }
    }
}

/// `R` rows by one token, one or two. A row's result is the same whatever `R` is, and on every CPU: a super-block's
/// integers are added up before they become a float.
#[inline(always)]
unsafe fn rows_256<C: Cpu, B: Block256, const R: usize>(rows: [*const u8; R], token: Token, blocks: usize) -> [f32; R] {
    let (offset, unit) = if C::DOT { (B::WIDE_OFFSET, B::WIDE_UNIT) } else { (B::OFFSET, 1.0) };
    let mut rows = rows;
    // SAFETY: every address is inside the rows or the token's record.
    unsafe {
        // Two rows' products, then their products with minima.
        let mut floats = vdupq_n_f32(0.0);
        for i in 0..blocks {
            let a_sums = token.sums.add(16 * i);
            let a_sums = [vld1q_s16(a_sums), vld1q_s16(a_sums.add(8))];
            let mut heads = [B::head(rows[0]); R];
            for (head, row) in heads.iter_mut().zip(rows).skip(1) {
                *head = B::head(row);
            }
            let mut scales = [heads[0].scales; R];
            for (scales, head) in scales.iter_mut().zip(heads) {
                *scales = head.scales;
            }
            let mut sums = C::dots_256::<B, R>(rows, scales, token.qs.add(256 * i));
            if offset != 0 {
                for (sum, scales) in sums.iter_mut().zip(scales) {
                    *sum = vsubq_s32(*sum, vmulq_n_s32(by_sums::<B>(scales, a_sums), offset));
                }
            }
            let mut joined = vpaddq_s32(sums[0], sums[R - 1]);
            if B::MINS {
                let mins = |r: usize| by_sums::<B>(heads[r].mins, a_sums);
                joined = vpaddq_s32(joined, vpaddq_s32(mins(0), mins(R - 1)));
            } else {
                joined = vpaddq_s32(joined, joined);
            }
            // (d_a · d) · sum rather than d_a · (d · sum): one rounding apart from the scalar kernel's.
            let factors = vzip1q_f32(heads[0].factors, heads[R - 1].factors);
            let factors = vmulq_n_f32(factors, *token.scales.add(i) * unit);
            floats = vfmaq_f32(floats, vcvtq_f32_s32(joined), factors);
            for p in &mut rows {
                *p = p.add(B::BYTES);
            }
        }
        if B::MINS {
            floats = vsubq_f32(floats, vextq_f32::<2>(floats, floats));
        }
        let mut out = [vgetq_lane_f32::<0>(floats); R];
        out[R - 1] = if R == 2 { vgetq_lane_f32::<1>(floats) } else { out[0] };
        out
    }
}

/// Sub-blocks' factors by the sums of their activations, in four partial sums.
#[inline(always)]
unsafe fn by_sums<B: Block256>(factors: int8x16_t, sums: [int16x8_t; 2]) -> int32x4_t {
    // SAFETY: baseline NEON.
    unsafe {
        let low = vmovl_s8(vget_low_s8(factors));
        if B::SUB == 32 {
            // The sum of 32 activations fits an i16: 32 · 128.
            let sums = vpaddq_s16(sums[0], sums[1]);
            vmlal_high_s16(vmull_s16(vget_low_s16(low), vget_low_s16(sums)), low, sums)
        } else {
            let high = vmovl_s8(vget_high_s8(factors));
            let first = vmlal_high_s16(vmull_s16(vget_low_s16(low), vget_low_s16(sums[0])), low, sums[0]);
            vmlal_high_s16(vmlal_s16(first, vget_low_s16(high), vget_low_s16(sums[1])), high, sums[1])
        }
    }
}
