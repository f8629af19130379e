//! NEON as every 64-bit Arm has it: int8 products by widening multiplies.

use super::blocks::{Block32, Block256, Q4_0};
use super::cpu::{Blocks32, Bytes32, Cpu, Offsets, TileSums, four, join, load32, unrolled};
use super::float::four_scales;
use super::widening;
use core::arch::aarch64::*;
use core::arch::asm;

/// The same partial sums as [`join`] in i16, of which the sum of four neighbours still fits.
#[inline(always)]
pub(super) unsafe fn join_narrow(p: [int16x8_t; 4]) -> int32x4_t {
    // SAFETY: baseline NEON.
    unsafe { vpaddlq_s16(vpaddq_s16(vpaddq_s16(p[0], p[1]), vpaddq_s16(p[2], p[3]))) }
}

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Neon;

/// The widening multiplies of int8, low or high halves, with or without a sum to add to. By `asm!` because the compiler
/// takes `smull` of nibbles apart once it sees that they cannot be negative.
macro_rules! widening {
    ($name:ident, $text:literal) => {
        #[inline(always)]
        unsafe fn $name(sum: int16x8_t, q: int8x16_t, a: int8x16_t) -> int16x8_t {
            let mut sum = sum;
            // SAFETY: baseline NEON; only registers are touched.
            unsafe {
                asm!($text, s = inout(vreg) sum, q = in(vreg) q, a = in(vreg) a,
                    options(pure, nomem, nostack, preserves_flags));
            }
            sum
        }
    };
}

widening!(smlal, "smlal {s:v}.8h, {q:v}.8b, {a:v}.8b");
widening!(smlal2, "smlal2 {s:v}.8h, {q:v}.16b, {a:v}.16b");

