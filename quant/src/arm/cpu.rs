//! The int8 dot products of three generations of Arm: widening multiplies only (Cortex-A53, A72), `sdot` (A76) and
//! `smmla` (A710, X2 and later).
//!
//! `sdot` and `smmla` come through `asm!` because their intrinsics are not stable. Each instruction names its
//! extension to the assembler, so that the functions need no target feature and inline into generic kernels; what
//! stands for the CPU having them is the type: a table of kernels over [`DotProd`] or [`I8mm`] is given out by
//! [`super::table`] alone, after asking the CPU.

use core::arch::aarch64::*;
use core::arch::asm;

/// An array made element by element, `$i` being a constant in each. (`core::array::map` is not reliably inlined.)
macro_rules! four {
    (|$i:ident| $e:expr) => {
        [four!(@ $i 0 $e), four!(@ $i 1 $e), four!(@ $i 2 $e), four!(@ $i 3 $e)]
    };
    (@ $i:ident $n:literal $e:expr) => {{
        const $i: usize = $n;
        $e
    }};
}

/// The same for two.
macro_rules! two {
    (|$i:ident| $e:expr) => {
        [four!(@ $i 0 $e), four!(@ $i 1 $e)]
    };
}

pub(super) use {four, two};

/// Where the f16 scales of blocks of 18 bytes lie.
const SCALE_PLACES: u64 = u64::from_le_bytes([0, 1, 18, 19, 36, 37, 54, 55]);

/// 32 int8: elements 0 to 15 and 16 to 31.
pub(super) type Bytes32 = [int8x16_t; 2];

/// One CPU generation's ways to multiply int8.
///
/// `NARROW` promises that |q| · 127 · 16 fits an i16, for weights in sub-blocks of 32 elements, or |q| · 127 · 8 for
/// those of 16: then a whole sub-block is summed in i16.
pub(super) trait Cpu: Copy {
    /// Groups of four rows that the matrix kernel works on at once, as many as the registers hold.
    const GROUPS: usize;

    /// Four tokens' 32 activations as [`Cpu::tile`] wants them.
    type Acts: Copy;

    /// Sums of `q[i] · a[i]` over 32 elements, `i` in 0..4.
    unsafe fn dots_32<const NARROW: bool>(q: [Bytes32; 4], a: [Bytes32; 4]) -> int32x4_t;

    /// Four blocks of 18 bytes (f16 scale, 16 bytes of nibbles) by 128 activations, a block in each lane: the sum of
    /// the products (nibbles from 0 to 15) less `minus`, times the blocks' scales and `scale`, added to `sum`.
    unsafe fn add_nibble_blocks(
        sum: float32x4_t,
        blocks: *const u8,
        a: &[Bytes32; 4],
        minus: int32x4_t,
        scale: float32x4_t,
    ) -> float32x4_t;

    /// Sums of `q[i] · a[i]` over 16 elements, `i` in 0..4.
    unsafe fn dots_16<const NARROW: bool>(q: [int8x16_t; 4], a: [int8x16_t; 4]) -> int32x4_t;

    /// Writes 32 elements of four rows to a panel (128 bytes) in the order that [`Cpu::tile`] reads.
    unsafe fn pack(rows: [Bytes32; 4], panel: *mut i8);

    /// Arranges four tokens' activations.
    unsafe fn arrange(a: [Bytes32; 4]) -> Self::Acts;

    /// Dot products of four rows of a panel with four tokens over 32 elements: `[token]`, rows in lanes.
    unsafe fn tile_32<const NARROW: bool>(panel: *const i8, a: &Self::Acts) -> [int32x4_t; 4];

    /// The same over each half of the 32 elements: `[half][token]`, rows in lanes.
    unsafe fn tile_16<const NARROW: bool>(panel: *const i8, a: &Self::Acts) -> [[int32x4_t; 4]; 2];
}

