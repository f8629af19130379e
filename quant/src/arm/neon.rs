//! NEON as every 64-bit Arm has it: int8 products by widening multiplies.

use super::blocks::Block256;
use super::cpu::{Blocks32, Bytes32, Cpu, Offsets, SCALE_PLACES, TileSums, by_lane, four, join, load32, two, unrolled};
use core::arch::aarch64::*;
use core::arch::asm;

/// The same partial sums as [`join`] in i16, of which the sum of four neighbours still fits.
#[inline(always)]
unsafe fn join_narrow(p: [int16x8_t; 4]) -> int32x4_t {
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

/// Products of 16 elements, added in pairs in i16: |q · a| ≤ 128 · 127, so two fit.
#[inline(always)]
unsafe fn products_16(q: int8x16_t, a: int8x16_t) -> int16x8_t {
    // SAFETY: baseline NEON.
    unsafe { smlal2(smull(q, a), q, a) }
}

#[inline(always)]
unsafe fn products_32(q: Bytes32, a: Bytes32) -> int16x8_t {
    // SAFETY: baseline NEON.
    unsafe { smlal2(smlal(products_16(q[0], a[0]), q[1], a[1]), q[1], a[1]) }
}

/// Four rows' 32 elements by one token's, narrow. One piece of `asm!`, to keep the compiler from interleaving tokens
/// until it runs out of registers.
#[inline(always)]
unsafe fn rows_by_token(q: [Bytes32; 4], a: Bytes32) -> int32x4_t {
    let sums;
    // SAFETY: baseline NEON; only registers are touched.
    unsafe {
        asm!(
            "smull {p0:v}.8h, {q00:v}.8b, {a0:v}.8b",
            "smull {p1:v}.8h, {q10:v}.8b, {a0:v}.8b",
            "smull {p2:v}.8h, {q20:v}.8b, {a0:v}.8b",
            "smull {p3:v}.8h, {q30:v}.8b, {a0:v}.8b",
            "smlal2 {p0:v}.8h, {q00:v}.16b, {a0:v}.16b",
            "smlal2 {p1:v}.8h, {q10:v}.16b, {a0:v}.16b",
            "smlal2 {p2:v}.8h, {q20:v}.16b, {a0:v}.16b",
            "smlal2 {p3:v}.8h, {q30:v}.16b, {a0:v}.16b",
            "smlal {p0:v}.8h, {q01:v}.8b, {a1:v}.8b",
            "smlal {p1:v}.8h, {q11:v}.8b, {a1:v}.8b",
            "smlal {p2:v}.8h, {q21:v}.8b, {a1:v}.8b",
            "smlal {p3:v}.8h, {q31:v}.8b, {a1:v}.8b",
            "smlal2 {p0:v}.8h, {q01:v}.16b, {a1:v}.16b",
            "smlal2 {p1:v}.8h, {q11:v}.16b, {a1:v}.16b",
            "smlal2 {p2:v}.8h, {q21:v}.16b, {a1:v}.16b",
            "smlal2 {p3:v}.8h, {q31:v}.16b, {a1:v}.16b",
            "addp {p0:v}.8h, {p0:v}.8h, {p1:v}.8h",
            "addp {p2:v}.8h, {p2:v}.8h, {p3:v}.8h",
            "addp {p0:v}.8h, {p0:v}.8h, {p2:v}.8h",
            "saddlp {p0:v}.4s, {p0:v}.8h",
            p0 = out(vreg) sums, p1 = out(vreg) _, p2 = out(vreg) _, p3 = out(vreg) _,
            q00 = in(vreg) q[0][0], q01 = in(vreg) q[0][1],
            q10 = in(vreg) q[1][0], q11 = in(vreg) q[1][1],
            q20 = in(vreg) q[2][0], q21 = in(vreg) q[2][1],
            q30 = in(vreg) q[3][0], q31 = in(vreg) q[3][1],
            a0 = in(vreg) a[0], a1 = in(vreg) a[1],
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Sums of `q[i] · a[i]` over 16 elements, `i` in 0..4. `NARROW`: see [`super::cpu::Cpu`].
#[inline(always)]
unsafe fn dots_16<const NARROW: bool>(q: [int8x16_t; 4], a: [int8x16_t; 4]) -> int32x4_t {
    // SAFETY: baseline NEON.
    unsafe {
        let p = four!(|I| products_16(q[I], a[I]));
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
                join_narrow(four!(|I| products_32(q[I], a[I])))
            } else {
                join(four!(|I| vpadalq_s16(vpaddlq_s16(products_16(q[I][0], a[I][0])), products_16(q[I][1], a[I][1]))))
            }
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
        let mut sum = sum;
        // The scales are picked out of the first 64 of the 72 bytes. The four blocks go side by side, for the
        // cores that execute in order. |nibble · a| ≤ 15 · 127, so that sixteen products fit an i16.
        // SAFETY: the caller gives four blocks, and the CPU .
        unsafe {
            asm!(
                "ld1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{p}]",
                "ldur {x0:q}, [{p}, #2]",
                "ldur {x1:q}, [{p}, #20]",
                "ldur {x2:q}, [{p}, #38]",
                "ldur {x3:q}, [{p}, #56]",
                "tbl {d:v}.8b, {{v28.16b, v29.16b, v30.16b, v31.16b}}, {places:v}.8b",
                "and {y0:v}.16b, {x0:v}.16b, {low:v}.16b",
                "and {y1:v}.16b, {x1:v}.16b, {low:v}.16b",
                "and {y2:v}.16b, {x2:v}.16b, {low:v}.16b",
                "and {y3:v}.16b, {x3:v}.16b, {low:v}.16b",
                "fcvtl {d:v}.4s, {d:v}.4h",
                "smull v28.8h, {y0:v}.8b, {a00:v}.8b",
                "smull v29.8h, {y1:v}.8b, {a10:v}.8b",
                "smull v30.8h, {y2:v}.8b, {a20:v}.8b",
                "smull v31.8h, {y3:v}.8b, {a30:v}.8b",
                "ushr {x0:v}.16b, {x0:v}.16b, #4",
                "ushr {x1:v}.16b, {x1:v}.16b, #4",
                "ushr {x2:v}.16b, {x2:v}.16b, #4",
                "ushr {x3:v}.16b, {x3:v}.16b, #4",
                "smlal2 v28.8h, {y0:v}.16b, {a00:v}.16b",
                "smlal2 v29.8h, {y1:v}.16b, {a10:v}.16b",
                "smlal2 v30.8h, {y2:v}.16b, {a20:v}.16b",
                "smlal2 v31.8h, {y3:v}.16b, {a30:v}.16b",
                "fmul {d:v}.4s, {d:v}.4s, {scale:v}.4s",
                "smlal v28.8h, {x0:v}.8b, {a01:v}.8b",
                "smlal v29.8h, {x1:v}.8b, {a11:v}.8b",
                "smlal v30.8h, {x2:v}.8b, {a21:v}.8b",
                "smlal v31.8h, {x3:v}.8b, {a31:v}.8b",
                "smlal2 v28.8h, {x0:v}.16b, {a01:v}.16b",
                "smlal2 v29.8h, {x1:v}.16b, {a11:v}.16b",
                "smlal2 v30.8h, {x2:v}.16b, {a21:v}.16b",
                "smlal2 v31.8h, {x3:v}.16b, {a31:v}.16b",
                "addp v28.8h, v28.8h, v29.8h",
                "addp v30.8h, v30.8h, v31.8h",
                "addp v28.8h, v28.8h, v30.8h",
                "saddlp v28.4s, v28.8h",
                "sub v28.4s, v28.4s, {minus:v}.4s",
                "scvtf v28.4s, v28.4s",
                "fmla {sum:v}.4s, v28.4s, {d:v}.4s",
                p = in(reg) *blocks, sum = inout(vreg) sum, minus = in(vreg) offsets.minus, scale = in(vreg) scale,
                places = in(vreg) vcreate_u8(SCALE_PLACES), low = in(vreg) vdupq_n_u8(15),
                a00 = in(vreg) a[0][0], a01 = in(vreg) a[0][1],
                a10 = in(vreg) a[1][0], a11 = in(vreg) a[1][1],
                a20 = in(vreg) a[2][0], a21 = in(vreg) a[2][1],
                a30 = in(vreg) a[3][0], a31 = in(vreg) a[3][1],
                d = out(vreg) _,
                x0 = out(vreg) _, y0 = out(vreg) _,
                x1 = out(vreg) _, y1 = out(vreg) _,
                x2 = out(vreg) _, y2 = out(vreg) _,
                x3 = out(vreg) _, y3 = out(vreg) _,
                out("v28") _, out("v29") _, out("v30") _, out("v31") _,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        *blocks = blocks.wrapping_add(72);
        sum
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
        for (r, q) in rows.into_iter().enumerate() {
            // SAFETY: the caller gives 128 writable bytes.
            unsafe {
                vst1q_s8(panel.add(32 * r), q[0]);
                vst1q_s8(panel.add(32 * r + 16), q[1]);
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply_32<const NARROW: bool>(blocks: Blocks32) -> TileSums<float32x4_t> {
        // SAFETY: the caller gives the blocks' places.
        unsafe {
            let mut sums = [[vdupq_n_f32(0.0); 4]; 4];
            let Blocks32 { mut q, mut d, a, mut d_a, n } = blocks;
            for b in 0..n {
                let a = four!(|T| load32(a[T].add(32 * b)));
                let scales = vld1q_f32(d_a);
                for sums in &mut sums[..Self::GROUPS] {
                    let dots = tile_32::<NARROW>(q, &a);
                    let weights = by_lane(vld1q_f32(d), scales);
                    *sums = four!(|T| vfmaq_f32(sums[T], vcvtq_f32_s32(dots[T]), weights[T]));
                    (q, d) = (q.add(128), d.add(4));
                }
                d_a = d_a.add(4);
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn multiply_256<const SUB: usize, const NARROW: bool>(
        q: *const i8,
        scales: *const i32,
        a: [*const i8; 4],
    ) -> TileSums<int32x4_t> {
        // SAFETY: the caller gives a super-block's places.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); 4]; 4];
            let (mut q, mut scales) = (q, scales);
            for j in 0..8 {
                let a = four!(|T| load32(a[T].add(32 * j)));
                for sums in &mut sums[..Self::GROUPS] {
                    let first = vld1q_s32(scales);
                    if SUB == 32 {
                        let dots = tile_32::<NARROW>(q, &a);
                        *sums = four!(|T| vmlaq_s32(sums[T], dots[T], first));
                    } else {
                        let second = vld1q_s32(scales.add(4 * Self::GROUPS));
                        let dots = tile_16::<NARROW>(q, &a);
                        *sums = four!(|T| vmlaq_s32(vmlaq_s32(sums[T], dots[0][T], first), dots[1][T], second));
                    }
                    (q, scales) = (q.add(128), scales.add(4));
                }
                if SUB == 16 {
                    scales = scales.add(4 * Self::GROUPS);
                }
            }
            sums
        }
    }
}

/// Dot products of four rows of a panel with four tokens over 32 elements: `[token]`, rows in lanes.
#[inline(always)]
unsafe fn tile_32<const NARROW: bool>(panel: *const i8, a: &[Bytes32; 4]) -> [int32x4_t; 4] {
    // SAFETY: the caller gives a panel of 128 bytes.
    unsafe {
        let rows = four!(|R| load32(panel.add(32 * R)));
        if NARROW {
            return four!(|T| rows_by_token(rows, a[T]));
        }
        four!(|T| Neon::dots_32::<false>(rows, [a[T]; 4]))
    }
}

/// The same over each half of the 32 elements: `[half][token]`, rows in lanes.
#[inline(always)]
unsafe fn tile_16<const NARROW: bool>(panel: *const i8, a: &[Bytes32; 4]) -> [[int32x4_t; 4]; 2] {
    // SAFETY: the caller gives a panel of 128 bytes.
    unsafe {
        two!(|H| {
            let rows = four!(|R| vld1q_s8(panel.add(32 * R + 16 * H)));
            four!(|T| dots_16::<NARROW>(rows, [a[T][H]; 4]))
        })
    }
}