#[inline(always)]
unsafe fn smull(q: int8x16_t, a: int8x16_t) -> int16x8_t {
    let sum;
    // SAFETY: baseline NEON; only registers are touched.
    unsafe {
        asm!("smull {s:v}.8h, {q:v}.8b, {a:v}.8b", s = lateout(vreg) sum, q = in(vreg) q, a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Products of four times 16 elements, added in pairs in i16: |q · a| ≤ 128 · 127, so two fit. The four are side by side
/// for the cores that execute in order; so below.
#[inline(always)]
unsafe fn products_16(q: [int8x16_t; 4], a: [int8x16_t; 4]) -> [int16x8_t; 4] {
    // SAFETY: baseline NEON.
    unsafe {
        let p = four!(|I| smull(q[I], a[I]));
        four!(|I| smlal2(p[I], q[I], a[I]))
    }
}

/// The same for 32 elements, added by fours.
#[inline(always)]
unsafe fn products_32(q: [Bytes32; 4], a: [Bytes32; 4]) -> [int16x8_t; 4] {
    // SAFETY: baseline NEON.
    unsafe {
        let p = products_16(four!(|I| q[I][0]), four!(|I| a[I][0]));
        let p = four!(|I| smlal(p[I], q[I][1], a[I][1]));
        four!(|I| smlal2(p[I], q[I][1], a[I][1]))
    }
}

/// Sums of `q[i] · a[i]` over 16 elements, `i` in 0..4. `NARROW`: see [`super::cpu::Cpu`].
#[inline(always)]
unsafe fn dots_16<const NARROW: bool>(q: [int8x16_t; 4], a: [int8x16_t; 4]) -> int32x4_t {
    // SAFETY: baseline NEON.
    unsafe {
        let p = products_16(q, a);
        if NARROW { join_narrow(p) } else { join(four!(|I| vpaddlq_s16(p[I]))) }
    }
}

impl Cpu for Neon {
    const GROUPS: usize = 2;
    const COPIES: usize = 1;
    const DOT: bool = false;

    #[inline(always)]
    unsafe fn dots_32<const NARROW: bool>(q: [Bytes32; 4], a: [Bytes32; 4]) -> int32x4_t {
        // SAFETY: baseline NEON.
        unsafe {
            if NARROW {
                return join_narrow(products_32(q, a));
            }
            let first = products_16(four!(|I| q[I][0]), four!(|I| a[I][0]));
            let last = products_16(four!(|I| q[I][1]), four!(|I| a[I][1]));
            widening::join_wide(first, last)
        }
    }

    #[inline(always)]
    unsafe fn add_nibble_blocks(
        sum: float32x4_t,
        blocks: &mut *const u8,
        a: &[Bytes32; 4],
        offsets: &Offsets,
        scale: float32x4_t,
    ) -> float32x4_t {
        // SAFETY: the caller gives four blocks.
        unsafe {
            let q = four!(|K| Q4_0::q(blocks.add(K * Q4_0::BYTES)));
            let d = vmulq_f32(four_scales(*blocks, Q4_0::BYTES), scale);
            *blocks = blocks.wrapping_add(4 * Q4_0::BYTES);
            vfmaq_f32(sum, vcvtq_f32_s32(vsubq_s32(Neon::dots_32::<true>(q, *a), offsets.minus)), d)
        }
    }

    #[inline(always)]
    unsafe fn dots_256<B: Block256, const R: usize>(
        blocks: [*const u8; R],
        scales: [int8x16_t; R],
        a: *const i8,
    ) -> [int32x4_t; R] {
        // SAFETY: baseline NEON; the caller gives whole blocks and 256 activations.
        unsafe {
            let mut sums = [vdupq_n_s32(0); R];
            unrolled!(|HALF| 0 1, {
                let a = four!(|K| load32(a.add(128 * HALF + 32 * K)));
                for r in 0..R {
                    let q = four!(|K| B::q(blocks[r], 4 * HALF + K));
                    if B::SUB == 32 {
                        let s = vmovl_s8(vget_low_s8(scales[r]));
                        let s = if HALF == 0 { vmovl_s16(vget_low_s16(s)) } else { vmovl_high_s16(s) };
                        let dots = if B::NARROW { Neon::dots_32::<true>(q, a) } else { Neon::dots_32::<false>(q, a) };
                        sums[r] = vmlaq_s32(sums[r], dots, s);
                        continue;
                    }
                    let s = if HALF == 0 { vmovl_s8(vget_low_s8(scales[r])) } else { vmovl_high_s8(scales[r]) };
                    for (k, s) in [vmovl_s16(vget_low_s16(s)), vmovl_high_s16(s)].into_iter().enumerate() {
                        let (q, a) = ([q[2 * k], q[2 * k + 1]], [a[2 * k], a[2 * k + 1]]);
                        let (q, a) = ([q[0][0], q[0][1], q[1][0], q[1][1]], [a[0][0], a[0][1], a[1][0], a[1][1]]);
                        let dots = if B::NARROW { dots_16::<true>(q, a) } else { dots_16::<false>(q, a) };
                        sums[r] = vmlaq_s32(sums[r], dots, s);
                    }
                }
            });
            sums
        }
    }

    #[inline(always)]
    unsafe fn pack(rows: [Bytes32; 4], panel: *mut i8) {
        // SAFETY: the same.
        unsafe { widening::pack(rows, panel) }
    }

    #[inline(always)]
    unsafe fn multiply_32<const NARROW: bool>(blocks: Blocks32) -> TileSums<float32x4_t> {
        // SAFETY: the same.
        unsafe { widening::multiply_32::<NARROW>(blocks) }
    }

    #[inline(always)]
    unsafe fn multiply_256<const SUB: usize, const NARROW: bool>(
        q: *const i8,
        scales: *const i32,
        a: [*const i8; 4],
    ) -> TileSums<int32x4_t> {
        // SAFETY: the same.
        unsafe { widening::multiply_256::<SUB, NARROW>(q, scales, a) }
    }
}