/// Four vectors of partial sums to one vector of four sums.
#[inline(always)]
unsafe fn join(p: [int32x4_t; 4]) -> int32x4_t {
    // SAFETY: baseline NEON.
    unsafe { vpaddq_s32(vpaddq_s32(p[0], p[1]), vpaddq_s32(p[2], p[3])) }
}

/// The same for partial sums in i16, of which the sum of four neighbours still fits.
#[inline(always)]
unsafe fn join_narrow(p: [int16x8_t; 4]) -> int32x4_t {
    // SAFETY: baseline NEON.
    unsafe { vpaddlq_s16(vpaddq_s16(vpaddq_s16(p[0], p[1]), vpaddq_s16(p[2], p[3]))) }
}

/// NEON as every 64-bit Arm has it.
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

impl Cpu for Neon {
    const GROUPS: usize = 2;

    type Acts = [Bytes32; 4];

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
        blocks: *const u8,
        a: &[Bytes32; 4],
        minus: int32x4_t,
        scale: float32x4_t,
    ) -> float32x4_t {
        let mut sum = sum;
        // The scales are picked out of the first 64 of the 72 bytes. |nibble · a| ≤ 15 · 127, so that sixteen products fit an i16.
        // SAFETY: the caller gives four blocks, and the CPU (see the head of this file).
        unsafe {
            asm!(
                "ld1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{p}]",
                "tbl {d:v}.8b, {{v28.16b, v29.16b, v30.16b, v31.16b}}, {places:v}.8b",
                "fcvtl {d:v}.4s, {d:v}.4h",
                "fmul {d:v}.4s, {d:v}.4s, {scale:v}.4s",
                "ldur {x:q}, [{p}, #2]",
                "and {y:v}.16b, {x:v}.16b, {low:v}.16b",
                "ushr {x:v}.16b, {x:v}.16b, #4",
                "smull v28.8h, {y:v}.8b, {a00:v}.8b",
                "smlal2 v28.8h, {y:v}.16b, {a00:v}.16b",
                "smlal v28.8h, {x:v}.8b, {a01:v}.8b",
                "smlal2 v28.8h, {x:v}.16b, {a01:v}.16b",
                "ldur {x:q}, [{p}, #20]",
                "and {y:v}.16b, {x:v}.16b, {low:v}.16b",
                "ushr {x:v}.16b, {x:v}.16b, #4",
                "smull v29.8h, {y:v}.8b, {a10:v}.8b",
                "smlal2 v29.8h, {y:v}.16b, {a10:v}.16b",
                "smlal v29.8h, {x:v}.8b, {a11:v}.8b",
                "smlal2 v29.8h, {x:v}.16b, {a11:v}.16b",
                "ldur {x:q}, [{p}, #38]",
                "and {y:v}.16b, {x:v}.16b, {low:v}.16b",
                "ushr {x:v}.16b, {x:v}.16b, #4",
                "smull v30.8h, {y:v}.8b, {a20:v}.8b",
                "smlal2 v30.8h, {y:v}.16b, {a20:v}.16b",
                "smlal v30.8h, {x:v}.8b, {a21:v}.8b",
                "smlal2 v30.8h, {x:v}.16b, {a21:v}.16b",
                "ldur {x:q}, [{p}, #56]",
                "and {y:v}.16b, {x:v}.16b, {low:v}.16b",
                "ushr {x:v}.16b, {x:v}.16b, #4",
                "smull v31.8h, {y:v}.8b, {a30:v}.8b",
                "smlal2 v31.8h, {y:v}.16b, {a30:v}.16b",
                "smlal v31.8h, {x:v}.8b, {a31:v}.8b",
                "smlal2 v31.8h, {x:v}.16b, {a31:v}.16b",
                "addp v28.8h, v28.8h, v29.8h",
                "addp v30.8h, v30.8h, v31.8h",
                "addp v28.8h, v28.8h, v30.8h",
                "saddlp v28.4s, v28.8h",
                "sub v28.4s, v28.4s, {minus:v}.4s",
                "scvtf v28.4s, v28.4s",
                "fmla {sum:v}.4s, v28.4s, {d:v}.4s",
                p = in(reg) blocks, sum = inout(vreg) sum, minus = in(vreg) minus, scale = in(vreg) scale,
                places = in(vreg) vcreate_u8(SCALE_PLACES), low = in(vreg) vdupq_n_u8(15),
                a00 = in(vreg) a[0][0], a01 = in(vreg) a[0][1],
                a10 = in(vreg) a[1][0], a11 = in(vreg) a[1][1],
                a20 = in(vreg) a[2][0], a21 = in(vreg) a[2][1],
                a30 = in(vreg) a[3][0], a31 = in(vreg) a[3][1],
                d = out(vreg) _, x = out(vreg) _, y = out(vreg) _,
                out("v28") _, out("v29") _, out("v30") _, out("v31") _,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        sum
    }

    #[inline(always)]
    unsafe fn dots_16<const NARROW: bool>(q: [int8x16_t; 4], a: [int8x16_t; 4]) -> int32x4_t {
        // SAFETY: baseline NEON.
        unsafe {
            let p = four!(|I| products_16(q[I], a[I]));
            if NARROW { join_narrow(p) } else { join(four!(|I| vpaddlq_s16(p[I]))) }
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
    unsafe fn arrange(a: [Bytes32; 4]) -> [Bytes32; 4] {
        a
    }

    #[inline(always)]
    unsafe fn tile_32<const NARROW: bool>(panel: *const i8, a: &[Bytes32; 4]) -> [int32x4_t; 4] {
        // SAFETY: the caller gives a panel of 128 bytes.
        unsafe {
            let rows = four!(|R| [vld1q_s8(panel.add(32 * R)), vld1q_s8(panel.add(32 * R + 16))]);
            if NARROW {
                return four!(|T| rows_by_token(rows, a[T]));
            }
            four!(|T| Self::dots_32::<false>(rows, [a[T]; 4]))
        }
    }

    #[inline(always)]
    unsafe fn tile_16<const NARROW: bool>(panel: *const i8, a: &[Bytes32; 4]) -> [[int32x4_t; 4]; 2] {
        // SAFETY: the caller gives a panel of 128 bytes.
        unsafe {
            two!(|H| {
                let rows = four!(|R| vld1q_s8(panel.add(32 * R + 16 * H)));
                four!(|T| Self::dots_16::<NARROW>(rows, [a[T][H]; 4]))
            })
        }
    }
}

/// NEON with the dot product instructions.
#[derive(Clone, Copy)]
pub(super) struct DotProd;

/// Adds to each lane the dot product of its four int8 of `q` and of `a`.
#[inline(always)]
unsafe fn sdot(sum: int32x4_t, q: int8x16_t, a: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: the CPU has the instruction (see the head of this file); only registers are touched.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {s:v}.4s, {q:v}.16b, {a:v}.16b",
            s = inout(vreg) sum, q = in(vreg) q, a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// The same with the four int8 of one lane of `a` for all lanes of `q`.
#[inline(always)]
unsafe fn sdot_lane<const LANE: usize>(sum: int32x4_t, q: int8x16_t, a: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: as in sdot.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {s:v}.4s, {q:v}.16b, {a:v}.4b[{lane}]",
            s = inout(vreg) sum, q = in(vreg) q, a = in(vreg) a, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Rows' 4-byte words transposed: vector `w` holds word `w` of each row.
#[inline(always)]
unsafe fn transpose_words(rows: [int8x16_t; 4]) -> [int8x16_t; 4] {
    // SAFETY: baseline NEON.
    unsafe {
        let r = four!(|R| vreinterpretq_s32_s8(rows[R]));
        let (a, b) = (vzip1q_s32(r[0], r[2]), vzip2q_s32(r[0], r[2]));
        let (c, d) = (vzip1q_s32(r[1], r[3]), vzip2q_s32(r[1], r[3]));
        let w = [vzip1q_s32(a, c), vzip2q_s32(a, c), vzip1q_s32(b, d), vzip2q_s32(b, d)];
        four!(|W| vreinterpretq_s8_s32(w[W]))
    }
}

/// Four rows × 16 elements of a panel by four tokens.
#[inline(always)]
unsafe fn sdot_tile(mut sums: [int32x4_t; 4], panel: *const i8, a: [int8x16_t; 4]) -> [int32x4_t; 4] {
    // SAFETY: the caller gives 64 bytes of panel, and the CPU (see sdot).
    unsafe {
        let w = vld1q_s8_x4(panel);
        for t in 0..4 {
            sums[t] = sdot_lane::<0>(sums[t], w.0, a[t]);
        }
        for t in 0..4 {
            sums[t] = sdot_lane::<1>(sums[t], w.1, a[t]);
        }
        for t in 0..4 {
            sums[t] = sdot_lane::<2>(sums[t], w.2, a[t]);
        }
        for t in 0..4 {
            sums[t] = sdot_lane::<3>(sums[t], w.3, a[t]);
        }
        sums
    }
}

impl Cpu for DotProd {
    const GROUPS: usize = 4;

    type Acts = [Bytes32; 4];

    #[inline(always)]
    unsafe fn dots_32<const NARROW: bool>(q: [Bytes32; 4], a: [Bytes32; 4]) -> int32x4_t {
        // SAFETY: as for sdot.
        unsafe { join(four!(|I| sdot(sdot(vdupq_n_s32(0), q[I][0], a[I][0]), q[I][1], a[I][1]))) }
    }

    #[inline(always)]
    unsafe fn add_nibble_blocks(
        sum: float32x4_t,
        blocks: *const u8,
        a: &[Bytes32; 4],
        minus: int32x4_t,
        scale: float32x4_t,
    ) -> float32x4_t {
        let mut sum = sum;
        // The scales are picked out of the first 64 of the 72 bytes. One piece of `asm!`: the compiler takes `addp` apart here.
        // SAFETY: the caller gives four blocks, and the CPU (see the head of this file).
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "ld1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{p}]",
                "tbl {d:v}.8b, {{v28.16b, v29.16b, v30.16b, v31.16b}}, {places:v}.8b",
                "fcvtl {d:v}.4s, {d:v}.4h",
                "fmul {d:v}.4s, {d:v}.4s, {scale:v}.4s",
                "ldur {x:q}, [{p}, #2]",
                "and {y:v}.16b, {x:v}.16b, {low:v}.16b",
                "ushr {x:v}.16b, {x:v}.16b, #4",
                "movi v28.2d, #0",
                "sdot v28.4s, {y:v}.16b, {a00:v}.16b",
                "sdot v28.4s, {x:v}.16b, {a01:v}.16b",
                "ldur {x:q}, [{p}, #20]",
                "and {y:v}.16b, {x:v}.16b, {low:v}.16b",
                "ushr {x:v}.16b, {x:v}.16b, #4",
                "movi v29.2d, #0",
                "sdot v29.4s, {y:v}.16b, {a10:v}.16b",
                "sdot v29.4s, {x:v}.16b, {a11:v}.16b",
                "ldur {x:q}, [{p}, #38]",
                "and {y:v}.16b, {x:v}.16b, {low:v}.16b",
                "ushr {x:v}.16b, {x:v}.16b, #4",
                "movi v30.2d, #0",
                "sdot v30.4s, {y:v}.16b, {a20:v}.16b",
                "sdot v30.4s, {x:v}.16b, {a21:v}.16b",
                "ldur {x:q}, [{p}, #56]",
                "and {y:v}.16b, {x:v}.16b, {low:v}.16b",
                "ushr {x:v}.16b, {x:v}.16b, #4",
                "movi v31.2d, #0",
                "sdot v31.4s, {y:v}.16b, {a30:v}.16b",
                "sdot v31.4s, {x:v}.16b, {a31:v}.16b",
                "addp v28.4s, v28.4s, v29.4s",
                "addp v30.4s, v30.4s, v31.4s",
                "addp v28.4s, v28.4s, v30.4s",
                "sub v28.4s, v28.4s, {minus:v}.4s",
                "scvtf v28.4s, v28.4s",
                "fmla {sum:v}.4s, v28.4s, {d:v}.4s",
                p = in(reg) blocks, sum = inout(vreg) sum, minus = in(vreg) minus, scale = in(vreg) scale,
                places = in(vreg) vcreate_u8(SCALE_PLACES), low = in(vreg) vdupq_n_u8(15),
                a00 = in(vreg) a[0][0], a01 = in(vreg) a[0][1],
                a10 = in(vreg) a[1][0], a11 = in(vreg) a[1][1],
                a20 = in(vreg) a[2][0], a21 = in(vreg) a[2][1],
                a30 = in(vreg) a[3][0], a31 = in(vreg) a[3][1],
                d = out(vreg) _, x = out(vreg) _, y = out(vreg) _,
                out("v28") _, out("v29") _, out("v30") _, out("v31") _,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        sum
    }

    #[inline(always)]
    unsafe fn dots_16<const NARROW: bool>(q: [int8x16_t; 4], a: [int8x16_t; 4]) -> int32x4_t {
        // SAFETY: as for sdot.
        unsafe { join(four!(|I| sdot(vdupq_n_s32(0), q[I], a[I]))) }
    }

    #[inline(always)]
    unsafe fn pack(rows: [Bytes32; 4], panel: *mut i8) {
        // SAFETY: the caller gives 128 writable bytes.
        unsafe {
            for h in 0..2 {
                let w = transpose_words(four!(|R| rows[R][h]));
                vst1q_s8_x4(panel.add(64 * h), int8x16x4_t(w[0], w[1], w[2], w[3]));
            }
        }
    }

    #[inline(always)]
    unsafe fn arrange(a: [Bytes32; 4]) -> [Bytes32; 4] {
        a
    }

    #[inline(always)]
    unsafe fn tile_32<const NARROW: bool>(panel: *const i8, a: &[Bytes32; 4]) -> [int32x4_t; 4] {
        // SAFETY: as for sdot_tile.
        unsafe {
            let first = sdot_tile([vdupq_n_s32(0); 4], panel, four!(|T| a[T][0]));
            sdot_tile(first, panel.add(64), four!(|T| a[T][1]))
        }
    }

    #[inline(always)]
    unsafe fn tile_16<const NARROW: bool>(panel: *const i8, a: &[Bytes32; 4]) -> [[int32x4_t; 4]; 2] {
        // SAFETY: as for sdot_tile.
        unsafe { two!(|H| sdot_tile([vdupq_n_s32(0); 4], panel.add(64 * H), four!(|T| a[T][H]))) }
    }
}

/// NEON with the dot product and int8 matrix instructions.
#[derive(Clone, Copy)]
pub(super) struct I8mm;

/// Adds the 2 × 2 products of two rows of 8 (`q`) and two tokens of 8 (`a`): lanes r0t0, r0t1, r1t0, r1t1.
#[inline(always)]
unsafe fn smmla(sum: int32x4_t, q: int8x16_t, a: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: the CPU has the instruction (see the head of this file); only registers are touched.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {s:v}.4s, {q:v}.16b, {a:v}.16b",
            s = inout(vreg) sum, q = in(vreg) q, a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// The 8-byte halves of two vectors, low ones and high ones.
#[inline(always)]
unsafe fn zip_halves(a: int8x16_t, b: int8x16_t) -> Bytes32 {
    // SAFETY: baseline NEON.
    unsafe {
        let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
        [vreinterpretq_s8_s64(vzip1q_s64(a, b)), vreinterpretq_s8_s64(vzip2q_s64(a, b))]
    }
}

/// Four rows × 16 elements of a panel by two pairs of tokens: `[pair][rows 0, 1 or 2, 3]`.
#[inline(always)]
unsafe fn smmla_tile(mut sums: [[int32x4_t; 2]; 2], panel: *const i8, a: [Bytes32; 2]) -> [[int32x4_t; 2]; 2] {
    // SAFETY: the caller gives 64 bytes of panel, and the CPU (see smmla).
    unsafe {
        let w = vld1q_s8_x4(panel);
        for (k, w) in [[w.0, w.1], [w.2, w.3]].into_iter().enumerate() {
            for p in 0..2 {
                for r in 0..2 {
                    sums[p][r] = smmla(sums[p][r], w[r], a[p][k]);
                }
            }
        }
        sums
    }
}

/// 2 × 2 blocks to rows in lanes.
#[inline(always)]
unsafe fn by_token(sums: [[int32x4_t; 2]; 2]) -> [int32x4_t; 4] {
    // SAFETY: baseline NEON.
    unsafe {
        [
            vuzp1q_s32(sums[0][0], sums[0][1]),
            vuzp2q_s32(sums[0][0], sums[0][1]),
            vuzp1q_s32(sums[1][0], sums[1][1]),
            vuzp2q_s32(sums[1][0], sums[1][1]),
        ]
    }
}

impl Cpu for I8mm {
    const GROUPS: usize = 4;

    /// `[half of 16][pair of tokens]`, 8 elements of each token in a vector.
    type Acts = [[Bytes32; 2]; 2];

    #[inline(always)]
    unsafe fn dots_32<const NARROW: bool>(q: [Bytes32; 4], a: [Bytes32; 4]) -> int32x4_t {
        // SAFETY: a CPU with i8mm has the dot product.
        unsafe { DotProd::dots_32::<NARROW>(q, a) }
    }

    #[inline(always)]
    unsafe fn add_nibble_blocks(
        sum: float32x4_t,
        blocks: *const u8,
        a: &[Bytes32; 4],
        minus: int32x4_t,
        scale: float32x4_t,
    ) -> float32x4_t {
        // SAFETY: a CPU with i8mm has the dot product.
        unsafe { DotProd::add_nibble_blocks(sum, blocks, a, minus, scale) }
    }

    #[inline(always)]
    unsafe fn dots_16<const NARROW: bool>(q: [int8x16_t; 4], a: [int8x16_t; 4]) -> int32x4_t {
        // SAFETY: a CPU with i8mm has the dot product.
        unsafe { DotProd::dots_16::<NARROW>(q, a) }
    }

    #[inline(always)]
    unsafe fn pack(rows: [Bytes32; 4], panel: *mut i8) {
        // SAFETY: the caller gives 128 writable bytes.
        unsafe {
            for h in 0..2 {
                let (low, high) = (zip_halves(rows[0][h], rows[1][h]), zip_halves(rows[2][h], rows[3][h]));
                vst1q_s8_x4(panel.add(64 * h), int8x16x4_t(low[0], high[0], low[1], high[1]));
            }
        }
    }

    #[inline(always)]
    unsafe fn arrange(a: [Bytes32; 4]) -> [[Bytes32; 2]; 2] {
        // SAFETY: baseline NEON.
        unsafe { two!(|H| [zip_halves(a[0][H], a[1][H]), zip_halves(a[2][H], a[3][H])]) }
    }

    #[inline(always)]
    unsafe fn tile_32<const NARROW: bool>(panel: *const i8, a: &[[Bytes32; 2]; 2]) -> [int32x4_t; 4] {
        // SAFETY: as for smmla_tile.
        unsafe {
            let first = smmla_tile([[vdupq_n_s32(0); 2]; 2], panel, a[0]);
            by_token(smmla_tile(first, panel.add(64), a[1]))
        }
    }

    #[inline(always)]
    unsafe fn tile_16<const NARROW: bool>(panel: *const i8, a: &[[Bytes32; 2]; 2]) -> [[int32x4_t; 4]; 2] {
        // SAFETY: as for smmla_tile.
        unsafe { two!(|H| by_token(smmla_tile([[vdupq_n_s32(0); 2]; 2], panel.add(64 * H), a[H]))) }
    }
}
