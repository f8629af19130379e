//! One token: a row's blocks are unpacked in registers, four at a time, straight from the file's bytes.

use super::blocks::{Block32, Block256};
use super::cpu::{Bytes32, Cpu, Offsets, four, load32};
use super::float::four_scales;
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

/// Bytes of scratch that [`matvec_32`] needs: sixteen for each block.
pub(super) fn scratch(cols: usize) -> usize {
    (cols / 2).div_ceil(64) * 64
}

/// Matrix times one token, for the formats of 32 elements. `scratch` is [`scratch`] bytes aligned to 64.
pub(super) unsafe fn matvec_32<C: Cpu, B: Block32>(w: &[u8], acts: &Acts, out: &mut OutTile, scratch: &mut [u8]) {
    let blocks = acts.cols / 32;
    let row_bytes = blocks * B::BYTES;
    let token = Token { qs: acts.qs(0).as_ptr(), scales: acts.scales(0).as_ptr(), sums: acts.sums(0).as_ptr() };
    let starts: *mut i32 = scratch.as_mut_ptr().cast();
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
    if C::EIGHT_ROWS && B::PLAIN_NIBBLES {
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
    // SAFETY: every address is inside the `R` rows of `blocks` blocks, the token's record or `starts`.
    unsafe {
        let mut rows = [w; R];
        for (r, p) in rows.iter_mut().enumerate() {
            *p = w.add(r * row_bytes);
        }
        let mut sums = [vdupq_n_f32(0.0); R];
        for i in 0..blocks / 4 {
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
    // SAFETY: `w` holds `blocks` whole blocks for each row of `out`, the record as many activations.
    unsafe {
        let mut p = w.as_ptr();
        for out in out {
            *out = row_256::<C, B>(p, token, blocks);
            p = p.add(row_bytes);
        }
    }
}

/// One row by one token.
#[inline(always)]
unsafe fn row_256<C: Cpu, B: Block256>(w: *const u8, token: Token, blocks: usize) -> f32 {
    // SAFETY: every address is inside the row or the token's record.
    unsafe {
        let mut sum = vdupq_n_f32(0.0);
        for i in 0..blocks {
            let p = w.add(i * B::BYTES);
            let head = B::head(p);
            let scales = [vmovl_s8(vget_low_s8(head.scales)), vmovl_s8(vget_high_s8(head.scales))];
            let qs = token.qs.add(256 * i);
            let mut isum = vdupq_n_s32(0);
            for half in 0..2 {
                let a = four!(|K| load32(qs.add(128 * half + 32 * K)));
                let q = four!(|K| B::q(p, 4 * half + K));
                if B::SUB == 32 {
                    let s = if half == 0 { vget_low_s16(scales[0]) } else { vget_high_s16(scales[0]) };
                    let dots = if B::NARROW { C::dots_32::<true>(q, a) } else { C::dots_32::<false>(q, a) };
                    isum = vmlaq_s32(isum, dots, vmovl_s16(s));
                } else {
                    for (k, s) in [vget_low_s16(scales[half]), vget_high_s16(scales[half])].into_iter().enumerate() {
                        let (q, a) = ([q[2 * k], q[2 * k + 1]], [a[2 * k], a[2 * k + 1]]);
                        let (q, a) = ([q[0][0], q[0][1], q[1][0], q[1][1]], [a[0][0], a[0][1], a[1][0], a[1][1]]);
                        let dots = if B::NARROW { C::dots_16::<true>(q, a) } else { C::dots_16::<false>(q, a) };
                        isum = vmlaq_s32(isum, dots, vmovl_s16(s));
                    }
                }
            }
            let sums = token.sums.add(16 * i);
            let sums = [vld1q_s16(sums), vld1q_s16(sums.add(8))];
            if B::OFFSET != 0 {
                isum = vsubq_s32(isum, vmulq_n_s32(by_sums::<B>(head.scales, sums), B::OFFSET));
            }
            let d_a = *token.scales.add(i);
            // (d_a · d) · isum rather than d_a · (d · isum): one rounding apart from the scalar kernel's.
            sum = vfmaq_n_f32(sum, vcvtq_f32_s32(isum), d_a * head.d);
            if B::MINS {
                sum = vfmsq_n_f32(sum, vcvtq_f32_s32(by_sums::<B>(head.mins, sums)), d_a * head.dmin);
            }
        }
        vaddvq_f32(sum)
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
