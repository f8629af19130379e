//! Minima of super-blocks by the sums of four tokens' activations, in whole numbers: as int8 with the dot product, as floats
//! without. Both are exact, so that a row and a token give the same bits on every CPU.

use super::cpu::{ZEROS, four, unrolled};
use core::arch::aarch64::*;
use core::arch::asm;

/// The sums of a super-block's activations over each of its sub-blocks in two parts of seven bits, `64 · high + low`:
/// eight of `low` and eight of `high` in the first vector, or sixteen of `low` and sixteen of `high`.
#[inline(always)]
pub(super) unsafe fn split_sums<const SUB: usize>(sums: *const i16) -> [int8x16_t; 2] {
    // SAFETY: the caller gives sixteen sums; those of 32 activations are below 64 · 64.
    unsafe {
        let (first, second) = (vld1q_s16(sums), vld1q_s16(sums.add(8)));
        let low = |x| vreinterpretq_s8_s16(vandq_s16(x, vdupq_n_s16(63)));
        let high = |x| vreinterpretq_s8_s16(vshrq_n_s16::<6>(x));
        if SUB == 32 {
            let both = vpaddq_s16(first, second);
            return [vuzp1q_s8(low(both), high(both)), vdupq_n_s8(0)];
        }
        [vuzp1q_s8(low(first), low(second)), vuzp1q_s8(high(first), high(second))]
    }
}

/// The sums of a super-block's activations over each of its sub-blocks.
#[inline(always)]
pub(super) unsafe fn sub_sums<const SUB: usize>(sums: *const i16) -> [float32x4_t; 4] {
    // SAFETY: the caller gives sixteen sums.
    unsafe {
        let (low, high) = (vld1q_s16(sums), vld1q_s16(sums.add(8)));
        if SUB == 32 {
            let (low, high) = (vcvtq_f32_s32(vpaddlq_s16(low)), vcvtq_f32_s32(vpaddlq_s16(high)));
            return [low, high, low, high];
        }
        [
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
            vcvtq_f32_s32(vmovl_high_s16(low)),
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
            vcvtq_f32_s32(vmovl_high_s16(high)),
        ]
    }
}

/// `Σ min · sum` of four rows by four tokens, a token in each vector: whole numbers below 2²⁴, exact in any order.
#[inline(always)]
pub(super) unsafe fn by_floats<const SUB: usize>(
    mins: *const f32,
    width: usize,
    a: &[[float32x4_t; 4]; 4],
) -> [float32x4_t; 4] {
    // SAFETY: the caller gives the minima of four rows, `width` floats from one sub-block to the next.
    unsafe {
        let mut sums = [vdupq_n_f32(0.0); 4];
        unrolled!(|S| 0 1 2 3, {
            if 4 * S < 256 / SUB {
                let mins = four!(|I| vld1q_f32(mins.add(width * (4 * S + I))));
                sums = four!(|T| vfmaq_laneq_f32::<0>(sums[T], mins[0], a[T][S]));
                sums = four!(|T| vfmaq_laneq_f32::<1>(sums[T], mins[1], a[T][S]));
                sums = four!(|T| vfmaq_laneq_f32::<2>(sums[T], mins[2], a[T][S]));
                sums = four!(|T| vfmaq_laneq_f32::<3>(sums[T], mins[3], a[T][S]));
            }
        });
        sums
    }
}

/// `64 · Σ min · high + Σ min · low` of four rows by four tokens, a token in each vector: `mins` in words of four sub-blocks,
/// four rows in turn, and what [`split_sums`] gives for each token.
#[inline(always)]
pub(super) unsafe fn by_dot<const SUB: usize>(mins: *const i8, a: &[[int8x16_t; 2]; 4]) -> [int32x4_t; 4] {
    /// Words of minima in the registers `$m` by the tokens' lanes.
    macro_rules! words {
        ($a:literal, $($m:literal $lane:literal)*) => {
            concat!($(
                "sdot v28.4s, v", $m, ".16b, {", $a, "0:v}.4b[", $lane, "]\nsdot v29.4s, v", $m, ".16b, {", $a, "1:v}.4b[", $lane,
                "]\nsdot v30.4s, v", $m, ".16b, {", $a, "2:v}.4b[", $lane, "]\nsdot v31.4s, v", $m, ".16b, {", $a, "3:v}.4b[",
                $lane, "]\n"
            ),*)
        };
    }
    let (s0, s1, s2, s3): (int32x4_t, int32x4_t, int32x4_t, int32x4_t);
    // SAFETY: the caller has a CPU with the instruction (see [`super::cpu`]), and gives 64 bytes of minima.
    unsafe {
        if SUB == 32 {
            asm!(
                ".arch_extension dotprod",
                "ld1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{zeros}]",
                "ldp q26, q27, [{mins}]",
                words!("a", "26" "2" "27" "3"),
                "shl v28.4s, v28.4s, #6\nshl v29.4s, v29.4s, #6\nshl v30.4s, v30.4s, #6\nshl v31.4s, v31.4s, #6",
                words!("a", "26" "0" "27" "1"),
                zeros = in(reg) &raw const ZEROS, mins = in(reg) mins,
                a0 = in(vreg) a[0][0], a1 = in(vreg) a[1][0], a2 = in(vreg) a[2][0], a3 = in(vreg) a[3][0],
                out("v26") _, out("v27") _, out("v28") s0, out("v29") s1, out("v30") s2, out("v31") s3,
                options(pure, readonly, nostack, preserves_flags)
            );
        } else {
            asm!(
                ".arch_extension dotprod",
                "ld1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{zeros}]",
                "ld1 {{v24.16b, v25.16b, v26.16b, v27.16b}}, [{mins}]",
                words!("b", "24" "0" "25" "1" "26" "2" "27" "3"),
                "shl v28.4s, v28.4s, #6\nshl v29.4s, v29.4s, #6\nshl v30.4s, v30.4s, #6\nshl v31.4s, v31.4s, #6",
                words!("a", "24" "0" "25" "1" "26" "2" "27" "3"),
                zeros = in(reg) &raw const ZEROS, mins = in(reg) mins,
                a0 = in(vreg) a[0][0], a1 = in(vreg) a[1][0], a2 = in(vreg) a[2][0], a3 = in(vreg) a[3][0],
                b0 = in(vreg) a[0][1], b1 = in(vreg) a[1][1], b2 = in(vreg) a[2][1], b3 = in(vreg) a[3][1],
                out("v24") _, out("v25") _, out("v26") _, out("v27") _,
                out("v28") s0, out("v29") s1, out("v30") s2, out("v31") s3,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
    }
    [s0, s1, s2, s3]
}
